package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// exactPair starts two instances with exact limits.
func exactPair(t *testing.T, store *memory, of func(p *peer) limiter) (a, b limiter, pa *peer) {
	pa, pb := startPeer(t, store, nil), startPeer(t, store, nil)
	settle(2 * time.Second)
	return of(pa), of(pb), pa
}

func eachExact(t *testing.T, test func(t *testing.T, of func(p *peer) limiter)) {
	for name, of := range map[string]func(p *peer) limiter{
		"rate":  func(p *peer) limiter { return p.rates(t, Rate{PerSecond: 0.01, Burst: 100}, true) },
		"quota": func(p *peer) limiter { return p.windows(t, Quota{Limit: 100, Window: 24 * time.Hour}, true) },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, of) }) })
	}
}

func TestAnExactLimitNeverLetsOneTooManyThrough(t *testing.T) {
	eachExact(t, func(t *testing.T, of func(p *peer) limiter) {
		store := newMemory()
		store.delay = time.Millisecond
		a, b, _ := exactPair(t, store, of)
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				l := []limiter{a, b}[i%2]
				for range 20 {
					if l.Allow("demo").Allowed {
						l.Spend("demo", 1)
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := admitted.Load(); got != 100 {
			t.Errorf("%d were let through, want 100", got)
		}
		asked := store.takes
		if d := a.Allow("demo"); d.Allowed || d.RetryAfter <= 0 || d.Remaining != 0 {
			t.Errorf("then: %+v", d)
		}
		if store.takes != asked {
			t.Error("a refusal that is certain asks the store")
		}
	})
}

func TestAnExactLimitCountsWhatRequestsCost(t *testing.T) {
	eachExact(t, func(t *testing.T, of func(p *peer) limiter) {
		store := newMemory()
		a, b, _ := exactPair(t, store, of)
		steps := []struct {
			l    limiter
			n    int64
			left int64 // afterwards, for the other
		}{{a, 1, 98}, {b, 10, 88}, {a, 0, 88}, {b, 47, 41}, {a, 0, 41}}
		left := int64(100)
		for i, s := range steps {
			other := a
			if s.l == a {
				other = b
			}
			if d := s.l.Allow("demo"); !d.Allowed || d.Remaining != left-1 {
				t.Errorf("step %d: allowed %v with %d left, want %d", i, d.Allowed, d.Remaining, left-1)
			}
			if d := s.l.Spend("demo", s.n); d.Remaining != left-s.n {
				t.Errorf("step %d: %d left, want %d", i, d.Remaining, left-s.n)
			}
			// The other asks, and gives back what it took.
			left -= s.n
			if d := other.Allow("demo"); d.Remaining != left-1 {
				t.Errorf("step %d: the other sees %d left, want %d", i, d.Remaining, left-1)
			}
			other.Spend("demo", 0)
		}
		a.Allow("demo")
		if d := a.Spend("demo", 200); d.Allowed {
			t.Errorf("a request that used it all up and more: %+v", d)
		}
		if d := b.Allow("demo"); d.Allowed {
			t.Errorf("the other afterwards: %+v", d)
		}
	})
}

func TestWithoutTheStoreAnExactLimitIsDecidedHereInTime(t *testing.T) {
	eachExact(t, func(t *testing.T, of func(p *peer) limiter) {
		store := newMemory()
		a, b, pa := exactPair(t, store, of)
		a.Allow("demo")
		a.Spend("demo", 10)
		store.set(func(m *memory) { m.delay = time.Hour })
		began := time.Now()
		if d := a.Allow("demo"); !d.Allowed || d.Remaining != 89 {
			t.Errorf("got %+v", d)
		}
		if took := time.Since(began); took != 50*time.Millisecond {
			t.Errorf("the decision took %s, want the 50 ms that it may wait", took)
		}
		for range 3 * exactFailures {
			a.Allow("demo")
		}
		if took := time.Since(began); took > 6*50*time.Millisecond {
			t.Errorf("%d decisions took %s, want that it gives up asking", 3*exactFailures, took)
		}
		settle(5 * time.Second)
		if !pa.syncer.Degraded() {
			t.Fatal("not degraded")
		}
		began = time.Now()
		got := spendUntilRefused(a, 1, 1000)
		if took := time.Since(began); took != 0 {
			t.Errorf("decisions took %s, want no time", took)
		}
		// 26 of the 100 are gone; what is left counts twice, for there are two.
		if got < 35 || got > 38 {
			t.Errorf("%d were let through, want half of what was left: 37", got)
		}
		if n := testutil.ToFloat64(pa.syncer.metrics.exactErrors); n != exactFailures {
			t.Errorf("%v errors, want %d", n, exactFailures)
		}
		store.set(func(m *memory) { m.delay = 0 })
		settle(5 * time.Second)
		if pa.syncer.Degraded() {
			t.Fatal("it does not come back")
		}
		asked := store.takes
		b.Allow("demo")
		if store.takes != asked+1 {
			t.Error("the store is not asked again")
		}
	})
}

func TestExactDecisionsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, func(o *SyncerOptions) { o.MaxExact = 4 })
		r := p.rates(t, Rate{PerSecond: 1, Burst: 1000}, true)
		settle(2 * time.Second)
		store.set(func(m *memory) { m.delay = 10 * time.Millisecond })
		var wg sync.WaitGroup
		var waited atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				began := time.Now()
				if !r.Allow(fmt.Sprint("key", i)).Allowed {
					t.Error("refused")
				}
				if time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		wg.Wait()
		if n := waited.Load(); n != 4 || testutil.ToFloat64(p.metrics.degraded.WithLabelValues("events")) != 16 {
			t.Errorf("%d waited, want 4, and the others decided here", n)
		}
	})
}
