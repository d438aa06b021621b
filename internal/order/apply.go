package order

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/internal/audit"
)

// Step asks for a transition of one order.
type Step struct {
	TenantID, OrderID string
	Event             Event
	// At is when it happened, by the caller's clock.
	At time.Time
	// Actor is who did it: a subject, or System.
	Actor  string
	Reason string
	// IfVersion applies the step only to this version of the order; 0 means any.
	IfVersion int64
	// Trace is the W3C traceparent of the cause.
	Trace string
	// Audit has the store write an audit entry with the transition; nil means none.
	Audit *Audited
	// Claim makes the step once for a caller's idempotency key; nil means no key.
	Claim *Claim

	// PaymentRef belongs to captured and to attempt_failed: the provider's id of the
	// charge, as soon as it is known.
	// Amount belongs to captured (the amount taken), to charge_resolved (the amount
	// given back) and to refund_asked: zero asks for all that is left.
	PaymentRef string
	Amount     int64
	// RefundNumber belongs to refunded: which refund took place.
	RefundNumber int
	// Restock belongs to refund_asked.
	Restock bool
	// Shipment belongs to shipment_reported.
	Shipment *Shipment
	// RetryAt and Park belong to attempt_failed: when to try again, or that trying
	// again is pointless. RetryAt belongs to charge_withdrawn too.
	RetryAt time.Time
	Park    bool
}

// Audited says as what a step is audited.
type Audited struct {
	Actor audit.Actor
	// Action is the entry's action, such as "order.cancel".
	Action string
}

// System is the actor of what happens by itself.
const System = "millrace"

// Claim is a caller's idempotency key for a step.
type Claim struct {
	Scope, Subject, Key string
	Fingerprint         [32]byte
	// NotBefore is the time before which a stored key counts no more.
	NotBefore time.Time
}

// Policy sets the times and counts of the saga.
type Policy struct {
	// Lease is how long an order may stand still before the sweeper looks at it.
	Lease time.Duration
	// CompleteAfter is how long after its shipment an order counts as delivered.
	CompleteAfter time.Duration
	// MaxAttempts is the number of failed attempts after which an order is parked.
	MaxAttempts int
}

// Change is everything a transition writes besides the order itself.
type Change struct {
	Stock    []StockChange
	History  HistoryEntry
	Messages []Message
	// Audit is the entry for the audit log, nil if there is none.
	Audit *audit.Entry
	// Park says that the order was parked by this: a dead letter stands for it.
	Park bool
}

// StockChange changes the stock of one SKU.
type StockChange struct {
	SKU              string
	OnHand, Reserved int64 // deltas
}

// ErrAlready says that a step's effect is there: it came a second time.
var ErrAlready = errors.New("it has happened already")

// NotAllowedError says that an order in its status does not take an event.
type NotAllowedError struct {
	Status Status
	Event  Event
	Detail string
}

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("an order that is %s does not take %s: %s", e.Status, e.Event, e.Detail)
}

// Apply computes what a step makes of an order. It changes nothing itself and
// does no input or output. Errors: ErrAlready, *NotAllowedError, *InvalidError
// (an amount that is not there to refund). The order returned with an error is
// the one given.
func (p Policy) Apply(o Order, s *Step) (Order, Change, error) {
	if s.IfVersion != 0 && s.IfVersion != o.Version {
		return o, Change{}, &NotAllowedError{o.Status, s.Event, "the order has changed meanwhile"}
	}
	if s.Event == EventRedriven {
		return p.redrive(o, s)
	}
	row := find(o.Status, s.Event)
	if row == nil {
		return o, Change{}, refuse(&o, s)
	}
	next := o
	if err := record(&next, s, row); err != nil {
		return o, Change{}, err
	}
	next.Status = row.To
	if row.To == Then {
		next.Status = next.Progress.Then
	}
	if row.Then != "" {
		next.Progress.Then = row.Then
	}
	change := Change{}
	if s.Event == EventAttemptFailed {
		change.Park = p.fail(&next, s)
	} else {
		settle(&next, s)
		change.Stock = stockChanges(&o, &next, row.Stock)
	}
	p.finish(&o, &next, s, &change)
	return next, change, nil
}

// finish sets what every transition sets.
func (p Policy) finish(o, next *Order, s *Step, change *Change) {
	next.Version++
	next.UpdatedAt = s.At
	if next.UpdatedAt.Before(o.UpdatedAt) {
		next.UpdatedAt = o.UpdatedAt // a clock that was set back
	}
	if s.Event != EventAttemptFailed {
		next.NextAttempt = p.nextAttempt(next, s.At)
		if s.Event == EventChargeWithdrawn && !s.RetryAt.IsZero() {
			next.NextAttempt = s.RetryAt
		}
		next.ParkedAt = time.Time{}
		if next.Status != o.Status {
			next.Attempts, next.LastError = 0, ""
		}
	}
	change.History = HistoryEntry{Version: next.Version, At: next.UpdatedAt, Event: s.Event, From: o.Status, To: next.Status, Actor: s.Actor, Reason: s.Reason}
	change.Messages = messages(o, next, s)
	if s.Audit != nil {
		change.Audit = auditEntry(o, next, s)
	}
}

func auditEntry(before, after *Order, s *Step) *audit.Entry {
	show := func(o *Order) json.RawMessage {
		b, _ := json.Marshal(map[string]any{"status": o.Status, "version": o.Version, "captured": o.Captured, "refunded": o.Refunded}) // cannot fail
		return b
	}
	return &audit.Entry{ID: audit.NewID(after.UpdatedAt), TenantID: after.TenantID, At: after.UpdatedAt, Actor: s.Audit.Actor,
		Action: s.Audit.Action, Object: "order/" + after.ID, Before: show(before), After: show(after)}
}

// nextAttempt says when the sweeper should look at an order that has come to its
// status at a time, by the clock that the sweeper goes by too.
func (p Policy) nextAttempt(o *Order, at time.Time) time.Time {
	switch {
	case o.Status.Working():
		return at.Add(p.Lease)
	case o.Status == Shipped && o.Progress.Shipment != nil:
		return o.Progress.Shipment.At.Add(p.CompleteAfter)
	}
	return time.Time{}
}

// fail counts a failed attempt and says whether the order is parked by it.
func (p Policy) fail(o *Order, s *Step) (parked bool) {
	o.Attempts++
	o.LastError = s.Reason
	if s.PaymentRef != "" {
		o.Progress.PaymentRef = s.PaymentRef
	}
	o.NextAttempt = s.RetryAt
	if o.Attempts < p.MaxAttempts && !s.Park {
		return false
	}
	o.ParkedAt, o.NextAttempt = s.At, time.Time{}
	return true
}

// redrive puts a parked order back on the road.
func (p Policy) redrive(o Order, s *Step) (Order, Change, error) {
	if !o.Parked() {
		return o, Change{}, ErrAlready
	}
	next, change := o, Change{}
	next.Attempts = 0
	p.finish(&o, &next, s, &change)
	return next, change, nil
}

// record takes over what the step says, and checks it.
func record(o *Order, s *Step, row *Transition) error {
	switch s.Event {
	case EventChargeIntended:
		if !o.Deadline.IsZero() && s.At.After(o.Deadline) {
			return &NotAllowedError{o.Status, s.Event, "its deadline has passed"}
		}
	case EventCaptured:
		if o.Captured > 0 {
			return ErrAlready
		}
		if s.Amount <= 0 || s.Amount > o.Total {
			return &InvalidError{"amount", fmt.Sprintf("%d was captured of an order of %d", s.Amount, o.Total)}
		}
		o.Captured, o.Progress.PaymentRef = s.Amount, s.PaymentRef
	case EventChargeResolved:
		if s.Amount != o.Captured-o.Refunded {
			return &NotAllowedError{o.Status, s.Event, fmt.Sprintf("%d of %d captured were given back", s.Amount, o.Captured)}
		}
		o.Refunded += s.Amount
	case EventDeclined:
		if o.Captured > o.Refunded {
			return &NotAllowedError{o.Status, s.Event, "the charge was captured"}
		}
		o.Progress.Reason = s.Reason
	case EventCancelAsked:
		o.Progress.Reason = s.Reason
		if row.To == Refunding {
			o.Progress.Refund = Refund{Number: o.Progress.Refund.Number + 1, Amount: o.Captured - o.Refunded}
		}
	case EventRefundAsked:
		return recordRefundAsked(o, s)
	case EventRefunded:
		if s.RefundNumber != o.Progress.Refund.Number {
			return ErrAlready // of an earlier refund
		}
		o.Refunded += o.Progress.Refund.Amount
	case EventSettledByHand:
		return recordSettledByHand(o, s)
	case EventShipped:
		shipment := Shipment{}
		if s.Shipment != nil {
			shipment = *s.Shipment
		}
		shipment.At = s.At
		o.Progress.Shipment = &shipment
	case EventDelivered:
		if o.Progress.Shipment == nil {
			return &NotAllowedError{o.Status, s.Event, "it was never shipped"}
		}
		if o.Status == Refunding && o.Progress.Then == Completed {
			return ErrAlready
		}
		o.Progress.DeliveredAt = s.At
	}
	return nil
}

// recordSettledByHand takes a person's word for it that the money went back by
// another way. Only a parked order takes it: nothing is under way then.
func recordSettledByHand(o *Order, s *Step) error {
	if !o.Parked() {
		return &NotAllowedError{o.Status, s.Event, "it is still being worked on; only an order that is parked can be settled by hand"}
	}
	back := o.Captured - o.Refunded
	if o.Status == Refunding {
		back = o.Progress.Refund.Amount
	}
	o.Refunded += back
	return nil
}

func recordRefundAsked(o *Order, s *Step) error {
	left := o.Captured - o.Refunded
	amount := s.Amount
	if amount == 0 {
		amount = left
	}
	switch {
	case left == 0:
		return &NotAllowedError{o.Status, s.Event, "everything was refunded already"}
	case amount < 0 || amount > left:
		return &InvalidError{"amount", fmt.Sprintf("give 1 to %d, what was captured and not refunded, or leave it out for all of it", left)}
	case s.Restock && o.Progress.Restocked:
		return &InvalidError{"restock", "the goods were put back in stock by an earlier refund"}
	}
	o.Progress.Refund = Refund{Number: o.Progress.Refund.Number + 1, Amount: amount, Restock: s.Restock}
	if s.Reason != "" {
		o.Progress.Reason = s.Reason
	}
	return nil
}

// settle decides where an order goes that had to remember it.
func settle(o *Order, s *Step) {
	if (s.Event == EventRefunded || s.Event == EventSettledByHand && o.Status != Cancelled && o.Status != Expired) && o.Refunded == o.Captured {
		o.Status = Refunded
	}
	if o.Status != Cancelling && o.Status != Refunding {
		o.Progress.Then = ""
	}
}

func stockChanges(before, after *Order, effect StockEffect) []StockChange {
	var onHand, reserved int64 // per unit
	switch effect {
	case StockReserve:
		reserved = 1
	case StockRelease:
		reserved = -1
	case StockShip:
		onHand, reserved = -1, -1
	case StockSettle:
		switch {
		case before.Progress.Shipment == nil:
			reserved = -1
		case before.Progress.Refund.Restock:
			onHand = 1
			after.Progress.Restocked = true
		default:
			return nil
		}
	default:
		return nil
	}
	changes := make([]StockChange, len(before.Lines))
	for i, l := range before.Lines {
		changes[i] = StockChange{SKU: l.SKU, OnHand: onHand * l.Quantity, Reserved: reserved * l.Quantity}
	}
	return changes
}

// refuse says why an order does not take an event: because it has had it, or
// because it is too late or too early.
func refuse(o *Order, s *Step) error {
	if hasHad(o, s) {
		return ErrAlready
	}
	detail := "it is too late for that"
	switch s.Event {
	case EventCancelAsked:
		switch o.Status {
		case Shipped, Completed:
			detail = "it has been shipped; ask for a refund instead"
		case Refunding, Refunded:
			detail = "it was shipped and is being refunded, or has been"
		case PaymentFailed:
			detail = "its payment failed, so nothing is left to cancel"
		}
	case EventRefundAsked:
		switch o.Status {
		case Refunding:
			detail = "another refund is under way; try again when it is settled"
		case Refunded:
			detail = "everything was refunded already"
		default:
			detail = "nothing has been shipped; cancel it instead"
		}
	case EventShipped:
		switch o.Status {
		case Placed, Charging:
			detail = "it is not paid yet"
		default:
			detail = "it was cancelled, so nothing must be shipped"
		}
	case EventDelivered:
		detail = "it was never shipped"
		if o.Progress.Shipment != nil {
			detail = "it was refunded"
		}
	case EventCaptured:
		detail = "it is not being charged"
	}
	return &NotAllowedError{o.Status, s.Event, detail}
}

// hasHad says whether an event's effect can be seen in the order.
func hasHad(o *Order, s *Step) bool {
	cancelled := o.Status == Cancelled || o.Status == Cancelling || o.Progress.Shipment == nil && (o.Status == Refunding || o.Status == Refunded)
	switch s.Event {
	case EventPlaced:
		return true
	case EventChargeIntended:
		return o.Status != Placed
	case EventCaptured:
		return o.Captured > 0
	case EventDeclined:
		return o.Status == PaymentFailed
	case EventCancelAsked:
		return cancelled
	case EventDeadline:
		return o.Status == Expired || o.Status == Cancelling
	case EventChargeResolved:
		return o.Status == Cancelled || o.Status == Expired
	case EventSent:
		return o.Status != Placed && o.Status != Charging
	case EventShipped:
		return o.Progress.Shipment != nil
	case EventDelivered, EventCompletionDue:
		return o.Status == Completed || !o.Progress.DeliveredAt.IsZero()
	case EventRefunded:
		return o.Status != Refunding
	case EventChargeWithdrawn:
		return o.Status == Placed
	}
	return false
}
