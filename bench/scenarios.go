package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"millrace/internal/load"
)

// scenarios lists what is measured, in the order of the record.
func scenarios() []scenario {
	return slices.Concat([]scenario{
		{"events", "ingest50k", "50,000 events a second for 60 s in batches of 100 of 480 B, after another 60 s at that rate, so that the dedupe window of two minutes is full", ingest50k},
		{"events", "ingest80k", "80,000 events a second for 60 s", ingest80k},
		{"events", "max", "As fast as the server answers for 10 s (closed loop), and how long the rest then takes to be queryable", ingestMax},
		{"events", "sustained", "The highest rate at which the backlog stays level: each for 20 s", sustained},
		{"events", "baselines", "The server against simpler ones, as fast as each answers for 10 s, same batches", baselines},
		{"events", "github", "50,000 GitHub webhook payloads of 1 to 40 KB, then each looked up and compared", github},
		{"events", "startup", "Start after kill -9 with a backlog of 1 GiB, until the server accepts events", startup},
	}, orderScenarios(), clusterScenarios(), readScenarios())
}

const mib = 1 << 20

// open runs an open loop at a rate and notes what is common to such runs.
func open(ctx context.Context, b *bench, r *result, rate int, warmUp time.Duration, acceptMs float64) error {
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	args := func(d time.Duration) []string {
		return []string{"--rate", strconv.Itoa(rate), "--batch", "100", "--duration", d.String()}
	}
	if warmUp > 0 {
		if _, err := b.offer(ctx, r, t, args(warmUp)...); err != nil {
			return err
		}
	}
	var report load.Report
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.offer(ctx, r, t, args(b.seconds(60))...)
		return err
	})
	if err != nil {
		return err
	}
	r.atLeast("acknowledged", report.AckedPerSecond, "events/s", float64(rate)*0.999)
	r.atMost("accept p99, from the intended send time", report.Accept.P99Ms, "ms", acceptMs)
	r.add("accept p50", report.Accept.P50Ms, "ms")
	r.add("accept p99.9", report.Accept.P999Ms, "ms")
	r.add("accept max", report.Accept.MaxMs, "ms")
	r.atMost("refused, failed, unknown or missed", notAcked(report), "events", 0)
	lag := w.lag()
	r.atMost("receipt to queryable p99", lag.Quantile(0.99), "s", 1)
	r.add("receipt to queryable p50", lag.Quantile(0.5), "s")
	r.atMost("resident memory, highest", float64(w.maxRSS)/mib, "MiB", 512)
	noteCost(r, w, report)
	return nil
}

func notAcked(x load.Report) float64 {
	e := x.Events
	return float64(e.Refused + e.Failed + e.Unknown + e.Unreached + e.Rejected + e.Missed)
}

// noteCost notes what the run cost.
func noteCost(r *result, w watched, report load.Report) {
	entries, _ := w.after.Sum("millrace_dedupe_entries")
	r.add("ids in the dedupe window at the end", entries, "")
	r.add("server CPU", w.cpu.Seconds()/w.seconds, "cores")
	r.add("server CPU per event", w.cpu.Seconds()*1e6/float64(max(report.Events.Acked, 1)), "µs")
	r.add("generator CPU per event", report.CPUMicrosPerEvent, "µs")
	syncs := w.histogram("millrace_wal_sync_seconds")
	r.add("log commits", syncs.Count()/w.seconds, "/s")
	r.add("fdatasync p99", syncs.Quantile(0.99)*1000, "ms")
}

func ingest50k(ctx context.Context, b *bench, r *result) error {
	return open(ctx, b, r, 50_000, b.seconds(60), 10)
}

func ingest80k(ctx context.Context, b *bench, r *result) error {
	return open(ctx, b, r, 80_000, 0, 20)
}

func ingestMax(ctx context.Context, b *bench, r *result) error {
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	var acked, p99, rss, catchUp []float64
	for range b.repeats() {
		var report load.Report
		w, err := watch(ctx, t.server, func() (err error) {
			report, err = b.offer(ctx, r, t, "--rate", "max", "--duration", b.seconds(10).String())
			return err
		})
		if err != nil {
			return err
		}
		backlog := w.backlog[len(w.backlog)-1]
		took, err := settle(ctx, t.server)
		if err != nil {
			return err
		}
		acked, p99, rss = append(acked, report.AckedPerSecond), append(p99, report.Accept.P99Ms), append(rss, float64(w.maxRSS)/mib)
		if took > time.Second {
			catchUp = append(catchUp, backlog/report.BytesPerEvent/took.Seconds())
		}
		if n := notAcked(report); n > 0 {
			r.note("%s events were not acknowledged: %v %q", number(n), report.Statuses, report.Examples)
		}
	}
	r.atLeast(fmt.Sprintf("acknowledged durable, median of %d", len(acked)), median(acked), "events/s", 300_000)
	for i, v := range acked {
		r.add(fmt.Sprintf("run %d", i+1), v, "events/s")
	}
	r.add("accept p99 (closed loop)", median(p99), "ms")
	r.add("resident memory, highest", median(rss), "MiB")
	if len(catchUp) > 0 {
		r.add("catching up afterwards, nothing offered", median(catchUp), "events/s")
	}
	return nil
}

// sustained raises the rate until the backlog grows.
func sustained(ctx context.Context, b *bench, r *result) error {
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	best := 0.0
	for _, rate := range []int{100_000, 120_000, 140_000, 160_000, 180_000, 200_000, 240_000} {
		var report load.Report
		w, err := watch(ctx, t.server, func() (err error) {
			report, err = b.offer(ctx, r, t, "--rate", strconv.Itoa(rate), "--duration", b.seconds(20).String())
			return err
		})
		if err != nil {
			return err
		}
		// The first quarter is the start of the run.
		from := len(w.at) / 4
		grows := slope(w.at[from:], w.backlog[from:]) / report.BytesPerEvent
		stored := slope(w.at[from:], w.rows[from:])
		// What was due as the time ended and not sent is the generator's.
		lost := notAcked(report) - float64(report.Events.Missed)
		level := grows < 0.02*float64(rate) && lost == 0 && report.AckedPerSecond > 0.99*float64(rate)
		r.note("at %s/s: acknowledged %s/s, queryable %s/s, not acknowledged %s, the backlog grows by %s events/s, accept p99 %s ms, receipt to queryable p99 %s s, server %s cores",
			number(float64(rate)), number(report.AckedPerSecond), number(stored), number(lost), number(grows), number(report.Accept.P99Ms), number(w.lag().Quantile(0.99)), number(w.cpu.Seconds()/w.seconds))
		if !level {
			break
		}
		best = stored
		if _, err := settle(ctx, t.server); err != nil {
			return err
		}
	}
	r.atLeast("queryable with a level backlog", best, "events/s", 120_000)
	return nil
}

// github sends real webhooks and verifies each.
func github(ctx context.Context, b *bench, r *result) error {
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	count := 50_000
	if b.quick {
		count = 2_000
	}
	const corpus = "internal/event/scan/testdata/github-webhooks.ndjson.gz"
	acked := filepath.Join(b.dir, "acked")
	var report load.Report
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.offer(ctx, r, t, "--rate", "max", "--connections", "16", "--payload", corpus, "--count", strconv.Itoa(count), "--retry", "--acked", acked)
		return err
	})
	if err != nil {
		return err
	}
	check := []string{"verify", "events", "--each", "--acked", acked, "--wait", "2m"}
	r.command("bin/millrace", check)
	file := filepath.Join(b.dir, "verify.json")
	broken := b.command(ctx, t, append(check, "--url", t.url, "--json", file)...)
	var v load.VerifyReport
	if err := readJSON(file, &v); err != nil {
		return fmt.Errorf("%w; %w", err, broken)
	}
	r.atLeast("acknowledged", float64(report.Events.Acked), "events", float64(count))
	r.atLeast("found", float64(v.Found), "events", float64(count))
	r.atMost("missing, doubled or changed", float64(v.Missing+v.Unlisted+v.Doubled+v.Changed), "events", 0)
	r.atMost("not found by id", float64(v.Unanswered), "events", 0)
	r.atMost("types whose statistics do not add up", float64(v.StatsWrong), fmt.Sprintf("of %d", v.StatsChecked), 0)
	r.add("same content in other bytes", float64(v.Rewritten), "events")
	r.add("event size", report.BytesPerEvent, "B")
	r.add("acknowledged durable", report.AckedPerSecond, "events/s")
	r.add("acknowledged durable", report.AckedPerSecond*report.BytesPerEvent/mib, "MiB/s")
	r.add("resident memory, highest", float64(w.maxRSS)/mib, "MiB")
	return nil
}

// startup builds a backlog, kills the server and measures how soon the next one
// accepts events.
func startup(ctx context.Context, b *bench, r *result) error {
	want := float64(1 << 30)
	if b.quick {
		want = 64 * mib
	}
	dir := filepath.Join(b.dir, "startup")
	t, err := b.serveOn(ctx, r, dir)
	if err != nil {
		return err
	}
	if err := fillBacklog(ctx, b, r, t, dir, want); err != nil {
		t.server.Kill()
		return err
	}
	var took, backlog []float64
	for range b.repeats() {
		if t, err = b.serveOn(ctx, r, dir); err != nil {
			return err
		}
		took = append(took, t.readyIn.Seconds())
		m, err := t.server.Metrics(ctx)
		// Killed before it has worked off much, so that the next finds it again.
		t.server.Kill()
		if err != nil {
			return err
		}
		n, _ := m.Sum("millrace_wal_backlog_bytes")
		backlog = append(backlog, n/mib)
	}
	r.atMost(fmt.Sprintf("start to accepting, median of %d", len(took)), median(took), "s", 2)
	for i := range took {
		r.add(fmt.Sprintf("start %d, with %s MiB of backlog", i+1, number(backlog[i])), took[i], "s")
	}
	return nil
}

// fillBacklog offers events until the backlog is as large as wanted. Meanwhile it
// holds the lock of the day's file as another process would, so that the server
// accepts and stores nothing.
func fillBacklog(ctx context.Context, b *bench, r *result, t *target, dir string, want float64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	const piece = "100000"
	offer := func() error {
		_, err := b.offer(ctx, r, t, "--rate", "max", "--count", piece)
		return err
	}
	if err := offer(); err != nil { // the day's file is made with the first event
		return err
	}
	if _, err := settle(ctx, t.server); err != nil {
		return err
	}
	release, err := lockDays(ctx, dir)
	if err != nil {
		return err
	}
	defer release()
	for {
		if err := offer(); err != nil {
			return err
		}
		m, err := t.server.Metrics(ctx)
		if err != nil {
			return err
		}
		n, _ := m.Sum("millrace_wal_backlog_bytes")
		if n >= want {
			t.server.Kill()
			return nil
		}
	}
}

// lockDays takes the write lock of each day file in a data directory.
func lockDays(ctx context.Context, dir string) (release func(), err error) {
	files, err := filepath.Glob(filepath.Join(dir, "events", "*.db"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no day files in %s: %v", dir, err)
	}
	var open []*sql.DB
	release = func() {
		for _, db := range open {
			_ = db.Close() // gives up the lock with the connection
		}
	}
	for _, file := range files {
		db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(10000)")
		if err != nil {
			release()
			return nil, err
		}
		open = append(open, db)
		db.SetMaxOpenConns(1)
		if _, err := db.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			release()
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
	}
	return release, nil
}
