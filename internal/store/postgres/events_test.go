package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

// eventDay is the day of receipt in these tests.
var eventDay = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// eventRows returns rows of one tenant with ids that count up, a millisecond apart.
func eventRows(tenant, prefix string, n int, at time.Time) []event.Row {
	rows := make([]event.Row, n)
	for i := range rows {
		id := fmt.Sprintf("%s%06d", prefix, i)
		received := at.Add(time.Duration(i) * time.Millisecond).UnixNano()
		rows[i] = event.Row{Hash: event.HashOf(tenant, "", id), TenantID: tenant, ID: id, Type: "t",
			Timestamp: received, ReceivedAt: received, Payload: `{"n":` + fmt.Sprint(i) + `}`}
	}
	return rows
}

// oneBatch is a batch of the log from the sequence on.
func oneBatch(log byte, from uint64, rows ...event.Row) event.Batch {
	day := eventDay
	if len(rows) > 0 {
		day = time.Unix(0, rows[0].ReceivedAt).UTC().Truncate(24 * time.Hour)
	}
	return event.Batch{LogID: event.LogID{log}, From: from, UpTo: from + 1, Day: day, Rows: rows}
}

func mustAppend(t testing.TB, db *DB, b event.Batch) {
	t.Helper()
	if n, err := db.Events().Append(t.Context(), b); err != nil || n != len(b.Rows) {
		t.Fatalf("Append of %d rows: inserted %d, error %v", len(b.Rows), n, err)
	}
}

// idsOf reads all pages of a query.
func idsOf(t testing.TB, db *DB, q event.Query) []string {
	t.Helper()
	var ids []string
	for {
		p, err := db.Events().Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Events {
			ids = append(ids, e.ID)
		}
		if p.Next == "" || len(p.Events) == 0 {
			return ids
		}
		q.Cursor = p.Next
	}
}

// waitsForALock waits until so many sessions of the database wait for a lock.
func waitsForALock(t testing.TB, db *DB, sessions int) {
	t.Helper()
	soon(t, "a session waits for a lock", func() bool {
		var n int
		err := db.vital.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n >= sessions
	})
}

// soon asks until the answer is yes.
func soon(t testing.TB, what string, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// session is a connection of the owner's that does what no store would.
func session(t testing.TB, db *DB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.o.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t testing.TB, conn *pgx.Conn, statement string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// A dry run waits for its caller before it is rolled back.
func TestADryRunHoldsUpNoCommit(t *testing.T) {
	db := openTest(t)
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "a", 3, eventDay)...))
	holder := session(t, db)
	execute(t, holder, `BEGIN`)
	execute(t, holder, `SELECT event_batch_number()`)
	dry := oneBatch(2, 1, eventRows("demo", "b", 3, eventDay)...)
	dry.DryRun = true
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // an append would wait for the holder
	defer cancel()
	for range 2 {
		if n, err := db.Events().Append(ctx, dry); n != 3 || err != nil {
			t.Errorf("inserted %d, error %v; want 3", n, err)
		}
	}
	execute(t, holder, `COMMIT`)
}

func TestATailMissesNothingOfAnAppendThatBeganEarlierAndCommitsLater(t *testing.T) {
	db := openTest(t)
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "first", 1, eventDay)...))
	// A session holds the id that the slow append wants to claim.
	slow := oneBatch(1, 2, eventRows("demo", "slow", 3, eventDay.Add(time.Second))...)
	slow.Exact, slow.ExactDays = true, 1
	holder := session(t, db)
	execute(t, holder, `BEGIN`)
	execute(t, holder, `INSERT INTO event_claims VALUES ('demo', $1, 0, 0)`, [16]byte(slow.Rows[0].Hash))
	done := make(chan error, 1)
	go func() {
		_, err := db.Events().Append(t.Context(), slow)
		done <- err
	}()
	waitsForALock(t, db, 1)

	quick := oneBatch(2, 1, eventRows("demo", "quick", 3, eventDay.Add(time.Minute))...)
	mustAppend(t, db, quick)
	p, err := db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 10, Ascending: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first000000", "quick000000", "quick000001", "quick000002"}, pageIDs(p)); diff != "" {
		t.Errorf("before the slow append committed (-want +got):\n%s", diff)
	}
	execute(t, holder, `ROLLBACK`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p, err = db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 10, Ascending: true, Cursor: p.Next})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"slow000000", "slow000001", "slow000002"}, pageIDs(p)); diff != "" {
		t.Errorf("after it (-want +got):\n%s", diff)
	}
	// Newest first they stand by their receipt.
	got := idsOf(t, db, event.Query{TenantID: "demo", Limit: 2})
	want := []string{"quick000002", "quick000001", "quick000000", "slow000002", "slow000001", "slow000000", "first000000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("newest first (-want +got):\n%s", diff)
	}
}

func pageIDs(p event.Page) []string {
	var ids []string
	for _, e := range p.Events {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestACommitThatHasItsNumberHoldsUpTheNext(t *testing.T) {
	db := openTest(t)
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "a", 1, eventDay)...))
	// What has taken a number and has not ended must not be overtaken.
	holder := session(t, db)
	execute(t, holder, `BEGIN`)
	execute(t, holder, `SELECT event_batch_number()`)
	done := make(chan error, 1)
	go func() {
		_, err := db.Events().Append(t.Context(), oneBatch(2, 1, eventRows("demo", "b", 1, eventDay)...))
		done <- err
	}()
	waitsForALock(t, db, 1)
	if got := idsOf(t, db, event.Query{TenantID: "demo", Limit: 10, Ascending: true}); len(got) != 1 {
		t.Errorf("events %v while the commit waits, want the first alone", got)
	}
	execute(t, holder, `COMMIT`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestATailThatBeginsNowLooksAtNoOldBatch(t *testing.T) {
	db := openTest(t)
	for i := range uint64(30) {
		mustAppend(t, db, oneBatch(1, 1+i, eventRows("demo", fmt.Sprint("a", i, "/"), 5, eventDay.Add(time.Duration(i)*time.Minute))...))
	}
	q := event.Query{TenantID: "rival", Limit: 10, Ascending: true, From: eventDay.Add(25 * time.Minute)}
	p, err := db.Events().Events(t.Context(), q)
	if err != nil || len(p.Events) != 0 || p.Next == "" {
		t.Fatalf("a tail of a tenant without events: %d events, next %q, error %v; want a cursor behind what was looked at", len(p.Events), p.Next, err)
	}
	mustAppend(t, db, oneBatch(1, 31, eventRows("rival", "r", 2, eventDay.Add(time.Hour))...))
	q.Cursor = p.Next
	if got := idsOf(t, db, q); len(got) != 2 {
		t.Errorf("the tail got %v, want both events that came", got)
	}
	if got := idsOf(t, db, event.Query{TenantID: "demo", Limit: 10, Ascending: true, From: eventDay.Add(28 * time.Minute)}); len(got) != 10 {
		t.Errorf("%d events from minute 28 on, want 10", len(got))
	}
}

func TestACursorOfEitherDirectionServesTheOther(t *testing.T) {
	db := openTest(t)
	for i := range uint64(4) {
		mustAppend(t, db, oneBatch(1, 1+i, eventRows("demo", fmt.Sprint("b", i, "/"), 5, eventDay.Add(time.Duration(i)*time.Minute))...))
	}
	p, err := db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 7})
	if err != nil {
		t.Fatal(err)
	}
	got := idsOf(t, db, event.Query{TenantID: "demo", Limit: 3, Ascending: true, Cursor: p.Next})
	want := []string{"b2/000004", "b3/000000", "b3/000001", "b3/000002", "b3/000003", "b3/000004"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("oldest first behind b2/000003 (-want +got):\n%s", diff)
	}
}

func TestOneOfSeveralInstancesWinsAClaim(t *testing.T) {
	dsn := freshDatabase(t)
	one, two := openAt(t, Options{DSN: dsn, Instance: "one"}), openAt(t, Options{DSN: dsn, Instance: "two"})
	const rounds, ids = 8, 40
	midnight := eventDay.Add(24 * time.Hour)
	for round := range uint64(rounds) {
		var wg sync.WaitGroup
		inserted := make([]int, 2)
		for i, db := range []*DB{one, two} {
			wg.Go(func() {
				at := eventDay.Add(time.Hour)
				if round%2 == 1 && i == 1 { // the same events, received on the two sides of midnight
					at = midnight
				}
				rows := eventRows("demo", fmt.Sprint("r", round, "/"), ids, at)
				if i == 1 { // in another order
					for k := range rows {
						rows[k].ID, rows[k].Hash = rows[k].ID[:len(rows[k].ID)-6]+fmt.Sprintf("%06d", ids-1-k), event.Hash{}
						rows[k].Hash = event.HashOf("demo", "", rows[k].ID)
					}
				}
				b := oneBatch(byte(1+i), 1+round, rows...)
				b.Exact, b.ExactDays = true, 2
				n, err := db.Events().Append(t.Context(), b)
				if err != nil {
					t.Error(err)
				}
				inserted[i] = n
			})
		}
		wg.Wait()
		if inserted[0]+inserted[1] != ids {
			t.Errorf("round %d: %d and %d of %d events were inserted; want each once", round, inserted[0], inserted[1], ids)
		}
	}
	if got := idsOf(t, one, event.Query{TenantID: "demo", Limit: 1000}); len(got) != rounds*ids {
		t.Errorf("%d events, want %d", len(got), rounds*ids)
	}
}

func TestASecondAppenderOfALogWaitsAndIsToldWhereItStands(t *testing.T) {
	dsn := freshDatabase(t)
	var dbs []*DB
	for i := range 4 {
		dbs = append(dbs, openAt(t, Options{DSN: dsn, Instance: fmt.Sprint("instance", i), MaxConns: 6}))
	}
	const batches = 10
	for n := range uint64(batches) {
		outcomes := make(chan error, len(dbs))
		for _, db := range dbs {
			go func() {
				_, err := db.Events().Append(t.Context(), oneBatch(1, 1+n, eventRows("demo", fmt.Sprint(n, "/"), 3, eventDay.Add(time.Duration(n)*time.Minute))...))
				outcomes <- err
			}()
		}
		won := 0
		for range dbs {
			err := <-outcomes
			var position *event.PositionError
			switch {
			case err == nil:
				won++
			case !errors.As(err, &position) || position.Have != 2+n:
				t.Errorf("a second appender: %v; want a PositionError with Have %d", err, 2+n)
			}
		}
		if won != 1 {
			t.Fatalf("%d appenders of one batch had success, want 1", won)
		}
	}
	if got := idsOf(t, dbs[0], event.Query{TenantID: "demo", Limit: 100}); len(got) != 3*batches {
		t.Errorf("%d events, want %d", len(got), 3*batches)
	}
}

// After an append its rows' memory is another's, however it ended. The race
// detector tells.
func TestAnAppendThatIsCutLeavesItsRowsAlone(t *testing.T) {
	db := openTest(t)
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "a", 1, eventDay)...))
	rows := eventRows("demo", "b", 20_000, eventDay)
	for i := range rows {
		rows[i].Payload = `"` + strings.Repeat("x", 500) + `"`
	}
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			// In the midst of it, wherever that is.
			timer := time.NewTimer(time.Duration(i) * 4 * time.Millisecond)
			defer timer.Stop()
			<-timer.C
			cancel()
		}()
		b := oneBatch(1, 2, rows...)
		b.DryRun = true
		_, err := db.Events().Append(ctx, b)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("append %d: %v", i, err)
		}
		for k := range rows {
			rows[k].Timestamp++
		}
		cancel()
	}
	if next, _, err := db.Events().Position(t.Context(), event.LogID{1}); next != 2 || err != nil {
		t.Errorf("position %d, error %v; want 2", next, err)
	}
}

func TestQueriesOfEventsTouchTheirDaysAlone(t *testing.T) {
	db := openTest(t)
	for i := range uint64(5) {
		mustAppend(t, db, oneBatch(1, 1+i, eventRows("demo", fmt.Sprint("d", i, "/"), 2000, eventDay.AddDate(0, 0, int(i)).Add(time.Hour))...))
	}
	conn0 := session(t, db)
	for i := range day(5) { // as many batches as some hours bring
		execute(t, conn0, `INSERT INTO `+(dayOf(eventDay)+i).of("event_batches")+` (n, log_id, first_seq, last_seq, first_ns, last_ns, hashes, ticks)
SELECT 100000 * $1::bigint + g, gen_random_uuid(), g, g, $2::bigint + g, $2::bigint + g, '', '' FROM generate_series(1, 20000) g`, int64(i+1), (dayOf(eventDay) + i).startNs())
	}
	execute(t, conn0, `ANALYZE`)
	ctx := storesql.ForTenant(t.Context(), "demo")
	conn, err := db.fresh.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	explain := func(query string, args ...any) string {
		t.Helper()
		rows, err := conn.Query(ctx, `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) `+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "\n")
	}
	d := dayOf(eventDay)
	plan := explain(newestQuery, "demo", (d + 1).startNs(), (d + 3).startNs(), (d + 3).startNs(), int64(1)<<62, 101, int64(8<<20))
	for i := range day(5) {
		if reads := strings.Contains(plan, (d + i).of("events")); reads != (i == 1 || i == 2) {
			t.Errorf("a query of the days 1 and 2 reads day %d: %v", i, reads)
		}
	}
	plan = explain(newestQuery, "demo", int64(-1<<63), int64(1<<63-1), int64(1<<63-1), int64(1<<63-1), 101, int64(8<<20))
	if n := strings.Count(plan, "(never executed)"); n < 4 {
		t.Errorf("the newest page executes more than the newest day: %d parts are never executed, want 4:\n%s", n, plan)
	}
	if strings.Contains(plan, "Seq Scan") {
		t.Errorf("the newest page scans a partition:\n%s", plan)
	}
	for _, n := range []int64{0, 300_000, 1 << 40} {
		plan = explain(listBatches, n, int64(-1<<63), int64(1<<63-1), int64(-1<<63), 16)
		if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Removed by Filter") {
			t.Errorf("a tail at %d looks at more batches than it needs:\n%s", n, plan)
		}
	}
}

func TestAnIDIsFoundByItsFilterAndNotByReadingTheDay(t *testing.T) {
	db := openTest(t)
	rows := eventRows("demo", "a", 40_000, eventDay)
	for i := range rows {
		rows[i].Payload = `"` + strings.Repeat("x", 200) + `"`
	}
	mustAppend(t, db, oneBatch(1, 1, rows...))
	conn := session(t, db)
	execute(t, conn, `SET enable_seqscan = off`)
	lines, err := conn.Query(t.Context(), `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT seq FROM `+dayOf(eventDay).of("events")+` WHERE id_key = $1`,
		int64(rows[17].Hash.LookupKey()))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(lines, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for _, line := range plan {
		if _, n, ok := strings.Cut(line, "Rows Removed by Index Recheck: "); ok {
			fmt.Sscan(n, &removed)
		}
	}
	// One range of 32 pages has about 1,000 of these rows; what is not full yet, less.
	if removed > 6000 || !strings.Contains(strings.Join(plan, "\n"), "Bitmap Index Scan") {
		t.Errorf("a look-up reads %d of 40,000 other rows:\n%s", removed, strings.Join(plan, "\n"))
	}
}

func TestAnIDThatTellsItsTimeIsLookedForOnItsDayFirst(t *testing.T) {
	d := dayOf(eventDay)
	days := []day{d - 9, d - 8, d - 7, d - 6, d - 5, d - 4, d - 3, d - 2, d - 1, d}
	for _, c := range []struct {
		name, id string
		want     [][]day
	}{
		{"any id, newest first in growing groups", "a", [][]day{{d, d - 1, d - 2, d - 3}, {d - 4, d - 5, d - 6, d - 7, d - 8, d - 9}}},
		{"a UUIDv7 of a day that is not there", "019aa2f8-7c00-7000-8000-000000000000", // 2025-11-20
			[][]day{{d, d - 1, d - 2, d - 3}, {d - 4, d - 5, d - 6, d - 7, d - 8, d - 9}}},
		{"a UUIDv7 of a day that is there", uuidV7At(eventDay.AddDate(0, 0, -6).Add(time.Hour)),
			[][]day{{d - 5, d - 6}, {d, d - 1, d - 2, d - 3}, {d - 4, d - 7, d - 8, d - 9}}},
		{"a random UUID, newest first", "9b2d3f52-7c00-4000-8000-000000000000",
			[][]day{{d, d - 1, d - 2, d - 3}, {d - 4, d - 5, d - 6, d - 7, d - 8, d - 9}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, searchOrder(days, c.id)); diff != "" {
				t.Errorf("groups differ (-want +got):\n%s", diff)
			}
		})
	}
}

// uuidV7At returns a UUIDv7 made at a time.
func uuidV7At(at time.Time) string {
	ms := at.UnixMilli()
	return fmt.Sprintf("%08x-%04x-7000-8000-000000000000", ms>>16, ms&0xffff)
}

func TestARowReaderThatWasStoppedReadsNoRow(t *testing.T) {
	r := &rowReader{rows: eventRows("demo", "a", 10_000, eventDay), seq: 1}
	p := make([]byte, 1000)
	if n, err := r.Read(p); n != len(p) || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	r.stop()
	if n, err := r.Read(p); n != 0 || err != io.EOF {
		t.Errorf("Read after stop: %d bytes, error %v; want none and EOF", n, err)
	}
}
