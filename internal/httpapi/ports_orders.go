package httpapi

import (
	"context"
	"errors"
	"time"

	"millrace/internal/audit"
	"millrace/internal/catalog"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/order"
	"millrace/internal/payment"
	"millrace/internal/place"
)

// Orders is what can be asked of orders. *order.Service is one. Errors of all but
// Admit: order.ErrNotFound, *order.InvalidError, *order.Unavailable.
type Orders interface {
	// Admit says whether an order would be taken now, before its body is read. The
	// error is an *order.Unavailable.
	Admit() error
	// Place places an order. Further errors: *order.RefusedError, order.ErrKeyReused.
	// It may keep the request's strings.
	Place(ctx context.Context, r order.Request) (order.Receipt, error)

	// Cached returns an order, CachedList a page (order.ErrBadCursor) of those that the
	// viewer may see, as a cache may have them. Nothing in them may be changed.
	Cached(ctx context.Context, v order.Viewer, id string) (order.View, error)
	CachedList(ctx context.Context, v order.Viewer, q order.Query) (order.ListView, error)
	// Order returns the order as the store has it.
	Order(ctx context.Context, v order.Viewer, id string) (order.Order, error)
	// WaitStatus returns the order once its version is not the given one (0: once its
	// status is terminal), or as it stands when wait is over or ctx ends.
	WaitStatus(ctx context.Context, v order.Viewer, id string, version int64, wait time.Duration) (order.Order, error)
	History(ctx context.Context, v order.Viewer, id string) ([]order.HistoryEntry, error)

	// The commands. *order.NotAllowedError when the order's status does not take it;
	// what has happened already is no error.
	Cancel(ctx context.Context, c order.Command) (order.Order, error)
	// Refund's further error is order.ErrKeyReused.
	Refund(ctx context.Context, r order.RefundRequest) (order.RefundReceipt, error)
	Ship(ctx context.Context, r order.ShipRequest) (order.Order, error)
	Deliver(ctx context.Context, c order.Command) (order.Order, error)
	// Redrive has a parked order worked on again.
	Redrive(ctx context.Context, c order.Command) (order.Order, error)
	// SettleByHand records that the money of a parked order went back by another way.
	SettleByHand(ctx context.Context, c order.Command) (order.Order, error)
}

// Catalog is the products. *catalog.Service is one.
type Catalog interface {
	// Put writes products; each has its own result and error, *catalog.InvalidError,
	// catalog.ErrVersion with the product as it stands in the result,
	// catalog.ErrSlugTaken with the product that has the slug, or catalog.ErrNotFound if
	// there is nothing to delete. The last error is of the whole.
	Put(ctx context.Context, puts []catalog.Put) ([]catalog.PutResult, []error, error)
	// Get, BySlug and List answer with Items whose Body RenderProduct made; they are
	// shared and must not be changed. Errors: catalog.ErrNotFound, catalog.ErrLoading,
	// catalog.ErrBadCursor, *catalog.InvalidError.
	Get(ctx context.Context, tenantID, sku string) (*catalog.Item, error)
	BySlug(ctx context.Context, tenantID, slug string) (*catalog.Item, error)
	List(ctx context.Context, q catalog.Query) (catalog.Page, error)
	Prices(ctx context.Context, tenantID, sku string, limit int) ([]catalog.Price, error)
}

// Places is where things can be shipped to. *place.Service is one. Errors:
// place.ErrLoading, *place.InvalidError.
type Places interface {
	// Put writes places; each has its own result and error, *place.InvalidError. The
	// last error is of the whole.
	Put(ctx context.Context, p place.Put) ([]place.PutResult, []error, error)
	// Get returns a place in the first of languages that it has a name in, else in the
	// default, else in any; place.ErrNotFound.
	Get(ctx context.Context, id int64, languages []string) (*place.Localized, error)
	Search(ctx context.Context, q place.Query) ([]*place.Localized, error)
}

// Stock is how much there is. *inventory.Service is one. Errors: those of
// inventory.Store and *inventory.InvalidError.
type Stock interface {
	Set(ctx context.Context, s inventory.Set) (inventory.Level, error)
	Adjust(ctx context.Context, a inventory.Adjustment) (level inventory.Level, replayed bool, err error)
	Import(ctx context.Context, lines []inventory.ImportLine) ([]inventory.ImportResult, error)
	Get(ctx context.Context, tenantID, sku string) (inventory.Level, error)
	List(ctx context.Context, q inventory.Query) (inventory.Page, error)
}

// AuditLog is the record of administrative actions. *audit.Log is one.
type AuditLog interface {
	Entries(ctx context.Context, q audit.Query) (audit.Page, error)
}

// WebhookEndpoints is where a tenant wants to be told of its orders.
// *fulfilment.Service is one.
type WebhookEndpoints interface {
	// PutEndpoint creates or replaces an endpoint; ifVersion: 0 any, -1 must not
	// exist.
	PutEndpoint(ctx context.Context, tenantID, id string, r fulfilment.EndpointRequest, ifVersion int64, by audit.Actor) (fulfilment.PutResult, error)
	Endpoint(ctx context.Context, tenantID, id string) (fulfilment.Endpoint, error)
	Endpoints(ctx context.Context, tenantID string) ([]fulfilment.Endpoint, error)
	DeleteEndpoint(ctx context.Context, tenantID, id string, by audit.Actor) error
	Deliveries(ctx context.Context, tenantID, endpointID string, limit int, cursor string) ([]fulfilment.Delivery, string, error)
}

// PaymentNotices takes what the payment provider tells by itself.
type PaymentNotices interface {
	// Notice verifies one delivery and acts on it; one that means nothing to us is no
	// error. A *payment.RejectedError says that it is not genuine or cannot be read;
	// after any other error the provider should send it again.
	Notice(ctx context.Context, payload []byte, signature string) error
}

// SandboxLedger is the books of the payment sandbox.
type SandboxLedger interface {
	// Charges lists a tenant's charges in the order in which they began. next is
	// empty at the end; a page may hold less than limit and not be the last. The error
	// wraps ErrBadCursor if the cursor is not one it gave.
	Charges(ctx context.Context, tenantID, cursor string, limit int) (page []SandboxCharge, next string, err error)
}

// ErrBadCursor says that a cursor is not one a SandboxLedger gave.
var ErrBadCursor = errors.New("cursor is not one this server gave")

// SandboxCharge is one charge in the sandbox's books. Amounts are minor units.
type SandboxCharge struct {
	// Key is the charge's idempotency key, Ref the sandbox's id of it.
	Key, Ref, OrderID string
	State             payment.State
	// Amount is what was asked for: it moved only if State is captured. Refunded is
	// the sum of Refunds.
	Amount, Refunded int64
	Currency         string
	// Reason says why it was declined.
	Reason  string
	Refunds []SandboxRefund
	// At is when the sandbox first heard of it.
	At time.Time
}

// SandboxRefund is one refund of a SandboxCharge.
type SandboxRefund struct {
	Key, Ref string
	Amount   int64
}
