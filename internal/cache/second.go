package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync/atomic"
	"time"
)

// leaseTokens names leases: no two flights of any instance have the same.
type leaseTokens struct {
	prefix string
	n      *atomic.Uint64
}

func newLeaseTokens() leaseTokens {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return leaseTokens{hex.EncodeToString(b[:]) + "-", new(atomic.Uint64)}
}

func (l leaseTokens) next() string { return l.prefix + strconv.FormatUint(l.n.Add(1), 36) }

// lease is the right to store what a load brings in the second level.
type lease struct {
	token string // empty: none
	seq   int64  // the second level's counter of tags before the load
}

// fromRemote looks into the second level, and waits for what another instance loads
// of that key, for LeaseWait at the most: the other one may be sick. done says that it ended the flight; if
// not, the caller loads, with a lease or without.
func (c *Cache[V]) fromRemote(ctx context.Context, s *shard[V], key string, f *flight[V], left time.Duration) (l lease, done bool) {
	if c.teller == nil || !c.teller.readable(key) {
		return l, false
	}
	token, told := c.leases.next(), c.tags.now()
	want := Want{Left: left, Token: token, Lease: c.o.HardTimeout + c.o.RemoteTimeout}
	giveUp := time.Now().Add(c.o.LeaseWait)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		rec, err := c.read(ctx, key, want)
		if err != nil {
			return l, false
		}
		if rec.Found {
			out, ok := c.believe(s, key, f, rec, told)
			switch {
			case ok && rec.Left >= left:
				c.end(s, key, f, out)
				return l, true
			case ok && !out.negative:
				c.offer(s, key, f, out.made)
			case !ok && !rec.Leased:
				return l, false
			}
		}
		if rec.Leased {
			return lease{token, rec.Seq}, false
		}
		if time.Until(giveUp) < pause || !wait(ctx, pause) || !c.teller.readable(key) {
			return l, false
		}
	}
}

func (c *Cache[V]) read(ctx context.Context, key string, want Want) (Record, error) {
	rctx, cancel := context.WithTimeout(ctx, c.o.RemoteTimeout)
	defer cancel()
	rec, err := c.o.Remote.Read(rctx, c.o.Name, key, want)
	if err != nil {
		if ctx.Err() == nil { // the cache is not being closed
			c.teller.lost("read", err)
		}
		return rec, err
	}
	c.heardSeq(rec.Seq)
	return rec, nil
}

// heardSeq notes the second level's counter of tags.
func (c *Cache[V]) heardSeq(seq int64) {
	for {
		old := c.seq.Load()
		if old >= seq || c.seq.CompareAndSwap(old, seq) {
			return
		}
	}
}

// believe makes an outcome of a record, unless it is older than what is known here.
// told is a moment before it was read.
func (c *Cache[V]) believe(s *shard[V], key string, f *flight[V], rec Record, told int64) (out outcome[V], ok bool) {
	out = outcome[V]{level: levelRemote, made: made[V]{version: rec.Version, tags: rec.Tags, negative: rec.Negative, age: rec.Age, left: rec.Left}}
	if c.teller.doubts(rec.Tags, told) || c.teller.clears.Load() != f.clears || c.outdated(s, key, f, rec.Version) {
		return out, false
	}
	out.left = min(out.left, c.o.TTL) // whatever the second level's clock says
	if rec.Negative {
		out.err, out.left = ErrNotFound, min(out.left, c.o.NegativeTTL)
		return out, true
	}
	v, err := c.decode(rec.Data)
	if err == nil {
		out.weight, err = c.weigh(key, v)
	}
	if err != nil {
		c.m.remoteErrors.WithLabelValues("decode").Inc()
		c.o.Logger.Debug("cache: an entry of the second level cannot be read and is loaded instead; another version of the program may have written it", "cache", c.o.Name, "error", err)
		return out, false
	}
	out.value = v
	return out, true
}

// offer puts a value whose time is over into RAM, to be served if the load fails or
// is slow, in the place of none or of an older one: nobody may be served what is older
// than what is known to be.
func (c *Cache[V]) offer(s *shard[V], key string, f *flight[V], m made[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := c.peek(key)
	switch {
	case s.flights[key] != f || it != nil && m.version <= it.version:
	case m.left+c.o.StaleFor > 0:
		c.keep(s, key, m, f.began)
	case it != nil:
		c.ram.Invalidate(key)
	}
}

// settle ends a lease: with what was loaded, if it may be kept.
func (c *Cache[V]) settle(key string, l lease, out outcome[V], kept bool) {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.RemoteTimeout)
	defer cancel()
	op := "release"
	var err error
	if rec, ok := c.record(out.made); kept && ok {
		op, rec.Seq = "store", l.seq
		_, err = c.o.Remote.Store(ctx, c.o.Name, key, l.token, rec)
	} else {
		err = c.o.Remote.Release(ctx, c.o.Name, key, l.token)
	}
	if err != nil && c.ctx.Err() == nil {
		c.teller.lost(op, err)
	}
}

// record is what the second level keeps of what was made here.
func (c *Cache[V]) record(m made[V]) (Record, bool) {
	rec := Record{Negative: m.negative, Version: m.version, Tags: m.tags, Left: m.left, Keep: m.left}
	if m.negative {
		return rec, true
	}
	rec.Keep += c.o.StaleFor
	data, err := c.encode(m.value)
	if err != nil {
		c.m.remoteErrors.WithLabelValues("encode").Inc()
		c.o.Logger.Error("cache: a value cannot be encoded and stays out of the second level; correct Encode", "cache", c.o.Name, "error", err)
		return rec, false
	}
	rec.Data = data
	return rec, true
}
