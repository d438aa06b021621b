package cache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/cache"
)

// BenchmarkWrite is what a writer pays for each key, with peers or without.
func BenchmarkWrite(b *testing.B) {
	const keys = 100_000
	changes := make([]cache.Change, keys)
	for i := range changes {
		changes[i] = cache.Change{Key: fmt.Sprint("tenant/order-", i), Version: 1}
	}
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		change func(*cache.Options[string])
	}{
		{"alone", nil},
		{"peers", func(o *cache.Options[string]) { o.Peers, o.Instance = &hub{}, "a" }},
	} {
		ca := open(b, func(o *cache.Options[string]) {
			o.TTL = time.Hour
			if c.change != nil {
				c.change(o)
			}
		})
		b.Run(c.name+"/invalidate", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				ca.Invalidate(ctx, changes[i%keys])
			}
		})
		b.Run(c.name+"/put", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				ca.Put(ctx, changes[i%keys].Key, cache.Loaded[string]{Value: "v", Version: 1})
			}
		})
	}
}
