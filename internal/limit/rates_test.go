package limit

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// clock is a clock that stands still until it is told otherwise.
type clock struct{ ns atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(1_800_000_000, c.ns.Load()) }
func (c *clock) Advance(d time.Duration) { c.ns.Add(int64(d)) }

func testRates(t testing.TB, o RatesOptions) *Rates {
	t.Helper()
	r, err := NewRates(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAKeyIsRefusedOnlyWhileItIsInDebt(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Name: "events", Default: Rate{PerSecond: 100, Burst: 200}, Now: clk.Now})
	policy := `"events";q=200;w=2`
	steps := []struct {
		name    string
		advance time.Duration
		spend   int64 // -1 asks Allow instead
		want    Decision
	}{
		{"a new key has all of its burst", 0, -1, Decision{Allowed: true, Limit: 200, Remaining: 200, Policy: policy}},
		{"spending takes from it", 0, 150, Decision{Allowed: true, Limit: 200, Remaining: 50, Reset: 1500 * time.Millisecond, Policy: policy}},
		{"with little left a request is still allowed", 0, -1, Decision{Allowed: true, Limit: 200, Remaining: 50, Reset: 1500 * time.Millisecond, Policy: policy}},
		{"and it leads into debt", 0, 100, Decision{Limit: 200, Reset: 2500 * time.Millisecond, RetryAfter: 500 * time.Millisecond, Policy: policy}},
		{"in debt it is refused", 0, -1, Decision{Limit: 200, Reset: 2500 * time.Millisecond, RetryAfter: 500 * time.Millisecond, Policy: policy}},
		{"almost out of debt it is refused still", 499 * time.Millisecond, -1, Decision{Limit: 200, Reset: 2001 * time.Millisecond, RetryAfter: time.Millisecond, Policy: policy}},
		{"out of debt it is allowed", time.Millisecond, -1, Decision{Allowed: true, Limit: 200, Reset: 2 * time.Second, Policy: policy}},
		{"time gives back at the rate", time.Second, -1, Decision{Allowed: true, Limit: 200, Remaining: 100, Reset: time.Second, Policy: policy}},
		{"and never more than the burst", time.Hour, -1, Decision{Allowed: true, Limit: 200, Remaining: 200, Policy: policy}},
		{"spending nothing takes nothing", 0, 0, Decision{Allowed: true, Limit: 200, Remaining: 200, Policy: policy}},
	}
	for _, s := range steps {
		clk.Advance(s.advance)
		var got Decision
		if s.spend < 0 {
			got = r.Allow("demo")
		} else {
			got = r.Spend("demo", s.spend)
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", s.name, diff)
		}
	}
	if d := r.Spend("demo", -5); d.Remaining != 200 {
		t.Errorf("spending less than nothing leaves %d, want 200", d.Remaining)
	}
}

func TestOverTimeAKeyGetsExactlyItsRate(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 7, 1000, 50_000, 333_333} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			clk := &clock{}
			burst := max(100, int64(rate/10)) // ten times what a step of the clock gives back
			r := testRates(t, RatesOptions{Default: Rate{PerSecond: rate, Burst: burst}, Now: clk.Now})
			var spent int64
			const batch = 100
			seconds := 1000.0
			if rate > 1000 {
				seconds = 20 // as many batches, in less time
			}
			for range int(seconds) * 100 {
				clk.Advance(10 * time.Millisecond)
				for r.Allow("demo").Allowed {
					r.Spend("demo", batch)
					spent += batch
				}
			}
			// What a key starts with, and the one batch it may owe, come on top.
			if want := rate * seconds; float64(spent) < want || float64(spent) > want*1.0001+float64(burst+2*batch) {
				t.Errorf("spent %d in %.0f s, want %.0f", spent, seconds, want)
			}
		})
	}
}

func TestKeysDoNotTouchEachOther(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{
		Default: Rate{PerSecond: 10},
		PerKey:  map[string]Rate{"big": {PerSecond: 1000}, "free": {}},
		Now:     clk.Now,
	})
	r.Spend("small", 1000)
	if r.Allow("small").Allowed {
		t.Error("a key in debt is allowed")
	}
	if d := r.Allow("other"); !d.Allowed || d.Limit != 20 {
		t.Errorf("a key beside it: got %+v, want two seconds' worth of 10", d)
	}
	if d := r.Spend("big", 1000); !d.Allowed || d.Limit != 2000 || d.Remaining != 1000 {
		t.Errorf("a key with a rate of its own: got %+v", d)
	}
	if diff := cmp.Diff(Decision{Allowed: true}, r.Spend("free", math.MaxInt64)); diff != "" {
		t.Errorf("a key without a limit (-want +got):\n%s", diff)
	}
}

func TestWithoutALimitNothingIsKept(t *testing.T) {
	r := testRates(t, RatesOptions{})
	d := r.Spend("demo", 1_000_000)
	if !d.Allowed || !r.Allow("demo").Allowed || r.Keys() != 0 {
		t.Errorf("got %+v and %d keys", d, r.Keys())
	}
	if h := d.AppendRateLimit(nil); len(h) != 0 {
		t.Errorf("got header %q, want none", h)
	}
}

func TestAHugePriceDoesNotOverflow(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Default: Rate{PerSecond: 0.01, Burst: 1}, Now: clk.Now})
	for range 3 {
		if d := r.Spend("demo", math.MaxInt64); d.Allowed || d.RetryAfter <= 0 || d.RetryAfter > 4*maxDebtTime {
			t.Fatalf("got %+v, want a refusal for a bounded time", d)
		}
	}
	clk.Advance(4 * maxDebtTime)
	if !r.Allow("demo").Allowed {
		t.Error("refused for ever")
	}
}

func TestTheNumberOfKeysIsBounded(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{
		Default: Rate{PerSecond: 1, Burst: 10}, MaxKeys: 100, Now: clk.Now,
		PerKey: map[string]Rate{"vip": {PerSecond: 5, Burst: 10}},
	})
	for i := range 100 {
		r.Spend(fmt.Sprint("key", i), 5)
	}
	// No bucket is full, so none can be dropped: further keys share one.
	r.Spend("late-1", 8)
	if d := r.Spend("late-2", 4); d.Allowed {
		t.Errorf("keys that do not fit do not share a bucket: %+v", d)
	}
	if r.Allow("late-3").Allowed {
		t.Error("a key that does not fit is not held to the shared bucket")
	}
	if d := r.Spend("key7", 5); !d.Allowed || d.Remaining != 0 {
		t.Errorf("a key that was there lost what it had spent: %+v", d)
	}
	if !r.Allow("vip").Allowed || r.Spend("vip", 5).Remaining != 5 {
		t.Error("a key with a rate of its own is held to the shared bucket")
	}
	if n := r.Keys(); n != 101 {
		t.Errorf("%d keys, want 100 and the one with its own rate", n)
	}
	// Once buckets are full again, they make room.
	clk.Advance(6 * time.Second)
	if d := r.Spend("new", 1); d.Remaining != 9 {
		t.Errorf("a new key has no bucket of its own: %+v", d)
	}
	if n := r.Keys(); n != 2 {
		t.Errorf("%d keys after the sweep, want key7, which is in use, and the new one", n)
	}
	if d := r.Allow("key7"); d.Remaining != 6 {
		t.Errorf("a bucket in use was dropped: %+v", d)
	}
}

// A bucket may be evicted between the look-up and the spending. What is spent
// then must land in the key's next bucket.
func TestNothingSpentIsLostToEviction(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Default: Rate{PerSecond: 1000, Burst: 10}, Now: clk.Now})
	dying := &bucket{plan: r.def, rates: r}
	dying.fullAt.Store(evicted)
	if _, ok := dying.spend(0, 1, 1); ok {
		t.Error("an evicted bucket can be spent from")
	}
	r.buckets.entries.Store("demo", dying)
	r.buckets.count.Add(1)
	spent := make(chan Decision, 1)
	go func() { spent <- r.Spend("demo", 10) }()
	r.buckets.entries.Delete("demo")
	r.buckets.count.Add(-1)
	if d := <-spent; d.Reset != 10*time.Millisecond {
		t.Errorf("spending says %+v", d)
	}
	if d := r.Allow("demo"); d.Reset != 10*time.Millisecond {
		t.Errorf("spending was lost: %+v", d)
	}
}

func TestKeysAreCountedRightUnderEviction(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Default: Rate{PerSecond: 1000, Burst: 1}, MaxKeys: 4, Now: clk.Now})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				r.Spend(fmt.Sprint("k", (w+i)%8), 10)
				clk.Advance(100 * time.Millisecond)
				if n := r.Keys(); n > 4+8 { // each worker may be about to step back
					t.Errorf("%d keys, want at most 4", n)
					return
				}
			}
		})
	}
	wg.Wait()
	clk.Advance(time.Hour)
	r.buckets.sweep(r.now(), r.evictor(r.now()))
	if n := r.Keys(); n != 0 || r.buckets.entries.Size() != 0 {
		t.Errorf("%d keys by count and %d by size after a sweep of full buckets, want none", n, r.buckets.entries.Size())
	}
}

func TestConcurrentSpendingAddsUp(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Default: Rate{PerSecond: 1, Burst: 80_000}, Now: clk.Now})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				r.Spend("demo", 1)
			}
		})
	}
	wg.Wait()
	if d := r.Allow("demo"); d.Remaining != 40_000 {
		t.Errorf("%d left of 80000 after spending 40000", d.Remaining)
	}
}

func TestHeadersOfADecision(t *testing.T) {
	clk := &clock{}
	r := testRates(t, RatesOptions{Name: "events", Default: Rate{PerSecond: 100, Burst: 250}, Now: clk.Now})
	d := r.Spend("demo", 101)
	if got, want := d.Policy, `"events";q=250;w=3`; got != want {
		t.Errorf("got policy %s, want %s", got, want)
	}
	if got, want := string(d.AppendRateLimit(nil)), `"events";r=149;t=2`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if d.RetryAfterSeconds() != 0 {
		t.Errorf("got Retry-After %d without debt, want 0", d.RetryAfterSeconds())
	}
	d = r.Spend("demo", 150)
	if got := d.RetryAfterSeconds(); got != 1 {
		t.Errorf("got Retry-After %d for 10 ms of debt, want 1", got)
	}
}

func TestRatesThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := NewRates(RatesOptions{
		Name:    `a"b`,
		Default: Rate{PerSecond: math.NaN()},
		PerKey: map[string]Rate{
			"negative": {PerSecond: -1}, "burst": {PerSecond: 1, Burst: -1}, "alone": {Burst: 5},
			"slow": {PerSecond: 1e-9}, "fast": {PerSecond: 2e9}, "good": {PerSecond: 1},
		},
		MaxKeys: -1,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"the name", "default rate", `"negative"`, `"burst"`, `"alone"`, `"slow"`, `"fast"`, "-1 keys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error says nothing of %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "good") {
		t.Errorf("a good rate is refused:\n%v", err)
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	r := testRates(t, RatesOptions{Name: "events", Default: Rate{PerSecond: 1}, Metrics: m})
	b, err := NewBytes("bodies", 100, m)
	if err != nil {
		t.Fatal(err)
	}
	r.Spend("demo", 100)
	r.Allow("demo")
	r.Allow("demo")
	b.TryAcquire(60)
	b.TryAcquire(60)
	want := `
# HELP millrace_limit_bytes_bound The bound of a limit on bytes.
# TYPE millrace_limit_bytes_bound gauge
millrace_limit_bytes_bound{limit="bodies"} 100
# HELP millrace_limit_bytes_in_use What is in use of a limit on bytes.
# TYPE millrace_limit_bytes_in_use gauge
millrace_limit_bytes_in_use{limit="bodies"} 60
# HELP millrace_limit_refusals_total What a limit refused, by limit and kind (rate, quota, bytes, connections).
# TYPE millrace_limit_refusals_total counter
millrace_limit_refusals_total{kind="bytes",limit="bodies"} 1
millrace_limit_refusals_total{kind="rate",limit="events"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestACallAllocatesNothing(t *testing.T) {
	shared, err := NewSyncer(SyncerOptions{Store: newMemory()})
	if err != nil {
		t.Fatal(err)
	}
	var buf [128]byte
	for name, o := range map[string]*Syncer{"alone": nil, "shared": shared} {
		rates := testRates(t, RatesOptions{Default: Rate{PerSecond: 1000}, Shared: o})
		quota := testWindows(t, WindowsOptions{Default: Quota{Limit: 1000, Window: time.Hour}, Shared: o})
		for kind, l := range map[string]limiter{"rate": rates, "quota": quota, "both": NewPolicies(rates, quota)} {
			l.Spend("demo", 1)
			if n := testing.AllocsPerRun(1000, func() {
				l.Allow("demo")
				d := l.Spend("demo", 1)
				d.AppendRateLimit(buf[:0])
			}); n != 0 {
				t.Errorf("%s, %s: %v allocations, want none", kind, name, n)
			}
		}
	}
}
