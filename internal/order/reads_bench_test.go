package order_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/order"
)

// ready is a store that finds one order and one page at once, whatever is asked for.
type ready struct {
	*memory
	order order.Order
}

func (r *ready) Order(_ context.Context, _, id string) (order.Order, error) {
	o := r.order
	o.ID = id
	return o, nil
}

func (r *ready) Orders(_ context.Context, q order.Query) (order.Page, error) {
	o := r.order
	o.CustomerID = q.CustomerID
	return order.Page{Orders: []order.Order{o}}, nil
}

// BenchmarkChanged is what a transaction of 256 orders of as many customers pays to
// keep readers right, without Redis and peers: see ns/order.
func BenchmarkChanged(b *testing.B) {
	const batch, batches = 256, 16
	for _, c := range []struct {
		name string
		read bool
	}{{"nobody has read them", false}, {"each order and each page is in memory", true}} {
		b.Run(c.name, func(b *testing.B) {
			reads, err := order.NewReads(order.ReadsOptions{TTL: time.Hour, MaxBytes: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			store := &ready{newMemory(), annsOrder()}
			s, closeAll := shopOver(b, store, reads)
			defer closeAll()
			var all [batches][batch]order.Order
			for i := range all {
				for j := range all[i] {
					o := annsOrder()
					o.ID, o.CustomerID = fmt.Sprintf("0198c5d4-5b1e-7c3a-9f00-%012d", i*batch+j), fmt.Sprintf("customer-%d", i*batch+j)
					all[i][j] = o
				}
			}
			ctx := context.Background()
			fill := func(orders []order.Order) {
				for i := range orders {
					_, err := s.Cached(ctx, merchant, orders[i].ID)
					_, err2 := s.CachedList(ctx, merchant, order.Query{CustomerID: orders[i].CustomerID, Limit: 10})
					if err != nil || err2 != nil {
						b.Fatal(err, err2)
					}
				}
			}
			var took time.Duration
			n := 0
			for b.Loop() {
				orders := all[n%batches][:]
				for i := range orders {
					orders[i].Version++
				}
				if c.read {
					store.order.Version = orders[0].Version - 1
					fill(orders)
				}
				began := time.Now()
				reads.Changed(orders)
				took += time.Since(began)
				n++
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(n*batch), "ns/order")
			b.ReportMetric(0, "ns/op") // filling counts there
		})
	}
}

// BenchmarkCached is a read of an order that is in memory.
func BenchmarkCached(b *testing.B) {
	reads, err := order.NewReads(order.ReadsOptions{TTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	s, closeAll := shopOver(b, newMemory(annsOrder()), reads)
	defer closeAll()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Cached(ctx, ann, "o1"); err != nil {
			b.Fatal(err)
		}
	}
}
