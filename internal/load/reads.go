package load

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Reads asks for products, places or other documents until the time or the number
// is reached, and reports how that went. Meanwhile it checks the answers: each 200
// is of what was asked for and has a strong ETag that always stands for the same
// bytes, each 304 names the ETag that was asked about.
//
// The report is good also beside an error: when the context ended early (the error
// wraps its cause), when the server turned every request away (ErrTurnedAway), when
// an answer was not what it must be (ErrBroken), or when a file could not be written.
// Requests that are refused or fail are not errors; they are counted, and not sent
// again.
func Reads(ctx context.Context, o ReadsOptions) (ReadsReport, error) {
	o.setDefaults()
	v, err := newVisitors(ctx, o)
	if err != nil {
		return ReadsReport{}, err
	}
	report, err := v.run(ctx)
	report.write(o.Out)
	if o.JSONFile != "" {
		err = errors.Join(err, writeJSON(o.JSONFile, report))
	}
	return report, err
}

// visitors is one run of Reads.
type visitors struct {
	o      ReadsOptions
	base   *url.URL
	plan   *readPlan
	conns  []*conn // each is one goroutine's at a time
	giveUp context.CancelCauseFunc
	// served says that a request was answered as it should be; failures are those
	// before.
	served   atomic.Bool
	failures atomic.Int64
}

// maxVainReads is how many requests may fail before the first one succeeds.
const maxVainReads = 100

func newVisitors(ctx context.Context, o ReadsOptions) (*visitors, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	base, err := baseURL(o.URL)
	if err != nil {
		return nil, err
	}
	d, err := newDialer(base, o.TLS, min(o.Timeout, 5*time.Second))
	if err != nil {
		return nil, err
	}
	v := &visitors{o: o, base: base}
	if v.plan, err = newReadPlan(ctx, base, o); err != nil {
		return nil, err
	}
	for range o.Connections {
		v.conns = append(v.conns, newConn(d))
	}
	return v, nil
}

func (v *visitors) run(parent context.Context) (ReadsReport, error) {
	ctx, giveUp := context.WithCancelCause(parent)
	defer giveUp(nil)
	v.giveUp = giveUp
	defer func() {
		for _, c := range v.conns {
			c.close()
		}
	}()
	if v.o.WarmUp > 0 {
		fmt.Fprintf(v.o.Out, "warming up for %s …\n", v.o.WarmUp)
		warm := v.phase(v.o.WarmUp, 0)
		warm.run(ctx, func(time.Time) {})
	}
	cpu := cpuTime()
	p := v.phase(v.o.Duration, v.o.Count)
	p.run(ctx, func(now time.Time) { p.tally.progress(v.o.Out, p.started, now) })

	r := ReadsReport{
		URL: v.o.URL, Paths: v.o.Paths, Targets: len(v.plan.targets), Mode: OpenLoop, Rate: v.o.Rate, Connections: v.o.Connections,
		Conditional: v.o.Conditional, Languages: v.o.Languages, Encoding: v.o.Encoding,
		Started: p.started.UTC(), CPUSeconds: (cpuTime() - cpu).Seconds(),
	}
	if v.o.Rate == 0 {
		r.Mode = ClosedLoop
	}
	p.tally.report(&r)
	var err error
	if ctx.Err() != nil {
		r.Interrupted = true
		err = fmt.Errorf("the run was ended before its time: %w", context.Cause(ctx))
	}
	if r.Reads.Broken > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d times, such as: %s", ErrBroken, r.Reads.Broken, r.Broken[0]))
	}
	return r, err
}

// readPhase is the warm-up, or what is counted.
type readPhase struct {
	*visitors
	started  time.Time
	duration time.Duration // 0 = no end by time
	count    int           // 0 = no end by number
	pace     pacer         // of an open loop
	tally    *readTally
	next     atomic.Int64 // number of the next request of a closed loop
}

func (v *visitors) phase(duration time.Duration, count int) *readPhase {
	now := time.Now()
	p := &readPhase{visitors: v, started: now, duration: duration, count: count, tally: newReadTally(now)}
	p.pace = pacer{started: now, rate: v.o.Rate, duration: duration,
		before: func(k int) int { return k }, has: p.has, missed: func(int) { p.tally.missed() }}
	return p
}

// has says whether there is a request number k.
func (p *readPhase) has(k int) bool { return p.count == 0 || k < p.count }

// run sends until the phase is over and calls tick each second.
func (p *readPhase) run(ctx context.Context, tick func(now time.Time)) {
	due := make(chan int, p.o.Connections)
	var workers, others sync.WaitGroup
	for i, c := range p.conns {
		workers.Go(func() { p.work(ctx, c, p.tally.shard(i), due) })
	}
	if p.o.Rate > 0 {
		others.Go(func() { p.pace.run(ctx, due) })
	}
	stopped := make(chan struct{})
	others.Go(func() { everySecond(stopped, tick) })
	workers.Wait()
	close(stopped)
	others.Wait()
}

// work sends requests over one connection until there are no more.
func (p *readPhase) work(ctx context.Context, c *conn, s *readShard, due <-chan int) {
	draw := p.plan.drawer()
	var buf []byte
	for {
		k, intended, ok := p.nextRead(ctx, due)
		if !ok {
			return
		}
		r, sent := draw.draw(k), ""
		if r.conditional {
			if d := r.slot.Load(); d != nil {
				sent = d.etag
			}
		}
		buf = p.plan.render(buf[:0], r, sent)
		x := readResult{conditional: sent != "", late: p.o.Rate > 0 && time.Since(intended) > time.Millisecond}
		a, err := c.roundTrip(ctx, buf, p.o.Timeout)
		now := time.Now()
		x.outcome, x.latency = judgeRead(a, err), now.Sub(intended)
		if x.outcome.good() {
			if x.broken = r.check(a, sent); x.broken != nil {
				x.broken = fmt.Errorf("%s%s: %w", p.base.Host, r.target.path(), x.broken)
			}
		}
		s.done(a, err, x, now)
		p.turnedAway(a, x.outcome)
		if x.outcome == readUnreached && p.o.Rate == 0 {
			// A closed loop would otherwise spin while the server is away.
			wait(ctx, 50*time.Millisecond)
		}
	}
}

// nextRead waits for the next request and says when it was meant to leave.
func (p *readPhase) nextRead(ctx context.Context, due <-chan int) (k int, intended time.Time, ok bool) {
	if p.o.Rate > 0 {
		if k, ok = <-due; !ok {
			return 0, intended, false
		}
		return k, p.pace.intended(k), ctx.Err() == nil
	}
	now := time.Now()
	if ctx.Err() != nil || p.duration > 0 && now.Sub(p.started) >= p.duration {
		return 0, intended, false
	}
	k = int(p.next.Add(1) - 1)
	return k, now, p.has(k)
}

// turnedAway ends the run when the server says that it will answer none of it.
func (v *visitors) turnedAway(a answer, o readOutcome) {
	switch {
	case o.good():
		if !v.served.Load() { // most often it is set, and then not written
			v.served.Store(true)
		}
	case o != readFailed || v.served.Load():
	case a.status == 401 || a.status == 403 || v.failures.Add(1) == maxVainReads:
		v.giveUp(fmt.Errorf("%w: %s", ErrTurnedAway, explain(a)))
	}
}
