package httpapi

import (
	"strings"
	"testing"
	"time"

	"millrace/internal/limit"
)

// quotaDecision is a decision of a rate and a quota together.
func quotaDecision(rateLeft, quotaLeft int64) limit.Decision {
	return limit.Decision{
		Allowed: rateLeft > 0 && quotaLeft > 0, Limit: 100, Remaining: rateLeft, Reset: time.Second, RetryAfter: 90 * time.Second, Policy: `"events";q=100;w=2`,
		Quota: limit.Standing{Allowed: quotaLeft > 0, Limit: 5000, Remaining: quotaLeft, Window: time.Hour, Reset: time.Minute, Policy: `"events-quota";q=5000;w=3600`},
	}
}

func TestTheAnswerTellsWhichLimitIsUsedUp(t *testing.T) {
	for _, c := range []struct {
		name      string
		decision  limit.Decision
		detail    string
		remaining string
	}{
		{"the rate", quotaDecision(0, 7), "its rate of events", `"events";r=0;t=1, "events-quota";r=7;t=60`},
		{"the quota", quotaDecision(7, 0), "its quota of 5000 events in any 1h0m0s", `"events";r=7;t=1, "events-quota";r=0;t=60`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, func(o *Options) { o.Rates = &fakeRates{decision: c.decision} })
			w := f.call("POST", "/events", `[{"type":"a"}]`)
			if p := wantProblem(t, w, 429, "rate-limited"); !strings.Contains(p.Detail, c.detail) || p.RetryAfter != 90 {
				t.Errorf("got detail %q and retryAfter %d", p.Detail, p.RetryAfter)
			}
			if got := w.Header().Get("RateLimit"); got != c.remaining {
				t.Errorf("got RateLimit %s, want %s", got, c.remaining)
			}
			if got, want := w.Header().Get("RateLimit-Policy"), `"events";q=100;w=2, "events-quota";q=5000;w=3600`; got != want {
				t.Errorf("got RateLimit-Policy %s, want %s", got, want)
			}
		})
	}
}

// countingRates counts how its methods are called.
type countingRates struct {
	allowed int
	spent   []int64
}

func (c *countingRates) Allow(string) limit.Decision {
	c.allowed++
	return limit.Decision{Allowed: true}
}

func (c *countingRates) Spend(_ string, n int64) limit.Decision {
	c.spent = append(c.spent, n)
	return limit.Decision{Allowed: true}
}

// An exact limit takes a unit when it allows. Who cannot sign must not be able to
// use a tenant's up.
func TestADeliveryThatIsNotTheTenantsCostsItNothing(t *testing.T) {
	rates := &countingRates{}
	f := newFixture(t, func(o *Options) {
		o.Rates = rates
		o.HookTenant = func(string) (string, bool) { return "shop", true }
	})
	wantProblem(t, f.call("POST", "/hooks/github", `{}`, "X-Hub-Signature-256", "bad"), 401, "webhook-unverified")
	wantProblem(t, f.call("POST", "/hooks/github", strings.Repeat(" ", 2<<20)), 413, "body-too-large")
	if rates.allowed != 2 || len(rates.spent) != 2 || rates.spent[0] != 0 || rates.spent[1] != 0 {
		t.Errorf("allowed %d times, and spent %v; want twice, and nothing for each", rates.allowed, rates.spent)
	}
}
