package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// ErrNotFound says that there is nothing of that key. A load returns it, wrapped or
// not, and then it is kept for Options.NegativeTTL.
var ErrNotFound = errors.New("there is nothing of that key")

// ErrClosed is what Get returns after Close.
var ErrClosed = errors.New("the cache was closed")

// Loaded is what a load brings.
type Loaded[V any] struct {
	// Value is shared by all readers: nobody may change it.
	Value V
	// Version orders the values of a key: a larger one is newer. 0 is unversioned.
	Version int64
	// Tags are names by which InvalidateTags finds the entry.
	Tags []string
}

// Entry is what Get returns.
type Entry[V any] struct {
	Value   V
	Version int64
	// Age is how long ago it was loaded or put.
	Age time.Duration
	// Stale: it is over its time, and served because the load failed or is slow.
	Stale bool
	// Level is where it came from: "ram", "remote" or "load".
	Level string
}

// Change is a key whose value has changed.
type Change struct {
	Key string
	// Version is that of the new value: what is older must not be served. 0: nothing
	// that was loaded or put before now.
	Version int64
}

// Cache is a cache of two levels, see the package comment. It is safe for concurrent
// use.
type Cache[V any] struct {
	o       Options[V]
	m       *cacheMetrics
	started time.Time
	seed    maphash.Seed
	ram     *otter.Cache[string, *item[V]]
	clock   *otter.CoarseClock // the RAM level's
	shards  [shards]shard[V]
	tags    *tagIndex
	teller  *teller[V]   // nil without Remote
	peers   *announcer   // nil without Peers
	leases  leaseTokens  // of loads
	seq     atomic.Int64 // the second level's counter of tags, as last heard

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	running   sync.WaitGroup // flights
	loops     sync.WaitGroup // what tells and listens
	stopLoops context.CancelFunc
	closeOnce sync.Once
}

// New checks the options and starts the cache. It talks to nobody yet, so Remote and
// Peers may be away.
func New[V any](o Options[V]) (*Cache[V], error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	c := &Cache[V]{o: o, m: o.Metrics.forCache(o.Name), started: time.Now(), seed: maphash.MakeSeed(), tags: newTagIndex(), leases: newLeaseTokens()}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	loops, stop := context.WithCancel(c.ctx)
	c.stopLoops = stop
	c.clock = otter.NewCoarseClock(removal)
	ram, err := c.newRAM(c.clock)
	if err != nil {
		c.clock.Stop()
		return nil, fmt.Errorf("cache %s: %w", o.Name, err)
	}
	c.ram = ram
	if o.Peers != nil {
		c.peers = newAnnouncer(o.Name, o.Instance, o.Peers, c.m, o.Logger, c.hear)
	}
	if o.Remote != nil {
		c.teller = newTeller(c)
	}
	if err := c.gauges(); err != nil {
		c.release()
		return nil, err
	}
	if c.peers != nil {
		c.loops.Go(func() { c.peers.run(loops) })
	}
	if c.teller != nil {
		c.loops.Go(func() { c.teller.run(loops) })
	}
	return c, nil
}

func (c *Cache[V]) gauges() error {
	errs := []error{
		c.m.gauge(c.o.Name, "bytes", "Bytes that the entries in RAM hold, by their weights.", nil, func() float64 { return float64(c.ram.WeightedSize()) }),
		c.m.gauge(c.o.Name, "entries", "Entries in RAM.", nil, func() float64 { return float64(c.ram.EstimatedSize()) }),
	}
	const unsent = "Changes that wait to be told to the second level (remote) or to the other instances (peers)."
	if c.teller != nil {
		errs = append(errs,
			c.m.gauge(c.o.Name, "remote_away", "1 while the second level is not used because it does not answer, else 0.", nil, c.teller.awayGauge),
			c.m.gauge(c.o.Name, "unsent", unsent, map[string]string{"to": "remote"}, c.teller.waiting))
		if r, ok := c.o.Remote.(interface{ Unreadable(string) int64 }); ok {
			errs = append(errs, c.m.gauge(c.o.Name, "remote_unreadable", "Keys of the second level that held something else than it writes, and were deleted, since the start.", nil, func() float64 { return float64(r.Unreadable(c.o.Name)) }))
		}
	}
	if c.peers != nil {
		errs = append(errs, c.m.gauge(c.o.Name, "unsent", unsent, map[string]string{"to": "peers"}, c.peers.waiting))
	}
	return errors.Join(errs...)
}

// Close ends all loads and waits for what the cache runs, loads that do not heed
// their context for HardTimeout at the most. What is untold is told within a second,
// as far as that can be. It may be called twice.
func (c *Cache[V]) Close() {
	c.closeOnce.Do(func() {
		for i := range c.shards {
			c.shards[i].mu.Lock()
			c.shards[i].closed = true
			c.shards[i].mu.Unlock()
		}
		c.stopLoops()
		c.loops.Wait()
		c.lastWords()
		c.cancel()
		ended := make(chan struct{})
		go func() { // it ends with the last load
			c.running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(c.o.HardTimeout):
			c.o.Logger.Warn("cache: a load goes on although its context has ended; see that it heeds it", "cache", c.o.Name)
		}
		c.release()
	})
}

// closing bounds how long Close tells.
const closing = time.Second

// lastWords tells what is untold, once: an instance that ends in order, as each does
// in a rolling update, must not leave others with what is old.
func (c *Cache[V]) lastWords() {
	ctx, cancel := context.WithTimeout(c.ctx, closing)
	defer cancel()
	if c.teller != nil {
		c.teller.last(ctx)
	}
	if c.peers != nil {
		c.peers.last(ctx)
	}
}

// release ends what New has started first.
func (c *Cache[V]) release() {
	c.cancel()
	c.m.close()
	c.ram.StopAllGoroutines()
	c.clock.Stop()
}

// now is the cache's clock in nanoseconds.
func (c *Cache[V]) now() int64 {
	if c.o.Now != nil {
		return c.o.Now().UnixNano()
	}
	return int64(time.Since(c.started))
}

func (c *Cache[V]) hash(key string) uint64 { return maphash.String(c.seed, key) }

func (c *Cache[V]) shard(key string) *shard[V] { return &c.shards[c.hash(key)%shards] }

// Get returns the value of a key: from RAM, else from Remote, else by load, which all
// who ask meanwhile wait for, here and in other instances. The load's context has the
// values of the first caller's, and HardTimeout as its deadline. It ends with the last
// caller who waits for it, or goes on if there is a stale value to refresh. A hit in RAM allocates nothing.
//
// It returns ErrNotFound as the load did, ctx's error if that ended first, and the
// load's error if there is nothing that may be served in its place.
func (c *Cache[V]) Get(ctx context.Context, key string, load func(ctx context.Context) (Loaded[V], error)) (Entry[V], error) {
	it, ok := c.ram.GetIfPresent(key)
	if ok {
		if now := c.now(); it.fresh(now) {
			if now >= it.eager.Load() {
				c.refresh(ctx, key, it, load)
			}
			return c.hit(it, now)
		}
	}
	return c.miss(ctx, key, load)
}

// hit answers with a fresh item.
func (c *Cache[V]) hit(it *item[V], now int64) (Entry[V], error) {
	if it.negative {
		c.m.negative.Inc()
		return Entry[V]{}, ErrNotFound
	}
	c.m.ram.Inc()
	return Entry[V]{Value: it.value, Version: it.version, Age: time.Duration(now - it.at), Level: levelRAM}, nil
}

// stale answers with what is in RAM although its time is over, if it may be.
func (c *Cache[V]) stale(key string) (Entry[V], bool) {
	it, now := c.peek(key), c.now()
	if it == nil || it.negative || now >= it.dead {
		return Entry[V]{}, false
	}
	if it.fresh(now) { // put meanwhile
		e, _ := c.hit(it, now)
		return e, true
	}
	c.m.stale.Inc()
	return Entry[V]{Value: it.value, Version: it.version, Age: time.Duration(now - it.at), Stale: true, Level: levelRAM}, true
}

// miss joins a flight, or begins one.
func (c *Cache[V]) miss(ctx context.Context, key string, load func(context.Context) (Loaded[V], error)) (Entry[V], error) {
	s, came := c.shard(key), c.tags.now()
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.m.failed.Inc()
			return Entry[V]{}, fmt.Errorf("cache %s: %w", c.o.Name, ErrClosed)
		}
		now := c.now()
		if it := c.peek(key); it != nil && it.fresh(now) { // a flight has just ended
			s.mu.Unlock()
			return c.hit(it, now)
		} else if it != nil && now < it.retry.Load() {
			s.mu.Unlock()
			if e, ok := c.stale(key); ok {
				return e, nil
			}
			s.mu.Lock()
		}
		f := s.flights[key]
		if f == nil {
			f = c.start(ctx, s, key, load, 0)
		}
		f.waiters++
		s.mu.Unlock()
		e, err, again := c.await(ctx, key, f, came)
		c.leave(s, key, f)
		if !again {
			return e, err
		}
	}
}

// await waits for a flight, for a Get that came at a moment of the tags. again says
// that it was the wrong one: a tag of what it brings was invalidated after it began,
// and maybe before the Get came.
func (c *Cache[V]) await(ctx context.Context, key string, f *flight[V], came int64) (e Entry[V], err error, again bool) {
	var soft <-chan time.Time
	if c.o.SoftTimeout > 0 && c.o.StaleFor > 0 {
		t := time.NewTimer(c.o.SoftTimeout)
		defer t.Stop()
		soft = t.C
	}
	for {
		select {
		case <-f.done:
			if f.tagged > f.began && came > f.began {
				return e, nil, true
			}
			return c.answer(key, f)
		case <-soft:
			if e, ok := c.stale(key); ok {
				return e, nil, false
			}
			soft = nil
		case <-ctx.Done():
			c.m.failed.Inc()
			return e, fmt.Errorf("cache %s: the caller's time was over before the load had ended: %w", c.o.Name, context.Cause(ctx)), false
		}
	}
}

// answer answers with what a flight ended with.
func (c *Cache[V]) answer(key string, f *flight[V]) (e Entry[V], err error, again bool) {
	switch {
	case f.err == nil && f.level == levelRemote:
		c.m.remote.Inc()
	case f.err == nil || errors.Is(f.err, ErrNotFound):
		c.m.load.Inc()
	default:
		if e, ok := c.stale(key); ok {
			return e, nil, false
		}
		c.m.failed.Inc()
	}
	if f.err != nil {
		return e, f.err, false
	}
	return Entry[V]{Value: f.value, Version: f.version, Age: f.age, Level: f.level}, nil, false
}

// Put keeps a value that was just written: here at once, in Remote and for the other
// instances as soon as they can be told. An older version never replaces a newer one;
// an unversioned value replaces what is here, and Remote and the other instances only
// drop what they have, since nobody could tell which of two is newer. It never waits
// for Remote or Peers.
func (c *Cache[V]) Put(ctx context.Context, key string, v Loaded[V]) {
	v.Version = max(v.Version, 0)
	weight, err := c.weigh(key, v.Value)
	if err != nil {
		c.o.Logger.Error("cache: a value that was put cannot be weighed and is invalidated instead; correct Weigh", "cache", c.o.Name, "error", err)
		c.Invalidate(ctx, Change{key, v.Version})
		return
	}
	h, since := c.hash(key), c.tags.now()
	s := &c.shards[h%shards]
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	delete(s.flights, key) // what began before loads something older
	m := made[V]{value: v.Value, version: v.Version, tags: v.Tags, weight: weight, left: c.lifetime(false)}
	newer := v.Version == 0 || c.newest(s, key) <= v.Version
	if newer {
		s.raise(h, v.Version, c.now(), c.now()+int64(c.remembered()))
		if c.teller != nil {
			c.teller.put(key, m)
		}
		c.keep(s, key, m, since)
	}
	s.mu.Unlock()
	if newer && c.teller == nil && c.peers != nil {
		c.peers.add(subject{name: key}, v.Version, true)
	}
}

// remembered is how long versions are remembered for what comes late.
func (c *Cache[V]) remembered() time.Duration { return c.o.HardTimeout + 5*time.Second }

// Invalidate says that keys have changed. When it returns, no Get here serves what is
// older or joins a load that began before, and nothing is read from Remote of these
// keys until it was told. Others drop theirs as soon as they are told. It never waits
// for Remote or Peers, and what cannot be told is told later.
func (c *Cache[V]) Invalidate(_ context.Context, changes ...Change) {
	c.m.own.Add(float64(len(changes)))
	for _, ch := range changes {
		ch.Version = max(ch.Version, 0)
		c.tell(subject{name: ch.Key}, ch.Version)
		c.drop(ch)
	}
	c.tellOwner(changes)
}

// tell has the second level and the other instances told. The others are told once the
// second level was, or could not be.
func (c *Cache[V]) tell(s subject, version int64) {
	switch {
	case c.teller != nil:
		c.teller.invalidate(s, version, false)
	case c.peers != nil:
		c.peers.add(s, version, true) // one of them may have a second level
	}
}

// tellOwner calls OnInvalidate with the keys of changes.
func (c *Cache[V]) tellOwner(changes []Change) {
	if c.o.OnInvalidate == nil || len(changes) == 0 {
		return
	}
	keys := make([]string, len(changes))
	for i := range changes {
		keys[i] = changes[i].Key
	}
	c.o.OnInvalidate(keys)
}

// drop removes from RAM what a change makes old.
func (c *Cache[V]) drop(ch Change) {
	h := c.hash(ch.Key)
	s := &c.shards[h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flights, ch.Key)
	if now := c.now(); ch.Version > 0 {
		s.raise(h, ch.Version, now, now+int64(c.remembered()))
	}
	if it := c.peek(ch.Key); it != nil && (ch.Version == 0 || it.version < ch.Version) {
		c.ram.Invalidate(ch.Key)
	}
}

// InvalidateTags says that all entries with any of these tags have changed. It
// promises what Invalidate does.
func (c *Cache[V]) InvalidateTags(_ context.Context, tags ...string) {
	c.m.own.Add(float64(len(tags)))
	for _, tag := range tags {
		c.tell(subject{true, tag}, 0)
		c.dropTag(tag)
	}
	if c.o.OnInvalidate != nil && len(tags) > 0 {
		c.o.OnInvalidate(nil)
	}
}

func (c *Cache[V]) dropTag(tag string) {
	c.tags.mark(&c.tags.invalidated, tag)
	for _, key := range c.tags.of(tag) {
		c.drop(Change{Key: key})
	}
}

// dropAll removes everything from RAM, and has what is being loaded not kept.
func (c *Cache[V]) dropAll() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.flights)
		s.mu.Unlock()
	}
	for key := range c.ram.Keys() {
		c.drop(Change{Key: key})
	}
}
