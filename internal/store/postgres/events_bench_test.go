package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// benchStore opens a store on a server that is as durable and as large as one in
// production would be, for its machine.
func benchStore(b *testing.B) *DB {
	p := servertest.Postgres(b, servers.PostgresOptions{Tuned: true})
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := prepareServer(ctx, p); err != nil {
		b.Fatal(err)
	}
	return openAt(b, Options{DSN: ownerDSN(p, template)})
}

// benchRows returns rows as a sink has them: frames of 200 events that share their
// time of receipt, from tenants with some types each.
func benchRows(n, tenants int, at time.Time, payloadBytes int) []event.Row {
	types := []string{"order.placed", "door.opened", "page.viewed", "cart.changed", "sensor.temperature.reading", "x.y", "login", "click"}
	payload := `"` + strings.Repeat("abcd efgh ", payloadBytes/10) + `"`
	rows := make([]event.Row, n)
	for i := range rows {
		tenant := fmt.Sprint("tenant-", i/20%tenants)
		id := fmt.Sprintf("%016x-%016x", rand.Uint64(), rand.Uint64())
		received := at.Add(time.Duration(i/200) * 2 * time.Millisecond).UnixNano()
		rows[i] = event.Row{Hash: event.HashOf(tenant, "", id), TenantID: tenant, ID: id, Type: types[rand.N(len(types))],
			Timestamp: received - 1e6, ReceivedAt: received, Payload: payload}
	}
	return rows
}

// BenchmarkAppend measures rows of 200 B payload, 20,000 a batch, into a day that
// grows.
func BenchmarkAppend(b *testing.B) {
	for _, exact := range []bool{false, true} {
		b.Run(fmt.Sprint("exact=", exact), func(b *testing.B) {
			db := benchStore(b)
			const perBatch = 20_000
			rows := benchRows(perBatch, 50, eventDay, 200)
			if err := db.events.ensureDay(b.Context(), dayOf(eventDay)); err != nil {
				b.Fatal(err)
			}
			n := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				n++
				batch := oneBatch(1, n, rows...)
				batch.Exact, batch.ExactDays = exact, 2
				if _, err := db.Events().Append(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				for i := range rows {
					rows[i].ReceivedAt += int64(200 * time.Millisecond)
					rows[i].Hash[i%16] += byte(1 + i%7) // another event
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(n)*perBatch/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkAppendEncoding is the client's side alone.
func BenchmarkAppendEncoding(b *testing.B) {
	rows := benchRows(20_000, 50, eventDay, 200)
	s, p := newAppendScratch(), make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := checkBatch(&event.Batch{Rows: rows, Day: eventDay}); err != nil {
			b.Fatal(err)
		}
		r := &rowReader{buffer: s.copied[:0], rows: rows, seq: 1}
		for {
			if _, err := r.Read(p); err != nil {
				break
			}
		}
		s.copied = r.stop()
		s.tally(rows)
		s.pack(rows)
		s.reset()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(rows)), "ns/row")
}

// BenchmarkReadEvents reads from a day of a million events and 29 days of few.
func BenchmarkReadEvents(b *testing.B) {
	db := benchStore(b)
	const perBatch, batches = 20_000, 50
	n := uint64(0)
	add := func(rows []event.Row) {
		n++
		batch := oneBatch(1, n, rows...)
		batch.Day = time.Unix(0, rows[0].ReceivedAt).UTC().Truncate(24 * time.Hour)
		if _, err := db.Events().Append(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	for d := 29; d > 0; d-- {
		add(benchRows(2000, 50, eventDay.AddDate(0, 0, -d), 200))
	}
	var ids []string
	for i := range batches {
		rows := benchRows(perBatch, 50, eventDay.Add(time.Duration(i)*10*time.Second), 200)
		if i == 3 {
			rows[777].Type = "rare"
		}
		ids = append(ids, rows[perBatch/2].ID)
		add(rows)
	}
	if err := db.MaintainEvents(b.Context(), eventDay); err != nil {
		b.Fatal(err)
	}
	page := func(q event.Query) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				if _, err := db.Events().Events(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	tail, err := db.Events().Events(b.Context(), event.Query{TenantID: "tenant-1", Limit: 1, Ascending: true, From: eventDay.Add(8 * time.Minute)})
	if err != nil {
		b.Fatal(err)
	}
	end := tail.Next
	for range 100 {
		p, err := db.Events().Events(b.Context(), event.Query{TenantID: "tenant-1", Limit: 1000, Ascending: true, Cursor: end})
		if err != nil {
			b.Fatal(err)
		}
		if end = p.Next; len(p.Events) == 0 {
			break
		}
	}
	b.Run("newest page of 100", page(event.Query{TenantID: "tenant-1", Limit: 100}))
	b.Run("page of 100 of a type", page(event.Query{TenantID: "tenant-1", Type: "click", Limit: 100}))
	b.Run("rare type", page(event.Query{TenantID: "tenant-38", Type: "rare", Limit: 100}))
	b.Run("no such tenant", page(event.Query{TenantID: "nobody", Limit: 100}))
	b.Run("tail, 500 events", page(event.Query{TenantID: "tenant-1", Limit: 500, Ascending: true, Cursor: tail.Next}))
	b.Run("tail, nothing new", page(event.Query{TenantID: "tenant-1", Limit: 500, Ascending: true, Cursor: end}))
	b.Run("by id", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := db.Events().Event(b.Context(), "tenant-0", ids[i%len(ids)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("no such id", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := db.Events().Event(b.Context(), "tenant-0", fmt.Sprint("none", i)); err == nil {
				b.Fatal("it is there")
			}
		}
	})
	b.Run("stats of a day", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Events().Stats(b.Context(), event.StatsQuery{TenantID: "tenant-1", From: eventDay, To: eventDay.AddDate(0, 0, 1), Step: time.Hour}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("recent hashes, a million", func(b *testing.B) {
		for b.Loop() {
			got := 0
			if err := db.Events().RecentHashes(b.Context(), eventDay, func(event.Hash, time.Time) bool { got++; return true }); err != nil || got != perBatch*batches {
				b.Fatalf("%d hashes, error %v", got, err)
			}
		}
	})
}
