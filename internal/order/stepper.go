package order

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"millrace/internal/coalesce"
)

// StepperOptions say how transitions are written. Store is required.
type StepperOptions struct {
	Store  Store
	Policy Policy
	// MaxBatch bounds the steps of one transaction, 256; MaxQueued those that wait,
	// 8,192.
	MaxBatch, MaxQueued int
	// MinInterval spaces the transactions while steps come one after the other: they
	// are larger then, and those who place orders find the database free; 5 ms,
	// negative for none.
	MinInterval time.Duration
	// FlushTimeout bounds one transaction; 10 s.
	FlushTimeout time.Duration
	// Changed is told of the orders of each transaction before their callers are, as
	// they now stand; with Version 0, tenant and id alone if that is not known, or if
	// Workers put them off. It must be quick. Nil means nobody: see Reads.
	Changed func(orders []Order)
	Logger  *slog.Logger
	Metrics *Metrics
}

// Stepper makes transitions: concurrent steps share one transaction. Whoever
// waits for an order's status is woken. It is safe for concurrent use.
type Stepper struct {
	o       StepperOptions
	caller  *coalesce.Caller[*Step, Outcome]
	watches watches
}

// NewStepper starts a Stepper; Close ends it.
func NewStepper(o StepperOptions) (*Stepper, error) {
	if o.Store == nil {
		return nil, errors.New("order: StepperOptions.Store is missing")
	}
	setDefault(&o.MaxBatch, 256)
	setDefault(&o.MaxQueued, 8192)
	setDefault(&o.FlushTimeout, 10*time.Second)
	setDefault(&o.MinInterval, 5*time.Millisecond)
	if o.MaxBatch < 1 || o.MaxQueued < 1 || o.Policy.MaxAttempts < 1 || o.Policy.Lease <= 0 || o.Policy.CompleteAfter <= 0 {
		return nil, errors.New("order: StepperOptions: bounds, times and attempts must be above zero")
	}
	now := time.Now
	fillCommon(&now, &o.Logger, &o.Metrics)
	s := &Stepper{o: o}
	s.watches.waiting = map[Ref][]chan struct{}{}
	s.caller = coalesce.NewCaller(coalesce.Options{MaxBatchWeight: int64(o.MaxBatch), MaxQueuedWeight: int64(o.MaxQueued), MinInterval: max(o.MinInterval, 0)}, s.flush)
	return s, nil
}

// Close writes what is queued and refuses the rest.
func (s *Stepper) Close() { s.caller.Close() }

// Do makes one step. The outcome's own error says what became of the step; the
// second one, an *Unavailable, that it could not be tried.
func (s *Stepper) Do(ctx context.Context, step Step) (Outcome, error) {
	out, err := s.caller.Do(ctx, &step, 1)
	if err != nil {
		again := againAsItWas
		if step.Claim != nil {
			again = againWithKey
		}
		return Outcome{}, unavailable(err, again)
	}
	return out, nil
}

func (s *Stepper) flush(calls []*coalesce.Call[*Step, Outcome]) {
	steps := make([]*Step, len(calls))
	for i, c := range calls {
		steps[i] = c.In
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.FlushTimeout)
	defer cancel()
	began := time.Now()
	outcomes, err := s.advance(ctx, steps)
	s.o.Metrics.stepSeconds.Observe(time.Since(began).Seconds())
	s.o.Metrics.stepBatch.Observe(float64(len(steps)))
	if err != nil {
		s.o.Logger.Error("transitions could not be written; they are tried again when the orders are due", "steps", len(steps), "error", err)
		for _, c := range calls {
			c.Err = err
		}
		return
	}
	for i, c := range calls {
		c.Out = outcomes[i]
		s.o.Metrics.stepped(steps[i], &outcomes[i])
		if outcomes[i].Applied {
			s.watches.wake(Ref{steps[i].TenantID, steps[i].OrderID})
		}
		if out := &outcomes[i]; out.Applied && out.Order.Parked() && steps[i].Event == EventAttemptFailed {
			s.o.Logger.Error("an order failed too often and is parked: see its dead letter, mend the cause and redrive it",
				"tenant", steps[i].TenantID, "order", steps[i].OrderID, "status", out.Order.Status, "attempts", out.Order.Attempts, "reason", out.Order.LastError)
		}
	}
}

// advance makes steps in the store and tells what became of them, also when the store
// panics.
func (s *Stepper) advance(ctx context.Context, steps []*Step) (outcomes []Outcome, err error) {
	err = ErrUnknownOutcome // of a panic
	defer func() { s.tell(steps, outcomes, err) }()
	return s.o.Store.Advance(ctx, steps, s.o.Policy)
}

// tell tells of the orders as they stand after their steps, whoever made them: what
// a step found is news too. If it is not known what became of the steps, it tells of
// what they may have changed.
func (s *Stepper) tell(steps []*Step, outcomes []Outcome, err error) {
	if s.o.Changed == nil || err != nil && !errors.Is(err, ErrUnknownOutcome) {
		return
	}
	orders := make([]Order, 0, len(steps))
	for i, step := range steps {
		if err != nil {
			orders = append(orders, Order{TenantID: step.TenantID, ID: step.OrderID})
		} else if o := &outcomes[i].Order; o.Version > 0 {
			orders = append(orders, *o)
		}
	}
	if len(orders) > 0 {
		s.o.Changed(orders)
	}
}
