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

// Orders puts in products and stock, offers orders until the time or the number
// is reached, and reports what came of them. The report is good also beside an
// error: when the context ended early (the error wraps its cause), when the server
// turned every order away (ErrTurnedAway), when it broke a promise that can be
// seen from here (ErrBroken), or when a file could not be written. Orders that are
// refused or fail are not errors; they are counted.
func Orders(ctx context.Context, o OrdersOptions) (OrdersReport, error) {
	o.setDefaults()
	b, err := newBuyers(o)
	if err != nil {
		return OrdersReport{}, err
	}
	seeds, err := b.seed(ctx)
	if err != nil {
		return OrdersReport{}, err
	}
	if err := b.begin(seeds); err != nil {
		return OrdersReport{}, err
	}
	report, err := b.run(ctx)
	report.write(o.Out)
	if o.JSONFile != "" {
		err = errors.Join(err, writeJSON(o.JSONFile, report))
	}
	return report, err
}

// buyers is one run of Orders.
type buyers struct {
	o       OrdersOptions
	base    *url.URL
	plan    *orderPlan
	pace    pacer // of an open loop
	dialer  dialer
	began   time.Time // of the seeding
	started time.Time // of the orders
	tally   *orderTally
	acked   *orderAckedWriter // nil without an acked file
	watcher *payWatcher       // nil unless orders are watched
	next    atomic.Int64      // number of the next order of a closed loop
	giveUp  context.CancelCauseFunc
}

func newBuyers(o OrdersOptions) (*buyers, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	base, err := baseURL(o.URL)
	if err != nil {
		return nil, err
	}
	b := &buyers{o: o, base: base, plan: newOrderPlan(base, o), began: time.Now()}
	b.dialer, err = newDialer(base, o.TLS, min(o.Timeout, 5*time.Second))
	return b, err
}

// begin starts the clock.
func (b *buyers) begin(seeds []ackedSKU) error {
	b.started = time.Now()
	b.tally = newOrderTally(b.started)
	b.pace = pacer{started: b.started, rate: b.o.Rate, duration: b.o.Duration,
		before: func(k int) int { return k }, has: b.has,
		missed: func(int) { b.tally.update(func(c *OrderCounts) { c.Missed++ }) }}
	if b.o.Watch {
		b.watcher = newPayWatcher(b)
	}
	if b.o.AckedFile == "" {
		return nil
	}
	a, err := createOrderAcked(b.o.AckedFile, b.o.URL, b.started, b.o.Tokens, seeds)
	b.acked = &a
	return err
}

// has says whether there is an order number k.
func (b *buyers) has(k int) bool { return b.o.Count == 0 || k < b.o.Count }

func (b *buyers) run(parent context.Context) (OrdersReport, error) {
	ctx, giveUp := context.WithCancelCause(parent)
	defer giveUp(nil)
	b.giveUp = giveUp
	cpu := cpuTime()
	due := make(chan int, b.o.Connections)
	var workers, others sync.WaitGroup
	for range b.o.Connections {
		workers.Go(func() { b.work(ctx, due) })
	}
	if b.o.Rate > 0 {
		others.Go(func() { b.pace.run(ctx, due) })
	}
	if b.watcher != nil {
		b.watcher.start(ctx)
	}
	stopped := make(chan struct{})
	others.Go(func() { b.progress(stopped) })
	workers.Wait()
	close(stopped)
	others.Wait()

	r := OrdersReport{
		URL: b.o.URL, Mode: OpenLoop, Rate: b.o.Rate, SKUs: b.o.SKUs, Zipf: b.o.Zipf, Lines: b.o.Lines.String(), Connections: b.o.Connections,
		Started: b.started.UTC(), SeedSeconds: b.started.Sub(b.began).Seconds(), CPUSeconds: (cpuTime() - cpu).Seconds(),
	}
	if b.o.Rate == 0 {
		r.Mode = ClosedLoop
	}
	var err error
	if b.watcher != nil {
		err = b.watcher.finish(ctx, &r)
	}
	b.tally.report(&r)
	if r.Drained {
		r.PaidPerSecond = float64(r.Orders.Placed) / (r.Seconds + r.DrainSeconds)
	}
	if ctx.Err() != nil {
		r.Interrupted = true
		err = fmt.Errorf("the run was ended before its time: %w", context.Cause(ctx))
	}
	if b.acked != nil {
		err = errors.Join(err, b.acked.close(time.Now()))
	}
	if r.Orders.Broken > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d times, such as: %s", ErrBroken, r.Orders.Broken, r.Broken[0]))
	}
	return r, err
}

// progress prints a line and flushes the acked file each second.
func (b *buyers) progress(stopped <-chan struct{}) {
	everySecond(stopped, func(now time.Time) {
		b.tally.progress(b.o.Out, b.started, now)
		if b.acked == nil {
			return
		}
		if err := b.acked.flush(); err != nil {
			b.giveUp(fmt.Errorf("acked file: %w", err))
		}
	})
}

// work places orders over one connection until there are no more.
func (b *buyers) work(ctx context.Context, due <-chan int) {
	w := &buyer{buyers: b, conn: newConn(b.dialer), draw: b.plan.drawer()}
	defer w.close()
	for {
		k, intended, ok := b.nextOrder(ctx, due)
		if !ok {
			return
		}
		if o := w.order(ctx, k, intended); o == orderUnreached && b.o.Rate == 0 {
			// A closed loop would otherwise spin while the server is away.
			wait(ctx, 50*time.Millisecond)
		}
	}
}

// nextOrder waits for the next order and says when it was meant to leave.
func (b *buyers) nextOrder(ctx context.Context, due <-chan int) (k int, intended time.Time, ok bool) {
	if b.o.Rate > 0 {
		if k, ok = <-due; !ok {
			return 0, intended, false
		}
		return k, b.pace.intended(k), ctx.Err() == nil
	}
	now := time.Now()
	if ctx.Err() != nil || b.o.Duration > 0 && now.Sub(b.started) >= b.o.Duration {
		return 0, intended, false
	}
	k = int(b.next.Add(1) - 1)
	return k, now, b.has(k)
}

// turnedAway ends the run when the server says that no order will be accepted and
// none ever was.
func (b *buyers) turnedAway(a answer, o orderOutcome) {
	if o != orderFailed {
		return
	}
	switch a.status {
	case 401, 403, 404, 405, 415:
		none := false
		b.tally.update(func(c *OrderCounts) { none = c.Placed == 0 })
		if none {
			b.giveUp(fmt.Errorf("%w: %s", ErrTurnedAway, explain(a)))
		}
	}
}
