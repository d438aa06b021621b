package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// eventsLoad is load that all instances of a fleet get together.
type eventsLoad struct {
	rate        int           // events/s; 0 is as fast as they answer
	duration    time.Duration // or
	count       int           // events
	connections int
}

// allSenders is how many connections send events, as `millrace load` does by
// default; a number that three instances can share.
const allSenders = 66

func (l eventsLoad) args(share int) []string {
	rate := "max"
	if l.rate > 0 {
		rate = strconv.Itoa(l.rate / share)
	}
	args := []string{"--rate", rate, "--batch", "100", "--connections", strconv.Itoa(l.connections / share)}
	if l.count > 0 {
		return append(args, "--count", strconv.Itoa(l.count/share))
	}
	return append(args, "--duration", l.duration.String())
}

// offer splits the load over the instances and sums up what came of it. Latencies
// are those of the instance with the worst.
func (f *fleet) offer(ctx context.Context, r *result, l eventsLoad, more ...string) (load.Report, error) {
	if l.connections == 0 {
		l.connections = allSenders
	}
	args := append(l.args(len(f.members)), more...)
	r.loadCommand("events", args)
	reports := make([]load.Report, len(f.members))
	errs := make([]error, len(f.members))
	var all sync.WaitGroup
	for i, t := range f.members {
		all.Go(func() { errs[i] = f.b.runLoad(ctx, t, "events", &reports[i], args) })
	}
	all.Wait()
	return mergeReports(reports), errors.Join(errs...)
}

func mergeReports(all []load.Report) load.Report {
	sum := all[0]
	for _, x := range all[1:] {
		e := &sum.Events
		e.Sent += x.Events.Sent
		e.Acked += x.Events.Acked
		e.Refused += x.Events.Refused
		e.Failed += x.Events.Failed
		e.Unknown += x.Events.Unknown
		e.Unreached += x.Events.Unreached
		e.Rejected += x.Events.Rejected
		e.Missed += x.Events.Missed
		e.Retries += x.Events.Retries
		sum.CPUSeconds += x.CPUSeconds
		sum.Seconds = max(sum.Seconds, x.Seconds)
		sum.Examples = append(sum.Examples, x.Examples...)
		if x.Accept.P99Ms > sum.Accept.P99Ms {
			sum.Accept = x.Accept
		}
	}
	sum.AckedPerSecond = float64(sum.Events.Acked) / max(sum.Seconds, 1e-9)
	return sum
}

// pgSustained raises the rate until the backlog grows, and compares.
func pgSustained(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	ours, err := pgLadder(ctx, b, r, s)
	if err != nil {
		return err
	}
	r.atLeast("queryable with a level backlog", ours, "events/s", 100_000)
	base, err := pgInserted(ctx, b, r, s)
	if err != nil {
		return fmt.Errorf("one insert per request: %w", err)
	}
	r.add("one insert per request, queryable when answered", base, "events/s")
	r.add("millrace ÷ one insert per request", ours/base, "×")
	return nil
}

// pgLadder returns the highest rate that was stored with a level backlog.
func pgLadder(ctx context.Context, b *bench, r *result, s *backing) (best float64, err error) {
	f, err := b.fleet(ctx, r, s, 1, (*blackbox.Server).Ready)
	if err != nil {
		return 0, err
	}
	defer ended(&err, f.stop, ctx)
	for _, rate := range []int{80_000, 90_000, 100_000, 110_000, 120_000, 140_000, 160_000} {
		var report load.Report
		w, err := f.watch(ctx, func() (err error) {
			report, err = f.offer(ctx, r, eventsLoad{rate: rate, duration: b.seconds(15)})
			return err
		})
		if err != nil {
			return 0, err
		}
		from := len(w.at) / 4 // what comes before is the start of the run
		grows, stored := slope(w.at[from:], w.waiting[from:]), slope(w.at[from:], w.rows[from:])
		// What was due as the time ended and not sent is the generator's.
		lost := notAcked(report) - float64(report.Events.Missed)
		r.note("at %s/s: acknowledged %s/s, queryable %s/s, not acknowledged %s, the backlog grows by %s events/s, accept p99 %s ms, receipt to queryable p99 %s s, resident %s MiB; %s, generator %s",
			number(float64(rate)), number(report.AckedPerSecond), number(stored), number(lost), number(grows), number(report.Accept.P99Ms),
			number(w.lag().Quantile(0.99)), number(float64(w.maxRSS)/mib), w.cores(), number(report.CPUSeconds/report.Seconds))
		if grows >= 0.02*float64(rate) || lost > 0 || report.AckedPerSecond < 0.99*float64(rate) {
			r.add("queryable at the first rate that was too high", stored, "events/s")
			return best, nil
		}
		best = stored
		if _, err := f.settle(ctx); err != nil {
			return 0, err
		}
	}
	return best, nil
}

// pgInserted measures the baseline on tables that the real server has made.
func pgInserted(ctx context.Context, b *bench, r *result, s *backing) (rate float64, err error) {
	f, err := b.fleet(ctx, r, s, 1, (*blackbox.Server).Ready)
	if err != nil {
		return 0, err
	}
	defer ended(&err, f.stop, ctx)
	// The first event makes the day's partitions.
	if _, err := f.offer(ctx, r, eventsLoad{count: 100}); err != nil {
		return 0, err
	}
	if _, err := f.settle(ctx); err != nil {
		return 0, err
	}
	for _, t := range f.members {
		if err := t.stop(ctx); err != nil {
			return 0, err
		}
	}
	f.members = nil
	const count = "SELECT count(*)::float8 FROM events"
	before, err := f.query(ctx, count)
	if err != nil {
		return 0, err
	}
	t, err := b.baseline(ctx, r, baselinePostgres, baselineDSN+"="+s.dsn(f.database))
	if err != nil {
		return 0, err
	}
	defer ended(&err, t.stop, ctx)
	report, err := b.offer(ctx, r, t, eventsLoad{duration: b.seconds(10), connections: allSenders}.args(1)...)
	if err != nil {
		return 0, err
	}
	stored, err := f.query(ctx, count)
	if err != nil {
		return 0, err
	}
	r.note("one insert per request: %s answered, %s rows in the table, accept p99 %s ms; without authentication, rates, metrics, duplicates, statistics and positions", number(float64(report.Events.Acked)), number(stored-before), number(report.Accept.P99Ms))
	if n := notAcked(report); n > 0 {
		r.note("one insert per request: %s of %s events were not acknowledged: %v %q", number(n), number(float64(report.Events.Sent)), report.Statuses, report.Examples)
	}
	return report.AckedPerSecond, nil
}

// pg50k measures latencies at 50,000 a second, and the embedded server's.
func pg50k(ctx context.Context, b *bench, r *result) error {
	if err := pg50kOn(ctx, b, r); err != nil {
		return err
	}
	t, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	args := func(d time.Duration) []string {
		return eventsLoad{rate: 50_000, duration: d, connections: allSenders}.args(1)
	}
	if _, err := b.offer(ctx, r, t, args(b.seconds(10))...); err != nil {
		return err
	}
	var report load.Report
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.offer(ctx, r, t, args(b.seconds(30))...)
		return err
	})
	if err != nil {
		return fmt.Errorf("embedded: %w", err)
	}
	r.add("embedded: acknowledged", report.AckedPerSecond, "events/s")
	r.add("embedded: accept p99", report.Accept.P99Ms, "ms")
	r.add("embedded: receipt to queryable p99", w.lag().Quantile(0.99), "s")
	r.add("embedded: server CPU", w.cpu.Seconds()/w.seconds, "cores")
	return nil
}

func pg50kOn(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	f, err := b.fleet(ctx, r, s, 1, (*blackbox.Server).Ready)
	if err != nil {
		return err
	}
	defer ended(&err, f.stop, ctx)
	if _, err := f.offer(ctx, r, eventsLoad{rate: 50_000, duration: b.seconds(15)}); err != nil {
		return err
	}
	var report load.Report
	w, err := f.watch(ctx, func() (err error) {
		report, err = f.offer(ctx, r, eventsLoad{rate: 50_000, duration: b.seconds(60)})
		return err
	})
	if err != nil {
		return err
	}
	r.atLeast("acknowledged", report.AckedPerSecond, "events/s", 50_000*0.999)
	r.atMost("accept p99, from the intended send time", report.Accept.P99Ms, "ms", 20)
	r.add("accept p50", report.Accept.P50Ms, "ms")
	r.add("accept p99.9", report.Accept.P999Ms, "ms")
	r.atMost("refused, failed, unknown or missed", notAcked(report), "events", 0)
	r.atMost("receipt to queryable p99", w.lag().Quantile(0.99), "s", 2)
	r.add("receipt to queryable p50", w.lag().Quantile(0.5), "s")
	r.add("resident memory, highest", float64(w.maxRSS)/mib, "MiB")
	r.note("%s, generator %s; %s commits of the store a second", w.cores(), number(report.CPUSeconds/report.Seconds), number(w.histogram("millrace_sink_flush_seconds").Count()/w.seconds))
	return nil
}

// passage is what came of events that were sent as fast as they were answered.
type passage struct {
	acked     float64 // events/s while they were sent
	queryable float64 // events/s from the first sent to the last queryable
}

// pass sends events to a fleet as fast as it answers and waits until all are
// queryable.
func (f *fleet) pass(ctx context.Context, r *result, name string, count int) (p passage, err error) {
	var report load.Report
	w, err := f.watch(ctx, func() (err error) {
		if report, err = f.offer(ctx, r, eventsLoad{count: count}); err != nil {
			return err
		}
		_, err = f.settle(ctx)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	p = passage{acked: report.AckedPerSecond, queryable: float64(report.Events.Acked) / w.seconds}
	r.note("%s: acknowledged %s/s, all queryable after %s s, accept p99 %s ms, resident %s MiB; %s, generator %s", name, number(p.acked), number(w.seconds), number(report.Accept.P99Ms),
		number(float64(w.maxRSS)/mib), w.cores(), number(report.CPUSeconds/w.seconds))
	if n := notAcked(report); n > 0 {
		r.note("%s: %s of %s events were not acknowledged: %v %q", name, number(n), number(float64(report.Events.Sent)), report.Statuses, report.Examples)
	}
	return p, nil
}

// passages is how many events pass at once.
func (b *bench) passages(n int) int {
	if b.quick {
		return n / 10
	}
	return n
}

// pgThree compares three instances with one.
func pgThree(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	var one, three []float64
	for range min(b.repeats(), 2) {
		for _, size := range []int{1, 3} {
			rate, err := pgPassed(ctx, b, r, s, size)
			if err != nil {
				return err
			}
			if size == 1 {
				one = append(one, rate)
			} else {
				three = append(three, rate)
			}
		}
	}
	r.add("one instance, from the first sent to all queryable", median(one), "events/s")
	r.add("three instances", median(three), "events/s")
	r.atLeast("three ÷ one", median(three)/median(one), "×", 1)
	return nil
}

func pgPassed(ctx context.Context, b *bench, r *result, s *backing, size int) (rate float64, err error) {
	f, err := b.fleet(ctx, r, s, size, (*blackbox.Server).Ready)
	if err != nil {
		return 0, err
	}
	defer ended(&err, f.stop, ctx)
	p, err := f.pass(ctx, r, fmt.Sprintf("instances: %d", size), b.passages(1_500_000))
	return p.queryable, err
}
