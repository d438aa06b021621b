package storetest

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

// own makes the row one of Millrace's own making.
func own(r event.Row) event.Row {
	r = from("millrace/orders", r)
	r.Exact = true
	return r
}

// worth makes the row an own one about an amount of money.
func worth(amount int64, currency string, r event.Row) event.Row {
	r = own(r)
	r.Amount, r.Currency = amount, currency
	return r
}

// addSome appends rows of one day, of which some may be left out, and returns the
// number of rows inserted. exact is the mode of the batch.
func (f *feed) addSome(t testing.TB, ctx context.Context, exact bool, rows ...event.Row) int {
	t.Helper()
	b := f.batch(rows...)
	if exact {
		b.Exact, b.ExactDays = true, 1
	}
	n, err := f.store.Append(ctx, b)
	if err != nil {
		t.Fatalf("Append of %d rows at %d: %v", len(rows), f.next, err)
	}
	f.next = b.UpTo
	return n
}

func ownRowsAreStoredOnce(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	var many []event.Row
	var ids []string
	for i := range 300 { // several statements' worth
		many = append(many, own(row("demo", "order.placed", fmt.Sprintf("%03d", i), monday)))
		ids = append(ids, many[i].ID)
	}
	twice := append(append([]event.Row{}, many[:200]...), many[:200]...)
	if n := f.addSome(t, ctx, false, twice...); n != 200 {
		t.Errorf("inserted %d, want the 200 that stand twice once", n)
	}
	for _, exact := range []bool{true, false} {
		if n := f.addSome(t, ctx, exact, many[100:200]...); n != 0 {
			t.Errorf("exact batch %v: inserted %d again, want none", exact, n)
		}
	}
	if n := f.addSome(t, ctx, true, many[100:]...); n != 100 {
		t.Errorf("inserted %d, want the 100 that are new", n)
	}
	if n := f.addSome(t, ctx, false, many...); n != 0 {
		t.Errorf("inserted %d again, want none", n)
	}
	others := []event.Row{own(row("rival", "order.placed", "000", monday)), from("millrace/else", many[0])}
	if n := f.addSome(t, ctx, false, others...); n != 2 {
		t.Errorf("inserted %d of another tenant and of another source, want both", n)
	}
	wantIDs(t, ctx, h.Store, "demo", append(ids, "000")...)
	if e, err := h.Store.Event(ctx, "demo", "123"); err != nil || e.Source != "millrace/orders" {
		t.Errorf("event %+v, error %v", e, err)
	}
	wantPosition(t, ctx, h.Store, f.log, f.next)
}

func ownRowsAreKnownLater(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	on := func(n int, id string) event.Row { return own(row("demo", "t", id, dayAfter(n).Add(time.Hour))) }
	if n := f.addSome(t, ctx, false, on(0, "a"), on(0, "b")); n != 2 {
		t.Fatalf("inserted %d, want 2", n)
	}
	for day := 1; day <= 7; day++ {
		switch day {
		case 3:
			f.store = h.Reopen(t)
		case 5:
			if h.Crash != nil {
				f.store = h.Crash(t)
			}
		}
		id := fmt.Sprint("new", day)
		if n := f.addSome(t, ctx, day%2 == 0, on(day, "a"), on(day, id), on(day, "b")); n != 1 {
			t.Errorf("%d days later: inserted %d, want 1", day, n)
		}
	}
	wantIDs(t, ctx, f.store, "demo", "a", "b", "new1", "new2", "new3", "new4", "new5", "new6", "new7")
}

func ownRowsStandApart(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	for i, exact := range []bool{false, true} {
		f := newFeed(h.Store, byte(1+i))
		tenant := fmt.Sprint("tenant", i)
		mine := own(row(tenant, "t", "mine", monday))
		// The source of this one was chosen so that its hash is that of ours.
		forged := row(tenant, "t", "forged", monday)
		forged.Hash = mine.Hash
		other := row(tenant, "t", "other", monday)
		if n := f.addSome(t, ctx, exact, forged, other); n != 2 {
			t.Errorf("exact batch %v: inserted %d from outside, want 2", exact, n)
		}
		want := []string{"forged", "other", "mine", "fresh"}
		fresh := row(tenant, "t", "fresh", monday)
		if !exact {
			want = append(want, "fresh", "other")
		}
		if n := f.addSome(t, ctx, exact, mine, fresh, mine, fresh, other); n != len(want)-2 {
			t.Errorf("exact batch %v: inserted %d of a mixed batch, want %d", exact, n, len(want)-2)
		}
		wantIDs(t, ctx, h.Store, tenant, want...)
		late := forged
		late.ID, late.ReceivedAt = "late", dayAfter(1).UnixNano() // beyond the one day of the batch's own mode
		if n := f.addSome(t, ctx, exact, late); n != 1 {
			t.Errorf("exact batch %v: inserted %d of an outside event that shares a hash with ours, want 1", exact, n)
		}
	}
}

func ownRowsAfterALostReply(t *testing.T, h *EventsHarness) {
	h.need(t, "LoseReply", h.LoseReply != nil)
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "first", monday))
	a := worth(5, "EUR", row("demo", "t", "a", monday))
	b := f.batch(a)
	h.LoseReply(t)
	if _, err := h.Store.Append(ctx, b); err == nil {
		t.Fatal("the reply was not lost")
	}
	f.next = b.UpTo
	again := a
	again.ReceivedAt = dayAfter(1).UnixNano()
	if n := f.addSome(t, ctx, false, again); n != 0 {
		t.Errorf("inserted %d again after a lost reply, want none", n)
	}
	wantIDs(t, ctx, h.Store, "demo", "first", "a")
}

func dryRunClaimsNothing(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	a := worth(7, "EUR", row("demo", "t", "a", monday))
	dry := f.batch(a, a)
	dry.DryRun = true
	for range 2 {
		if n, err := h.Store.Append(ctx, dry); n != 1 || err != nil {
			t.Errorf("dry run: %d, error %v; want 1", n, err)
		}
	}
	if n := f.addSome(t, ctx, false, a); n != 1 {
		t.Errorf("inserted %d after a dry run, want 1", n)
	}
	wantIDs(t, ctx, h.Store, "demo", "a")
}

func amountsAreSummed(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	at := func(minutes int) time.Time { return monday.Add(time.Duration(minutes) * time.Minute) }
	rows := []event.Row{
		worth(1999, "EUR", row("demo", "order.placed", "a", at(0))),
		worth(1, "EUR", row("demo", "order.placed", "b", at(0))),
		worth(500, "USD", row("demo", "order.placed", "c", at(0))),
		row("demo", "order.placed", "outside", at(0)), // of the same type, but without money
		worth(0, "EUR", row("demo", "order.shipped", "d", at(1))),
		worth(-300, "EUR", row("demo", "order.refunded", "e", at(1))),
		own(row("demo", "order.noted", "f", at(1))),
		worth(40, "EUR", row("demo", "order.placed", "g", at(61))),
		worth(9, "EUR", row("rival", "order.placed", "a", at(61))),
	}
	f.add(t, ctx, rows...)
	var repeats []event.Row
	for _, r := range rows {
		if r.Exact {
			r.ReceivedAt = at(62).UnixNano()
			repeats = append(repeats, r)
		}
	}
	if n := f.addSome(t, ctx, false, repeats...); n != 0 {
		t.Errorf("inserted %d repeats, want none", n)
	}
	f.add(t, ctx, worth(60, "EUR", row("demo", "order.placed", "h", dayAfter(1))))
	other := newFeed(h.Store, 2)
	other.add(t, ctx, worth(7, "EUR", row("demo", "order.placed", "i", at(0))))
	every := append(f.rows, other.rows...)
	for _, tenant := range []string{"demo", "rival"} {
		for _, kind := range []string{"", "order.placed", "none"} {
			for _, step := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour} {
				got, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: tenant, Type: kind, Step: step})
				if diff := cmp.Diff(tallied(every, tenant, kind, step), flat(t, got)); diff != "" || err != nil {
					t.Errorf("tenant %q, type %q, step %s: error %v, stats differ (-want +got):\n%s", tenant, kind, step, err, diff)
				}
			}
		}
	}
	q := event.StatsQuery{TenantID: "demo", Type: "order.placed", From: monday, To: at(2), Step: time.Minute, MaxPoints: 3}
	if series, err := h.Store.Stats(ctx, q); err != nil || len(series) != 3 {
		t.Errorf("three series of one type, of one point each: %d, error %v", len(series), err)
	}
	q.MaxPoints = 2
	if _, err := h.Store.Stats(ctx, q); err == nil {
		t.Error("three points of two were given")
	}
}

func amountsStopAtTheirBounds(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	n := 0
	pay := func(kind string, at time.Time, amounts ...int64) {
		var rows []event.Row
		for _, a := range amounts {
			n++
			rows = append(rows, worth(a, "EUR", row("demo", kind, fmt.Sprint(n), at)))
		}
		f.add(t, ctx, rows...)
	}
	next := monday.Add(time.Minute)
	pay("within a batch", monday, math.MaxInt64, 1)
	pay("across batches", monday, math.MaxInt64-1)
	pay("across batches", monday, 2)
	pay("across minutes", monday, math.MaxInt64-1)
	pay("across minutes", next, 2)
	pay("below, within a batch", monday, math.MinInt64, -1)
	pay("below, across batches", monday, math.MinInt64+1)
	pay("below, across batches", monday, -2)
	pay("below, across minutes", monday, math.MinInt64+1)
	pay("below, across minutes", next, -2)
	pay("exactly the bound", monday, math.MaxInt64-1)
	pay("exactly the bound", monday, 1)
	pay("exactly the lower bound", monday, math.MinInt64+1)
	pay("exactly the lower bound", next, -1)
	pay("large ones that cancel out", monday, math.MaxInt64)
	pay("large ones that cancel out", next, math.MinInt64)
	pay("days", monday, math.MaxInt64-1)
	for i := range 9 {
		pay("many of 1e12", monday.Add(time.Duration(i)*time.Minute), 1e12, 1e12)
	}
	pay("days", dayAfter(1), 5)
	series, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: "demo", From: monday, To: dayAfter(2), Step: time.Hour * 48})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, s := range series {
		for _, p := range s.Points {
			got[s.Type] = p.Amount
		}
	}
	want := map[string]int64{
		"within a batch": math.MaxInt64, "across batches": math.MaxInt64, "across minutes": math.MaxInt64, "days": math.MaxInt64,
		"below, within a batch": math.MinInt64, "below, across batches": math.MinInt64, "below, across minutes": math.MinInt64,
		"exactly the bound": math.MaxInt64, "exactly the lower bound": math.MinInt64,
		"large ones that cancel out": -1, "many of 1e12": 18e12,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("amounts differ (-want +got):\n%s", diff)
	}
}
