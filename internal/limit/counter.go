package limit

import (
	"math"
	"sync"
	"time"
)

// counter is one key's sliding window. If the limit is shared it is this instance's
// view of the count of all. Times are nanoseconds since Windows.start.
type counter struct {
	plan    *quotaPlan
	windows *Windows
	share   *share // nil is alone

	mu       sync.Mutex
	evicted  bool  // no longer in the map; what is spent on it would be lost
	start    int64 // of the current window
	current  int64 // spent in it, by all
	previous int64 // spent in the one before
	// What this instance spent itself of them. The store is never told of more, so
	// what was spent in an outage longer than two windows does not come back.
	ownCurrent, ownPrevious int64
}

// roll goes on to the window that now is in. A clock that goes back stays.
func (c *counter) roll(now int64) {
	n := (now - c.start) / c.plan.windowNs
	switch {
	case n <= 0:
		return
	case n == 1:
		c.previous, c.ownPrevious = c.current, c.ownCurrent
	default:
		c.previous, c.ownPrevious = 0, 0
	}
	c.current, c.ownCurrent = 0, 0
	c.start += n * c.plan.windowNs
}

func (c *counter) decide(now, price int64) Decision {
	return c.plan.decide(c.current, c.previous, now-c.start, price)
}

func (c *counter) read(now, price int64) Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roll(now)
	return c.decide(now, price)
}

// spend counts n units, price times if others are not heard of. It counts nothing
// and returns false if the counter was evicted.
func (c *counter) spend(now, n, price int64) (Decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.evicted {
		return Decision{}, false
	}
	c.roll(now)
	if n > 0 {
		c.current = min(c.current+n*min(price, maxUnits/n), maxUnits)
		if c.share != nil {
			c.ownCurrent = min(c.ownCurrent+n, maxUnits)
			if c.share.spend(n) {
				c.windows.shared.hurry()
			}
		}
	}
	c.touch(now)
	return c.decide(now, price), true
}

// evict agrees if the counter says nothing that a new one would not.
func (c *counter) evict(now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roll(now)
	if c.current > 0 || c.previous > 0 || !c.share.settled(c.windows.shared) {
		return false
	}
	c.share.bury(&c.windows.base)
	c.evicted = true
	return true
}

// touch puts the counter among those of the next exchange.
func (c *counter) touch(now int64) {
	if c.share != nil && c.share.touch(now) {
		c.windows.shared.enqueue(c)
	}
}

func (c *counter) shared() *share { return c.share }

// cut writes what the store is to know.
func (c *counter) cut(e *Entry, at, _ time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.evicted {
		return false
	}
	now := int64(at.Sub(c.windows.start))
	c.roll(now)
	total, _ := c.share.cut(now, c.plan.kick())
	from := max(c.share.acked.Load(), total-c.ownCurrent-c.ownPrevious)
	*e = Entry{
		Limit: c.windows.name, Key: c.share.key, Window: time.Duration(c.plan.windowNs),
		Total: total, From: from, Late: max(total-from-c.ownCurrent, 0),
	}
	return true
}

// apply takes over what the store answered.
func (c *counter) apply(e *Entry, _, ended time.Time) {
	c.share.acknowledge(e.Total)
	c.see(e, int64(ended.Sub(c.windows.start)), e.Total)
}

// see sets the view to what e was answered at now, with what this instance had
// spent up to total.
func (c *counter) see(e *Entry, now, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roll(now)
	start := now - int64(e.Position)
	if start-c.start > c.plan.windowNs/2 {
		// The store's clock is ahead, and in the next window already.
		c.ownPrevious, c.ownCurrent = c.ownCurrent, 0
	}
	c.start, c.previous = start, e.Previous
	c.current = min(e.Current+c.share.total.Load()-total, maxUnits)
}

// take is Allow of an exact quota.
func (w *Windows) take(key string, p *quotaPlan) Decision {
	now := w.now()
	c := w.counterOf(key, p, now)
	if c.share != nil {
		// Others can only have spent more than is known here, so a refusal is certain
		// without asking.
		if d := c.read(now, 1); !d.Allowed {
			w.metrics.count(false, nil)
			return d
		}
		e := Entry{Limit: w.name, Key: c.share.key, Window: time.Duration(p.windowNs), Cost: 1, Bound: p.limit}
		if w.shared.take(&e) {
			now = w.now()
			c.see(&e, now, c.share.acked.Load())
			d := c.read(now, 1)
			if d.Allowed = e.Allowed; d.Allowed {
				d.RetryAfter = 0
			} else {
				d.Remaining, d.RetryAfter = 0, p.below(e.Current, e.Previous, int64(e.Position), float64(p.limit))
			}
			w.metrics.count(d.Allowed, nil)
			return d
		}
	}
	d := c.read(now, w.shared.price())
	w.metrics.degraded.Inc()
	w.metrics.count(d.Allowed, nil)
	if !d.Allowed {
		return d
	}
	d = w.spend(key, p, 1)
	d.Allowed, d.RetryAfter = true, 0
	return d
}

// settle is Spend of an exact quota: a unit is paid already, and is given back if it
// was not used.
func (w *Windows) settle(key string, p *quotaPlan, n int64) Decision {
	now := w.now()
	c := w.counterOf(key, p, now)
	if n == 1 {
		return c.read(now, w.shared.price())
	}
	if c.share != nil {
		e := Entry{Limit: w.name, Key: c.share.key, Window: time.Duration(p.windowNs), Cost: n - 1, Bound: math.MaxInt64}
		if w.shared.take(&e) {
			now = w.now()
			c.see(&e, now, c.share.acked.Load())
			return c.read(now, 1)
		}
	}
	return w.spend(key, p, max(n-1, 0))
}
