package event_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
	"millrace/internal/event/dedupe"
	"millrace/internal/store/sqlite"
	"millrace/internal/wal"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// process is what one run of the program has open: a log, a store and what
// stands between them.
type process struct {
	t    *testing.T
	log  *wal.Log
	db   *sqlite.DB
	in   *event.Ingester
	sink *event.Sink
}

// begin starts a process over a data directory, at a time by its clock.
func begin(t *testing.T, dir string, now time.Time, exact bool, w *dedupe.Window) *process {
	t.Helper()
	p := &process{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	p.db, err = sqlite.Open(t.Context(), sqlite.Options{Dir: dir})
	must(err)
	clock := func() time.Time { return now }
	p.log, err = wal.Open(t.Context(), wal.Options{Dir: filepath.Join(dir, "wal"), Now: clock, SegmentBytes: 4 << 20, MaxFrameBytes: 256 << 10, ReserveBytes: 1})
	must(err)
	p.in, err = event.NewIngester(event.IngesterOptions{Log: p.log, Now: clock, Window: w})
	must(err)
	p.sink, err = event.NewSink(event.SinkOptions{Log: p.log, Store: p.db.Events(), DeadLetters: p.db.DeadLetters(), Exact: exact, ExactDays: 1})
	must(err)
	must(p.sink.Locate(t.Context()))
	return p
}

// sinkAll brings all of the log into the store.
func (p *process) sinkAll() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- p.sink.Run(running) }()
	err := p.sink.WaitCommitted(ctx, p.log.Next())
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		p.t.Fatalf("sinking: %v, last error %v", err, p.sink.Err())
	}
}

// end closes what the process has open.
func (p *process) end() {
	p.t.Helper()
	if err := errors.Join(p.log.Close(), p.db.Close()); err != nil {
		p.t.Fatal(err)
	}
}

// tell hands over the events of orders, each of 1,000 minor units.
func (p *process) tell(orders ...string) {
	p.t.Helper()
	var all []event.Own
	for _, id := range orders {
		all = append(all, event.Own{TenantID: "demo", ID: id, Type: "order.paid", Source: event.SourceOrders, Timestamp: start,
			Payload: []byte(`{"orderId":"` + id + `"}`), Amount: 1000, Currency: "EUR"})
	}
	if err := p.in.IngestOwn(p.t.Context(), all); err != nil {
		p.t.Fatal(err)
	}
}

// wantPaid fails the test unless so many orders are stored and counted as paid.
func (p *process) wantPaid(n int64) {
	p.t.Helper()
	series, err := p.db.Events().Stats(p.t.Context(), event.StatsQuery{TenantID: "demo", Type: "order.paid", Step: 24 * time.Hour})
	if err != nil {
		p.t.Fatal(err)
	}
	var count, amount int64
	for _, s := range series {
		for _, point := range s.Points {
			if s.Currency == "EUR" {
				count += point.Count
				amount += point.Amount
			}
		}
	}
	page, err := p.db.Events().Events(p.t.Context(), event.Query{TenantID: "demo", Type: "order.paid", Limit: 1000})
	got := []int64{count, amount, int64(len(page.Events))}
	if diff := cmp.Diff([]int64{n, 1000 * n, n}, got); diff != "" || err != nil {
		p.t.Errorf("error %v; orders counted, revenue and events stored differ (-want +got):\n%s", err, diff)
	}
}

func TestOwnEventsCountOnceWhateverIsRepeated(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact mode %v", exact), func(t *testing.T) {
			dir := t.TempDir()
			p := begin(t, dir, start, exact, nil)
			p.tell("a", "b", "a")
			p.sinkAll()
			p.tell("b", "c") // the relay did not learn that b was taken
			p.tell("d")
			p.end() // the process dies before the sink has got to it

			p = begin(t, dir, start.Add(time.Minute), exact, nil)
			p.tell("a", "b", "c", "d", "e")
			p.sinkAll()
			p.wantPaid(5)
			p.end()

			p = begin(t, dir, start.Add(3*24*time.Hour), exact, nil) // three days later
			p.tell("a", "e", "f")
			p.sinkAll()
			p.tell("c", "f")
			p.sinkAll()
			p.wantPaid(6)
			p.end()
		})
	}
}

func TestOwnEventsCountOnceWithAWindowThatIsFull(t *testing.T) {
	w, err := dedupe.New(dedupe.Options{Window: time.Hour, MemoryBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	p := begin(t, t.TempDir(), start, false, w)
	defer p.end()
	for round := range 3 {
		p.tell("a", "b")
		var others []event.Hash
		for i := range w.Stats().Capacity {
			others = append(others, event.HashOf("demo", "", fmt.Sprint(round, "-", i)))
		}
		w.Remember(others, start)
	}
	p.sinkAll()
	p.wantPaid(2)
}

func TestAnOutsideEventOfTheSameTypeAddsNoRevenue(t *testing.T) {
	p := begin(t, t.TempDir(), start, false, nil)
	defer p.end()
	p.tell("a")
	body := []byte(`[{"id":"a","type":"order.paid","source":"shop","payload":{"amount":1000,"currency":"EUR"}},
		{"id":"b","type":"order.paid","source":"millrace/orders","payload":{"amount":1000,"currency":"EUR"}}]`)
	r, err := p.in.Ingest(t.Context(), event.Submission{TenantID: "demo", Body: body})
	if err != nil || r.Accepted != 1 || len(r.Rejected) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	p.sinkAll()
	series, err := p.db.Events().Stats(t.Context(), event.StatsQuery{TenantID: "demo", Step: time.Minute})
	want := []event.Series{
		{Type: "order.paid", Points: []event.Point{{Time: start, Count: 1, Bytes: 32}}},
		{Type: "order.paid", Currency: "EUR", Points: []event.Point{{Time: start, Count: 1, Bytes: 15, Amount: 1000}}},
	}
	if diff := cmp.Diff(want, series); diff != "" || err != nil {
		t.Errorf("error %v, stats differ (-want +got):\n%s", err, diff)
	}
}
