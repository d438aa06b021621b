package rabbitmq_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/bus"
)

// BenchmarkRoundTrip is a message published, delivered and acknowledged, in batches
// as the outbox relay sends them. Every message goes to so many groups.
func BenchmarkRoundTrip(b *testing.B) {
	for _, groups := range []int{1, 3} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) { roundTrip(b, groups) })
	}
}

func roundTrip(b *testing.B, groups int) {
	conn := openFor(b, newPlace(shared.RabbitMQ(b)).options())
	var left atomic.Int64
	left.Store(int64(b.N * groups))
	done := make(chan struct{})
	for i := range groups {
		g := workers()
		g.Name, g.Concurrency = fmt.Sprint("group-", i), 64
		sub, err := conn.Subscribe(b.Context(), g, func(context.Context, *bus.Delivery) error {
			if left.Add(-1) == 0 {
				close(done)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = sub.Close(context.Background()) })
	}
	b.ReportAllocs()
	b.ResetTimer()
	const batch = 256
	data := []byte(`{"tenantId":"demo","orderId":"0190b0c4-7f2e-7d63-9a51-1f2e3d4c5b6a","version":3}`)
	for sent := 0; sent < b.N; {
		n := min(batch, b.N-sent)
		list := make([]bus.Message, n)
		for i := range list {
			list[i] = bus.Message{Subject: "orders.paid", ID: fmt.Sprintf("0190b0c4-7f2e-7d63-9a51-1f2e3d4c5b6a-%d", sent+i), Data: data,
				Headers: map[string]string{bus.HeaderTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
		}
		if err := conn.Publish(b.Context(), list); err != nil {
			b.Fatal(err)
		}
		sent += n
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		b.Fatalf("%d deliveries are missing", left.Load())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
