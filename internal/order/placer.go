package order

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"millrace/internal/coalesce"
)

// Receipt is the answer to a placed order.
type Receipt struct {
	Order Order
	// Replayed says that the key had placed it before.
	Replayed bool
}

// Unavailable says that a request could not be served now.
type Unavailable struct {
	// Reason is a stable word: "overloaded", "store-unavailable", "shutting-down".
	Reason string
	// Detail says to the caller what is wrong and what to do.
	Detail     string
	RetryAfter time.Duration
	// Unknown says that the request may have taken effect: repeat it with the same
	// idempotency key to find out.
	Unknown bool
	// Err is the cause, for the log.
	Err error
}

func (e *Unavailable) Error() string { return e.Reason + ": " + e.Detail }

// Unwrap returns the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// PlacerOptions say how orders are placed. Store is required.
type PlacerOptions struct {
	Store  Store
	Policy Policy
	// PaymentDeadline is how long an order waits for its payment; 30 min.
	PaymentDeadline time.Duration
	// KeyTTL is how long an idempotency key counts; 24 h.
	KeyTTL time.Duration
	// MaxBatch bounds the orders of one transaction; 256.
	MaxBatch int
	// MaxQueued bounds the orders that wait; beyond it they are refused; 8,192.
	MaxQueued int
	// MinInterval spaces the transactions while orders come one after the other: a
	// transaction costs nearly the same for one order as for ten. An order that comes
	// after a pause waits for nothing. 2 ms; negative for none.
	MinInterval time.Duration
	// FlushTimeout bounds one transaction; 10 s.
	FlushTimeout time.Duration
	Now          func() time.Time
	// Expiry is the clock by which keys expire; Now if nil.
	Expiry func() time.Time
	// Changed is told of the orders of each transaction before their callers are, as
	// they now stand; with Version 0 and little else if that is not known. It must be
	// quick. Nil means nobody: see Reads.
	Changed func(orders []Order)
	Logger  *slog.Logger
	Metrics *Metrics
}

// Placer takes orders in: concurrent requests share one transaction. It is safe
// for concurrent use.
type Placer struct {
	o      PlacerOptions
	caller *coalesce.Caller[*Placement, struct{}]
}

// NewPlacer starts a Placer; Close ends it.
func NewPlacer(o PlacerOptions) (*Placer, error) {
	if o.Store == nil {
		return nil, errors.New("order: PlacerOptions.Store is missing")
	}
	setDefault(&o.PaymentDeadline, 30*time.Minute)
	setDefault(&o.KeyTTL, 24*time.Hour)
	setDefault(&o.MaxBatch, 256)
	setDefault(&o.MaxQueued, 8192)
	setDefault(&o.FlushTimeout, 10*time.Second)
	setDefault(&o.MinInterval, 2*time.Millisecond)
	if o.MaxBatch < 1 || o.MaxQueued < 1 || o.KeyTTL < 0 || o.PaymentDeadline < 0 {
		return nil, errors.New("order: PlacerOptions: bounds and times must be above zero")
	}
	fillCommon(&o.Now, &o.Logger, &o.Metrics)
	if o.Expiry == nil {
		o.Expiry = o.Now
	}
	p := &Placer{o: o}
	p.caller = coalesce.NewCaller(coalesce.Options{MaxBatchWeight: int64(o.MaxBatch), MaxQueuedWeight: int64(o.MaxQueued), MinInterval: max(o.MinInterval, 0)}, p.flush)
	return p, nil
}

// Close places what is queued and refuses the rest.
func (p *Placer) Close() { p.caller.Close() }

// Admit says whether an order would be taken now, before its body is read. The
// error is an *Unavailable.
func (p *Placer) Admit() error {
	if p.caller.Queued() >= int64(p.o.MaxQueued) {
		return errQueueFull(coalesce.ErrFull)
	}
	return nil
}

func errQueueFull(err error) *Unavailable {
	return &Unavailable{Reason: "overloaded", Detail: "more orders are waiting than can be placed soon; try again after retryAfter seconds with the same Idempotency-Key",
		RetryAfter: time.Second, Err: err}
}

// linesPerWeight is how many lines weigh as much as an order does by itself.
const linesPerWeight = 8

// Place places an order. Errors: *InvalidError, *RefusedError, ErrKeyReused,
// *Unavailable.
func (p *Placer) Place(ctx context.Context, r Request) (Receipt, error) {
	placement, err := p.prepare(&r)
	if err != nil {
		return Receipt{}, err
	}
	_, err = p.caller.Do(ctx, placement, int64(1+(len(placement.Order.Lines)-1)/linesPerWeight))
	if err != nil {
		return Receipt{}, p.failed(err)
	}
	return Receipt{Order: placement.Placed, Replayed: placement.Replayed}, nil
}

// prepare checks a request and makes a placement of it.
func (p *Placer) prepare(r *Request) (*Placement, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	lines, err := r.lines()
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("making an order id: %w", err)
	}
	now := p.o.Now().UTC()
	return &Placement{
		Order: Order{
			TenantID: r.TenantID, ID: id.String(), CustomerID: r.CustomerID, Lines: lines,
			Details:  Details{PaymentToken: r.PaymentToken, Email: r.Email, Phone: r.Phone, Address: r.Address, Note: r.Note, Trace: r.Trace},
			PlacedAt: now, Deadline: now.Add(p.o.PaymentDeadline),
		},
		Key: r.Key, Fingerprint: r.fingerprint(lines), KeyNotBefore: p.o.Expiry().UTC().Add(-p.o.KeyTTL),
	}, nil
}

// flush places a batch. It has a context of its own: no caller can cancel the
// others.
func (p *Placer) flush(calls []*coalesce.Call[*Placement, struct{}]) {
	placements := make([]*Placement, len(calls))
	for i, c := range calls {
		placements[i] = c.In
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.o.FlushTimeout)
	defer cancel()
	began := time.Now()
	err := p.place(ctx, placements)
	p.o.Metrics.placeSeconds.Observe(time.Since(began).Seconds())
	p.o.Metrics.placeOrders.Observe(float64(len(placements)))
	if err != nil {
		p.o.Logger.Error("a batch of orders could not be placed; their buyers are told to try again", "orders", len(placements), "error", err)
	}
	for i, c := range calls {
		if c.Err = err; err == nil {
			c.Err = placements[i].Err
			p.o.Metrics.placed(placements[i])
		}
	}
}

// place places a batch in the store and tells what became of it, also when the store
// panics.
func (p *Placer) place(ctx context.Context, placements []*Placement) (err error) {
	err = ErrUnknownOutcome // of a panic
	defer func() { p.tell(placements, err) }()
	return p.o.Store.Place(ctx, placements, p.o.Policy)
}

// tell tells of the orders that stand, and of those that may.
func (p *Placer) tell(placements []*Placement, err error) {
	if p.o.Changed == nil || err != nil && !errors.Is(err, ErrUnknownOutcome) {
		return
	}
	orders := make([]Order, 0, len(placements))
	for _, placement := range placements {
		switch o := &placement.Order; {
		case err != nil:
			orders = append(orders, Order{TenantID: o.TenantID, ID: o.ID, CustomerID: o.CustomerID})
		case placement.Err == nil:
			orders = append(orders, placement.Placed)
		}
	}
	if len(orders) > 0 {
		p.o.Changed(orders)
	}
}

// failed turns an error of a flush into what the edge understands.
func (p *Placer) failed(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) || errors.Is(err, ErrKeyReused) {
		return err
	}
	if errors.Is(err, ErrData) {
		return &InvalidError{"body", "holds something that cannot be stored; send plain text"}
	}
	if errors.Is(err, coalesce.ErrFull) {
		return errQueueFull(err)
	}
	return unavailable(err, againWithKey)
}

// What to do to find out whether a request took effect, with a key and without:
// commands without one may be repeated.
const (
	againWithKey = "send the same request again with the same Idempotency-Key to find out"
	againAsItWas = "send the same request again: if it did, nothing more is done"
)

// unavailable is what a caller is told when a shared write did not work out. again
// says how to find out whether it did.
func unavailable(err error, again string) error {
	var panicked *coalesce.PanicError
	switch {
	case errors.Is(err, coalesce.ErrFull):
		return &Unavailable{Reason: "overloaded", Detail: "more is waiting than can be written soon, and nothing was done; try again after retryAfter seconds",
			RetryAfter: time.Second, Err: err}
	case errors.Is(err, coalesce.ErrClosed):
		return &Unavailable{Reason: "shutting-down", Detail: "this server is shutting down; send the request again", RetryAfter: time.Second, Err: err}
	case errors.Is(err, coalesce.ErrWithdrawn):
		return &Unavailable{Reason: "overloaded", Detail: "the request waited too long and nothing was done; try again after retryAfter seconds", RetryAfter: time.Second, Err: err}
	case errors.Is(err, ErrUnknownOutcome), errors.Is(err, coalesce.ErrAbandoned), errors.As(err, &panicked):
		return &Unavailable{Reason: "outcome-unknown", Detail: "whether this took effect is not known; " + again,
			RetryAfter: time.Second, Unknown: true, Err: err}
	}
	return &Unavailable{Reason: "store-unavailable", Detail: "the database does not take writes now and nothing was done; try again after retryAfter seconds",
		RetryAfter: 2 * time.Second, Err: err}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func fillCommon(now *func() time.Time, logger **slog.Logger, metrics **Metrics) {
	if *now == nil {
		*now = time.Now
	}
	if *logger == nil {
		*logger = slog.New(slog.DiscardHandler)
	}
	if *metrics == nil {
		*metrics = NewMetrics(nil)
	}
}
