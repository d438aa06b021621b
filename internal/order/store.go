package order

import (
	"context"
	"time"
)

// Placement is one order on its way into the store, and what became of it.
type Placement struct {
	// Order has everything the buyer said and the server decided: tenant, id,
	// customer, lines with SKU and quantity (by SKU, each once), details, times. The
	// store adds prices, currency, total and status.
	Order Order
	// Key is the caller's idempotency key, within (tenant, customer). Fingerprint is
	// the hash of the decoded request.
	Key         string
	Fingerprint [32]byte
	// KeyNotBefore is the time before which a stored key counts no more.
	KeyNotBefore time.Time

	// Placed is the order that stands in the end: this one, or with Replayed the one
	// that the key stands for.
	Placed   Order
	Replayed bool
	// Err is why it was refused: a *RefusedError, ErrKeyReused, or an error that wraps
	// ErrData. Placed and Replayed mean nothing then.
	Err error
}

// Outcome is what became of a Step.
type Outcome struct {
	// Order is the order as it stands after the step, applied or not.
	Order Order
	// Applied says that this step made the transition.
	Applied bool
	// Replayed says that the step's key had made it before; Answer is what was stored
	// with the key then.
	Replayed bool
	Answer   string
	// Err is ErrNotFound, ErrAlready, ErrKeyReused, a *NotAllowedError, an
	// *InvalidError, or an error that wraps ErrData.
	Err error
}

// Query asks for a tenant's orders, newest first.
type Query struct {
	TenantID   string
	CustomerID string // empty means all
	Status     Status // empty means all
	Limit      int
	Cursor     string
	// Fresh asks for what was committed last: not a replica's page, which is as old as
	// the replica.
	Fresh bool
}

// Page is one page of orders; Next is empty when nothing follows.
type Page struct {
	Orders []Order
	Next   string
}

// Store keeps orders. Each method is one transaction. It is safe for concurrent
// use.
type Store interface {
	// Place places orders in one durable transaction: it looks up the keys, locks
	// the stock in the order of (tenant, SKU), lets Allocate decide first come first
	// served, and writes stock, orders, keys, history and outbox (see Begin). Each
	// placement gets its own outcome in its fields; one that the database refuses for
	// its data is found and set aside (ErrData), the others are placed.
	//
	// Of placements with one key the first decides: the others are replays, or
	// ErrKeyReused if they ask for something else. Only a placed order binds its key.
	//
	// The error is of the whole: nothing was placed, unless it wraps
	// ErrUnknownOutcome. When every placement was refused nothing is written.
	Place(ctx context.Context, placements []*Placement, p Policy) error

	// Advance applies steps in one durable transaction, in their order: for each it
	// reads the order under lock, lets Policy.Apply decide, and writes order, stock,
	// history, outbox, audit entry, the claimed key (with RefundAnswer as its answer) and, if
	// the order was parked by it, a dead letter of kind "order". Several steps may be
	// of one order. The outcomes are in the order of the steps. A step that the
	// database refuses for its data is set aside with ErrData, the others are done.
	//
	// The error is of the whole: nothing was changed, unless it wraps
	// ErrUnknownOutcome.
	Advance(ctx context.Context, steps []*Step, p Policy) ([]Outcome, error)

	// Order returns one order, ErrNotFound if the tenant has none of that id.
	Order(ctx context.Context, tenantID, id string) (Order, error)
	// History returns an order's transitions, oldest first, empty if there is no order.
	History(ctx context.Context, tenantID, id string) ([]HistoryEntry, error)
	// Orders returns one page. It is one index scan of rows that carry what the page
	// shows. With large orders it holds fewer than the limit, about 8 MiB, and Next
	// goes on. ErrBadCursor if the cursor is not one it gave.
	Orders(ctx context.Context, q Query) (Page, error)

	// Due returns orders whose NextAttempt is at or before now, the most overdue
	// first, at most limit, and moves their NextAttempt to until, so that nobody
	// else takes them up before.
	Due(ctx context.Context, now, until time.Time, limit int) ([]Order, error)
	// Defer moves the NextAttempt of orders that still have the named version and are
	// not parked, and notes why. It is no transition: nothing else changes.
	Defer(ctx context.Context, deferrals []Deferral) error
	// PullForward makes orders of a working status due now whose NextAttempt lies
	// after horizon, which only a clock that was set back explains.
	PullForward(ctx context.Context, now, horizon time.Time) (int, error)
	// DropKeys removes idempotency keys created before t, at most limit.
	DropKeys(ctx context.Context, t time.Time, limit int) (int, error)
	// CountByStatus returns how many orders of all tenants have each status that is
	// not terminal.
	CountByStatus(ctx context.Context) (map[Status]int64, error)
}

// Deferral asks to look at an order later.
type Deferral struct {
	TenantID, OrderID string
	Version           int64
	Until             time.Time
	Reason            string
}
