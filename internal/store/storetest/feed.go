package storetest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/internal/event"
)

// monday and the days after it are the days of receipt in the suites.
var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func dayAfter(n int) time.Time { return monday.AddDate(0, 0, n) }

// logID returns the n-th log of a test.
func logID(n byte) event.LogID { return event.LogID{0: n, 15: 0xff} }

// row returns a row with every field set from what tells it apart.
func row(tenant, kind, id string, at time.Time) event.Row {
	return event.Row{
		Hash:       event.HashOf(tenant, "", id),
		TenantID:   tenant,
		Type:       kind,
		ID:         id,
		Timestamp:  at.Add(-time.Second).UnixNano(),
		ReceivedAt: at.UnixNano(),
		Payload:    fmt.Sprintf(`{"id":%q}`, id),
	}
}

// from gives the row a source.
func from(source string, r event.Row) event.Row {
	r.Source = source
	r.Hash = event.HashOf(r.TenantID, source, r.ID)
	return r
}

// seen returns the event a reader must see for a row.
func seen(r event.Row) event.Event {
	e := event.Event{
		ID: r.ID, Type: r.Type, Source: r.Source, TenantID: r.TenantID,
		Timestamp:  time.Unix(0, r.Timestamp).UTC(),
		ReceivedAt: time.Unix(0, r.ReceivedAt).UTC(),
		Payload:    json.RawMessage(r.Payload),
	}
	if r.Attributes != "" {
		e.Attributes = json.RawMessage(r.Attributes)
	}
	return e
}

// feed appends rows of one log in order and remembers what the store must have.
type feed struct {
	store event.Store
	log   event.LogID
	next  uint64
	rows  []event.Row // all that was inserted, in order
}

func newFeed(s event.Store, n byte) *feed { return &feed{store: s, log: logID(n), next: 1} }

// batch returns the next batch of the log: one record per row, at least one.
func (f *feed) batch(rows ...event.Row) event.Batch {
	b := event.Batch{LogID: f.log, From: f.next, UpTo: f.next + uint64(max(1, len(rows))), Day: monday, Rows: rows}
	if len(rows) > 0 {
		b.Day = time.Unix(0, rows[0].ReceivedAt).UTC().Truncate(24 * time.Hour)
	}
	return b
}

// add appends rows of one day and fails the test if not all are inserted.
func (f *feed) add(t testing.TB, ctx context.Context, rows ...event.Row) {
	t.Helper()
	b := f.batch(rows...)
	n, err := f.store.Append(ctx, b)
	if err != nil || n != len(rows) {
		t.Fatalf("Append of %d rows at %d: inserted %d, error %v", len(rows), f.next, n, err)
	}
	f.took(b)
}

// took remembers that a batch is in the store.
func (f *feed) took(b event.Batch) {
	f.next = b.UpTo
	f.rows = append(f.rows, b.Rows...)
}

// matching returns what a query must find of rows, in its order.
func matching(rows []event.Row, q event.Query) []event.Event {
	var out []event.Event
	for _, r := range rows {
		at := time.Unix(0, r.ReceivedAt)
		if r.TenantID != q.TenantID || q.Type != "" && r.Type != q.Type ||
			!q.From.IsZero() && at.Before(q.From) || !q.To.IsZero() && !at.Before(q.To) {
			continue
		}
		out = append(out, seen(r))
	}
	if !q.Ascending {
		slices.Reverse(out)
	}
	return out
}

// all reads every page of a query. It fails the test on an error, on a page that
// is larger than was asked for, and when the pages do not end.
func all(t testing.TB, ctx context.Context, s event.Store, q event.Query) []event.Event {
	t.Helper()
	var out []event.Event
	for range 100_000 {
		p, err := s.Events(ctx, q)
		if err != nil {
			t.Fatalf("Events(%+v): %v", q, err)
		}
		if len(p.Events) > q.Limit {
			t.Fatalf("a page of %d events where %d were asked for", len(p.Events), q.Limit)
		}
		for i := range p.Events {
			if q.Ascending != (p.Events[i].Cursor != "") {
				t.Fatalf("ascending %v, and event %d has the cursor %q", q.Ascending, i, p.Events[i].Cursor)
			}
			p.Events[i].Cursor = "" // what it does has a test of its own
		}
		out = append(out, p.Events...)
		if p.Next == "" || q.Ascending && len(p.Events) == 0 {
			return out
		}
		q.Cursor = p.Next
	}
	t.Fatalf("the pages of %+v do not end", q)
	return nil
}

// counted is what Stats says, in a form that compares well.
type counted struct {
	Type     string
	Currency string
	Time     time.Time
	Count    int64
	Bytes    int64
	Amount   int64
}

// tallied returns what Stats must answer for rows.
func tallied(rows []event.Row, tenant, kind string, step time.Duration) []counted {
	sums := map[counted]counted{}
	for _, r := range rows {
		if r.TenantID != tenant || kind != "" && r.Type != kind {
			continue
		}
		at := time.Unix(0, r.ReceivedAt-r.ReceivedAt%int64(step)).UTC()
		key := counted{Type: r.Type, Currency: r.Currency, Time: at}
		c := sums[key]
		sums[key] = counted{r.Type, r.Currency, at, c.Count + 1, c.Bytes + int64(len(r.Payload)), c.Amount + r.Amount}
	}
	out := []counted{}
	for _, c := range sums {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b counted) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Currency, b.Currency), a.Time.Compare(b.Time))
	})
	return out
}

// flat returns the points of series in a row, and fails if the series or their
// points are out of order, or one stands twice.
func flat(t testing.TB, series []event.Series) []counted {
	t.Helper()
	out := []counted{}
	for n, s := range series {
		if n > 0 && cmp.Or(cmp.Compare(series[n-1].Type, s.Type), cmp.Compare(series[n-1].Currency, s.Currency)) >= 0 {
			t.Errorf("the series of %q in %q does not come after the one before it", s.Type, s.Currency)
		}
		for i, p := range s.Points {
			if i > 0 && !s.Points[i-1].Time.Before(p.Time) {
				t.Errorf("the points of %q are not oldest first", s.Type)
			}
			out = append(out, counted{s.Type, s.Currency, p.Time, p.Count, p.Bytes, p.Amount})
		}
	}
	return out
}

// wantPosition fails the test unless the log stands at next.
func wantPosition(t testing.TB, ctx context.Context, s event.Store, log event.LogID, next uint64) {
	t.Helper()
	have, known, err := s.Position(ctx, log)
	if err != nil || !known || have != next {
		t.Fatalf("Position = %d, known %v, error %v; want %d", have, known, err, next)
	}
}

// wantNotFound fails the test unless err is event.ErrNotFound.
func wantNotFound(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, event.ErrNotFound) {
		t.Errorf("error %v, want event.ErrNotFound", err)
	}
}
