package limit

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
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
	// default. Use letters, digits, '-' and '_'. Instances that share a limit give
	// it the same name.
	Name string
	// Default is the rate of keys without one of their own.
	Default Rate
	// PerKey is the rate of single keys. A PerSecond of zero lifts the limit.
	PerKey map[string]Rate
	// MaxKeys bounds the keys that are told apart; 100,000 by default. While that
	// many are active, further ones share one bucket of the default rate, which this
	// instance keeps for itself.
	MaxKeys int
	// Shared makes the rates those of all instances together. Nil means that this
	// instance applies them alone.
	Shared *Syncer
	// Exact asks what is shared for each decision: Allow waits for it, at most
	// SyncerOptions.ExactTimeout, and takes one unit at once. Needs Shared.
	Exact bool
	// Metrics counts refusals. Nil means none.
	Metrics *Metrics
	// Now is the clock; time.Now by default. It must be that of Shared.
	Now func() time.Time
}

// plan is a Rate made ready for use. It is never changed.
type plan struct {
	nsPerUnit float64
	burstNs   int64 // time in which an empty bucket fills up
	limit     int64
	policy    string
}

// Rates is a post-paid token bucket per key. Allow refuses while the key is in
// debt; Spend is called once the price is known, and may lead into debt. So a
// request is refused before its body is read, for what earlier ones cost, and
// over time a key gets exactly its rate. The debt is at most what was in flight
// at once: one batch for a caller that sends one at a time.
//
// With Exact, Allow itself takes the first unit, if there is one for all instances
// together, and Spend what a request cost beyond it; Spend of nothing gives the unit
// back. So every Spend must follow an Allow that allowed, and who is allowed and
// never spends has paid one unit.
type Rates struct {
	name    string
	def     *plan // nil is unlimited
	perKey  map[string]*plan
	metrics *limitMetrics
	clock   func() time.Time
	start   time.Time
	shared  *Syncer // nil is alone
	exact   bool

	buckets  keyed[bucket]
	overflow bucket       // shared by keys that do not fit
	base     atomic.Int64 // see totals
}

// NewRates returns Rates. It fails on a rate that makes no sense.
func NewRates(o RatesOptions) (*Rates, error) {
	if o.Name == "" {
		o.Name = "default"
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = defaultMaxKeys
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	errs := checkNamed(o.Name, o.MaxKeys, o.Shared, o.Exact)
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
		name: o.Name, def: def, perKey: perKey, metrics: o.Metrics.forLimit(o.Name, "rate", o.Shared != nil),
		clock: o.Now, start: o.Now(), shared: o.Shared, exact: o.Exact,
	}
	r.buckets.init(o.MaxKeys)
	r.overflow.plan, r.overflow.rates = def, r
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
// debt. Unless the limit is exact, Allow takes nothing and remembers nothing.
func (r *Rates) Allow(key string) Decision {
	p, limited := r.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	now := r.now()
	if r.exact {
		return r.take(key, p, now)
	}
	var fullAt int64
	if b, ok := r.buckets.entries.Load(key); ok {
		fullAt = b.fullAt.Load()
		b.touch(now)
	} else if p == r.def && r.buckets.full() {
		fullAt = r.overflow.fullAt.Load()
	}
	d := p.decide(now, fullAt, r.shared.price())
	r.metrics.count(d.Allowed, r.shared)
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
	if r.exact {
		return r.settle(key, p, now, n)
	}
	return r.spend(key, p, now, p.cost(n))
}

func (r *Rates) spend(key string, p *plan, now, cost int64) Decision {
	price := r.shared.price()
	for {
		if fullAt, ok := r.bucketOf(key, p, now).spend(now, cost, price); ok {
			return p.decide(now, fullAt, price)
		}
	}
}

// cost is what n units cost, in nanoseconds of the bucket's flow.
func (p *plan) cost(n int64) int64 {
	return int64(min(float64(max(n, 0))*p.nsPerUnit, float64(maxDebtTime)))
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
	if b, ok := r.buckets.entries.Load(key); ok {
		return b
	}
	// A key with a rate of its own always has its bucket: there are only as many
	// as were configured.
	born := func(key string) *bucket {
		b := &bucket{plan: p, rates: r}
		if r.shared != nil {
			b.share = newShare(key, r.base.Load(), p.kick())
		}
		return b
	}
	if b := r.buckets.add(key, now, p != r.def, born, r.evictor(now)); b != nil {
		return b
	}
	return &r.overflow
}

// evictor evicts full buckets: they say nothing that a new one would not.
func (r *Rates) evictor(now int64) func(*bucket) bool {
	return func(b *bucket) bool {
		fullAt := b.fullAt.Load()
		if fullAt > now || !b.share.settled(r.shared) || !b.fullAt.CompareAndSwap(fullAt, evicted) {
			return false
		}
		b.share.bury(&r.base)
		return true
	}
}

// Keys returns how many keys have a bucket now.
func (r *Rates) Keys() int { return int(r.buckets.count.Load()) }

// decide reads a bucket. Units cost price times as much as the plan says.
func (p *plan) decide(now, fullAt, price int64) Decision {
	used := max(fullAt, now) - now
	left := p.burstNs - used
	d := Decision{
		Allowed: left >= 0,
		Limit:   p.limit,
		Reset:   time.Duration(used),
		Policy:  p.policy,
	}
	if left >= 0 {
		// The tiny addition makes up for rounding down to whole nanoseconds.
		d.Remaining = min(p.limit, int64((float64(left)+0.5)/(p.nsPerUnit*float64(price))))
	} else {
		d.RetryAfter = time.Duration(-left)
	}
	return d
}
