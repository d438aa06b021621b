package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"millrace/internal/catalog"
	"millrace/internal/deadletter"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

// OrdersHarness is a fresh store of orders, with what stands beside it in the same
// database, and the ways to trouble it.
type OrdersHarness struct {
	Store       order.Store
	Outbox      outbox.Store
	DeadLetters deadletter.Store
	Catalog     catalog.Store

	// PutProduct makes a product what it says.
	PutProduct func(t testing.TB, key order.ShelfKey, p Product)
	// PutStock sets what is on hand.
	PutStock func(t testing.TB, key order.ShelfKey, onHand int64)
	// Stock reads it.
	Stock func(t testing.TB, key order.ShelfKey) Stock
	// DropStock removes the SKU's stock row, which makes the database refuse what
	// would change it.
	DropStock func(t testing.TB, key order.ShelfKey)

	// Reopen closes the store and opens what it left; the harness is of the new one.
	Reopen func(t testing.TB)
	// FailCommit makes the next commit fail and not take place. LoseReply makes the
	// next commit take place and answer an error.
	FailCommit, LoseReply func(t testing.TB)
}

// Product is what the catalogue says of a SKU.
type Product struct {
	Inactive bool
	Price    int64
	Currency string
}

// Stock is what is known of a SKU's stock.
type Stock struct{ OnHand, Reserved, Version int64 }

// OrdersFactory gives a fresh store; it registers its own clean-up.
type OrdersFactory func(t testing.TB) *OrdersHarness

// ordersTest is a sentence of the contract.
type ordersTest struct {
	name string
	test func(*testing.T, *OrdersHarness)
}

// Orders runs the conformance suite of order.Store.
func Orders(t *testing.T, fresh OrdersFactory) {
	for _, c := range slices.Concat(placeTests(), placeKeyTests(), advanceTests(), dueTests(), orderReadTests(), orderPropertyTests()) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

// policy is the saga's as the suite runs it.
var policy = order.Policy{Lease: time.Minute, CompleteAfter: 72 * time.Hour, MaxAttempts: 3}

const shop = "shop"

func shelf(sku string) order.ShelfKey { return order.ShelfKey{TenantID: shop, SKU: sku} }

// sell puts products of 999 cents on the shelf.
func (h *OrdersHarness) sell(t testing.TB, onHand int64, skus ...string) {
	t.Helper()
	for _, sku := range skus {
		h.PutProduct(t, shelf(sku), Product{Price: 999, Currency: "EUR"})
		h.PutStock(t, shelf(sku), onHand)
	}
}

// placementCount tells placements apart.
type placementCount struct{ n atomic.Int64 }

// buy returns a placement with a key of its own. items are SKU and quantity, as
// "mug:2", by SKU.
func (n *placementCount) buy(items ...string) *order.Placement {
	k := n.n.Add(1)
	id := uuid.UUID{6: 0x70, 8: 0x80}
	for i := range 6 {
		id[i] = byte(k >> (40 - 8*i))
	}
	at := monday.Add(time.Duration(k) * time.Millisecond)
	o := order.Order{TenantID: shop, ID: id.String(), CustomerID: "alice", PlacedAt: at, UpdatedAt: at, Deadline: at.Add(time.Hour),
		Details: order.Details{PaymentToken: "tok_ok", Email: "alice@example.com", Trace: fmt.Sprintf("00-%032x-%016x-01", k, k)}}
	for _, item := range items {
		var quantity int64
		sku, number, _ := strings.Cut(item, ":")
		if _, err := fmt.Sscan(number, &quantity); err != nil {
			panic(err)
		}
		o.Lines = append(o.Lines, order.Line{SKU: sku, Quantity: quantity})
	}
	return &order.Placement{Order: o, Key: fmt.Sprint("key ", k), Fingerprint: sha256.Sum256([]byte(fmt.Sprint(items))), KeyNotBefore: monday.Add(-24 * time.Hour)}
}

// keyed gives a placement another key.
func keyed(p *order.Placement, key string) *order.Placement {
	p.Key = key
	return p
}

// place places and fails the test for an error of the whole.
func (h *OrdersHarness) place(t testing.TB, placements ...*order.Placement) {
	t.Helper()
	if err := h.Store.Place(testContext(t), placements, policy); err != nil {
		t.Fatalf("Place: %v", err)
	}
}

// placed places one order that must be placed.
func (h *OrdersHarness) placed(t testing.TB, p *order.Placement) order.Order {
	t.Helper()
	h.place(t, p)
	if p.Err != nil || p.Replayed {
		t.Fatalf("the placement was refused (%v) or replayed (%v)", p.Err, p.Replayed)
	}
	return p.Placed
}

// advance applies steps and fails the test for an error of the whole.
func (h *OrdersHarness) advance(t testing.TB, steps ...*order.Step) []order.Outcome {
	t.Helper()
	out, err := h.Store.Advance(testContext(t), steps, policy)
	if err != nil {
		t.Fatalf("Advance: %v", err)
	}
	if len(out) != len(steps) {
		t.Fatalf("Advance of %d steps gave %d outcomes", len(steps), len(out))
	}
	return out
}

// applied applies one step that must make its transition.
func (h *OrdersHarness) applied(t testing.TB, s *order.Step) order.Order {
	t.Helper()
	out := h.advance(t, s)[0]
	if out.Err != nil || !out.Applied {
		t.Fatalf("%s was not applied: %v", s.Event, out.Err)
	}
	return out.Order
}

// order reads an order that must be there.
func (h *OrdersHarness) order(t testing.TB, id string) order.Order {
	t.Helper()
	o, err := h.Store.Order(testContext(t), shop, id)
	if err != nil {
		t.Fatalf("Order: %v", err)
	}
	return o
}

// wantStock checks on hand and reserved.
func (h *OrdersHarness) wantStock(t testing.TB, sku string, onHand, reserved int64) {
	t.Helper()
	if s := h.Stock(t, shelf(sku)); s.OnHand != onHand || s.Reserved != reserved {
		t.Errorf("stock of %s: %d on hand, %d reserved; want %d and %d", sku, s.OnHand, s.Reserved, onHand, reserved)
	}
}

// told returns what a lane of the outbox holds.
func (h *OrdersHarness) told(t testing.TB, lane outbox.Lane) []outbox.Row {
	t.Helper()
	rows, err := h.Outbox.Pending(testContext(t), lane, 0, 100_000)
	if err != nil {
		t.Fatalf("Pending: %v", err)
	}
	return rows
}

func step(o *order.Order, e order.Event) *order.Step {
	return &order.Step{TenantID: o.TenantID, OrderID: o.ID, Event: e, At: o.UpdatedAt.Add(time.Second), Actor: order.System}
}

func captured(o *order.Order) *order.Step {
	s := step(o, order.EventCaptured)
	s.Amount, s.PaymentRef = o.Total, "ch_"+o.ID
	return s
}

// same compares what is stored with what was answered: times are compared as
// instants, and nil with empty lists as equal.
func same(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
