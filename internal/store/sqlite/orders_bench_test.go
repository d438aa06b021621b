//go:build unix

package sqlite

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/order"
	"millrace/internal/store/storetest"
)

var benchPolicy = order.Policy{Lease: time.Minute, CompleteAfter: 72 * time.Hour, MaxAttempts: 10}

// shoppers makes placements of one line.
type shoppers struct {
	rng  *rand.Rand
	skus []string
}

func openShop(b *testing.B, skus int, onHand int64) (*DB, *shoppers) {
	db := open(b, b.TempDir())
	s := &shoppers{rng: rand.New(rand.NewPCG(1, 2))}
	for i := range skus {
		sku := fmt.Sprintf("sku-%04d", i)
		s.skus = append(s.skus, sku)
		putProduct(b, db, order.ShelfKey{TenantID: "demo", SKU: sku}, storetest.Product{Price: 1999, Currency: "EUR"})
		putStock(b, db, order.ShelfKey{TenantID: "demo", SKU: sku}, onHand)
	}
	return db, s
}

func (s *shoppers) batch(n int) []*order.Placement {
	batch := make([]*order.Placement, n)
	for i := range batch {
		now := time.Now()
		id, err := uuid.NewV7()
		if err != nil {
			panic(err)
		}
		key := fmt.Sprintf("%016x%016x", s.rng.Uint64(), s.rng.Uint64())
		batch[i] = &order.Placement{
			Order: order.Order{TenantID: "demo", ID: id.String(), CustomerID: fmt.Sprintf("customer-%08x", s.rng.Uint32()),
				Lines: []order.Line{{SKU: s.skus[s.rng.IntN(len(s.skus))], Quantity: 1}},
				Details: order.Details{PaymentToken: "tok_ok", Email: "buyer@example.com", Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
					Address: &order.Address{Name: "A Buyer", Line1: "1 High Street", PostalCode: "12345", City: "Town", Country: "DE"}},
				PlacedAt: now, UpdatedAt: now, Deadline: now.Add(time.Hour)},
			Key: key, Fingerprint: sha256.Sum256([]byte(key)), KeyNotBefore: now.Add(-24 * time.Hour),
		}
	}
	return batch
}

// BenchmarkPlace measures whole placements against one transaction per order,
// which is a batch of 1. b.N counts orders.
func BenchmarkPlace(b *testing.B) {
	for _, skus := range []int{1, 1000} {
		for _, size := range []int{1, 32, 200, 400} {
			b.Run(fmt.Sprintf("%d SKUs, batches of %d", skus, size), func(b *testing.B) {
				db, s := openShop(b, skus, 1_000_000_000)
				measure(b, size, func(n int) []*order.Placement { return s.batch(n) }, func(batch []*order.Placement) {
					mustPlace(b, db, batch, true)
				})
			})
		}
	}
	for _, size := range []int{1, 200} {
		b.Run(fmt.Sprintf("sold out, batches of %d", size), func(b *testing.B) {
			db, s := openShop(b, 1, 0)
			measure(b, size, func(n int) []*order.Placement { return s.batch(n) }, func(batch []*order.Placement) {
				mustPlace(b, db, batch, false)
			})
		})
	}
}

// BenchmarkAdvance measures the two steps from placed to paid. b.N counts steps.
func BenchmarkAdvance(b *testing.B) {
	for _, size := range []int{1, 32, 200} {
		b.Run(fmt.Sprintf("batches of %d", size), func(b *testing.B) {
			db, s := openShop(b, 1000, 1_000_000_000)
			var placed []order.Order
			for len(placed) < b.N/2+size {
				batch := s.batch(400)
				mustPlace(b, db, batch, true)
				for _, p := range batch {
					placed = append(placed, p.Placed)
				}
			}
			next := 0
			measure(b, 2*size, func(int) []order.Order {
				next += size
				return placed[next-size : min(next, len(placed))]
			}, func(orders []order.Order) {
				mustAdvance(b, db, orders, order.EventChargeIntended)
				mustAdvance(b, db, orders, order.EventCaptured)
			})
		})
	}
}

// BenchmarkOrder reads orders by id, as workers do.
func BenchmarkOrder(b *testing.B) {
	db, s := openShop(b, 1, 1_000_000)
	batch := s.batch(10_000)
	mustPlace(b, db, batch, true)
	for b.Loop() {
		if _, err := db.Orders().Order(b.Context(), "demo", batch[s.rng.IntN(len(batch))].Order.ID); err != nil {
			b.Fatal(err)
		}
	}
}

// measure runs do for b.N things of batches of size, and leaves making them out.
func measure[T any](b *testing.B, size int, make func(n int) []T, do func([]T)) {
	var used, longest time.Duration
	b.ResetTimer()
	for done := 0; done < b.N; done += size {
		b.StopTimer()
		batch := make(size)
		b.StartTimer()
		begin, before := time.Now(), cpu()
		do(batch)
		longest = max(longest, time.Since(begin))
		used += cpu() - before
	}
	b.StopTimer()
	rate(b, used)
	b.ReportMetric(float64(longest.Microseconds())/1000, "max-ms")
}

func mustPlace(b *testing.B, db *DB, batch []*order.Placement, placed bool) {
	if err := db.Orders().Place(b.Context(), batch, benchPolicy); err != nil {
		b.Fatal(err)
	}
	for _, p := range batch {
		if (p.Err == nil) != placed {
			b.Fatal(p.Err)
		}
	}
}

func mustAdvance(b *testing.B, db *DB, orders []order.Order, e order.Event) {
	steps := make([]*order.Step, len(orders))
	for i := range orders {
		o := &orders[i]
		steps[i] = &order.Step{TenantID: o.TenantID, OrderID: o.ID, Event: e, At: time.Now(), Actor: order.System, Amount: o.Total, PaymentRef: "ch_" + o.ID}
	}
	out, err := db.Orders().Advance(b.Context(), steps, benchPolicy)
	if err != nil {
		b.Fatal(err)
	}
	for i := range out {
		if !out[i].Applied {
			b.Fatal(out[i].Err)
		}
	}
}
