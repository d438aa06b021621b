package payment_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/payment"
)

var errTransport = errors.New("connection reset by peer")

// scripted is a provider whose every operation is answered by one function.
type scripted struct {
	calls  atomic.Int64
	answer func(ctx context.Context, n int64) error
}

func (s *scripted) do(ctx context.Context) (payment.Charge, error) {
	if err := s.answer(ctx, s.calls.Add(1)); err != nil {
		return payment.Charge{}, err
	}
	return payment.Charge{State: payment.StateCaptured, Captured: 999}, nil
}

func (s *scripted) Charge(ctx context.Context, _ payment.Request) (payment.Charge, error) {
	return s.do(ctx)
}

func (s *scripted) Lookup(ctx context.Context, _ payment.Request) (payment.Charge, error) {
	return s.do(ctx)
}

func (s *scripted) Void(ctx context.Context, _ payment.Request) (payment.Charge, error) {
	return s.do(ctx)
}

func (s *scripted) Refund(ctx context.Context, _ payment.RefundRequest) (payment.Refund, error) {
	_, err := s.do(ctx)
	return payment.Refund{}, err
}

func answering(errs ...error) *scripted {
	return &scripted{answer: func(_ context.Context, n int64) error { return errs[min(int(n), len(errs))-1] }}
}

func guard(t testing.TB, p payment.Provider, o payment.GuardOptions) *payment.Guard {
	t.Helper()
	g, err := payment.NewGuard(p, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func charge(g *payment.Guard) error {
	_, err := g.Charge(context.Background(), payment.Request{})
	return err
}

func TestAGuardRetriesOnlyWhatSaysNothingAboutTheOutcome(t *testing.T) {
	for _, c := range []struct {
		name  string
		errs  []error
		calls int64
		want  error
	}{
		{"an answer is the end", []error{nil}, 1, nil},
		{"a transport error is tried again", []error{errTransport, errTransport, nil}, 3, nil},
		{"no more often than told", []error{errTransport}, 3, errTransport},
		{"a refusal is an answer", []error{&payment.RejectedError{Code: "invalid_token"}}, 1, &payment.RejectedError{Code: "invalid_token"}},
		{"what was not sent is the caller's to repeat", []error{&payment.UnavailableError{Cause: "closed"}}, 1, payment.ErrUnavailable},
		{"a provider's own timeout is to be looked up", []error{context.DeadlineExceeded}, 1, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := answering(c.errs...)
				err := charge(guard(t, p, payment.GuardOptions{}))
				var rejected *payment.RejectedError
				if !errors.Is(err, c.want) && !(errors.As(c.want, &rejected) && errors.As(err, &rejected)) {
					t.Errorf("got error %v, want %v", err, c.want)
				}
				if n := p.calls.Load(); n != c.calls {
					t.Errorf("the provider was called %d times, want %d", n, c.calls)
				}
			})
		})
	}
}

func TestThePauseBeforeARetryIsJitteredAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		p := &scripted{answer: func(context.Context, int64) error { times = append(times, time.Now()); return errTransport }}
		g := guard(t, p, payment.GuardOptions{MaxRetries: 3, RetryBase: 100 * time.Millisecond, RetryMax: 300 * time.Millisecond,
			RetryBurst: 1e6, MinCalls: 1e6})
		bounds := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond}
		longest, shortest := make([]time.Duration, 3), []time.Duration{time.Hour, time.Hour, time.Hour}
		for range 200 {
			times = nil
			if err := charge(g); !errors.Is(err, errTransport) {
				t.Fatal(err)
			}
			for i := range bounds {
				longest[i] = max(longest[i], times[i+1].Sub(times[i]))
				shortest[i] = min(shortest[i], times[i+1].Sub(times[i]))
			}
		}
		for i, bound := range bounds {
			if longest[i] > bound || longest[i] < bound*8/10 || shortest[i] > bound*2/10 {
				t.Errorf("200 pauses before retry %d are from %v to %v, want nearly from 0 to %v", i+1, shortest[i], longest[i], bound)
			}
		}
	})
}

func TestRetriesAreATenthOfTheCallsAndABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := answering(errTransport)
		g := guard(t, p, payment.GuardOptions{RetryBurst: 5, MinCalls: 1e6})
		const calls = 1000
		for range calls {
			if err := charge(g); !errors.Is(err, errTransport) {
				t.Fatal(err)
			}
		}
		retries := p.calls.Load() - calls
		if retries < calls/10 || retries > calls/10+5 {
			t.Errorf("%d retries for %d calls, want a tenth and at most 5 more", retries, calls)
		}
	})
}

func TestACallEndsWithItsDeadlineEvenIfTheProviderNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answer: func(ctx context.Context, _ int64) error { <-ctx.Done(); return context.Cause(ctx) }}
		g := guard(t, p, payment.GuardOptions{})
		started := time.Now()
		err := charge(g)
		if took := time.Since(started); took != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended after %v with %v", took, err)
		}
		if errors.Is(err, payment.ErrUnavailable) || p.calls.Load() != 1 {
			t.Errorf("a timeout was reported as not sent, or sent %d times: %v", p.calls.Load(), err)
		}
	})
}

func TestARetryThatWouldMissTheDeadlineIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answer: func(context.Context, int64) error { time.Sleep(9999 * time.Millisecond); return errTransport }}
		g := guard(t, p, payment.GuardOptions{RetryBase: time.Hour, RetryMax: time.Hour, MaxRetries: 1})
		started := time.Now()
		// One pause in millions is shorter than the millisecond that is left.
		if err := charge(g); !errors.Is(err, errTransport) {
			t.Error(err)
		}
		if took := time.Since(started); took != 9999*time.Millisecond {
			t.Errorf("it waited until %v for a retry that had no time left", took)
		}
	})
}

func TestABulkheadBoundsTheCallsAndTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &scripted{answer: func(context.Context, int64) error { <-release; return nil }}
		reg := prometheus.NewRegistry()
		g := guard(t, p, payment.GuardOptions{MaxConcurrent: 3, MaxWait: 200 * time.Millisecond, Metrics: payment.NewMetrics(reg)})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := charge(g); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		started := time.Now()
		err := charge(g)
		var unavailable *payment.UnavailableError
		if !errors.As(err, &unavailable) || !strings.Contains(err.Error(), "no place was free among 3") {
			t.Errorf("the fourth call got %v", err)
		}
		if waited := time.Since(started); waited != 200*time.Millisecond {
			t.Errorf("it waited %v for a place", waited)
		}
		if n := p.calls.Load(); n != 3 {
			t.Errorf("the provider got %d calls", n)
		}
		wantMetrics(t, reg, `
# HELP millrace_payment_bulkhead_in_use Calls that hold a place of the bulkhead.
# TYPE millrace_payment_bulkhead_in_use gauge
millrace_payment_bulkhead_in_use 3
`, "millrace_payment_bulkhead_in_use")
		waiting := make(chan error)
		go func() { waiting <- charge(g) }()
		synctest.Wait()
		close(release)
		if err := <-waiting; err != nil {
			t.Errorf("a call that waited did not get the place that came free: %v", err)
		}
		wg.Wait()
	})
}

func TestTheBreakerOpensAtTheFailureRateAndClosesAfterProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		p := &scripted{answer: func(context.Context, int64) error {
			if down.Load() {
				return errTransport
			}
			return nil
		}}
		reg := prometheus.NewRegistry()
		g := guard(t, p, payment.GuardOptions{MaxRetries: -1, MinCalls: 10, OpenFor: 15 * time.Second, Probes: 2, Metrics: payment.NewMetrics(reg)})
		for range 5 {
			mustCharge(t, g)
		}
		down.Store(true)
		for i := range 5 {
			if ok, _ := g.Available(); !ok {
				t.Fatalf("it opened after %d failures of %d calls", i, 5+i)
			}
			if err := charge(g); !errors.Is(err, errTransport) {
				t.Fatal(err)
			}
		}
		if ok, after := g.Available(); ok || after != 15*time.Second {
			t.Fatalf("after 5 failures of 10 calls: available %v, retry after %v", ok, after)
		}
		sent := p.calls.Load()
		time.Sleep(5 * time.Second)
		var unavailable *payment.UnavailableError
		if err := charge(g); !errors.As(err, &unavailable) || unavailable.RetryAfter != 10*time.Second {
			t.Fatalf("an open breaker said %v", err)
		}
		if p.calls.Load() != sent {
			t.Fatal("an open breaker let a call through")
		}
		time.Sleep(10 * time.Second)
		if ok, _ := g.Available(); !ok {
			t.Fatal("not available when the pause was over")
		}
		if err := charge(g); !errors.Is(err, errTransport) { // the probe fails
			t.Fatal(err)
		}
		if ok, _ := g.Available(); ok {
			t.Fatal("a failed probe did not open it again")
		}
		down.Store(false)
		time.Sleep(15 * time.Second)
		mustCharge(t, g)
		wantBreaker(t, reg, "1")
		mustCharge(t, g)
		wantBreaker(t, reg, "0")
	})
}

func TestOnlyTheProbesGoToAProviderThatMayBeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := &scripted{answer: func(_ context.Context, n int64) error {
			if n <= 4 {
				return errTransport
			}
			<-release
			return nil
		}}
		g := guard(t, p, payment.GuardOptions{MaxRetries: -1, MinCalls: 4, Probes: 2, OpenFor: time.Second})
		for range 4 {
			_ = charge(g)
		}
		time.Sleep(time.Second)
		errs := make(chan error, 10)
		for range 10 {
			go func() { errs <- charge(g) }()
		}
		synctest.Wait()
		if n := p.calls.Load(); n != 4+2 {
			t.Errorf("%d calls went out at once, want 2", n-4)
		}
		close(release)
		refused := 0
		for range 10 {
			if errors.Is(<-errs, payment.ErrUnavailable) {
				refused++
			}
		}
		if refused != 8 {
			t.Errorf("%d were refused, want 8", refused)
		}
	})
}

func TestNobodyWaitsForAPlaceBehindAnOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answer: func(ctx context.Context, n int64) error {
			if n == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return errTransport
		}}
		g := guard(t, p, payment.GuardOptions{MaxConcurrent: 2, MaxRetries: 1, RetryBase: 5 * time.Second, RetryMax: 5 * time.Second, MinCalls: 1})
		var wg sync.WaitGroup
		wg.Go(func() { _ = charge(g) }) // hangs
		synctest.Wait()
		wg.Go(func() { _ = charge(g) }) // opens the breaker, and pauses before its retry
		synctest.Wait()
		started := time.Now()
		if err := charge(g); !errors.Is(err, payment.ErrUnavailable) || time.Since(started) != 0 {
			t.Errorf("got %v after %v", err, time.Since(started))
		}
		wg.Wait()
	})
}

func TestDeclinesRefusalsAndCallersWhoLeaveDoNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := answering(&payment.RejectedError{Code: "invalid_token"})
		g := guard(t, p, payment.GuardOptions{MinCalls: 5})
		for range 50 {
			_ = charge(g)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		p.answer = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
		for range 50 {
			ctx, leave := context.WithCancel(context.Background())
			time.AfterFunc(time.Millisecond, leave)
			if _, err := g.Charge(ctx, payment.Request{}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if _, err := g.Charge(ctx, payment.Request{}); err == nil {
			t.Error("a call with an ended context succeeded")
		}
		if ok, _ := g.Available(); !ok {
			t.Error("the breaker opened")
		}
	})
}

func TestACallOfWhichSomethingWasSentIsNeverReportedAsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The first attempt is the one that opens the breaker, so its retry is refused.
		p := answering(errTransport)
		g := guard(t, p, payment.GuardOptions{MinCalls: 1})
		err := charge(g)
		if errors.Is(err, payment.ErrUnavailable) || !errors.Is(err, errTransport) {
			t.Errorf("got %v, want the transport error", err)
		}
		if err := charge(g); !errors.Is(err, payment.ErrUnavailable) {
			t.Errorf("the next call got %v, want ErrUnavailable", err)
		}
		if n := p.calls.Load(); n != 1 {
			t.Errorf("%d calls were sent", n)
		}
	})
}

func TestAPanickingProviderLosesNoPlaceAndNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &scripted{answer: func(_ context.Context, n int64) error {
			switch n {
			case 1:
				return errTransport // opens the breaker
			case 2, 3:
				panic("boom") // a probe
			}
			return nil
		}}
		g := guard(t, p, payment.GuardOptions{MaxConcurrent: 1, MaxRetries: -1, MinCalls: 1, Probes: 1, OpenFor: time.Second})
		for range 3 {
			func() {
				defer func() { _ = recover() }()
				_ = charge(g)
			}()
			time.Sleep(time.Second)
		}
		mustCharge(t, g)
	})
}

func TestCallsAreCountedByOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		p := answering(nil, &payment.RejectedError{}, errTransport, context.DeadlineExceeded, &payment.UnavailableError{})
		g := guard(t, p, payment.GuardOptions{MaxRetries: -1, Metrics: payment.NewMetrics(reg)})
		for range 5 {
			_ = charge(g)
		}
		wantMetrics(t, reg, `
# HELP millrace_payment_calls_total Guarded calls to the payment provider, retries within a call not counted, by operation and outcome (ok, declined, rejected, unavailable: nothing was sent, unknown, canceled: the caller left).
# TYPE millrace_payment_calls_total counter
millrace_payment_calls_total{op="charge",outcome="ok"} 1
millrace_payment_calls_total{op="charge",outcome="rejected"} 1
millrace_payment_calls_total{op="charge",outcome="unavailable"} 1
millrace_payment_calls_total{op="charge",outcome="unknown"} 2
`, "millrace_payment_calls_total")
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, o := range map[string]payment.GuardOptions{
		"a negative timeout":          {Timeout: -1},
		"no places":                   {MaxConcurrent: -1},
		"a failure rate above one":    {FailureRate: 1.5},
		"a window too short to count": {Window: time.Millisecond},
		"a share above one":           {RetryShare: 2},
	} {
		if _, err := payment.NewGuard(answering(nil), o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := payment.NewGuard(nil, payment.GuardOptions{}); err == nil {
		t.Error("no provider was accepted")
	}
}

func TestRequestsAreCheckedBeforeTheyAreSent(t *testing.T) {
	good := payment.Request{TenantID: "demo", OrderID: "o1", Key: "k1", Token: "tok_ok", Amount: 1, Currency: "EUR"}
	with := func(change func(*payment.Request)) payment.Request {
		r := good
		change(&r)
		return r
	}
	for _, c := range []struct {
		name string
		r    payment.Request
		says string
	}{
		{"good", good, ""},
		{"no key", with(func(r *payment.Request) { r.Key = "" }), "the charge's key must have 1 to 200 bytes"},
		{"a long key", with(func(r *payment.Request) { r.Key = strings.Repeat("k", 201) }), "it has 201"},
		{"a key with a space", with(func(r *payment.Request) { r.Key = "a b" }), "byte 1"},
		{"no token", with(func(r *payment.Request) { r.Token = "" }), "the payment token is missing"},
		{"no amount", with(func(r *payment.Request) { r.Amount = 0 }), "at least 1 minor unit"},
		{"a lower-case currency", with(func(r *payment.Request) { r.Currency = "eur" }), "upper-case ISO 4217"},
		{"a broken order id", with(func(r *payment.Request) { r.OrderID = "o\xff" }), "the order id is not valid UTF-8"},
		{"a long tenant", with(func(r *payment.Request) { r.TenantID = strings.Repeat("t", 501) }), "more than the 500"},
	} {
		got := ""
		if err := c.r.Validate(); err != nil {
			got = err.Error()
		}
		if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.says)
		}
	}
}

func mustCharge(t *testing.T, g *payment.Guard) {
	t.Helper()
	c, err := g.Charge(context.Background(), payment.Request{})
	if diff := cmp.Diff(payment.Charge{State: payment.StateCaptured, Captured: 999}, c); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
}

func wantBreaker(t *testing.T, reg *prometheus.Registry, state string) {
	t.Helper()
	wantMetrics(t, reg, `
# HELP millrace_payment_breaker_state State of the circuit breaker: 0 closed, 1 half-open, 2 open.
# TYPE millrace_payment_breaker_state gauge
millrace_payment_breaker_state `+state+"\n", "millrace_payment_breaker_state")
}

func wantMetrics(t *testing.T, reg *prometheus.Registry, want string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}
