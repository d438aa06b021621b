package memindex

import (
	"iter"
	"math/bits"
	"sync/atomic"
)

const (
	shardBits  = 6
	shardCount = 1 << shardBits

	bucketSlots = 7
	bucketBytes = 64
	// slotTags are the bytes of a bucket's meta word that hold tags; the eighth
	// counts entries that passed the bucket by.
	slotTags    = 1<<(8*bucketSlots) - 1
	everyByte   = 0x0101010101010101
	everyTop    = 0x8080808080808080
	passedOne   = 1 << (8 * bucketSlots)
	passedShift = 8 * bucketSlots
	passedMax   = 255

	// A shard is enlarged when its buckets hold more than this on average, and made
	// for spaciousFill. Fuller buckets save memory and pass more entries on.
	maxFill      = 5.6
	spaciousFill = 4.2
)

// hash finds values by a key that each holds itself. Readers never wait and never
// write: they follow atomic pointers. Writers are one at a time for each shard, which
// is the caller's to see to.
//
// It is open addressing in buckets of one cache line: a word of seven tags of one
// byte and a counter, and seven pointers. A reader compares all tags at once and
// follows only pointers whose tag fits, so that a look-up costs two cache misses at
// worst: the bucket and the value, whose key says whether it is the one. That is one
// less than any map that keeps keys beside its pointers.
//
// An entry that finds its bucket full goes into the next that is not, and each bucket
// it passed counts it; a reader goes on only past buckets that count some. So
// nothing is ever moved but into a larger shard, which is built aside and put in
// place at once, and there are no marks of removed entries to clean up.
type hash[K comparable, V any] struct {
	keyHash[K]
	key    func(*V) K
	shards [shardCount]atomic.Pointer[shard[V]]
	counts [shardCount]int // the writer's
	size   atomic.Int64    // of all buckets, bytes
}

type shard[V any] struct{ buckets []bucket[V] }

type bucket[V any] struct {
	meta  atomic.Uint64
	slots [bucketSlots]atomic.Pointer[V]
}

func newHash[K comparable, V any](key func(*V) K) *hash[K, V] {
	return &hash[K, V]{keyHash: newKeyHash[K](), key: key}
}

// What is read off a hash: its top bits say the shard, its low half the bucket, and a
// byte between them is the tag, of which 0 means a free slot.
func shardOf(h uint64) int             { return int(h >> (64 - shardBits)) }
func tagOf(h uint64) uint64            { return max(h>>32&0xff, 1) }
func homeOf(h uint64, buckets int) int { return int(h & 0xffffffff * uint64(buckets) >> 32) }

// bytesLike returns a word whose top bit of each byte is set where meta's byte is
// tag. It may also be set in a byte above such a one, so whoever asks compares keys.
func bytesLike(meta, tag uint64) uint64 {
	x := meta ^ tag*everyByte
	return (x - everyByte) & ^x & everyTop & slotTags
}

// get returns the value of a key, nil if there is none.
func (t *hash[K, V]) get(k K) *V { return t.find(t.hash(k), k) }

func (t *hash[K, V]) find(h uint64, k K) *V {
	s := t.shards[shardOf(h)].Load()
	if s == nil {
		return nil
	}
	tag := tagOf(h)
	at := homeOf(h, len(s.buckets))
	for range s.buckets {
		b := &s.buckets[at]
		meta := b.meta.Load()
		for like := bytesLike(meta, tag); like != 0; like &= like - 1 {
			v := b.slots[bits.TrailingZeros64(like)>>3].Load()
			if v != nil && t.key(v) == k {
				return v
			}
		}
		if meta>>passedShift == 0 {
			return nil
		}
		if at++; at == len(s.buckets) {
			at = 0
		}
	}
	return nil
}

// set puts a value in the place of the one with its key, or adds it. The hash is its
// key's.
func (t *hash[K, V]) set(h uint64, v *V) {
	if b, slot := t.locate(h, t.key(v)); b != nil {
		b.slots[slot].Store(v)
		return
	}
	t.add(h, v)
}

// add adds a value whose key is not there.
func (t *hash[K, V]) add(h uint64, v *V) {
	i := shardOf(h)
	t.reserve(i, 1)
	t.shards[i].Load().add(h, v)
	t.counts[i]++
}

// add adds a value whose key is not there. There is room for it.
func (s *shard[V]) add(h uint64, v *V) {
	at := homeOf(h, len(s.buckets))
	for {
		b := &s.buckets[at]
		meta := b.meta.Load()
		if free := bytesLike(meta, 0); free != 0 {
			// The lowest match is never a false one.
			slot := bits.TrailingZeros64(free) >> 3
			b.slots[slot].Store(v)
			b.meta.Store(meta | tagOf(h)<<(8*slot))
			return
		}
		if meta>>passedShift < passedMax {
			b.meta.Store(meta + passedOne)
		}
		if at++; at == len(s.buckets) {
			at = 0
		}
	}
}

// locate returns where a key's value is, nil if nowhere.
func (t *hash[K, V]) locate(h uint64, k K) (*bucket[V], int) {
	s := t.shards[shardOf(h)].Load()
	if s == nil {
		return nil, 0
	}
	at := homeOf(h, len(s.buckets))
	for range s.buckets {
		b := &s.buckets[at]
		meta := b.meta.Load()
		for like := bytesLike(meta, tagOf(h)); like != 0; like &= like - 1 {
			slot := bits.TrailingZeros64(like) >> 3
			if v := b.slots[slot].Load(); v != nil && t.key(v) == k {
				return b, slot
			}
		}
		if meta>>passedShift == 0 {
			return nil, 0
		}
		if at++; at == len(s.buckets) {
			at = 0
		}
	}
	return nil, 0
}

// remove takes the value of a key away.
func (t *hash[K, V]) remove(h uint64, k K) {
	i := shardOf(h)
	found, slot := t.locate(h, k)
	if found == nil {
		return
	}
	found.meta.Store(found.meta.Load() &^ (0xff << (8 * slot)))
	found.slots[slot].Store(nil)
	s := t.shards[i].Load()
	for at := homeOf(h, len(s.buckets)); &s.buckets[at] != found; at = (at + 1) % len(s.buckets) {
		b := &s.buckets[at]
		if meta := b.meta.Load(); meta>>passedShift < passedMax { // else it is not known how many they were
			b.meta.Store(meta - passedOne)
		}
	}
	t.counts[i]--
	if n := len(s.buckets); n > 1 && t.counts[i] < n {
		t.resize(i, t.counts[i])
	}
}

// reserve sees that a shard has room for so many more values.
func (t *hash[K, V]) reserve(i, more int) {
	n := t.counts[i] + more
	if s := t.shards[i].Load(); s == nil || float64(n) > maxFill*float64(len(s.buckets)) {
		t.resize(i, n)
	}
}

// resize rebuilds a shard for n values. Readers that are in the old one see all that
// was there when they came.
func (t *hash[K, V]) resize(i, n int) {
	old := t.shards[i].Load()
	next := &shard[V]{buckets: make([]bucket[V], int(float64(n)/spaciousFill)+1)}
	grown := bucketsBytes(len(next.buckets))
	if old != nil {
		grown -= bucketsBytes(len(old.buckets))
		for v := range old.all() {
			next.add(t.hash(t.key(v)), v)
		}
	}
	t.shards[i].Store(next)
	t.size.Add(grown)
}

func (s *shard[V]) all() iter.Seq[*V] {
	return func(yield func(*V) bool) {
		for b := range s.buckets {
			for slot := range bucketSlots {
				if v := s.buckets[b].slots[slot].Load(); v != nil && !yield(v) {
					return
				}
			}
		}
	}
}

// all visits every value that is there from beginning to end once, in no order.
func (t *hash[K, V]) all() iter.Seq[*V] {
	return func(yield func(*V) bool) {
		for i := range t.shards {
			s := t.shards[i].Load()
			if s == nil {
				continue
			}
			for v := range s.all() {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// bytes is what the buckets take; the rest is a few kilobytes for each hash.
func (t *hash[K, V]) bytes() int64 { return t.size.Load() }

func bucketsBytes(n int) int64 { return allocated(n*bucketBytes) + allocated(24) }
