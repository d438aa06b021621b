package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// smallBodies makes the largest body fit into one message of a NATS server with its
// own defaults.
const smallBodies = "MILLRACE_EVENTS__MAX_BODY_BYTES=512KiB"

// pgStream compares the acknowledgement of a replicated stream with that of the
// instance's own log, on the same servers.
func pgStream(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 3)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	stream, steady, err := pgAcked(ctx, b, r, s, "stream")
	if err != nil {
		return fmt.Errorf("ack stream: %w", err)
	}
	wal, steadyWAL, err := pgAcked(ctx, b, r, s, "wal")
	if err != nil {
		return fmt.Errorf("ack wal: %w", err)
	}
	r.atLeast("ack stream: acknowledged", stream.acked, "events/s", 50_000)
	r.atLeast("ack stream: from the first sent to all queryable", stream.queryable, "events/s", 50_000)
	r.add("ack wal: acknowledged", wal.acked, "events/s")
	r.add("ack wal: from the first sent to all queryable", wal.queryable, "events/s")
	r.add("stream ÷ wal, to all queryable", stream.queryable/wal.queryable, "×")
	r.add("ack stream: acknowledged when 50,000 a second are offered", steady.AckedPerSecond, "events/s")
	r.add("ack stream: accept p50 at 50,000 a second", steady.Accept.P50Ms, "ms")
	r.add("ack stream: accept p99 at 50,000 a second", steady.Accept.P99Ms, "ms")
	r.add("ack wal: accept p50 at 50,000 a second", steadyWAL.Accept.P50Ms, "ms")
	r.add("ack wal: accept p99 at 50,000 a second", steadyWAL.Accept.P99Ms, "ms")
	return nil
}

func pgAcked(ctx context.Context, b *bench, r *result, s *backing, ack string) (p passage, steady load.Report, err error) {
	f, err := b.fleet(ctx, r, s, 1, (*blackbox.Server).Ready, "MILLRACE_EVENTS__ACK="+ack, smallBodies)
	if err != nil {
		return p, steady, err
	}
	defer ended(&err, f.stop, ctx)
	if p, err = f.pass(ctx, r, "ack "+ack, b.passages(1_000_000)); err != nil {
		return p, steady, err
	}
	w, err := f.watch(ctx, func() (err error) {
		steady, err = f.offer(ctx, r, eventsLoad{rate: 50_000, duration: b.seconds(15)})
		return err
	})
	if err != nil {
		return p, steady, err
	}
	r.note("ack %s at 50,000/s: acknowledged %s/s, not acknowledged %s, receipt to queryable p99 %s s; %s, generator %s", ack, number(steady.AckedPerSecond),
		number(notAcked(steady)), number(w.lag().Quantile(0.99)), w.cores(), number(steady.CPUSeconds/steady.Seconds))
	_, err = f.settle(ctx)
	return p, steady, err
}

// outageRate is how many events a second come while the database is away.
const outageRate = 20_000

// pgOutage kills PostgreSQL for a minute while events come.
func pgOutage(ctx context.Context, b *bench, r *result) (err error) {
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
	before, down, after := b.seconds(10), time.Minute, b.seconds(20)
	if b.quick {
		down = 5 * time.Second
	}
	acked := filepath.Join(b.dir, "acked-outage")
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	var report load.Report
	var failed error
	var sender sync.WaitGroup
	sender.Go(func() {
		report, failed = f.offer(running, r, eventsLoad{rate: outageRate, duration: before + down + after}, "--acked", acked)
		if failed != nil {
			cancel() // nothing is left to be seen
		}
	})
	seen, err := f.outage(running, before, down)
	if err != nil {
		cancel() // nor to be sent
	}
	sender.Wait()
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	// What was due as the time ended and not sent is the generator's.
	missed := float64(report.Events.Missed)
	r.atMost("not accepted, of "+number(float64(report.Events.Sent)), notAcked(report)-missed, "events", 0)
	r.add("due at the end and not sent", missed, "events")
	r.atLeast("acknowledged", report.AckedPerSecond, "events/s", outageRate*0.999)
	r.add("accept p99 over all of it", report.Accept.P99Ms, "ms")
	r.add("accept max", report.Accept.MaxMs, "ms")
	r.add("PostgreSQL was away", seen.away.Seconds(), "s")
	r.add("events that waited when it was back", seen.waiting, "events")
	r.atMost("all of these queryable after its return in", seen.caughtUp.Seconds(), "s", 20)
	r.add("no more than a second behind after", seen.level.Seconds(), "s")
	if _, err := f.settle(ctx); err != nil {
		return err
	}
	check := []string{"verify", "events", "--acked", acked, "--wait", "30s"}
	r.command("bin/millrace", []string{"verify", "events", "--acked", "FILE", "--wait", "30s"})
	began := time.Now()
	if err := b.command(ctx, f.members[0], append(check, "--url", f.members[0].url)...); err != nil {
		return err
	}
	r.note("Then every acknowledged event was found once and unchanged, which took %s s.", number(time.Since(began).Seconds()))
	return nil
}

// outage is what was seen of one.
type outage struct {
	away            time.Duration // from the kill until the server answered again
	waiting         float64       // events accepted and not stored then
	caughtUp, level time.Duration // from then until those were stored; until no more than a second's waited
}

// outage kills PostgreSQL after a time, starts it again after another one, and
// waits until its absence is made up for.
func (f *fleet) outage(ctx context.Context, before, down time.Duration) (o outage, err error) {
	if err := pause(ctx, before); err != nil {
		return o, err
	}
	killed := time.Now()
	if err := f.backing.postgres.Kill(); err != nil {
		return o, err
	}
	if err := pause(ctx, down); err != nil {
		return o, err
	}
	if err := f.backing.postgres.Restart(ctx); err != nil {
		return o, err
	}
	back := time.Now()
	o.away = back.Sub(killed)
	m, err := f.metrics(ctx)
	if err != nil {
		return o, err
	}
	due := m.accepted()
	o.waiting = due - m.stored()
	if o.waiting < outageRate*down.Seconds()/2 {
		return o, fmt.Errorf("only %s events waited for PostgreSQL after %s: it was not away for them", number(o.waiting), down)
	}
	if _, err := f.await(ctx, 2*time.Minute, func(m readings) bool { return m.stored() >= due }); err != nil {
		return o, err
	}
	o.caughtUp = time.Since(back)
	if _, err := f.await(ctx, 2*time.Minute, func(m readings) bool { return m.accepted()-m.stored() <= outageRate }); err != nil {
		return o, err
	}
	o.level = time.Since(back)
	return o, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pgCost measures what one event and one order cost in each part.
func pgCost(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 3)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	f, err := b.fleet(ctx, r, s, 1, (*blackbox.Server).ReadyForOrders)
	if err != nil {
		return err
	}
	defer ended(&err, f.stop, ctx)
	if err := pause(ctx, b.seconds(5)); err != nil { // all have only just started
		return err
	}
	idle, err := f.watch(ctx, func() error { return pause(ctx, b.seconds(10)) })
	if err != nil {
		return err
	}
	r.note("idle, %s", idle.cores())
	for _, rate := range []int{5_000, 50_000} {
		err := f.cost(ctx, r, idle, fmt.Sprintf("event at %s/s", number(float64(rate))), func() (float64, error) {
			report, err := f.offer(ctx, r, eventsLoad{rate: rate, duration: b.seconds(15)})
			if err != nil {
				return 0, err
			}
			_, err = f.settle(ctx)
			return float64(report.Events.Acked), err
		})
		if err != nil {
			return err
		}
	}
	seed := ordersLoad{rate: 1, count: 1, skus: 1000}
	if _, err := f.order(ctx, r, seed); err != nil {
		return err
	}
	for _, rate := range []int{100, 1000} {
		err := f.cost(ctx, r, idle, fmt.Sprintf("order at %s/s, paid and its events told", number(float64(rate))), func() (float64, error) {
			report, err := f.order(ctx, r, ordersLoad{rate: rate, duration: b.seconds(15), skus: 1000, seeded: true})
			if err != nil {
				return 0, err
			}
			return float64(report.Orders.Placed), f.worked(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cost runs do, which says how many it made of what, and notes what each cost.
func (f *fleet) cost(ctx context.Context, r *result, idle fleetWatch, what string, do func() (float64, error)) error {
	before, err := f.stored(ctx)
	if err != nil {
		return err
	}
	var n float64
	w, err := f.watch(ctx, func() (err error) {
		n, err = do()
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	after, err := f.stored(ctx)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s: there was none", what)
	}
	for _, part := range parts {
		beyond := w.cpu[part].Seconds() - idle.cpu[part].Seconds()/idle.seconds*w.seconds
		r.add("CPU per "+what+": "+part, beyond*1e6/n, "µs")
	}
	r.add("WAL of PostgreSQL per "+what, (after.wal-before.wal)/n, "B")
	r.add("on PostgreSQL's disk per "+what, (after.size-before.size)/n, "B")
	return nil
}

// footprint is what a database takes.
type footprint struct{ wal, size float64 } // bytes; wal is all that were ever written

func (f *fleet) stored(ctx context.Context) (p footprint, err error) {
	if p.wal, err = f.query(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"); err != nil {
		return p, err
	}
	p.size, err = f.query(ctx, "SELECT pg_database_size(current_database())::float8")
	return p, err
}

// worked waits until nobody works on orders any more: every placed one is paid, and
// nothing happened to any for a second.
func (f *fleet) worked(ctx context.Context) error {
	var last float64
	since := time.Now()
	_, err := f.await(ctx, 2*time.Minute, func(m readings) bool {
		placed, paid := m.sum("millrace_order_transitions_total", "event=placed"), m.sum("millrace_order_transitions_total", "event=captured")
		now := m.sum("millrace_order_transitions_total") + m.sum("millrace_sink_rows_total")
		if now != last || paid < placed || m.sum("millrace_wal_backlog_bytes") > 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) >= time.Second
	})
	return err
}
