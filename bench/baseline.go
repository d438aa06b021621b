package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the baselines' database

	"millrace/internal/blackbox"
	"millrace/internal/event"
	"millrace/internal/event/scan"
	"millrace/internal/store/sqlite"
)

// The baselines answer POST /events over net/http as the server does, and keep
// the events in simpler ways:
//
//   - discard reads the body and answers: what net/http itself can do.
//   - channel scans the body with the server's scanner, puts the events into a Go
//     channel and answers; a goroutine takes them out and appends them to the
//     server's store. Fast, queryable, and lost in a crash.
//   - insert scans the body and inserts its events in one statement and one
//     transaction with synchronous=FULL before it answers: as durable as the
//     server, and what most services do.
//   - postgres does as insert, in PostgreSQL through pgx, into the tables that the
//     server has made there.
//
// They do without authentication, rates, metrics and duplicates, which is in
// their favour. Another one, bare, is for reads: see bareAnswers.
const (
	baselineInsert   = "insert"
	baselineChannel  = "channel"
	baselineDiscard  = "discard"
	baselinePostgres = "postgres"
	baselineBare     = "bare"
)

// keeper takes the events of one request. What they point to is valid until it
// returns.
type keeper interface {
	keep(ctx context.Context, events []scan.Event) error
	close() error
}

// errFull says that a channel is full.
var errFull = errors.New("full")

// serveBaseline serves a baseline until ctx ends.
func serveBaseline(ctx context.Context, which, listen, dir string) error {
	var k keeper
	var reads http.Handler
	var err error
	switch which {
	case baselineBare:
		reads, err = newBareAnswers(os.Getenv(baselineAnswers))
	case baselineInsert:
		k, err = newInserter(ctx, dir)
	case baselineChannel:
		k, err = newChannel(ctx, dir)
	case baselineDiscard:
	case baselinePostgres:
		k, err = newPostgresInserter(ctx, os.Getenv(baselineDSN))
	default:
		return fmt.Errorf("-baseline %s: must be insert, channel, discard, postgres or bare", which)
	}
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /events", &front{keeper: k})
	mux.HandleFunc("GET /readyz/events", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if reads != nil {
		server.Handler = reads
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // what is still open then is cut off at exit
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if k != nil {
		return k.close()
	}
	return nil
}

// front is the HTTP side of a baseline.
type front struct {
	keeper   keeper // nil discards
	bodies   sync.Pool
	scanners sync.Pool
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.keeper == nil {
		_, _ = io.Copy(io.Discard, r.Body)
		accept(w, 100)
		return
	}
	body, _ := f.bodies.Get().(*[]byte)
	if body == nil {
		body = new([]byte)
	}
	defer f.bodies.Put(body)
	if n := int(r.ContentLength); cap(*body) < n {
		*body = make([]byte, n)
	}
	*body = (*body)[:max(r.ContentLength, 0)]
	if _, err := io.ReadFull(r.Body, *body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s, _ := f.scanners.Get().(*scan.Scanner)
	if s == nil {
		s = scan.NewScanner()
	}
	defer f.scanners.Put(s)
	events, err := s.Scan(*body, scan.JSON, scan.Limits{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch err := f.keeper.keep(r.Context(), events); {
	case errors.Is(err, errFull):
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		accept(w, len(events))
	}
}

func accept(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintf(w, `{"batchId":"baseline","accepted":%d,"rejected":[]}`, n)
}

// inserter is the baseline with one insert per request.
type inserter struct {
	db *sql.DB
}

func newInserter(ctx context.Context, dir string) (*inserter, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "insert.db")+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(10000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer; more would only wait in it
	_, err = db.ExecContext(ctx, `CREATE TABLE events (tenant_id TEXT, id TEXT, type TEXT, source TEXT, timestamp_ns INTEGER, received_ns INTEGER, payload TEXT, PRIMARY KEY (tenant_id, id)) WITHOUT ROWID`)
	return &inserter{db: db}, err
}

func (k *inserter) keep(ctx context.Context, events []scan.Event) error {
	now := time.Now().UnixNano()
	args := make([]any, 0, 7*len(events))
	for _, e := range events {
		args = append(args, "demo", string(e.ID), string(e.Type), string(e.Source), e.Timestamp, now, string(e.Payload))
	}
	_, err := k.db.ExecContext(ctx, "INSERT INTO events VALUES "+strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?),", len(events)), ","), args...)
	return err
}

func (k *inserter) close() error { return k.db.Close() }

// channel is the baseline without a log. It holds as many requests as the
// server's log may hold bytes in memory, and then refuses.
type channel struct {
	db      *sqlite.DB
	queue   chan []event.Row
	stopped chan error
}

const (
	channelRequests = 1400 // about 64 MiB
	channelRows     = 20_000
)

func newChannel(ctx context.Context, dir string) (*channel, error) {
	db, err := sqlite.Open(ctx, sqlite.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	k := &channel{db: db, queue: make(chan []event.Row, channelRequests), stopped: make(chan error, 1)}
	go func() { k.stopped <- k.drain() }()
	return k, nil
}

func (k *channel) keep(_ context.Context, events []scan.Event) error {
	now := time.Now().UnixNano()
	rows := make([]event.Row, len(events))
	for i, e := range events {
		rows[i] = event.Row{
			TenantID: "demo", ID: string(e.ID), Type: string(e.Type), Source: string(e.Source),
			Timestamp: e.Timestamp, ReceivedAt: now, Payload: string(e.Payload),
		}
		rows[i].Hash = event.HashOf("demo", rows[i].Source, rows[i].ID)
	}
	select {
	case k.queue <- rows:
		return nil
	default:
		return errFull
	}
}

// drain appends what is in the channel to the store until it is closed.
func (k *channel) drain() error {
	store := k.db.Events()
	position := uint64(1)
	var rows []event.Row
	for more := true; more; {
		var next []event.Row
		if next, more = <-k.queue; more {
			rows = append(rows, next...)
		}
	fill:
		for more && len(rows) < channelRows {
			select {
			case next, more = <-k.queue:
				rows = append(rows, next...)
			default:
				break fill
			}
		}
		if len(rows) == 0 {
			continue
		}
		// Requests were stamped beside each other; the store wants them in order.
		day := time.Now().UTC().Truncate(24 * time.Hour)
		for i := range rows {
			rows[i].ReceivedAt = max(rows[i].ReceivedAt, rows[max(i-1, 0)].ReceivedAt)
		}
		b := event.Batch{LogID: event.LogID{1}, From: position, UpTo: position + 1, Day: day, Rows: rows}
		if _, err := store.Append(context.Background(), b); err != nil {
			return err
		}
		position++
		rows = rows[:0]
	}
	return nil
}

func (k *channel) close() error {
	close(k.queue)
	return errors.Join(<-k.stopped, k.db.Close())
}

// baselines measures the server and each baseline in turn.
func baselines(ctx context.Context, b *bench, r *result) error {
	measure := func(name string, start func() (*target, error)) (float64, error) {
		var acked []float64
		for range b.repeats() {
			t, err := start()
			if err != nil {
				return 0, err
			}
			report, err := b.offer(ctx, r, t, "--rate", "max", "--duration", b.seconds(10).String())
			if err = errors.Join(err, t.stop(ctx)); err != nil {
				return 0, err
			}
			acked = append(acked, report.AckedPerSecond)
			if n := notAcked(report); n > 0 {
				r.note("%s: %s of %s events were not acknowledged: %v", name, number(n), number(float64(report.Events.Sent)), report.Statuses)
			}
		}
		return median(acked), nil
	}
	ours, err := measure("millrace", func() (*target, error) { return b.serve(ctx, r) })
	if err != nil {
		return err
	}
	r.add("millrace, ack after fdatasync", ours, "events/s")
	for _, x := range []struct {
		name, what string
		start      func() (*target, error)
	}{
		{"insert", "one insert per request, synchronous=FULL", func() (*target, error) { return b.baseline(ctx, r, baselineInsert) }},
		{"channel", "a Go channel and no log", func() (*target, error) { return b.baseline(ctx, r, baselineChannel) }},
		{"discard", "net/http that discards the body", func() (*target, error) { return b.baseline(ctx, r, baselineDiscard) }},
	} {
		theirs, err := measure(x.name, x.start)
		if err != nil {
			return fmt.Errorf("baseline %s: %w", x.name, err)
		}
		r.add(x.what, theirs, "events/s")
		r.add("millrace ÷ "+x.name, ours/theirs, "×")
	}
	return nil
}

// baseline starts this program as a baseline server, with further variables that
// the record does not show.
func (b *bench) baseline(ctx context.Context, r *result, which string, env ...string) (*target, error) {
	b.started++
	dir := filepath.Join(b.dir, strconv.Itoa(b.started))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	listen, err := blackbox.FreeAddress()
	if err != nil {
		return nil, err
	}
	r.command("go run ./bench", []string{"-baseline", which, "-data", "DIR"})
	cmd := exec.Command(b.self, "-baseline", which, "-listen", listen, "-data", dir)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &target{url: "http://" + listen, token: "none", dir: dir, pid: cmd.Process.Pid}
	t.stop = func(context.Context) error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return errors.Join(cmd.Wait(), os.RemoveAll(dir))
	}
	for end := time.Now().Add(10 * time.Second); ; {
		resp, err := http.Get(t.url + "/readyz/events")
		if err == nil {
			_ = resp.Body.Close()
			return t, nil
		}
		if time.Now().After(end) {
			return nil, errors.Join(err, t.stop(ctx))
		}
		<-time.After(20 * time.Millisecond)
	}
}
