package limit

import (
	"math"
	"sync/atomic"
	"time"
)

// bucket is one key's token bucket, kept as the time at which it will be full:
// one word, so that spending is one compare-and-swap. Times are nanoseconds
// since Rates.start. If the limit is shared it is this instance's view of the
// bucket of all: what was known at the last exchange, less what has flowed back
// since, and what was spent here since.
type bucket struct {
	fullAt atomic.Int64
	plan   *plan
	rates  *Rates
	share  *share // nil is alone
}

// evicted is the fullAt of a bucket that is no longer in the map. What is spent
// on it would be lost, so Spend looks for the key's new bucket.
const evicted = math.MinInt64

// spend takes cost nanoseconds from the bucket, price times if others are not heard
// of, and returns when it will be full. It takes nothing and returns false if the
// bucket was evicted.
func (b *bucket) spend(now, cost, price int64) (fullAt int64, ok bool) {
	if b.fullAt.Load() == evicted {
		return 0, false
	}
	// The total first: an exchange that comes between the two then takes the cost
	// twice, until the next one, and never not at all.
	if b.share != nil && cost > 0 && b.share.spend(cost) {
		b.rates.shared.hurry()
	}
	for {
		old := b.fullAt.Load()
		if old == evicted {
			return 0, false
		}
		fullAt = max(old, now) + cost*price
		if cost == 0 || b.fullAt.CompareAndSwap(old, fullAt) {
			b.touch(now)
			return fullAt, true
		}
	}
}

// touch puts the bucket among those of the next exchange.
func (b *bucket) touch(now int64) {
	if b.share != nil && b.share.touch(now) {
		b.rates.shared.enqueue(b)
	}
}

func (b *bucket) shared() *share { return b.share }

// cut writes what the store is to know.
func (b *bucket) cut(e *Entry, at, heard time.Time) bool {
	if b.fullAt.Load() == evicted {
		return false
	}
	s, now := b.share, int64(at.Sub(b.rates.start))
	total, elapsed := s.cut(now, b.plan.kick())
	from := s.acked.Load()
	if !heard.IsZero() && s.first < int64(heard.Sub(b.rates.start)) {
		// It was spent while nobody was heard of, and has flowed back since as far as
		// anyone can tell: to charge for it now would refuse for an outage.
		from, elapsed = total, 0
	}
	*e = Entry{Limit: b.rates.name, Key: s.key, Total: total, From: from, Elapsed: time.Duration(elapsed)}
	return true
}

// apply takes over what the store answered. It counts as of when it was asked: what
// was spent here since comes on top, and what has flowed back since goes off.
func (b *bucket) apply(e *Entry, began, _ time.Time) {
	b.share.acknowledge(e.Total)
	b.see(int64(began.Sub(b.rates.start)), e.Used, e.Total)
}

// see sets the view: so much of the bucket of all was used at now, with what this
// instance had spent up to total.
func (b *bucket) see(now int64, used time.Duration, total int64) {
	for {
		old := b.fullAt.Load()
		if old == evicted {
			return
		}
		since := b.share.total.Load() - total
		if b.fullAt.CompareAndSwap(old, now+max(int64(used), 0)+since) {
			return
		}
	}
}

// kick is how much may be spent here before the others should hear of it.
func (p *plan) kick() int64 { return p.burstNs / kickShare }

// take is Allow of an exact limit.
func (r *Rates) take(key string, p *plan, now int64) Decision {
	b := r.bucketOf(key, p, now)
	unit := p.cost(1)
	if b.share != nil {
		// Others can only have spent more than is known here, so a refusal is certain
		// without asking: who hammers on a closed door costs the store nothing.
		if d := p.prepaid(now, b.fullAt.Load(), unit); !d.Allowed {
			r.metrics.count(false, nil)
			return d
		}
		e := Entry{Limit: r.name, Key: b.share.key, Cost: unit, Bound: p.burstNs}
		if r.shared.take(&e) {
			now = r.now()
			b.see(now, e.Used, b.share.acked.Load())
			d := p.decide(now, b.fullAt.Load(), 1)
			if d.Allowed = e.Allowed; !d.Allowed {
				d = p.prepaid(now, b.fullAt.Load(), unit)
				d.Allowed = false
			}
			r.metrics.count(d.Allowed, nil)
			return d
		}
	}
	d := p.decide(now, b.fullAt.Load(), r.shared.price())
	r.metrics.degraded.Inc()
	r.metrics.count(d.Allowed, nil)
	if !d.Allowed {
		return d
	}
	d = r.spend(key, p, now, unit)
	d.Allowed, d.RetryAfter = true, 0
	return d
}

// prepaid is decide for who pays a unit before, and so cannot come into debt.
func (p *plan) prepaid(now, fullAt, unit int64) Decision {
	d := p.decide(now, fullAt, 1)
	if over := int64(d.Reset) + unit - p.burstNs; over > 0 {
		d.Allowed, d.Remaining, d.RetryAfter = false, 0, time.Duration(over)
	}
	return d
}

// settle is Spend of an exact limit: a unit is paid already, and is given back if it
// was not used.
func (r *Rates) settle(key string, p *plan, now, n int64) Decision {
	b := r.bucketOf(key, p, now)
	if n == 1 {
		return p.decide(now, b.fullAt.Load(), r.shared.price())
	}
	cost := p.cost(n - 1)
	if n < 1 {
		cost = -p.cost(1)
	}
	if b.share != nil {
		e := Entry{Limit: r.name, Key: b.share.key, Cost: cost, Bound: math.MaxInt64}
		if r.shared.take(&e) {
			now = r.now()
			b.see(now, e.Used, b.share.acked.Load())
			return p.decide(now, b.fullAt.Load(), 1)
		}
	}
	return r.spend(key, p, now, max(cost, 0))
}
