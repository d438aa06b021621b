package order_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/order"
)

// placement asks for lines written "sku:quantity".
func placement(lines ...string) *order.Placement {
	p := &order.Placement{Order: order.Order{TenantID: "demo"}}
	for _, l := range lines {
		sku, n, _ := strings.Cut(l, ":")
		var quantity int64
		if _, err := fmt.Sscan(n, &quantity); err != nil {
			panic(err)
		}
		p.Order.Lines = append(p.Order.Lines, order.Line{SKU: sku, Quantity: quantity})
	}
	return p
}

func shelf(offers map[string]order.Offer) map[order.ShelfKey]*order.Offer {
	m := map[order.ShelfKey]*order.Offer{}
	for sku, o := range offers {
		m[order.ShelfKey{TenantID: "demo", SKU: sku}] = &o
	}
	return m
}

func offer(price, available int64) order.Offer {
	return order.Offer{Known: true, Active: true, UnitPrice: price, Currency: "EUR", Available: available}
}

func TestAnOrderThatCannotBePlacedSaysWhy(t *testing.T) {
	inactive, dollars := offer(100, 5), offer(100, 5)
	inactive.Active, dollars.Currency = false, "USD"
	offers := map[string]order.Offer{"a": offer(100, 5), "b": offer(100, 0), "old": inactive, "usd": dollars, "dear": offer(1_000_000_000_000, 1_000_000_000)}
	for _, c := range []struct {
		name  string
		lines []string
		want  order.RefusedError
	}{
		{"sold out", []string{"a:1", "b:1"}, order.RefusedError{Code: order.RefusedOutOfStock, Items: []order.RefusedItem{{SKU: "b", Requested: 1}}}},
		{"too few", []string{"a:6", "b:2"}, order.RefusedError{Code: order.RefusedOutOfStock,
			Items: []order.RefusedItem{{SKU: "a", Requested: 6, Available: 5}, {SKU: "b", Requested: 2}}}},
		{"unknown", []string{"a:1", "nix:1", "old:1"}, order.RefusedError{Code: order.RefusedUnknownSKU, Items: []order.RefusedItem{{SKU: "nix", Requested: 1}}}},
		{"not for sale", []string{"a:1", "old:1", "b:1"}, order.RefusedError{Code: order.RefusedInactive, Items: []order.RefusedItem{{SKU: "old", Requested: 1}}}},
		{"two currencies", []string{"a:1", "usd:1"}, order.RefusedError{Code: order.RefusedCurrency, Items: []order.RefusedItem{{SKU: "usd", Requested: 1}}}},
		{"more money than there is", []string{"dear:1000000"}, order.RefusedError{Code: order.RefusedTotal, Items: []order.RefusedItem{{SKU: "dear", Requested: 1_000_000}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, p := shelf(offers), placement(c.lines...)
			order.Allocate(m, []*order.Placement{p})
			var refused *order.RefusedError
			if !errors.As(p.Err, &refused) {
				t.Fatalf("error %v", p.Err)
			}
			if diff := cmp.Diff(&c.want, refused); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(shelf(offers), m); diff != "" {
				t.Errorf("a refused order took something:\n%s", diff)
			}
		})
	}
}

// TestAllocationNeverGivesWhatIsNotThere tries random shelves and orders.
func TestAllocationNeverGivesWhatIsNotThere(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 7))
		start := map[string]order.Offer{}
		for i := range 1 + rng.IntN(5) {
			start[fmt.Sprint("s", i)] = offer(1+rng.Int64N(1000), rng.Int64N(20))
		}
		var placements []*order.Placement
		for range rng.IntN(40) {
			var lines []string
			for _, i := range rng.Perm(5)[:1+rng.IntN(3)] {
				lines = append(lines, fmt.Sprintf("s%d:%d", i, 1+rng.IntN(6)))
			}
			placements = append(placements, placement(lines...))
		}
		m := shelf(start)
		order.Allocate(m, placements)
		left := map[string]int64{}
		for sku, o := range start {
			left[sku] = o.Available
		}
		for i, p := range placements {
			fits, known, total := true, true, int64(0)
			for _, l := range p.Order.Lines {
				o, ok := start[l.SKU]
				known = known && ok
				fits = fits && ok && left[l.SKU] >= l.Quantity
				total += o.UnitPrice * l.Quantity
			}
			if fits != (p.Err == nil) {
				t.Fatalf("seed %d, order %d: fits %v, known %v, but: %v", seed, i, fits, known, p.Err)
			}
			if p.Err != nil {
				continue
			}
			if p.Order.Total != total || p.Order.Currency != "EUR" {
				t.Fatalf("seed %d, order %d: total %d %s, want %d", seed, i, p.Order.Total, p.Order.Currency, total)
			}
			for _, l := range p.Order.Lines {
				left[l.SKU] -= l.Quantity
			}
		}
		for sku, n := range left {
			o := m[order.ShelfKey{TenantID: "demo", SKU: sku}]
			if o.Available != n || o.Taken != start[sku].Available-n || n < 0 {
				t.Fatalf("seed %d: %s has %d left and %d taken, want %d", seed, sku, o.Available, o.Taken, n)
			}
		}
	}
}

func TestDemandsAreEachSKUOnceInLockingOrder(t *testing.T) {
	other := placement("a:1")
	other.Order.TenantID = "acme"
	got := order.Demands([]*order.Placement{placement("b:1", "a:1"), placement("a:2", "c:1"), other})
	want := []order.ShelfKey{{TenantID: "acme", SKU: "a"}, {TenantID: "demo", SKU: "a"}, {TenantID: "demo", SKU: "b"}, {TenantID: "demo", SKU: "c"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
