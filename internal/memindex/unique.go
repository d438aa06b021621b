package memindex

import (
	"slices"
	"sync"
)

// Unique finds live records by a second key of type J. If several live records claim
// one key the one that was put last has it; when it leaves, the last of the others
// has. So a key that goes from one record to another is right whichever of the two
// is put first. Of several in one Load any may have it, and a Load takes no key from a
// record that was put before. With an order of claimers (AddUniqueBy) the one that comes
// first in it has the key, whenever it was put. All methods are safe for concurrent use.
type Unique[J comparable, R any] struct {
	key     func(*R) (J, bool)
	before  func(a, b *R) bool // whether a has the key rather than b; nil: the last one put has it
	holders *hash[J, R]

	mu       sync.Mutex // a Load has several goroutines
	claimers map[J][]*R // live records that claim a key another has, the last one last
}

// AddUnique adds a second key, before the first record. The function says which key a
// record claims, false if none.
func AddUnique[J comparable, K comparable, R any](t *Table[K, R], key func(*R) (J, bool)) *Unique[J, R] {
	u := &Unique[J, R]{
		key: key,
		holders: newHash(func(r *R) J {
			j, _ := key(r)
			return j
		}),
		claimers: map[J][]*R{},
	}
	t.add(u)
	return u
}

// AddUniqueBy is AddUnique with an order of those who claim one key: before says whether
// a has it rather than b. It is a strict order; of two that are equal the one has it that
// has it. So who has a key does not depend on what was put first.
func AddUniqueBy[J comparable, K comparable, R any](t *Table[K, R], key func(*R) (J, bool), before func(a, b *R) bool) *Unique[J, R] {
	u := AddUnique(t, key)
	u.before = before
	return u
}

// Get returns the live record of a key, nil if there is none.
func (u *Unique[J, R]) Get(j J) *R { return u.holders.get(j) }

func (u *Unique[J, R]) replace(old, next *R) {
	if next != nil {
		if j, ok := u.key(next); ok {
			h := u.holders.hash(j)
			u.claim(h, j, old, next)
		}
	}
	if old != nil {
		u.leave(old)
	}
}

// claim has next claim a key, old giving way to it.
func (u *Unique[J, R]) claim(h uint64, j J, old, next *R) {
	switch holder := u.holders.find(h, j); {
	case holder == nil:
	case holder == old: // those who wait may come before next
		if first := u.first(j); u.before != nil && first != nil && u.before(first, next) {
			u.wait(j, next)
			return // old leaves and the first of those who wait has it
		}
	case u.before != nil && !u.before(next, holder):
		u.wait(j, next)
		return
	default:
		u.wait(j, holder)
	}
	u.holders.set(h, next)
}

// first returns who of those that wait for a key has it next, nil if nobody waits.
func (u *Unique[J, R]) first(j J) *R {
	u.mu.Lock()
	defer u.mu.Unlock()
	claimers := u.claimers[j]
	if len(claimers) == 0 {
		return nil
	}
	return claimers[u.firstOf(claimers)]
}

// firstOf returns the position of who has the key next, the last one without an order.
func (u *Unique[J, R]) firstOf(claimers []*R) int {
	first := len(claimers) - 1
	for i := first - 1; i >= 0 && u.before != nil; i-- {
		if u.before(claimers[i], claimers[first]) {
			first = i
		}
	}
	return first
}

// wait has a record claim a key that another has.
func (u *Unique[J, R]) wait(j J, r *R) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.claimers[j] = append(u.claimers[j], r)
}

// leave takes a record away from the key it claims.
func (u *Unique[J, R]) leave(r *R) {
	j, ok := u.key(r)
	if !ok {
		return
	}
	h := u.holders.hash(j)
	holds := u.holders.find(h, j) == r
	u.mu.Lock()
	defer u.mu.Unlock()
	claimers := u.claimers[j]
	switch {
	case !holds:
		claimers = slices.DeleteFunc(claimers, func(c *R) bool { return c == r })
	case len(claimers) == 0:
		u.holders.remove(h, j)
	default:
		first := u.firstOf(claimers)
		u.holders.set(h, claimers[first])
		claimers = slices.Delete(claimers, first, first+1)
	}
	if len(claimers) == 0 {
		delete(u.claimers, j)
		return
	}
	u.claimers[j] = claimers
}

// claim is a record and the key it claims.
type claim[J comparable, R any] struct {
	key    J
	hash   uint64
	record *R
}

func (u *Unique[J, R]) load(added []*R, gone map[*R]bool) {
	claims := partition(added, func(r *R, to func(int, claim[J, R])) {
		if j, ok := u.key(r); ok {
			h := u.holders.hash(j)
			to(shardOf(h), claim[J, R]{j, h, r})
		}
	})
	parallel(shardCount, func(shard int) {
		n := 0
		for _, part := range claims[shard] {
			n += len(part)
		}
		if n == 0 {
			return
		}
		u.holders.reserve(shard, n)
		for _, part := range claims[shard] {
			for _, c := range part {
				switch holder := u.holders.find(c.hash, c.key); {
				case holder == nil:
					u.holders.add(c.hash, c.record)
				case gone[holder]:
					u.holders.set(c.hash, c.record)
				case u.before != nil && u.before(c.record, holder):
					u.wait(c.key, holder)
					u.holders.set(c.hash, c.record)
				default:
					u.wait(c.key, c.record)
				}
			}
		}
	})
	for r := range gone {
		u.leave(r)
	}
	if u.before == nil {
		return
	}
	for j, claimers := range u.claimers { // whom one that is gone kept from the key
		h, first := u.holders.hash(j), u.firstOf(claimers)
		if holder := u.holders.find(h, j); u.before(claimers[first], holder) {
			u.holders.set(h, claimers[first])
			claimers[first] = holder
		}
	}
}

func (u *Unique[J, R]) bytes() int64 { return u.holders.bytes() }
