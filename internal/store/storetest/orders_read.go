package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/internal/order"
)

func orderReadTests() []ordersTest {
	return []ordersTest{
		{"orders are listed newest first, by customer, status and both", listFilters},
		{"pages follow each other without gap or repetition while orders come in", listPages},
		{"a page of large orders ends early, and the next goes on", listLarge},
		{"a cursor serves its own query only", listCursors},
		{"tenants see their own orders only", listTenants},
		{"an order that is not there is not found and has no history", readNothing},
		{"what is not terminal is counted by status over all tenants", countStatuses},
	}
}

func (h *OrdersHarness) list(t testing.TB, q order.Query) order.Page {
	t.Helper()
	p, err := h.Store.Orders(testContext(t), q)
	if err != nil {
		t.Fatalf("Orders: %v", err)
	}
	return p
}

func idsOf(orders []order.Order) []string {
	ids := make([]string, len(orders))
	for i := range orders {
		ids[i] = orders[i].ID
	}
	return ids
}

func listFilters(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	var all []order.Order
	for i := range 12 {
		p := n.buy("mug:1")
		p.Order.CustomerID = []string{"alice", "bob", "carol"}[i%3]
		o := h.placed(t, p)
		if i%2 == 0 {
			o = h.applied(t, step(&o, order.EventCancelAsked))
		}
		all = append(all, o)
	}
	slices.Reverse(all)
	for _, customer := range []string{"", "alice", "bob", "nobody"} {
		for _, status := range []order.Status{"", order.Placed, order.Cancelled, order.Paid} {
			var want []order.Order
			for _, o := range all {
				if (customer == "" || o.CustomerID == customer) && (status == "" || o.Status == status) {
					want = append(want, o)
				}
			}
			page := h.list(t, order.Query{TenantID: shop, CustomerID: customer, Status: status, Limit: 50})
			same(t, fmt.Sprintf("orders of %q that are %q", customer, status), want, page.Orders)
			if page.Next != "" {
				t.Errorf("the last page of %q, %q has a cursor", customer, status)
			}
		}
	}
}

func listPages(t *testing.T, h *OrdersHarness) {
	h.sell(t, 500, "mug")
	for _, q := range []order.Query{{}, {CustomerID: "alice"}, {Status: order.Placed}, {CustomerID: "alice", Status: order.Placed}} {
		q.TenantID, q.Limit = shop, 5
		var n placementCount
		n.n.Store(int64(h.Stock(t, shelf("mug")).Reserved) + 1)
		for range 23 {
			h.placed(t, n.buy("mug:1"))
		}
		want := idsOf(h.list(t, order.Query{TenantID: shop, CustomerID: q.CustomerID, Status: q.Status, Limit: 1000}).Orders)
		var got []string
		for {
			page := h.list(t, q)
			got = append(got, idsOf(page.Orders)...)
			if page.Next == "" {
				break
			}
			if len(page.Orders) != q.Limit {
				t.Fatalf("a page of %d orders, want %d", len(page.Orders), q.Limit)
			}
			q.Cursor = page.Next
			h.placed(t, n.buy("mug:1")) // newer than the first page: not seen
			if len(got) > 1000 {
				t.Fatal("the pages do not end")
			}
		}
		same(t, fmt.Sprintf("the pages of %q, %q", q.CustomerID, q.Status), want, got)
	}
}

func listLarge(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	var want []string
	for range 10 {
		p := n.buy("mug:1")
		p.Order.Details.Note = strings.Repeat(`"`, 1<<20) // twice that in JSON
		want = append(want, h.placed(t, p).ID)
	}
	slices.Reverse(want)
	q := order.Query{TenantID: shop, Limit: 1000}
	var got []string
	for _, n := range []int{4, 4, 2} {
		page := h.list(t, q)
		if len(page.Orders) != n {
			t.Fatalf("a page of %d orders, want %d", len(page.Orders), n)
		}
		got, q.Cursor = append(got, idsOf(page.Orders)...), page.Next
	}
	same(t, "the pages", want, got)
	if q.Cursor != "" {
		t.Error("the last page has a cursor")
	}
}

func listCursors(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	for range 4 {
		h.placed(t, n.buy("mug:1"))
	}
	q := order.Query{TenantID: shop, CustomerID: "alice", Limit: 2}
	next := h.list(t, q).Next
	if next == "" {
		t.Fatal("no cursor")
	}
	q.Cursor = next
	if page := h.list(t, q); len(page.Orders) != 2 || page.Next != "" {
		t.Errorf("the second page: %d orders, cursor %q", len(page.Orders), page.Next)
	}
	for name, bad := range map[string]order.Query{
		"another customer": {TenantID: shop, CustomerID: "bob", Limit: 2, Cursor: next},
		"no customer":      {TenantID: shop, Limit: 2, Cursor: next},
		"a status":         {TenantID: shop, CustomerID: "alice", Status: order.Placed, Limit: 2, Cursor: next},
		"another tenant":   {TenantID: "other", CustomerID: "alice", Limit: 2, Cursor: next},
		"a cut cursor":     {TenantID: shop, CustomerID: "alice", Limit: 2, Cursor: next[:len(next)-1]},
		"no base64":        {TenantID: shop, CustomerID: "alice", Limit: 2, Cursor: "%%%"},
		"a guess":          {TenantID: shop, CustomerID: "alice", Limit: 2, Cursor: "AAAAAAAAAAAA"},
	} {
		if _, err := h.Store.Orders(testContext(t), bad); !errors.Is(err, order.ErrBadCursor) {
			t.Errorf("%s: %v, want ErrBadCursor", name, err)
		}
	}
}

func listTenants(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	h.placed(t, n.buy("mug:1"))
	for _, q := range []order.Query{{}, {CustomerID: "alice"}, {Status: order.Placed}} {
		q.TenantID, q.Limit = "other", 10
		if page := h.list(t, q); len(page.Orders) != 0 {
			t.Errorf("another tenant sees %v", page.Orders)
		}
	}
	if history, err := h.Store.History(testContext(t), "other", "00000000-0001-7000-8000-000000000000"); err != nil || len(history) != 0 {
		t.Errorf("another tenant's history: %v, %v", history, err)
	}
}

func readNothing(t *testing.T, h *OrdersHarness) {
	if _, err := h.Store.Order(testContext(t), shop, "none"); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("Order: %v, want ErrNotFound", err)
	}
	if history, err := h.Store.History(testContext(t), shop, "none"); err != nil || len(history) != 0 {
		t.Errorf("History: %v, %v", history, err)
	}
	if page := h.list(t, order.Query{TenantID: shop, Limit: 1}); len(page.Orders) != 0 || page.Next != "" {
		t.Errorf("Orders: %v", page)
	}
}

func countStatuses(t *testing.T, h *OrdersHarness) {
	count := func(want map[order.Status]int64) {
		t.Helper()
		got, err := h.Store.CountByStatus(testContext(t))
		if err != nil {
			t.Fatalf("CountByStatus: %v", err)
		}
		same(t, "the counts", want, got)
	}
	count(nil)
	h.sell(t, 50, "mug")
	for _, tenant := range []string{"a", "b", "c"} {
		key := order.ShelfKey{TenantID: tenant, SKU: "mug"}
		h.PutProduct(t, key, Product{Price: 1, Currency: "EUR"})
		h.PutStock(t, key, 9)
	}
	var n placementCount
	for _, tenant := range []string{"a", "a", "b", "c"} {
		p := n.buy("mug:1")
		p.Order.TenantID = tenant
		h.placed(t, p)
	}
	h.walk(t, &n, "charge_intended")
	h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	h.walk(t, &n, "charge_intended", "captured", "shipment_reported", "delivered")
	h.walk(t, &n, "cancel_asked")
	count(map[order.Status]int64{order.Placed: 4, order.Charging: 1, order.Shipped: 1})
}
