// Package order brings an order from its placement to its end: shipped and
// completed, or refused, or undone in every part.
//
// The pieces and the way of the data:
//
//	POST /orders ─▶ Placer (coalesces) ─▶ Store.Place: keys · stock · orders · history · outbox
//	outbox ─▶ bus ─▶ Worker ─▶ payment, fulfilment
//	                   │
//	                   └▶ Transitions (coalesces) ─▶ Store.Advance: order · stock · history · outbox
//	Sweeper ─▶ Store.Due ─▶ bus                       what is overdue is put back on the road
//
// What may happen to an order is one table, see Transitions. Everything that a
// transition does is computed by Apply, which is pure; the store calls it under
// the order's lock and writes what it says in one transaction. No step relies on
// a message: each may come twice, late, out of order or never.
package order

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of one order. They keep every sum far below what an int64 holds:
// MaxLines × MaxQuantity × MaxUnitPrice would not, so Total is bounded too.
const (
	MaxLines      = 100
	MaxQuantity   = 1_000_000_000
	MaxTotal      = 1_000_000_000_000_000 // minor units
	MaxSKUBytes   = 64
	MaxKeyBytes   = 255
	MaxTextBytes  = 1000 // of each free text of the buyer
	MaxTokenBytes = 255
)

// Order is an order as it is stored.
type Order struct {
	TenantID string
	// ID is a UUIDv7, so ids are in the order of placement.
	ID string
	// CustomerID is the subject that placed it.
	CustomerID string
	Status     Status
	// Version is 1 when placed and rises by one with every transition.
	Version int64

	Currency string
	Lines    []Line // by SKU, each SKU once
	// Total, Captured and Refunded are minor units: what is owed, what was taken,
	// and what of that went back. 0 ≤ Refunded ≤ Captured ≤ Total.
	Total, Captured, Refunded int64

	Details  Details
	Progress Progress

	PlacedAt, UpdatedAt time.Time
	// Deadline is when an order that is not paid expires.
	Deadline time.Time
	// Attempts counts the failed tries of what is under way now.
	Attempts int
	// NextAttempt is when the sweeper looks at it; zero means never: it is settled,
	// or waits for someone outside.
	NextAttempt time.Time
	// ParkedAt is not zero when it has failed too often: it is a dead letter, and
	// nothing is tried before someone redrives it.
	ParkedAt  time.Time
	LastError string
}

// Line is one product of an order.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	// UnitPrice is the catalogue's price at placement, in minor units.
	UnitPrice int64 `json:"unitPrice"`
}

// Details never change once the order is placed.
type Details struct {
	PaymentToken string   `json:"paymentToken,omitempty"`
	Email        string   `json:"email,omitempty"`
	Phone        string   `json:"phone,omitempty"`
	Address      *Address `json:"address,omitempty"`
	Note         string   `json:"note,omitempty"`
	// Trace is the W3C traceparent of the request that placed it.
	Trace string `json:"trace,omitempty"`
}

// Address is where it goes.
type Address struct {
	Name       string `json:"name,omitempty"`
	Line1      string `json:"line1,omitempty"`
	Line2      string `json:"line2,omitempty"`
	PostalCode string `json:"postalCode,omitempty"`
	City       string `json:"city,omitempty"`
	Region     string `json:"region,omitempty"`
	// Country is ISO 3166-1 alpha-2.
	Country string `json:"country,omitempty"`
}

// Progress is what transitions change besides the order's columns.
type Progress struct {
	// PaymentRef is the provider's id of the charge.
	PaymentRef string `json:"paymentRef,omitempty"`
	// Then is where the order goes once what is under way is settled: cancelled or
	// expired in cancelling; refunded, shipped or completed in refunding.
	Then Status `json:"then,omitempty"`
	// Refund is the refund under way, or the last one; Number counts them from 1.
	Refund Refund `json:"refund,omitzero"`
	// Restocked says that what was shipped has been put back on the shelf.
	Restocked bool `json:"restocked,omitempty"`
	// Shipment is what the merchant reported.
	Shipment    *Shipment `json:"shipment,omitempty"`
	DeliveredAt time.Time `json:"deliveredAt,omitzero"`
	// Reason says in the words of whoever did it why it was cancelled, declined or
	// refunded.
	Reason string `json:"reason,omitempty"`
}

// Refund is money going back.
type Refund struct {
	Number  int   `json:"number"`
	Amount  int64 `json:"amount"`
	Restock bool  `json:"restock,omitempty"`
}

// Shipment is how the goods travel.
type Shipment struct {
	Carrier        string    `json:"carrier,omitempty"`
	TrackingNumber string    `json:"trackingNumber,omitempty"`
	TrackingURL    string    `json:"trackingUrl,omitempty"`
	At             time.Time `json:"at"`
}

// ChargeKey is the idempotency key of the order's one charge.
func (o *Order) ChargeKey() string { return o.TenantID + ":" + o.ID + ":charge" }

// RefundKey is the idempotency key of a refund of the order. Number 0 is the
// refund of a charge that was captured while the order was being cancelled.
func (o *Order) RefundKey(number int) string {
	return fmt.Sprintf("%s:%s:refund:%d", o.TenantID, o.ID, number)
}

// Parked says whether nothing is tried before someone redrives the order.
func (o *Order) Parked() bool { return !o.ParkedAt.IsZero() }

// HistoryEntry is one transition that took place.
type HistoryEntry struct {
	// Version is the order's version after it.
	Version  int64
	At       time.Time
	Event    Event
	From, To Status
	// Actor is who did it: a subject, or "millrace".
	Actor  string
	Reason string
}

// Ref names an order.
type Ref struct{ TenantID, ID string }

// ErrNotFound says that the tenant has no such order.
var ErrNotFound = errors.New("order not found")

// ErrBadCursor says that a cursor is not one this server gave.
var ErrBadCursor = errors.New("cursor is not one this server gave")

// ErrKeyReused says that an idempotency key was used for another request.
var ErrKeyReused = errors.New("the idempotency key was used for another request")

// ErrData marks an error that comes from what is in one order, so that trying
// again cannot help.
var ErrData = errors.New("the database refuses this data")

// ErrUnknownOutcome says that a commit failed in a way that leaves open whether it
// took place.
var ErrUnknownOutcome = errors.New("whether it was stored is not known")

// InvalidError says what is wrong with a request, by member of its JSON body.
type InvalidError struct{ Field, Detail string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }
