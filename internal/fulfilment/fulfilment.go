// Package fulfilment tells the merchant what became of an order, by webhooks
// signed as Standard Webhooks says (https://www.standardwebhooks.com).
//
// A notice is handed over once for each of the tenant's endpoints that wants its
// type: that delivery is a row in the store before anyone counts on it. From there
// a Dispatcher tries it, again and again over hours, until the endpoint answers
// 2xx, is disabled, or the schedule ends and the delivery becomes a dead letter.
//
//	Service.Notify (coalesces) ─▶ Store.Enqueue
//	                                  │ due
//	Dispatcher ◀─ Store.Claim ────────┘   claims are leases: what a crash left is
//	    │ POST, one bulkhead an endpoint  claimed again, under the same webhook-id
//	    └▶ Store.Settle (coalesces) ─▶ delivered · due again · dead letter
//
// Deliveries come at least once and in no promised order.
//
// Concurrency: Service is safe for concurrent use. A Dispatcher has one goroutine
// that decides and one for each attempt under way; both are bounded.
//
// Lifecycle: New starts the Service's coalescer and Close ends it. Dispatcher.Run
// works until its context ends, then gives back what it has claimed and not tried.
// Close the Service after Run has returned.
package fulfilment

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
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

// EventTypes returns every event type there is.
func EventTypes() []string {
	return []string{EventOrderPlaced, EventOrderPaid, EventOrderCancelled, EventOrderExpired,
		EventOrderShipped, EventOrderCompleted, EventOrderRefunded, EventPaymentFailed}
}

// DefaultEvents returns what an endpoint gets that asks for nothing in
// particular: what shipping needs.
func DefaultEvents() []string { return []string{EventOrderPaid, EventOrderCancelled} }

// Notice is something the merchant is to be told.
type Notice struct {
	TenantID string
	// ID is the same whenever the same thing is told: a delivery's id is made from it,
	// OrderID and the endpoint's id, so handing a notice over twice makes no second
	// delivery. The first hand-over's At, Data and Trace stay.
	ID        string
	EventType string
	// OrderID is the order it speaks of.
	OrderID string
	// At is when it happened, the "timestamp" of the webhook's body.
	At time.Time
	// Data is the JSON object that stands as "data" in the webhook's body, at most
	// MaxDataBytes.
	Data json.RawMessage
	// Trace is the W3C traceparent of the cause, empty if unknown.
	Trace string
}

// Secret is a key that signs. It does not show itself in logs or JSON.
type Secret struct {
	// Key is "whsec_" and base64 of 24 to 64 bytes; empty where a Service answers.
	Key string
	// ExpiresAt is when it stops signing; zero for the current one.
	ExpiresAt time.Time
}

// String hides the key.
func (s Secret) String() string { return "whsec_[hidden]" }

// GoString hides the key.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the key.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON hides the key.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Endpoint is where a tenant wants to be told.
type Endpoint struct {
	TenantID string
	// ID is the tenant's own name for it: 1 to 64 of a-z A-Z 0-9 . _ -.
	ID  string
	URL string
	// Events are the types it wants, at least one.
	Events []string
	// Secrets sign: the first is the current one; the others are still signed with
	// until they expire, so that a receiver can change over without a gap.
	Secrets []Secret
	Version int64
	// DisabledAt is not zero when nothing is sent: the endpoint answered 410, or the
	// tenant switched it off. DisabledReason says which.
	DisabledAt           time.Time
	DisabledReason       string
	CreatedAt, UpdatedAt time.Time
}

// Disabled reports whether nothing is sent to it.
func (e *Endpoint) Disabled() bool { return !e.DisabledAt.IsZero() }

// EndpointRef names an endpoint.
type EndpointRef struct{ TenantID, EndpointID string }

// Delivery is one notice on its way to one endpoint.
type Delivery struct {
	TenantID, ID, EndpointID string
	EventType, OrderID       string
	// Payload is the whole body as it is signed and sent.
	Payload json.RawMessage
	// CreatedAt is when it was created or last revived. It is for the endpoint of
	// EndpointID that was there then, not for one of the same id that came later.
	CreatedAt time.Time
	// Attempts counts the attempts since then.
	Attempts    int
	NextAttempt time.Time // zero: settled
	DeliveredAt time.Time // zero: not delivered
	LastStatus  int       // HTTP status, 0 if there was no answer
	LastError   string
	Trace       string
}

// Outcome is what an attempt led to.
type Outcome int

// The outcomes there are.
const (
	// OutcomeDelivered: the endpoint took it.
	OutcomeDelivered Outcome = iota + 1
	// OutcomeRetry: it failed and is due again at RetryAt.
	OutcomeRetry
	// OutcomeGaveUp: it failed for the last time.
	OutcomeGaveUp
	// OutcomeReleased: the attempt was not made. It does not count, and the delivery
	// is due again at RetryAt.
	OutcomeReleased
)

// Settlement is what one attempt led to.
type Settlement struct {
	TenantID, DeliveryID string
	// Attempt is Delivery.Attempts as it was claimed. A settlement of a delivery that
	// has another number by now, or is settled, changes nothing.
	Attempt int
	// At is when the attempt ended.
	At      time.Time
	Outcome Outcome
	// RetryAt is for OutcomeRetry and OutcomeReleased.
	RetryAt time.Time
	// Status is the HTTP status, 0 if there was no answer. Error is empty when it was
	// delivered. Both are kept on the delivery, but not those of OutcomeReleased.
	Status int
	Error  string
	// Letter, with OutcomeGaveUp, leaves a dead letter with Error as its reason.
	Letter bool
	// Disable is not nil when the endpoint is to be switched off.
	Disable *Disable
}

// Disable asks to switch off an endpoint in the version that was tried, unless it
// has changed or is off since, or is another of the same id: then CreatedAt differs.
type Disable struct {
	EndpointRef
	Version   int64
	CreatedAt time.Time
	Reason    string
}

// Share is how many deliveries of an endpoint there is room for.
type Share struct {
	EndpointRef
	Limit int
}

// Store keeps endpoints and deliveries. It is safe for concurrent use.
type Store interface {
	// PutEndpoint creates or replaces an endpoint and gives it its next version, with
	// an audit entry ("webhook-endpoint.put", without secrets) in the same
	// transaction. created says that there was none. ifVersion: 0 any, -1 must not
	// exist; ErrVersion if it does not hold. ErrTooManyEndpoints beyond MaxEndpoints.
	// CreatedAt of an endpoint that is there stays.
	PutEndpoint(ctx context.Context, e Endpoint, ifVersion int64, now time.Time, by audit.Actor) (put Endpoint, created bool, err error)
	// DeleteEndpoint removes an endpoint, with an audit entry
	// ("webhook-endpoint.delete"), and gives up its unsettled deliveries in the same
	// transaction, with dead letters that have DeletedReason. What is beyond
	// MaxGivenUpAtOnce stays due: it is given up when it is tried. ErrNotFound if the
	// tenant has no such endpoint.
	DeleteEndpoint(ctx context.Context, tenantID, id string, now time.Time, by audit.Actor) error
	// Endpoint returns one endpoint, ErrNotFound if the tenant has no such endpoint.
	Endpoint(ctx context.Context, tenantID, id string) (Endpoint, error)
	// Endpoints returns all of a tenant's endpoints by id; there are at most MaxEndpoints.
	Endpoints(ctx context.Context, tenantID string) ([]Endpoint, error)

	// Enqueue writes deliveries that are not there yet, in one durable transaction.
	// One that is there is left as it is.
	Enqueue(ctx context.Context, deliveries []Delivery) error
	// Backlog looks at limit endpoints that have unsettled deliveries, in order of
	// (tenant, endpoint) beginning behind after, and returns those with a delivery
	// due at now. next is where to go on, zero at the end.
	Backlog(ctx context.Context, now time.Time, after EndpointRef, limit int) (due []EndpointRef, next EndpointRef, err error)
	// Claim returns, for each share, the deliveries that are due longest at now, at
	// most its limit. It moves their next attempt to until, so that nobody else claims
	// them before, and adds one to their Attempts: what it returns counts the attempt
	// about to be made.
	Claim(ctx context.Context, now, until time.Time, shares []Share) ([]Delivery, error)
	// Settle writes the outcome of attempts in one durable transaction: the
	// deliveries, dead letters (deadletter.KindDelivery, see LetterOf) and endpoints
	// that are switched off, with their audit entry ("webhook-endpoint.disable").
	Settle(ctx context.Context, settlements []Settlement) error
	// Due counts the deliveries that are due at now, and those whose next attempt is
	// after horizon: further away than anything the program writes, which is what a
	// clock that was wrong leaves behind.
	Due(ctx context.Context, now, horizon time.Time) (due, beyond int, err error)
	// Recall makes deliveries due at now whose next attempt is after horizon, at most
	// limit, and returns how many.
	Recall(ctx context.Context, now, horizon time.Time, limit int) (int, error)
	// Deliveries lists a tenant's deliveries by id, descending: those of the newest
	// orders first. Empty endpointID means all. ErrBadCursor if the cursor is not one
	// it gave.
	Deliveries(ctx context.Context, tenantID, endpointID string, limit int, cursor string) (page []Delivery, next string, err error)
	// Revive makes a delivery that was given up due at d.NextAttempt again, with
	// d.Payload, d.CreatedAt and no attempts, or writes d if there is none. One that is
	// delivered or still tried is left as it is.
	Revive(ctx context.Context, d Delivery) error
	// DropSettled removes settled deliveries created before t, at most limit, and
	// returns how many.
	DropSettled(ctx context.Context, t time.Time, limit int) (int, error)
}

// Bounds.
const (
	// MaxEndpoints bounds the endpoints of one tenant.
	MaxEndpoints = 50
	// MaxGivenUpAtOnce bounds the deliveries that are given up in the transaction that
	// deletes their endpoint: others wait for it.
	MaxGivenUpAtOnce = 2000
	// MaxURLBytes bounds an endpoint's URL.
	MaxURLBytes = 2000
	// MaxDataBytes bounds a notice's data.
	MaxDataBytes = 256 << 10
)

// Errors a Store answers with; test with errors.Is.
var (
	ErrNotFound         = errors.New("webhook endpoint not found")
	ErrBadCursor        = errors.New("cursor is not one this server gave")
	ErrVersion          = errors.New("the webhook endpoint has changed meanwhile")
	ErrTooManyEndpoints = errors.New("the tenant has as many webhook endpoints as there may be")
)

// InvalidError says what is wrong with an endpoint or a notice, by field.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }
