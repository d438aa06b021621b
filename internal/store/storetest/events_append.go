package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

func newStoreIsEmpty(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	if next, known, err := h.Store.Position(ctx, logID(1)); known || err != nil {
		t.Errorf("Position = %d, known %v, error %v; want an unknown log", next, known, err)
	}
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10}); len(got) != 0 {
		t.Errorf("a new store has events: %v", got)
	}
	p, err := h.Store.Events(ctx, event.Query{TenantID: "demo", Limit: 10, Ascending: true})
	if err != nil || p.Next != "" {
		t.Errorf("ascending page of an empty store: next %q, error %v; want neither", p.Next, err)
	}
	if at, err := h.Store.LastReceived(ctx); !at.IsZero() || err != nil {
		t.Errorf("LastReceived = %v, %v; want zero", at, err)
	}
	if s, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: time.Minute}); len(s) != 0 || err != nil {
		t.Errorf("Stats = %v, %v; want none", s, err)
	}
	if days, err := h.Store.DropBefore(ctx, dayAfter(100)); len(days) != 0 || err != nil {
		t.Errorf("DropBefore = %v, %v; want none", days, err)
	}
	_, err = h.Store.Event(ctx, "demo", "a")
	wantNotFound(t, err)
}

func fieldsComeBack(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	at := monday.Add(7*time.Hour + 123456789)
	full := from("urn:device/7", row("demo", "door.opened", "id-1", at))
	full.Timestamp = time.Date(1971, 2, 3, 4, 5, 6, 789, time.UTC).UnixNano()
	full.Attributes = `{"subject":"door 7","traceparent":"00-ab"}`
	full.Payload = "{ \"text\": \"Grüße, \\u0000 日本 \U0001F600 \\\"quoted\\\"\",\n\t\"n\": 1.50e+3 }"
	bare := row("demo", "t", "x", at.Add(1))
	bare.Payload = "null"
	early := row("demo", "before 1970", "early", at.Add(2))
	early.Timestamp = -1
	long := row("demo", "t", fmt.Sprintf("%0256d", 1), at.Add(3))
	long.Payload = `"` + fmt.Sprintf("%0262144d", 7) + `"`
	f.add(t, ctx, full, bare, early, long)
	want := matching(f.rows, event.Query{TenantID: "demo"})
	if diff := cmp.Diff(want, all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10})); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
	for _, r := range f.rows {
		got, err := h.Store.Event(ctx, "demo", r.ID)
		if diff := cmp.Diff(seen(r), got); diff != "" || err != nil {
			t.Errorf("event %q: error %v, differs (-want +got):\n%s", r.ID, err, diff)
		}
	}
}

func positionIsComparedAndSet(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.next = 4711 // a log may be seen first anywhere
	f.add(t, ctx, row("demo", "t", "a", monday))
	wantPosition(t, ctx, h.Store, f.log, 4712)
	for _, wrong := range []uint64{4711, 4713, 0} {
		b := f.batch(row("demo", "t", "b", monday))
		b.From, b.UpTo = wrong, wrong+1
		n, err := h.Store.Append(ctx, b)
		var position *event.PositionError
		if n != 0 || !errors.As(err, &position) || position.Have != 4712 || position.From != wrong {
			t.Errorf("Append at %d: inserted %d, error %v; want a PositionError with Have 4712", wrong, n, err)
		}
	}
	wantPosition(t, ctx, h.Store, f.log, 4712)
	f.add(t, ctx, row("demo", "t", "c", monday))
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10}); len(got) != 2 {
		t.Errorf("%d events, want the 2 of the accepted batches", len(got))
	}
}

func lostLogIsNotBegun(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for _, from := range []uint64{1, 4711} {
		for _, dry := range []bool{false, true} {
			b := f.batch(row("demo", "t", "a", monday))
			b.From, b.UpTo, b.Known, b.DryRun = from, from+1, true, dry
			n, err := h.Store.Append(ctx, b)
			var position *event.PositionError
			if n != 0 || !errors.As(err, &position) || !position.Unknown || position.Have != 0 || position.From != from {
				t.Errorf("Append at %d (dry run %v): inserted %d, error %v; want a PositionError of an unknown log", from, dry, n, err)
			}
		}
	}
	if _, known, err := h.Store.Position(ctx, f.log); known || err != nil {
		t.Errorf("the log is known: %v, error %v", known, err)
	}
	wantIDs(t, ctx, h.Store, "demo")
	f.add(t, ctx, row("demo", "t", "a", monday))
	known := f.batch(row("demo", "t", "b", monday))
	known.Known = true
	if n, err := h.Store.Append(ctx, known); n != 1 || err != nil {
		t.Errorf("Append to a log that is known: inserted %d, error %v; want 1", n, err)
	}
	wantPosition(t, ctx, h.Store, f.log, known.UpTo)
	var position *event.PositionError
	if _, err := h.Store.Append(ctx, known); !errors.As(err, &position) || position.Unknown || position.Have != known.UpTo {
		t.Errorf("the batch again: error %v; want a PositionError with Have %d", err, known.UpTo)
	}
	wantIDs(t, ctx, h.Store, "demo", "a", "b")
}

func emptyBatchMovesPosition(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	b := f.batch()
	b.UpTo = b.From + 10
	if n, err := h.Store.Append(ctx, b); n != 0 || err != nil {
		t.Fatalf("Append of nothing: %d, %v", n, err)
	}
	wantPosition(t, ctx, h.Store, f.log, b.UpTo)
	wantPosition(t, ctx, h.Reopen(t), f.log, b.UpTo)
}

func logsAreIndependent(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	a, b := newFeed(h.Store, 1), newFeed(h.Store, 2)
	b.next = 1000
	for i := range 5 {
		at := monday.Add(time.Duration(i) * time.Minute)
		a.add(t, ctx, row("demo", "t", fmt.Sprint("a", i), at))
		b.add(t, ctx, row("demo", "t", fmt.Sprint("b", i), at))
	}
	wantPosition(t, ctx, h.Store, a.log, a.next)
	wantPosition(t, ctx, h.Store, b.log, b.next)
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 3}); len(got) != 10 {
		t.Errorf("%d events of two logs, want 10", len(got))
	}
	got, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tallied(append(a.rows, b.rows...), "demo", "", time.Minute), flat(t, got)); diff != "" {
		t.Errorf("the rollups of two logs do not add up (-want +got):\n%s", diff)
	}
}

func badBatchIsRefused(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "first", monday))
	for name, spoil := range map[string]func(*event.Batch){
		"the day is no midnight":           func(b *event.Batch) { b.Day = b.Day.Add(time.Hour) },
		"a row is of the day before":       func(b *event.Batch) { b.Rows[0].ReceivedAt = monday.UnixNano() - 1 },
		"a row is of the day after":        func(b *event.Batch) { b.Rows[0].ReceivedAt = dayAfter(1).UnixNano() },
		"it ends before it begins":         func(b *event.Batch) { b.UpTo = b.From - 1 },
		"it is exact over less than 1 day": func(b *event.Batch) { b.Exact = true },
	} {
		b := f.batch(row("demo", "t", "bad", monday))
		spoil(&b)
		if _, err := h.Store.Append(ctx, b); err == nil || errors.Is(err, event.ErrData) {
			t.Errorf("%s: error %v; want one that is not of the data", name, err)
		}
	}
	wantPosition(t, ctx, h.Store, f.log, f.next)
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10}); len(got) != 1 {
		t.Errorf("%d events after refused batches, want 1", len(got))
	}
}

func badDataIsRefused(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "first", monday))
	for name, spoil := range map[string]func(*event.Row){
		"no tenant":         func(r *event.Row) { r.TenantID = "" },
		"no type":           func(r *event.Row) { r.Type = "" },
		"no id":             func(r *event.Row) { r.ID = "" },
		"NUL in the id":     func(r *event.Row) { r.ID = "a\x00b" },
		"NUL in the type":   func(r *event.Row) { r.Type = "a\x00b" },
		"payload not UTF-8": func(r *event.Row) { r.Payload = "\"\xff\"" },
		"source not UTF-8":  func(r *event.Row) { r.Source = "\xc3" },
	} {
		b := f.batch(row("demo", "t", "good", monday), row("demo", "t", "bad", monday), row("demo", "t", "good2", monday))
		spoil(&b.Rows[1])
		if n, err := h.Store.Append(ctx, b); n != 0 || !errors.Is(err, event.ErrData) {
			t.Errorf("%s: inserted %d, error %v; want event.ErrData", name, n, err)
		}
		wantPosition(t, ctx, h.Store, f.log, f.next)
	}
	f.add(t, ctx, row("demo", "t", "good", monday))
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10}); len(got) != 2 {
		t.Errorf("%d events after refused batches, want 2", len(got))
	}
}

func dryRunChangesNothing(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	dry := f.batch(row("demo", "t", "dry", monday))
	dry.DryRun = true
	if n, err := h.Store.Append(ctx, dry); n != 1 || err != nil {
		t.Errorf("dry run on a new store: %d, error %v; want 1", n, err)
	}
	if _, known, err := h.Store.Position(ctx, f.log); known || err != nil {
		t.Errorf("after a dry run the log is known: %v, error %v", known, err)
	}
	f.add(t, ctx, row("demo", "t", "a", monday))
	dry = f.batch(row("demo", "t", "x", monday), row("demo", "t", "dry", monday), row("demo", "t", "dry", monday))
	dry.DryRun, dry.Exact, dry.ExactDays = true, true, 1
	for range 2 {
		if n, err := h.Store.Append(ctx, dry); n != 2 || err != nil {
			t.Errorf("exact dry run: %d, error %v; want 2, as one repeats another", n, err)
		}
	}
	dry.Rows[1].Type = ""
	if _, err := h.Store.Append(ctx, dry); !errors.Is(err, event.ErrData) {
		t.Errorf("dry run of bad data: error %v, want event.ErrData", err)
	}
	dry.Rows[1].Type = "t"
	dry.From--
	var position *event.PositionError
	if _, err := h.Store.Append(ctx, dry); !errors.As(err, &position) {
		t.Errorf("dry run elsewhere: error %v, want a PositionError", err)
	}
	wantPosition(t, ctx, h.Store, f.log, f.next)
	f.add(t, ctx, row("demo", "t", "b", monday))
	wantIDs(t, ctx, h.Store, "demo", "a", "b")
	hashes := 0
	if err := h.Store.RecentHashes(ctx, monday, func(event.Hash, time.Time) bool { hashes++; return true }); hashes != 2 || err != nil {
		t.Errorf("%d recent hashes, error %v; want 2", hashes, err)
	}
}

func cancelledAppendLeavesNothing(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "first", monday))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Store.Append(gone, f.batch(row("demo", "t", "b", monday))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	wantPosition(t, ctx, h.Store, f.log, f.next)
	f.add(t, ctx, row("demo", "t", "c", monday))
	if diff := cmp.Diff(matching(f.rows, event.Query{TenantID: "demo"}), all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10})); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
}

func lostReplyShowsInPosition(t *testing.T, h *EventsHarness) {
	h.need(t, "LoseReply", h.LoseReply != nil)
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "a", monday))
	for i := range 3 {
		b := f.batch(row("demo", "t", fmt.Sprint("b", i), monday))
		h.LoseReply(t)
		if _, err := h.Store.Append(ctx, b); err == nil || errors.Is(err, event.ErrData) {
			t.Fatalf("Append with a lost reply: error %v; want one that may pass", err)
		}
		if i == 1 { // asking is not needed to be safe
			var position *event.PositionError
			if _, err := h.Store.Append(ctx, b); !errors.As(err, &position) || position.Have != b.UpTo {
				t.Fatalf("the batch again: error %v; want a PositionError with Have %d", err, b.UpTo)
			}
		}
		wantPosition(t, ctx, h.Store, f.log, b.UpTo)
		f.took(b)
		f.add(t, ctx, row("demo", "t", fmt.Sprint("c", i), monday))
	}
	want := matching(f.rows, event.Query{TenantID: "demo"})
	if diff := cmp.Diff(want, all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 2})); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
}

func reopenKeepsEverything(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 20 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), dayAfter(i/5).Add(time.Duration(i)*time.Minute)))
	}
	for range 2 {
		f.store = h.Reopen(t)
		wantPosition(t, ctx, f.store, f.log, f.next)
		f.add(t, ctx, row("demo", "t", fmt.Sprint("more", f.next), dayAfter(4)))
		if diff := cmp.Diff(matching(f.rows, event.Query{TenantID: "demo"}), all(t, ctx, f.store, event.Query{TenantID: "demo", Limit: 7})); diff != "" {
			t.Errorf("events differ (-want +got):\n%s", diff)
		}
	}
}

func crashLosesNothing(t *testing.T, h *EventsHarness) {
	h.need(t, "Crash", h.Crash != nil)
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 30 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), dayAfter(i/20).Add(time.Duration(i)*time.Minute)))
	}
	f.store = h.Crash(t)
	wantPosition(t, ctx, f.store, f.log, f.next)
	f.add(t, ctx, row("demo", "t", "after", dayAfter(2)))
	if diff := cmp.Diff(matching(f.rows, event.Query{TenantID: "demo"}), all(t, ctx, f.store, event.Query{TenantID: "demo", Limit: 7})); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
	for _, r := range f.rows {
		if _, err := f.store.Event(ctx, "demo", r.ID); err != nil {
			t.Errorf("event %q by id: %v", r.ID, err)
		}
	}
}

func fullDiskPasses(t *testing.T, h *EventsHarness) {
	h.need(t, "FillDisk", h.FillDisk != nil)
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "a", monday))
	free := h.FillDisk(t)
	big := row("demo", "t", "b", monday)
	big.Payload = `"` + fmt.Sprintf("%0200000d", 1) + `"`
	for range 3 {
		if _, err := h.Store.Append(ctx, f.batch(big)); err == nil || errors.Is(err, event.ErrData) {
			t.Fatalf("Append on a full disk: error %v; want one that may pass", err)
		}
		wantPosition(t, ctx, h.Store, f.log, f.next)
		if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 10}); len(got) != 1 {
			t.Fatalf("%d events readable on a full disk, want 1", len(got))
		}
	}
	free()
	f.add(t, ctx, big)
	if diff := cmp.Diff(matching(f.rows, event.Query{TenantID: "demo"}), all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 7})); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
}

// addExact appends in exact mode and returns the number of rows inserted.
func (f *feed) addExact(t testing.TB, ctx context.Context, days int, rows ...event.Row) int {
	t.Helper()
	b := f.batch(rows...)
	b.Exact, b.ExactDays = true, days
	n, err := f.store.Append(ctx, b)
	if err != nil {
		t.Fatalf("exact Append: %v", err)
	}
	f.next = b.UpTo
	return n
}

// wantIDs fails the test unless the tenant's events have these ids, oldest first,
// and the rollups count as many.
func wantIDs(t testing.TB, ctx context.Context, s event.Store, tenant string, want ...string) {
	t.Helper()
	var got []string
	for _, e := range all(t, ctx, s, event.Query{TenantID: tenant, Limit: 100, Ascending: true}) {
		got = append(got, e.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ids differ (-want +got):\n%s", diff)
	}
	series, err := s.Stats(ctx, event.StatsQuery{TenantID: tenant, Step: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var count int64
	for _, c := range flat(t, series) {
		count += c.Count
	}
	if count != int64(len(want)) {
		t.Errorf("the rollups count %d events, want the %d that were inserted", count, len(want))
	}
}

func exactWithinBatch(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	a, b := row("demo", "t", "a", monday), row("demo", "t", "b", monday)
	again := row("demo", "other", "a", monday.Add(time.Second))
	if n := f.addExact(t, ctx, 1, a, b, again, a, from("elsewhere", a), row("rival", "t", "a", monday)); n != 4 {
		t.Errorf("inserted %d, want 4: a, b, a of another source, a of another tenant", n)
	}
	wantIDs(t, ctx, h.Store, "demo", "a", "b", "a")
	wantIDs(t, ctx, h.Store, "rival", "a")
}

func exactAcrossBatches(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	var many []event.Row
	var ids []string
	for i := range 300 { // several statements' worth
		many = append(many, row("demo", "t", fmt.Sprintf("%03d", i), monday))
		ids = append(ids, many[i].ID)
	}
	if n := f.addExact(t, ctx, 1, many[:200]...); n != 200 {
		t.Errorf("inserted %d, want 200", n)
	}
	if n := f.addExact(t, ctx, 1, many[100:]...); n != 100 {
		t.Errorf("inserted %d, want the 100 that are new", n)
	}
	if n := f.addExact(t, ctx, 1, many...); n != 0 {
		t.Errorf("inserted %d, want none", n)
	}
	wantIDs(t, ctx, h.Store, "demo", ids...)
	f.store = h.Reopen(t)
	if n := f.addExact(t, ctx, 1, many[7], row("demo", "t", "new", monday)); n != 1 {
		t.Errorf("inserted %d after opening again, want 1", n)
	}
	wantPosition(t, ctx, f.store, f.log, f.next)
}

func exactAcrossDays(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	on := func(n int, id string) event.Row { return row("demo", "t", id, dayAfter(n).Add(time.Hour)) }
	for _, c := range []struct {
		day, want int
		id        string
	}{
		{0, 1, "a"}, {1, 0, "a"}, {1, 1, "b"},
		{2, 0, "a"}, {2, 0, "b"}, // three days: this one and two before
		{3, 1, "a"}, {3, 0, "b"}, // monday is too long ago
		{4, 0, "a"}, {4, 1, "b"},
	} {
		if n := f.addExact(t, ctx, 3, on(c.day, c.id)); n != c.want {
			t.Errorf("%q on day %d: inserted %d, want %d", c.id, c.day, n, c.want)
		}
	}
	wantIDs(t, ctx, h.Store, "demo", "a", "b", "a", "b")
}

func exactBehind(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	ahead, behind := newFeed(h.Store, 1), newFeed(h.Store, 2)
	on := func(n int) event.Row { return row("demo", "t", "a", dayAfter(n).Add(time.Hour)) }
	for _, c := range []struct {
		f         *feed
		day, want int
	}{
		{ahead, 0, 1}, {ahead, 1, 1}, // one day is but the day itself
		{behind, 0, 0}, {behind, 0, 0}, {behind, 1, 0},
		{ahead, 2, 1}, {behind, 1, 0}, {behind, 2, 0}, {behind, 3, 1},
	} {
		if n := c.f.addExact(t, ctx, 1, on(c.day)); n != c.want {
			t.Errorf("on day %d: inserted %d, want %d", c.day, n, c.want)
		}
	}
	wantIDs(t, ctx, h.Store, "demo", "a", "a", "a", "a")
}
