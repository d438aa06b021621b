package limit

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Quota is how much a key may spend within any window of time.
type Quota struct {
	// Limit is in units; zero is unlimited.
	Limit int64
	// Window is the length of the window, 1 s to 31 days.
	Window time.Duration
}

const (
	minWindow = time.Second
	maxWindow = 31 * 24 * time.Hour
	// maxUnits bounds counts, so that they are whole numbers in every arithmetic that
	// they pass through.
	maxUnits = 1 << 50
)

// WindowsOptions configures Windows. Zero fields take the default.
type WindowsOptions struct {
	// Name is what the policy is called in headers and metrics; "quota" by default.
	// Use letters, digits, '-' and '_'. Instances that share a limit give it the
	// same name.
	Name string
	// Default is the quota of keys without one of their own.
	Default Quota
	// PerKey is the quota of single keys. A Limit of zero lifts it.
	PerKey map[string]Quota
	// MaxKeys bounds the keys that are told apart; 100,000 by default. While that
	// many were active in the last two windows, further ones share one quota, which
	// this instance keeps for itself.
	MaxKeys int
	// Shared and Exact are as in RatesOptions.
	Shared *Syncer
	Exact  bool
	// Metrics counts refusals. Nil means none.
	Metrics *Metrics
	// Now is the clock; time.Now by default. It must be that of Shared.
	Now func() time.Time
}

// Windows is a sliding window counter per key: at most so much in any window. It
// counts in windows that lie end to end, and takes of the previous one the part
// that the sliding window still covers, as if it had been spent evenly. For traffic
// that is about even within a window that is right to a few per cent. At worst,
// when all of one window is spent at its end and all of the next as late as it can
// be, twice the limit passes within one window's length; and when all was spent at
// a window's beginning, a key waits for up to a window's length too long.
//
// Like Rates it is post-paid, and has Allow and Spend with the same meaning: Allow
// refuses once the quota is used up, and the request that uses it up may go beyond.
type Windows struct {
	name    string
	def     *quotaPlan // nil is unlimited
	perKey  map[string]*quotaPlan
	metrics *limitMetrics
	clock   func() time.Time
	start   time.Time
	align   int64 // time of start, in Unix nanoseconds
	shared  *Syncer
	exact   bool

	counters keyed[counter]
	overflow *counter
	base     atomic.Int64
}

// quotaPlan is a Quota made ready for use. It is never changed.
type quotaPlan struct {
	limit    int64
	windowNs int64
	policy   string
}

// NewWindows returns Windows. It fails on a quota that makes no sense.
func NewWindows(o WindowsOptions) (*Windows, error) {
	if o.Name == "" {
		o.Name = "quota"
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
	def, err := newQuotaPlan(o.Name, o.Default)
	if err != nil {
		errs = append(errs, fmt.Errorf("limit: default quota: %w", err))
	}
	perKey := make(map[string]*quotaPlan, len(o.PerKey))
	for key, quota := range o.PerKey {
		if perKey[key], err = newQuotaPlan(o.Name, quota); err != nil {
			errs = append(errs, fmt.Errorf("limit: quota of %q: %w", key, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	start := o.Now()
	w := &Windows{
		name: o.Name, def: def, perKey: perKey, metrics: o.Metrics.forLimit(o.Name, "quota", o.Shared != nil),
		clock: o.Now, start: start, align: start.UnixNano(), shared: o.Shared, exact: o.Exact,
	}
	w.counters.init(o.MaxKeys)
	if def != nil {
		w.overflow = w.newCounter(def, 0, nil)
	}
	return w, nil
}

func newQuotaPlan(name string, q Quota) (*quotaPlan, error) {
	switch {
	case q.Limit < 0 || q.Limit > maxUnits:
		return nil, fmt.Errorf("a limit of %d is not possible; give 0 (unlimited) to %d", q.Limit, int64(maxUnits))
	case q.Limit == 0:
		return nil, nil
	case q.Window < minWindow || q.Window > maxWindow:
		return nil, fmt.Errorf("a window of %s is not possible; give %s to %s", q.Window, minWindow, maxWindow)
	}
	seconds := int64(math.Ceil(q.Window.Seconds()))
	return &quotaPlan{limit: q.Limit, windowNs: int64(q.Window), policy: fmt.Sprintf("%q;q=%d;w=%d", name, q.Limit, seconds)}, nil
}

// Allow says whether the key may spend now. Unless the limit is exact, Allow takes
// nothing and remembers nothing.
func (w *Windows) Allow(key string) Decision {
	p, limited := w.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	if w.exact {
		return w.take(key, p)
	}
	d := w.look(key, p)
	w.metrics.count(d.Allowed, w.shared)
	return d
}

// Peek says how the key stands, and neither takes nor counts anything.
func (w *Windows) Peek(key string) Decision {
	p, limited := w.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	return w.look(key, p)
}

func (w *Windows) look(key string, p *quotaPlan) Decision {
	now, price := w.now(), w.shared.price()
	if c, ok := w.counters.entries.Load(key); ok {
		c.touch(now)
		return c.read(now, price)
	}
	if p == w.def && w.counters.full() {
		return w.overflow.read(now, price)
	}
	return p.decide(0, 0, 0, price)
}

// Spend takes n units from the key's quota, beyond its end if need be, and says how
// it stands then. Less than one unit takes nothing.
func (w *Windows) Spend(key string, n int64) Decision {
	p, limited := w.planOf(key)
	if !limited {
		return Decision{Allowed: true}
	}
	n = min(max(n, 0), maxUnits)
	if w.exact {
		return w.settle(key, p, n)
	}
	return w.spend(key, p, n)
}

func (w *Windows) spend(key string, p *quotaPlan, n int64) Decision {
	now, price := w.now(), w.shared.price()
	for {
		if d, ok := w.counterOf(key, p, now).spend(now, n, price); ok {
			return d
		}
	}
}

func (w *Windows) planOf(key string) (*quotaPlan, bool) {
	if len(w.perKey) > 0 {
		if p, ok := w.perKey[key]; ok {
			return p, p != nil
		}
	}
	return w.def, w.def != nil
}

func (w *Windows) now() int64 { return int64(w.clock().Sub(w.start)) }

// counterOf finds or makes the counter of a key.
func (w *Windows) counterOf(key string, p *quotaPlan, now int64) *counter {
	if c, ok := w.counters.entries.Load(key); ok {
		return c
	}
	born := func(key string) *counter {
		var s *share
		if w.shared != nil {
			s = newShare(key, w.base.Load(), p.kick())
		}
		return w.newCounter(p, now, s)
	}
	if c := w.counters.add(key, now, p != w.def, born, func(c *counter) bool { return c.evict(now) }); c != nil {
		return c
	}
	return w.overflow
}

// newCounter begins with the window that now is in. Windows begin at multiples of
// their length since 1970, so that instances agree.
func (w *Windows) newCounter(p *quotaPlan, now int64, s *share) *counter {
	return &counter{plan: p, windows: w, share: s, start: now - (w.align+now)%p.windowNs}
}

// Keys returns how many keys have a counter now.
func (w *Windows) Keys() int { return int(w.counters.count.Load()) }

// kick is how much may be spent here before the others should hear of it.
func (p *quotaPlan) kick() int64 { return max(p.limit/kickShare, 1) }

// used is what the sliding window holds at pos nanoseconds into the current window.
func (p *quotaPlan) used(current, previous, pos int64) float64 {
	left := float64(p.windowNs-min(max(pos, 0), p.windowNs)) / float64(p.windowNs)
	return float64(current) + float64(previous)*left
}

// decide reads a counter at pos nanoseconds into its current window.
func (p *quotaPlan) decide(current, previous, pos, price int64) Decision {
	used := p.used(current, previous, pos)
	d := Decision{Allowed: used < float64(p.limit), Limit: p.limit, Policy: p.policy}
	if d.Allowed {
		d.Remaining = min(p.limit, int64((float64(p.limit)-used)/float64(price)+1e-6))
	} else {
		d.RetryAfter = p.below(current, previous, pos, float64(p.limit))
	}
	switch {
	case current > 0:
		d.Reset = time.Duration(2*p.windowNs - pos)
	case previous > 0:
		d.Reset = time.Duration(p.windowNs - pos)
	}
	return d
}

// below is how long until the sliding window holds less than bound, if nothing more
// is spent. It is at least a nanosecond.
func (p *quotaPlan) below(current, previous, pos int64, bound float64) time.Duration {
	w := float64(p.windowNs)
	if float64(current) < bound {
		// previous * (w-at)/w = bound - current
		at := w - (bound-float64(current))*w/float64(previous)
		return time.Duration(max(int64(at)+1-pos, 1))
	}
	at := w - bound*w/float64(current)
	return time.Duration(max(p.windowNs+int64(at)+1-pos, 1))
}

// window returns the length of a key's window, zero if it has none.
func (w *Windows) window(key string) time.Duration {
	if p, limited := w.planOf(key); limited {
		return time.Duration(p.windowNs)
	}
	return 0
}
