package dedupe

import (
	"encoding/binary"
	"math/bits"
)

// Hash is the identity of an event. Both halves are uniform, and the low half
// depends on tenant and id only; event.HashOf makes it.
type Hash [16]byte

// LookupKey is the half of the hash that depends on tenant and id only.
func (h Hash) LookupKey() uint64 { return binary.LittleEndian.Uint64(h[:8]) }

// table is a first-in first-out set of hashes with a fixed capacity. Every hash
// that is added gets the next number; the numbers in [head, tail) are in the
// set. Not safe for concurrent use.
//
// The hashes lie in a ring, in order of their numbers. The index over it is an
// array of buckets of sixteen: a hash may stand in either of two buckets, in the
// one with more room when it was added, so that buckets hardly ever
// overflow at the load the index is built for. One byte of each hash lies beside
// its slot, so that a look-up touches the ring only where that byte agrees.
//
// One hash takes 16 bytes of ring and (16+64)/16/maxLoad = 6.25 bytes of index:
// six million of them (50,000 a second for two minutes) fit in 128 MiB.
type table struct {
	ring       []Hash
	buckets    []bucket
	head, tail uint64
	// spill holds the few hashes that found both buckets full, a handful in a
	// million. Who crafts ids that all fall into one bucket fills it, and then
	// loses the deduplication of further ones: overflowed counts those.
	spill      map[Hash]uint64
	overflowed uint64
}

const (
	bucketSlots = 16
	// maxLoadPercent is the share of slots in use when the ring is full. With two
	// choices and sixteen slots about seven hashes in a million overflow.
	maxLoadPercent = 80
	hashBytes      = 16
	bucketBytes    = bucketSlots * (1 + 4)
	// slotsPercent is the share of a bucket one hash takes, as a divisor of 100.
	slotsPercent = bucketSlots * maxLoadPercent
	minHashes    = 1 << 12
	maxSpill     = 1 << 12
)

// bucket maps tags to ring places. A place is a ring index plus one; 0 is free.
type bucket struct {
	tags   [bucketSlots]byte
	places [bucketSlots]uint32
}

// newTable returns a table whose memory is at most memoryBytes, or a small one
// if that is very little. Memory is touched only as the set fills.
func newTable(memoryBytes int64) *table {
	capacity := (memoryBytes - bucketBytes) * slotsPercent / (hashBytes*slotsPercent + bucketBytes*100)
	capacity = max(capacity, minHashes)
	// The number of buckets need not be a power of two: homes maps a hash to a
	// bucket by multiplication, so memory follows the budget smoothly.
	n := uint64(capacity)*100/slotsPercent + 1
	return &table{ring: make([]Hash, capacity), buckets: make([]bucket, n), spill: map[Hash]uint64{}}
}

func (t *table) len() int   { return int(t.tail - t.head) }
func (t *table) full() bool { return t.len() == len(t.ring) }
func (t *table) bytes() int64 {
	return int64(len(t.ring))*hashBytes + int64(len(t.buckets))*bucketBytes
}
func (t *table) place(n uint64) uint32 { return uint32(n%uint64(len(t.ring))) + 1 }

// homes returns the two buckets a hash may stand in, and its tag.
func (t *table) homes(h *Hash) (a, b *bucket, tag byte) {
	lo, hi := binary.LittleEndian.Uint64(h[:8]), binary.LittleEndian.Uint64(h[8:])
	// The low half depends on tenant and id only and is uniform (SHA-256); the
	// high half is uniform too and differs by source.
	i, _ := bits.Mul64(lo, uint64(len(t.buckets)))
	j, _ := bits.Mul64(hi, uint64(len(t.buckets)))
	return &t.buckets[i], &t.buckets[j], h[0] ^ h[8]
}

// find returns the number of a hash in the set.
func (t *table) find(h *Hash) (n uint64, ok bool) {
	a, b, tag := t.homes(h)
	if n, ok = t.findIn(a, tag, h); ok {
		return n, true
	}
	if n, ok = t.findIn(b, tag, h); ok || len(t.spill) == 0 {
		return n, ok
	}
	n, ok = t.spill[*h]
	return n, ok
}

func (t *table) findIn(b *bucket, tag byte, h *Hash) (uint64, bool) {
	for i, have := range b.tags {
		if have != tag || b.places[i] == 0 {
			continue
		}
		place := uint64(b.places[i] - 1)
		if t.ring[place] == *h {
			return t.number(place), true
		}
	}
	return 0, false
}

// number turns a ring index into the number of the hash that stands there.
func (t *table) number(place uint64) uint64 {
	size := uint64(len(t.ring))
	n := t.head - t.head%size + place
	if n < t.head {
		n += size
	}
	return n
}

// add puts in a hash that is not in the set and returns its number. When the
// ring is full the oldest goes.
func (t *table) add(h *Hash) uint64 {
	if t.full() {
		t.dropOldest()
	}
	n := t.tail
	t.tail++
	t.ring[n%uint64(len(t.ring))] = *h
	a, b, tag := t.homes(h)
	i, freeA := a.free()
	j, freeB := b.free()
	switch {
	case freeA == 0 && freeB == 0 && len(t.spill) < maxSpill:
		t.spill[*h] = n
	case freeA == 0 && freeB == 0:
		t.overflowed++
	case freeA >= freeB:
		a.tags[i], a.places[i] = tag, t.place(n)
	default:
		b.tags[j], b.places[j] = tag, t.place(n)
	}
	return n
}

// free returns a free slot and how many there are.
func (b *bucket) free() (slot, count int) {
	for i, p := range b.places {
		if p == 0 {
			slot = i
			count++
		}
	}
	return slot, count
}

// remove takes one hash out of the set ahead of its time; its number stays used.
func (t *table) remove(n uint64) {
	if n < t.head || n >= t.tail {
		return
	}
	h := &t.ring[n%uint64(len(t.ring))]
	a, b, _ := t.homes(h)
	place := t.place(n)
	if a.clear(place) || b.clear(place) {
		return
	}
	if spilled, ok := t.spill[*h]; ok && spilled == n {
		delete(t.spill, *h)
	}
}

func (b *bucket) clear(place uint32) bool {
	for i, p := range b.places {
		if p == place {
			b.places[i] = 0
			return true
		}
	}
	return false
}

// dropOldest takes out the hash with the lowest number.
func (t *table) dropOldest() {
	t.remove(t.head)
	t.head++
}
