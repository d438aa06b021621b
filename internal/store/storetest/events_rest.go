package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

func rollupsAddUp(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	at := monday.Add(23 * time.Hour)
	for range 60 {
		var rows []event.Row
		day := at.Truncate(24 * time.Hour)
		for range 1 + rng.IntN(200) {
			r := row([]string{"demo", "rival"}[rng.IntN(2)], []string{"a", "b", "c"}[rng.IntN(3)], fmt.Sprint(rng.Uint64()), at)
			r.Payload = `"` + fmt.Sprintf("%0*d", 1+rng.IntN(100), 1) + `"`
			if rng.IntN(3) == 0 {
				r = worth(rng.Int64N(1e12), []string{"EUR", "USD"}[rng.IntN(2)], r)
			}
			rows = append(rows, r)
			if next := at.Add(time.Duration(rng.IntN(int(time.Second)))); next.Before(day.AddDate(0, 0, 1)) {
				at = next
			}
		}
		f.add(t, ctx, rows...)
		at = at.Add(time.Duration(rng.IntN(int(5 * time.Minute))))
	}
	for _, tenant := range []string{"demo", "rival"} {
		for _, kind := range []string{"", "b", "none"} {
			for _, step := range []time.Duration{time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour, 7 * time.Minute} {
				got, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: tenant, Type: kind, Step: step})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tallied(f.rows, tenant, kind, step), flat(t, got)); diff != "" {
					t.Errorf("tenant %q, type %q, step %s: stats differ (-want +got):\n%s", tenant, kind, step, diff)
				}
			}
		}
	}
}

func statsAreBounded(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 12 {
		f.add(t, ctx, row("demo", fmt.Sprint("type", i%4), fmt.Sprint("e", i), monday.Add(time.Duration(i/4)*time.Minute)))
	}
	q := event.StatsQuery{TenantID: "demo", From: monday, To: dayAfter(1), Step: time.Minute, MaxPoints: 12}
	if series, err := h.Store.Stats(ctx, q); err != nil || len(series) != 4 {
		t.Errorf("twelve points of twelve: %d series, error %v", len(series), err)
	}
	q.MaxPoints = 11
	if _, err := h.Store.Stats(ctx, q); !errors.Is(err, event.ErrTooManyPoints) {
		t.Errorf("twelve points of eleven: error %v", err)
	}
	q.Type = "type1"
	if series, err := h.Store.Stats(ctx, q); err != nil || len(series) != 1 || len(series[0].Points) != 3 {
		t.Errorf("one type: %+v, error %v", series, err)
	}
}

func pagesAreBoundedInBytes(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 6 {
		r := row("demo", "t", fmt.Sprint("e", i), monday.Add(time.Duration(i)*time.Second))
		r.Payload = `"` + strings.Repeat("x", 98) + `"`
		f.add(t, ctx, r)
	}
	for maxBytes, want := range map[int]int{1: 1, 100: 1, 101: 2, 600: 6, 0: 6} {
		q := event.Query{TenantID: "demo", Limit: 10, MaxBytes: maxBytes}
		page, err := h.Store.Events(ctx, q)
		if err != nil || len(page.Events) != want {
			t.Errorf("at most %d bytes: %d events, want %d, error %v", maxBytes, len(page.Events), want, err)
		}
		if got := all(t, ctx, h.Store, q); len(got) != 6 {
			t.Errorf("at most %d bytes: %d events over all pages, want 6", maxBytes, len(got))
		}
	}
}

func statsRespectBounds(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 4 * 24 * 2 { // every half hour of two days and before and after
		at := monday.Add(time.Duration(i) * 30 * time.Minute)
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), at))
	}
	from, to := monday.Add(20*time.Hour), dayAfter(2).Add(3*time.Hour)
	var within []event.Row
	for _, r := range f.rows {
		if r.ReceivedAt >= from.UnixNano() && r.ReceivedAt < to.UnixNano() {
			within = append(within, r)
		}
	}
	got, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: "demo", From: from, To: to, Step: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tallied(within, "demo", "", time.Hour), flat(t, got)); diff != "" {
		t.Errorf("stats differ (-want +got):\n%s", diff)
	}
	for _, step := range []time.Duration{0, time.Second, 90 * time.Second, -time.Minute} {
		if _, err := h.Store.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: step}); err == nil {
			t.Errorf("a step of %s was taken", step)
		}
	}
}

func recentHashes(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 400 {
		at := monday.Add(23*time.Hour + 50*time.Minute + time.Duration(i)*3700*time.Millisecond)
		f.add(t, ctx, row([]string{"demo", "rival"}[i%2], "t", fmt.Sprint(i), at), from("s", row("demo", "t", fmt.Sprint("x", i), at)))
	}
	for _, since := range []time.Time{
		{}, monday, dayAfter(1).Add(-time.Second), dayAfter(1), dayAfter(1).Add(7 * time.Minute),
		time.Unix(0, f.rows[301].ReceivedAt), time.Unix(0, f.rows[301].ReceivedAt+1), dayAfter(2),
	} {
		var want, got []event.Hash
		var at []int64
		for _, r := range f.rows {
			if since.IsZero() || r.ReceivedAt >= since.UnixNano() {
				want = append(want, r.Hash)
				at = append(at, r.ReceivedAt)
			}
		}
		err := h.Store.RecentHashes(ctx, since, func(hash event.Hash, received time.Time) bool {
			if n := len(got); n < len(at) {
				if off := received.Sub(time.Unix(0, at[n])); off.Abs() > time.Minute {
					t.Errorf("since %s: hash %d with a time of receipt that is %s off", since, n, off)
				}
			}
			got = append(got, hash)
			return true
		})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("since %s: error %v, %d hashes, want %d", since, err, len(got), len(want))
		}
	}
}

func recentHashesStop(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 10 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), dayAfter(i/5)))
	}
	n := 0
	err := h.Store.RecentHashes(ctx, monday, func(event.Hash, time.Time) bool { n++; return n < 3 })
	if n != 3 || err != nil {
		t.Errorf("yielded %d hashes, error %v; want it to stop at 3", n, err)
	}
}

func lastReceived(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 3 {
		at := dayAfter(i).Add(5*time.Hour + 17)
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), at))
		for range 2 {
			if got, err := f.store.LastReceived(ctx); !got.Equal(at) || err != nil {
				t.Errorf("LastReceived = %v, error %v; want %v", got, err, at)
			}
			if i == 2 {
				f.store = h.Reopen(t)
			}
		}
	}
}

func retentionRemovesDays(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for i := range 10 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), dayAfter(i/2).Add(time.Hour)))
	}
	if _, err := h.Store.DropBefore(ctx, dayAfter(3).Add(time.Hour)); err == nil {
		t.Error("a time that is no midnight was taken")
	}
	days, err := h.Store.DropBefore(ctx, dayAfter(3))
	if diff := cmp.Diff([]time.Time{dayAfter(0), dayAfter(1), dayAfter(2)}, days); diff != "" || err != nil {
		t.Fatalf("error %v, removed days differ (-want +got):\n%s", err, diff)
	}
	f.rows = f.rows[6:]
	check := func() {
		t.Helper()
		if diff := cmp.Diff(matching(f.rows, event.Query{TenantID: "demo"}), all(t, ctx, f.store, event.Query{TenantID: "demo", Limit: 3})); diff != "" {
			t.Errorf("events differ (-want +got):\n%s", diff)
		}
		_, err := f.store.Event(ctx, "demo", "5")
		wantNotFound(t, err)
		got, err := f.store.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: time.Hour})
		if diff := cmp.Diff(tallied(f.rows, "demo", "", time.Hour), flat(t, got)); diff != "" || err != nil {
			t.Errorf("error %v, stats differ (-want +got):\n%s", err, diff)
		}
		wantPosition(t, ctx, f.store, f.log, f.next)
	}
	check()
	if days, err := h.Store.DropBefore(ctx, dayAfter(3)); len(days) != 0 || err != nil {
		t.Errorf("the second time: removed %v, error %v; want nothing", days, err)
	}
	f.store = h.Reopen(t)
	check()
	f.add(t, ctx, row("demo", "t", "new", dayAfter(5)))
	check()
}

func retentionKeepsPositions(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	old, f := newFeed(h.Store, 1), newFeed(h.Store, 2)
	old.add(t, ctx, row("demo", "t", "old", dayAfter(1)))
	for i := range 4 {
		f.add(t, ctx, row("demo", "t", fmt.Sprint(i), dayAfter(i)))
	}
	days, err := h.Store.DropBefore(ctx, dayAfter(100))
	want := []time.Time{dayAfter(0), dayAfter(2)}
	if h.PositionsApart {
		want = []time.Time{dayAfter(0), dayAfter(1), dayAfter(2), dayAfter(3)}
	}
	if diff := cmp.Diff(want, days); diff != "" || err != nil {
		t.Errorf("error %v, removed days differ (-want +got):\n%s", err, diff)
	}
	wantPosition(t, ctx, h.Store, old.log, old.next)
	again := h.Reopen(t)
	wantPosition(t, ctx, again, old.log, old.next)
	wantPosition(t, ctx, again, f.log, f.next)
}

func retentionWaitsForReaders(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	for d := range 4 {
		f.add(t, ctx, manyRows(500, dayAfter(d))...)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 100})
				if n := len(got); n < 500 || n > 2000 {
					t.Errorf("%d events while days are removed", n)
					return
				}
			}
		})
	}
	for d := 1; d <= 3; d++ {
		days, err := h.Store.DropBefore(ctx, dayAfter(d))
		if len(days) != 1 || err != nil {
			t.Errorf("DropBefore: removed %v, error %v; want one day", days, err)
		}
	}
	close(stop)
	readers.Wait()
	if got := all(t, ctx, h.Store, event.Query{TenantID: "demo", Limit: 1000}); len(got) != 500 {
		t.Errorf("%d events, want the 500 of the last day", len(got))
	}
}

// manyRows returns n rows of one moment.
func manyRows(n int, at time.Time) []event.Row {
	rows := make([]event.Row, n)
	for i := range rows {
		rows[i] = row("demo", "t", fmt.Sprint(at.Format(time.DateOnly), "-", i), at)
	}
	return rows
}

func readersWhileAppending(t *testing.T, h *EventsHarness) {
	ctx := testContext(t)
	f := newFeed(h.Store, 1)
	batches := traffic(60, 50, 2)
	f.add(t, ctx, batches[0]...)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() { readAll(reading, t, h.Store, uint64(r)) })
	}
	appendInBackground(ctx, t, f, batches[1:]).Wait()
	stop()
	readers.Wait()
	q := event.Query{TenantID: "demo", Limit: 1000}
	if diff := cmp.Diff(matching(f.rows, q), all(t, ctx, h.Store, q)); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
}

// readAll asks all kinds of questions until ctx ends. The only error it bears is
// ctx's own.
func readAll(ctx context.Context, t testing.TB, s event.Store, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var last int64
	for ctx.Err() == nil {
		p, err := s.Events(ctx, event.Query{TenantID: "demo", Limit: 1 + rng.IntN(200), Ascending: rng.IntN(2) == 0})
		if err == nil && len(p.Events) == 0 {
			t.Error("the events are gone")
			return
		}
		if err == nil {
			id := p.Events[rng.IntN(len(p.Events))].ID
			_, err = s.Event(ctx, "demo", id)
		}
		if err == nil {
			var series []event.Series
			series, err = s.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: 24 * time.Hour})
			var count int64
			for _, c := range flat(t, series) {
				count += c.Count
			}
			if err == nil && count < last {
				t.Errorf("the rollups went from %d back to %d", last, count)
				return
			}
			last = max(last, count)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a reader beside an appender: %v", err)
			return
		}
	}
}
