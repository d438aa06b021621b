package limit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// benchSyncer exchanges with a store in memory, as often as it would with a real one.
func benchSyncer(b *testing.B) *Syncer {
	s, err := NewSyncer(SyncerOptions{Store: newMemory()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return s
}

func BenchmarkRates(b *testing.B) {
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("tenant-", i)
	}
	r := testRates(b, RatesOptions{Default: Rate{PerSecond: 1e9, Burst: 1e9}})
	b.Run("allow and spend, one key", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Allow("tenant-1")
			r.Spend("tenant-1", 100)
		}
	})
	b.Run("allow and spend, 1000 keys, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				key := keys[i%len(keys)]
				r.Allow(key)
				r.Spend(key, 100)
			}
		})
	})
	shared := benchSyncer(b)
	together := testRates(b, RatesOptions{Default: Rate{PerSecond: 1e9, Burst: 1e9}, Shared: shared})
	b.Run("shared: allow and spend, one key", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			together.Allow("tenant-1")
			together.Spend("tenant-1", 100)
		}
	})
	b.Run("shared: allow and spend, 1000 keys, parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				key := keys[i%len(keys)]
				together.Allow(key)
				together.Spend(key, 100)
			}
		})
	})
	for name, of := range map[string]*Syncer{"alone": nil, "shared": shared} {
		quota := testWindows(b, WindowsOptions{Default: Quota{Limit: maxUnits, Window: time.Hour}, Shared: of})
		b.Run("quota, "+name+": allow and spend, one key", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				quota.Allow("tenant-1")
				quota.Spend("tenant-1", 100)
			}
		})
	}
	unlimited := testRates(b, RatesOptions{})
	b.Run("allow and spend, unlimited", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			unlimited.Allow("tenant-1")
			unlimited.Spend("tenant-1", 100)
		}
	})
	// The baseline is what one would write first: a map under a mutex.
	type simple struct {
		tokens float64
		last   time.Time
	}
	var mu sync.Mutex
	buckets := map[string]*simple{}
	b.Run("baseline: map under a mutex, 1000 keys, parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				for range 2 {
					mu.Lock()
					s := buckets[keys[i%len(keys)]]
					if s == nil {
						s = &simple{}
						buckets[keys[i%len(keys)]] = s
					}
					now := time.Now()
					s.tokens = min(1e9, s.tokens+now.Sub(s.last).Seconds()*1e9) - 50
					s.last = now
					mu.Unlock()
				}
			}
		})
	})
}
