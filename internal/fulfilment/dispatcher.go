package fulfilment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"millrace/internal/coalesce"
)

// Bounds and rhythms of a Dispatcher that nobody needs to choose.
const (
	// claimEvery is the least time between two claims: under load it gathers what
	// came due into one transaction, and one delivery alone never waits for it.
	claimEvery = 10 * time.Millisecond
	// backlogPage is how many endpoints one look at the backlog covers.
	backlogPage = 256
	// storeAwayDelay is the pause after the store failed.
	storeAwayDelay = time.Second
	// stopGrace is how long attempts under way may still take when Run ends.
	stopGrace = 3 * time.Second
	// settleTries is how often a batch of outcomes is offered to the store. After that
	// its deliveries are sent again when their lease ends.
	settleTries = 4

	keepEvery = 30 * time.Second
	keepBatch = 1000
)

var errStopping = errors.New("the dispatcher is stopping")

// Dispatcher sends what is due. See the package comment.
type Dispatcher struct {
	o         Options
	endpoints *endpointCache
	enqueued  <-chan struct{}
	mended    <-chan EndpointRef
	client    *http.Client

	// What follows belongs to the goroutine of Run.
	lanes map[EndpointRef]*lane
	// waiting are the lanes that have a queue.
	waiting map[*lane]struct{}
	// places counts attempts under way, claims those and what waits here.
	places, claims ledger
	// look says that the backlog is to be looked at, from after on.
	look  bool
	after EndpointRef
	// notBefore is when the store is asked next at the earliest.
	notBefore time.Time

	settlements *coalesce.Caller[Settlement, struct{}]
	results     chan result
	tasks       sync.WaitGroup
}

// result is the end of an attempt, when that was, and how many pauses its lane had
// had at its begin.
type result struct {
	lane    *lane
	verdict verdict
	pauses  int
	at      time.Time
}

// NewDispatcher returns the dispatcher of a Service: it uses the same options and
// is woken when the Service has written deliveries. A Service has at most one;
// other processes may have theirs on the same store.
func NewDispatcher(s *Service) *Dispatcher {
	d := &Dispatcher{o: s.o, endpoints: s.endpoints, enqueued: s.enqueued, mended: s.mended, client: newClient(&s.o), results: make(chan result, s.o.Policy.InFlight)}
	d.openLanes()
	return d
}

// Run sends until ctx ends, then gives back what it holds and returns nil. It may be
// called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	attempts, stopAttempts := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopAttempts(nil)
	defer d.client.CloseIdleConnections()
	d.settlements = coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 256, MaxQueuedWeight: int64(d.o.Policy.InFlight) + 1}, d.settle)
	defer d.settlements.Close()
	d.tasks.Go(func() { d.keep(ctx) })
	poll := time.NewTicker(d.o.Policy.Poll)
	defer poll.Stop()

	d.look = true
	for ctx.Err() == nil {
		var next <-chan time.Time
		if wait := d.claim(ctx); wait > 0 {
			next = time.After(wait)
		}
		d.launch(attempts)
		select {
		case <-ctx.Done():
		case r := <-d.results:
			d.finish(r)
		case <-d.enqueued:
			d.look = true
		case ref := <-d.mended:
			if l := d.lanes[ref]; l != nil {
				l.pausedUntil = time.Time{}
			}
			d.look = true
		case <-poll.C:
			d.look = true
		case <-next:
		}
		d.finishMore()
	}
	d.giveBack()
	// What is under way gets a moment, then its requests end.
	defer time.AfterFunc(stopGrace, func() { stopAttempts(errStopping) }).Stop()
	for d.places.total.taken > 0 {
		d.finish(<-d.results)
	}
	d.tasks.Wait()
	return nil
}

// claim takes what is due from the store as far as there is room. It returns after
// what time it is to be called again at the latest, 0 if nothing is known to wait.
func (d *Dispatcher) claim(ctx context.Context) time.Duration {
	if !d.look && !d.wantsMore() {
		return 0
	}
	if wait := time.Until(d.notBefore); wait > 0 {
		return wait
	}
	err := d.lookForDue(ctx)
	if err == nil {
		err = d.claimShares(ctx, d.shares())
	}
	if err != nil && ctx.Err() == nil {
		d.o.Logger.Error("due webhooks cannot be claimed, trying again in "+storeAwayDelay.String(), "error", err)
		d.notBefore = time.Now().Add(storeAwayDelay)
		return storeAwayDelay
	}
	d.notBefore = time.Now().Add(claimEvery)
	if d.look || d.wantsMore() {
		return claimEvery
	}
	return 0
}

// lookForDue marks the lanes of endpoints that have something due.
func (d *Dispatcher) lookForDue(ctx context.Context) error {
	if !d.look {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	due, next, err := d.o.Store.Backlog(ctx, d.o.Now(), d.after, backlogPage)
	if err != nil {
		return err
	}
	for _, ref := range due {
		d.lane(ref).more = true
	}
	d.after, d.look = next, next != EndpointRef{}
	return nil
}

func (d *Dispatcher) claimShares(ctx context.Context, shares []Share) error {
	if len(shares) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	until, now := time.Now().Add(d.o.Policy.Lease), d.o.Now()
	deliveries, err := d.o.Store.Claim(ctx, now, now.Add(d.o.Policy.Lease), shares)
	if err != nil {
		return err
	}
	got := make(map[EndpointRef]int, len(shares))
	for i := range deliveries {
		v := &deliveries[i]
		l := d.lane(EndpointRef{v.TenantID, v.EndpointID})
		l.queue = append(l.queue, leased{*v, until})
		d.claims.add(l, 1)
		d.waiting[l] = struct{}{}
		got[l.ref]++
	}
	for _, s := range shares {
		d.lane(s.EndpointRef).more = got[s.EndpointRef] == s.Limit
	}
	return nil
}

// launch begins attempts while there are places.
func (d *Dispatcher) launch(ctx context.Context) {
	var untried []Settlement
	for l := d.nextLane(); l != nil; l = d.nextLane() {
		v := d.pop(l)
		switch {
		case time.Until(v.until) < d.o.Policy.Timeout*3/2:
			// It waited so long that someone else may claim it during the attempt.
			untried = append(untried, d.released(&v.delivery))
			l.more = true
		case l.pauses > 0 && d.tooOld(&v.delivery):
			untried = append(untried, d.outlived(&v.delivery))
		default:
			l.inFlight++
			d.places.add(l, 1)
			d.claims.add(l, 1)
			pauses := l.pauses
			d.tasks.Go(func() { d.deliver(ctx, l, &v.delivery, pauses) })
		}
	}
	d.settleUntried(untried)
}

// deliver makes one attempt and settles it.
func (d *Dispatcher) deliver(ctx context.Context, l *lane, v *Delivery, pauses int) {
	s, how := d.attempt(ctx, v)
	if s.Outcome == OutcomeGaveUp && how != wasOff { // what is off was told of when it was switched off
		d.o.Logger.Warn("a webhook is given up", "tenant", v.TenantID, "endpoint", v.EndpointID, "delivery", v.ID,
			"order", v.OrderID, "attempts", v.Attempts, "reason", s.Error, "dead_letter", s.Letter)
	}
	// Do ends when the store has it or has failed, so it needs no deadline. A failure
	// was logged: the lease ends and the delivery is sent again.
	_, _ = d.settlements.Do(context.Background(), s, 1)
	if s.Disable != nil {
		d.endpoints.forget(v.TenantID)
	}
	d.results <- result{l, how, pauses, s.At}
}

// settle writes outcomes, and tries again for a while if the store fails.
func (d *Dispatcher) settle(calls []*coalesce.Call[Settlement, struct{}]) {
	batch := make([]Settlement, len(calls))
	for i, call := range calls {
		batch[i] = call.In
	}
	err := d.write(batch)
	for _, call := range calls {
		call.Err = err
	}
}

func (d *Dispatcher) write(batch []Settlement) error {
	pause := 50 * time.Millisecond
	for tries := 1; ; tries++ {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		err := d.o.Store.Settle(ctx, batch)
		cancel()
		if err == nil {
			return nil
		}
		if tries == settleTries {
			d.o.Logger.Error("the outcome of webhooks cannot be stored: they are sent again when their lease ends",
				"deliveries", len(batch), "first", batch[0].DeliveryID, "lease", d.o.Policy.Lease, "error", err)
			return err
		}
		time.Sleep(pause)
		pause *= 4
	}
}

// finishMore takes note of the attempts that ended meanwhile.
func (d *Dispatcher) finishMore() {
	for {
		select {
		case r := <-d.results:
			d.finish(r)
		default:
			return
		}
	}
}

func (d *Dispatcher) released(v *Delivery) Settlement {
	now := d.o.Now()
	return Settlement{TenantID: v.TenantID, DeliveryID: v.ID, Attempt: v.Attempts, At: now, Outcome: OutcomeReleased, RetryAt: now}
}

// tooOld reports whether a delivery has had the time that its whole schedule
// takes. It can have that without all its attempts where its lane paused.
func (d *Dispatcher) tooOld(v *Delivery) bool {
	return d.o.Now().Sub(v.CreatedAt) > d.o.Policy.lifetime()
}

// outlived gives up a delivery that is too old, without the attempt it was claimed
// for: otherwise what an endpoint that is never mended has waiting would only grow.
func (d *Dispatcher) outlived(v *Delivery) Settlement {
	s := Settlement{TenantID: v.TenantID, DeliveryID: v.ID, Attempt: v.Attempts, At: d.o.Now(), Outcome: OutcomeGaveUp, Status: v.LastStatus, Letter: true}
	s.Error = fmt.Sprintf("given up after %d attempts: the endpoint has failed for longer than webhooks are tried", v.Attempts-1)
	if v.LastError != "" {
		s.Error += "; the last time: " + v.LastError
	}
	d.o.Logger.Warn("a webhook is given up", "tenant", v.TenantID, "endpoint", v.EndpointID, "delivery", v.ID,
		"order", v.OrderID, "attempts", v.Attempts-1, "reason", s.Error, "dead_letter", s.Letter)
	return s
}

// settleUntried writes what becomes of deliveries that were claimed and not tried.
func (d *Dispatcher) settleUntried(list []Settlement) {
	if len(list) > 0 {
		d.tasks.Go(func() { _ = d.write(list) }) // a failure was logged
	}
}

// giveBack releases everything that waits here.
func (d *Dispatcher) giveBack() {
	var list []Settlement
	for l := range d.waiting {
		list = append(list, d.shed(l)...)
	}
	d.settleUntried(list)
}

// shed empties a lane's queue.
func (d *Dispatcher) shed(l *lane) []Settlement {
	var list []Settlement
	for len(l.queue) > 0 {
		v := d.pop(l)
		list = append(list, d.released(&v.delivery))
		l.more = true
	}
	return list
}

// keep counts what is due, makes due what a wrong clock has put too far away, and
// drops old deliveries, until ctx ends.
func (d *Dispatcher) keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		if err := d.keepOnce(ctx); err != nil && ctx.Err() == nil {
			d.o.Logger.Error("webhook deliveries cannot be looked after, trying again in "+keepEvery.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Dispatcher) keepOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	now := d.o.Now()
	horizon := now.Add(d.o.Policy.horizon())
	due, beyond, err := d.o.Store.Due(ctx, now, horizon)
	if err != nil {
		return err
	}
	d.o.Metrics.due.Set(float64(due))
	if beyond > 0 {
		n, err := d.o.Store.Recall(ctx, now, horizon, keepBatch)
		if err != nil {
			return err
		}
		d.o.Logger.Warn("webhooks were due further in the future than they can be, as after a change of the clock; they are due now", "deliveries", n)
	}
	for range 10 { // what is left is for the next time
		n, err := d.o.Store.DropSettled(ctx, now.Add(-d.o.Policy.KeepSettled), keepBatch)
		if err != nil || n < keepBatch {
			return err
		}
	}
	return nil
}
