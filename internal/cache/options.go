package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// The defaults of Options.
const (
	DefaultTTL           = time.Minute
	DefaultJitter        = 0.1
	DefaultEagerAt       = 0.8
	DefaultStaleFor      = 5 * time.Minute
	DefaultRetryAfter    = time.Second
	DefaultNegativeTTL   = 5 * time.Second
	DefaultSoftTimeout   = 100 * time.Millisecond
	DefaultHardTimeout   = 5 * time.Second
	DefaultMaxBytes      = 64 << 20
	DefaultRemoteTimeout = 100 * time.Millisecond
	DefaultLeaseWait     = 250 * time.Millisecond
)

// Options say how a cache behaves. Zero means the default; a negative number switches
// off what can be off.
type Options[V any] struct {
	// Name tells caches apart: in metrics, in Remote and among Peers. Required.
	Name string
	// TTL is how long a value is served without asking again. It is the most: what
	// Jitter takes off spreads the ends of values that were loaded together.
	TTL time.Duration
	// Jitter is which fraction of TTL is taken off at the most, at random. Negative: none.
	Jitter float64
	// EagerAt is the fraction of its time after which the next hit has a value
	// loaded again in the background, once. Negative: never.
	EagerAt float64
	// StaleFor is how long after its time a value may still be served when a load
	// fails, or lasts longer than SoftTimeout. Negative: not at all.
	StaleFor time.Duration
	// RetryAfter is how long after a load that failed the stale value is served
	// without another try. Negative: each Get tries.
	RetryAfter time.Duration
	// NegativeTTL is how long it is kept that there is nothing (ErrNotFound).
	// Negative: not at all.
	NegativeTTL time.Duration
	// SoftTimeout is how long a Get waits for a load when there is a stale value to
	// serve; the load goes on. Negative: until the load ends.
	SoftTimeout time.Duration
	// HardTimeout ends a load, whatever its callers' deadlines are.
	HardTimeout time.Duration
	// MaxBytes bounds what is in RAM, by Weigh plus the cache's own bytes of an entry.
	MaxBytes int64
	// Weigh says how many bytes a value holds. Required. It must be quick.
	Weigh func(key string, v V) int

	// Remote is the second level; nil: RAM alone.
	Remote Remote
	// RemoteTimeout bounds each call of Remote.
	RemoteTimeout time.Duration
	// LeaseWait is how long a Get waits for what another instance loads of its key
	// before it loads itself, within HardTimeout. By default SoftTimeout or
	// DefaultLeaseWait, whichever is longer, but not more than half of HardTimeout.
	// Negative: not at all.
	LeaseWait time.Duration
	// Encode and Decode make bytes of a value for Remote, and a value of bytes. What
	// Decode refuses counts as not there. Required with Remote.
	Encode func(V) ([]byte, error)
	Decode func([]byte) (V, error)

	// Peers are the other instances; nil: there are none.
	Peers Peers
	// Instance is this instance's name, no other's. Required with Peers.
	Instance string

	// OnInvalidate is called when keys were invalidated, by this instance or by
	// another, which includes another's Put; with nil when it is not known which:
	// after a tag, or when everything was invalidated. RAM holds nothing of it by
	// then. It must be quick and must not call the cache.
	OnInvalidate func(keys []string)

	// Metrics counts; nil: nothing does.
	Metrics *Metrics
	// Logger gets what an operator wants to know; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil is the machine's.
	Now func() time.Time
}

// preset puts a default in the place of zero, and zero in the place of what is off.
func preset[T int64 | float64 | time.Duration](v *T, def T) {
	switch {
	case *v == 0:
		*v = def
	case *v < 0:
		*v = 0
	}
}

// complete puts in the defaults and says what is wrong.
func (o *Options[V]) complete() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("cache "+o.Name+": "+format, args...))
	}
	if o.Name == "" || strings.ContainsAny(o.Name, ":{} \n") {
		fault("the name %q is not possible; give one without colons, braces and spaces, such as orders", o.Name)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"TTL", o.TTL}, {"HardTimeout", o.HardTimeout}, {"RemoteTimeout", o.RemoteTimeout}} {
		if d.v < 0 {
			fault("%s of %s is not possible; give one above zero", d.name, d.v)
		}
	}
	if o.MaxBytes < 0 {
		fault("MaxBytes of %d is not possible; give one above zero", o.MaxBytes)
	}
	if o.Jitter >= 1 {
		fault("Jitter of %g is not possible; it is the fraction of TTL that may be taken off, below 1", o.Jitter)
	}
	if o.EagerAt >= 1 {
		fault("EagerAt of %g is not possible; it is a fraction of TTL below 1, or negative for never", o.EagerAt)
	}
	if o.Weigh == nil {
		fault("Weigh is missing; give a function that says how many bytes a value holds, or MaxBytes bounds nothing")
	}
	if o.Remote != nil && (o.Encode == nil || o.Decode == nil) {
		fault("Encode and Decode are needed with a Remote; give both")
	}
	if o.Peers != nil && o.Instance == "" {
		fault("Instance is needed with Peers; give this instance's name")
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	preset(&o.TTL, DefaultTTL)
	preset(&o.Jitter, DefaultJitter)
	preset(&o.EagerAt, DefaultEagerAt)
	preset(&o.StaleFor, DefaultStaleFor)
	preset(&o.RetryAfter, DefaultRetryAfter)
	preset(&o.NegativeTTL, DefaultNegativeTTL)
	preset(&o.SoftTimeout, DefaultSoftTimeout)
	preset(&o.HardTimeout, DefaultHardTimeout)
	preset(&o.MaxBytes, DefaultMaxBytes)
	preset(&o.RemoteTimeout, DefaultRemoteTimeout)
	preset(&o.LeaseWait, min(max(o.SoftTimeout, DefaultLeaseWait), o.HardTimeout/2))
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
