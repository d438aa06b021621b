package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

func TestEverySharedStatementPrepares(t *testing.T) {
	db := open(t, t.TempDir())
	for name, statement := range storesql.Statements(storesql.SQLite) {
		stmt, err := db.write.PrepareContext(t.Context(), statement)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := stmt.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := 1; strings.Contains(statement, fmt.Sprint("$", n+1)); n++ {
			if strings.Index(statement, fmt.Sprint("$", n)) > strings.Index(statement, fmt.Sprint("$", n+1)) {
				t.Errorf("%s: $%d appears before $%d; parameters go by first appearance", name, n+1, n)
			}
		}
	}
}

func TestConnectionsAreSetUpAsMeasured(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "a")
	views, err := db.events.files.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	file := views[0].file
	w, err := pool(file.path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := db.events.files.acquire(file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.events.files.release(file)
	for pragma, want := range map[string]string{"page_size": "8192", "journal_mode": "wal", "synchronous": "2",
		"wal_autocheckpoint": "4000", "busy_timeout": "5000", "journal_size_limit": fmt.Sprint(walKeptBytes)} {
		var got string
		if err := w.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s of a writer is %q, error %v; want %q", pragma, got, err, want)
		}
	}
	if _, err := r.Exec(`DELETE FROM events`); err == nil {
		t.Error("a reader could delete events")
	}
	var page int
	if err := db.write.QueryRow("PRAGMA page_size").Scan(&page); err != nil || page != mainPageBytes {
		t.Errorf("millrace.db has pages of %d bytes, error %v; want %d", page, err, mainPageBytes)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{"no directory": {}, "no file may be open": {Dir: t.TempDir(), MaxOpenDays: -1}} {
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a directory that is a file: error %v; want one that names it", err)
	}
}

func TestAnOddDirectoryNameWorks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%41&mode=ro")
	db := open(t, dir)
	appendRows(t, db, "a")
	for _, name := range []string{"millrace.db", "events/2026-11-23.db"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestFilesThatAreNotDaysAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "events", "2026-11-20.db.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes.txt", "2026-13-01.db", "2026-1-1.db", "old-2026-11-22.db", "2026-11-22.db.bak"} {
		if err := os.WriteFile(filepath.Join(dir, "events", name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db := open(t, dir)
	appendRows(t, db, "a")
	if n := len(db.events.files.byDay); n != 1 {
		t.Errorf("%d day files, want 1", n)
	}
}

func TestADamagedFileIsNamed(t *testing.T) {
	for _, name := range []string{"millrace.db", "events/2026-11-23.db"} {
		dir := t.TempDir()
		db := open(t, dir)
		appendRows(t, db, "a")
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Repeat("not a database. ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v; want one that names %s", err, path)
		}
	}
}

func TestAClosedStoreAnswersSo(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "a")
	for range 2 {
		if err := db.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	ctx, e := t.Context(), db.Events()
	_, appendErr := e.Append(ctx, event.Batch{LogID: event.LogID{1}, From: 1, UpTo: 2, Day: benchDay.AddDate(0, 0, 9)})
	_, eventsErr := e.Events(ctx, event.Query{TenantID: "demo", Limit: 1})
	_, eventErr := e.Event(ctx, "demo", "a")
	_, statsErr := e.Stats(ctx, event.StatsQuery{TenantID: "demo", Step: time.Minute})
	_, lastErr := e.LastReceived(ctx)
	hashesErr := e.RecentHashes(ctx, benchDay, func(event.Hash, time.Time) bool { return true })
	for name, err := range map[string]error{"Append": appendErr, "Events": eventsErr, "Event": eventErr, "Stats": statsErr,
		"LastReceived": lastErr, "RecentHashes": hashesErr} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: error %v, want ErrClosed", name, err)
		}
	}
	if err := db.Ping(ctx); err == nil {
		t.Error("a closed store answers a ping")
	}
}

func TestPing(t *testing.T) {
	db := open(t, t.TempDir())
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("an empty store: %v", err)
	}
	appendRows(t, db, "a")
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("a store with events: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Ping(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestFewDaysStayOpen(t *testing.T) {
	db := open(t, t.TempDir()) // opens at most 2
	days := 6
	appendDays(t, db, days)
	opened := func() (n int) {
		db.events.files.mu.Lock()
		defer db.events.files.mu.Unlock()
		for _, file := range db.events.files.byDay {
			if file.refs != 0 {
				t.Errorf("%s is in use by %d", file.path, file.refs)
			}
			if file.readers != nil {
				n++
			}
		}
		return n
	}
	for range 3 {
		p, err := db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 100})
		if err != nil || len(p.Events) != days {
			t.Fatalf("%d events, error %v; want %d", len(p.Events), err, days)
		}
		if n := opened(); n != 2 {
			t.Errorf("%d days have readers open, want 2", n)
		}
	}
}

// appendDays appends an event, with the day's number as its id, to each of n days.
func appendDays(t testing.TB, db *DB, n int) {
	t.Helper()
	for i := range n {
		d := benchDay.AddDate(0, 0, i)
		id := fmt.Sprint(i)
		b := event.Batch{LogID: event.LogID{7}, From: uint64(i), UpTo: uint64(i) + 1, Day: d,
			Rows: []event.Row{{Hash: event.HashOf("demo", "", id), TenantID: "demo", Type: "t", ID: id, ReceivedAt: d.UnixNano(), Payload: "{}"}}}
		if _, err := db.Events().Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRetentionLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	appendDays(t, db, 4)
	if _, err := db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 100}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Events().DropBefore(t.Context(), benchDay.AddDate(0, 0, 100)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "2026-11-25.db") {
			t.Errorf("%s is still there", e.Name())
		}
	}
}

func TestRetentionGivesUpOnAReaderThatStays(t *testing.T) {
	db := open(t, t.TempDir())
	appendDays(t, db, 3)
	views, err := db.events.files.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	first := views[0].file
	if _, err := db.events.files.acquire(first); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithCancel(t.Context())
	cancel()
	if days, err := db.Events().DropBefore(brief, benchDay.AddDate(0, 0, 1)); !errors.Is(err, context.Canceled) || len(days) != 0 {
		t.Errorf("removed %v, error %v; want nothing and context.Canceled", days, err)
	}
	if _, err := db.Events().Event(t.Context(), "demo", "0"); err != nil {
		t.Errorf("an event of the day that stayed: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := db.Events().DropBefore(context.Background(), benchDay.AddDate(0, 0, 1))
		done <- err
	}()
	db.events.files.release(first)
	if err := <-done; err != nil {
		t.Errorf("after the reader left: %v", err)
	}
	if _, err := db.Events().Event(t.Context(), "demo", "0"); !errors.Is(err, event.ErrNotFound) {
		t.Errorf("an event of the removed day: error %v, want event.ErrNotFound", err)
	}
}

func TestALongWALIsCut(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "first")
	e := db.events
	wal := func() int64 {
		info, err := os.Stat(e.writer.file.path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	e.walLimit = 1 << 30
	for i := range 20 {
		appendRows(t, db, fmt.Sprint(i))
	}
	if wal() < 200_000 {
		t.Fatalf("the WAL has %d bytes; the test needs a longer one", wal())
	}
	e.walLimit = 200_000
	appendRows(t, db, "last")
	if n := wal(); n >= e.walLimit {
		t.Errorf("the WAL has %d bytes after a commit beyond the limit of %d", n, e.walLimit)
	}
	if _, err := db.Events().Event(t.Context(), "demo", "last"); err != nil {
		t.Error(err)
	}
}

// A log that is replaced after the clock went back leaves times out of order.
func TestTimesThatGoBackAreFound(t *testing.T) {
	db := open(t, t.TempDir())
	var rows []event.Row
	for n, hour := range []int{12, 13, 3, 4, 3, 14} {
		at := benchDay.Add(time.Duration(hour) * time.Hour)
		b := event.Batch{LogID: event.LogID{byte(n)}, From: 0, UpTo: 1, Day: benchDay}
		for i := range 700 {
			id := fmt.Sprint(n, "-", i)
			r := event.Row{Hash: event.HashOf("demo", "", id), TenantID: "demo", Type: "t", ID: id,
				ReceivedAt: at.Add(time.Duration(i) * time.Second).UnixNano(), Payload: "{}"}
			b.Rows = append(b.Rows, r)
		}
		rows = append(rows, b.Rows...)
		if _, err := db.Events().Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	from, to := benchDay.Add(3*time.Hour+5*time.Minute), benchDay.Add(12*time.Hour+time.Minute)
	var want, got, hashes []string
	byHash := map[event.Hash]string{}
	for _, r := range rows {
		byHash[r.Hash] = r.ID
		if r.ReceivedAt >= from.UnixNano() && r.ReceivedAt < to.UnixNano() {
			want = append(want, r.ID)
		}
	}
	q := event.Query{TenantID: "demo", From: from, To: to, Limit: 100, Ascending: true}
	for {
		p, err := db.Events().Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Events) == 0 {
			break
		}
		for _, e := range p.Events {
			got = append(got, e.ID)
		}
		q.Cursor = p.Next
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events differ (-want +got):\n%s", diff)
	}
	since := benchDay.Add(13*time.Hour + 5*time.Minute)
	want = nil
	for _, r := range rows {
		if r.ReceivedAt >= since.UnixNano() {
			want = append(want, r.ID)
		}
	}
	err := db.Events().RecentHashes(t.Context(), since, func(h event.Hash, at time.Time) bool {
		hashes = append(hashes, byHash[h])
		return true
	})
	if diff := cmp.Diff(want, hashes); diff != "" || err != nil {
		t.Errorf("error %v, recent hashes differ (-want +got):\n%s", err, diff)
	}
}

// Two events whose look-up keys collide are told apart by what they are.
func TestALookUpKeyThatCollidesLeaksNothing(t *testing.T) {
	db := open(t, t.TempDir())
	b := event.Batch{LogID: event.LogID{1}, UpTo: 1, Day: benchDay}
	for _, r := range []event.Row{{TenantID: "demo", ID: "mine"}, {TenantID: "rival", ID: "mine"}, {TenantID: "demo", ID: "other"}} {
		r.Hash, r.Type, r.Payload, r.ReceivedAt = event.HashOf("demo", "", "mine"), "t", `"`+r.TenantID+`"`, benchDay.UnixNano()
		b.Rows = append(b.Rows, r)
	}
	if _, err := db.Events().Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	e, err := db.Events().Event(t.Context(), "demo", "mine")
	if err != nil || e.ID != "mine" || string(e.Payload) != `"demo"` {
		t.Errorf("event %q with payload %s, error %v", e.ID, e.Payload, err)
	}
	if _, err := db.Events().Event(t.Context(), "rival", "mine"); !errors.Is(err, event.ErrNotFound) {
		t.Errorf("under a key that is not indexed: error %v, want event.ErrNotFound", err)
	}
}

// A query sees all files as they stood when it began: else a tail that has left
// one day for the next would miss what was still added to the first.
func TestAQuerySeesNothingNewerThanItself(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "a")
	views, err := db.events.files.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	appendRows(t, db, "b")
	p := &pager{q: event.Query{TenantID: "demo", Limit: 10}, from: math.MinInt64, to: math.MaxInt64}
	lo, hi := p.bounds(views[0])
	if err := db.events.pageOf(t.Context(), views[0].file, lo, hi, p); err != nil || len(p.events) != 1 {
		t.Errorf("%d events, error %v; want the one from before", len(p.events), err)
	}
	if _, err := db.events.eventIn(t.Context(), views[0], "demo", "b"); !errors.Is(err, event.ErrNotFound) {
		t.Errorf("look-up: error %v, want event.ErrNotFound", err)
	}
}

func TestPeopleCanReadTheFile(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "a")
	views, err := db.events.files.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	r, err := db.events.files.acquire(views[0].file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.events.files.release(views[0].file)
	var id, received, kind string
	if err := r.QueryRow(`SELECT id, received_at, typeof(entries) FROM readable_events, event_ids`).Scan(&id, &received, &kind); err != nil {
		t.Fatal(err)
	}
	if id != "a" || received != "2026-11-23T00:00:00.000Z" || kind != "blob" {
		t.Errorf("id %q, received %q, index entries of type %s", id, received, kind)
	}
}

func TestMetricsCountRowsAndFailures(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	db, err := Open(t.Context(), Options{Dir: t.TempDir(), Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	appendRows(t, db, "a", "b")
	bad := event.Batch{LogID: event.LogID{1}, From: 77, UpTo: 78, Day: benchDay}
	if _, err := db.Events().Append(t.Context(), bad); err == nil {
		t.Fatal("a batch that begins elsewhere was taken")
	}
	if n := testutil.ToFloat64(m.rows); n != 2 {
		t.Errorf("%v rows counted, want 2", n)
	}
	if n := testutil.ToFloat64(m.appendFailures.WithLabelValues("position")); n != 1 {
		t.Errorf("%v failures counted, want 1", n)
	}
	if n := testutil.ToFloat64(m.dayFiles); n != 1 {
		t.Errorf("%v day files counted, want 1", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, error %v", problems, err)
	}
}

func TestSpansAreTheBlocksWithinBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		blocks := rng.Uint64() & rng.Uint64()
		switch rng.IntN(10) {
		case 0:
			blocks = ^uint64(0)
		case 1:
			blocks = 1 << 63
		case 2:
			blocks = 1
		}
		chunk := rng.Int64N(3)
		r := spanReader{order: []string{"ASC", "DESC"}[rng.IntN(2)], lo: 1 + rng.Int64N(200_000)}
		r.hi = r.lo + rng.Int64N(100_000)
		var want []int64 // every block's sequences that are in bounds, as block numbers
		for seq := chunk << chunkBits; seq < (chunk+1)<<chunkBits; seq += 64 {
			if blocks>>(uint64(seq)>>blockBits&63)&1 == 1 && seq >= r.lo && seq <= r.hi {
				want = append(want, seq)
			}
		}
		var got []int64
		spans := r.spansOf(nil, chunk, blocks)
		if r.order == "DESC" {
			slices.Reverse(spans)
		}
		last := int64(-1)
		for _, s := range spans {
			if s.lo > s.hi || s.lo < r.lo || s.hi > r.hi || s.lo <= last {
				t.Fatalf("span %v of bounds %d to %d after %d", s, r.lo, r.hi, last)
			}
			last = s.hi
			for seq := (s.lo + 63) / 64 * 64; seq <= s.hi; seq += 64 {
				got = append(got, seq)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("chunk %d, blocks %064b, %+v: spans differ (-want +got):\n%s", chunk, blocks, r, diff)
		}
	}
}

func TestDays(t *testing.T) {
	for s, want := range map[string]string{
		"2026-11-22T00:00:00Z": "2026-11-22.db", "2026-11-22T23:59:59.999999999Z": "2026-11-22.db",
		"2026-11-22T23:30:00-01:00": "2026-11-23.db", "1969-12-31T23:59:59Z": "1969-12-31.db", "1970-01-01T00:00:00Z": "1970-01-01.db",
	} {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		d := dayOf(at)
		if got := d.fileName(); got != want {
			t.Errorf("%s is on %s, want %s", s, got, want)
		}
		if back, ok := parseFileName(want); !ok || back != d {
			t.Errorf("%s is day %d, %v; want %d", want, back, ok, d)
		}
		if ns := at.UnixNano(); ns < d.startNs() || ns >= d.endNs() {
			t.Errorf("%s is outside of its day", s)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(cursor{day: 20_000, seq: 1}.String(), int32(20_000), int64(1))
	f.Add("", int32(-5), int64(1)<<62)
	f.Fuzz(func(t *testing.T, text string, d int32, seq int64) {
		if c, err := parseCursor(text); err == nil && c.String() != text {
			t.Errorf("%q is taken for %+v, which is written %q", text, c, c.String())
		} else if err != nil && !errors.Is(err, event.ErrBadCursor) {
			t.Errorf("%q: error %v, want event.ErrBadCursor", text, err)
		}
		want := cursor{day: day(d), seq: seq}
		if got, err := parseCursor(want.String()); seq >= 1 && (err != nil || got != want) || seq < 1 && err == nil {
			t.Errorf("%+v comes back as %+v, error %v", want, got, err)
		}
	})
}
