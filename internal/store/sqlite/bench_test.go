//go:build unix

package sqlite

import (
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	modernc "modernc.org/sqlite"

	"millrace/internal/event"
)

var benchDay = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// source makes events of about 480 bytes with random ids, 50,000 a second.
type source struct {
	rng     *rand.Rand
	payload string
	tenants int
	types   int
	n       int
}

func newSource(tenants, types int) *source {
	p := `{"device":"sensor-0001","readings":[` + strings.Repeat(`{"k":"temp","v":21.5},`, 15) + `{"k":"x","v":1}],"fw":"1.2.3"}`
	return &source{rng: rand.New(rand.NewPCG(1, 2)), payload: p, tenants: tenants, types: types}
}

func (s *source) fill(rows []event.Row) {
	for i := range rows {
		var u [16]byte
		binary.LittleEndian.PutUint64(u[:], s.rng.Uint64())
		binary.LittleEndian.PutUint64(u[8:], s.rng.Uint64())
		h := hex.EncodeToString(u[:])
		r := &rows[i]
		r.TenantID, r.Type = "demo", "telemetry.0"
		if s.tenants > 1 {
			r.TenantID = fmt.Sprint("tenant-", s.rng.IntN(s.tenants))
		}
		if s.types > 1 {
			r.Type = fmt.Sprint("telemetry.", s.rng.IntN(s.types))
		}
		r.ID = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
		r.Hash = event.HashOf(r.TenantID, "", r.ID)
		r.ReceivedAt = benchDay.UnixNano() + int64(s.n)*20_000
		r.Timestamp = r.ReceivedAt - 1000
		r.Payload = s.payload
		s.n++
	}
}

// BenchmarkAppend measures whole commits against what one would write first: one
// transaction per event, and multi-row inserts into a table with an index of ids.
// b.N counts events.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name           string
		perCommit      int
		tenants, types int
		exact          bool
	}{
		{"commits of 10000", 10_000, 1, 10, false},
		{"commits of 2000", 2_000, 1, 10, false},
		{"commits of 10", 10, 1, 10, false},
		{"commits of 10000, 1000 tenants with 10 types", 10_000, 1000, 10, false},
		{"commits of 10000, exact", 10_000, 1, 10, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			db := open(b, b.TempDir())
			from := newSource(c.tenants, c.types)
			rows := make([]event.Row, c.perCommit)
			var next uint64
			var longest, used time.Duration
			b.ResetTimer()
			for done := 0; done < b.N; done += len(rows) {
				b.StopTimer()
				from.fill(rows)
				b.StartTimer()
				begin, before := time.Now(), cpu()
				batch := event.Batch{LogID: event.LogID{1}, From: next, UpTo: next + 1, Day: benchDay, Rows: rows, Exact: c.exact, ExactDays: 1}
				if _, err := db.Events().Append(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				longest = max(longest, time.Since(begin))
				used += cpu() - before
				next++
			}
			b.StopTimer()
			rate(b, used)
			b.ReportMetric(float64(longest.Milliseconds()), "max-ms")
		})
	}
	b.Run("baseline, one transaction per event", func(b *testing.B) { benchBaseline(b, "", 1, 1) })
	b.Run("baseline, index of ids, commits of 10000", func(b *testing.B) {
		benchBaseline(b, "CREATE UNIQUE INDEX by_id ON events (tenant_id, id)", 10_000, rowsPerInsert)
	})
}

// cpu returns the CPU time the process has used, which says more than the clock
// on a machine that does other work as well.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func rate(b *testing.B, used time.Duration) {
	b.ReportMetric(float64(b.N)/used.Seconds(), "rows/cpu-s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(0, "ns/op")
}

// benchBaseline appends to a plain table of the same columns.
func benchBaseline(b *testing.B, index string, perCommit, perInsert int) {
	connector, err := modernc.NewConnector(dsn(b.TempDir()+"/base.db", writing))
	if err != nil {
		b.Fatal(err)
	}
	conn, err := connector.Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	exec := func(query string) {
		if _, err := conn.(driver.ExecerContext).ExecContext(b.Context(), query, nil); err != nil {
			b.Fatal(err)
		}
	}
	exec(`CREATE TABLE events (seq INTEGER PRIMARY KEY, received_ns INTEGER, tenant_id TEXT, type TEXT, id TEXT, source TEXT, timestamp_ns INTEGER, attributes TEXT, payload TEXT)`)
	if index != "" {
		exec(index)
	}
	row := "(?,?,?,?,?,?,?,?,?)"
	stmt, err := conn.Prepare("INSERT INTO events VALUES " + row + strings.Repeat(","+row, perInsert-1))
	if err != nil {
		b.Fatal(err)
	}
	defer stmt.Close()
	s := statement{stmt: stmt, args: make([]driver.NamedValue, perInsert*eventColumns)}
	for i := range s.args {
		s.args[i].Ordinal = i + 1
	}
	from, rows, seq := newSource(1, 10), make([]event.Row, perCommit), int64(0)
	var used time.Duration
	b.ResetTimer()
	for done := 0; done < b.N; done += perCommit {
		b.StopTimer()
		from.fill(rows)
		b.StartTimer()
		before := cpu()
		exec("BEGIN IMMEDIATE")
		for i := range rows {
			r, a := &rows[i], s.args[i%perInsert*eventColumns:]
			seq++
			for k, v := range []driver.Value{seq, r.ReceivedAt, r.TenantID, r.Type, r.ID, nil, r.Timestamp, nil, r.Payload} {
				a[k].Value = v
			}
			if i%perInsert == perInsert-1 {
				if err := s.run(); err != nil {
					b.Fatal(err)
				}
			}
		}
		exec("COMMIT")
		used += cpu() - before
	}
	b.StopTimer()
	rate(b, used)
}

// filled returns a store with events, and every 1000th of their ids.
func filled(b *testing.B, events int) (*DB, []string) {
	db := open(b, b.TempDir())
	from := newSource(1, 10)
	rows := make([]event.Row, 10_000)
	var ids []string
	for n := 0; n < events; n += len(rows) {
		from.fill(rows)
		for i := 0; i < len(rows); i += 1000 {
			ids = append(ids, rows[i].ID)
		}
		batch := event.Batch{LogID: event.LogID{1}, From: uint64(n), UpTo: uint64(n + len(rows)), Day: benchDay, Rows: rows}
		if _, err := db.Events().Append(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	return db, ids
}

// BenchmarkReads measures the queries over one file of MILLRACE_BENCH_EVENTS
// events, a million by default.
func BenchmarkReads(b *testing.B) {
	events := 1_000_000
	if s := os.Getenv("MILLRACE_BENCH_EVENTS"); s != "" {
		if _, err := fmt.Sscan(s, &events); err != nil {
			b.Fatalf("MILLRACE_BENCH_EVENTS: %v", err)
		}
	}
	db, ids := filled(b, events)
	rng := rand.New(rand.NewPCG(3, 4))
	b.Run("EventByID", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Events().Event(b.Context(), "demo", ids[rng.IntN(len(ids))]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("EventByID, unknown", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Events().Event(b.Context(), "demo", "none"); err == nil {
				b.Fatal("found")
			}
		}
	})
	b.Run("page of 100, newest", func(b *testing.B) {
		for b.Loop() {
			if p, err := db.Events().Events(b.Context(), event.Query{TenantID: "demo", Limit: 100}); err != nil || len(p.Events) != 100 {
				b.Fatal(len(p.Events), err)
			}
		}
	})
	b.Run("page of 100, from the middle of the day", func(b *testing.B) {
		middle := benchDay.Add(time.Duration(events) / 2 * 20_000)
		for b.Loop() {
			q := event.Query{TenantID: "demo", Type: "telemetry.3", Limit: 100, To: middle}
			if p, err := db.Events().Events(b.Context(), q); err != nil || len(p.Events) != 100 {
				b.Fatal(len(p.Events), err)
			}
		}
	})
	b.Run("a type that is not there", func(b *testing.B) {
		for b.Loop() {
			if p, err := db.Events().Events(b.Context(), event.Query{TenantID: "demo", Type: "x", Limit: 100}); err != nil || len(p.Events) != 0 {
				b.Fatal(len(p.Events), err)
			}
		}
	})
	b.Run("stats of the day by hour", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Events().Stats(b.Context(), event.StatsQuery{TenantID: "demo", Step: time.Hour}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRecentHashes reads all hashes of one file; an operation is one hash.
func BenchmarkRecentHashes(b *testing.B) {
	const events = 1_000_000
	db, _ := filled(b, events)
	b.ResetTimer()
	n := 0
	for n < b.N {
		err := db.Events().RecentHashes(b.Context(), benchDay, func(event.Hash, time.Time) bool { n++; return n < b.N })
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mhashes/s")
}

// BenchmarkNewDay measures the first append to a day, which creates its file.
func BenchmarkNewDay(b *testing.B) {
	db := open(b, b.TempDir())
	var next uint64
	for b.Loop() {
		d := benchDay.AddDate(0, 0, int(next)%3650)
		r := event.Row{TenantID: "demo", Type: "t", ID: "x", ReceivedAt: d.UnixNano(), Payload: "1"}
		batch := event.Batch{LogID: event.LogID{1}, From: next, UpTo: next + 1, Day: d, Rows: []event.Row{r}}
		if _, err := db.Events().Append(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		next++
	}
}

// BenchmarkAppendOwn measures commits of which a part is Millrace's own events,
// with a week of such events before them; an operation is one commit.
func BenchmarkAppendOwn(b *testing.B) {
	const perCommit, perDay = 2000, 200_000
	for _, c := range []struct {
		name string
		own  int // of the events of a commit
		days int // before this one
	}{
		{"none", 0, 7},
		{"60 of 2000, the first day", 60, 0},
		{"60 of 2000, the eighth day", 60, 7},
	} {
		b.Run(c.name, func(b *testing.B) {
			db := open(b, b.TempDir())
			from, next, n := newSource(1, 10), uint64(0), 0
			commit := func(d time.Time, rows []event.Row) {
				batch := event.Batch{LogID: event.LogID{1}, From: next, UpTo: next + 1, Day: d, Rows: rows}
				if inserted, err := db.Events().Append(b.Context(), batch); err != nil || inserted != len(rows) {
					b.Fatal(inserted, err)
				}
				next++
			}
			mine := func(r *event.Row) {
				n++
				at := r.ReceivedAt
				*r = ownRow(fmt.Sprint("0198c5d4-5b1e-7c3a-9f00-", n), time.Unix(0, at), 1999)
			}
			for d := range c.days {
				day := benchDay.AddDate(0, 0, d-c.days)
				for range perDay / 10_000 {
					rows := make([]event.Row, 10_000)
					for i := range rows {
						rows[i].ReceivedAt = day.UnixNano() + int64(i)
						mine(&rows[i])
					}
					commit(day, rows)
				}
			}
			rows := make([]event.Row, perCommit)
			for b.Loop() {
				b.StopTimer()
				clear(rows)
				from.fill(rows)
				for i := range c.own {
					mine(&rows[i*len(rows)/c.own])
				}
				b.StartTimer()
				commit(benchDay, rows)
			}
		})
	}
}
