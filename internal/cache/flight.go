package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"time"
)

const (
	// attempts is how often a load is repeated that brings less than is known to be.
	// As many that agree are believed: what was known is no longer in the database.
	attempts = 4
	// firstPause and maxPause are between looks for what another instance loads.
	firstPause = 5 * time.Millisecond
	maxPause   = 50 * time.Millisecond
)

// What is wrong with a load.
var (
	errTimeout = timeoutError{}
	errAlone   = errors.New("nobody waits for the load any more")
	errGone    = errors.New("the load ended its goroutine")
	errClosing = errors.New("the cache is being closed")
)

// ErrOutdated is what Get returns when the load brings an older version than one that
// was written, and another one each time.
var ErrOutdated = errors.New("the load returns an older version than one that was written; does it read from a replica that lags?")

// timeoutError is a context.DeadlineExceeded to who asks.
type timeoutError struct{}

func (timeoutError) Error() string        { return "the load took too long" }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// flight is one load that all callers of a key wait for.
type flight[V any] struct {
	began  int64 // moment of the tags
	clears int64 // the teller's, when it began
	ended  bool  // guarded by the shard's mutex
	cancel context.CancelCauseFunc
	// waiters is how many wait for it, guarded by the shard's mutex.
	waiters int
	done    chan struct{} // closed once the rest is there

	value   V
	version int64
	age     time.Duration
	level   string
	err     error
	// tagged is the last invalidation of any of its tags.
	tagged int64
}

// outcome is how a flight ends.
type outcome[V any] struct {
	made[V]
	level string
	err   error
}

// The levels that an Entry can come from.
const (
	levelRAM    = "ram"
	levelRemote = "remote"
	levelLoad   = "load"
)

// start begins a flight. The shard is locked.
// left is how long what the second level has must be fresh still to do.
func (c *Cache[V]) start(ctx context.Context, s *shard[V], key string, load func(context.Context) (Loaded[V], error), left time.Duration) *flight[V] {
	left = max(left.Truncate(time.Millisecond), time.Millisecond) // a Remote counts in these
	f := &flight[V]{began: c.tags.now(), done: make(chan struct{})}
	if c.teller != nil {
		f.clears = c.teller.clears.Load()
	}
	if s.flights == nil {
		s.flights = make(map[string]*flight[V])
	}
	s.flights[key] = f
	// The load belongs to all who wait, so it ends with the last of them.
	ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.running.Go(func() { c.fly(ctx, s, key, f, load, left) })
	return f
}

// fly finds the value of a key in the second level or by a load, ends the flight with
// it, and gives a load's to the second level. The flight ends at HardTimeout in any
// case, even if the load does not.
func (c *Cache[V]) fly(ctx context.Context, s *shard[V], key string, f *flight[V], load func(context.Context) (Loaded[V], error), left time.Duration) {
	defer f.cancel(nil)
	defer context.AfterFunc(c.ctx, func() { f.cancel(errClosing) })()
	ctx, over := context.WithTimeoutCause(ctx, c.o.HardTimeout, errTimeout)
	defer over()
	defer context.AfterFunc(ctx, func() { c.end(s, key, f, c.cutShort(ctx)) })()

	lease, done, out := lease{}, false, outcome[V]{level: levelLoad, err: fmt.Errorf("cache %s: %w", c.o.Name, errGone)}
	defer func() { // also if the load ends its goroutine, as a test's may
		if done {
			return
		}
		kept := c.end(s, key, f, out)
		if lease.token != "" {
			c.settle(key, lease, out, kept)
		}
	}()
	lease, done = c.fromRemote(ctx, s, key, f, left)
	if !done {
		out = c.fromLoad(ctx, s, key, f, load)
	}
}

// cutShort is how a flight ends whose context has.
func (c *Cache[V]) cutShort(ctx context.Context) outcome[V] {
	err := context.Cause(ctx)
	if errors.Is(err, errTimeout) {
		err = fmt.Errorf("it has not ended within %s: %w", c.o.HardTimeout, err)
	}
	return outcome[V]{level: levelLoad, err: fmt.Errorf("cache %s: %w", c.o.Name, err)}
}

// fromLoad loads, again if what it brings is outdated.
func (c *Cache[V]) fromLoad(ctx context.Context, s *shard[V], key string, f *flight[V], load func(context.Context) (Loaded[V], error)) outcome[V] {
	var agreed, last = 0, int64(0)
	for pause, n := 4*firstPause, 1; ; pause, n = 4*pause, n+1 {
		began := c.now()
		loaded, result, err := c.call(ctx, load)
		if ctx.Err() != nil && err != nil {
			if result, err = "timeout", c.cutShort(ctx).err; errors.Is(err, errAlone) {
				result = "abandoned"
			}
		}
		out := outcome[V]{level: levelLoad, err: err}
		if err == nil || errors.Is(err, ErrNotFound) {
			out.made = made[V]{value: loaded.Value, version: max(loaded.Version, 0), tags: loaded.Tags, negative: err != nil, left: c.lifetime(err != nil)}
			if err == nil {
				out.weight, out.err = c.weigh(key, out.value)
			}
			if out.err != nil && err == nil {
				result = "panic"
			} else if err == nil && c.outdated(s, key, f, out.version) {
				if out.version != last {
					agreed, last = 0, out.version
				}
				if agreed++; agreed == attempts {
					c.goBack(s, key, f, out.version)
				} else {
					result = "outdated"
					out.err = fmt.Errorf("cache %s: %w", c.o.Name, ErrOutdated)
				}
			}
		}
		c.m.loads.WithLabelValues(result).Inc()
		c.m.loadSeconds.Observe(time.Duration(c.now() - began).Seconds())
		if result != "outdated" || n == attempts || !wait(ctx, pause) {
			return out
		}
	}
}

// call runs a load and catches its panic.
func (c *Cache[V]) call(ctx context.Context, load func(context.Context) (Loaded[V], error)) (v Loaded[V], result string, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.o.Logger.Error("cache: a load panicked; its callers get an error, the next one tries again", "cache", c.o.Name, "panic", p, "stack", string(debug.Stack()))
			v, result, err = Loaded[V]{}, "panic", fmt.Errorf("cache %s: the load panicked: %v", c.o.Name, p)
		}
	}()
	v, err = load(ctx)
	switch {
	case err == nil:
		return v, "ok", nil
	case errors.Is(err, ErrNotFound):
		return Loaded[V]{}, "not_found", err
	default:
		return Loaded[V]{}, "error", err
	}
}

// outdated says whether a version is older than what is known of its key. A flight
// that others no longer join answers only those who came before the newer one.
func (c *Cache[V]) outdated(s *shard[V], key string, f *flight[V], version int64) bool {
	if version == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flights[key] == f && c.newest(s, key) > version
}

// goBack forgets that a newer version of a key was known: the database has lost its
// last commits, since a replica took over or it was restored.
func (c *Cache[V]) goBack(s *shard[V], key string, f *flight[V], version int64) {
	h := c.hash(key)
	s.mu.Lock()
	if s.flights[key] != f {
		s.mu.Unlock()
		return
	}
	s.forget(h)
	c.ram.Invalidate(key)
	if c.teller != nil {
		c.teller.forget(key)
	} else if c.peers != nil {
		c.peers.add(subject{name: key}, 0, true)
	}
	s.mu.Unlock()
	c.o.Logger.Warn("cache: the database has an older version than one that was written, each time it is asked; it is believed. Did it lose commits, or does the load read from a replica that lags?", "cache", c.o.Name, "version", version)
	c.tellOwner([]Change{{Key: key}})
}

// newest is the newest version of a key that is known here, 0 for none. The shard is
// locked.
func (c *Cache[V]) newest(s *shard[V], key string) int64 {
	v := s.floor(c.hash(key), c.now())
	if it := c.peek(key); it != nil {
		v = max(v, it.version)
	}
	return v
}

// end gives an outcome to all who wait and keeps it in RAM, unless the flight has
// ended or something changed since it began. It says whether it was kept, and so may
// be kept elsewhere.
func (c *Cache[V]) end(s *shard[V], key string, f *flight[V], out outcome[V]) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.ended {
		return false
	}
	f.ended = true
	f.value, f.version, f.age, f.level, f.err = out.value, out.version, out.age, out.level, out.err
	if s.flights[key] == f {
		delete(s.flights, key)
		if out.err == nil || out.negative {
			kept = c.keep(s, key, out.made, f.began)
		} else {
			c.failed(key)
		}
	}
	f.tagged = c.tags.latest(&c.tags.invalidated, out.tags)
	close(f.done)
	return kept
}

// keep puts what was made since a moment into RAM, if none of its tags was invalidated
// since. The shard is locked, and nothing newer is known.
func (c *Cache[V]) keep(s *shard[V], key string, m made[V], since int64) bool {
	if m.left <= 0 && m.negative {
		return false
	}
	it := c.newItem(m)
	c.tags.add(key, it, m.tags)
	if c.tags.latest(&c.tags.invalidated, m.tags) > since {
		// Whoever invalidates looks at the index after noting the moment, so one of
		// the two sees the other. What was there before is no longer in the index.
		c.ram.Invalidate(key)
		c.tags.remove(key, it, m.tags)
		return false
	}
	c.ram.Set(key, it)
	return true
}

// failed has what there is served for a while without another try.
func (c *Cache[V]) failed(key string) {
	it := c.peek(key)
	if it == nil {
		return
	}
	next := c.now() + int64(c.o.RetryAfter)
	it.retry.Store(next)
	if c.o.EagerAt > 0 && !it.negative {
		it.eager.Store(next)
	}
}

// refresh begins a flight in the background for a fresh item whose time comes to an
// end. One of its readers gets to do so.
func (c *Cache[V]) refresh(ctx context.Context, key string, it *item[V], load func(context.Context) (Loaded[V], error)) {
	due := it.eager.Load()
	if !it.eager.CompareAndSwap(due, math.MaxInt64) {
		return
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.flights[key] != nil || c.peek(key) != it {
		return
	}
	// What another instance has loaded meanwhile is as good, if it is newer than ours.
	c.start(ctx, s, key, load, time.Duration((1-c.o.EagerAt)*float64(c.o.TTL)))
}

// leave notes that one who waited for a flight does so no more. A load that nobody
// waits for is ended, or loads of callers with little time would have no bound, unless
// there is a value for it to refresh.
func (c *Cache[V]) leave(s *shard[V], key string, f *flight[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.waiters--
	if f.waiters > 0 || f.ended || s.flights[key] == f && c.peek(key) != nil {
		return
	}
	if s.flights[key] == f {
		delete(s.flights, key) // the next one begins another
	}
	f.cancel(errAlone)
}

// wait waits; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
