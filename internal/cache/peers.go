package cache

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// pack is for how long changes are gathered for one message.
	pack = 2 * time.Millisecond
	// maxPack is how many changes one message has.
	maxPack = 1000
	// maxUnsent is how many changes wait for the other instances. With one more,
	// they are told that everything has changed.
	maxUnsent = 50_000
	// sendTimeout bounds one message.
	sendTimeout = time.Second
)

// announcer tells the other instances what has changed, and hears what they tell.
type announcer struct {
	cache, instance string
	peers           Peers
	m               *cacheMetrics
	logger          *slog.Logger
	hear            func(message)
	wake            chan struct{}

	mu     sync.Mutex // guards what follows
	all    bool       // everything has changed
	unsent map[subject]announcement
}

// announcement is what the others are to know of a key or tag.
type announcement struct {
	version int64
	untold  bool // the second level does not know
}

func newAnnouncer(cache, instance string, p Peers, m *cacheMetrics, l *slog.Logger, hear func(message)) *announcer {
	return &announcer{cache: cache, instance: instance, peers: p, m: m, logger: l, hear: hear, wake: make(chan struct{}, 1), unsent: make(map[subject]announcement)}
}

func (a *announcer) waiting() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return float64(len(a.unsent))
}

// add has the others told of a change. untold: the second level does not know it, and
// they must see to it that they do not read from there what is old.
func (a *announcer) add(s subject, version int64, untold bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.join(s, announcement{version, untold})
	select {
	case a.wake <- struct{}{}:
	default: // the signal that is there already serves
	}
}

// join adds to what is unsent. a is locked.
func (a *announcer) join(s subject, n announcement) {
	if old, ok := a.unsent[s]; ok {
		// Version 0 is the stronger word: it makes anything old.
		if old.version == 0 || n.version != 0 && old.version > n.version {
			n.version = old.version
		}
		n.untold = n.untold || old.untold
	} else if len(a.unsent) >= maxUnsent {
		a.m.dropped.Add(float64(len(a.unsent)))
		clear(a.unsent)
		a.all = true
	}
	a.unsent[s] = n
}

// run listens and sends until ctx ends.
func (a *announcer) run(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { a.listen(ctx) })
	retry := firstRetry
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		if !wait(ctx, pack) {
			return
		}
		for {
			m, any := a.take()
			if !any {
				break
			}
			if a.send(ctx, m, retry == firstRetry) {
				retry = firstRetry
				continue
			}
			a.giveBack(m)
			if !wait(ctx, retry) {
				return
			}
			retry = min(2*retry, maxRetry)
		}
	}
}

// last sends what is unsent, until it fails.
func (a *announcer) last(ctx context.Context) {
	for m, any := a.take(); any && a.send(ctx, m, true); m, any = a.take() {
	}
}

// take takes what fits into a message from what is unsent.
func (a *announcer) take() (m message, any bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m = message{cache: a.cache, instance: a.instance, all: a.all}
	a.all = false
	for s, n := range a.unsent {
		if len(m.changes) == maxPack {
			break
		}
		m.changes = append(m.changes, announced{s, n})
		delete(a.unsent, s)
	}
	return m, m.all || len(m.changes) > 0
}

// giveBack has what was not sent sent later.
func (a *announcer) giveBack(m message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = a.all || m.all
	for _, ch := range m.changes {
		a.join(ch.subject, ch.announcement)
	}
}

func (a *announcer) send(ctx context.Context, m message, first bool) bool {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := a.peers.Send(ctx, m.encode()); err != nil {
		a.m.unsent.Inc()
		if first {
			a.logger.Warn("cache: the other instances cannot be told what has changed; it is tried again, and until then their answers may be as old as the cache's TTL", "cache", a.cache, "error", err)
		}
		return false
	}
	a.m.sent.Inc()
	return true
}

// listen hears the others until ctx ends.
func (a *announcer) listen(ctx context.Context) {
	for retry := firstRetry; ctx.Err() == nil; retry = min(2*retry, maxRetry) {
		stop, err := a.peers.Listen(ctx, a.receive)
		if err == nil {
			<-ctx.Done()
			stop()
			return
		}
		a.logger.Warn("cache: the other instances cannot be heard; it is tried again, and until then answers may be as old as the cache's TTL", "cache", a.cache, "error", err)
		wait(ctx, retry)
	}
}

// receive hears a message.
func (a *announcer) receive(data []byte) {
	m, err := decodeMessage(a.cache, data)
	switch {
	case err != nil:
		a.m.garbled.Inc()
		a.logger.Warn("cache: a message of another instance cannot be read; if its program is of another version, its changes are seen here after the cache's TTL", "cache", a.cache, "error", err)
	case m.cache == a.cache && m.instance != a.instance:
		a.m.received.Inc()
		a.hear(m)
	}
}

// hear applies what another instance tells. What the second level may not know is
// remembered here too, so that it is not read from there.
func (c *Cache[V]) hear(m message) {
	keys := make([]Change, 0, len(m.changes))
	tags := false
	for _, ch := range m.changes {
		if c.teller != nil && (ch.untold || c.teller.isAway()) {
			c.teller.invalidate(ch.subject, ch.version, true)
		}
		if ch.tag {
			c.dropTag(ch.name)
			tags = true
			continue
		}
		keys = append(keys, Change{ch.name, ch.version})
		c.drop(keys[len(keys)-1])
	}
	c.m.peer.Add(float64(len(m.changes)))
	if m.all {
		if c.teller != nil {
			c.teller.distrust()
		}
		c.dropAll()
	}
	if m.all || tags {
		keys = keys[:0]
		if c.o.OnInvalidate != nil {
			c.o.OnInvalidate(nil)
		}
	}
	c.tellOwner(keys)
}
