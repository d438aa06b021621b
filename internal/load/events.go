package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// EventsOptions says what to offer. URL is required, and Duration or Count.
type EventsOptions struct {
	// URL is the server's base URL, for example http://127.0.0.1:8080. Events are
	// posted to /events beneath it.
	URL string
	// Token is sent as a bearer token; empty sends none.
	Token string
	// Rate is the number of events a second to offer in an open loop; 0 means as
	// fast as the server answers, in a closed loop.
	Rate int
	// Batch is the number of events in a request, 1 to 10,000; default 100.
	Batch int
	// Duration is how long to offer; 0 means until Count events were sent.
	Duration time.Duration
	// Count ends the run after so many events; 0 means no such end.
	Count int
	// Connections bounds the batches in flight; default 64.
	Connections int
	// MaxBodyBytes bounds a body; a batch of larger events has fewer of them.
	// Default 1,000,000, a little less than the server's default of 1 MiB.
	MaxBodyBytes int
	// PayloadFile has the events to send, one JSON object a line with "type" and
	// "payload" (and any other member but "id" and "timestamp"), plain or gzip;
	// they are repeated. Empty means built-in telemetry of about 480 bytes.
	PayloadFile string
	// EventsPerType is how many built-in events of one type follow each other;
	// default 25.
	EventsPerType int
	// Retry sends a batch again, with the same ids, when it was refused, when its
	// outcome is unknown or when the server cannot be reached. It waits as long as
	// Retry-After says, otherwise 50 ms doubling to RetryPause, with jitter.
	Retry bool
	// RetryPause is the longest pause between attempts when the server does not say
	// how long to wait; default 1 s.
	RetryPause time.Duration
	// RetryFor bounds the retries of one batch; default 60 s.
	RetryFor time.Duration
	// Timeout bounds one attempt; default 30 s.
	Timeout time.Duration
	// AckedFile, if set, gets the ids that were accepted; see VerifyEvents.
	AckedFile string
	// JSONFile, if set, gets the report.
	JSONFile string
	// Out gets a progress line each second and the final table; nil means nobody.
	Out io.Writer
	// TLS is used for an https URL; nil means the system's defaults.
	TLS *tls.Config
}

func (o *EventsOptions) setDefaults() {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Batch, 100)
	def(&o.Connections, 64)
	def(&o.MaxBodyBytes, 1_000_000)
	def(&o.EventsPerType, 25)
	if o.RetryFor == 0 {
		o.RetryFor = time.Minute
	}
	if o.RetryPause == 0 {
		o.RetryPause = time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

// validate reports all that is wrong at once.
func (o *EventsOptions) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Rate >= 0, "rate %d: must be at least 1 event a second, or 0 (max) for as fast as the server answers", o.Rate)
	check(o.Batch >= 1 && o.Batch <= 10_000, "batch %d: must be 1 to 10000 events", o.Batch)
	check(o.Duration >= 0, "duration %s: must not be negative", o.Duration)
	check(o.Count >= 0, "count %d: must not be negative", o.Count)
	check(o.Duration > 0 || o.Count > 0, "duration: give a duration or a count, otherwise the run has no end")
	check(o.Connections >= 1 && o.Connections <= 10_000, "connections %d: must be 1 to 10000", o.Connections)
	check(o.MaxBodyBytes >= 1000, "max body bytes %d: must be at least 1000", o.MaxBodyBytes)
	check(o.EventsPerType >= 1, "events per type %d: must be at least 1", o.EventsPerType)
	check(o.RetryFor > 0, "retry for %s: must be positive", o.RetryFor)
	check(o.RetryPause >= time.Millisecond, "retry pause %s: must be at least 1ms", o.RetryPause)
	check(o.Timeout > 0, "timeout %s: must be positive", o.Timeout)
	check(!strings.ContainsAny(o.Token, "\r\n"), "token: must be one line")
	return errors.Join(errs...)
}

// eventsURL returns the address of a server's events.
func eventsURL(base string) (*url.URL, error) {
	u, err := baseURL(base)
	if err != nil {
		return nil, err
	}
	return u.JoinPath("events"), nil
}

// baseURL reads a server's address.
func baseURL(base string) (*url.URL, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("URL: %w", err)
	}
	if u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("URL %q: give the server's address, for example http://127.0.0.1:8080", u.Redacted())
	}
	if u.Path == "" {
		u.Path = "/" // JoinPath would otherwise give a path without a slash
	}
	return u, nil
}

// ErrTurnedAway marks a run that ended because the server's first answers said
// that nothing will ever be accepted: a bad token, a wrong address.
var ErrTurnedAway = errors.New("the server does not take these requests at all")

// Events offers events until the time or the number is reached and reports what
// came of them. The report is good also beside an error: when the context ended
// early (the error wraps its cause), when the server turned every batch away
// (ErrTurnedAway), or when a file could not be written. Batches that are refused
// or fail are not errors; they are counted.
func Events(ctx context.Context, o EventsOptions) (Report, error) {
	o.setDefaults()
	g, err := newGenerator(o)
	if err != nil {
		return Report{}, err
	}
	report, err := g.run(ctx)
	report.write(o.Out)
	if o.JSONFile != "" {
		err = errors.Join(err, writeJSON(o.JSONFile, report))
	}
	return report, err
}

// generator is one run of Events.
type generator struct {
	o       EventsOptions
	plan    *plan
	pace    pacer // of an open loop
	dialer  dialer
	started time.Time
	tally   *tally
	acked   *ackedWriter // nil without an acked file
	next    atomic.Int64 // number of the next batch of a closed loop
	giveUp  context.CancelCauseFunc
}

func newGenerator(o EventsOptions) (*generator, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	target, err := eventsURL(o.URL)
	if err != nil {
		return nil, err
	}
	g := &generator{o: o}
	if g.dialer, err = newDialer(target, o.TLS, min(o.Timeout, 5*time.Second)); err != nil {
		return nil, err
	}
	samples := []sample(nil)
	if o.PayloadFile != "" {
		if samples, err = readCorpus(o.PayloadFile); err != nil {
			return nil, err
		}
	} else {
		samples = telemetry(cycleEvents, o.EventsPerType)
	}
	if g.plan, err = newPlan(target, o.Token, samples, o.Batch, o.MaxBodyBytes, o.Count); err != nil {
		return nil, err
	}
	g.started = time.Now()
	g.tally = newTally(g.started)
	g.pace = pacer{started: g.started, rate: o.Rate, duration: o.Duration, before: g.plan.before,
		has: func(k int) bool { _, ok := g.plan.batch(k); return ok },
		missed: func(k int) {
			if r, ok := g.plan.batch(k); ok {
				g.tally.missed(len(r.slots))
			}
		}}
	if o.AckedFile != "" {
		g.acked, err = createAcked(o.AckedFile, o.URL, g.started, g.plan.payloads)
	}
	return g, err
}

func (g *generator) run(parent context.Context) (Report, error) {
	ctx, giveUp := context.WithCancelCause(parent)
	defer giveUp(nil)
	g.giveUp = giveUp
	cpu := cpuTime()
	due := make(chan int, g.o.Connections)
	var workers, others sync.WaitGroup
	for range g.o.Connections {
		workers.Go(func() { g.work(ctx, due) })
	}
	if g.o.Rate > 0 {
		others.Go(func() { g.pace.run(ctx, due) })
	}
	stopped := make(chan struct{})
	others.Go(func() { g.watch(stopped) })
	workers.Wait()
	close(stopped)
	others.Wait()

	r := Report{
		URL: g.o.URL, Mode: OpenLoop, Rate: g.o.Rate, Batch: g.o.Batch, Connections: g.o.Connections,
		Started: g.started.UTC(), CPUSeconds: (cpuTime() - cpu).Seconds(),
	}
	if g.o.Rate == 0 {
		r.Mode = ClosedLoop
	}
	g.tally.report(&r)
	var err error
	if ctx.Err() != nil {
		r.Interrupted = true
		err = fmt.Errorf("the run was ended before its time: %w", context.Cause(ctx))
	}
	if g.acked != nil {
		err = errors.Join(err, g.acked.close(time.Now()))
	}
	return r, err
}

// watch prints progress and flushes the acked file each second.
func (g *generator) watch(stopped <-chan struct{}) {
	everySecond(stopped, func(now time.Time) {
		g.tally.progress(g.o.Out, g.started, now)
		if g.acked == nil {
			return
		}
		if err := g.acked.flush(); err != nil {
			g.giveUp(fmt.Errorf("acked file: %w", err))
		}
	})
}

// everySecond calls do each second until stopped is closed.
func everySecond(stopped <-chan struct{}, do func(now time.Time)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stopped:
			return
		case now := <-tick.C:
			do(now)
		}
	}
}

// work sends batches over one connection until there are no more.
func (g *generator) work(ctx context.Context, due <-chan int) {
	c := newConn(g.dialer)
	defer c.close()
	var buf []byte
	for {
		k, intended, ok := g.nextBatch(ctx, due)
		if !ok {
			return
		}
		r, ok := g.plan.batch(k)
		if !ok {
			return
		}
		buf = g.plan.fill(buf, r, intended, g.plan.before(k))
		g.tally.sent(r, g.o.Rate > 0 && time.Since(intended) > time.Millisecond)
		x := g.deliver(ctx, c, r, buf)
		now := time.Now()
		x.latency = now.Sub(intended)
		if g.acked != nil && (x.outcome == accepted || x.outcome == unknown) {
			g.acked.batch(buf, r, x.verdict.rejected, x.outcome == accepted)
		}
		g.tally.done(r, x, now)
		if x.outcome == unreached && g.o.Rate == 0 {
			// A closed loop would otherwise spin while the server is away.
			wait(ctx, 50*time.Millisecond)
		}
	}
}

// nextBatch waits for the next batch and says when it was meant to leave.
func (g *generator) nextBatch(ctx context.Context, due <-chan int) (k int, intended time.Time, ok bool) {
	if g.o.Rate > 0 {
		k, ok = <-due
		if !ok {
			return 0, intended, false
		}
		return k, g.pace.intended(k), ctx.Err() == nil
	}
	now := time.Now()
	if ctx.Err() != nil || (g.o.Duration > 0 && now.Sub(g.started) >= g.o.Duration) {
		return 0, intended, false
	}
	return int(g.next.Add(1) - 1), now, true
}

// deliver sends one batch, again and again if that is wanted, until its outcome
// stands.
func (g *generator) deliver(ctx context.Context, c *conn, r *request, request []byte) result {
	began := time.Now()
	pause := min(50*time.Millisecond, g.o.RetryPause)
	doubtful := false // an earlier attempt may have been stored
	for attempts := 1; ; attempts++ {
		a, err := c.roundTrip(ctx, request, g.o.Timeout)
		x := result{outcome: judge(a, err), attempts: attempts}
		if x.outcome == accepted {
			if x.verdict, err = parseVerdict(a.body, len(r.slots)); err != nil {
				x.outcome = unknown
			}
		}
		g.tally.answered(a, err, x.outcome)
		g.turnedAway(a, x.outcome)
		doubtful = doubtful || x.outcome == unknown
		retry := g.o.Retry && (x.outcome == refused || x.outcome == unknown || x.outcome == unreached)
		if retry {
			delay := pause/2 + rand.N(pause/2)
			if a.retryAfter > 0 && err == nil {
				delay = a.retryAfter
			}
			pause = min(2*pause, g.o.RetryPause)
			if time.Since(began)+delay < g.o.RetryFor && wait(ctx, delay) {
				continue
			}
		}
		if doubtful && x.outcome != accepted {
			x.outcome = unknown
		}
		return x
	}
}

// turnedAway ends the run when the server says that no batch will be accepted
// and none ever was.
func (g *generator) turnedAway(a answer, o outcome) {
	if o != failed {
		return
	}
	switch a.status {
	case 401, 403, 404, 405, 415:
		g.tally.mu.Lock()
		none := g.tally.counts.Acked == 0
		g.tally.mu.Unlock()
		if none {
			g.giveUp(fmt.Errorf("%w: %s", ErrTurnedAway, explain(a)))
		}
	}
}

// wait waits, and says whether it did so in full.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
