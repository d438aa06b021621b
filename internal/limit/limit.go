// Package limit keeps the server standing by saying no early: to a tenant that
// is over its rate (Rates), to a body when too many bytes are in flight (Bytes),
// and to a connection when too many are open (Connections).
//
// Everything here answers at once, from memory, and nothing queues: who is
// refused is told when to come back. Everything is safe for concurrent use, owns
// no goroutine, and is bounded in memory whatever callers send.
package limit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// Rate is how much a key may spend.
type Rate struct {
	// PerSecond is the sustained rate in units per second; zero is unlimited.
	PerSecond float64
	// Burst is how much a key that was idle may spend at once; zero means two
	// seconds' worth.
	Burst int64
}

const (
	defaultBurstSeconds = 2
	maxPerSecond        = 1e9
	// maxBurstTime bounds burst / rate, so that no arithmetic overflows.
	maxBurstTime = 24 * time.Hour
	// maxDebtTime bounds how long one call of Spend can put a key in debt.
	maxDebtTime = 24 * time.Hour
)

// RatesOptions configures Rates. Zero fields take the default.
type RatesOptions struct {
	// Name is what the policy is called in headers and metrics; "default" by
	// default. Use letters, digits, '-' and '_'.
	Name string
	// Default is the rate of keys without one of their own.
	Default Rate
	// PerKey is the rate of single keys. A PerSecond of zero lifts the limit.
	PerKey map[string]Rate
	// MaxKeys bounds the keys that are told apart; 100,000 by default. While that
	// many are active, further ones share one bucket of the default rate.
	MaxKeys int
	// Metrics counts refusals. Nil means none.
	Metrics *Metrics
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// plan is a Rate made ready for use. It is never changed.
type plan struct {
	nsPerUnit float64
	burstNs   int64 // time in which an empty bucket fills up
	limit     int64
	policy    string
}

// bucket is one key's token bucket, kept as the time at which it will be full:
// one word, so that spending is one compare-and-swap. Times are nanoseconds
// since Rates.start.
type bucket struct {
	fullAt atomic.Int64
	plan   *plan
}

// evicted is the fullAt of a bucket that is no longer in the map. What is spent
// on it would be lost, so Spend looks for the key's new bucket.
const evicted = math.MinInt64

// minSweepInterval keeps a flood of new keys from making every call a sweep.
const minSweepInterval = int64(time.Second)

// Rates is a post-paid token bucket per key. Allow refuses while the key is in
// debt; Spend is called once the price is known, and may lead into debt. So a
// request is refused before its body is read, for what earlier ones cost, and
// over time a key gets exactly its rate. The debt is at most what was in flight
// at once: one batch for a caller that sends one at a time.
type Rates struct {
	def     *plan // nil is unlimited
	perKey  map[string]*plan
	maxKeys int64
	metrics *rateMetrics
	clock   func() time.Time
	start   time.Time

	buckets   *xsync.Map[string, *bucket]
	count     atomic.Int64 // keys in buckets
	overflow  bucket       // shared by keys that do not fit
	nextSweep atomic.Int64
}

// Decision is what a bucket says. Limit is zero when the key is not limited;
// then the other numbers mean nothing and no headers are due.
type Decision struct {
	Allowed bool
	// Limit is the size of the bucket: what can be spent at once.
	Limit int64
	// Remaining is what could be spent now without debt, at least zero.
	Remaining int64
	// Reset is how long until the bucket is full again.
	Reset time.Duration
	// RetryAfter is how long until the key is out of debt; zero if it is not in
	// debt.
	RetryAfter time.Duration
	// Policy is the value of the RateLimit-Policy header, such as
	// "events";q=100000;w=2.
	Policy string
}

// NewRates returns Rates. It fails on a rate that makes no sense.
func NewRates(o RatesOptions) (*Rates, error) {
	if o.Name == "" {
		o.Name = "default"
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = 100_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	var errs []error
	if o.MaxKeys < 0 {
		errs = append(errs, fmt.Errorf("limit: %d keys at most makes no sense; give a number above zero", o.MaxKeys))
	}
	if strings.ContainsFunc(o.Name, func(r rune) bool {
		return !(r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) {
		errs = append(errs, fmt.Errorf("limit: the name %q goes into a header; use letters, digits, '-' and '_'", o.Name))
	}
	def, err := newPlan(o.Name, o.Default)
	if err != nil {
		errs = append(errs, fmt.Errorf("limit: default rate: %w", err))
	}
	perKey := make(map[string]*plan, len(o.PerKey))
	for key, rate := range o.PerKey {
		if perKey[key], err = newPlan(o.Name, rate); err != nil {
			errs = append(errs, fmt.Errorf("limit: rate of %q: %w", key, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r := &Rates{
		def:     def,
		perKey:  perKey,
		maxKeys: int64(o.MaxKeys),
		clock:   o.Now,
		start:   o.Now(),
		buckets: xsync.NewMap[string, *bucket](),
	}
	r.overflow.plan = def
	r.metrics = o.Metrics.forRates(o.Name)
	return r, nil
}

func newPlan(name string, r Rate) (*plan, error) {
	switch {
	case math.IsNaN(r.PerSecond) || r.PerSecond < 0 || r.PerSecond > maxPerSecond:
		return nil, fmt.Errorf("%v per second is not possible; give 0 (unlimited) to %.0f", r.PerSecond, float64(maxPerSecond))
	case r.Burst < 0:
		return nil, fmt.Errorf("a burst of %d is not possible; give 1 or more, or 0 for two seconds' worth", r.Burst)
	case r.PerSecond == 0 && r.Burst > 0:
		return nil, fmt.Errorf("a burst of %d without a rate means nothing; give a rate per second too, or leave the burst out", r.Burst)
	case r.PerSecond == 0:
		return nil, nil
	}
	burst := r.Burst
	if burst == 0 {
		burst = max(1, int64(math.Ceil(r.PerSecond*defaultBurstSeconds)))
	}
	nsPerUnit := float64(time.Second) / r.PerSecond
	burstNs := nsPerUnit * float64(burst)
	if burstNs > float64(maxBurstTime) {
		return nil, fmt.Errorf("a burst of %d at %v per second takes longer than %s to fill; lower the burst or raise the rate", burst, r.PerSecond, maxBurstTime)
	}
	window := int64(math.Ceil(burstNs / float64(time.Second)))
	return &plan{
		nsPerUnit: nsPerUnit,
		burstNs:   int64(math.Ceil(burstNs)),
		limit:     burst,
		policy:    fmt.Sprintf("%q;q=%d;w=%d", name, burst, window),
	}, nil
}

// Allow says whether the key may spend now. It is refused only while it is in
// debt. Allow takes nothing and remembers nothing.
func (r *Rates) Allow(key string) Decision {
	p, limited := r.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	now := r.now()
	var fullAt int64
	if b, ok := r.buckets.Load(key); ok {
		fullAt = b.fullAt.Load()
	} else if p == r.def && r.count.Load() >= r.maxKeys {
		fullAt = r.overflow.fullAt.Load()
	}
	d := p.decide(now, fullAt)
	if !d.Allowed {
		r.metrics.refused.Inc()
	}
	return d
}

// Spend takes n units from the key's bucket, into debt if need be, and says how
// it stands then. Less than one unit takes nothing.
func (r *Rates) Spend(key string, n int64) Decision {
	p, limited := r.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	now := r.now()
	cost := int64(min(float64(max(n, 0))*p.nsPerUnit, float64(maxDebtTime)))
	for {
		if fullAt, ok := r.bucketOf(key, p, now).spend(now, cost); ok {
			return p.decide(now, fullAt)
		}
	}
}

// spend takes cost nanoseconds from the bucket and returns when it will be full.
// It takes nothing and returns false if the bucket was evicted.
func (b *bucket) spend(now, cost int64) (fullAt int64, ok bool) {
	for {
		old := b.fullAt.Load()
		if old == evicted {
			return 0, false
		}
		fullAt = max(old, now) + cost
		if cost == 0 || b.fullAt.CompareAndSwap(old, fullAt) {
			return fullAt, true
		}
	}
}

// planOf returns the plan of a key, false if it is not limited.
func (r *Rates) planOf(key string) (*plan, bool) {
	if len(r.perKey) > 0 {
		if p, ok := r.perKey[key]; ok {
			return p, p != nil
		}
	}
	return r.def, r.def != nil
}

func (r *Rates) now() int64 { return int64(r.clock().Sub(r.start)) }

// bucketOf finds or makes the bucket of a key.
func (r *Rates) bucketOf(key string, p *plan, now int64) *bucket {
	if b, ok := r.buckets.Load(key); ok {
		return b
	}
	if r.count.Load() >= r.maxKeys {
		r.sweep(now)
	}
	// A key with a rate of its own always has its bucket: there are only as many
	// as were configured.
	if r.count.Add(1) > r.maxKeys && p == r.def {
		r.count.Add(-1)
		return &r.overflow
	}
	b, loaded := r.buckets.LoadOrStore(strings.Clone(key), &bucket{plan: p})
	if loaded {
		r.count.Add(-1)
	}
	return b
}

// sweep removes full buckets: they say nothing that a new one would not.
func (r *Rates) sweep(now int64) {
	next := r.nextSweep.Load()
	if now < next || !r.nextSweep.CompareAndSwap(next, now+minSweepInterval) {
		return
	}
	removed := r.buckets.DeleteMatching(func(_ string, b *bucket) (remove, stop bool) {
		fullAt := b.fullAt.Load()
		return fullAt <= now && b.fullAt.CompareAndSwap(fullAt, evicted), false
	})
	r.count.Add(-int64(removed))
}

// Keys returns how many keys have a bucket now.
func (r *Rates) Keys() int { return int(r.count.Load()) }

// decide reads a bucket.
func (p *plan) decide(now, fullAt int64) Decision {
	used := max(fullAt-now, 0)
	left := p.burstNs - used
	d := Decision{
		Allowed: left >= 0,
		Limit:   p.limit,
		Reset:   time.Duration(used),
		Policy:  p.policy,
	}
	if left >= 0 {
		// The tiny addition makes up for rounding down to whole nanoseconds.
		d.Remaining = min(p.limit, int64((float64(left)+0.5)/p.nsPerUnit))
	} else {
		d.RetryAfter = time.Duration(-left)
	}
	return d
}

// AppendRateLimit appends the value of the RateLimit header, such as
// "events";r=99900;t=1, and nothing if the key is not limited.
func (d *Decision) AppendRateLimit(dst []byte) []byte {
	if d.Limit == 0 {
		return dst
	}
	name, _, _ := strings.Cut(d.Policy, ";")
	dst = append(dst, name...)
	dst = append(dst, ";r="...)
	dst = strconv.AppendInt(dst, d.Remaining, 10)
	dst = append(dst, ";t="...)
	return strconv.AppendInt(dst, ceilSeconds(d.Reset), 10)
}

// RetryAfterSeconds is RetryAfter as the Retry-After header wants it: whole
// seconds, rounded up, at least 1 when the key is in debt.
func (d *Decision) RetryAfterSeconds() int64 { return ceilSeconds(d.RetryAfter) }

func ceilSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}
