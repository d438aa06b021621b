package redis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/cache"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// database is what the caches stand before: for each key the number of its last write.
type database [8]atomic.Int64

func (d *database) load(key int, versions bool) func(context.Context) (cache.Loaded[text], error) {
	return func(context.Context) (cache.Loaded[text], error) {
		n := d[key].Load()
		l := cache.Loaded[text]{Value: text{Version: n}, Tags: []string{fmt.Sprint("t", key)}}
		if versions {
			l.Version = n
		}
		return l, nil
	}
}

// Three instances write and read the same few keys while Redis goes and comes back and
// forgets. No instance may ever read something older than what it wrote itself, and
// in the end, long before TTL, all must read the last write.
func TestInstancesNeverReadWhatIsOlderThanTheirOwnWritesAndAgreeInTheEnd(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions bool
	}{{"with versions", true}, {"without", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := servertest.Redis(t, servers.RedisOptions{Durable: true})
			b := &bus{}
			var db database
			var all []*instance
			var proxies []*servers.Proxy
			for range 3 {
				p := servertest.Proxy(t, servers.ProxyOptions{Target: s.Addr()})
				proxies = append(proxies, p)
				all = append(all, start(t, s, p.Addr(), b, func(o *cache.Options[text]) {
					o.RemoteTimeout, o.EagerAt = 500*time.Millisecond, 0.001
				}).here())
			}
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var writes atomic.Int64
			for i := range 12 {
				in := all[i%3]
				wg.Go(func() {
					for ctx.Err() == nil {
						write(t, in, &db, c.versions)
						writes.Add(1)
					}
				})
			}
			wg.Go(func() { disturb(ctx, t, s, proxies) })
			wg.Wait()
			for _, p := range proxies {
				if err := p.Pass(); err != nil {
					t.Error(err)
				}
			}
			for i, in := range all {
				for key := range db {
					var last int64
					eventually(t, fmt.Sprintf("instance %d reads write %d of key %d; it reads %d", i, db[key].Load(), key, last), func() bool {
						e, err := in.Get(context.Background(), fmt.Sprint(key), db.load(key, c.versions))
						last = e.Value.Version
						return err == nil && e.Value.Version == db[key].Load()
					})
				}
			}
			t.Logf("%d writes", writes.Load())
		})
	}
}

// write writes a key, tells the cache in one of the ways, and reads it, now and then
// without having written.
func write(t *testing.T, in *instance, db *database, versions bool) {
	k := rand.N(len(db))
	key := fmt.Sprint(k)
	load := db.load(k, versions)
	var n int64
	// What says no version cannot be ordered with a put of another writer, so the two
	// are not mixed.
	switch rand.N(6) {
	case 0, 1:
		n = db[k].Add(1)
		ch := cache.Change{Key: key}
		if versions {
			ch.Version = n
		}
		in.Invalidate(context.Background(), ch)
	case 2, 3:
		if n = db[k].Add(1); versions {
			in.Put(context.Background(), key, cache.Loaded[text]{Value: text{Version: n}, Version: n, Tags: []string{"t" + key}})
		} else {
			in.InvalidateTags(context.Background(), "t"+key)
		}
	}
	for range 3 {
		e, err := in.Get(context.Background(), key, load)
		if err != nil {
			t.Errorf("get: %v", err)
		} else if e.Value.Version < n {
			t.Errorf("after write %d it reads %d, from %s, age %s", n, e.Value.Version, e.Level, e.Age)
		}
	}
	wait := time.NewTimer(rand.N(time.Millisecond)) // so that reads are between writes
	<-wait.C
}

// disturb takes Redis away from some and gives it back until ctx ends.
func disturb(ctx context.Context, t *testing.T, s *servers.Redis, proxies []*servers.Proxy) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := proxies[rand.N(len(proxies))]
		var err error
		switch rand.N(6) {
		case 0:
			p.Partition()
		case 1:
			p.Cut()
		case 2:
			p.BlackHole()
		case 3:
			err = s.Flush(context.Background())
		default:
			err = p.Pass()
		}
		if err != nil {
			t.Error(err)
		}
	}
}
