// Package fulfilment tells the merchant what became of an order, by webhooks
// signed as Standard Webhooks says (https://www.standardwebhooks.com).
//
// A notice is handed over once for each of the tenant's endpoints that wants its
// type: that delivery is a row in the store before anyone counts on it. From there
// a Dispatcher tries it, again and again over hours, until the endpoint answers
// 2xx, is disabled, or the schedule ends and the delivery becomes a dead letter.
package fulfilment

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"millrace/internal/audit"
)

// Event types a notice can have; an endpoint asks for the ones it wants.
const (
	EventOrderPlaced    = "order.placed"
	EventOrderPaid      = "order.paid"
	EventOrderCancelled = "order.cancelled"
	EventOrderExpired   = "order.expired"
	EventOrderShipped   = "order.shipped"
	EventOrderCompleted = "order.completed"
	EventOrderRefunded  = "order.refunded"
	EventPaymentFailed  = "order.payment_failed"
)

// Notice is something the merchant is to be told.
type Notice struct {
	TenantID string
	// ID is the same whenever the same thing is told: a delivery's id is made from it
	// and the endpoint's, so handing a notice over twice makes no second delivery.
	ID        string
	EventType string
	// OrderID is the order it speaks of.
	OrderID string
	At      time.Time
	// Data is the JSON object that stands as "data" in the webhook's body.
	Data json.RawMessage
	// Trace is the W3C traceparent of the cause, empty if unknown.
	Trace string
}

// Endpoint is where a tenant wants to be told.
type Endpoint struct {
	TenantID string
	// ID is the tenant's own name for it: 1 to 64 of a-z A-Z 0-9 . _ -.
	ID  string
	URL string
	// Events are the types it wants; empty means order.paid and order.cancelled,
	// which is what shipping needs.
	Events []string
	// Secrets sign: the first is the current one; the others are still signed with,
	// so that a receiver can change over without a gap. "whsec_" and base64.
	Secrets []string
	Version int64
	// DisabledAt is not zero when nothing is sent: the endpoint answered 410, or the
	// tenant switched it off. Reason says which.
	DisabledAt           time.Time
	DisabledReason       string
	CreatedAt, UpdatedAt time.Time
}

// Delivery is one notice on its way to one endpoint.
type Delivery struct {
	TenantID, ID, EndpointID string
	EventType, OrderID       string
	// Payload is the whole body as it is signed and sent.
	Payload     json.RawMessage
	CreatedAt   time.Time
	Attempts    int
	NextAttempt time.Time // zero: settled
	DeliveredAt time.Time // zero: not delivered
	LastStatus  int       // HTTP status, 0 if there was no answer
	LastError   string
	Trace       string
}

// Settlement is what one attempt led to.
type Settlement struct {
	TenantID, DeliveryID string
	// Attempt is the number of this attempt; a settlement of an older one is ignored.
	Attempt   int
	At        time.Time
	Delivered bool
	// RetryAt is when to try again; zero together with !Delivered gives up: Letter
	// then stands in its place.
	RetryAt time.Time
	Status  int
	Error   string
	// Letter becomes a dead letter in the same transaction when the delivery gives
	// up; its fields are those of deadletter.Letter that are known.
	GiveUp       bool
	GiveUpReason string
	// DisableEndpoint switches the endpoint off in the same transaction.
	DisableEndpoint       bool
	DisableEndpointReason string
}

// Store keeps endpoints and deliveries. It is safe for concurrent use.
type Store interface {
	// PutEndpoint creates or replaces an endpoint, with an audit entry
	// ("webhook-endpoint.put", without secrets) in the same transaction. ifVersion: 0
	// any, -1 must not exist. ErrVersion if it does not hold.
	PutEndpoint(ctx context.Context, e Endpoint, ifVersion int64, now time.Time, by audit.Actor) (Endpoint, bool, error)
	DeleteEndpoint(ctx context.Context, tenantID, id string, now time.Time, by audit.Actor) error
	Endpoint(ctx context.Context, tenantID, id string) (Endpoint, error)
	// Endpoints returns all of a tenant's endpoints by id; there are at most MaxEndpoints.
	Endpoints(ctx context.Context, tenantID string) ([]Endpoint, error)

	// Enqueue writes deliveries that are not there yet, in one durable transaction.
	Enqueue(ctx context.Context, deliveries []Delivery) error
	// Claim returns deliveries that are due at now, oldest due first, at most limit, and
	// moves their next attempt to until, so that nobody else claims them before;
	// Attempts of what it returns counts the attempt about to be made.
	Claim(ctx context.Context, now, until time.Time, limit int) ([]Delivery, error)
	// Settle writes the outcome of attempts in one durable transaction.
	Settle(ctx context.Context, settlements []Settlement) error
	// Deliveries lists a tenant's deliveries, newest first; empty endpointID means all.
	Deliveries(ctx context.Context, tenantID, endpointID string, limit int, cursor string) ([]Delivery, string, error)
	// Revive makes a delivery due again from a dead letter (it may have been settled).
	Revive(ctx context.Context, d Delivery) error
	// DropSettled removes settled deliveries created before t, at most limit.
	DropSettled(ctx context.Context, t time.Time, limit int) (int, error)
}

// MaxEndpoints bounds the endpoints of one tenant.
const MaxEndpoints = 50

// Errors a Store answers with; test with errors.Is.
var (
	ErrNotFound         = errors.New("webhook endpoint not found")
	ErrBadCursor        = errors.New("cursor is not one this server gave")
	ErrVersion          = errors.New("the webhook endpoint has changed meanwhile")
	ErrTooManyEndpoints = errors.New("the tenant has as many webhook endpoints as there may be")
)

// InvalidError says what is wrong with an endpoint, by field.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }
