// Package catalog is what there is to sell: products with names and descriptions
// in several languages, a price, a category and free attributes. A price change
// never rewrites the past: every price a product ever had is kept.
//
// A Service judges products; a Store keeps them, each change in one durable
// transaction with its audit entry. Reads are answered from an Index, which holds
// the whole catalogue in memory as it is shown; in a process without one they go to
// the Store and give the same answers. All are safe for concurrent use, and nothing
// runs in the background: who owns the Index loads it and keeps it up to date from
// the Store's Feed.
package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"millrace/internal/audit"
)

// Money is an amount in minor units (cents) of an ISO 4217 currency.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Product is something that can be ordered.
type Product struct {
	TenantID string
	// SKU names the product within the tenant: 1 to 64 of A-Z a-z 0-9 . _ -, but
	// neither "." nor "..", so that it stands in an address as it is.
	SKU string
	// Names and Descriptions are by BCP 47 language tag; at least one name.
	Names        map[string]string
	Descriptions map[string]string
	Price        Money
	Category     string
	// Position orders the products of a category: lower first, then by SKU. It may be
	// negative.
	Position int64
	// Slug names the product in addresses for people, "black-tee"; no two products of
	// a tenant have the same. Empty if it has none.
	Slug string
	// Attributes is a JSON object of the merchant's own, nil if there is none.
	Attributes json.RawMessage
	// Active says whether it can be ordered.
	Active bool
	// Version is 1 for a new product and rises with every change. One that is made
	// again after it was deleted goes on where it stopped, so that no two products
	// ever had the same version of one SKU.
	Version              int64
	CreatedAt, UpdatedAt time.Time
	// Deleted says that the product is gone. What is left is a tombstone: tenant, SKU,
	// version, change and times. Only a Put and a Feed have them.
	Deleted bool
	// Unreadable says that the names or descriptions in the store are not what a Put
	// writes: somebody else has written them. The rest is as it stands. Nobody is shown
	// such a product; to put it again mends it. Only a Put and a Feed have them.
	Unreadable bool
	// Change is the version of the tenant's catalogue that brought this product's
	// version: see Feed.
	Change int64
}

// Price is a price that a product had from a time on.
type Price struct {
	Money
	From time.Time
	// ProductVersion is the version of the product that brought the price.
	ProductVersion int64
	ChangedBy      string
}

// What a Put may name instead of a version.
const (
	NoVersion  = -1
	AnyVersion = -2
)

// Put asks to create or replace a product, or, if Product.Deleted is set, to delete
// it; then only tenant and SKU of it count.
type Put struct {
	Product Product // Version, Change and times are set by the store
	// IfVersion is the version that must stand now: 0 means any or none, NoVersion
	// that the product must not exist, AnyVersion that it must.
	IfVersion int64
	Now       time.Time
	Actor     audit.Actor
}

// PutResult says what a Put did.
type PutResult struct {
	Product Product
	// Created says that it is new, Changed that anything differs from before. A Put
	// that changes nothing raises no version and is not audited.
	Created, Changed bool
}

// Query asks for a tenant's products, in the order of SKU or, if it names a category,
// of position and SKU.
type Query struct {
	TenantID string
	Category string // empty means all
	// Inactive includes products that cannot be ordered.
	Inactive bool
	Limit    int    // at least 1
	Cursor   string // Next of the page before
}

// Page is one page of products; Next is empty when nothing follows. A page whose
// products are large has fewer than were asked for.
type Page struct {
	Items []*Item
	Next  string
}

// ProductPage is a page as a Store has it.
type ProductPage struct {
	Products []Product
	Next     string
}

// Store keeps products. It is safe for concurrent use.
type Store interface {
	// Put writes each product, its new price in the price history if the price
	// changed, and an audit entry (PutEntry), all in one durable
	// transaction. The results are in the order of puts, one error each; an error of
	// one leaves the others. It is ErrVersion, with the product as it stands in the
	// result; ErrSlugTaken, with the product that has the slug; ErrNotFound if there
	// is nothing to delete. The last value is the error of the whole. The products are
	// as a Service has judged them.
	//
	// If anything changed the version of the tenant's catalogue is raised by one in
	// the same transaction, under a lock that is held until its end: versions become
	// visible in their order. All products that changed have it as their Change.
	Put(ctx context.Context, puts []Put) ([]PutResult, []error, error)
	// Product returns one product, ErrNotFound if the tenant has none of that SKU.
	Product(ctx context.Context, tenantID, sku string) (Product, error)
	// Products returns a page of the products that are not deleted.
	Products(ctx context.Context, q Query) (ProductPage, error)
	// Prices returns the prices a product had, newest first, at most limit.
	Prices(ctx context.Context, tenantID, sku string, limit int) ([]Price, error)
}

// Feed is how a catalogue in memory is loaded and kept up to date. All reads are of
// the database that is written to, never of a replica, and of all tenants. It is
// safe for concurrent use.
type Feed interface {
	// Versions returns the version of each tenant's catalogue, of those that ever had
	// a product, and an epoch that says which database they are of. In another epoch,
	// as after a failover or when a backup was restored, a version may be of another
	// change than before.
	Versions(ctx context.Context) (versions map[string]int64, epoch string, err error)
	// Load calls each with all products of all tenants, tombstones included, in pages
	// of a few thousand. A page is the callee's to keep. Of a product that is changed
	// meanwhile it has one of the two states. An error of each ends it and is
	// returned. A product that cannot be read is there as Unreadable.
	Load(ctx context.Context, each func([]Product) error) error
	// Changes returns the products of a tenant, tombstones included, whose Change is
	// more than after, in the order of Change and in one consistent view: whatever has
	// a Change up to the last one returned is there. It ends with the Change that brings
	// it to limit products or to about 8 MiB, whole, and says whether there is more. So
	// there may be more than limit, and as much as one call of Put may write.
	Changes(ctx context.Context, tenantID string, after int64, limit int) (products []Product, more bool, err error)
}

// Errors a Store or a Service answers with; test with errors.Is.
var (
	ErrNotFound  = errors.New("product not found")
	ErrBadCursor = errors.New("cursor is not one this server gave")
	// ErrVersion says that the product's version is not the one that was named.
	ErrVersion = errors.New("the product has changed meanwhile")
	// ErrSlugTaken says that another product of the tenant has the slug.
	ErrSlugTaken = errors.New("another product has this slug")
	// ErrLoading says that the catalogue in memory is not complete yet; it wraps how
	// far it is.
	ErrLoading = errors.New("the catalogue is being loaded; try again in a moment")
)

// InvalidError says what is wrong with a product, by field.
type InvalidError struct {
	// Field is the member of the JSON body, such as "price.currency".
	Field string
	// Detail says what is wrong and what to do. It is safe to show.
	Detail string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }
