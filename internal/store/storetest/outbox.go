package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/order"
	"millrace/internal/outbox"
)

// Outbox runs the conformance suite of outbox.Store. Its rows come from placements,
// which leave one row in each lane.
func Outbox(t *testing.T, fresh OrdersFactory) {
	for _, c := range []ordersTest{
		{"pending rows come oldest first, after a sequence, up to a limit", outboxPending},
		{"removed rows are gone, one by one and in runs, and only from their lane", outboxRemove},
		{"the depth is the number of rows and the age of the oldest", outboxDepth},
		{"sequences rise, whatever was removed and after the store was opened again", outboxSequences},
		{"a signal comes with rows, at most one is pending, and none without", outboxSignals},
		{"a lane there is not is told so", outboxUnknownLane},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

// fill places so many orders, each in a batch of its own.
func (h *OrdersHarness) fill(t testing.TB, n *placementCount, count int) []order.Order {
	t.Helper()
	h.sell(t, 1_000_000, "mug")
	placed := make([]order.Order, count)
	for i := range placed {
		placed[i] = h.placed(t, n.buy("mug:1"))
	}
	return placed
}

func outboxPending(t *testing.T, h *OrdersHarness) {
	var n placementCount
	placed := h.fill(t, &n, 5)
	all := h.told(t, outbox.LaneBus)
	if len(all) != 5 {
		t.Fatalf("%d rows, want 5", len(all))
	}
	for i, row := range all {
		if row.ID != placed[i].ID+"-1" || i > 0 && row.Seq <= all[i-1].Seq {
			t.Errorf("row %d: %+v", i, row)
		}
	}
	page, err := h.Outbox.Pending(testContext(t), outbox.LaneBus, all[1].Seq, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the rows after the second", all[2:4], page)
	if rest, err := h.Outbox.Pending(testContext(t), outbox.LaneBus, all[4].Seq, 2); err != nil || len(rest) != 0 {
		t.Errorf("after the last: %v, %v", rest, err)
	}
}

func outboxRemove(t *testing.T, h *OrdersHarness) {
	var n placementCount
	h.fill(t, &n, 10)
	all := h.told(t, outbox.LaneBus)
	remove := func(seqs ...int64) {
		t.Helper()
		if err := h.Outbox.Remove(testContext(t), outbox.LaneBus, seqs); err != nil {
			t.Fatalf("Remove: %v", err)
		}
	}
	remove(all[9].Seq, all[2].Seq, all[1].Seq, all[3].Seq, all[5].Seq, all[5].Seq)
	want := []outbox.Row{all[0], all[4], all[6], all[7], all[8]}
	same(t, "what is left", want, h.told(t, outbox.LaneBus))
	remove(all[2].Seq, all[0].Seq) // one is gone already
	same(t, "what is left then", want[1:], h.told(t, outbox.LaneBus))
	remove()
	if got := len(h.told(t, outbox.LaneEvents)); got != 10 {
		t.Errorf("the other lane has %d rows, want 10", got)
	}
}

func outboxDepth(t *testing.T, h *OrdersHarness) {
	depth := func(want int64, oldest time.Time) {
		t.Helper()
		rows, at, err := h.Outbox.Depth(testContext(t), outbox.LaneEvents)
		if err != nil || rows != want || !at.Equal(oldest) {
			t.Errorf("Depth: %d, %v, %v; want %d, %v", rows, at, err, want, oldest)
		}
	}
	depth(0, time.Time{})
	var n placementCount
	placed := h.fill(t, &n, 3)
	depth(3, placed[0].PlacedAt)
	if err := h.Outbox.Remove(testContext(t), outbox.LaneEvents, []int64{h.told(t, outbox.LaneEvents)[0].Seq}); err != nil {
		t.Fatal(err)
	}
	depth(2, placed[1].PlacedAt)
}

func outboxSequences(t *testing.T, h *OrdersHarness) {
	var n placementCount
	h.fill(t, &n, 3)
	first := h.told(t, outbox.LaneBus)
	if err := h.Outbox.Remove(testContext(t), outbox.LaneBus, []int64{first[2].Seq}); err != nil {
		t.Fatal(err)
	}
	h.placed(t, n.buy("mug:1"))
	second := h.told(t, outbox.LaneBus)
	if last := second[len(second)-1]; last.Seq <= first[2].Seq {
		t.Errorf("after %d was removed came %d", first[2].Seq, last.Seq)
	}
	h.Reopen(t)
	h.placed(t, n.buy("mug:1"))
	third := h.told(t, outbox.LaneBus)
	if len(third) != 4 || third[3].Seq <= second[2].Seq {
		t.Errorf("after the store was opened again: %v", third)
	}
}

func outboxSignals(t *testing.T, h *OrdersHarness) {
	var n placementCount
	h.fill(t, &n, 3)
	pending := func(lane outbox.Lane) int {
		count := 0
		for {
			select {
			case <-h.Outbox.Written(lane):
				count++
			default:
				return count
			}
		}
	}
	for _, lane := range []outbox.Lane{outbox.LaneBus, outbox.LaneEvents} {
		if got := pending(lane); got != 1 {
			t.Errorf("lane %s has %d signals pending, want one", lane, got)
		}
	}
	h.place(t, n.buy("unknown:1"))
	o := h.placed(t, n.buy("mug:1"))
	pending(outbox.LaneBus)
	pending(outbox.LaneEvents)
	h.applied(t, step(&o, order.EventChargeIntended)) // is told to nobody
	if bus, events := pending(outbox.LaneBus), pending(outbox.LaneEvents); bus+events != 0 {
		t.Errorf("a step that is told to nobody signalled %d and %d times", bus, events)
	}
	// Who waits is woken by a commit.
	woken := make(chan error, 1)
	ctx, cancel := context.WithTimeout(testContext(t), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-h.Outbox.Written(outbox.LaneBus):
			woken <- nil
		case <-ctx.Done():
			woken <- fmt.Errorf("no signal: %w", ctx.Err())
		}
	}()
	h.placed(t, n.buy("mug:1"))
	if err := <-woken; err != nil {
		t.Error(err)
	}
}

func outboxUnknownLane(t *testing.T, h *OrdersHarness) {
	if _, err := h.Outbox.Pending(testContext(t), "nowhere", 0, 1); err == nil {
		t.Error("Pending answered no error")
	}
	if err := h.Outbox.Remove(testContext(t), "nowhere", []int64{1}); err == nil {
		t.Error("Remove answered no error")
	}
	if _, _, err := h.Outbox.Depth(testContext(t), "nowhere"); err == nil {
		t.Error("Depth answered no error")
	}
}
