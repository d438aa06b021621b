package fulfilment

import (
	"context"
	"errors"
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
	// claimAhead is how many times its limit an endpoint has waiting here, so that
	// none is idle while the next are claimed.
	claimAhead = 3
	// backlogPage is how many endpoints one look at the backlog covers.
	backlogPage = 256
	// maxLanes bounds what is remembered of endpoints that are idle.
	maxLanes = 10_000
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
	client    *http.Client

	// What follows belongs to the goroutine of Run.
	lanes map[EndpointRef]*lane
	// waiting are the lanes that have a queue.
	waiting map[*lane]struct{}
	// inFlight and claimed count attempts under way, and those with what waits here.
	inFlight, claimed int
	// look says that the backlog is to be looked at, from after on.
	look  bool
	after EndpointRef
	// notBefore is when the store is asked next at the earliest.
	notBefore time.Time

	settlements *coalesce.Caller[Settlement, struct{}]
	results     chan result
	tasks       sync.WaitGroup
}

// lane is an endpoint's bulkhead: its own queue and its own limit. The limit falls
// by half with each attempt that fails and rises by one with each that does not,
// so endpoints that are slow to fail hold few of the places that all share.
type lane struct {
	ref      EndpointRef
	queue    []leased
	inFlight int
	limit    int
	more     bool // the store has more that is due, as far as is known
}

// leased is a claimed delivery and when the claim ends, by the monotonic clock.
type leased struct {
	delivery Delivery
	until    time.Time
}

// result is the end of an attempt.
type result struct {
	lane     *lane
	wellDone bool
}

// NewDispatcher returns the dispatcher of a Service: it uses the same options and
// is woken when the Service has written deliveries. A Service has at most one;
// other processes may have theirs on the same store.
func NewDispatcher(s *Service) *Dispatcher {
	return &Dispatcher{o: s.o, endpoints: s.endpoints, enqueued: s.enqueued, client: newClient(&s.o),
		lanes: map[EndpointRef]*lane{}, waiting: map[*lane]struct{}{}, results: make(chan result, s.o.Policy.InFlight)}
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
		case <-poll.C:
			d.look = true
		case <-next:
		}
		d.finishMore()
	}
	d.giveBack()
	// What is under way gets a moment, then its requests end.
	defer time.AfterFunc(stopGrace, func() { stopAttempts(errStopping) }).Stop()
	for d.inFlight > 0 {
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

// wantsMore reports whether a lane has room for more that the store has.
func (d *Dispatcher) wantsMore() bool {
	if d.claimed >= d.maxClaimed() {
		return false
	}
	for _, l := range d.lanes {
		if l.more && len(l.queue) <= l.limit {
			return true
		}
	}
	return false
}

// maxClaimed bounds what this process holds.
func (d *Dispatcher) maxClaimed() int { return d.o.Policy.InFlight * (claimAhead + 1) }

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

func (d *Dispatcher) lane(ref EndpointRef) *lane {
	l := d.lanes[ref]
	if l == nil {
		if len(d.lanes) >= maxLanes {
			d.forgetIdle()
		}
		l = &lane{ref: ref, limit: d.o.Policy.PerEndpoint}
		d.lanes[ref] = l
	}
	return l
}

// forgetIdle drops what is known of endpoints for which nothing is held.
func (d *Dispatcher) forgetIdle() {
	for ref, l := range d.lanes {
		if l.inFlight == 0 && len(l.queue) == 0 && !l.more {
			delete(d.lanes, ref)
		}
	}
}

// shares divides the room among the lanes that want more, one place at least each.
// The order of the map, which is random, decides who is left out when even that
// does not fit.
func (d *Dispatcher) shares() []Share {
	var wanting []*lane
	for _, l := range d.lanes {
		if l.more && len(l.queue) <= l.limit {
			wanting = append(wanting, l)
		}
	}
	room := d.maxClaimed() - d.claimed
	each := max(room/max(len(wanting), 1), 1)
	var shares []Share
	for _, l := range wanting {
		n := min(l.limit*claimAhead-len(l.queue), each, room)
		if n < 1 {
			continue
		}
		room -= n
		shares = append(shares, Share{l.ref, n})
	}
	return shares
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
		d.waiting[l] = struct{}{}
		got[l.ref]++
	}
	d.claimed += len(deliveries)
	for _, s := range shares {
		d.lane(s.EndpointRef).more = got[s.EndpointRef] == s.Limit
	}
	return nil
}

// launch begins attempts, one of each lane in turn, while there are places.
func (d *Dispatcher) launch(ctx context.Context) {
	var expired []Settlement
	for began := true; began; {
		began = false
		for l := range d.waiting {
			if d.inFlight >= d.o.Policy.InFlight {
				break
			}
			if l.inFlight >= l.limit {
				continue
			}
			v := l.pop()
			if len(l.queue) == 0 {
				delete(d.waiting, l)
			}
			began = true
			if time.Until(v.until) < d.o.Policy.Timeout*3/2 {
				// It waited so long that someone else may claim it during the attempt.
				expired = append(expired, d.released(&v.delivery))
				l.more = true
				continue
			}
			l.inFlight++
			d.inFlight++
			d.tasks.Go(func() { d.deliver(ctx, l, &v.delivery) })
		}
	}
	d.release(expired)
}

// pop takes the first of a lane's queue.
func (l *lane) pop() leased {
	v := l.queue[0]
	l.queue[0] = leased{} // so that it can be collected
	l.queue = l.queue[1:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	return v
}

// deliver makes one attempt and settles it.
func (d *Dispatcher) deliver(ctx context.Context, l *lane, v *Delivery) {
	s, wellDone := d.attempt(ctx, v)
	if s.Outcome == OutcomeGaveUp {
		d.o.Logger.Warn("a webhook is given up", "tenant", v.TenantID, "endpoint", v.EndpointID, "delivery", v.ID,
			"order", v.OrderID, "attempts", v.Attempts, "reason", s.Error, "dead_letter", s.Letter)
	}
	// Do ends when the store has it or has failed, so it needs no deadline. A failure
	// was logged: the lease ends and the delivery is sent again.
	_, _ = d.settlements.Do(context.Background(), s, 1)
	if s.Disable != nil {
		d.endpoints.forget(v.TenantID)
	}
	d.results <- result{l, wellDone}
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

// finish takes note of the end of an attempt.
func (d *Dispatcher) finish(r result) {
	d.inFlight--
	d.claimed--
	r.lane.inFlight--
	if r.wellDone {
		r.lane.limit = min(r.lane.limit+1, d.o.Policy.PerEndpoint)
	} else {
		r.lane.limit = max(r.lane.limit/2, 1)
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

// release gives back deliveries that were claimed and not tried.
func (d *Dispatcher) release(list []Settlement) {
	if len(list) == 0 {
		return
	}
	d.claimed -= len(list)
	d.tasks.Go(func() { _ = d.write(list) }) // a failure was logged
}

// giveBack releases everything that waits here.
func (d *Dispatcher) giveBack() {
	var list []Settlement
	for l := range d.waiting {
		for i := range l.queue {
			list = append(list, d.released(&l.queue[i].delivery))
		}
		l.queue = nil
	}
	clear(d.waiting)
	d.release(list)
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
