package nats_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/bus"
	"millrace/internal/bus/nats"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// BenchmarkRoundTrip is a message published, delivered and acknowledged through a
// broker in this process, in batches as the outbox relay sends them. For groups 1
// and 3 every message goes to so many groups.
func BenchmarkRoundTrip(b *testing.B) {
	for _, groups := range []int{1, 3} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			s, err := nats.StartServer(nats.ServerOptions{StoreDir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(s.Close)
			roundTrip(b, nats.Options{Server: s}, groups)
		})
	}
}

// BenchmarkRoundTripOfACluster is the same with three brokers, which write to disk
// before they answer, or every two minutes, which is NATS's own default.
func BenchmarkRoundTripOfACluster(b *testing.B) {
	for _, interval := range []string{"always", "2m"} {
		b.Run("sync="+interval, func(b *testing.B) {
			c := servertest.NATS(b, servers.NATSOptions{Nodes: 3, SyncInterval: interval})
			roundTrip(b, nats.Options{URL: c.URL(), User: c.User(), Password: c.Password(), Replicas: 3}, 1)
		})
	}
}

func roundTrip(b *testing.B, o nats.Options, groups int) {
	conn := open(b, o)
	b.Cleanup(func() { _ = conn.Close() })
	var left atomic.Int64
	left.Store(int64(b.N * groups))
	done := make(chan struct{})
	for i := range groups {
		sub, err := conn.Subscribe(b.Context(), bus.Group{
			Name: fmt.Sprint("group-", i), Subjects: []string{"orders.>"}, Concurrency: 64, AckWait: time.Minute, MaxAttempts: 10,
			DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil },
		}, func(context.Context, *bus.Delivery) error {
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
