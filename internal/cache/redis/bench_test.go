package redis_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"

	"millrace/internal/cache"
)

// BenchmarkRead compares a hit in RAM with asking Redis for each, over the same client
// library, for a value of 512 bytes among 10,000 keys.
func BenchmarkRead(b *testing.B) {
	const keys = 10_000
	s := shared.Redis(b)
	value := make([]byte, 512)
	load := func(context.Context) (cache.Loaded[[]byte], error) {
		return cache.Loaded[[]byte]{Value: value, Version: 1}, nil
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprint("tenant/order-", i)
	}
	c, err := cache.New(cache.Options[[]byte]{
		Name: "bench", TTL: time.Hour, Weigh: func(_ string, v []byte) int { return len(v) }, Metrics: cache.NewMetrics(prometheus.NewRegistry()),
		Remote: connectTo(b, s, nil),
		Encode: func(v []byte) ([]byte, error) { return v, nil }, Decode: func(v []byte) ([]byte, error) { return v, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	for _, name := range names {
		c.Put(ctx, name, cache.Loaded[[]byte]{Value: value, Version: 1})
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, Password: s.Password(), DisableCache: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	for _, name := range names {
		if err := client.Do(ctx, client.B().Set().Key("bench/"+name).Value(string(value)).Build()).Error(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("ram", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if e, err := c.Get(ctx, names[i*7919%keys], load); err != nil || e.Level != "ram" {
				b.Fatal(e.Level, err)
			}
		}
	})
	b.Run("ram-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if e, err := c.Get(ctx, names[i*7919%keys], load); err != nil || e.Level != "ram" {
					b.Error(e.Level, err)
				}
			}
		})
	})
	b.Run("redis", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := client.Do(ctx, client.B().Get().Key("bench/"+names[i*7919%keys]).Build()).AsBytes(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("redis-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := client.Do(ctx, client.B().Get().Key("bench/"+names[i*7919%keys]).Build()).AsBytes(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
