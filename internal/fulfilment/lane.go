package fulfilment

import (
	"cmp"
	"slices"
	"time"
)

const (
	// claimAhead is how many times its limit an endpoint has waiting here, so that
	// none is idle while the next are claimed.
	claimAhead = 3
	// maxLanes bounds what is remembered of endpoints that are idle.
	maxLanes = 10_000
	// failuresToPause is how many failures in a row make a lane pause, and firstPause
	// to maxPause how long: twice as long each time.
	failuresToPause = 3
	firstPause      = 5 * time.Second
	maxPause        = 5 * time.Minute
)

// standing is what the last attempt says of an endpoint.
type standing int

const (
	untried standing = iota
	working
	failing
)

// lane is an endpoint's bulkhead: its own queue and its own limit. The limit begins
// at one, rises by one with each attempt that goes well and falls by half with each
// that fails. After failures in a row the lane pauses: nothing is claimed for it.
// Then one attempt shows whether the endpoint is back.
type lane struct {
	ref      EndpointRef
	queue    []leased
	inFlight int
	limit    int
	more     bool // the store has more that is due, as far as is known

	standing standing
	failures int // in a row
	// pauses counts the pauses in a row, the last of which ends at pausedUntil.
	pauses      int
	pausedUntil time.Time
}

// leased is a claimed delivery and when the claim ends, by the monotonic clock.
type leased struct {
	delivery Delivery
	until    time.Time
}

// ledger counts what is taken of something that all lanes share. Its bounds see to
// it that endpoints that take their time to fail leave room for those that work,
// however many they are:
//
//	one tenant                           1/4
//	one tenant's lanes that do not work  1/8
//	all lanes that fail                  1/2
//	those and all that are untried       3/4
type ledger struct {
	size    int
	total   usage
	tenants map[string]usage // without those that have nothing
}

type usage struct{ taken, unproven, failing int }

func (u *usage) add(s standing, n int) {
	u.taken += n
	if s != working {
		u.unproven += n
	}
	if s == failing {
		u.failing += n
	}
}

// add takes n for a lane, or gives them back if n is negative.
func (g *ledger) add(l *lane, n int) {
	g.total.add(l.standing, n)
	t := g.tenants[l.ref.TenantID]
	t.add(l.standing, n)
	if t == (usage{}) {
		delete(g.tenants, l.ref.TenantID)
	} else {
		g.tenants[l.ref.TenantID] = t
	}
}

// room returns how many more a lane may take.
func (g *ledger) room(l *lane) int {
	t := g.tenants[l.ref.TenantID]
	n := min(g.size-g.total.taken, part(g.size, 4)-t.taken)
	if l.standing != working {
		n = min(n, max(g.size-part(g.size, 4), 1)-g.total.unproven, part(g.size, 8)-t.unproven)
	}
	if l.standing == failing {
		n = min(n, part(g.size, 2)-g.total.failing)
	}
	return max(n, 0)
}

// part is an nth of a size, and at least one.
func part(size, n int) int { return max(size/n, 1) }

func (d *Dispatcher) openLanes() {
	n := d.o.Policy.InFlight
	d.lanes, d.waiting = map[EndpointRef]*lane{}, map[*lane]struct{}{}
	d.places = ledger{size: n, tenants: map[string]usage{}}
	d.claims = ledger{size: n * (claimAhead + 1), tenants: map[string]usage{}}
}

// maxLimit bounds the limits of lanes: two of one tenant are never in each other's way.
func (d *Dispatcher) maxLimit() int {
	return min(d.o.Policy.PerEndpoint, part(d.o.Policy.InFlight, 8))
}

func (d *Dispatcher) lane(ref EndpointRef) *lane {
	l := d.lanes[ref]
	if l == nil {
		if len(d.lanes) >= maxLanes {
			d.forgetIdle()
		}
		l = &lane{ref: ref, limit: 1}
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

// paused reports whether a lane pauses. A pause that ends further away than any can
// was begun by a clock that was wrong.
func (l *lane) paused(now time.Time) bool {
	left := l.pausedUntil.Sub(now)
	return left > 0 && left <= maxPause
}

// wants reports whether a lane is to be given more that the store has.
func (d *Dispatcher) wants(l *lane, now time.Time) bool {
	return l.more && len(l.queue) <= l.limit && !l.paused(now) && d.claims.room(l) > 0
}

// wantsMore reports whether any lane is to be given more that the store has.
func (d *Dispatcher) wantsMore() bool {
	now := d.o.Now()
	for _, l := range d.lanes {
		if d.wants(l, now) {
			return true
		}
	}
	return false
}

// shares divides the room for claims among the lanes that want more, one each at
// least. Where even that does not fit, tenants that have little come first, and
// among them the order of the map decides, which is random.
func (d *Dispatcher) shares() []Share {
	now := d.o.Now()
	var wanting []*lane
	for _, l := range d.lanes {
		if d.wants(l, now) {
			wanting = append(wanting, l)
		}
	}
	slices.SortStableFunc(wanting, func(a, b *lane) int {
		return cmp.Compare(d.claims.tenants[a.ref.TenantID].taken, d.claims.tenants[b.ref.TenantID].taken)
	})
	each := part(d.claims.size-d.claims.total.taken, max(len(wanting), 1))
	shares := make([]Share, 0, len(wanting))
	given := make([]*lane, 0, len(wanting))
	for _, l := range wanting {
		if n := min(l.limit*claimAhead-len(l.queue), each, d.claims.room(l)); n > 0 {
			d.claims.add(l, n) // so that the next one sees it
			shares, given = append(shares, Share{l.ref, n}), append(given, l)
		}
	}
	for i, l := range given {
		d.claims.add(l, -shares[i].Limit) // what is claimed is counted when it is there
	}
	return shares
}

// nextLane returns the lane that is to have the next place: of those that may have
// one, one of the tenant that has the fewest. nil if there is none.
func (d *Dispatcher) nextLane() *lane {
	var best *lane
	var bestHas int
	for l := range d.waiting {
		if l.inFlight >= l.limit || d.places.room(l) == 0 {
			continue
		}
		has := d.places.tenants[l.ref.TenantID].taken
		if best == nil || has < bestHas || has == bestHas && l.inFlight < best.inFlight {
			best, bestHas = l, has
		}
	}
	return best
}

// pop takes the first of a lane's queue, which then is no longer counted as claimed.
func (d *Dispatcher) pop(l *lane) leased {
	v := l.queue[0]
	l.queue[0] = leased{} // so that it can be collected
	l.queue = l.queue[1:]
	if len(l.queue) == 0 {
		l.queue = nil
		delete(d.waiting, l)
	}
	d.claims.add(l, -1)
	return v
}

// finish takes note of the end of an attempt.
func (d *Dispatcher) finish(r result) {
	l := r.lane
	d.places.add(l, -1)
	d.claims.add(l, -1)
	l.inFlight--
	switch r.verdict {
	case noVerdict:
	case didFail:
		d.stand(l, failing)
		l.limit = max(l.limit/2, 1)
		if l.failures++; l.failures >= failuresToPause && r.pauses == l.pauses {
			d.pause(l, r.at) // not for an attempt from before the last pause: that one was its cause
		}
	default:
		d.stand(l, working)
		l.limit = min(l.limit+1, d.maxLimit())
		l.failures, l.pauses, l.pausedUntil = 0, 0, time.Time{}
	}
}

// stand gives a lane another standing, and what it holds with it.
func (d *Dispatcher) stand(l *lane, s standing) {
	held := l.inFlight + len(l.queue)
	d.places.add(l, -l.inFlight)
	d.claims.add(l, -held)
	l.standing = s
	d.places.add(l, l.inFlight)
	d.claims.add(l, held)
}

// pause gives back what waits for an endpoint that keeps failing, and leaves it
// alone for a while from then on.
func (d *Dispatcher) pause(l *lane, from time.Time) {
	length := maxPause
	if l.pauses < 6 { // 5 s * 2^6 is beyond the longest
		length = firstPause << l.pauses
	}
	if l.pauses == 0 {
		d.o.Logger.Warn("a webhook endpoint keeps failing: its deliveries wait, and now and then one is tried",
			"tenant", l.ref.TenantID, "endpoint", l.ref.EndpointID, "pause", length, "longest_pause", maxPause)
	}
	l.pauses++
	l.pausedUntil, l.limit = from.Add(length), 1
	d.settleUntried(d.shed(l))
}
