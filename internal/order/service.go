package order

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"millrace/internal/audit"
)

// Viewer is who looks at orders. With an empty CustomerID it sees the tenant's;
// else only that customer's, and any other is ErrNotFound.
type Viewer struct{ TenantID, CustomerID string }

// Command is what someone asks to happen to an order.
type Command struct {
	Viewer
	OrderID string
	// Reason is free text, for the history.
	Reason string
	Trace  string
	Actor  audit.Actor
}

// RefundRequest asks to give money back for a shipped order.
type RefundRequest struct {
	Command
	// Key is the Idempotency-Key.
	Key string
	// Amount in minor units; 0 means all that is left.
	Amount int64
	// Restock puts the goods back on the shelf.
	Restock bool
}

// RefundReceipt is the answer to a refund that was asked for.
type RefundReceipt struct {
	Order    Order
	Refund   Refund
	Replayed bool
}

// ShipRequest reports a shipment.
type ShipRequest struct {
	Command
	Shipment Shipment
}

// ServiceOptions are what a Service stands on. Store, Placer and Stepper are
// required.
type ServiceOptions struct {
	Store   Store
	Placer  *Placer
	Stepper *Stepper
	// KeyTTL is how long an idempotency key counts; 24 h.
	KeyTTL time.Duration
	Now    func() time.Time
	// Expiry is the clock by which keys expire; Now if nil.
	Expiry  func() time.Time
	Metrics *Metrics
	// Cache answers Cached and CachedList; nil means that the store does. Its Changed
	// must be the Placer's and the Stepper's, or readers here miss what was written here.
	Cache *Reads
}

// Service is what can be asked of orders from outside. It is safe for concurrent
// use.
type Service struct{ o ServiceOptions }

// NewService returns a Service.
func NewService(o ServiceOptions) (*Service, error) {
	if o.Store == nil || o.Placer == nil || o.Stepper == nil {
		return nil, errors.New("order: ServiceOptions need Store, Placer and Stepper")
	}
	setDefault(&o.KeyTTL, 24*time.Hour)
	logger := o.Placer.o.Logger
	fillCommon(&o.Now, &logger, &o.Metrics)
	if o.Expiry == nil {
		o.Expiry = o.Now
	}
	return &Service{o: o}, nil
}

// Admit says whether an order would be taken now. See Placer.Admit.
func (s *Service) Admit() error { return s.o.Placer.Admit() }

// Place places an order. See Placer.Place.
func (s *Service) Place(ctx context.Context, r Request) (Receipt, error) {
	return s.o.Placer.Place(ctx, r)
}

// Order returns an order that the viewer may see; ErrNotFound otherwise.
func (s *Service) Order(ctx context.Context, v Viewer, id string) (Order, error) {
	o, err := s.o.Store.Order(ctx, v.TenantID, id)
	if err == nil && v.CustomerID != "" && o.CustomerID != v.CustomerID {
		return Order{}, ErrNotFound
	}
	return o, err
}

// History returns the transitions of an order that the viewer may see.
func (s *Service) History(ctx context.Context, v Viewer, id string) ([]HistoryEntry, error) {
	if _, err := s.Order(ctx, v, id); err != nil {
		return nil, err
	}
	return s.o.Store.History(ctx, v.TenantID, id)
}

// List returns a page of the orders that the viewer may see.
func (s *Service) List(ctx context.Context, v Viewer, q Query) (Page, error) {
	q, any := seenBy(v, q)
	if !any {
		return Page{}, nil
	}
	return s.o.Store.Orders(ctx, q)
}

// seenBy confines a query to what the viewer may see; any is false if that is nothing.
func seenBy(v Viewer, q Query) (confined Query, any bool) {
	q.TenantID = v.TenantID
	if v.CustomerID != "" {
		if q.CustomerID != "" && q.CustomerID != v.CustomerID {
			return q, false
		}
		q.CustomerID = v.CustomerID
	}
	return q, true
}

// Cancel cancels an order, which undoes whatever was done for it. Cancelling what
// is cancelled is no error. *NotAllowedError if it is too late.
func (s *Service) Cancel(ctx context.Context, c Command) (Order, error) {
	if err := checkText("reason", c.Reason); err != nil {
		return Order{}, err
	}
	return s.command(ctx, &c, Step{Event: EventCancelAsked}, "order.cancel")
}

// Ship reports that the order is on its way. Reporting it again is no error, and
// changes nothing.
func (s *Service) Ship(ctx context.Context, r ShipRequest) (Order, error) {
	for field, text := range map[string]string{"carrier": r.Shipment.Carrier, "trackingNumber": r.Shipment.TrackingNumber, "trackingUrl": r.Shipment.TrackingURL} {
		if err := checkText(field, text); err != nil {
			return Order{}, err
		}
	}
	return s.command(ctx, &r.Command, Step{Event: EventShipped, Shipment: &r.Shipment}, "order.ship")
}

// Deliver reports that the order has arrived. Reporting it again is no error.
func (s *Service) Deliver(ctx context.Context, c Command) (Order, error) {
	return s.command(ctx, &c, Step{Event: EventDelivered}, "order.deliver")
}

// Redrive has a parked order worked on again, whether its dead letter is still
// there or not. An order that is not parked is returned as it is.
func (s *Service) Redrive(ctx context.Context, c Command) (Order, error) {
	return s.command(ctx, &c, Step{Event: EventRedriven}, "order.redrive")
}

// SettleByHand records that the money of a parked order, which the provider
// refuses to give back, went back by another way. A reason is required.
func (s *Service) SettleByHand(ctx context.Context, c Command) (Order, error) {
	if c.Reason == "" {
		return Order{}, &InvalidError{"reason", "say how the money went back; it stands in the history and the audit log"}
	}
	if err := checkText("reason", c.Reason); err != nil {
		return Order{}, err
	}
	return s.command(ctx, &c, Step{Event: EventSettledByHand}, "order.settle-by-hand")
}

// Refund asks to give money back. The same key with the same request asks once.
func (s *Service) Refund(ctx context.Context, r RefundRequest) (RefundReceipt, error) {
	if err := checkKey(r.Key); err != nil {
		return RefundReceipt{}, err
	}
	if err := checkText("reason", r.Reason); err != nil {
		return RefundReceipt{}, err
	}
	if r.Amount < 0 {
		return RefundReceipt{}, &InvalidError{"amount", "give an amount above zero in minor units, or leave it out for all that is left"}
	}
	if _, err := s.Order(ctx, r.Viewer, r.OrderID); err != nil {
		return RefundReceipt{}, err
	}
	f := fingerprinter{Hash: sha256.New()}
	f.text(r.OrderID)
	f.number(r.Amount)
	f.text(fmt.Sprint(r.Restock))
	f.text(r.Reason)
	step := s.step(&r.Command, Step{Event: EventRefundAsked, Amount: r.Amount, Restock: r.Restock}, "order.refund")
	step.Claim = &Claim{Scope: ScopeRefund, Subject: r.Actor.Subject, Key: r.Key, Fingerprint: f.sum(), NotBefore: s.o.Expiry().UTC().Add(-s.o.KeyTTL)}
	out, err := s.o.Stepper.Do(ctx, step)
	if err == nil {
		err = out.Err
	}
	if err != nil {
		return RefundReceipt{}, err
	}
	receipt := RefundReceipt{Order: out.Order, Refund: out.Order.Progress.Refund, Replayed: out.Replayed}
	if out.Replayed {
		receipt.Refund, err = parseRefundAnswer(out.Answer)
		return receipt, err
	}
	return receipt, nil
}

// step completes a step that someone asked for. What a buyer does to an own order
// stands in its history; what anyone else does is audited too.
func (s *Service) step(c *Command, step Step, action string) Step {
	step.TenantID, step.OrderID, step.At = c.TenantID, c.OrderID, s.o.Now().UTC()
	step.Actor, step.Reason, step.Trace = c.Actor.Subject, c.Reason, c.Trace
	if c.CustomerID == "" {
		step.Audit = &Audited{Actor: c.Actor, Action: action}
	}
	return step
}

// command makes a step that someone asked for; one that has happened already is
// no error.
func (s *Service) command(ctx context.Context, c *Command, step Step, action string) (Order, error) {
	if _, err := s.Order(ctx, c.Viewer, c.OrderID); err != nil {
		return Order{}, err
	}
	out, err := s.o.Stepper.Do(ctx, s.step(c, step, action))
	switch {
	case err != nil:
		return Order{}, err
	case errors.Is(out.Err, ErrAlready):
		return out.Order, nil
	case out.Err != nil:
		return Order{}, out.Err
	}
	return out.Order, nil
}
