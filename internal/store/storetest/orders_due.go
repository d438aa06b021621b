package storetest

import (
	"sync"
	"testing"
	"time"

	"millrace/internal/order"
)

func dueTests() []ordersTest {
	return []ordersTest{
		{"due orders are claimed, the most overdue first", dueOrder},
		{"what is shipped and what is worked on are due in one order", dueMixed},
		{"of many who ask at a time each order is claimed once", dueRace},
		{"nothing due claims nothing and commits nothing", dueNothing},
		{"deferring moves the attempt and notes why, and is no transition", deferMoves},
		{"deferring another version, a parked order or none does nothing", deferStale},
		{"pulling forward makes due what lies too far ahead, and only that", pullsForward},
	}
}

// due asks for what is due and fails the test for an error.
func (h *OrdersHarness) due(t testing.TB, now time.Time, limit int) []order.Order {
	t.Helper()
	found, err := h.Store.Due(testContext(t), now, now.Add(time.Minute), limit)
	if err != nil {
		t.Fatalf("Due: %v", err)
	}
	return found
}

func dueOrder(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	batch := []*order.Placement{n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:1")}
	h.place(t, batch[2], batch[0], batch[3], batch[1])
	now := batch[2].Placed.NextAttempt // at or before: three of them
	found := h.due(t, now, 2)
	if len(found) != 2 || found[0].ID != batch[0].Order.ID || found[1].ID != batch[1].Order.ID {
		t.Fatalf("due: %v", found)
	}
	want := batch[0].Placed
	want.NextAttempt = now.Add(time.Minute)
	same(t, "the claimed order", want, found[0])
	same(t, "the stored order", want, h.order(t, want.ID))
	if found := h.due(t, now, 10); len(found) != 1 || found[0].ID != batch[2].Order.ID {
		t.Errorf("due then: %v", found)
	}
	if found := h.due(t, now, 10); len(found) != 0 {
		t.Errorf("due after all are claimed: %v", found)
	}
	if found := h.due(t, now.Add(time.Minute), 10); len(found) != 4 {
		t.Errorf("due when the claims are over: %d, want 4", len(found))
	}
}

func dueMixed(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	shipped := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	h.walk(t, &n, "charge_intended", "captured", "sent") // waits for the merchant: never due
	late := n.buy("mug:1")
	late.Order.PlacedAt = shipped.NextAttempt.Add(time.Minute)
	late.Order.UpdatedAt = late.Order.PlacedAt
	early := n.buy("mug:1")
	h.place(t, early, late)
	now := late.Order.PlacedAt.Add(time.Hour)
	found := h.due(t, now, 2)
	if len(found) != 2 || found[0].ID != early.Order.ID || found[1].ID != shipped.ID {
		t.Fatalf("due: %v", found)
	}
	if found := h.due(t, now, 2); len(found) != 1 || found[0].ID != late.Order.ID {
		t.Errorf("due then: %v", found)
	}
}

func dueRace(t *testing.T, h *OrdersHarness) {
	const orders = 200
	h.sell(t, orders, "mug")
	var n placementCount
	batch := make([]*order.Placement, orders)
	for i := range batch {
		batch[i] = n.buy("mug:1")
	}
	h.place(t, batch...)
	now := batch[orders-1].Placed.NextAttempt
	var mu sync.Mutex
	claims := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range orders { // more than it takes
				found, err := h.Store.Due(testContext(t), now, now.Add(time.Minute), 7)
				if err != nil {
					t.Errorf("Due: %v", err)
				}
				if err != nil || len(found) == 0 {
					return
				}
				mu.Lock()
				for _, o := range found {
					claims[o.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, times := range claims {
		if times != 1 {
			t.Errorf("order %s was claimed %d times", id, times)
		}
	}
	if len(claims) != orders {
		t.Errorf("%d orders were claimed, want %d", len(claims), orders)
	}
}

func dueNothing(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	h.walk(t, &n)
	h.FailCommit(t)
	if found := h.due(t, monday, 10); len(found) != 0 {
		t.Errorf("due: %v", found)
	}
}

func deferMoves(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended")
	until := o.UpdatedAt.Add(time.Hour)
	if err := h.Store.Defer(testContext(t), []order.Deferral{{TenantID: shop, OrderID: o.ID, Version: o.Version, Until: until, Reason: "the provider is down"}}); err != nil {
		t.Fatalf("Defer: %v", err)
	}
	want := o
	want.NextAttempt, want.LastError = until, "the provider is down"
	same(t, "the order", want, h.order(t, o.ID))
	if found := h.due(t, until.Add(-1), 10); len(found) != 0 {
		t.Errorf("due before: %v", found)
	}
	if found := h.due(t, until, 10); len(found) != 1 {
		t.Errorf("due then: %v", found)
	}
	history, err := h.Store.History(testContext(t), shop, o.ID)
	if err != nil || len(history) != 2 {
		t.Errorf("the history: %v, %v; want 2 entries", history, err)
	}
}

func deferStale(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended")
	parked := h.walk(t, &n, "charge_intended", "attempt_failed", "attempt_failed", "attempt_failed")
	until := o.UpdatedAt.Add(time.Hour)
	err := h.Store.Defer(testContext(t), []order.Deferral{
		{TenantID: shop, OrderID: o.ID, Version: o.Version - 1, Until: until, Reason: "x"},
		{TenantID: "other", OrderID: o.ID, Version: o.Version, Until: until, Reason: "x"},
		{TenantID: shop, OrderID: "none", Version: 1, Until: until, Reason: "x"},
		{TenantID: shop, OrderID: parked.ID, Version: parked.Version, Until: until, Reason: "x"},
	})
	if err != nil {
		t.Fatalf("Defer: %v", err)
	}
	same(t, "the order", o, h.order(t, o.ID))
	same(t, "the parked order", parked, h.order(t, parked.ID))
}

func pullsForward(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	far, near := h.walk(t, &n, "charge_intended"), h.walk(t, &n)
	shipped := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	waiting := h.walk(t, &n, "charge_intended", "captured", "sent")
	now := near.UpdatedAt
	horizon := now.Add(time.Hour)
	deferTo := func(o order.Order, until time.Time) {
		t.Helper()
		if err := h.Store.Defer(testContext(t), []order.Deferral{{TenantID: shop, OrderID: o.ID, Version: o.Version, Until: until}}); err != nil {
			t.Fatal(err)
		}
	}
	pull := func(want int) {
		t.Helper()
		if got, err := h.Store.PullForward(testContext(t), now, horizon); err != nil || got != want {
			t.Errorf("PullForward: %d, %v; want %d", got, err, want)
		}
	}
	deferTo(far, horizon)
	deferTo(shipped, horizon.Add(1))
	deferTo(waiting, horizon.Add(1))
	pull(0)
	deferTo(far, horizon.Add(1))
	pull(1)
	if found := h.due(t, now, 10); len(found) != 1 || found[0].ID != far.ID || found[0].Version != far.Version {
		t.Errorf("due after it: %v", found)
	}
}
