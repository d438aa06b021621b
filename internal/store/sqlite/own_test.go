package sqlite

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

// firstDay is the midnight that begins the days of these tests.
var firstDay = time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)

// ownRow is an order's event.
func ownRow(id string, at time.Time, amount int64) event.Row {
	const source = "millrace/orders"
	return event.Row{Hash: event.HashOf("demo", source, id), TenantID: "demo", Type: "order.placed", ID: id, Source: source,
		Timestamp: at.UnixNano(), ReceivedAt: at.UnixNano(), Payload: "{}", Exact: true, Amount: amount, Currency: "EUR"}
}

// put appends rows of one day to the store and returns how many were inserted.
func put(t testing.TB, db *DB, rows ...event.Row) int {
	t.Helper()
	log := event.LogID{1}
	next, _, err := db.Events().Position(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	n, err := db.Events().Append(t.Context(), event.Batch{LogID: log, From: next, UpTo: next + 1,
		Day: time.Unix(0, rows[0].ReceivedAt).UTC().Truncate(24 * time.Hour), Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// firstRelease returns the migrations of event files as they were at first.
func firstRelease(t testing.TB) schema {
	t.Helper()
	const name = "migrations/events/00001_events.sql"
	text, err := fs.ReadFile(migrations, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := loadSchema(fstest.MapFS{name: {Data: text}}, "events")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leaveOldDay makes a day file as the first release left it: one event, counted.
func leaveOldDay(t testing.TB, dir string, day time.Time) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "events"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "events", day.Format(time.DateOnly)+".db")
	db, err := pool(path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := firstRelease(t).apply(t.Context(), db, path); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		text string
		args []any
	}{
		{`INSERT INTO events (seq, received_ns, tenant_id, type, id, timestamp_ns, payload) VALUES (1, ?, 'demo', 'old', 'a', 0, '{}')`, []any{day.UnixNano()}},
		{`INSERT INTO rollups VALUES ('demo', ?, 'old', ?, 1, 2)`, []any{day.Unix() / 60, make([]byte, 16)}},
	} {
		if _, err := db.Exec(q.text, q.args...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDaysOfTheFirstReleaseAreReadAndAppendedTo(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		leaveOldDay(t, dir, firstDay.AddDate(0, 0, i))
	}
	db := open(t, dir)
	last := firstDay.AddDate(0, 0, 2)
	if n := put(t, db, ownRow("x", last.Add(time.Hour), 1999), ownRow("y", last.Add(time.Hour), 1)); n != 2 {
		t.Errorf("inserted %d into a day of the first release, want 2", n)
	}
	if n := put(t, db, ownRow("x", last.AddDate(0, 0, 1), 1999)); n != 0 {
		t.Errorf("inserted %d repeats a day later, want none", n)
	}
	got, err := db.Events().Stats(t.Context(), event.StatsQuery{TenantID: "demo", Step: 24 * time.Hour})
	want := []event.Series{
		{Type: "old", Points: []event.Point{{Time: firstDay, Count: 1, Bytes: 2}, {Time: firstDay.AddDate(0, 0, 1), Count: 1, Bytes: 2}, {Time: last, Count: 1, Bytes: 2}}},
		{Type: "order.placed", Currency: "EUR", Points: []event.Point{{Time: last, Count: 2, Bytes: 4, Amount: 2000}}},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, stats differ (-want +got):\n%s", err, diff)
	}
}

func TestTheFirstReleaseStillServesADayWithOwnEvents(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	put(t, db, ownRow("x", firstDay, 1999))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "events", firstDay.Format(time.DateOnly)+".db")
	raw, err := pool(path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := firstRelease(t).apply(t.Context(), raw, path); err != nil {
		t.Errorf("after a rollback of the program: %v", err)
	}
}

func TestOnlyDaysWithOwnEventsAreAskedForRepeats(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	appendRows(t, db, "a") // of the day after benchDay, and nothing of ours
	quiet := benchDay.AddDate(0, 0, 1)
	put(t, db, ownRow("x", quiet.AddDate(0, 0, 1), 1))
	put(t, db, ownRow("y", quiet.AddDate(0, 0, 2), 1))
	check := func() {
		t.Helper()
		views, err := db.events.files.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		for _, v := range views {
			if (book{table: "own_claims", days: event.OwnExactDays, own: true}).reaches(v, dayOf(quiet.AddDate(0, 0, 2))) {
				asked = append(asked, v.file.day.time().Format(time.DateOnly))
			}
		}
		if diff := cmp.Diff([]string{"2026-11-24"}, asked); diff != "" {
			t.Errorf("the days that are asked differ (-want +got):\n%s", diff)
		}
	}
	check()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	check()
}

func TestASumThatIsFullStaysAWholeNumber(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	for i, amount := range []int64{math.MaxInt64, 5, math.MinInt64, math.MinInt64, -5} {
		r := ownRow(fmt.Sprint(i), firstDay, amount)
		if amount < 0 {
			r.Type = "order.refunded"
		}
		put(t, db, r)
	}
	raw, err := pool(filepath.Join(dir, "events", firstDay.Format(time.DateOnly)+".db"), reading, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for kind, want := range map[string]int64{"order.placed": math.MaxInt64, "order.refunded": math.MinInt64} {
		var got int64
		var storedAs string
		err := raw.QueryRow(`SELECT typeof(amount), CAST(amount AS INTEGER) FROM money_rollups WHERE type = ?`, kind).Scan(&storedAs, &got)
		if err != nil || storedAs != "integer" || got != want {
			t.Errorf("%s: amount %d stored as %s, error %v; want the integer %d", kind, got, storedAs, err, want)
		}
	}
}
