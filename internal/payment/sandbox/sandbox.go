// Package sandbox is a payment provider inside the process, for demonstrations,
// tests and benchmarks. What it does with a charge depends on its token; see the
// Token constants. No money moves.
//
// Pattern: like a real provider it does not forget when this program dies. All it
// decides stands in a ledger that is durable before anyone is told; many callers
// share one write (package coalesce). The ledger is an append-only file, of which
// every charge is kept in memory, some hundred bytes each; or a Ledger that several
// processes share, which is asked for the charges of each batch. There who writes
// first wins, and the others decide again.
//
// Concurrency: every method is safe for concurrent use. Lifecycle: Open starts one
// goroutine, Close stops it. Only one process may have a file open at a time; the
// caller sees to that.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/payment"
)

const (
	maxBatch = 1024
	maxQueue = 16 * maxBatch
	// MaxPage is the most charges of one page of Charges.
	MaxPage = 1000
)

// Options configure a Sandbox.
type Options struct {
	// Path is the ledger's file, "sandbox.ledger" in the data directory. It is made
	// if it is not there. Either it or Ledger is required.
	Path string
	// Ledger is one that several processes share. The Sandbox does not close it.
	Ledger Ledger
	// Notify gets the notices of TokenWebhookFirst, in the goroutine of the call that
	// causes it. It must not block for long; nil for none.
	Notify func(payment.Notice)
	// SlowDelay is how long TokenSlow takes. Default 2 s.
	SlowDelay time.Duration
	// LateDelay is when TokenLate captures after the call. Default 3 s.
	LateDelay time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Sandbox is a payment.Provider, see the package comment.
type Sandbox struct {
	o     Options
	alone *alone // nil with a shared ledger
	queue *coalesce.Caller[question, answer]
	down  atomic.Bool
	close func() error
}

var _ payment.Provider = (*Sandbox)(nil)

// ledgerInterval spaces the writes of the ledger, which sync the disk that the
// shop under test needs for itself: a real provider has a disk of its own.
const ledgerInterval = 3 * time.Millisecond

// Open opens the ledger and starts the sandbox.
func Open(o Options) (*Sandbox, error) {
	if (o.Path == "") == (o.Ledger == nil) {
		return nil, errors.New("sandbox: a path for the ledger's file is needed, or a shared ledger, and not both")
	}
	if o.SlowDelay < 0 || o.LateDelay < 0 {
		return nil, errors.New("sandbox: the delays must not be negative")
	}
	if o.SlowDelay == 0 {
		o.SlowDelay = 2 * time.Second
	}
	if o.LateDelay == 0 {
		o.LateDelay = 3 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Notify == nil {
		o.Notify = func(payment.Notice) {}
	}
	t := &teller{now: o.Now, slow: o.SlowDelay, late: o.LateDelay, failures: map[entryKey]int{}}
	s := &Sandbox{o: o}
	var serve func([]*call)
	if o.Ledger != nil {
		serve = newShared(t, o.Ledger).serve
	} else {
		var err error
		if s.alone, err = newAlone(t, o.Path); err != nil {
			return nil, err
		}
		serve = s.alone.serve
	}
	s.queue = coalesce.NewCaller(coalesce.Options{MaxBatchWeight: maxBatch, MaxQueuedWeight: maxQueue, MinInterval: ledgerInterval}, serve)
	s.close = sync.OnceValue(func() error {
		s.queue.Close()
		if s.alone == nil {
			return nil
		}
		return s.alone.ledger.file.Close()
	})
	return s, nil
}

// Close finishes what is queued and closes the ledger. It may be called more than
// once.
func (s *Sandbox) Close() error { return s.close() }

// SetDown makes the provider answer 503 to everything, or work again. Calls that
// are waiting for their answer go on waiting.
func (s *Sandbox) SetDown(down bool) { s.down.Store(down) }

// Charge implements payment.Provider.
func (s *Sandbox) Charge(ctx context.Context, r payment.Request) (payment.Charge, error) {
	a, err := s.askOf(ctx, askCharge, r)
	if err != nil {
		return payment.Charge{}, err
	}
	b, _ := behaviourOf(r.Token)
	switch {
	case a.first && b.notifies:
		s.o.Notify(payment.Notice{TenantID: r.TenantID, OrderID: r.OrderID, Key: r.Key, Charge: a.charge})
	case a.first && b.silent:
		<-ctx.Done()
		return payment.Charge{}, fmt.Errorf("sandbox: no answer came, as %s asks for: %w", r.Token, context.Cause(ctx))
	case b.delayed == slowDelay && !a.due.IsZero():
		return s.wait(ctx, r, a.due)
	}
	return a.charge, nil
}

// wait answers when a slow charge is due.
func (s *Sandbox) wait(ctx context.Context, r payment.Request, due time.Time) (payment.Charge, error) {
	timer := time.NewTimer(due.Sub(s.o.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return s.Lookup(ctx, r)
	case <-ctx.Done():
		return payment.Charge{}, fmt.Errorf("sandbox: the charge is not finished yet: %w", context.Cause(ctx))
	}
}

// Lookup implements payment.Provider.
func (s *Sandbox) Lookup(ctx context.Context, r payment.Request) (payment.Charge, error) {
	a, err := s.askOf(ctx, askLookup, r)
	return a.charge, err
}

// Void implements payment.Provider.
func (s *Sandbox) Void(ctx context.Context, r payment.Request) (payment.Charge, error) {
	a, err := s.askOf(ctx, askVoid, r)
	return a.charge, err
}

// Refund implements payment.Provider.
func (s *Sandbox) Refund(ctx context.Context, r payment.RefundRequest) (payment.Refund, error) {
	if err := r.Validate(); err != nil {
		return payment.Refund{}, err
	}
	a, err := s.ask(ctx, question{kind: askRefund, refund: r})
	return a.refund, err
}

// ErrBadCursor means that a cursor is not one that a page gave.
var ErrBadCursor = errors.New("sandbox: the cursor is not one that a page gave")

// Charges lists the ledger in the order in which charges began, for
// reconciliation. The tenant "" stands for all. An empty cursor begins at the
// start; next is the cursor of the next page, empty at the end. A page may hold
// less than limit and not be the last. The limit is 1 to MaxPage. ErrBadCursor if
// the cursor is not one that a page gave.
func (s *Sandbox) Charges(ctx context.Context, tenantID, cursor string, limit int) (page []Charge, next string, err error) {
	if limit < 1 || limit > MaxPage {
		return nil, "", fmt.Errorf("sandbox: the limit must be 1 to %d, it is %d", MaxPage, limit)
	}
	from := 0
	if cursor != "" && s.o.Ledger == nil {
		if from, err = strconv.Atoi(cursor); err != nil || from < 0 {
			return nil, "", fmt.Errorf("%w: %.30q", ErrBadCursor, cursor)
		}
	}
	a, err := s.queue.Do(ctx, question{kind: askList, tenant: tenantID, from: from, cursor: cursor, limit: limit}, 1)
	return a.list, a.next, own(err)
}

func (s *Sandbox) askOf(ctx context.Context, k kind, r payment.Request) (answer, error) {
	if err := r.Validate(); err != nil {
		switch {
		case k == askLookup && r.Ref == "":
			return answer{charge: payment.Charge{State: payment.StateNone}}, nil
		case k == askVoid && r.Ref == "":
			return answer{charge: payment.Charge{State: payment.StateVoided}}, nil
		}
		return answer{}, err
	}
	if r.Token == TokenDown {
		return answer{}, errDown
	}
	return s.ask(ctx, question{kind: k, charge: r})
}

var errDown = errors.New("sandbox: 503 Service Unavailable")

func (s *Sandbox) ask(ctx context.Context, q question) (answer, error) {
	if err := payment.CheckDeadline(ctx); err != nil {
		return answer{}, err
	}
	if s.down.Load() {
		return answer{}, errDown
	}
	a, err := s.queue.Do(ctx, q, 1)
	return a, own(err)
}

// own turns the queue's refusals into the port's.
func own(err error) error {
	switch {
	case errors.Is(err, coalesce.ErrFull):
		return &payment.UnavailableError{RetryAfter: 100 * time.Millisecond, Cause: fmt.Sprintf("%d calls wait for the sandbox already", maxQueue)}
	case errors.Is(err, coalesce.ErrClosed):
		return &payment.UnavailableError{RetryAfter: time.Second, Cause: "the sandbox is closed"}
	}
	return err
}
