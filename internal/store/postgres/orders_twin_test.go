package postgres

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"millrace/internal/order"
)

// meanwhile hides the keys from what do reads first: they come to be when it waits
// for the table.
func meanwhile(t testing.TB, db *DB, table string, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	exec(t, db, `CREATE TABLE hidden AS SELECT * FROM idempotency_keys`)
	exec(t, db, `DELETE FROM idempotency_keys`)
	tx, err := db.vital.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(ctx, `LOCK TABLE `+table+` IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO idempotency_keys SELECT * FROM hidden`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- do() }()
	eventually(t, 2*time.Second, "it waits for the table", func() bool {
		var waiting int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass`, table).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 1
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Who finds the last unit gone must not overlook that it went to the same request,
// sent to another instance.
func TestAPlacementIsARepetitionBeforeItIsOutOfStock(t *testing.T) {
	for _, c := range []struct {
		name string
		read func(b batch, p *pipeline)
	}{
		{"read without locks", batch.look},
		{"in parts, under locks", func(b batch, p *pipeline) { p.do(sqlBegin); b.hold(p) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openShops(t, freshDatabase(t), 1, 1)[0]
			s := newShoppers(1, 1)
			putStock(t, db, demo(s.skus[0]), 1)
			first, twin := s.batch(1)[0], s.batch(1)[0]
			twin.Key, twin.Fingerprint, twin.Order.CustomerID = first.Key, first.Fingerprint, first.Order.CustomerID
			mustPlace(t, db, []*order.Placement{first})
			meanwhile(t, db, "products", func() error {
				return db.holdHot(t.Context(), func(hot *hotConn) error {
					p, query := &pipeline{}, func(p *pipeline) error { return hot.run(t.Context(), p) }
					b := &placing{o: db.orders, policy: benchPolicy, placements: []*order.Placement{twin}, details: []string{"{}"}}
					c.read(b, p)
					if err := query(p); err != nil {
						return err
					}
					return b.decide(query)
				})
			})
			if twin.Err != nil || !twin.Replayed || twin.Placed.ID != first.Placed.ID {
				t.Errorf("the twin: %v, replayed %v, order %s; want the repetition of %s", twin.Err, twin.Replayed, twin.Placed.ID, first.Placed.ID)
			}
		})
	}
}

func TestARefundIsARepetitionBeforeThereIsNothingToRefund(t *testing.T) {
	db := openShops(t, freshDatabase(t), 1, 1)[0]
	batch := newShoppers(1, 1).batch(1)
	mustPlace(t, db, batch)
	o := batch[0].Placed
	for _, e := range []order.Event{order.EventChargeIntended, order.EventCaptured, order.EventSent, order.EventShipped} {
		mustAdvance(t, db, []order.Order{o}, e)
	}
	refund := func() (order.Outcome, error) {
		out, err := db.Orders().Advance(t.Context(), []*order.Step{{TenantID: o.TenantID, OrderID: o.ID, Event: order.EventRefundAsked, At: time.Now(), Actor: "a", Amount: o.Total,
			Claim: &order.Claim{Scope: "refund", Subject: "a", Key: "k", Fingerprint: sha256.Sum256([]byte("k")), NotBefore: time.Now().Add(-time.Hour)}}}, benchPolicy)
		if err != nil {
			return order.Outcome{}, err
		}
		return out[0], nil
	}
	if first, err := refund(); err != nil || !first.Applied {
		t.Fatalf("the refund: %v, %+v", err, first)
	}
	var twin order.Outcome
	meanwhile(t, db, "orders", func() (err error) {
		twin, err = refund()
		return err
	})
	if !twin.Replayed || twin.Err != nil {
		t.Errorf("the twin: replayed %v, %v", twin.Replayed, twin.Err)
	}
}
