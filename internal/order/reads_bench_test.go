package order_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/order"
)

// BenchmarkChanged is what a transaction of 256 orders pays to keep readers right,
// without Redis and peers: nanoseconds per order.
func BenchmarkChanged(b *testing.B) {
	const batch = 256
	for _, c := range []struct {
		name string
		read bool // each order and its customer's page are in memory
	}{{"nobody has read them", false}, {"all are in memory", true}} {
		b.Run(c.name, func(b *testing.B) {
			reads, err := order.NewReads(order.ReadsOptions{TTL: time.Hour, MaxBytes: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			batches := make([][]order.Order, 64)
			store := newMemory()
			for i := range batches {
				for j := range batch {
					o := annsOrder()
					o.ID, o.CustomerID = fmt.Sprintf("0198c5d4-5b1e-7c3a-9f00-%012d", i*batch+j), fmt.Sprintf("customer-%d", i*batch+j)
					store.orders[order.Ref{TenantID: o.TenantID, ID: o.ID}] = o
					batches[i] = append(batches[i], o)
				}
			}
			s, closeAll := shopOver(b, store, reads)
			defer closeAll()
			ctx := context.Background()
			b.ReportAllocs()
			n, version := 0, int64(1)
			for b.Loop() {
				if n%len(batches) == 0 {
					version++
				}
				orders := batches[n%len(batches)]
				if c.read {
					b.StopTimer()
				}
				for i := range orders {
					o := &orders[i]
					if o.Version = version; !c.read {
						continue
					}
					if _, err := s.Cached(ctx, order.Viewer{TenantID: "demo"}, o.ID); err != nil {
						b.Fatal(err)
					}
				}
				if c.read {
					b.StartTimer()
				}
				reads.Changed(orders)
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/order")
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
