package kafka_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"millrace/internal/bus"
	"millrace/internal/bus/kafka"
)

// BenchmarkRoundTrip is a message published, delivered and its position moved on,
// in batches as the outbox relay sends them. kfake holds everything in this
// process's memory, so it tells what the driver costs, not what Kafka does.
func BenchmarkRoundTrip(b *testing.B) {
	c := fake(b, kfake.NumBrokers(1))
	conn := openFor(b, kafka.Options{Brokers: c.ListenAddrs()})
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	g := workers(b)
	g.Concurrency = 64
	join(b, conn, g, func(context.Context, *bus.Delivery) error {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil
	})
	b.ReportAllocs()
	b.ResetTimer()
	const batch = 256
	data := []byte(`{"tenantId":"demo","orderId":"0190b0c4-7f2e-7d63-9a51-1f2e3d4c5b6a","version":3}`)
	for sent := 0; sent < b.N; {
		list := make([]bus.Message, min(batch, b.N-sent))
		for i := range list {
			list[i] = bus.Message{Subject: "orders.paid", ID: fmt.Sprintf("0190b0c4-7f2e-7d63-9a51-1f2e3d4c5b6a-%d", sent+i), Data: data,
				Headers: map[string]string{bus.HeaderTrace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
		}
		publish(b, conn, list...)
		sent += len(list)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		b.Fatalf("%d deliveries are missing", left.Load())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
