package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"millrace/internal/order"
)

func orderPropertyTests() []ordersTest {
	return []ordersTest{
		{"whatever is asked in whatever order, stock and money add up", propertyRandomSteps},
	}
}

// propertyRandomSteps asks for random steps, most of them out of place, and checks
// after every batch that nothing is lost, doubled or oversold.
func propertyRandomSteps(t *testing.T, h *OrdersHarness) {
	const seed, rounds, perRound = 11, 60, 40
	rng := rand.New(rand.NewPCG(seed, seed))
	skus := []string{"a", "b", "c"}
	const stocked = 400
	h.sell(t, stocked, skus...)
	var n placementCount
	var all []order.Order
	for range rounds {
		var batch []*order.Placement
		for range rng.IntN(12) {
			items := []string{fmt.Sprint("a:", 1+rng.IntN(3)), fmt.Sprint("b:", 1+rng.IntN(3)), fmt.Sprint("c:", 1+rng.IntN(3))}
			from := rng.IntN(3)
			batch = append(batch, n.buy(items[from:from+1+rng.IntN(3-from)]...))
		}
		h.place(t, batch...)
		for _, p := range batch {
			if p.Err == nil {
				all = append(all, p.Placed)
			}
		}
		if len(all) == 0 {
			continue
		}
		steps := make([]*order.Step, perRound)
		for i := range steps {
			steps[i] = randomStep(rng, &all[rng.IntN(len(all))])
		}
		for i, out := range h.advance(t, steps...) {
			if out.Applied == (out.Err != nil) {
				t.Fatalf("seed %d: step %s of %s: applied %v, %v", seed, steps[i].Event, steps[i].OrderID, out.Applied, out.Err)
			}
		}
		for i := range all {
			all[i] = h.order(t, all[i].ID)
		}
		h.checkSums(t, all, skus, stocked)
	}
	var reached []order.Status
	for _, o := range all {
		if !slices.Contains(reached, o.Status) {
			reached = append(reached, o.Status)
		}
	}
	if len(reached) < 8 {
		t.Errorf("the steps reached only %v: the test proves little", reached)
	}
}

// randomStep prefers what the order's status takes.
func randomStep(rng *rand.Rand, o *order.Order) *order.Step {
	table := order.Transitions()
	row := table[1+rng.IntN(len(table)-1)]
	for tries := 0; tries < 20 && row.From != o.Status && rng.IntN(10) > 0; tries++ {
		row = table[1+rng.IntN(len(table)-1)]
	}
	s := walkStep(o, string(row.Event))
	s.At = o.UpdatedAt.Add(time.Duration(rng.IntN(1000)) * time.Millisecond)
	switch s.Event {
	case order.EventRefundAsked:
		s.Amount, s.Restock = int64(rng.IntN(1000)), rng.IntN(2) == 0
	case order.EventCaptured:
		if rng.IntN(4) == 0 {
			s.Amount = 1 + rng.Int64N(o.Total)
		}
	}
	return s
}

// checkSums checks stock against all orders, and the money of each.
func (h *OrdersHarness) checkSums(t *testing.T, all []order.Order, skus []string, stocked int64) {
	t.Helper()
	reserved, gone := map[string]int64{}, map[string]int64{}
	for _, o := range all {
		if o.Refunded < 0 || o.Refunded > o.Captured || o.Captured > o.Total {
			t.Fatalf("order %s, %s: %d refunded of %d captured of %d", o.ID, o.Status, o.Refunded, o.Captured, o.Total)
		}
		if o.Status.Terminal() && o.Status != order.Completed && o.Captured != o.Refunded {
			t.Fatalf("order %s is %s and keeps %d", o.ID, o.Status, o.Captured-o.Refunded)
		}
		for _, l := range o.Lines {
			switch {
			case o.Progress.Shipment != nil && !o.Progress.Restocked:
				gone[l.SKU] += l.Quantity
			case o.Progress.Shipment == nil && o.Status.Reserves():
				reserved[l.SKU] += l.Quantity
			}
		}
	}
	for _, sku := range skus {
		h.wantStock(t, sku, stocked-gone[sku], reserved[sku])
	}
	if t.Failed() {
		t.FailNow()
	}
}
