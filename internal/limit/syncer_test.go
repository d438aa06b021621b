package limit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// settle lets everything that is due happen, and time pass.
func settle(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

// The promise of Syncer, over many shapes of traffic. Time is the bubble's, so what
// comes out is exact whatever else the machine does.
func TestInstancesTogetherLetThroughWhatOneWould(t *testing.T) {
	for seed := range uint64(24) {
		random := rand.New(rand.NewPCG(seed, 7))
		n := 1 + random.IntN(5)
		rate := []float64{5, 100, 3000, 50_000}[random.IntN(4)]
		burst := max(int64(rate*[]float64{0.05, 0.5, 2}[random.IntN(3)]), 1)
		batch := 1 + random.Int64N(max(int64(rate/50), 1))
		// How much of the rate is offered to each.
		demand := make([]float64, n)
		for i := range demand {
			demand[i] = []float64{0, 0.1, 0.5, 1, 3}[random.IntN(5)]
		}
		delay := time.Duration(random.IntN(3)) * 10 * time.Millisecond
		pausing := random.IntN(2) == 0 // all traffic pauses for 5 s, so that buckets fill
		t.Run(fmt.Sprintf("seed %d: %d instances, rate %v, burst %d, batch %d, demand %v, delay %s", seed, n, rate, burst, batch, demand, delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemory()
				store.delay = delay
				limits := make([]*Rates, n)
				for i := range limits {
					limits[i] = startPeer(t, store, nil).rates(t, Rate{PerSecond: rate, Burst: burst}, false)
				}
				settle(2 * time.Second)
				const step, seconds = 2 * time.Millisecond, 20
				var offered, admitted []float64 // by step
				owed := make([]float64, n)
				for i := range int(seconds * time.Second / step) {
					var out, in float64
					if at := time.Duration(i) * step; !pausing || at < 5*time.Second || at > 10*time.Second {
						for k, r := range limits {
							for owed[k] += demand[k] * rate * step.Seconds(); owed[k] >= float64(batch); owed[k] -= float64(batch) {
								out += float64(batch)
								if r.Allow("demo").Allowed {
									r.Spend("demo", batch)
									in += float64(batch)
								}
							}
						}
					}
					offered, admitted = append(offered, out), append(admitted, in)
					settle(step)
				}
				late := (100*time.Millisecond + delay).Seconds()
				extra := float64(burst) + float64(n-1)*(float64(burst)+3*rate*late) + rate*late + float64(int64(n)*batch)
				checkWindows(t, admitted, step.Seconds(), rate, extra)
				// And not much less than one would, with a bucket of its own.
				var one, both float64
				level := float64(burst)
				for i := range offered {
					level = min(level+rate*step.Seconds(), float64(burst))
					if offered[i] > 0 && level >= 0 {
						in := min(offered[i], level+float64(batch))
						level -= in
						one += in
					}
					both += admitted[i]
				}
				// What was let through too much at the end is a debt that is not paid yet.
				if both < one*0.95-2*float64(int64(n)*batch) {
					t.Errorf("let %.0f through, of the %.0f that one would", both, one)
				}
			})
		})
	}
}

// checkWindows checks that in no time T more than rate*T + extra was let through.
func checkWindows(t *testing.T, admitted []float64, step, rate, extra float64) {
	t.Helper()
	// The largest sum of admitted - rate*step over any run of steps (Kadane's).
	worst, sum := 0.0, 0.0
	for _, in := range admitted {
		sum = max(sum+in-rate*step, 0)
		worst = max(worst, sum)
	}
	if worst > extra {
		t.Errorf("%.0f more than the rate were let through within some time, want at most %.0f", worst, extra)
	}
}

// Exchanges tell late what was spent, all at once. That must not look like a burst.
func TestSteadyTrafficBelowTheRateIsNotRefusedThoughTheBurstIsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.delay = 50 * time.Millisecond
		r := startPeer(t, store, nil).rates(t, Rate{PerSecond: 1000, Burst: 5}, false)
		other := startPeer(t, store, nil).rates(t, Rate{PerSecond: 1000, Burst: 5}, false)
		settle(2 * time.Second)
		refused := 0
		for i := range 10_000 {
			l := r
			if i%10 >= 7 {
				l = other
			}
			if i%10 != 9 { // 900 a second
				if d := l.Allow("demo"); d.Allowed {
					l.Spend("demo", 1)
				} else {
					refused++
				}
			}
			settle(time.Millisecond)
		}
		if refused > 0 {
			t.Errorf("%d of 9000 are refused", refused)
		}
	})
}

func TestOneInstanceWithAllTheTrafficGetsTheWholeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		busy := startPeer(t, store, nil).rates(t, Rate{PerSecond: 1000, Burst: 100}, false)
		for range 4 {
			startPeer(t, store, nil)
		}
		settle(2 * time.Second)
		var got int64
		for range 10_000 {
			got += spendUntilRefused(busy, 1, 1000)
			settle(time.Millisecond)
		}
		if got < 10_000 || got > 10_200 {
			t.Errorf("got %d in 10 s, want 10000 and a burst of 100", got)
		}
	})
}

func TestWhatIsSpentIsToldInBatchesOfActiveKeysOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, func(o *SyncerOptions) { o.MaxBatch = 40 })
		r, w := p.rates(t, Rate{PerSecond: 1000}, false), p.windows(t, Quota{Limit: 1000, Window: time.Minute}, false)
		settle(time.Second)
		for i := range 100 {
			r.Spend(fmt.Sprint("key", i), 1)
		}
		settle(time.Second)
		if got := fmt.Sprint(store.batches); got != "[40 40 20]" {
			t.Errorf("exchanges of %s keys, want [40 40 20]", got)
		}
		store.batches = nil
		r.Spend("key7", 1)
		r.Spend("key7", 1)
		w.Spend("key7", 1)
		r.Allow("key8")
		r.Allow("never spent")
		settle(time.Second)
		if got := fmt.Sprint(store.batches); got != "[3]" {
			t.Errorf("exchanges of %s keys, want [3]: a bucket that was spent from, one that was asked, and a window", got)
		}
	})
}

func TestWhoSpendsFastIsHeardOfSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		limits := [2]*Rates{}
		for i := range limits {
			limits[i] = startPeer(t, store, func(o *SyncerOptions) { o.Every = 10 * time.Second }).rates(t, Rate{PerSecond: 1, Burst: 800}, false)
		}
		settle(15 * time.Second)
		limits[1].Spend("demo", 1)
		limits[0].Spend("demo", 99)
		settle(2 * time.Second)
		if len(store.batches) != 0 {
			t.Errorf("%d exchanges for less than an eighth of the burst", len(store.batches))
		}
		limits[0].Spend("demo", 1)
		settle(2 * time.Second)
		if len(store.batches) != 1 {
			t.Errorf("%d exchanges for an eighth of the burst, want 1", len(store.batches))
		}
	})
}

func TestALostAnswerCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p, other := startPeer(t, store, nil), startPeer(t, store, nil)
		r, ro := p.rates(t, Rate{PerSecond: 0.05, Burst: 1000}, false), other.rates(t, Rate{PerSecond: 0.05, Burst: 1000}, false)
		w, wo := p.windows(t, Quota{Limit: 1000, Window: 24 * time.Hour}, false), other.windows(t, Quota{Limit: 1000, Window: 24 * time.Hour}, false)
		settle(500 * time.Millisecond)
		for range 2 {
			store.set(func(m *memory) { m.lose = 1 })
			r.Spend("demo", 100)
			w.Spend("demo", 100)
			settle(500 * time.Millisecond)
		}
		ro.Spend("demo", 0)
		wo.Spend("demo", 0)
		settle(500 * time.Millisecond)
		for name, got := range map[string]int64{
			"the bucket here": r.Allow("demo").Remaining, "the bucket there": ro.Allow("demo").Remaining,
			"the window here": w.Allow("demo").Remaining, "the window there": wo.Allow("demo").Remaining,
		} {
			if got != 800 {
				t.Errorf("%s has %d left, want 800", name, got)
			}
		}
		if p.syncer.Degraded() || testutil.ToFloat64(p.syncer.metrics.errors) != 2 {
			t.Errorf("degraded: %v, with %v errors, want not, with 2", p.syncer.Degraded(), testutil.ToFloat64(p.syncer.metrics.errors))
		}
	})
}

func TestWhatIsSpentDuringAnExchangeIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.delay = 200 * time.Millisecond
		p := startPeer(t, store, nil)
		r, w := p.rates(t, Rate{PerSecond: 0.05, Burst: 1000}, false), p.windows(t, Quota{Limit: 1000, Window: 24 * time.Hour}, false)
		settle(250 * time.Millisecond) // between rounds, which take 200 ms
		r.Spend("demo", 100)
		w.Spend("demo", 100)
		for i := range 100 {
			settle(10 * time.Millisecond)
			r.Spend("demo", 1)
			w.Spend("demo", 1)
			want := int64(899 - i)
			if got := r.Allow("demo").Remaining; got != want {
				t.Fatalf("%d left of the bucket, want %d", got, want)
			}
			if got := w.Allow("demo").Remaining; got != want {
				t.Fatalf("%d left of the window, want %d", got, want)
			}
		}
	})
}

func TestWithoutTheStoreAnInstanceAppliesItsPart(t *testing.T) {
	for name, away := range map[string]func(*memory){
		"gone": func(m *memory) { m.err = errAway },
		"slow": func(m *memory) { m.delay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemory()
				p := startPeer(t, store, nil)
				var others []*Rates
				for range 3 {
					others = append(others, startPeer(t, store, nil).rates(t, Rate{PerSecond: 400, Burst: 100}, false))
				}
				settle(2 * time.Second)
				if got := p.syncer.Instances(); got != 4 || testutil.ToFloat64(p.syncer.metrics.state) != 1 {
					t.Fatalf("%d instances, want 4", got)
				}
				r, w := p.rates(t, Rate{PerSecond: 400, Burst: 100}, false), p.windows(t, Quota{Limit: 400, Window: time.Hour}, false)
				r.Spend("demo", 0)
				store.set(away)
				settle(5 * time.Second)
				if !p.syncer.Degraded() || testutil.ToFloat64(p.syncer.metrics.state) != 0 {
					t.Fatal("it does not notice")
				}
				began := time.Now()
				var got int64
				for range 1000 {
					got += spendUntilRefused(r, 1, 1000)
					for _, other := range others {
						spendUntilRefused(other, 1, 1000)
					}
					settle(10 * time.Millisecond)
				}
				if got < 1000 || got > 1026 {
					t.Errorf("let %d through in 10 s, want a quarter of the rate and of the burst: 1025", got)
				}
				if got := spendUntilRefused(w, 1, 1000); got != 100 {
					t.Errorf("let %d through of the quota, want a quarter: 100", got)
				}
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("decisions took %s", took-10*time.Second)
				}
				lag, _ := p.syncer.Lag()
				if lag < 10*time.Second || testutil.ToFloat64(p.metrics.degraded.WithLabelValues("events")) < 1000 {
					t.Errorf("a lag of %s", lag)
				}
				store.set(func(m *memory) { m.err, m.delay = nil, 0 })
				// Each comes back in its own time.
				for range 500 {
					r.Spend("demo", 1)
					for _, other := range others {
						other.Spend("demo", 0)
					}
					settle(10 * time.Millisecond)
				}
				if p.syncer.Degraded() || testutil.ToFloat64(p.syncer.metrics.state) != 1 {
					t.Fatal("it does not come back")
				}
				// The bucket is not charged for the outage; the quota is.
				if d := r.Allow("demo"); d.Remaining < 80 {
					t.Errorf("the bucket after it: %+v", d)
				}
				w.Spend("demo", 0)
				settle(time.Second)
				if d := w.Allow("demo"); d.Remaining != 300 {
					t.Errorf("the quota after it has %d left, want 300", d.Remaining)
				}
				p.end()
				if p.said("no longer shared") != 1 || p.said("shared among the instances again") != 1 || p.said("level=") != 2 {
					t.Errorf("the log:\n%s", p.log)
				}
			})
		})
	}
}

// Keys come and go while nobody can be told. Nothing may pile up.
func TestNothingPilesUpWhileTheStoreIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.err = errAway
		p := startPeer(t, store, nil)
		r := testRates(t, RatesOptions{Default: Rate{PerSecond: 1000, Burst: 10}, MaxKeys: 100, Shared: p.syncer})
		most := 0
		for i := range 20_000 {
			r.Spend(fmt.Sprint("key", i), 1)
			if i%50 == 0 {
				settle(100 * time.Millisecond)
			}
			p.syncer.mu.Lock()
			most = max(most, len(p.syncer.queue))
			p.syncer.mu.Unlock()
		}
		if most > 500 || r.Keys() > 100 {
			t.Errorf("up to %d keys waited, and %d are kept; want at most 500 and 100", most, r.Keys())
		}
	})
}

// Eviction forgets what a key has ever spent here. What it spends then must count.
func TestAKeyThatComesBackAfterEvictionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, func(o *SyncerOptions) { o.Timeout = 10 * time.Second })
		r := testRates(t, RatesOptions{Name: "events", Default: Rate{PerSecond: 100, Burst: 100}, MaxKeys: 1, Shared: p.syncer})
		w := testWindows(t, WindowsOptions{Name: "quota", Default: Quota{Limit: 100, Window: time.Second}, MaxKeys: 1, Shared: p.syncer})
		settle(time.Second)
		for range 3 {
			for _, key := range []string{"a", "b"} {
				r.Spend(key, 90)
				w.Spend(key, 90)
				settle(200 * time.Millisecond)
				if b := store.buckets["events/"+key]; b == nil || b.used < 600*time.Millisecond {
					t.Errorf("the store knows nothing of what %s spent: %+v", key, b)
				}
				if c := store.windows["quota/"+key]; c == nil || c.current+c.previous != 90 {
					t.Errorf("the store knows nothing of what %s spent: %+v", key, c)
				}
				settle(3 * time.Second)
			}
		}
		// Nothing that the store does not know is evicted.
		store.set(func(m *memory) { m.delay = 5 * time.Second })
		r.Spend("a", 1)
		settle(2 * time.Second)
		r.Spend("c", 1)
		if n := r.Keys(); n != 1 {
			t.Errorf("%d keys, want the one", n)
		}
		if _, ok := r.buckets.entries.Load("a"); !ok {
			t.Error("a key was evicted whose spending the store does not know")
		}
	})
}

func TestAnOutageIsChargedToTheWindowsItWasIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, nil)
		w := p.windows(t, Quota{Limit: 1000, Window: time.Minute}, false)
		settle(10 * time.Second) // the bubble begins at midnight
		store.set(func(m *memory) { m.err = errAway })
		w.Spend("demo", 100) // in the first minute
		settle(time.Minute)
		w.Spend("demo", 200) // in the second
		settle(time.Minute)
		w.Spend("demo", 300) // in the third
		store.set(func(m *memory) { m.err = nil })
		settle(5 * time.Second)
		w.Spend("demo", 0)
		settle(time.Second)
		if c := store.windows["quota/demo"]; c == nil || c.current != 300 || c.previous != 200 {
			t.Errorf("the store has %+v, want 300 and 200 before", c)
		}
	})
}

func TestAFlushedStoreGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, nil)
		r, w := p.rates(t, Rate{PerSecond: 1, Burst: 100}, false), p.windows(t, Quota{Limit: 100, Window: time.Hour}, false)
		r.Spend("demo", 100)
		w.Spend("demo", 100)
		settle(time.Second)
		store.flush()
		r.Spend("demo", 10)
		w.Spend("demo", 10)
		settle(time.Second)
		if got := r.Allow("demo").Remaining; got < 90 || got > 92 {
			t.Errorf("%d left of the bucket, want what a full one has after spending 10", got)
		}
		if got := w.Allow("demo").Remaining; got != 90 {
			t.Errorf("%d left of the window, want what a full one has after spending 10", got)
		}
		if p.said("level=") != 0 {
			t.Errorf("the log:\n%s", p.log)
		}
	})
}

func TestTheLastSpendingIsToldAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		p := startPeer(t, store, nil)
		r := p.rates(t, Rate{PerSecond: 1, Burst: 100}, false)
		settle(time.Second)
		r.Spend("demo", 50)
		p.end()
		if b := store.buckets["events/demo"]; b == nil || b.used != 50*time.Second || len(store.alive) != 0 {
			t.Errorf("the store has %+v and knows of %d instances", b, len(store.alive))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.delay = time.Hour
		p := startPeer(t, store, nil)
		began := time.Now()
		p.end()
		if took := time.Since(began); took > time.Second {
			t.Errorf("with a store that hangs it takes %s to end", took)
		}
	})
}

func TestOptionsOfASyncerAreChecked(t *testing.T) {
	for name, o := range map[string]SyncerOptions{
		"no store":        {},
		"a negative time": {Store: newMemory(), Every: -1},
	} {
		if _, err := NewSyncer(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	s, err := NewSyncer(SyncerOptions{Store: newMemory(), Every: time.Second})
	if err != nil || s.o.Timeout != 2*time.Second || s.Instances() != 1 {
		t.Errorf("got %+v, %v", s.o, err)
	}
	if _, ever := s.Lag(); ever {
		t.Error("a store that was never asked has answered")
	}
	if err := s.Run(canceled()); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
