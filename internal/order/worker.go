package order

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// WorkerOptions are what a Worker stands on. All but the last three are required.
type WorkerOptions struct {
	Store    Store
	Stepper  *Stepper
	Payments Payments
	Merchant Merchant
	// WriteTimeout bounds how long a worker waits to write what came of a call that
	// cannot be undone, even when it should stop; 15 s.
	WriteTimeout time.Duration
	Now          func() time.Time
	Logger       *slog.Logger
}

// Worker does what orders wait for: it charges, looks up, voids, refunds, tells
// the merchant, completes. It holds no state: whatever it is given, it asks the
// store where the order stands and does what is next. It is safe for concurrent
// use.
type Worker struct{ o WorkerOptions }

// NewWorker returns a Worker.
func NewWorker(o WorkerOptions) (*Worker, error) {
	if o.Store == nil || o.Stepper == nil || o.Payments == nil || o.Merchant == nil {
		return nil, errors.New("order: WorkerOptions need Store, Stepper, Payments and Merchant")
	}
	setDefault(&o.WriteTimeout, 15*time.Second)
	metrics := (*Metrics)(nil)
	fillCommon(&o.Now, &o.Logger, &metrics)
	return &Worker{o: o}, nil
}

// Begin takes up an order that was just placed, by its name alone: when it is
// charging or beyond, someone else has taken it up.
func (w *Worker) Begin(ctx context.Context, r Ref) error {
	if ok, _ := w.o.Payments.Available(); !ok {
		return nil // the order waits; the sweeper comes back to it
	}
	return w.charge(ctx, r)
}

// Work does what is next for an order that was read some time ago.
func (w *Worker) Work(ctx context.Context, o Order) error {
	if o.Status == Paid {
		// What was cancelled in the meantime must not be told to the merchant; every
		// other work is guarded by its transition.
		var err error
		if o, err = w.o.Store.Order(ctx, o.TenantID, o.ID); err != nil {
			return err
		}
	}
	return w.next(ctx, o)
}

// next does what is next for an order as it is.
func (w *Worker) next(ctx context.Context, o Order) error {
	if o.Parked() {
		return nil
	}
	switch o.Status {
	case Placed:
		return w.workPlaced(ctx, &o)
	case Charging:
		return w.workCharging(ctx, &o)
	case Cancelling:
		return w.workCancelling(ctx, &o)
	case Paid:
		return w.workPaid(ctx, &o)
	case Refunding:
		return w.workRefunding(ctx, &o)
	case Shipped:
		return w.workShipped(ctx, &o)
	}
	return nil
}

func (w *Worker) late(o *Order) bool { return !o.Deadline.IsZero() && w.o.Now().After(o.Deadline) }

func (w *Worker) workPlaced(ctx context.Context, o *Order) error {
	if w.late(o) {
		_, err := w.step(ctx, o, Step{Event: EventDeadline, Reason: "it was not paid in time"})
		return err
	}
	if ok, after := w.o.Payments.Available(); !ok {
		return w.postpone(ctx, o, after, ErrPaymentsUnavailable)
	}
	return w.charge(ctx, Ref{o.TenantID, o.ID})
}

// charge makes the intention durable and charges. Whoever finds the intention
// made already leaves the order to who made it, and to the sweeper.
func (w *Worker) charge(ctx context.Context, r Ref) error {
	out, err := w.do(ctx, Step{TenantID: r.TenantID, OrderID: r.ID, Event: EventChargeIntended})
	if err != nil || !out.Applied {
		return err
	}
	o := &out.Order
	c, err := w.o.Payments.Charge(ctx, o)
	if errors.Is(err, ErrPaymentsUnavailable) {
		// Nothing was sent, ever: it may wait as one that was never charged, which can
		// expire without asking the provider.
		_, after := w.o.Payments.Available()
		_, err = w.step(ctx, o, Step{Event: EventChargeWithdrawn, IfVersion: o.Version, RetryAt: w.pause(o, after)})
		return err
	}
	return w.answered(ctx, o, c, err)
}

// answered takes the provider's answer to a charge.
func (w *Worker) answered(ctx context.Context, o *Order, c Charge, err error) error {
	if err != nil {
		return w.chargeFailed(ctx, o, err)
	}
	if c.State == ChargeNone {
		c.State = ChargePending // it answered, so it will know
	}
	return w.charged(ctx, o, c)
}

// workCharging resolves a charge whose outcome nobody has written down.
func (w *Worker) workCharging(ctx context.Context, o *Order) error {
	if w.late(o) {
		next, err := w.step(ctx, o, Step{Event: EventDeadline, Reason: "it was not paid in time"})
		if err != nil || next.Status != Cancelling {
			return err
		}
		return w.workCancelling(ctx, next)
	}
	c, err := w.o.Payments.Lookup(ctx, o)
	if err != nil {
		return w.callFailed(ctx, o, err) // a question that is refused says nothing of the charge
	}
	if c.State == ChargeNone {
		if c.Ref != "" {
			o.Progress.PaymentRef = c.Ref // the provider's own name for it finds it for certain
		}
		c, err = w.o.Payments.Charge(ctx, o) // under the same key: never twice
		return w.answered(ctx, o, c, err)
	}
	return w.charged(ctx, o, c)
}

// charged writes down what the provider says of a charge.
func (w *Worker) charged(ctx context.Context, o *Order, c Charge) error {
	var next *Order
	var err error
	switch c.State {
	case ChargeCaptured:
		next, err = w.captured(ctx, o, c)
	case ChargeDeclined, ChargeVoided:
		next, err = w.step(ctx, o, Step{Event: EventDeclined, Reason: reasonOf(c)})
	default:
		o.Progress.PaymentRef = cmp.Or(c.Ref, o.Progress.PaymentRef)
		return w.failed(ctx, o, "the provider has not decided yet", false)
	}
	if err == nil && next.Status == Cancelling {
		return w.workCancelling(ctx, next) // it was cancelled while it was charged
	}
	return err
}

func reasonOf(c Charge) string {
	if c.Reason != "" {
		return c.Reason
	}
	return string(c.State)
}

func (w *Worker) captured(ctx context.Context, o *Order, c Charge) (*Order, error) {
	if c.Captured != o.Total {
		return o, w.failed(ctx, o, fmt.Sprintf("the provider captured %d instead of %d", c.Captured, o.Total), true)
	}
	return w.step(ctx, o, Step{Event: EventCaptured, Amount: c.Captured, PaymentRef: c.Ref})
}

func (w *Worker) chargeFailed(ctx context.Context, o *Order, err error) error {
	var rejected *PaymentRejectedError
	if errors.As(err, &rejected) && o.Status == Charging {
		next, err := w.step(ctx, o, Step{Event: EventDeclined, Reason: rejected.Code})
		if err == nil && next.Status == Cancelling {
			return w.workCancelling(ctx, next)
		}
		return err
	}
	return w.callFailed(ctx, o, err)
}

// callFailed counts a call that did not work out, or waits if it was never made.
func (w *Worker) callFailed(ctx context.Context, o *Order, err error) error {
	var rejected *PaymentRejectedError
	switch {
	case errors.Is(err, ErrPaymentsUnavailable):
		_, after := w.o.Payments.Available()
		return w.postpone(ctx, o, after, err)
	case errors.As(err, &rejected):
		return w.failed(ctx, o, "the payment provider refuses: "+rejected.Code, true)
	}
	return w.failed(ctx, o, "the payment provider's answer is unknown: "+err.Error(), false)
}

// workCancelling makes sure that nothing is captured, or gives back what was.
func (w *Worker) workCancelling(ctx context.Context, o *Order) error {
	if o.Captured == 0 {
		c, err := w.o.Payments.Void(ctx, o)
		switch {
		case err != nil:
			return w.callFailed(ctx, o, err)
		case c.State == ChargeDeclined || c.State == ChargeVoided:
			_, err := w.step(ctx, o, Step{Event: EventChargeResolved, Reason: "nothing was captured"})
			return err
		case c.State != ChargeCaptured:
			return w.failed(ctx, o, "the provider has not decided yet", false)
		}
		next, err := w.captured(ctx, o, c)
		if err != nil || next.Captured == 0 || next.Status != Cancelling {
			return err
		}
		o = next
	}
	left := o.Captured - o.Refunded
	if err := w.o.Payments.Refund(ctx, o, o.RefundKey(0), left); err != nil {
		return w.callFailed(ctx, o, err)
	}
	_, err := w.step(ctx, o, Step{Event: EventChargeResolved, Amount: left, Reason: "captured meanwhile, and refunded"})
	return err
}

// workPaid tells the merchant to ship.
func (w *Worker) workPaid(ctx context.Context, o *Order) error {
	told, err := w.o.Merchant.Notify(ctx, noticeOf(o, noticePaid, ""))
	if err != nil {
		return w.failed(ctx, o, "the merchant's webhook could not be enqueued: "+err.Error(), false)
	}
	s := Step{Event: EventSent}
	if told == 0 {
		s.Reason = "no webhook endpoint wants to be told; the merchant finds it by its status"
	}
	_, err = w.step(ctx, o, s)
	return err
}

// workRefunding gives money back, and first tells the merchant of an order that
// was cancelled before it was shipped.
func (w *Worker) workRefunding(ctx context.Context, o *Order) error {
	if o.Progress.Shipment == nil {
		if _, err := w.o.Merchant.Notify(ctx, noticeOf(o, noticeCancelled, "")); err != nil {
			return w.failed(ctx, o, "the merchant's webhook could not be enqueued: "+err.Error(), false)
		}
	}
	r := o.Progress.Refund
	if err := w.o.Payments.Refund(ctx, o, o.RefundKey(r.Number), r.Amount); err != nil {
		return w.callFailed(ctx, o, err)
	}
	_, err := w.step(ctx, o, Step{Event: EventRefunded, RefundNumber: r.Number})
	return err
}

// workShipped completes an order that has been on its way long enough.
func (w *Worker) workShipped(ctx context.Context, o *Order) error {
	due := o.Progress.Shipment.At.Add(w.o.Stepper.o.Policy.CompleteAfter)
	if w.o.Now().Before(due) {
		return w.hold(ctx, Deferral{TenantID: o.TenantID, OrderID: o.ID, Version: o.Version, Until: due})
	}
	_, err := w.step(ctx, o, Step{Event: EventCompletionDue})
	return err
}

// Noticed takes over what the payment provider tells by itself, which may be
// before its answer to the charge.
func (w *Worker) Noticed(ctx context.Context, r Ref, c Charge) error {
	o, err := w.o.Store.Order(ctx, r.TenantID, r.ID)
	if err != nil {
		return err
	}
	switch {
	case o.Status == Charging, o.Status == Cancelling && o.Captured == 0:
		if c.State == ChargePending || c.State == ChargeNone {
			return nil
		}
		return w.charged(ctx, &o, c)
	case o.Status == Placed:
		return fmt.Errorf("the provider speaks of order %s, which was never charged here; it may tell again", o.ID)
	case c.State == ChargeCaptured && o.Captured == 0:
		w.o.Logger.Error("the provider captured money for an order that is closed: look at the charge and refund it there",
			"tenant", o.TenantID, "order", o.ID, "status", o.Status, "charge", c.Ref)
	}
	return nil
}

// Tell tells the merchant of a transition, as a courtesy: what the merchant must
// know to act is told by workPaid and workRefunding, durably. status is the
// order's after the transition.
func (w *Worker) Tell(ctx context.Context, status Status, t Told) error {
	event, which := "order."+string(status), ""
	if t.Event == EventRefunded || t.Event == EventSettledByHand && status != Cancelled && status != Expired {
		event, which = "order."+string(Refunded), strconv.FormatInt(t.Version, 10) // a part of it too: there may be several
	}
	if wanted, err := w.o.Merchant.Wants(ctx, t.TenantID, event); err != nil || !wanted {
		return err
	}
	o, err := w.o.Store.Order(ctx, t.TenantID, t.OrderID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = w.o.Merchant.Notify(ctx, noticeOf(&o, event, which))
	return err
}

// step makes a transition and returns the order as it stands then. That the step
// came too late is no error: someone else has moved the order on.
func (w *Worker) step(ctx context.Context, o *Order, s Step) (*Order, error) {
	s.TenantID, s.OrderID = o.TenantID, o.ID
	out, err := w.do(ctx, s)
	if err != nil {
		return o, err
	}
	return &out.Order, nil
}

// do makes a step. What a call has led to is written even if the worker is told
// to stop meanwhile.
func (w *Worker) do(ctx context.Context, s Step) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.o.WriteTimeout)
	defer cancel()
	s.At, s.Actor = w.o.Now().UTC(), System
	out, err := w.o.Stepper.Do(ctx, s)
	if err != nil {
		return out, err
	}
	var refused *NotAllowedError
	switch {
	case out.Err == nil, errors.Is(out.Err, ErrAlready):
	case errors.Is(out.Err, ErrNotFound):
		w.o.Logger.Warn("a message speaks of an order that is not there; it is dropped", "tenant", s.TenantID, "order", s.OrderID, "event", s.Event)
	case errors.As(out.Err, &refused):
		level := slog.LevelDebug
		if s.Event == EventCaptured {
			// Money came in for an order that does not want it: a person must look.
			level = slog.LevelError
		}
		w.o.Logger.Log(ctx, level, "an order has moved on before a step was made", "tenant", s.TenantID, "order", s.OrderID, "status", refused.Status, "event", s.Event)
	default:
		return out, fmt.Errorf("order %s, %s: %w", s.OrderID, s.Event, out.Err)
	}
	return out, nil
}

// failed counts a failed attempt, after which the order waits for its backoff or
// is parked.
func (w *Worker) failed(ctx context.Context, o *Order, reason string, forGood bool) error {
	_, err := w.step(ctx, o, Step{Event: EventAttemptFailed, IfVersion: o.Version, Reason: clip(reason), Park: forGood, PaymentRef: o.Progress.PaymentRef,
		RetryAt: w.again(o, backoff(o.Attempts+1))})
	return err
}

// again is when an order is looked at after a pause, and no later than its
// deadline, so that what has run out of time gives its stock back then.
func (w *Worker) again(o *Order, pause time.Duration) time.Time {
	now := w.o.Now()
	at := now.Add(pause)
	if waits := o.Status == Placed || o.Status == Charging; waits && at.After(o.Deadline) && now.Before(o.Deadline) {
		return o.Deadline.Add(time.Millisecond)
	}
	return at
}

// postpone has the order looked at later; no attempt was made.
func (w *Worker) postpone(ctx context.Context, o *Order, after time.Duration, cause error) error {
	return w.hold(ctx, w.deferral(o, after, cause))
}

// hold defers orders, and tells of them: readers see why they wait.
func (w *Worker) hold(ctx context.Context, later ...Deferral) error {
	err := w.o.Store.Defer(ctx, later)
	if changed := w.o.Stepper.o.Changed; changed != nil && len(later) > 0 {
		orders := make([]Order, len(later))
		for i := range later {
			orders[i] = Order{TenantID: later[i].TenantID, ID: later[i].OrderID}
		}
		changed(orders)
	}
	return err
}

func (w *Worker) deferral(o *Order, after time.Duration, cause error) Deferral {
	return Deferral{TenantID: o.TenantID, OrderID: o.ID, Version: o.Version, Until: w.pause(o, after), Reason: clip(cause.Error())}
}

// pause is until when an order waits for a provider that is not available: the
// longer it has waited, the longer, so that many who wait cost little. It is
// spread, so that what waited together does not come back together.
func (w *Worker) pause(o *Order, after time.Duration) time.Time {
	pause := min(max(after, w.o.Now().Sub(o.PlacedAt)/4, time.Second), backoffMost)
	return w.again(o, pause+rand.N(pause))
}

// putOff returns the orders that can be worked on now. While the payment provider
// is not available the others wait, all of them by one write.
func (w *Worker) putOff(ctx context.Context, due []Order) []Order {
	ok, after := w.o.Payments.Available()
	if ok {
		return due
	}
	var now []Order
	var later []Deferral
	for i := range due {
		if o := &due[i]; w.waitsForProvider(o) {
			later = append(later, w.deferral(o, after, ErrPaymentsUnavailable))
		} else {
			now = append(now, *o)
		}
	}
	if err := w.hold(ctx, later...); err != nil && ctx.Err() == nil {
		w.o.Logger.Error("orders that wait for the payment provider could not be put off; they come back with their lease", "orders", len(later), "error", err)
	}
	return now
}

func (w *Worker) waitsForProvider(o *Order) bool {
	switch o.Status {
	case Placed, Charging:
		return !w.late(o) // what is late can expire, or be cancelled
	case Cancelling, Refunding:
		return true
	}
	return false
}

// Backoff between failed attempts: it doubles from backoffFirst to backoffMost,
// and a random half of it is taken off ("equal jitter").
const (
	backoffFirst = 2 * time.Second
	backoffMost  = 5 * time.Minute
)

func backoff(attempt int) time.Duration {
	d := backoffMost
	if shift := attempt - 1; shift < 8 {
		d = min(backoffFirst<<shift, backoffMost)
	}
	return d/2 + rand.N(d/2)
}

// clip bounds what is kept of an error.
func clip(s string) string {
	const most = 500
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}
