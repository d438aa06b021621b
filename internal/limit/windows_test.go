package limit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAQuotaHoldsInASlidingWindow(t *testing.T) {
	clk := &clock{} // at the beginning of an hour
	w := testWindows(t, WindowsOptions{Name: "events-quota", Default: Quota{Limit: 1000, Window: time.Hour}, Now: clk.Now})
	policy := `"events-quota";q=1000;w=3600`
	steps := []struct {
		name    string
		advance time.Duration
		spend   int64 // -1 asks Allow instead
		want    Decision
	}{
		{"a new key has all of its quota", 0, -1, Decision{Allowed: true, Limit: 1000, Remaining: 1000, Policy: policy}},
		{"spending takes from it", 0, 400, Decision{Allowed: true, Limit: 1000, Remaining: 600, Reset: 2 * time.Hour, Policy: policy}},
		{"within the window nothing comes back", 30 * time.Minute, -1, Decision{Allowed: true, Limit: 1000, Remaining: 600, Reset: 90 * time.Minute, Policy: policy}},
		{"the request that uses it up may go beyond", 0, 700, Decision{Limit: 1000, Reset: 90 * time.Minute, RetryAfter: 30*time.Minute + time.Hour - 1000*time.Hour/1100 + time.Nanosecond, Policy: policy}},
		{"in the next window it comes back evenly", time.Hour, -1, Decision{Allowed: true, Limit: 1000, Remaining: 450, Reset: 30 * time.Minute, Policy: policy}},
		{"what is spent now counts in full", 0, 450, Decision{Limit: 1000, Reset: 90 * time.Minute, RetryAfter: time.Nanosecond, Policy: policy}},
		{"and a moment later there is room again", 6 * time.Minute, -1, Decision{Allowed: true, Limit: 1000, Remaining: 110, Reset: 84 * time.Minute, Policy: policy}},
		{"after two windows all is back", 2 * time.Hour, -1, Decision{Allowed: true, Limit: 1000, Remaining: 1000, Policy: policy}},
		{"spending nothing takes nothing", 0, 0, Decision{Allowed: true, Limit: 1000, Remaining: 1000, Policy: policy}},
	}
	for _, s := range steps {
		clk.Advance(s.advance)
		var got Decision
		if s.spend < 0 {
			got = w.Allow("demo")
		} else {
			got = w.Spend("demo", s.spend)
		}
		// The times are exact to the rounding of a double.
		if (got.RetryAfter - s.want.RetryAfter).Abs() < 2*time.Microsecond {
			got.RetryAfter = s.want.RetryAfter
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}

// RetryAfter is a promise: not before, and then really.
func TestWhoWaitsForRetryAfterIsAllowed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		clk := &clock{}
		clk.Advance(time.Duration(random.Int64N(int64(time.Hour))))
		w := testWindows(t, WindowsOptions{Default: Quota{Limit: 1 + random.Int64N(1000), Window: time.Minute}, Now: clk.Now})
		for range 20 {
			w.Spend("demo", random.Int64N(500))
			clk.Advance(time.Duration(random.Int64N(int64(40 * time.Second))))
			d := w.Allow("demo")
			if d.Allowed {
				continue
			}
			clk.Advance(d.RetryAfter - 2*time.Microsecond)
			if d.RetryAfter > time.Millisecond && w.Allow("demo").Allowed {
				t.Fatalf("allowed before RetryAfter of %s", d.RetryAfter)
			}
			clk.Advance(4 * time.Microsecond)
			if now := w.Allow("demo"); !now.Allowed {
				t.Fatalf("refused after RetryAfter of %s: %+v", d.RetryAfter, now)
			}
		}
	}
}

// What the package comment says of the sliding window counter's error.
func TestAWindowsErrorIsBounded(t *testing.T) {
	const limit = 600
	for name, c := range map[string]struct {
		tick func(i int) bool // spends as much as it may in this second
		most int64            // in any window
	}{
		"even traffic":                         {func(i int) bool { return true }, limit * 105 / 100},
		"at the end of one, late in the other": {func(i int) bool { return i%60 == 59 }, 2 * limit},
		"in the middle":                        {func(i int) bool { return i%60 == 30 }, limit},
	} {
		t.Run(name, func(t *testing.T) {
			clk := &clock{}
			w := testWindows(t, WindowsOptions{Default: Quota{Limit: limit, Window: time.Minute}, Now: clk.Now})
			var each [600]int64
			for i := range each {
				if c.tick(i) {
					// Evenly as far as it can: at most twice its share in one second.
					most := int64(limit)
					if name == "even traffic" {
						most = limit / 30
					}
					each[i] = spendUntilRefused(w, 1, most)
				}
				clk.Advance(time.Second)
			}
			for from := 0; from+60 <= len(each); from++ {
				sum := int64(0)
				for _, n := range each[from : from+60] {
					sum += n
				}
				if sum > c.most {
					t.Fatalf("%d in the minute from second %d, want at most %d", sum, from, c.most)
				}
			}
		})
	}
}

func TestTheNumberOfCountersIsBounded(t *testing.T) {
	clk := &clock{}
	w := testWindows(t, WindowsOptions{
		Default: Quota{Limit: 10, Window: time.Minute}, MaxKeys: 100, Now: clk.Now,
		PerKey: map[string]Quota{"vip": {Limit: 50, Window: time.Minute}, "free": {}},
	})
	for i := range 100 {
		w.Spend(fmt.Sprint("key", i), 5)
	}
	w.Spend("late-1", 8)
	if d := w.Spend("late-2", 4); d.Allowed || w.Allow("late-3").Allowed {
		t.Errorf("keys that do not fit do not share a counter: %+v", d)
	}
	if d := w.Spend("vip", 5); d.Remaining != 45 {
		t.Errorf("a key with a quota of its own is held to the shared one: %+v", d)
	}
	if d := w.Spend("free", math.MaxInt64); !d.Allowed || d.Limit != 0 {
		t.Errorf("a key without a quota: %+v", d)
	}
	if n := w.Keys(); n != 101 {
		t.Errorf("%d keys, want 100 and the one with its own quota", n)
	}
	clk.Advance(2 * time.Minute)
	w.Spend("key7", 1)
	if d := w.Spend("new", 1); d.Remaining != 9 || w.Keys() != 2 {
		t.Errorf("a new key has no counter of its own: %+v, %d keys", d, w.Keys())
	}
}

func TestConcurrentCountingAddsUp(t *testing.T) {
	clk := &clock{}
	w := testWindows(t, WindowsOptions{Default: Quota{Limit: 80_000, Window: time.Hour}, Now: clk.Now, MaxKeys: 2})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5000 {
				w.Spend("demo", 1)
				w.Spend(fmt.Sprint("other", i), 0)
			}
		})
	}
	wg.Wait()
	if d := w.Allow("demo"); d.Remaining != 40_000 {
		t.Errorf("%d left of 80000 after spending 40000", d.Remaining)
	}
}

func TestQuotasThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := NewWindows(WindowsOptions{
		Name: "a b", Default: Quota{Limit: -1, Window: time.Hour}, MaxKeys: -1, Exact: true,
		PerKey: map[string]Quota{"short": {Limit: 1, Window: time.Millisecond}, "long": {Limit: 1, Window: 1000 * time.Hour}, "large": {Limit: math.MaxInt64, Window: time.Hour}, "good": {Limit: 1, Window: time.Hour}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"the name", "default quota", `"short"`, `"long"`, `"large"`, "-1 keys", "configure Redis"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error says nothing of %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "good") {
		t.Errorf("a good quota is refused:\n%v", err)
	}
}

func TestPoliciesHoldToBoth(t *testing.T) {
	clk := &clock{}
	rates := testRates(t, RatesOptions{Name: "events", Default: Rate{PerSecond: 10, Burst: 20}, Now: clk.Now})
	quota := testWindows(t, WindowsOptions{Name: "events-quota", Default: Quota{Limit: 50, Window: time.Hour}, Now: clk.Now, PerKey: map[string]Quota{"free": {}}})
	p := NewPolicies(rates, quota)
	d := p.Spend("demo", 25)
	if d.Allowed || d.QuotaUsed() || d.RetryAfter != 500*time.Millisecond {
		t.Errorf("over the rate: %+v", d)
	}
	if got, want := string(d.AppendRateLimit(nil)), `"events";r=0;t=3, "events-quota";r=25;t=7200`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := d.PolicyHeader(), `"events";q=20;w=2, "events-quota";q=50;w=3600`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if d := p.Allow("demo"); d.Allowed || d.Quota.Remaining != 25 {
		t.Errorf("over the rate: %+v", d)
	}
	clk.Advance(10 * time.Second)
	if d := p.Allow("demo"); !d.Allowed || d.Quota.Window != time.Hour {
		t.Errorf("within both: %+v", d)
	}
	p.Spend("demo", 25)
	clk.Advance(10 * time.Second)
	if d := p.Allow("demo"); d.Allowed || !d.QuotaUsed() || d.RetryAfter < 30*time.Minute || d.Remaining != 20 {
		t.Errorf("over the quota: %+v", d)
	}
	if d := p.Spend("free", 5); d.Quota.Limit != 0 || string(d.AppendRateLimit(nil)) != `"events";r=15;t=1` || !d.Limited() {
		t.Errorf("without a quota: %+v", d)
	}
	alone := NewPolicies(testRates(t, RatesOptions{}), quota)
	if d := alone.Allow("other"); d.PolicyHeader() != `"events-quota";q=50;w=3600` || string(d.AppendRateLimit(nil)) != `"events-quota";r=50;t=0` || !d.Limited() {
		t.Errorf("a quota alone: %+v", d)
	}
	if d := NewPolicies(testRates(t, RatesOptions{}), testWindows(t, WindowsOptions{})).Spend("demo", 5); d.Limited() || !d.Allowed {
		t.Errorf("without any limit: %+v", d)
	}
}
