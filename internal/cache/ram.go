package cache

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// itemBytes is what an entry takes besides its key and value: the item, the RAM
// level's node and its place in the table.
const itemBytes = 256

// tagBytes is what a tag takes besides its name: its place in the item and in the
// index, and the map of its keys, which mostly is one.
const tagBytes = 450

// item is what RAM holds of a key. All times are the cache's clock.
type item[V any] struct {
	value    V
	version  int64
	tags     []string
	negative bool
	weight   int   // of the value
	at       int64 // when it was loaded or put
	expires  int64 // until then it is fresh
	dead     int64 // until then it may be served if a load fails
	eager    atomic.Int64
	retry    atomic.Int64 // until then no load is tried, since one failed
	// gone is set before the item leaves the index of tags, which is a moment before it
	// leaves RAM: who finds nothing in the index to remove must not find it in RAM.
	gone atomic.Bool
}

// made is what an item is made of.
type made[V any] struct {
	value     V
	version   int64
	tags      []string
	negative  bool
	weight    int           // of the value
	age, left time.Duration // how old it is, and how long it is fresh still
}

func (c *Cache[V]) newItem(m made[V]) *item[V] {
	now := c.now()
	it := &item[V]{value: m.value, version: m.version, tags: m.tags, negative: m.negative, weight: m.weight, at: now - int64(m.age), expires: now + int64(m.left)}
	it.dead = it.expires
	it.eager.Store(math.MaxInt64)
	if !m.negative {
		it.dead += int64(c.o.StaleFor)
		if c.o.EagerAt > 0 {
			it.eager.Store(it.at + int64(c.o.EagerAt*float64(it.expires-it.at)))
		}
	}
	return it
}

// lifetime is how long something that was loaded now is fresh.
func (c *Cache[V]) lifetime(negative bool) time.Duration {
	ttl := c.o.TTL
	if negative {
		ttl = c.o.NegativeTTL
	}
	return ttl - time.Duration(rand.Float64()*c.o.Jitter*float64(ttl))
}

func (it *item[V]) fresh(now int64) bool { return now < it.expires && !it.gone.Load() }

// removal is how exactly the RAM level removes what is dead. It reads a clock of its
// own, since another precise reading would be a fifth of a hit; Get judges by c.now.
const removal = 100 * time.Millisecond

func (c *Cache[V]) newRAM(clock *otter.CoarseClock) (*otter.Cache[string, *item[V]], error) {
	return otter.New(&otter.Options[string, *item[V]]{
		MaximumWeight: uint64(c.o.MaxBytes),
		Weigher: func(key string, it *item[V]) uint32 {
			n := itemBytes + len(key) + it.weight
			for _, tag := range it.tags {
				n += tagBytes + len(tag)
			}
			return uint32(min(n, math.MaxUint32))
		},
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *item[V]]) time.Duration {
			return max(time.Duration(e.Value.dead-c.now()), 0) + 2*removal
		}),
		OnAtomicDeletion: func(e otter.DeletionEvent[string, *item[V]]) {
			if e.Cause == otter.CauseOverflow {
				c.m.evictions.Inc()
			}
			e.Value.gone.Store(true)
			c.tags.remove(e.Key, e.Value, e.Value.tags)
		},
		Clock: clock,
	})
}

// peek looks at an entry without counting as a use of it.
func (c *Cache[V]) peek(key string) *item[V] {
	e, ok := c.ram.GetEntryQuietly(key)
	if !ok || e.Value.gone.Load() {
		return nil
	}
	return e.Value
}

const (
	shards = 64
	// floorsPerShard times shards versions are remembered.
	floorsPerShard = 256
)

// shard is what belongs together of some of the keys. Entries of RAM are written
// under its lock, and read without.
type shard[V any] struct {
	mu      sync.Mutex
	flights map[string]*flight[V]
	floors  []floor // made with the first
	closed  bool
}

// floor is the version that a key was last said to have, remembered for a while: of
// two writers who tell in the other order than they wrote, the later one wins. The
// table is small and forgets, as what it guards against happens within moments.
type floor struct {
	hash    uint64
	version int64
	until   int64
}

// floor returns the version below which nothing is taken; 0 is none.
func (s *shard[V]) floor(hash uint64, now int64) int64 {
	if s.floors == nil {
		return 0
	}
	if f := &s.floors[hash/shards%floorsPerShard]; f.hash == hash && now < f.until {
		return f.version
	}
	return 0
}

// forget forgets the version of a key.
func (s *shard[V]) forget(hash uint64) {
	if s.floors == nil {
		return
	}
	if f := &s.floors[hash/shards%floorsPerShard]; f.hash == hash {
		*f = floor{}
	}
}

func (s *shard[V]) raise(hash uint64, version, now, until int64) {
	if version == 0 {
		return
	}
	if s.floors == nil {
		s.floors = make([]floor, floorsPerShard)
	}
	f := &s.floors[hash/shards%floorsPerShard]
	if f.hash == hash && now < f.until {
		version = max(version, f.version)
	}
	*f = floor{hash, version, until}
}
