package payment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// GuardOptions configure a Guard. The zero value gives the defaults.
type GuardOptions struct {
	// Timeout bounds a whole call: waiting for a place, every attempt and the pauses
	// between them. Default 10 s.
	Timeout time.Duration
	// MaxConcurrent is the most calls at one time. Default 64.
	MaxConcurrent int
	// MaxWait is the longest a call waits for a place. Default 1 s.
	MaxWait time.Duration

	// MaxRetries is the most retries of one call. Default 2; negative for none.
	MaxRetries int
	// RetryBase and RetryMax bound the pause before a retry: it is drawn evenly from
	// zero to RetryBase doubled with each retry, at most RetryMax. Default 100 ms, 2 s.
	RetryBase, RetryMax time.Duration
	// RetryShare is how many retries there may be for each call over time, RetryBurst
	// how many more in a moment. Default 0.1 and 10.
	RetryShare, RetryBurst float64

	// FailureRate of at least MinCalls within Window opens the breaker. Default 0.5
	// of 20 within 30 s.
	FailureRate float64
	MinCalls    int
	Window      time.Duration
	// OpenFor is how long the breaker stays open before it lets probes through.
	// Default 15 s.
	OpenFor time.Duration
	// Probes is how many calls must succeed, one after the other, to close it; one
	// failure opens it again. It is also the most probes at one time. Default 3.
	Probes int

	// Logger gets the breaker's changes of state; nil for silence.
	Logger *slog.Logger
	// Metrics count the calls; nil for none.
	Metrics *Metrics
}

// Guard stands before a Provider and keeps its troubles from spreading, and ours
// from reaching it: a deadline for every call, a bounded number of calls at one
// time, retries with jitter and a budget, and a circuit breaker.
//
// It retries an error only if it says nothing about the outcome (a transport
// error, 5xx, 429): the port makes every operation safe to repeat under its key.
// A call that ran out of time is not retried, the caller looks it up. A decline
// and a *RejectedError are answers: for the breaker they are successes.
//
// An ErrUnavailable from a Guard always means that nothing of this call was sent.
//
// Concurrency: safe for concurrent use. Lifecycle: it owns no goroutine and needs
// no Close.
type Guard struct {
	provider Provider
	o        GuardOptions
	places   bulkhead.Bulkhead[any]
	breaker  circuitbreaker.CircuitBreaker[any]
	budget   *retryBudget
}

var _ Provider = (*Guard)(nil)

// NewGuard returns a Guard before p, or says what is wrong with the options.
func NewGuard(p Provider, o GuardOptions) (*Guard, error) {
	if p == nil {
		return nil, errors.New("payment: a Guard needs a provider")
	}
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	g := &Guard{
		provider: p,
		o:        o,
		places:   bulkhead.New[any](uint(o.MaxConcurrent)),
		budget:   newRetryBudget(o.RetryShare, o.RetryBurst),
	}
	g.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(o.FailureRate, uint(o.MinCalls), o.Window).
		WithDelay(o.OpenFor).
		WithSuccessThreshold(uint(o.Probes)).
		OnStateChanged(g.breakerChanged).
		Build()
	return g, nil
}

func (o GuardOptions) withDefaults() GuardOptions {
	o.Timeout = or(o.Timeout, 10*time.Second)
	o.MaxConcurrent = or(o.MaxConcurrent, 64)
	o.MaxWait = or(o.MaxWait, time.Second)
	o.MaxRetries = max(or(o.MaxRetries, 2), 0)
	o.RetryBase = or(o.RetryBase, 100*time.Millisecond)
	o.RetryMax = or(o.RetryMax, 2*time.Second)
	o.RetryShare = or(o.RetryShare, 0.1)
	o.RetryBurst = or(o.RetryBurst, 10)
	o.FailureRate = or(o.FailureRate, 0.5)
	o.MinCalls = or(o.MinCalls, 20)
	o.Window = or(o.Window, 30*time.Second)
	o.OpenFor = or(o.OpenFor, 15*time.Second)
	o.Probes = or(o.Probes, 3)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o
}

func (o GuardOptions) validate() error {
	switch {
	case o.Timeout < 0, o.MaxWait < 0, o.RetryBase < 0, o.RetryMax < 0, o.OpenFor < 0:
		return errors.New("payment: the durations of a Guard must not be negative")
	case o.Window < 10*time.Millisecond:
		return fmt.Errorf("payment: the breaker's window must be at least 10 ms, it is %v", o.Window)
	case o.MaxConcurrent < 1, o.MinCalls < 1, o.Probes < 1:
		return errors.New("payment: MaxConcurrent, MinCalls and Probes of a Guard must be at least 1")
	case o.FailureRate <= 0 || o.FailureRate > 1:
		return fmt.Errorf("payment: the breaker's failure rate must be above 0 and at most 1, it is %v", o.FailureRate)
	case o.RetryShare < 0 || o.RetryShare > 1, o.RetryBurst < 0:
		return errors.New("payment: the retry share of a Guard must be within 0 and 1 and its burst not negative")
	}
	return nil
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Available says whether a call would be let through now; if not, when to come
// back. It lets a worker leave its queue alone while the breaker is open. It is
// a hint: the next call may still be refused.
func (g *Guard) Available() (ok bool, retryAfter time.Duration) {
	if !g.breaker.IsOpen() {
		return true, 0
	}
	left := g.breaker.RemainingDelay()
	return left <= 0, left
}

// Charge is Provider.Charge, guarded.
func (g *Guard) Charge(ctx context.Context, r Request) (Charge, error) {
	return guarded(ctx, g, "charge", chargeOutcome, func(ctx context.Context) (Charge, error) { return g.provider.Charge(ctx, r) })
}

// Lookup is Provider.Lookup, guarded.
func (g *Guard) Lookup(ctx context.Context, r Request) (Charge, error) {
	return guarded(ctx, g, "lookup", chargeOutcome, func(ctx context.Context) (Charge, error) { return g.provider.Lookup(ctx, r) })
}

// Void is Provider.Void, guarded.
func (g *Guard) Void(ctx context.Context, r Request) (Charge, error) {
	return guarded(ctx, g, "void", chargeOutcome, func(ctx context.Context) (Charge, error) { return g.provider.Void(ctx, r) })
}

// Refund is Provider.Refund, guarded.
func (g *Guard) Refund(ctx context.Context, r RefundRequest) (Refund, error) {
	return guarded(ctx, g, "refund", func(Refund) string { return "ok" }, func(ctx context.Context) (Refund, error) { return g.provider.Refund(ctx, r) })
}

func chargeOutcome(c Charge) string {
	if c.State == StateDeclined {
		return "declined"
	}
	return "ok"
}

// guarded runs one call under every policy and counts it.
func guarded[T any](ctx context.Context, g *Guard, op string, describe func(T) string, call func(context.Context) (T, error)) (T, error) {
	started := time.Now()
	answer, err := inPlace(ctx, g, call)
	outcome := "unknown"
	var rejected *RejectedError
	switch {
	case err == nil:
		outcome = describe(answer)
	case errors.As(err, &rejected):
		outcome = "rejected"
	case errors.Is(err, ErrUnavailable):
		outcome = "unavailable"
	case left(ctx):
		outcome = "canceled"
	}
	g.o.Metrics.called(op, outcome, time.Since(started))
	return answer, err
}

// inPlace runs one call, with its retries, in a place of the bulkhead. The place
// is kept during the pauses: giving it up could end in "no place, nothing was
// sent" for a call of which something was.
func inPlace[T any](ctx context.Context, g *Guard, call func(context.Context) (T, error)) (answer T, err error) {
	if ok, retryAfter := g.Available(); !ok { // no waiting for a place then
		return answer, g.broken(retryAfter)
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	if err := g.places.AcquirePermitWithMaxWait(ctx, g.o.MaxWait); err != nil {
		return answer, &UnavailableError{RetryAfter: g.o.MaxWait,
			Cause: fmt.Sprintf("no place was free among %d concurrent calls (%v)", g.o.MaxConcurrent, err)}
	}
	g.o.Metrics.inFlight.Inc()
	defer func() {
		g.o.Metrics.inFlight.Dec()
		g.places.ReleasePermit()
	}()
	g.budget.payIn()
	var before error // of the attempt before
	for retries := 0; ; retries++ {
		answer, err = attempt(ctx, g, call)
		switch {
		case err != nil && before != nil && errors.Is(err, ErrUnavailable):
			// Something was sent before: the caller must not take this for "nothing was".
			return answer, fmt.Errorf("%w (and a retry was not possible: %v)", before, err)
		case err == nil || !retryable(ctx, err) || retries == g.o.MaxRetries:
			return answer, err
		case !g.budget.take():
			g.o.Metrics.retries.WithLabelValues("denied").Inc()
			return answer, err
		case !pause(ctx, g.jitter(retries)):
			return answer, err
		}
		before = err
		g.o.Metrics.retries.WithLabelValues("sent").Inc()
	}
}

// attempt asks the provider once, if the breaker lets it, and tells the breaker.
func attempt[T any](ctx context.Context, g *Guard, call func(context.Context) (T, error)) (answer T, err error) {
	if !g.breaker.TryAcquirePermit() {
		return answer, g.broken(g.breaker.RemainingDelay())
	}
	settled := false
	defer func() {
		if !settled { // a panic: the permit must not be lost
			g.breaker.RecordFailure()
		}
	}()
	answer, err = call(ctx)
	settled = true
	var rejected *RejectedError
	switch {
	case err == nil || errors.As(err, &rejected):
		g.breaker.RecordSuccess()
	case left(ctx) && g.breaker.IsClosed():
		// The caller left: that says nothing of the provider. A probe must say
		// something, or its permit would be lost.
	default:
		g.breaker.RecordFailure()
	}
	return answer, err
}

func (g *Guard) broken(retryAfter time.Duration) error {
	return &UnavailableError{RetryAfter: max(retryAfter, time.Millisecond),
		Cause: "it failed too often, and the circuit breaker keeps calls from it"}
}

// left says whether the caller itself ended the call, not a deadline.
func left(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

func retryable(ctx context.Context, err error) bool {
	var rejected *RejectedError
	return ctx.Err() == nil && !errors.As(err, &rejected) && !errors.Is(err, ErrUnavailable) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// jitter returns the pause before the retry after so many: full jitter.
func (g *Guard) jitter(retries int) time.Duration {
	most := min(g.o.RetryBase<<min(retries, 20), g.o.RetryMax)
	return rand.N(most + 1)
}

// pause waits; false at once if the context's deadline comes first.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// breakerChanged is called by the breaker without its lock. The gauge is set from
// the breaker itself, so that of two changes at once the later one stays.
func (g *Guard) breakerChanged(e circuitbreaker.StateChangedEvent) {
	state := g.breaker.State()
	g.o.Metrics.breaker.Set(map[circuitbreaker.State]float64{
		circuitbreaker.ClosedState: 0, circuitbreaker.HalfOpenState: 1, circuitbreaker.OpenState: 2}[state])
	level, advice := slog.LevelInfo, ""
	if e.NewState == circuitbreaker.OpenState {
		level, advice = slog.LevelWarn, "orders wait; calls are tried again after the pause"
	}
	g.o.Logger.Log(context.Background(), level, "the payment provider's circuit breaker changed",
		"from", e.OldState.String(), "to", e.NewState.String(), "pause", g.breaker.RemainingDelay(), "next", advice)
}
