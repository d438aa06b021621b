package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/internal/order"
	"millrace/internal/outbox"
)

func placeKeyTests() []ordersTest {
	return []ordersTest{
		{"a repeated placement gets the order that stands", keyReplay},
		{"a key that was used for another request is refused", keyReused},
		{"a replay shows the order as it is now", keyReplayAfterSteps},
		{"keys are of one customer", keyOfCustomer},
		{"of equal keys in a batch the first decides", keyTwins},
		{"after a refusal the next with the same key tries for itself", keyTwinsAfterRefusal},
		{"a refusal binds no key", keyAfterRefusal},
		{"an expired key makes way for another order", keyExpiry},
		{"the same keys in opposite order in two batches at once make one order each", keyOppositeOrder},
		{"keys are dropped by age, the oldest first", keyDrop},
	}
}

func keyReplay(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	first, again, twin := n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:1")
	h.placed(t, first)
	rows := len(h.told(t, outbox.LaneBus))
	h.place(t, keyed(again, first.Key), n.buy("mug:1"), keyed(twin, first.Key))
	for _, p := range []*order.Placement{again, twin} {
		if p.Err != nil || !p.Replayed {
			t.Fatalf("the repetition: %v, replayed %v", p.Err, p.Replayed)
		}
		same(t, "the replay", first.Placed, p.Placed)
	}
	h.wantStock(t, "mug", 9, 2)
	if got := len(h.told(t, outbox.LaneBus)) - rows; got != 1 {
		t.Errorf("%d orders were told, want the new one alone", got)
	}
}

func keyReused(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	first, other := n.buy("mug:1"), n.buy("mug:2")
	h.placed(t, first)
	h.place(t, keyed(other, first.Key))
	if !errors.Is(other.Err, order.ErrKeyReused) {
		t.Errorf("another request with the key: %v, want ErrKeyReused", other.Err)
	}
	h.wantStock(t, "mug", 9, 1)
}

func keyReplayAfterSteps(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	first, again := n.buy("mug:1"), n.buy("mug:1")
	o := h.placed(t, first)
	o = h.applied(t, step(&o, order.EventCancelAsked))
	h.place(t, keyed(again, first.Key))
	if !again.Replayed {
		t.Fatalf("the repetition: %v", again.Err)
	}
	same(t, "the replay", o, again.Placed)
}

func keyOfCustomer(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	a, b := n.buy("mug:1"), n.buy("mug:1")
	b.Order.CustomerID = "bob"
	h.place(t, keyed(a, "one"), keyed(b, "one"))
	if a.Err != nil || b.Err != nil || b.Replayed {
		t.Errorf("two customers with one key: %v; %v, replayed %v", a.Err, b.Err, b.Replayed)
	}
}

func keyTwins(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	first, same1, other, same2 := n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:2"), n.buy("mug:1")
	h.place(t, keyed(first, "k"), keyed(same1, "k"), keyed(other, "k"), keyed(same2, "k"))
	if first.Err != nil || first.Replayed {
		t.Fatalf("the first: %v, replayed %v", first.Err, first.Replayed)
	}
	for _, p := range []*order.Placement{same1, same2} {
		if p.Err != nil || !p.Replayed {
			t.Errorf("a repetition: %v, replayed %v", p.Err, p.Replayed)
		}
		same(t, "the repetition", first.Placed, p.Placed)
	}
	if !errors.Is(other.Err, order.ErrKeyReused) {
		t.Errorf("another request with the key: %v, want ErrKeyReused", other.Err)
	}
	h.wantStock(t, "mug", 9, 1)
}

func keyTwinsAfterRefusal(t *testing.T, h *OrdersHarness) {
	h.sell(t, 2, "mug")
	var n placementCount
	tooMany, fits, again := n.buy("mug:3"), n.buy("mug:1"), n.buy("mug:1")
	h.place(t, keyed(tooMany, "k"), keyed(fits, "k"), keyed(again, "k"))
	if refusalCode(tooMany.Err) != order.RefusedOutOfStock || fits.Err != nil || fits.Replayed || !again.Replayed || again.Placed.ID != fits.Order.ID {
		t.Errorf("outcomes: %v; %v, replayed %v; %v, replayed %v", tooMany.Err, fits.Err, fits.Replayed, again.Err, again.Replayed)
	}
	h.wantStock(t, "mug", 2, 1)
}

func keyAfterRefusal(t *testing.T, h *OrdersHarness) {
	h.sell(t, 0, "mug")
	var n placementCount
	refused := n.buy("mug:1")
	h.place(t, refused)
	if refusalCode(refused.Err) != order.RefusedOutOfStock {
		t.Fatalf("the first: %v", refused.Err)
	}
	h.PutStock(t, shelf("mug"), 1)
	h.placed(t, keyed(n.buy("mug:1"), refused.Key))
}

func keyExpiry(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	first, inTime, late, after := n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:2"), n.buy("mug:2")
	h.placed(t, first)
	inTime.KeyNotBefore = first.Order.PlacedAt
	if h.place(t, keyed(inTime, first.Key)); !inTime.Replayed {
		t.Errorf("a key of just that age: %v, want a replay", inTime.Err)
	}
	late.KeyNotBefore = first.Order.PlacedAt.Add(1)
	h.placed(t, keyed(late, first.Key))
	if h.place(t, keyed(after, first.Key)); !after.Replayed || after.Placed.ID != late.Order.ID {
		t.Errorf("after the key was bound anew: %v, replayed %v", after.Err, after.Replayed)
	}
	h.wantStock(t, "mug", 9, 3)
}

func keyOppositeOrder(t *testing.T, h *OrdersHarness) {
	h.sell(t, 1000, "mug")
	var n placementCount
	for round := range 10 {
		var batches [2][]*order.Placement
		for side := range batches {
			for k := range 20 {
				batches[side] = append(batches[side], keyed(n.buy("mug:1"), fmt.Sprint(round, " ", k)))
			}
		}
		slices.Reverse(batches[1])
		var wg sync.WaitGroup
		for _, batch := range batches {
			wg.Go(func() {
				if err := h.Store.Place(testContext(t), batch, policy); err != nil {
					t.Errorf("Place: %v", err)
				}
			})
		}
		wg.Wait()
		ids, first := map[string]string{}, 0
		for _, p := range slices.Concat(batches[0], batches[1]) {
			if p.Err != nil {
				t.Fatalf("a placement: %v", p.Err)
			}
			if !p.Replayed {
				first++
			}
			if id := ids[p.Key]; id != "" && id != p.Placed.ID {
				t.Errorf("key %s stands for %s and %s", p.Key, id, p.Placed.ID)
			}
			ids[p.Key] = p.Placed.ID
		}
		if first != 20 {
			t.Errorf("20 keys placed %d orders", first)
		}
	}
	h.wantStock(t, "mug", 1000, 200)
}

func keyDrop(t *testing.T, h *OrdersHarness) {
	h.sell(t, 9, "mug")
	var n placementCount
	batch := []*order.Placement{n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:1"), n.buy("mug:1")}
	h.place(t, batch...)
	drop := func(before time.Time, limit, want int) {
		t.Helper()
		got, err := h.Store.DropKeys(testContext(t), before, limit)
		if err != nil || got != want {
			t.Errorf("DropKeys: %d, %v; want %d", got, err, want)
		}
	}
	drop(batch[0].Order.PlacedAt, 10, 0)
	drop(batch[3].Order.PlacedAt, 2, 2)
	again := keyed(n.buy("mug:1"), batch[2].Key)
	if h.place(t, again); !again.Replayed {
		t.Errorf("the youngest of three old keys went before the others: %v", again.Err)
	}
	drop(batch[3].Order.PlacedAt, 10, 1)
	for i, p := range batch {
		again := keyed(n.buy("mug:1"), p.Key)
		if h.place(t, again); again.Err != nil || again.Replayed != (i == 3) {
			t.Errorf("key %d after the drop: %v, replayed %v", i, again.Err, again.Replayed)
		}
	}
}
