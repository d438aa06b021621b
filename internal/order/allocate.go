package order

import (
	"fmt"
	"slices"
	"strings"
)

// ShelfKey names what stands on a shelf.
type ShelfKey struct{ TenantID, SKU string }

// Compare orders keys: it is the order in which stock is locked.
func (k ShelfKey) Compare(other ShelfKey) int {
	if c := strings.Compare(k.TenantID, other.TenantID); c != 0 {
		return c
	}
	return strings.Compare(k.SKU, other.SKU)
}

// Offer is what is known of a SKU when orders for it are placed.
type Offer struct {
	// Known says that the catalogue has the product, Active that it can be ordered.
	Known, Active bool
	UnitPrice     int64
	Currency      string
	// Available is on hand less reserved. Allocate lowers it.
	Available int64
	// Taken is what Allocate gave to orders: the amount to reserve.
	Taken int64
}

// Refusal codes, the reasons why an order is not placed.
const (
	RefusedOutOfStock = "out-of-stock"
	RefusedUnknownSKU = "unknown-sku"
	RefusedInactive   = "inactive-product"
	RefusedCurrency   = "currency-mismatch"
	RefusedTotal      = "total-too-large"
)

// RefusedError says why an order is not placed. Of several reasons the first in
// the order of the codes above, read backwards, is told: stock comes last, since
// waiting may help there.
type RefusedError struct {
	Code string
	// Items are the lines it is about, empty if it is about the order as a whole.
	Items []RefusedItem
}

// RefusedItem is a line that cannot be had.
type RefusedItem struct {
	SKU       string
	Requested int64
	// Available is told when stock is the reason.
	Available int64
}

func (e *RefusedError) Error() string {
	skus := make([]string, len(e.Items))
	for i, item := range e.Items {
		skus[i] = item.SKU
	}
	return fmt.Sprintf("%s: %s", e.Code, strings.Join(skus, ", "))
}

// Demands returns what placements ask for, each SKU once, in locking order.
func Demands(placements []*Placement) []ShelfKey {
	var keys []ShelfKey
	for _, p := range placements {
		for _, l := range p.Order.Lines {
			keys = append(keys, ShelfKey{p.Order.TenantID, l.SKU})
		}
	}
	slices.SortFunc(keys, ShelfKey.Compare)
	return slices.Compact(keys)
}

// Allocate decides placements first come first served. Each gets all of its
// lines, with prices, currency and total, or a *RefusedError and nothing. What is
// given is taken off the offers. It is pure but for its arguments. Offers must
// hold every key of Demands; a nil offer counts as an unknown product.
func Allocate(offers map[ShelfKey]*Offer, placements []*Placement) {
	for _, p := range placements {
		if p.Err = price(offers, &p.Order); p.Err == nil {
			p.Err = take(offers, &p.Order)
		}
	}
}

// price fills in what the lines cost.
func price(offers map[ShelfKey]*Offer, o *Order) error {
	var unknown, inactive, mixed []RefusedItem
	o.Currency, o.Total = "", 0
	for i := range o.Lines {
		l := &o.Lines[i]
		offer := offers[ShelfKey{o.TenantID, l.SKU}]
		item := RefusedItem{SKU: l.SKU, Requested: l.Quantity}
		switch {
		case offer == nil || !offer.Known:
			unknown = append(unknown, item)
			continue
		case !offer.Active:
			inactive = append(inactive, item)
			continue
		case o.Currency == "":
			o.Currency = offer.Currency
		case o.Currency != offer.Currency:
			mixed = append(mixed, item)
			continue
		}
		l.UnitPrice = offer.UnitPrice
		if l.Quantity > (MaxTotal-o.Total)/max(l.UnitPrice, 1) {
			return &RefusedError{Code: RefusedTotal, Items: []RefusedItem{item}}
		}
		o.Total += l.Quantity * l.UnitPrice
	}
	switch {
	case len(unknown) > 0:
		return &RefusedError{Code: RefusedUnknownSKU, Items: unknown}
	case len(inactive) > 0:
		return &RefusedError{Code: RefusedInactive, Items: inactive}
	case len(mixed) > 0:
		return &RefusedError{Code: RefusedCurrency, Items: mixed}
	}
	return nil
}

// take takes all lines off the offers, or none.
func take(offers map[ShelfKey]*Offer, o *Order) error {
	var short []RefusedItem
	for _, l := range o.Lines {
		if offer := offers[ShelfKey{o.TenantID, l.SKU}]; offer.Available < l.Quantity {
			short = append(short, RefusedItem{SKU: l.SKU, Requested: l.Quantity, Available: max(offer.Available, 0)})
		}
	}
	if len(short) > 0 {
		return &RefusedError{Code: RefusedOutOfStock, Items: short}
	}
	for _, l := range o.Lines {
		offer := offers[ShelfKey{o.TenantID, l.SKU}]
		offer.Available -= l.Quantity
		offer.Taken += l.Quantity
	}
	return nil
}

// Begin returns an allocated order as it is first stored, with what is written
// beside it. Its stock was taken by Allocate.
func (p Policy) Begin(o Order) (Order, Change) {
	s := Step{TenantID: o.TenantID, OrderID: o.ID, Event: EventPlaced, At: o.PlacedAt, Actor: o.CustomerID}
	before := Order{}
	o.Status, o.Version, o.UpdatedAt = Placed, 0, o.PlacedAt
	change := Change{}
	p.finish(&before, &o, &s, &change)
	return o, change
}
