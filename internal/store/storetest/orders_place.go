package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/internal/catalog"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

func placeTests() []ordersTest {
	return []ordersTest{
		{"a placed order comes back as it was answered, with prices, status and history", placeRoundTrip},
		{"every text of an order comes back, NUL and all scripts included", placeTexts},
		{"the last unit goes to the first of a batch", placeFirstComeFirstServed},
		{"an order gets all of its lines or none", placeAllOrNothing},
		{"orders for the same SKUs in opposite order do not block each other", placeOppositeOrder},
		{"a refusal says what and why and writes nothing", placeRefusals},
		{"a deleted product is one that nobody knows", placeDeleted},
		{"a batch of refusals fails no commit: it writes nothing", placeRefusalsDoNotCommit},
		{"one order that the database refuses harms no other of two hundred", placeIsolatesCulprit},
		{"several orders that the database refuses harm no other", placeIsolatesCulprits},
		{"a failed commit leaves nothing", placeFailedCommit},
		{"a lost reply is an unknown outcome, and a repetition with the key finds the order", placeLostReply},
		{"a caller that gave up has placed nothing", placeCancelled},
		{"every placement is told on both lanes, with its trace", placeOutbox},
		{"ten thousand buyers for a hundred units: a hundred orders", placeDrop},
		{"tenants do not share stock, orders or keys", placeTenants},
		{"what was placed is there after the store was opened again", placeReopen},
	}
}

func placeRoundTrip(t *testing.T, h *OrdersHarness) {
	h.sell(t, 10, "mug")
	h.PutProduct(t, shelf("tea"), Product{Price: 250, Currency: "EUR"})
	h.PutStock(t, shelf("tea"), 5)
	var n placementCount
	p := n.buy("mug:2", "tea:3")
	p.Order.Details = order.Details{PaymentToken: "tok_ok", Email: "a@example.com", Phone: "+49", Note: "ring twice", Trace: "00-a-b-01",
		Address: &order.Address{Name: "Alice", Line1: "1 High Street", Line2: "Flat 2", PostalCode: "12345", City: "Town", Region: "R", Country: "DE"}}
	got := h.placed(t, p)
	want := p.Order
	want.Status, want.Version, want.Currency, want.Total = order.Placed, 1, "EUR", 2*999+3*250
	want.Lines = []order.Line{{SKU: "mug", Quantity: 2, UnitPrice: 999}, {SKU: "tea", Quantity: 3, UnitPrice: 250}}
	want.NextAttempt = p.Order.PlacedAt.Add(policy.Lease)
	same(t, "the answer", want, got)
	same(t, "the stored order", want, h.order(t, got.ID))
	h.wantStock(t, "mug", 10, 2)
	h.wantStock(t, "tea", 5, 3)
	history, err := h.Store.History(testContext(t), shop, got.ID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the history", []order.HistoryEntry{{Version: 1, At: p.Order.PlacedAt, Event: order.EventPlaced, To: order.Placed, Actor: "alice"}}, history)
}

func placeTexts(t *testing.T, h *OrdersHarness) {
	h.sell(t, 100, "mug")
	var n placementCount
	for _, text := range []string{"a\x00b", "\"quoted\" \\ <b>&amp;", "日本語 🐎 \u2028", "\t\r\n", "'; DROP TABLE orders; --"} {
		p := n.buy("mug:1")
		p.Order.Details.Note, p.Order.Details.Email = text, text
		p.Order.CustomerID, p.Key = "c"+text, "k"+text
		got := h.placed(t, p)
		same(t, "the order with "+fmt.Sprintf("%q", text), got, h.order(t, got.ID))
		again := n.buy("mug:1")
		again.Order.CustomerID, again.Key = p.Order.CustomerID, p.Key
		if h.place(t, again); !again.Replayed || again.Placed.ID != got.ID {
			t.Errorf("the key with %q was not found again: %v", text, again.Err)
		}
	}
}

func placeFirstComeFirstServed(t *testing.T, h *OrdersHarness) {
	h.sell(t, 3, "mug")
	var n placementCount
	batch := []*order.Placement{n.buy("mug:2"), n.buy("mug:2"), n.buy("mug:1"), n.buy("mug:1")}
	h.place(t, batch...)
	for i, want := range []string{"", order.RefusedOutOfStock, "", order.RefusedOutOfStock} {
		if got := refusalCode(batch[i].Err); got != want {
			t.Errorf("placement %d: %q, want %q", i, got, want)
		}
	}
	h.wantStock(t, "mug", 3, 3)
}

func placeAllOrNothing(t *testing.T, h *OrdersHarness) {
	h.sell(t, 5, "mug", "tea")
	var n placementCount
	batch := []*order.Placement{n.buy("mug:3", "tea:5"), n.buy("mug:2", "tea:1"), n.buy("mug:2")}
	h.place(t, batch...)
	if batch[0].Err != nil || refusalCode(batch[1].Err) != order.RefusedOutOfStock || batch[2].Err != nil {
		t.Errorf("outcomes: %v, %v, %v", batch[0].Err, batch[1].Err, batch[2].Err)
	}
	h.wantStock(t, "mug", 5, 5)
	h.wantStock(t, "tea", 5, 5)
}

func placeOppositeOrder(t *testing.T, h *OrdersHarness) {
	h.sell(t, 1000, "a", "b")
	var n placementCount
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for range 20 {
				first, second := n.buy("a:1", "b:1"), n.buy("b:1")
				if g%2 == 0 {
					first, second = n.buy("b:1"), n.buy("a:1", "b:1")
				}
				if err := h.Store.Place(testContext(t), []*order.Placement{first, second}, policy); err != nil || first.Err != nil || second.Err != nil {
					t.Errorf("Place: %v, %v, %v", err, first.Err, second.Err)
				}
			}
		})
	}
	wg.Wait()
	h.wantStock(t, "a", 1000, 160)
	h.wantStock(t, "b", 1000, 320)
}

func refusalCode(err error) string {
	var refused *order.RefusedError
	if errors.As(err, &refused) {
		return refused.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func placeRefusals(t *testing.T, h *OrdersHarness) {
	h.sell(t, 1, "mug")
	h.PutProduct(t, shelf("yen"), Product{Price: 1, Currency: "JPY"})
	h.PutStock(t, shelf("yen"), 9)
	h.PutProduct(t, shelf("old"), Product{Inactive: true, Price: 1, Currency: "EUR"})
	h.PutStock(t, shelf("old"), 9)
	h.PutProduct(t, shelf("unstocked"), Product{Price: 1, Currency: "EUR"})
	h.PutStock(t, shelf("unlisted"), 9)
	var n placementCount
	for _, c := range []struct {
		items []string
		want  order.RefusedError
	}{
		{[]string{"mug:2"}, order.RefusedError{Code: order.RefusedOutOfStock, Items: []order.RefusedItem{{SKU: "mug", Requested: 2, Available: 1}}}},
		{[]string{"unstocked:1"}, order.RefusedError{Code: order.RefusedOutOfStock, Items: []order.RefusedItem{{SKU: "unstocked", Requested: 1}}}},
		{[]string{"mug:1", "unlisted:1"}, order.RefusedError{Code: order.RefusedUnknownSKU, Items: []order.RefusedItem{{SKU: "unlisted", Requested: 1}}}},
		{[]string{"mug:1", "old:1"}, order.RefusedError{Code: order.RefusedInactive, Items: []order.RefusedItem{{SKU: "old", Requested: 1}}}},
		{[]string{"mug:1", "yen:1"}, order.RefusedError{Code: order.RefusedCurrency, Items: []order.RefusedItem{{SKU: "yen", Requested: 1}}}},
	} {
		p := n.buy(c.items...)
		h.place(t, p)
		var refused *order.RefusedError
		if !errors.As(p.Err, &refused) {
			t.Errorf("%v: %v, want a refusal", c.items, p.Err)
			continue
		}
		same(t, fmt.Sprint("the refusal of ", c.items), c.want, *refused)
		if _, err := h.Store.Order(testContext(t), shop, p.Order.ID); !errors.Is(err, order.ErrNotFound) {
			t.Errorf("%v: the refused order: %v, want ErrNotFound", c.items, err)
		}
	}
	h.wantStock(t, "mug", 1, 0)
	if rows := h.told(t, outbox.LaneBus); len(rows) > 0 {
		t.Errorf("refusals were told: %v", rows)
	}
}

func placeDeleted(t *testing.T, h *OrdersHarness) {
	var n placementCount
	put := func(deleted bool) {
		t.Helper()
		_, errs, err := h.Catalog.Put(testContext(t), []catalog.Put{{Now: monday, Product: catalog.Product{TenantID: shop, SKU: "mug", Deleted: deleted,
			Names: map[string]string{"en": "Mug"}, Price: catalog.Money{Amount: 999, Currency: "EUR"}, Active: true}}})
		if err := errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
	}
	put(false)
	h.PutStock(t, shelf("mug"), 5)
	h.placed(t, n.buy("mug:1"))
	put(true)
	h.sell(t, 5, "tea")
	refused, other := n.buy("tea:1", "mug:1"), n.buy("tea:1")
	h.place(t, refused, other)
	if got := refusalCode(refused.Err); got != order.RefusedUnknownSKU || other.Err != nil {
		t.Errorf("an order for a deleted product: %q, and one beside it: %v; want %q and none", got, other.Err, order.RefusedUnknownSKU)
	}
	put(false)
	h.placed(t, n.buy("mug:1"))
	h.wantStock(t, "mug", 5, 2)
}

func placeRefusalsDoNotCommit(t *testing.T, h *OrdersHarness) {
	h.sell(t, 0, "mug")
	h.FailCommit(t)
	var n placementCount
	h.place(t, n.buy("mug:1"), n.buy("mug:1")) // fails if it commits
	h.PutStock(t, shelf("mug"), 1)
	if err := h.Store.Place(testContext(t), []*order.Placement{n.buy("mug:1")}, policy); err == nil {
		t.Error("the commit that was to fail did not: the test proves nothing")
	}
}

// twin returns a placement whose id is taken, which the database refuses.
func (n *placementCount) twin(of *order.Placement, items ...string) *order.Placement {
	p := n.buy(items...)
	p.Order.ID = of.Order.ID
	return p
}

func placeIsolatesCulprit(t *testing.T, h *OrdersHarness) {
	for _, at := range []int{0, 1, 99, 199} {
		t.Run(fmt.Sprint("at ", at), func(t *testing.T) {
			sku := fmt.Sprint("mug", at)
			h.sell(t, 200, sku)
			var n placementCount
			n.n.Store(int64(at+1) * 1000)
			taken := h.placedIn(t, &n, sku+"x")
			batch := make([]*order.Placement, 200)
			for i := range batch {
				batch[i] = n.buy(sku + ":1")
			}
			batch[at] = n.twin(taken, sku+":1")
			h.place(t, batch...)
			for i, p := range batch {
				if i == at != errors.Is(p.Err, order.ErrData) || i != at && p.Err != nil {
					t.Errorf("placement %d: %v", i, p.Err)
				}
			}
			h.wantStock(t, sku, 200, 199)
			retry := keyed(n.buy(sku+":1"), batch[at].Key)
			if h.place(t, retry); retry.Err != nil || retry.Replayed {
				t.Errorf("the key of the culprit was bound: %v, %v", retry.Err, retry.Replayed)
			}
		})
	}
}

// placedIn places an order for one unit of a SKU of its own.
func (h *OrdersHarness) placedIn(t testing.TB, n *placementCount, sku string) *order.Placement {
	h.sell(t, 1, sku)
	p := n.buy(sku + ":1")
	h.placed(t, p)
	return p
}

func placeIsolatesCulprits(t *testing.T, h *OrdersHarness) {
	var n placementCount
	taken := h.placedIn(t, &n, "taken")
	h.sell(t, 1000, "mug", "tea")
	rng := rand.New(rand.NewPCG(7, 7))
	batch, culprits := make([]*order.Placement, 100), 0
	for i := range batch {
		batch[i] = n.buy("mug:1", "tea:2")
		if rng.IntN(5) == 0 {
			batch[i] = n.twin(taken, "mug:1", "tea:2")
			culprits++
		}
	}
	h.place(t, batch...)
	for i, p := range batch {
		if (p.Order.ID == taken.Order.ID) != errors.Is(p.Err, order.ErrData) || p.Err != nil && !errors.Is(p.Err, order.ErrData) {
			t.Errorf("placement %d: %v", i, p.Err)
		}
	}
	h.wantStock(t, "mug", 1000, int64(100-culprits))
	h.wantStock(t, "tea", 1000, int64(100-culprits)*2)
	if got := len(h.told(t, outbox.LaneBus)); got != 101-culprits {
		t.Errorf("%d orders were told, want %d", got, 101-culprits)
	}
}

func placeFailedCommit(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	h.FailCommit(t)
	var n placementCount
	p := n.buy("mug:1")
	err := h.Store.Place(testContext(t), []*order.Placement{p}, policy)
	if err == nil || errors.Is(err, order.ErrUnknownOutcome) || errors.Is(err, order.ErrData) {
		t.Errorf("Place: %v, want an error that says that nothing was placed", err)
	}
	h.wantStock(t, "mug", 9, 0)
	if h.place(t, p); p.Err != nil || p.Replayed {
		t.Errorf("the second try: %v, replayed %v", p.Err, p.Replayed)
	}
	h.wantStock(t, "mug", 9, 1)
}

func placeLostReply(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	h.LoseReply(t)
	var n placementCount
	p := n.buy("mug:1")
	if err := h.Store.Place(testContext(t), []*order.Placement{p}, policy); !errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Place: %v, want ErrUnknownOutcome", err)
	}
	again := keyed(n.buy("mug:1"), p.Key)
	if h.place(t, again); !again.Replayed || again.Placed.ID != p.Order.ID {
		t.Errorf("the repetition: %v, replayed %v", again.Err, again.Replayed)
	}
	h.wantStock(t, "mug", 9, 1)
}

func placeCancelled(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	if err := h.Store.Place(cancelled(), []*order.Placement{n.buy("mug:1")}, policy); err == nil {
		t.Error("Place answered no error")
	}
	h.wantStock(t, "mug", 9, 0)
}

func placeOutbox(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	batch := []*order.Placement{n.buy("mug:1"), n.buy("mug:2")}
	h.place(t, batch...)
	for _, lane := range []struct {
		name    outbox.Lane
		subject string
	}{{outbox.LaneBus, "orders.placed"}, {outbox.LaneEvents, "order.placed"}} {
		rows := h.told(t, lane.name)
		if len(rows) != len(batch) {
			t.Fatalf("lane %s has %d rows, want %d", lane.name, len(rows), len(batch))
		}
		for i, row := range rows {
			o := batch[i].Placed
			want := outbox.Row{Seq: row.Seq, Lane: lane.name, TenantID: shop, Subject: lane.subject, ID: o.ID + "-1", At: o.PlacedAt, Trace: o.Details.Trace, Data: row.Data}
			same(t, "the row", want, row)
			if len(row.Data) == 0 {
				t.Error("the row has no data")
			}
		}
		select {
		case <-h.Outbox.Written(lane.name):
		default:
			t.Errorf("lane %s was not signalled", lane.name)
		}
	}
}

func placeDrop(t *testing.T, h *OrdersHarness) {
	const units, buyers, batch, callers = 100, 10_000, 50, 8
	h.sell(t, units, "drop")
	var n placementCount
	var placed, refused, next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for next.Add(batch) <= buyers {
				placements := make([]*order.Placement, batch)
				for i := range placements {
					placements[i] = n.buy("drop:1")
				}
				if err := h.Store.Place(testContext(t), placements, policy); err != nil {
					t.Errorf("Place: %v", err)
					return
				}
				for _, p := range placements {
					switch refusalCode(p.Err) {
					case "":
						placed.Add(1)
					case order.RefusedOutOfStock:
						refused.Add(1)
					default:
						t.Errorf("a placement: %v", p.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	if placed.Load() != units || refused.Load() != buyers-units {
		t.Errorf("%d placed and %d refused, want %d and %d", placed.Load(), refused.Load(), units, buyers-units)
	}
	h.wantStock(t, "drop", units, units)
	if got := len(h.told(t, outbox.LaneBus)); got != units {
		t.Errorf("%d orders were told, want %d", got, units)
	}
}

func placeTenants(t *testing.T, h *OrdersHarness) {
	var n placementCount
	other := func(items ...string) *order.Placement {
		p := n.buy(items...)
		p.Order.TenantID = "other"
		return p
	}
	h.sell(t, 1, "mug")
	h.PutProduct(t, order.ShelfKey{TenantID: "other", SKU: "mug"}, Product{Price: 5, Currency: "USD"})
	h.PutStock(t, order.ShelfKey{TenantID: "other", SKU: "mug"}, 1)
	a, b := keyed(n.buy("mug:1"), "one"), keyed(other("mug:1"), "one")
	b.Order.ID = a.Order.ID // ids are unique within a tenant only
	h.place(t, a, b)
	if a.Err != nil || b.Err != nil || b.Replayed || b.Placed.Currency != "USD" {
		t.Fatalf("outcomes: %v; %v, replayed %v, %s", a.Err, b.Err, b.Replayed, b.Placed.Currency)
	}
	h.wantStock(t, "mug", 1, 1)
	got, err := h.Store.Order(testContext(t), "other", b.Order.ID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the other tenant's order", b.Placed, got)
	if _, err := h.Store.Order(testContext(t), "third", a.Order.ID); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("a third tenant's look-up: %v, want ErrNotFound", err)
	}
	out := h.advance(t, &order.Step{TenantID: "third", OrderID: a.Order.ID, Event: order.EventCancelAsked, At: a.Order.PlacedAt})
	if !errors.Is(out[0].Err, order.ErrNotFound) {
		t.Errorf("a third tenant's cancellation: %v, want ErrNotFound", out[0].Err)
	}
}

func placeReopen(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	p := n.buy("mug:2")
	want := h.placed(t, p)
	before := h.told(t, outbox.LaneBus)
	h.Reopen(t)
	same(t, "the order", want, h.order(t, want.ID))
	same(t, "the outbox", before, h.told(t, outbox.LaneBus))
	again := keyed(n.buy("mug:2"), p.Key)
	if h.place(t, again); !again.Replayed {
		t.Errorf("the key is not bound any more: %v", again.Err)
	}
	other := h.placed(t, n.buy("mug:1"))
	rows := h.told(t, outbox.LaneBus)
	if last := rows[len(rows)-1]; len(rows) != 2 || last.ID != other.ID+"-1" {
		t.Errorf("the outbox after another order: %v", rows)
	}
	h.wantStock(t, "mug", 9, 3)
}
