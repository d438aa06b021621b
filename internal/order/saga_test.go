package order_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/order"
)

var update = flag.Bool("update", false, "write the generated part of docs/architecture.md")

var monday = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

var policy = order.Policy{Lease: 15 * time.Second, CompleteAfter: 24 * time.Hour, MaxAttempts: 3}

// begun returns an order that was just placed: two units of a at 5.00 and one of b
// at 10.00.
func begun(t testing.TB) order.Order {
	t.Helper()
	p := &order.Placement{Order: order.Order{
		TenantID: "demo", ID: "o1", CustomerID: "ann", PlacedAt: monday, Deadline: monday.Add(30 * time.Minute),
		Lines: []order.Line{{SKU: "a", Quantity: 2}, {SKU: "b", Quantity: 1}},
	}}
	order.Allocate(map[order.ShelfKey]*order.Offer{
		{TenantID: "demo", SKU: "a"}: {Known: true, Active: true, UnitPrice: 500, Currency: "EUR", Available: 2},
		{TenantID: "demo", SKU: "b"}: {Known: true, Active: true, UnitPrice: 1000, Currency: "EUR", Available: 9},
	}, []*order.Placement{p})
	if p.Err != nil {
		t.Fatal(p.Err)
	}
	o, _ := policy.Begin(p.Order)
	return o
}

// step applies one step and fails the test if it is refused.
func step(t testing.TB, o order.Order, s order.Step) (order.Order, order.Change) {
	t.Helper()
	if s.At.IsZero() {
		s.At = o.UpdatedAt.Add(time.Second)
	}
	next, change, err := policy.Apply(o, &s)
	if err != nil {
		t.Fatalf("%s of an order that is %s: %v", s.Event, o.Status, err)
	}
	return next, change
}

// course brings a new order through events.
func course(t testing.TB, events ...order.Event) order.Order {
	t.Helper()
	o := begun(t)
	for _, e := range events {
		o, _ = step(t, o, stepOf(o, e))
	}
	return o
}

// stepOf is a step as the workers would ask for it.
func stepOf(o order.Order, e order.Event) order.Step {
	s := order.Step{Event: e}
	switch e {
	case order.EventCaptured:
		s.Amount, s.PaymentRef = o.Total, "ch_1"
	case order.EventChargeResolved:
		s.Amount = o.Captured - o.Refunded
	case order.EventRefunded:
		s.RefundNumber = o.Progress.Refund.Number
	case order.EventAttemptFailed:
		s.RetryAt, s.Reason = o.UpdatedAt.Add(time.Minute), "no answer"
	}
	return s
}

var (
	toPaid    = []order.Event{order.EventChargeIntended, order.EventCaptured}
	toShipped = append(toPaid[:2:2], order.EventSent, order.EventShipped)
)

func TestTheCoursesAnOrderCanTake(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []order.Event
		want   []order.Status
		// stock is what became of two units of a, of which two were on hand and reserved.
		onHand, reserved, refunded int64
	}{
		{"a good one", append(toShipped[:4:4], order.EventDelivered),
			[]order.Status{order.Charging, order.Paid, order.Fulfilling, order.Shipped, order.Completed}, -2, -2, 0},
		{"nobody reports its delivery", append(toShipped[:4:4], order.EventCompletionDue),
			[]order.Status{order.Charging, order.Paid, order.Fulfilling, order.Shipped, order.Completed}, -2, -2, 0},
		{"the merchant ships before the webhook is told", append(toPaid[:2:2], order.EventShipped),
			[]order.Status{order.Charging, order.Paid, order.Shipped}, -2, -2, 0},
		{"declined", []order.Event{order.EventChargeIntended, order.EventDeclined},
			[]order.Status{order.Charging, order.PaymentFailed}, 0, -2, 0},
		{"cancelled at once", []order.Event{order.EventCancelAsked},
			[]order.Status{order.Cancelled}, 0, -2, 0},
		{"never paid", []order.Event{order.EventDeadline},
			[]order.Status{order.Expired}, 0, -2, 0},
		{"cancelled while it is charged, and voided", []order.Event{order.EventChargeIntended, order.EventCancelAsked, order.EventChargeResolved},
			[]order.Status{order.Charging, order.Cancelling, order.Cancelled}, 0, -2, 0},
		{"cancelled while it is charged, and declined", []order.Event{order.EventChargeIntended, order.EventCancelAsked, order.EventDeclined},
			[]order.Status{order.Charging, order.Cancelling, order.Cancelled}, 0, -2, 0},
		{"out of time while it is charged, and captured all the same",
			[]order.Event{order.EventChargeIntended, order.EventAttemptFailed, order.EventDeadline, order.EventCaptured, order.EventChargeResolved},
			[]order.Status{order.Charging, order.Charging, order.Cancelling, order.Cancelling, order.Expired}, 0, -2, 2000},
		{"cancelled when paid", append(toPaid[:2:2], order.EventCancelAsked, order.EventRefunded),
			[]order.Status{order.Charging, order.Paid, order.Refunding, order.Refunded}, 0, -2, 2000},
		{"cancelled in fulfilment", append(toPaid[:2:2], order.EventSent, order.EventCancelAsked, order.EventRefunded),
			[]order.Status{order.Charging, order.Paid, order.Fulfilling, order.Refunding, order.Refunded}, 0, -2, 2000},
		{"refunded after shipment", append(toShipped[:4:4], order.EventRefundAsked, order.EventRefunded),
			[]order.Status{order.Charging, order.Paid, order.Fulfilling, order.Shipped, order.Refunding, order.Refunded}, -2, -2, 2000},
		{"delivered while it is refunded", append(toShipped[:4:4], order.EventRefundAsked, order.EventDelivered, order.EventRefunded),
			[]order.Status{order.Charging, order.Paid, order.Fulfilling, order.Shipped, order.Refunding, order.Refunding, order.Refunded}, -2, -2, 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := begun(t)
			var got []order.Status
			var onHand, reserved int64
			for _, e := range c.events {
				var change order.Change
				o, change = step(t, o, stepOf(o, e))
				got = append(got, o.Status)
				for _, s := range change.Stock {
					if s.SKU == "a" {
						onHand += s.OnHand
						reserved += s.Reserved
					}
				}
				if change.History.To != o.Status || change.History.Version != o.Version || change.History.Event != e {
					t.Errorf("%s: history %+v of version %d, %s", e, change.History, o.Version, o.Status)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if onHand != c.onHand || reserved != c.reserved || o.Refunded != c.refunded {
				t.Errorf("stock on hand %+d, reserved %+d, refunded %d; want %+d, %+d, %d", onHand, reserved, o.Refunded, c.onHand, c.reserved, c.refunded)
			}
			if o.Status.Terminal() && !o.NextAttempt.IsZero() {
				t.Errorf("it is %s and would be looked at again at %v", o.Status, o.NextAttempt)
			}
		})
	}
}

func TestWhatComesASecondTimeChangesNothing(t *testing.T) {
	for _, c := range []struct {
		course []order.Event
		again  order.Event
	}{
		{nil, order.EventPlaced},
		{[]order.Event{order.EventChargeIntended}, order.EventChargeIntended},
		{toPaid, order.EventChargeIntended},
		{toPaid, order.EventCaptured},
		{append(toPaid[:2:2], order.EventSent), order.EventSent},
		{toShipped, order.EventSent},
		{toShipped, order.EventShipped},
		{append(toShipped[:4:4], order.EventDelivered), order.EventDelivered},
		{append(toShipped[:4:4], order.EventDelivered), order.EventCompletionDue},
		{append(toShipped[:4:4], order.EventRefundAsked, order.EventDelivered), order.EventDelivered},
		{[]order.Event{order.EventCancelAsked}, order.EventCancelAsked},
		{[]order.Event{order.EventChargeIntended, order.EventCancelAsked}, order.EventCancelAsked},
		{append(toPaid[:2:2], order.EventCancelAsked), order.EventCancelAsked},
		{append(toPaid[:2:2], order.EventCancelAsked, order.EventRefunded), order.EventCancelAsked},
		{append(toPaid[:2:2], order.EventCancelAsked, order.EventRefunded), order.EventRefunded},
		{[]order.Event{order.EventChargeIntended, order.EventDeclined}, order.EventDeclined},
		{[]order.Event{order.EventDeadline}, order.EventDeadline},
		{[]order.Event{order.EventChargeIntended, order.EventCancelAsked, order.EventChargeResolved}, order.EventChargeResolved},
	} {
		o := course(t, c.course...)
		s := stepOf(o, c.again)
		s.At = o.UpdatedAt
		next, change, err := policy.Apply(o, &s)
		if !errors.Is(err, order.ErrAlready) {
			t.Errorf("%s after %v: error %v, want ErrAlready", c.again, c.course, err)
		}
		if diff := cmp.Diff(o, next); diff != "" || len(change.Messages) > 0 {
			t.Errorf("%s after %v changed the order:\n%s", c.again, c.course, diff)
		}
	}
}

func TestWhatAnOrderDoesNotTakeIsRefusedWithTheReason(t *testing.T) {
	for _, c := range []struct {
		name   string
		course []order.Event
		step   order.Step
		says   string
	}{
		{"a cancel against a shipment", toShipped, order.Step{Event: order.EventCancelAsked}, "ask for a refund"},
		{"a shipment against a cancel", append(toPaid[:2:2], order.EventCancelAsked), order.Step{Event: order.EventShipped}, "must be shipped"},
		{"a shipment of what is not paid", nil, order.Step{Event: order.EventShipped}, "not paid"},
		{"a delivery of what was not shipped", toPaid, order.Step{Event: order.EventDelivered}, "never shipped"},
		{"a delivery of what was cancelled", append(toPaid[:2:2], order.EventCancelAsked), order.Step{Event: order.EventDelivered}, "never shipped"},
		{"a refund of what was not shipped", toPaid, order.Step{Event: order.EventRefundAsked}, "cancel it"},
		{"a refund while another is under way", append(toShipped[:4:4], order.EventRefundAsked), order.Step{Event: order.EventRefundAsked}, "under way"},
		{"a refund of all, twice", append(toShipped[:4:4], order.EventRefundAsked, order.EventRefunded), order.Step{Event: order.EventRefundAsked}, "everything"},
		{"a refund of more than there is", toShipped, order.Step{Event: order.EventRefundAsked, Amount: 2001}, "1 to 2000"},
		{"a negative refund", toShipped, order.Step{Event: order.EventRefundAsked, Amount: -1}, "1 to 2000"},
		{"a capture of what is not charged", nil, order.Step{Event: order.EventCaptured, Amount: 1}, "not being charged"},
		{"a capture of more than is owed", []order.Event{order.EventChargeIntended}, order.Step{Event: order.EventCaptured, Amount: 2001}, "2001"},
		{"a capture of nothing", []order.Event{order.EventChargeIntended}, order.Step{Event: order.EventCaptured}, "0"},
		{"a charge after the deadline", nil, order.Step{Event: order.EventChargeIntended, At: monday.Add(31 * time.Minute)}, "deadline"},
		{"a charge that is called resolved while money is kept", []order.Event{order.EventChargeIntended, order.EventCancelAsked, order.EventCaptured},
			order.Step{Event: order.EventChargeResolved}, "given back"},
		{"a decline after the capture", []order.Event{order.EventChargeIntended, order.EventCancelAsked, order.EventCaptured},
			order.Step{Event: order.EventDeclined}, "captured"},
		{"a step for another version", nil, order.Step{Event: order.EventCancelAsked, IfVersion: 7}, "meanwhile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := course(t, c.course...)
			if c.step.At.IsZero() {
				c.step.At = o.UpdatedAt
			}
			next, _, err := policy.Apply(o, &c.step)
			if err == nil || errors.Is(err, order.ErrAlready) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v; want one with %q", err, c.says)
			}
			if diff := cmp.Diff(o, next); diff != "" {
				t.Errorf("the order changed:\n%s", diff)
			}
		})
	}
}

func TestPartsCanBeRefundedUntilNothingIsLeftAndGoodsPutBackOnce(t *testing.T) {
	o := course(t, append(toShipped[:4:4], order.EventDelivered)...)
	o, _ = step(t, o, order.Step{Event: order.EventRefundAsked, Amount: 500, Restock: true})
	o, change := step(t, o, stepOf(o, order.EventRefunded))
	if o.Status != order.Completed || o.Refunded != 500 || !o.Progress.Restocked || o.Progress.Then != "" {
		t.Fatalf("after a part: %s, refunded %d, %+v", o.Status, o.Refunded, o.Progress)
	}
	want := []order.StockChange{{SKU: "a", OnHand: 2}, {SKU: "b", OnHand: 1}}
	if diff := cmp.Diff(want, change.Stock); diff != "" {
		t.Error(diff)
	}
	if _, _, err := policy.Apply(o, &order.Step{Event: order.EventRefundAsked, Restock: true, At: o.UpdatedAt}); err == nil {
		t.Error("the goods were put back twice")
	}
	stale := order.Step{Event: order.EventRefunded, RefundNumber: 1, At: o.UpdatedAt}
	o, _ = step(t, o, order.Step{Event: order.EventRefundAsked})
	if _, _, err := policy.Apply(o, &stale); !errors.Is(err, order.ErrAlready) {
		t.Errorf("the answer to the first refund settles the second: %v", err)
	}
	o, change = step(t, o, stepOf(o, order.EventRefunded))
	if o.Status != order.Refunded || o.Refunded != 2000 || len(change.Stock) != 0 {
		t.Errorf("after the rest: %s, refunded %d, stock %v", o.Status, o.Refunded, change.Stock)
	}
}

func TestAnOrderThatFailsTooOftenIsParkedUntilItIsRedriven(t *testing.T) {
	o := course(t, order.EventChargeIntended)
	var change order.Change
	for i := 1; i <= policy.MaxAttempts; i++ {
		if o.Parked() {
			t.Fatalf("parked after %d attempts", i-1)
		}
		o, change = step(t, o, stepOf(o, order.EventAttemptFailed))
		if o.Attempts != i || change.Park != (i == policy.MaxAttempts) || len(change.Messages) != 0 {
			t.Fatalf("attempt %d: %d counted, park %v, %d messages", i, o.Attempts, change.Park, len(change.Messages))
		}
	}
	if !o.Parked() || !o.NextAttempt.IsZero() {
		t.Fatalf("parked at %v, next attempt at %v", o.ParkedAt, o.NextAttempt)
	}
	o, change = step(t, o, order.Step{Event: order.EventRedriven})
	if o.Parked() || o.Attempts != 0 || o.NextAttempt.IsZero() || o.Status != order.Charging || len(change.Messages) != 1 {
		t.Errorf("redriven: %+v, %d messages", o, len(change.Messages))
	}
	if _, _, err := policy.Apply(o, &order.Step{Event: order.EventRedriven}); !errors.Is(err, order.ErrAlready) {
		t.Errorf("redriven again: %v", err)
	}
	given, change := step(t, o, order.Step{Event: order.EventAttemptFailed, Park: true, Reason: "refused for good"})
	if !given.Parked() || !change.Park {
		t.Error("an attempt that is pointless to repeat did not park the order")
	}
}

func TestTimeNeverRunsBackwardsForAnOrder(t *testing.T) {
	o := course(t, order.EventChargeIntended)
	next, change := step(t, o, order.Step{Event: order.EventCaptured, Amount: o.Total, At: monday.Add(-time.Hour)})
	if next.UpdatedAt.Before(o.UpdatedAt) || change.History.At.Before(o.UpdatedAt) {
		t.Errorf("updated at %v after %v", next.UpdatedAt, o.UpdatedAt)
	}
}

// TestRandomStepsKeepTheBooks walks at random and checks after each step what must
// hold of any order: money and stock add up, and every change is by the table.
func TestRandomStepsKeepTheBooks(t *testing.T) {
	allowed := map[string]bool{}
	events := []order.Event{order.EventRedriven}
	for _, row := range order.Transitions() {
		events = append(events, row.Event)
		for _, to := range []order.Status{row.To, order.Refunded, order.Shipped, order.Completed, order.Cancelled, order.Expired} {
			if row.To == order.Then || to == row.To {
				allowed[fmt.Sprint(row.From, row.Event, to)] = true
			}
		}
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		o := begun(t)
		onHand, reserved := int64(10), int64(2) // of a
		for range 60 {
			s := stepOf(o, events[rng.IntN(len(events))])
			s.At = o.UpdatedAt.Add(time.Duration(rng.IntN(100)-20) * time.Second)
			if s.Event == order.EventRefundAsked {
				s.Amount, s.Restock = rng.Int64N(2500), rng.IntN(2) == 0
			}
			if s.Event == order.EventRefunded {
				s.RefundNumber += rng.IntN(2)
			}
			next, change, err := policy.Apply(o, &s)
			if err != nil {
				continue
			}
			for _, c := range change.Stock {
				if c.SKU == "a" {
					onHand, reserved = onHand+c.OnHand, reserved+c.Reserved
				}
			}
			wantReserved := int64(0)
			if next.Status.Reserves() && next.Progress.Shipment == nil {
				wantReserved = 2
			}
			wantOnHand := int64(10)
			if next.Progress.Shipment != nil && !next.Progress.Restocked {
				wantOnHand = 8
			}
			switch {
			case next.Version != o.Version+1:
				t.Fatalf("seed %d: %s: version %d after %d", seed, s.Event, next.Version, o.Version)
			case s.Event != order.EventRedriven && !allowed[fmt.Sprint(o.Status, s.Event, next.Status)]:
				t.Fatalf("seed %d: %s led from %s to %s, which is not in the table", seed, s.Event, o.Status, next.Status)
			case reserved != wantReserved || onHand != wantOnHand:
				t.Fatalf("seed %d: %s → %s: on hand %d, reserved %d; want %d, %d", seed, s.Event, next.Status, onHand, reserved, wantOnHand, wantReserved)
			case next.Refunded < 0 || next.Refunded > next.Captured || next.Captured > next.Total:
				t.Fatalf("seed %d: captured %d, refunded %d of %d", seed, next.Captured, next.Refunded, next.Total)
			case next.Status.Terminal() && next.Status != order.Completed && next.Captured != next.Refunded:
				t.Fatalf("seed %d: it is %s and %d of %d captured are still ours", seed, next.Status, next.Captured-next.Refunded, next.Captured)
			case next.Status.Working() && !next.Parked() && next.NextAttempt.IsZero():
				t.Fatalf("seed %d: it is %s and nobody will ever look at it", seed, next.Status)
			case next.Status == order.Then || next.Status == order.None:
				t.Fatalf("seed %d: %s led to the status %q", seed, s.Event, next.Status)
			}
			o = next
		}
	}
}

func TestEveryTransitionIsToldOnceToThoseWhoGoOn(t *testing.T) {
	o := begun(t)
	_, change := policy.Begin(o)
	if len(change.Messages) != 2 || change.Messages[0].Lane != order.LaneBus || change.Messages[0].Subject != "orders.placed" ||
		change.Messages[1].Subject != "order.placed" || !strings.Contains(string(change.Messages[1].Data), `"amount":2000,"currency":"EUR"`) {
		t.Errorf("placed: %+v", change.Messages)
	}
	o, change = step(t, o, order.Step{Event: order.EventChargeIntended})
	if len(change.Messages) != 0 {
		t.Errorf("charging: who intended it goes on with it, but told: %+v", change.Messages)
	}
	o, change = step(t, o, stepOf(o, order.EventCaptured))
	if len(change.Messages) != 2 || change.Messages[0].Subject != "orders.paid" || change.Messages[1].ID != "o1-3" {
		t.Errorf("paid: %+v", change.Messages)
	}
	_ = o
}

const architecture = "../../docs/architecture.md"

func TestTheDocumentationIsDrawnFromTheTable(t *testing.T) {
	const begin, end = "<!-- saga: written by `make docs` -->\n", "<!-- saga ends -->"
	page, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the saga", architecture)
	}
	want := head + begin + order.SagaMarkdown() + end + tail
	if *update {
		if err := os.WriteFile(architecture, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("run `make docs`:\n%s", diff)
	}
}
