package cache

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxUntold is how many changes wait for the second level. With one more,
	// everything in it is disbelieved instead.
	maxUntold = 50_000
	// maxUntoldBytes bounds the values among them; beyond it a Put is told as an
	// invalidation.
	maxUntoldBytes = 16 << 20
	// newsPerCall bounds how long one call keeps the second level from others.
	newsPerCall = 256
	// firstRetry and maxRetry are between looks whether the second level is back.
	firstRetry = 50 * time.Millisecond
	maxRetry   = 2 * time.Second
	// settled is for how long it must have answered until the next failure is taken
	// for the first again.
	settled = 10 * time.Second
)

// teller tells the second level of changes, in the background. What it has not told
// yet is not read from there, so a reader never finds what was invalidated; after a
// failure nothing is read from there at all until everything was told.
type teller[V any] struct {
	c      *Cache[V]
	clears atomic.Int64 // how often all that was untold gave way to Distrust
	wake   chan struct{}

	mu    sync.Mutex // guards what follows
	away  bool
	said  bool // that it is away was logged
	all   bool // everything is to be disbelieved before anything is read
	gen   uint64
	bytes int
	waits map[subject]untold[V]
}

// subject is a key or a tag.
type subject struct {
	tag  bool
	name string
}

// untold is a change that waits.
type untold[V any] struct {
	gen       uint64 // a change that came while an earlier one was told is told too
	version   int64
	put       *made[V]
	bytes     int
	seq       int64 // the second level's counter of tags before the Put
	announced bool  // the other instances know
	forget    bool  // what is remembered of the key is forgotten too
}

// newTeller starts with the second level away: nothing is read before the first Check.
func newTeller[V any](c *Cache[V]) *teller[V] {
	return &teller[V]{c: c, away: true, wake: make(chan struct{}, 1), waits: make(map[subject]untold[V])}
}

func (t *teller[V]) awayGauge() float64 {
	if t.isAway() {
		return 1
	}
	return 0
}

func (t *teller[V]) isAway() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.away
}

func (t *teller[V]) waiting() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return float64(len(t.waits))
}

// readable says whether a key may be read from the second level now.
func (t *teller[V]) readable(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, waits := t.waits[subject{name: key}]
	return !t.away && !t.all && !waits
}

// doubts says whether an entry with tags that was read after a moment may be older
// than an invalidation of one of them: one that waits, or was told since.
func (t *teller[V]) doubts(tags []string, since int64) bool {
	if len(tags) == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tag := range tags {
		if _, waits := t.waits[subject{true, tag}]; waits {
			return true
		}
	}
	return t.c.tags.latest(&t.c.tags.told, tags) > since
}

func (t *teller[V]) signal() {
	select {
	case t.wake <- struct{}{}:
	default: // the signal that is there already serves
	}
}

// invalidate has a change of a key or, of version 0, of a tag told. announced: the
// other instances know of it.
func (t *teller[V]) invalidate(s subject, version int64, announced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(s, untold[V]{version: version, announced: announced})
}

// forget has everything forgotten that is known of a key.
func (t *teller[V]) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(subject{name: key}, untold[V]{forget: true})
}

// put has a new value told. Without a version it is an invalidation: nobody could say
// whether it is older than what is there by then. So it is while the second level is
// away, since it may be long until it is told.
func (t *teller[V]) put(key string, m made[V]) {
	u := untold[V]{version: m.version}
	n := m.weight
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.version > 0 && !t.away && t.bytes+n <= maxUntoldBytes {
		u.put, u.bytes, u.seq = &m, n, t.c.seq.Load()
	}
	t.add(subject{name: key}, u)
}

// add joins a change with one of the same subject that waits. t is locked.
func (t *teller[V]) add(s subject, u untold[V]) {
	if old, ok := t.waits[s]; ok {
		t.bytes -= old.bytes
		switch {
		case old.version == 0 || u.version == 0:
			u.version, u.put, u.bytes = 0, nil, 0
		case old.version > u.version:
			u.version, u.put, u.bytes, u.seq = old.version, old.put, old.bytes, old.seq
		}
		u.announced, u.forget = u.announced && old.announced, u.forget || old.forget
	} else if len(t.waits) >= maxUntold {
		t.overflow()
	}
	t.gen++
	u.gen = t.gen
	t.bytes += u.bytes
	if t.away {
		t.announce(s, &u, false)
	}
	t.waits[s] = u
	t.signal()
}

// overflow forgets what waits and has everything disbelieved instead. t is locked.
func (t *teller[V]) overflow() {
	t.announceAll()
	clear(t.waits)
	t.bytes, t.all = 0, true
	t.clears.Add(1)
	t.c.o.Logger.Warn("cache: too many changes wait for the second level; everything in it will be disbelieved before it is read again", "cache", t.c.o.Name, "changes", maxUntold)
}

// announce tells the other instances, once, and whether the second level knows.
func (t *teller[V]) announce(s subject, u *untold[V], told bool) {
	if t.c.peers != nil && !u.announced {
		t.c.peers.add(s, u.version, !told)
	}
	u.announced = true
}

// announceAll tells the other instances of all that waits, without waiting for the
// second level any longer. t is locked.
func (t *teller[V]) announceAll() {
	for s, u := range t.waits {
		if !u.announced {
			t.announce(s, &u, false)
			t.waits[s] = u
		}
	}
}

// distrust has everything disbelieved before anything is read again.
func (t *teller[V]) distrust() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = true
	t.clears.Add(1)
	t.signal()
}

// lost notes that a call failed: the second level is away until Check says otherwise.
func (t *teller[V]) lost(op string, err error) {
	t.c.m.remoteErrors.WithLabelValues(op).Inc()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.said {
		t.said = true
		t.c.o.Logger.Warn("cache: the second level does not answer; reads go on from RAM and loads, and what is invalidated meanwhile is remembered", "cache", t.c.o.Name, "op", op, "error", err)
	}
	t.away = true
	t.announceAll()
	for s, u := range t.waits {
		if u.put != nil { // it may be told much later than it was put
			t.bytes -= u.bytes
			u.put, u.bytes = nil, 0
			t.waits[s] = u
		}
	}
	t.signal()
}

// run tells what there is to tell until ctx ends.
func (t *teller[V]) run(ctx context.Context) {
	retry, since := firstRetry, time.Now()
	for ctx.Err() == nil {
		if t.round(ctx) {
			select {
			case <-t.wake:
			case <-ctx.Done():
				return
			}
			if !t.isAway() {
				continue
			}
			if time.Since(since) > settled {
				retry = firstRetry
			}
		}
		// Half to all of it, so that instances do not come back at once.
		wait(ctx, retry/2+rand.N(retry/2))
		retry, since = min(2*retry, maxRetry), time.Now()
	}
}

// last tells what waits once more, or at least the other instances.
func (t *teller[V]) last(ctx context.Context) {
	// Half of the time is for the other instances.
	if deadline, ok := ctx.Deadline(); ok {
		half, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = half
	}
	if !t.isAway() && t.waiting() > 0 {
		t.round(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.announceAll()
}

// round tells what waits now, and has the second level read again if it was away.
func (t *teller[V]) round(ctx context.Context) bool {
	t.mu.Lock()
	away, all, until, clears := t.away, t.all, t.gen, t.clears.Load()
	t.mu.Unlock()
	remote, name := t.c.o.Remote, t.c.o.Name
	if away && !t.call(ctx, "check", func(ctx context.Context) (int64, error) { return remote.Check(ctx, name) }) {
		return false
	}
	if all {
		if !t.call(ctx, "distrust", func(ctx context.Context) (int64, error) { return 0, remote.Distrust(ctx, name) }) {
			return false
		}
		t.mu.Lock()
		t.all = t.clears.Load() != clears
		t.mu.Unlock()
	}
	for {
		subjects, changes := t.take(until)
		if len(subjects) == 0 {
			break
		}
		if !t.tell(ctx, subjects, changes) {
			return false
		}
	}
	if away {
		t.mu.Lock()
		t.away, t.said = false, false
		t.mu.Unlock()
		t.c.o.Logger.Info("cache: the second level answers", "cache", t.c.o.Name)
	}
	return true
}

// call makes a call that returns the counter of tags.
func (t *teller[V]) call(ctx context.Context, op string, do func(context.Context) (int64, error)) bool {
	called, cancel := context.WithTimeout(ctx, t.c.o.RemoteTimeout)
	defer cancel()
	seq, err := do(called)
	if err != nil {
		if ctx.Err() == nil { // the cache is not being closed
			t.lost(op, err)
		}
		return false
	}
	t.c.heardSeq(seq)
	return true
}

// take returns some of the changes that waited at the moment until. They go on
// waiting until they were told.
func (t *teller[V]) take(until uint64) (subjects []subject, changes []untold[V]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s, u := range t.waits {
		if u.gen <= until {
			subjects, changes = append(subjects, s), append(changes, u)
		}
		if len(subjects) == newsPerCall {
			break
		}
	}
	return subjects, changes
}

func (t *teller[V]) tell(ctx context.Context, subjects []subject, changes []untold[V]) bool {
	c := t.c
	news := make([]News, len(subjects))
	for i, s := range subjects {
		n := &news[i]
		if s.tag {
			n.Tag = s.name
			n.Keep = c.o.TTL + c.o.StaleFor + c.remembered()
			continue
		}
		n.Key, n.Version, n.Keep, n.Forget = s.name, changes[i].version, c.remembered(), changes[i].forget
		if p := changes[i].put; p != nil {
			if rec, ok := c.record(*p); ok {
				rec.Seq = changes[i].seq
				n.Put = &rec
			}
		}
	}
	ok := t.call(ctx, "tell", func(ctx context.Context) (int64, error) { return c.o.Remote.Tell(ctx, c.o.Name, news) })
	if ok {
		t.told(subjects, changes)
	}
	return ok
}

// told forgets what was told, and tells the other instances.
func (t *teller[V]) told(subjects []subject, changes []untold[V]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, s := range subjects {
		u, waits := t.waits[s]
		if s.tag {
			t.c.tags.mark(&t.c.tags.told, s.name)
		}
		if waits && u.gen == changes[i].gen {
			t.announce(s, &u, true)
			t.bytes -= u.bytes
			delete(t.waits, s)
		}
	}
}
