package redis

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/limit"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// instance is one of several that share limits.
type instance struct {
	store   *Redis
	syncer  *limit.Syncer
	metrics *limit.Metrics
	reg     *prometheus.Registry
	log     *lines
	end     func() // orderly
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// count says how many lines hold text.
func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

const syncEvery = 100 * time.Millisecond

// startInstance starts what one instance has for its limits.
func startInstance(t testing.TB, addr, password, prefix string) *instance {
	t.Helper()
	store, err := New(Options{Addresses: []string{addr}, Password: password, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{store: store, reg: prometheus.NewRegistry(), log: &lines{}}
	in.metrics = limit.NewMetrics(in.reg)
	in.syncer, err = limit.NewSyncer(limit.SyncerOptions{
		Store: store, Instance: "test", Every: syncEvery, Metrics: in.metrics, Logger: slog.New(slog.NewTextHandler(in.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := in.syncer.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	in.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		store.Close()
	})
	t.Cleanup(in.end)
	return in
}

func (in *instance) rates(t testing.TB, rate limit.Rate, exact bool) *limit.Rates {
	t.Helper()
	r, err := limit.NewRates(limit.RatesOptions{Name: "events", Default: rate, Shared: in.syncer, Exact: exact, Metrics: in.metrics})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// three starts three instances that know of each other.
func three(t testing.TB, server *servers.Redis) []*instance {
	t.Helper()
	var all []*instance
	for range 3 {
		all = append(all, startInstance(t, server.Addr(), server.Password(), "test-"+t.Name()))
	}
	eventually(t, "three instances know of each other", func() bool {
		for _, in := range all {
			if in.syncer.Instances() != 3 {
				return false
			}
		}
		return true
	})
	return all
}

// offer offers batches to a limit, every millisecond as many as make perSecond
// units, until ctx ends, and returns how many were let through.
func offer(ctx context.Context, r interface {
	Allow(string) limit.Decision
	Spend(string, int64) limit.Decision
}, batch int64, perSecond float64) (admitted int64) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began, offered := time.Now(), int64(0)
	for ctx.Err() == nil {
		for due := int64(time.Since(began).Seconds() * perSecond); offered < due; offered += batch {
			if r.Allow("demo").Allowed {
				r.Spend("demo", batch)
				admitted += batch
			}
		}
		<-tick.C
	}
	return admitted
}

// The promise of limit.Syncer, on a real server and under load.
func TestThreeInstancesTogetherLetThroughWhatOneWould(t *testing.T) {
	const (
		rate, burst = 4000, 2000
		batch       = 20
		seconds     = 3
	)
	for _, c := range []struct {
		name string
		// perSecond is what is offered to each instance.
		perSecond [3]float64
		exact     bool
	}{
		{"with the same traffic for each", [3]float64{8000, 8000, 8000}, false},
		{"with more for one than for the others", [3]float64{12000, 1000, 300}, false},
		{"with all traffic at one", [3]float64{12000, 0, 0}, false},
		{"with hardly more than is allowed", [3]float64{1500, 1500, 1500}, false},
		{"exactly", [3]float64{4000, 4000, 0}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := three(t, shared.Redis(t))
			ctx, cancel := context.WithTimeout(context.Background(), seconds*time.Second)
			defer cancel()
			var admitted atomic.Int64
			var offering sync.WaitGroup
			began := time.Now()
			for i, in := range all {
				r, size := in.rates(t, limit.Rate{PerSecond: rate, Burst: burst}, c.exact), int64(batch)
				if c.exact {
					size = 1
				}
				offering.Go(func() { admitted.Add(offer(ctx, r, size, c.perSecond[i])) })
			}
			offering.Wait()
			took := time.Since(began).Seconds()
			// An exchange takes a few milliseconds, and its timeout at the most.
			const late = 0.1 + 0.25
			n := 3.0
			allowed := rate*took + burst
			bound := allowed + (n-1)*(burst+3*rate*late) + rate*late + n*batch
			if c.exact {
				bound = allowed + 1
			}
			got := float64(admitted.Load())
			t.Logf("admitted %.0f in %.2f s: %.1f %% of what one would, %.1f %% of the bound", got, took, 100*got/allowed, 100*got/bound)
			if got > bound {
				t.Errorf("admitted %.0f in %.2f s, more than the bound of %.0f", got, took, bound)
			}
			offered := (c.perSecond[0] + c.perSecond[1] + c.perSecond[2]) * took
			if want := min(allowed, offered) * 0.95; got < want && !c.exact {
				t.Errorf("admitted %.0f in %.2f s, less than 95 %% of the %.0f that were allowed and asked for", got, took, min(allowed, offered))
			}
			if c.exact && got < allowed*0.5 {
				t.Errorf("admitted %.0f in %.2f s, of %.0f that were allowed", got, took, allowed)
			}
			for i, in := range all {
				if in.syncer.Degraded() || in.log.count("level=WARN") > 0 {
					t.Errorf("instance %d was degraded", i)
				}
			}
		})
	}
}

func TestThreeInstancesShareAQuota(t *testing.T) {
	const quota = 3000
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exact), func(t *testing.T) {
			all := three(t, shared.Redis(t))
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			var admitted atomic.Int64
			var offering sync.WaitGroup
			var windows []*limit.Windows
			for _, in := range all {
				w, err := limit.NewWindows(limit.WindowsOptions{Name: "quota", Default: limit.Quota{Limit: quota, Window: 31 * 24 * time.Hour}, Shared: in.syncer, Exact: exact})
				if err != nil {
					t.Fatal(err)
				}
				windows = append(windows, w)
				offering.Go(func() { admitted.Add(offer(ctx, w, 1, 2000)) })
			}
			offering.Wait()
			got := admitted.Load()
			t.Logf("admitted %d of %d", got, quota)
			// What arrives at the two others within an exchange and its timeout.
			most := int64(quota + 2*2000*0.35)
			if exact {
				most = quota
			}
			if got < quota || got > most {
				t.Errorf("admitted %d, want %d to %d", got, quota, most)
			}
			eventually(t, "all know that it is used up", func() bool {
				for _, w := range windows {
					if d := w.Allow("demo"); d.Allowed || d.Remaining != 0 || d.RetryAfter < time.Hour {
						return false
					}
				}
				return true
			})
		})
	}
}

func TestAnInstanceShowsWhatOthersHaveSpent(t *testing.T) {
	server := shared.Redis(t)
	a := startInstance(t, server.Addr(), server.Password(), t.Name())
	b := startInstance(t, server.Addr(), server.Password(), t.Name())
	ra, rb := a.rates(t, limit.Rate{PerSecond: 1, Burst: 1000}, false), b.rates(t, limit.Rate{PerSecond: 1, Burst: 1000}, false)
	ra.Spend("demo", 600)
	rb.Spend("demo", 100)
	eventually(t, "both show 300 left", func() bool {
		return ra.Allow("demo").Remaining/10 == 30 && rb.Allow("demo").Remaining/10 == 30
	})
	// What is spent last is told before an instance ends.
	ra.Spend("demo", 200)
	a.end()
	eventually(t, "the other shows 100 left, and is alone", func() bool {
		return rb.Allow("demo").Remaining/10 == 10 && b.syncer.Instances() == 1
	})
}

func TestAFlushGivesOneMoreBucketAndGoesOn(t *testing.T) {
	server := servertest.Redis(t, servers.RedisOptions{})
	a := startInstance(t, server.Addr(), server.Password(), "x")
	b := startInstance(t, server.Addr(), server.Password(), "x")
	ra, rb := a.rates(t, limit.Rate{PerSecond: 0.01, Burst: 100}, false), b.rates(t, limit.Rate{PerSecond: 0.01, Burst: 100}, false)
	ra.Spend("demo", 150)
	eventually(t, "the other is refused", func() bool { rb.Spend("demo", 0); return !rb.Allow("demo").Allowed })
	if err := server.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are allowed again", func() bool { return ra.Allow("demo").Allowed && rb.Allow("demo").Allowed })
	rb.Spend("demo", 150)
	eventually(t, "both are refused again", func() bool { return !ra.Allow("demo").Allowed && !rb.Allow("demo").Allowed })
	if n := a.log.count("level="); n != 0 {
		t.Errorf("%d lines in the log; a flush is nothing that an instance notices", n)
	}
}

func TestWithoutRedisEveryInstanceAppliesItsPart(t *testing.T) {
	for _, c := range []struct {
		name      string
		away      func(*servers.Redis) error
		comesBack func(*servers.Redis) error
	}{
		{"paused", (*servers.Redis).Pause, (*servers.Redis).Resume},
		{"gone", (*servers.Redis).Kill, func(s *servers.Redis) error { return s.Restart(context.Background()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := servertest.Redis(t, servers.RedisOptions{})
			all := three(t, server)
			rates := make([]*limit.Rates, 3)
			for i, in := range all {
				rates[i] = in.rates(t, limit.Rate{PerSecond: 3000, Burst: 1500}, i == 2)
			}
			if err := c.away(server); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all notice", func() bool {
				for i, in := range all {
					began := time.Now()
					rates[i].Allow("other")
					// An exact decision waits for 50 ms; the others for nothing.
					if took := time.Since(began); took > time.Second {
						t.Fatalf("instance %d: a decision took %s", i, took)
					}
					if !in.syncer.Degraded() {
						return false
					}
				}
				return true
			})
			// Each lets through a third.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			var offering sync.WaitGroup
			began := time.Now()
			var admitted [3]int64
			for i, r := range rates {
				offering.Go(func() { admitted[i] = offer(ctx, r, 10, 9000) })
			}
			offering.Wait()
			took := time.Since(began).Seconds()
			for i, got := range admitted {
				if want := 500 + 1000*took; float64(got) > want+50 || float64(got) < want*0.9 {
					t.Errorf("instance %d let %d through in %.2f s, want a third: %.0f", i, got, took, want)
				}
				if n := all[i].log.count("limits are no longer shared"); n != 1 {
					t.Errorf("instance %d says so %d times, want once", i, n)
				}
				if n, err := testutil.GatherAndCount(all[i].reg, "millrace_limit_degraded_decisions_total"); n != 1 || err != nil {
					t.Errorf("instance %d counts no degraded decisions: %v", i, err)
				}
			}
			if err := c.comesBack(server); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all are back", func() bool {
				return !all[0].syncer.Degraded() && !all[1].syncer.Degraded() && !all[2].syncer.Degraded()
			})
			// One has the whole rate again, and is charged for nothing of the outage.
			ctx, cancel = context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			began = time.Now()
			got := offer(ctx, rates[0], 10, 9000)
			took = time.Since(began).Seconds()
			if want := 3000 * took; float64(got) < want*0.9 || float64(got) > (want+1500+3000*0.7)*1.02 {
				t.Errorf("after it, one let %d through in %.2f s, want %.0f and at most a burst", got, took, want)
			}
			for i, in := range all {
				if n := in.log.count("limits are shared among the instances again"); n != 1 {
					t.Errorf("instance %d says %d times that it is back, want once", i, n)
				}
			}
		})
	}
}

// A reply that is lost leaves open whether the spending counted. It does, once.
func TestWhatWasSpentCountsOnceThoughTheReplyIsLost(t *testing.T) {
	server := shared.Redis(t)
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: server.Addr()})
	a := startInstance(t, proxy.Addr(), server.Password(), t.Name())
	b := startInstance(t, server.Addr(), server.Password(), t.Name())
	rate := limit.Rate{PerSecond: 0.02, Burst: 1000}
	ra, rb := a.rates(t, rate, false), b.rates(t, rate, false)
	ra.Spend("demo", 100)
	eventually(t, "the first hundred counts", func() bool { rb.Spend("demo", 0); return rb.Allow("demo").Remaining == 900 })
	fault := proxy.LoseReply(func(sent []byte) bool { return bytes.Contains(sent, []byte(":b:events:demo")) })
	ra.Spend("demo", 200)
	select {
	case <-fault.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("no exchange lost its reply")
	}
	ra.Spend("demo", 50)
	eventually(t, "both show 650", func() bool {
		return ra.Allow("demo").Remaining == 650 && rb.Allow("demo").Remaining == 650
	})
}

func BenchmarkExchange(b *testing.B) {
	for _, keys := range []int{1, 1000, 4096} {
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			r := connectTo(b, shared.Redis(b), nil)
			entries := make([]limit.Entry, keys)
			total := int64(0)
			for b.Loop() {
				total += int64(time.Microsecond)
				for i := range entries {
					entries[i] = limit.Entry{Limit: "events", Key: fmt.Sprint("tenant-", i), Total: total, From: total - int64(time.Microsecond)}
				}
				if err := r.Exchange(context.Background(), "a", entries); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(keys), "µs/key")
		})
	}
	b.Run("one exact decision", func(b *testing.B) {
		r := connectTo(b, shared.Redis(b), nil)
		if _, err := r.Beat(context.Background(), "a", time.Second); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			e := limit.Entry{Limit: "orders", Key: "demo", Cost: 1, Bound: 1 << 50}
			if err := r.Take(context.Background(), &e); err != nil {
				b.Fatal(err)
			}
		}
	})
}
