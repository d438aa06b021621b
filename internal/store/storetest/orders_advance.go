package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

func advanceTests() []ordersTest {
	return []ordersTest{
		{"every transition of the table is stored as it is computed, with its effect on stock", advanceTable},
		{"a step that is not allowed changes nothing", advanceRefused},
		{"a step for an order that is not there is told so, and the others are done", advanceNotFound},
		{"several steps of one order in a batch follow each other", advanceChain},
		{"of many who advance one order at a time one applies it", advanceRace},
		{"IfVersion applies a step to that version only", advanceIfVersion},
		{"a claimed step is done once, and repeated with its answer", advanceClaims},
		{"an expired claim makes way", advanceClaimExpiry},
		{"a claim is bound only by a step that was applied", advanceClaimUnbound},
		{"parking writes one dead letter, and redriving goes on", advanceParks},
		{"one step that the database refuses harms no other of two hundred", advanceIsolatesCulprit},
		{"a failed commit of steps leaves nothing", advanceFailedCommit},
		{"a lost reply to steps is an unknown outcome, and the repetition finds them done", advanceLostReply},
		{"every transition is told on the lanes it belongs to, with its trace", advanceOutbox},
		{"steps of two orders for the same SKU add up", advanceAddsUp},
	}
}

// walk is a course through the saga: events by name, and what each of them needs.
func (h *OrdersHarness) walk(t testing.TB, n *placementCount, events ...string) order.Order {
	t.Helper()
	o := h.placed(t, n.buy("mug:2"))
	for _, e := range events {
		o = h.applied(t, walkStep(&o, e))
	}
	return o
}

// walkStep returns a step by its name; "refund_asked:5:restock" asks for 5 cents
// and the goods back on the shelf.
func walkStep(o *order.Order, name string) *order.Step {
	event, rest, _ := strings.Cut(name, ":")
	s := step(o, order.Event(event))
	switch s.Event {
	case order.EventCaptured:
		s = captured(o)
	case order.EventChargeResolved:
		s.Amount = o.Captured - o.Refunded
	case order.EventAttemptFailed:
		s.Reason, s.RetryAt, s.Park = "the provider did not answer", s.At.Add(time.Minute), rest == "park"
	case order.EventChargeWithdrawn:
		s.RetryAt = s.At.Add(time.Minute)
	case order.EventSettledByHand:
		s.Actor, s.Reason = "alice", "bank transfer"
	case order.EventShipped:
		s.Shipment = &order.Shipment{Carrier: "Post", TrackingNumber: "1", TrackingURL: "https://example.com/1"}
	case order.EventRefundAsked:
		amount, how, _ := strings.Cut(rest, ":")
		fmt.Sscan(amount, &s.Amount)
		s.Restock, s.Reason = how == "restock", "broken"
	case order.EventRefunded:
		s.RefundNumber = o.Progress.Refund.Number
	case order.EventCancelAsked:
		s.Actor, s.Reason = "alice", "changed my mind"
	}
	return s
}

// courses lead through every row of the table. held is what the order of 2 units
// holds at the end, and gone what has left the shelf.
var courses = []struct {
	events     []string
	end        order.Status
	held, gone int64
}{
	{[]string{"cancel_asked"}, order.Cancelled, 0, 0},
	{[]string{"deadline_passed"}, order.Expired, 0, 0},
	{[]string{"charge_intended", "declined"}, order.PaymentFailed, 0, 0},
	{[]string{"charge_intended", "attempt_failed", "cancel_asked", "declined"}, order.Cancelled, 0, 0},
	{[]string{"charge_intended", "deadline_passed", "attempt_failed", "captured", "charge_resolved"}, order.Expired, 0, 0},
	{[]string{"charge_intended", "cancel_asked", "charge_resolved"}, order.Cancelled, 0, 0},
	{[]string{"charge_intended", "charge_withdrawn", "deadline_passed"}, order.Expired, 0, 0},
	{[]string{"charge_intended", "cancel_asked", "captured", "attempt_failed:park", "settled_by_hand"}, order.Cancelled, 0, 0},
	{[]string{"charge_intended", "captured", "sent", "cancel_asked", "attempt_failed:park", "settled_by_hand"}, order.Refunded, 0, 0},
	{[]string{"charge_intended", "captured", "attempt_failed", "sent", "shipment_reported", "delivered"}, order.Completed, 0, 2},
	{[]string{"charge_intended", "captured", "shipment_reported", "completion_due"}, order.Completed, 0, 2},
	{[]string{"charge_intended", "captured", "cancel_asked", "attempt_failed", "refunded"}, order.Refunded, 0, 0},
	{[]string{"charge_intended", "captured", "sent", "cancel_asked", "refunded"}, order.Refunded, 0, 0},
	{[]string{"charge_intended", "captured", "sent"}, order.Fulfilling, 2, 0},
	{[]string{"charge_intended", "captured", "shipment_reported", "refund_asked:5", "refunded"}, order.Shipped, 0, 2},
	{[]string{"charge_intended", "captured", "shipment_reported", "refund_asked:5", "delivered", "refunded"}, order.Completed, 0, 2},
	{[]string{"charge_intended", "captured", "shipment_reported", "delivered", "refund_asked:0:restock", "refunded"}, order.Refunded, 0, 0},
	{[]string{"charge_intended", "captured", "shipment_reported", "delivered", "refund_asked:7:restock", "refunded", "refund_asked", "refunded"}, order.Refunded, 0, 0},
}

func advanceTable(t *testing.T, h *OrdersHarness) {
	type edge struct {
		from  order.Status
		event order.Event
	}
	walked := map[edge]bool{{order.None, order.EventPlaced}: true}
	var n placementCount
	for _, c := range courses {
		h.sell(t, 50, "mug")
		before := h.Stock(t, shelf("mug"))
		o := h.placed(t, n.buy("mug:2"))
		for _, name := range c.events {
			s := walkStep(&o, name)
			want, _, err := policy.Apply(o, s)
			if err != nil {
				t.Fatalf("%v: %s: %v", c.events, name, err)
			}
			walked[edge{o.Status, s.Event}] = true
			o = h.applied(t, s)
			same(t, fmt.Sprintf("%v: the outcome of %s", c.events, name), want, o)
			same(t, fmt.Sprintf("%v: the order after %s", c.events, name), want, h.order(t, o.ID))
		}
		if o.Status != c.end {
			t.Errorf("%v ends %s, want %s", c.events, o.Status, c.end)
		}
		h.wantStock(t, "mug", before.OnHand-c.gone, before.Reserved+c.held)
		history, err := h.Store.History(testContext(t), shop, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(history) != len(c.events)+1 {
			t.Errorf("%v: the history has %d entries, want %d", c.events, len(history), len(c.events)+1)
		}
		for i, entry := range history[min(1, len(history)):] {
			if name, _, _ := strings.Cut(c.events[i], ":"); entry.Version != int64(i+2) || string(entry.Event) != name || entry.From != history[i].To {
				t.Errorf("%v: history entry %d: %+v", c.events, i+1, entry)
			}
		}
	}
	for _, row := range order.Transitions() {
		if !walked[edge{row.From, row.Event}] {
			t.Errorf("no course goes from %s by %s: add one", row.From, row.Event)
		}
	}
}

func advanceRefused(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	rows, stock := len(h.told(t, outbox.LaneBus)), h.Stock(t, shelf("mug"))
	var notAllowed *order.NotAllowedError
	var invalid *order.InvalidError
	out := h.advance(t, walkStep(&o, "cancel_asked"), walkStep(&o, "captured"), walkStep(&o, "refund_asked:999999"))
	if !errors.As(out[0].Err, &notAllowed) || !errors.Is(out[1].Err, order.ErrAlready) || !errors.As(out[2].Err, &invalid) {
		t.Errorf("outcomes: %v; %v; %v", out[0].Err, out[1].Err, out[2].Err)
	}
	for _, got := range out {
		if got.Applied {
			t.Errorf("%v was applied", got.Err)
		}
		same(t, "the order of the outcome", o, got.Order)
	}
	same(t, "the order", o, h.order(t, o.ID))
	same(t, "the stock", stock, h.Stock(t, shelf("mug")))
	if got := len(h.told(t, outbox.LaneBus)); got != rows {
		t.Errorf("%d rows in the outbox, want %d", got, rows)
	}
	h.FailCommit(t)
	h.advance(t, walkStep(&o, "cancel_asked")) // fails if it commits
}

func advanceNotFound(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n)
	ghost := o
	ghost.ID = "00000000-0000-7000-8000-ffffffffffff"
	out := h.advance(t, step(&ghost, order.EventCancelAsked), step(&o, order.EventCancelAsked))
	if !errors.Is(out[0].Err, order.ErrNotFound) || !out[1].Applied {
		t.Errorf("outcomes: %v; %v", out[0].Err, out[1].Err)
	}
}

func advanceChain(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o, other := h.walk(t, &n), h.walk(t, &n)
	charged := o
	out := h.advance(t, step(&o, order.EventChargeIntended), step(&other, order.EventCancelAsked), captured(&charged),
		captured(&charged), step(&o, order.EventSent))
	for i, want := range []order.Status{order.Charging, order.Cancelled, order.Paid, order.Paid, order.Fulfilling} {
		if out[i].Order.Status != want || out[i].Applied != (i != 3) {
			t.Errorf("step %d: %s, applied %v, %v; want %s", i, out[i].Order.Status, out[i].Applied, out[i].Err, want)
		}
	}
	if !errors.Is(out[3].Err, order.ErrAlready) {
		t.Errorf("the second capture: %v, want ErrAlready", out[3].Err)
	}
	same(t, "the order", out[4].Order, h.order(t, o.ID))
	history, err := h.Store.History(testContext(t), shop, o.ID)
	if err != nil || len(history) != 4 {
		t.Errorf("the history: %v, %v; want 4 entries", history, err)
	}
}

func advanceRace(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended")
	var applied, already atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			out, err := h.Store.Advance(testContext(t), []*order.Step{captured(&o)}, policy)
			switch {
			case err != nil:
				t.Errorf("Advance: %v", err)
			case out[0].Applied:
				applied.Add(1)
			case errors.Is(out[0].Err, order.ErrAlready):
				already.Add(1)
			}
		})
	}
	wg.Wait()
	if applied.Load() != 1 || already.Load() != 15 {
		t.Errorf("%d applied it and %d came second; want 1 and 15", applied.Load(), already.Load())
	}
}

func advanceIfVersion(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n)
	s := step(&o, order.EventCancelAsked)
	s.IfVersion = 2
	var notAllowed *order.NotAllowedError
	if out := h.advance(t, s); !errors.As(out[0].Err, &notAllowed) {
		t.Errorf("another version: %v, want *NotAllowedError", out[0].Err)
	}
	s.IfVersion = 1
	h.applied(t, s)
}

// claimed gives a step an idempotency key.
func claimed(s *order.Step, key string, fingerprint byte) *order.Step {
	s.Claim = &order.Claim{Scope: order.ScopeRefund, Subject: "clerk", Key: key, Fingerprint: [32]byte{fingerprint}, NotBefore: monday}
	return s
}

func advanceClaims(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	other := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	ask := func(o *order.Order, key string, fingerprint byte) *order.Step {
		return claimed(walkStep(o, "refund_asked:5"), key, fingerprint)
	}
	out := h.advance(t, ask(&o, "k", 1), ask(&o, "k", 1), ask(&o, "k", 2), ask(&other, "k", 1))
	if !out[0].Applied || !out[1].Replayed || out[1].Applied || !errors.Is(out[2].Err, order.ErrKeyReused) || !errors.Is(out[3].Err, order.ErrKeyReused) {
		t.Fatalf("outcomes in one batch: %+v", out)
	}
	answer := order.RefundAnswer(&out[0].Order)
	o = h.applied(t, walkStep(&out[0].Order, "refunded"))
	again := h.advance(t, ask(&o, "k", 1), ask(&o, "k", 2), ask(&other, "k", 1))
	if !again[0].Replayed || !errors.Is(again[1].Err, order.ErrKeyReused) || !errors.Is(again[2].Err, order.ErrKeyReused) {
		t.Fatalf("outcomes later: %+v", again)
	}
	for i, got := range []order.Outcome{out[1], again[0]} {
		if got.Answer != answer {
			t.Errorf("replay %d answers %q, want %q", i, got.Answer, answer)
		}
	}
	same(t, "the order of the replay", o, again[0].Order)
	o = h.applied(t, ask(&o, "another", 1))
	if o.Progress.Refund.Number != 2 {
		t.Errorf("the refund with another key is number %d, want 2", o.Progress.Refund.Number)
	}
}

func advanceClaimExpiry(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	first := claimed(walkStep(&o, "refund_asked:5"), "k", 1)
	o = h.applied(t, first)
	o = h.applied(t, walkStep(&o, "refunded"))
	late := claimed(walkStep(&o, "refund_asked:6"), "k", 2)
	late.Claim.NotBefore = first.At.Add(1)
	o = h.applied(t, late)
	again := claimed(walkStep(&o, "refund_asked:6"), "k", 2)
	again.Claim.NotBefore = late.At
	if out := h.advance(t, again); !out[0].Replayed || out[0].Answer != order.RefundAnswer(&o) {
		t.Errorf("after the key was bound anew: %+v", out[0])
	}
}

func advanceClaimUnbound(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended", "captured", "shipment_reported")
	if out := h.advance(t, claimed(walkStep(&o, "refund_asked:999999"), "k", 1)); out[0].Err == nil {
		t.Fatal("a refund of too much was taken")
	}
	h.applied(t, claimed(walkStep(&o, "refund_asked:5"), "k", 2))
}

func advanceParks(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n, "charge_intended", "attempt_failed", "attempt_failed")
	letters := func() []deadletter.Letter {
		t.Helper()
		found, _, err := h.DeadLetters.List(testContext(t), deadletter.Filter{TenantID: shop, Kind: deadletter.KindOrder}, 10, "")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if got := letters(); len(got) != 0 {
		t.Fatalf("letters before it is parked: %v", got)
	}
	o = h.applied(t, walkStep(&o, "attempt_failed"))
	if !o.Parked() || !o.NextAttempt.IsZero() {
		t.Fatalf("after the last attempt: parked %v, next attempt %v", o.Parked(), o.NextAttempt)
	}
	got := letters()
	if len(got) != 1 {
		t.Fatalf("%d letters, want one", len(got))
	}
	var payload struct {
		OrderID string
		Status  order.Status
		Version int64
	}
	if err := json.Unmarshal(got[0].Payload, &payload); err != nil {
		t.Fatal(err)
	}
	l := got[0]
	if payload.OrderID != o.ID || payload.Status != order.Charging || payload.Version != o.Version || l.EventID != o.ID || l.Type != "order.charging" ||
		l.Attempts != 3 || !l.ReceivedAt.Equal(o.ParkedAt) || !strings.Contains(l.Reason, o.LastError) || l.ID == "" {
		t.Errorf("the letter: %+v", l)
	}
	if due, err := h.Store.Due(testContext(t), o.UpdatedAt.Add(1000*time.Hour), o.UpdatedAt.Add(2000*time.Hour), 10); err != nil || len(due) != 0 {
		t.Errorf("due while it is parked: %v, %v", due, err)
	}
	o = h.applied(t, step(&o, order.EventRedriven))
	if o.Parked() || o.NextAttempt.IsZero() {
		t.Errorf("after the redrive: parked %v, next attempt %v", o.Parked(), o.NextAttempt)
	}
	park := walkStep(&o, "attempt_failed")
	park.Park = true
	h.applied(t, park)
	if got := letters(); len(got) != 2 || got[0].ID == got[1].ID {
		t.Errorf("letters after it was parked again: %v", got)
	}
}

func advanceIsolatesCulprit(t *testing.T, h *OrdersHarness) {
	h.sell(t, 1000, "mug")
	h.sell(t, 1000, "cursed")
	var n placementCount
	batch := make([]*order.Placement, 200)
	for i := range batch {
		batch[i] = n.buy("mug:1")
	}
	batch[77] = n.buy("cursed:1", "mug:1")
	h.place(t, batch...)
	h.DropStock(t, shelf("cursed")) // what releases it cannot be stored
	steps := make([]*order.Step, 0, 400)
	for _, p := range batch {
		steps = append(steps, step(&p.Placed, order.EventChargeIntended), step(&p.Placed, order.EventDeclined))
	}
	for i, out := range h.advance(t, steps...) {
		if bad := i == 2*77+1; bad != errors.Is(out.Err, order.ErrData) || bad == out.Applied {
			t.Errorf("step %d: applied %v, %v", i, out.Applied, out.Err)
		}
	}
	h.wantStock(t, "mug", 1000, 1)
	if o := h.order(t, batch[77].Placed.ID); o.Status != order.Charging || o.Version != 2 {
		t.Errorf("the culprit is %s, version %d; want charging, 2", o.Status, o.Version)
	}
	if o := h.order(t, batch[78].Placed.ID); o.Status != order.PaymentFailed {
		t.Errorf("its neighbour is %s, want payment_failed", o.Status)
	}
}

func advanceFailedCommit(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n)
	h.FailCommit(t)
	if _, err := h.Store.Advance(testContext(t), []*order.Step{step(&o, order.EventCancelAsked)}, policy); err == nil || errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Advance: %v, want an error that says that nothing was changed", err)
	}
	same(t, "the order", o, h.order(t, o.ID))
	h.wantStock(t, "mug", 50, 2)
	h.applied(t, step(&o, order.EventCancelAsked))
}

func advanceLostReply(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.walk(t, &n)
	h.LoseReply(t)
	if _, err := h.Store.Advance(testContext(t), []*order.Step{step(&o, order.EventCancelAsked)}, policy); !errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Advance: %v, want ErrUnknownOutcome", err)
	}
	if out := h.advance(t, step(&o, order.EventCancelAsked)); !errors.Is(out[0].Err, order.ErrAlready) || out[0].Order.Status != order.Cancelled {
		t.Errorf("the repetition: %s, %v", out[0].Order.Status, out[0].Err)
	}
	h.wantStock(t, "mug", 50, 0)
}

func advanceOutbox(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug")
	var n placementCount
	o := h.placed(t, n.buy("mug:2"))
	want := map[outbox.Lane][]order.Message{}
	for _, m := range firstMessages(o) {
		want[outbox.Lane(m.Lane)] = append(want[outbox.Lane(m.Lane)], m)
	}
	for _, name := range []string{"charge_intended", "captured", "sent", "shipment_reported", "delivered", "refund_asked:5", "refunded"} {
		s := walkStep(&o, name)
		s.Trace = "00-" + name + "-01"
		_, change, err := policy.Apply(o, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range change.Messages {
			want[outbox.Lane(m.Lane)] = append(want[outbox.Lane(m.Lane)], m)
		}
		o = h.applied(t, s)
	}
	for _, lane := range []outbox.Lane{outbox.LaneBus, outbox.LaneEvents} {
		var got []order.Message
		for _, row := range h.told(t, lane) {
			got = append(got, order.Message{Lane: string(row.Lane), Subject: row.Subject, ID: row.ID, At: row.At, Trace: row.Trace, Data: row.Data})
		}
		same(t, "what lane "+string(lane)+" is told", want[lane], got)
	}
}

// firstMessages returns what the placement of an order tells.
func firstMessages(o order.Order) []order.Message {
	_, change := policy.Begin(o)
	return change.Messages
}

func advanceAddsUp(t *testing.T, h *OrdersHarness) {
	h.sell(t, 50, "mug", "tea")
	var n placementCount
	a, b := n.buy("mug:1", "tea:2"), n.buy("mug:3", "tea:4")
	h.place(t, a, b)
	version := h.Stock(t, shelf("mug")).Version
	steps := slices.Concat(
		[]*order.Step{step(&a.Placed, order.EventChargeIntended), captured(&a.Placed), walkStep(&a.Placed, "shipment_reported")},
		[]*order.Step{step(&b.Placed, order.EventCancelAsked)})
	for i, out := range h.advance(t, steps...) {
		if !out.Applied {
			t.Errorf("step %d: %v", i, out.Err)
		}
	}
	h.wantStock(t, "mug", 49, 0)
	h.wantStock(t, "tea", 48, 0)
	if got := h.Stock(t, shelf("mug")).Version; got <= version {
		t.Errorf("the stock's version is %d after %d", got, version)
	}
}
