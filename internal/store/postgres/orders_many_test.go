package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/order"
)

// wantNoDeadlocks checks that the server had to break none in the database.
func wantNoDeadlocks(t testing.TB, db *DB) {
	t.Helper()
	// Backends tell their numbers when they have been idle, and at their end.
	db.hot.Reset()
	var deadlocks int
	if err := db.vital.QueryRow(t.Context(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&deadlocks); err != nil {
		t.Fatal(err)
	}
	if deadlocks > 0 {
		t.Errorf("the server broke %d deadlocks", deadlocks)
	}
}

func demo(sku string) order.ShelfKey { return order.ShelfKey{TenantID: "demo", SKU: sku} }

// tally counts rows by a query of one number.
func tally(t testing.TB, db *DB, query string, args ...any) (n int64) {
	t.Helper()
	if err := db.hot.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestThreeInstancesSellAHotProductToTheLastUnit(t *testing.T) {
	const units, buyers, batch = 1000, 2400, 40
	dbs := openShops(t, freshDatabase(t), 3, 1)
	sku := newShoppers(0, 1).skus[0]
	putStock(t, dbs[0], demo(sku), units)
	var placed atomic.Int64
	var wg sync.WaitGroup
	for i, db := range dbs {
		s := newShoppers(uint64(i), 1)
		wg.Go(func() {
			for range buyers / 3 / batch {
				placements := s.batch(batch)
				if err := db.Orders().Place(t.Context(), placements, benchPolicy); err != nil {
					t.Errorf("Place: %v", err)
					return
				}
				for _, p := range placements {
					var refused *order.RefusedError
					switch {
					case p.Err == nil:
						placed.Add(1)
					case !errors.As(p.Err, &refused) || refused.Code != order.RefusedOutOfStock:
						t.Errorf("a placement: %v", p.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	if s := stockOf(t, dbs[0], demo(sku)); placed.Load() != units || s.Reserved != units || s.OnHand != units {
		t.Errorf("%d were placed of %d, the stock is %+v", placed.Load(), units, s)
	}
	if n := tally(t, dbs[0], `SELECT count(*) FROM orders`); n != units {
		t.Errorf("there are %d orders, want %d", n, units)
	}
	wantNoDeadlocks(t, dbs[0])
}

// Each of the instances gets all the same requests, at the same time, in an order
// of its own; for the products of which there is plenty and for those there is
// little of.
func TestThreeInstancesAskedForTheSameOrdersPlaceEachOnce(t *testing.T) {
	const requests, batch, rounds = 60, 20, 5
	dbs := openShops(t, freshDatabase(t), 3, 10)
	skus := newShoppers(0, 10).skus
	for _, sku := range skus[:5] {
		putStock(t, dbs[0], demo(sku), requests*rounds/10+3)
	}
	var fresh, replayed atomic.Int64
	for round := range rounds {
		s := newShoppers(uint64(round), 10)
		template := s.batch(requests)
		for i, p := range template {
			p.Order.Lines = []order.Line{{SKU: skus[i%10], Quantity: 1}}
		}
		var mu sync.Mutex
		ids := map[string]string{} // by key
		var wg sync.WaitGroup
		for i, db := range dbs {
			mine := make([]*order.Placement, requests)
			for k, other := range s.batch(requests) {
				other.Key, other.Fingerprint, other.Order.CustomerID = template[k].Key, template[k].Fingerprint, template[k].Order.CustomerID
				other.Order.Lines = slices.Clone(template[k].Order.Lines)
				mine[k] = other
			}
			rng := rand.New(rand.NewPCG(uint64(i), uint64(round)))
			rng.Shuffle(requests, func(a, b int) { mine[a], mine[b] = mine[b], mine[a] })
			wg.Go(func() {
				for part := range slices.Chunk(mine, batch) {
					mustPlace(t, db, part)
					mu.Lock()
					for _, p := range part {
						if p.Replayed {
							replayed.Add(1)
						} else {
							fresh.Add(1)
						}
						if there := ids[p.Key]; there != "" && there != p.Placed.ID {
							t.Errorf("a key stands for orders %s and %s", there, p.Placed.ID)
						}
						ids[p.Key] = p.Placed.ID
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	if fresh.Load() != requests*rounds || replayed.Load() != 2*requests*rounds {
		t.Errorf("%d were placed and %d replayed, want %d and %d", fresh.Load(), replayed.Load(), requests*rounds, 2*requests*rounds)
	}
	if n := tally(t, dbs[0], `SELECT count(*) FROM idempotency_keys`); n != requests*rounds {
		t.Errorf("%d keys are bound, want %d", n, requests*rounds)
	}
	if n := tally(t, dbs[0], `SELECT sum(reserved) FROM stock`); n != requests*rounds {
		t.Errorf("%d units are reserved, want %d", n, requests*rounds)
	}
	wantNoDeadlocks(t, dbs[0])
}

func TestThreeInstancesAdvancingTheSameOrdersDoSoOnce(t *testing.T) {
	const orders = 60
	dbs := openShops(t, freshDatabase(t), 3, 5)
	batch := newShoppers(1, 5).batch(orders)
	mustPlace(t, dbs[0], batch)
	var applied, already atomic.Int64
	var wg sync.WaitGroup
	for i, db := range dbs {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		wg.Go(func() {
			mine := slices.Clone(batch)
			for _, e := range []order.Event{order.EventChargeIntended, order.EventCaptured, order.EventSent, order.EventShipped} {
				rng.Shuffle(orders, func(a, b int) { mine[a], mine[b] = mine[b], mine[a] })
				for part := range slices.Chunk(mine, 20) {
					var steps []*order.Step
					for _, p := range part {
						steps = append(steps, &order.Step{TenantID: "demo", OrderID: p.Placed.ID, Event: e, At: time.Now(), Actor: order.System, Amount: p.Placed.Total})
					}
					outcomes, err := db.Orders().Advance(t.Context(), steps, benchPolicy)
					if err != nil {
						t.Errorf("Advance: %v", err)
						return
					}
					for _, out := range outcomes {
						switch {
						case out.Applied:
							applied.Add(1)
						case errors.Is(out.Err, order.ErrAlready):
							already.Add(1)
						default:
							t.Errorf("%s: %v", e, out.Err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if applied.Load() != 4*orders || already.Load() != 8*orders {
		t.Errorf("%d steps were applied and %d had been, want %d and %d", applied.Load(), already.Load(), 4*orders, 8*orders)
	}
	if n := tally(t, dbs[0], `SELECT count(*) FROM order_history`); n != 5*orders {
		t.Errorf("the history has %d entries, want %d", n, 5*orders)
	}
	if n := tally(t, dbs[0], `SELECT sum(reserved) FROM stock`); n != 0 {
		t.Errorf("%d units are reserved after all was shipped", n)
	}
	wantNoDeadlocks(t, dbs[0])
}

func TestAKeyThatExpiredIsTakenOverByOneOfTwoInstances(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 2, 1)
	s := newShoppers(1, 1)
	for round := range 10 {
		old := s.batch(5)
		mustPlace(t, dbs[0], old)
		var wg sync.WaitGroup
		var mu sync.Mutex
		placed := map[string]int{}
		for _, db := range dbs {
			again := s.batch(5)
			for k, p := range again {
				p.Key, p.Order.CustomerID, p.Fingerprint = old[k].Key, old[k].Order.CustomerID, old[k].Fingerprint
				p.KeyNotBefore = old[4].Order.PlacedAt.Add(1)
				p.Order.PlacedAt = p.KeyNotBefore.Add(time.Second)
			}
			wg.Go(func() {
				mustPlace(t, db, again)
				mu.Lock()
				defer mu.Unlock()
				for _, p := range again {
					if !p.Replayed {
						placed[p.Key]++
					}
				}
			})
		}
		wg.Wait()
		for _, p := range old {
			if placed[p.Key] != 1 {
				t.Fatalf("round %d: the key was bound anew %d times, want once", round, placed[p.Key])
			}
		}
	}
	wantNoDeadlocks(t, dbs[0])
}

// What changes between the reading and the writing of a batch: each of it makes the
// batch begin again, and come out right.
func TestABatchThatWasOvertakenBeginsAgain(t *testing.T) {
	sku := newShoppers(0, 1).skus[0]
	for _, c := range []struct {
		name    string
		between func(t testing.TB, db *DB, p *order.Placement)
		check   func(p *order.Placement) bool
	}{
		{"the stock is sold", func(t testing.TB, db *DB, _ *order.Placement) {
			exec(t, db, `UPDATE stock SET reserved = on_hand`)
		}, func(p *order.Placement) bool {
			var refused *order.RefusedError
			return errors.As(p.Err, &refused) && refused.Code == order.RefusedOutOfStock
		}},
		{"the stock is gone", func(t testing.TB, db *DB, _ *order.Placement) {
			exec(t, db, `DELETE FROM stock`)
		}, func(p *order.Placement) bool { return p.Err != nil }},
		{"the key is bound", func(t testing.TB, db *DB, p *order.Placement) {
			twin := *p
			twin.Order.ID = "00000000-0000-7000-8000-000000000001"
			mustPlace(t, db, []*order.Placement{&twin})
		}, func(p *order.Placement) bool { return p.Err == nil && p.Replayed && p.Placed.ID != p.Order.ID }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dbs := openShops(t, freshDatabase(t), 2, 1)
			putStock(t, dbs[0], demo(sku), 100)
			p := newShoppers(1, 1).batch(1)[0]
			tries := 0
			err := dbs[0].orders.transact(t.Context(), 1, func(int, int) batch {
				tries++
				b := &placing{o: dbs[0].orders, policy: benchPolicy, placements: []*order.Placement{p}, details: []string{"{}"}}
				if tries > 1 {
					return b
				}
				return &interrupted{batch: b, after: func() { c.between(t, dbs[1], p) }}
			}, func(i int, err error) { t.Errorf("it was set aside: %v", err) })
			if err != nil || !c.check(p) || tries != 2 {
				t.Errorf("after %d tries: %v; the placement: %v, replayed %v", tries, err, p.Err, p.Replayed)
			}
		})
	}
}

// interrupted does something after a batch has been decided.
type interrupted struct {
	batch
	after func()
}

func (b *interrupted) decide(query func(*pipeline) error) error {
	defer b.after()
	return b.batch.decide(query)
}

// When others are always faster the batch takes its locks first, and is done.
func TestAnOrderThatChangesAgainAndAgainIsLocked(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 2, 1)
	batch1 := newShoppers(1, 1).batch(1)
	mustPlace(t, dbs[0], batch1)
	o := batch1[0].Placed
	tries, steps := 0, []*order.Step{{TenantID: o.TenantID, OrderID: o.ID, Event: order.EventCancelAsked, At: time.Now(), Actor: "a"}}
	outcomes := make([]order.Outcome, 1)
	err := dbs[0].orders.transact(t.Context(), 1, func(int, int) batch {
		tries++
		return &interrupted{batch: &advancing{o: dbs[0].orders, policy: benchPolicy, steps: steps, outcomes: outcomes}, after: func() {
			exec(t, dbs[1], `UPDATE orders SET version = version + 1`)
		}}
	}, func(i int, err error) { t.Errorf("it was set aside: %v", err) })
	if err != nil || !outcomes[0].Applied || tries != freeTries+1 {
		t.Errorf("after %d tries: %v; %+v", tries, err, outcomes[0])
	}
}

func TestSeveralInstancesClaimWhatIsDueOnce(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 3, 1)
	batch := newShoppers(1, 1).batch(300)
	mustPlace(t, dbs[0], batch)
	now := time.Now().Add(time.Hour)
	var mu sync.Mutex
	claims := map[string]int{}
	var wg sync.WaitGroup
	for _, db := range dbs {
		wg.Go(func() {
			for {
				due, err := db.Orders().Due(context.Background(), now, now.Add(time.Minute), 17)
				if err != nil {
					t.Errorf("Due: %v", err)
				}
				if err != nil || len(due) == 0 {
					return
				}
				mu.Lock()
				for _, o := range due {
					claims[o.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range claims {
		if n != 1 {
			t.Errorf("order %s was claimed %d times", id, n)
		}
	}
	if len(claims) != len(batch) {
		t.Errorf("%d orders were claimed, want %d", len(claims), len(batch))
	}
}

// A batch of many products and one of the same in the other order must not block
// each other, whatever the order in which their rows were written.
func TestBatchesOfManyProductsDoNotBlockEachOther(t *testing.T) {
	const skus = 200
	dbs := openShops(t, freshDatabase(t), 3, skus)
	var wg sync.WaitGroup
	for i, db := range dbs {
		s := newShoppers(uint64(i), skus)
		wg.Go(func() {
			for range 10 {
				batch := s.batch(60)
				for k, p := range batch {
					p.Order.Lines = []order.Line{{SKU: s.skus[k], Quantity: 1}, {SKU: s.skus[skus-1-k], Quantity: 2}}
				}
				s.rng.Shuffle(len(batch), func(a, b int) { batch[a], batch[b] = batch[b], batch[a] })
				mustPlace(t, db, batch)
			}
		})
	}
	wg.Wait()
	if n := tally(t, dbs[0], `SELECT sum(reserved) FROM stock`); n != 3*10*60*3 {
		t.Errorf("%d units are reserved, want %d", n, 3*10*60*3)
	}
	wantNoDeadlocks(t, dbs[0])
}
