package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

func queriesFilter(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for d := range 3 {
		for i := range 6 {
			at := dayAfter(d).Add(time.Duration(i) * 4 * time.Hour)
			f.add(t, ctx, row("demo", []string{"even", "odd"}[i%2], fmt.Sprint(d, "/", i), at))
		}
	}
	noon := dayAfter(1).Add(12 * time.Hour)
	for name, q := range map[string]event.Query{
		"all":                            {},
		"one type":                       {Type: "odd"},
		"a type nobody sent":             {Type: "none"},
		"from, which is included":        {From: noon},
		"to, which is excluded":          {To: noon},
		"a nanosecond after":             {From: noon.Add(1)},
		"a nanosecond before":            {To: noon.Add(1)},
		"type and both ends":             {Type: "even", From: dayAfter(0).Add(time.Hour), To: dayAfter(2).Add(9 * time.Hour)},
		"an empty range":                 {From: noon, To: noon},
		"a range that is upside down":    {From: noon, To: noon.Add(-time.Hour)},
		"long before":                    {To: monday.AddDate(-100, 0, 0)},
		"from the beginning of all time": {From: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)},
		"to the end of all time":         {To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		for _, q.Ascending = range []bool{false, true} {
			for _, q.Limit = range []int{1, 4, 1000} {
				q.TenantID = "demo"
				if diff := cmp.Diff(matching(f.rows, q), all(t, ctx, h.Store, q)); diff != "" {
					t.Errorf("%s, ascending %v, limit %d: events differ (-want +got):\n%s", name, q.Ascending, q.Limit, diff)
				}
			}
		}
	}
	if _, err := h.Store.Events(ctx, event.Query{TenantID: "demo"}); err == nil {
		t.Error("a limit of 0 was taken")
	}
}

func queriesAgreeWithModel(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	f := newFeed(h.Store, 1)
	at := monday
	for range 40 {
		rows := make([]event.Row, rng.IntN(1500))
		for i := range rows {
			rows[i] = row(pick("demo", "demo", "demo", "rival", "other"), pick("a", "a", "a", "b", "c"), fmt.Sprint(len(f.rows)+i), at)
			if next := at.Add(time.Duration(rng.IntN(int(2 * time.Second)))); next.Before(at.Truncate(24*time.Hour).AddDate(0, 0, 1)) {
				at = next
			}
		}
		if rng.IntN(8) == 0 { // something rare
			rows = append(rows, row("tiny", "rare", fmt.Sprint("rare", len(f.rows)), at))
		}
		f.add(t, ctx, rows...)
		at = at.Add(time.Duration(rng.IntN(int(3 * time.Hour))))
	}
	newest := at.Sub(monday)
	for range 40 {
		q := event.Query{TenantID: pick("demo", "rival", "tiny"), Type: pick("", "", "a", "c", "rare"),
			Limit: 100 + rng.IntN(3000), Ascending: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 {
			q.From = monday.Add(time.Duration(rng.Int64N(int64(newest))))
		}
		if rng.IntN(2) == 0 {
			q.To = monday.Add(time.Duration(rng.Int64N(int64(newest))))
		}
		want, got := matching(f.rows, q), all(t, ctx, h.Store, q)
		if len(want) != len(got) {
			t.Fatalf("%+v: %d events, want %d", q, len(got), len(want))
		}
		for i := range want {
			if !reflect.DeepEqual(want[i], got[i]) { // cmp takes long over a million
				t.Fatalf("%+v: event %d of %d differs (-want +got):\n%s", q, i, len(want), cmp.Diff(want[i], got[i]))
			}
		}
	}
}

// appendInBackground appends until done is closed or all is appended, and fails
// the test if it cannot. Wait for the returned group.
func appendInBackground(ctx context.Context, t testing.TB, f *feed, batches [][]event.Row) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, rows := range batches {
			b := f.batch(rows...)
			if n, err := f.store.Append(ctx, b); err != nil || n != len(rows) {
				t.Errorf("Append in the background: inserted %d of %d, error %v", n, len(rows), err)
				return
			}
			f.took(b)
		}
	})
	return &wg
}

// traffic returns batches of rows over days, with a step between rows that makes
// the last row of all fall near the end of the last day.
func traffic(batches, perBatch, days int) [][]event.Row {
	out := make([][]event.Row, batches)
	n := 0
	for i := range out {
		d := i * days / batches
		for range perBatch {
			within := time.Duration(n%(batches*perBatch)) * time.Millisecond
			out[i] = append(out[i], row("demo", "t", fmt.Sprintf("%08d", n), dayAfter(d).Add(within)))
			n++
		}
	}
	return out
}

func pagingWhileRowsArrive(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	batches := traffic(200, 20, 2)
	for _, rows := range batches[:80] {
		f.add(t, ctx, rows...)
	}
	before := matching(f.rows, event.Query{TenantID: "demo"})
	wg := appendInBackground(ctx, t, f, batches[80:])
	for range 5 {
		got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 37})
		if len(got) < len(before) {
			t.Fatalf("%d events, want at least the %d from before", len(got), len(before))
		}
		for i := 1; i < len(got); i++ {
			if got[i-1].ID <= got[i].ID {
				t.Fatalf("event %s stands before %s, newest first", got[i-1].ID, got[i].ID)
			}
		}
		if diff := cmp.Diff(before, got[len(got)-len(before):]); diff != "" {
			t.Fatalf("the events from before differ (-want +got):\n%s", diff)
		}
		// The ids count up, so no doubles and this length mean no gaps.
		if want := fmt.Sprintf("%08d", len(got)-1); got[0].ID != want {
			t.Fatalf("%d events, the newest %s; want %s", len(got), got[0].ID, want)
		}
	}
	wg.Wait()
}

func tailSeesEverything(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	batches := traffic(150, 20, 3)
	f.add(t, ctx, batches[0]...)
	wg := appendInBackground(ctx, t, f, batches[1:])
	q := event.Query{TenantID: "demo", Limit: 33, Ascending: true}
	for seen := 0; seen < 150*20; {
		p, err := h.Store.Events(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range p.Events {
			if want := fmt.Sprintf("%08d", seen); e.ID != want {
				t.Fatalf("the tail got %s after %d events, want %s", e.ID, seen, want)
			}
			if e.Cursor == "" || i == len(p.Events)-1 && e.Cursor != p.Next {
				t.Fatalf("event %d of %d has the cursor %q, the page %q", i, len(p.Events), e.Cursor, p.Next)
			}
			seen++
			if seen%101 == 0 { // a reader that left in the midst of a page comes back
				p.Next = e.Cursor
				break
			}
		}
		if p.Next == "" {
			t.Fatal("a tail that reached events got no cursor")
		}
		q.Cursor = p.Next
	}
	wg.Wait()
	p, err := h.Store.Events(ctx, q)
	if err != nil || len(p.Events) != 0 || p.Next == "" {
		t.Fatalf("at the end: %d events, next %q, error %v; want a cursor to go on from", len(p.Events), p.Next, err)
	}
	// Going back from where the tail is gives everything but the last.
	q.Ascending = false
	if got := all(t, ctx, h.Store, q); len(got) != 150*20-1 {
		t.Errorf("%d events before the cursor, want %d", len(got), 150*20-1)
	}
}

func largePayloadsPage(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 10 {
		var rows []event.Row
		for k := range 8 {
			r := row("demo", "t", fmt.Sprint(i, "/", k), monday.Add(time.Duration(i)*time.Hour))
			r.Payload = `"` + fmt.Sprintf("%0262142d", i*8+k) + `"`
			rows = append(rows, r)
		}
		f.add(t, ctx, rows...)
	}
	for _, ascending := range []bool{false, true} {
		q := event.Query{TenantID: "demo", Limit: 1000, Ascending: ascending}
		got, want := all(t, ctx, h.Store, q), matching(f.rows, q)
		if len(got) != len(want) {
			t.Fatalf("%d events, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i].ID != want[i].ID || string(got[i].Payload) != string(want[i].Payload) {
				t.Errorf("event %d is %s, want %s, each with its payload", i, got[i].ID, want[i].ID)
			}
		}
	}
}

func rareTypeIsFound(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	const events = 80_000 // more than an index of any adapter has per part
	for n := 0; n < events; n += 10_000 {
		rows := make([]event.Row, 10_000)
		for i := range rows {
			at := monday.Add(time.Duration(n+i) * 400 * time.Microsecond)
			kind, tenant := "common", "demo"
			switch {
			case (n+i)%24_999 == 7:
				kind = "rare"
			case (n+i)%35_001 == 3:
				tenant = "small"
			}
			rows[i] = row(tenant, kind, fmt.Sprint(n+i), at)
		}
		f.add(t, ctx, rows...)
	}
	for _, q := range []event.Query{
		{TenantID: "demo", Type: "rare"}, {TenantID: "small"}, {TenantID: "small", Type: "common"},
		{TenantID: "demo", Type: "rare", From: monday.Add(3 * time.Second), To: monday.Add(25 * time.Second)},
	} {
		for _, q.Ascending = range []bool{false, true} {
			for _, q.Limit = range []int{1, 100} {
				want := matching(f.rows, q)
				if len(want) < 2 {
					t.Fatalf("the test has only %d events for %+v", len(want), q)
				}
				if diff := cmp.Diff(want, all(t, ctx, h.Store, q)); diff != "" {
					t.Errorf("%+v: events differ (-want +got):\n%s", q, diff)
				}
			}
		}
	}
	for _, ascending := range []bool{false, true} {
		q := event.Query{TenantID: "demo", Type: "common", Limit: 7000, Ascending: ascending}
		if !reflect.DeepEqual(matching(f.rows, q), all(t, ctx, h.Store, q)) {
			t.Errorf("ascending %v: the common events are not those that were appended", ascending)
		}
	}
	for n := 0; n < events; n += 9_973 {
		if _, err := h.Store.Event(ctx, f.rows[n].TenantID, fmt.Sprint(n)); err != nil {
			t.Errorf("event %d by id: %v", n, err)
		}
	}
	n := 0
	err := h.Store.RecentHashes(ctx, monday, func(hash event.Hash, _ time.Time) bool {
		if n < events && hash != f.rows[n].Hash {
			t.Errorf("hash %d is not that of row %d", n, n)
			return false
		}
		n++
		return true
	})
	if err != nil || n != events {
		t.Errorf("%d recent hashes, error %v; want %d", n, err, events)
	}
}

func badCursorIsRefused(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 3 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), monday))
	}
	p, err := h.Store.Events(ctx, event.Query{TenantID: "demo", Limit: 1})
	if err != nil || p.Next == "" {
		t.Fatalf("first page: next %q, error %v", p.Next, err)
	}
	bad := []string{"x", "%", "AAAA", p.Next + "A", p.Next[1:], p.Next[:len(p.Next)-1], " " + p.Next}
	for i := range p.Next {
		flipped := []byte(p.Next)
		if flipped[i]++; string(flipped) != p.Next {
			bad = append(bad, string(flipped))
		}
	}
	for _, cursor := range bad {
		if _, err := h.Store.Events(ctx, event.Query{TenantID: "demo", Limit: 1, Cursor: cursor}); !errors.Is(err, event.ErrBadCursor) {
			t.Errorf("cursor %q: error %v, want event.ErrBadCursor", cursor, err)
		}
	}
}

func cancelledQueryEnds(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	f.add(t, ctx, row("demo", "t", "a", monday))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Store.Events(gone, event.Query{TenantID: "demo", Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("Events: error %v, want context.Canceled", err)
	}
	if _, err := h.Store.Event(gone, "demo", "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Event: error %v, want context.Canceled", err)
	}
	if _, err := h.Store.Stats(gone, event.StatsQuery{TenantID: "demo", Step: time.Minute}); !errors.Is(err, context.Canceled) {
		t.Errorf("Stats: error %v, want context.Canceled", err)
	}
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 1}); len(got) != 1 {
		t.Errorf("%d events after cancelled queries, want 1", len(got))
	}
}

func eventByID(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 60 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint("id-", i), dayAfter(i/20).Add(time.Duration(i)*time.Minute)))
	}
	for _, r := range f.rows {
		got, err := h.Store.Event(ctx, "demo", r.ID)
		if diff := cmp.Diff(seen(r), got); diff != "" || err != nil {
			t.Errorf("event %q: error %v, differs (-want +got):\n%s", r.ID, err, diff)
		}
	}
	for _, id := range []string{"", "id-", "id-60", "ID-1", "id-1 "} {
		_, err := h.Store.Event(ctx, "demo", id)
		wantNotFound(t, err)
	}
}

func newestOfAnID(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	var newest event.Row
	for i, source := range []string{"b", "", "c", "a"} {
		newest = from(source, row("demo", "t", "same", dayAfter(i/2).Add(time.Hour)))
		newest.Payload = fmt.Sprintf(`{"n":%d}`, i)
		f.add(t, ctx, newest, row("demo", "t", fmt.Sprint("noise", i), dayAfter(i/2).Add(time.Hour)))
		got, err := h.Store.Event(ctx, "demo", "same")
		if diff := cmp.Diff(seen(newest), got); diff != "" || err != nil {
			t.Errorf("after %d events: error %v, differs (-want +got):\n%s", i+1, err, diff)
		}
	}
}

func hasByHash(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i, source := range []string{"a", "b", ""} {
		r := from(source, row("demo", "t", "same", dayAfter(i).Add(time.Hour)))
		if there, err := h.Store.Has(ctx, r.Hash); there || err != nil {
			t.Errorf("before the event of source %q: %v, %v", source, there, err)
		}
		f.add(t, ctx, r)
		for _, have := range f.rows {
			if there, err := h.Store.Has(ctx, have.Hash); !there || err != nil {
				t.Errorf("the event of source %q: %v, %v", have.Source, there, err)
			}
		}
	}
	if there, err := h.Store.Has(ctx, event.HashOf("rival", "a", "same")); there || err != nil {
		t.Errorf("another tenant's: %v, %v", there, err)
	}
}

func tenantsAreIsolated(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 50 {
		at := monday.Add(time.Duration(i) * time.Minute)
		f.add(t, ctx, row("demo", "t", fmt.Sprint("d", i), at), row("rival", "t", fmt.Sprint("r", i), at), row("demo", "t", fmt.Sprint("both", i), at),
			row("rival", "t", fmt.Sprint("both", i), at))
	}
	for tenant, foreign := range map[string]string{"demo": "r7", "rival": "d7"} {
		_, err := h.Store.Event(ctx, tenant, foreign)
		wantNotFound(t, err)
		if e, err := h.Store.Event(ctx, tenant, "both7"); err != nil || e.TenantID != tenant {
			t.Errorf("both7 of %s: tenant %q, error %v", tenant, e.TenantID, err)
		}
		q := event.Query{TenantID: tenant, Limit: 7}
		if diff := cmp.Diff(matching(f.rows, q), all(t, ctx, h.Store, q)); diff != "" {
			t.Errorf("events of %s differ (-want +got):\n%s", tenant, diff)
		}
	}
	// A cursor is a place, not a permission.
	p, err := h.Store.Events(ctx, event.Query{TenantID: "demo", Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all(t, ctx, h.Store, event.Query{TenantID: "rival", Limit: 3, Cursor: p.Next}) {
		if e.TenantID != "rival" {
			t.Fatalf("with demo's cursor rival sees %s of %s", e.ID, e.TenantID)
		}
	}
	for _, tenant := range []string{"", "dem", "demo ", "demo%", "nobody"} {
		if got := all(t, ctx, h.Store, event.Query{TenantID: tenant, Limit: 3}); len(got) != 0 {
			t.Errorf("tenant %q sees %d events", tenant, len(got))
		}
		if s, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: tenant, Step: time.Minute}); len(s) != 0 || err != nil {
			t.Errorf("tenant %q sees stats %v, error %v", tenant, s, err)
		}
	}
}

// tailOfSeveralLogs follows two logs, of which one is appended in large batches of
// events that were received long before those of the other.
func tailOfSeveralLogs(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	slow, quick := newFeed(h.Store, 1), newFeed(h.Store, 2)
	var late, soon [][]event.Row
	n := 0
	rows := func(count int, at time.Time) []event.Row {
		out := make([]event.Row, count)
		for i := range out {
			out[i] = row([]string{"demo", "demo", "rival"}[n%3], "t", fmt.Sprintf("%06d", n), at.Add(time.Duration(i)*time.Microsecond))
			n++
		}
		return out
	}
	for i := range 12 {
		late = append(late, rows(3000, monday.Add(time.Duration(i)*time.Second)))
	}
	for i := range 150 {
		soon = append(soon, rows(20, dayAfter(1).Add(-time.Hour+time.Duration(i)*time.Minute)))
	}
	want := 0
	for _, batches := range [][][]event.Row{late, soon} {
		for _, rows := range batches {
			for i := range rows {
				if rows[i].TenantID == "demo" {
					want++
				}
			}
		}
	}
	a, b := appendInBackground(ctx, t, slow, late), appendInBackground(ctx, t, quick, soon)
	seen, last := map[string]bool{}, map[bool]string{}
	q := event.Query{TenantID: "demo", Limit: 333, Ascending: true}
	for len(seen) < want {
		p, err := h.Store.Events(ctx, q)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(seen), want, err)
		}
		for _, e := range p.Events {
			if seen[e.ID] {
				t.Fatalf("the tail got event %s twice", e.ID)
			}
			seen[e.ID] = true
			ofQuick := e.ReceivedAt.After(monday.Add(time.Hour))
			if e.ID <= last[ofQuick] {
				t.Fatalf("the tail got event %s after %s of the same log", e.ID, last[ofQuick])
			}
			last[ofQuick] = e.ID
		}
		if p.Next != "" {
			q.Cursor = p.Next
		}
	}
	a.Wait()
	b.Wait()
	if p, err := h.Store.Events(ctx, q); err != nil || len(p.Events) != 0 {
		t.Errorf("behind the end: %d events, error %v", len(p.Events), err)
	}
}
