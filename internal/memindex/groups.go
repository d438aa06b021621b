package memindex

import (
	"iter"
	"maps"
	"slices"
	"sync/atomic"
)

// Groups list the live records of each group in order. A record may be in several
// groups. All methods are safe for concurrent use.
type Groups[G comparable, R any] struct {
	of     func(r *R, add func(G))
	order  order[R]
	clone  func(G) G // of a key that is kept for longer than the record it came from
	groups *hash[G, group[G, R]]
	size   atomic.Int64 // of the lists, bytes

	before, after distinct[G] // the writer's
}

// group is a key and its records. It is never empty while readers can find it.
type group[G comparable, R any] struct {
	key  G
	list list[R]
}

// AddGroups adds groups, before the first record. The function calls add with each
// group that a record is in. Compare is the order within every group; it must be
// total, so that no two records are equal: what else is equal is ordered by primary
// key. A Load calls it millions of times, so it should stop at the first difference.
func AddGroups[G comparable, K comparable, R any](t *Table[K, R], of func(r *R, add func(G)), compare func(a, b *R) int) *Groups[G, R] {
	x := newGroups(of, compare)
	t.add(x)
	return x
}

func newGroups[G comparable, R any](of func(r *R, add func(G)), compare func(a, b *R) int) *Groups[G, R] {
	return &Groups[G, R]{
		of:     of,
		order:  order[R]{compare: compare, same: func(a, b *R) bool { return a == b }},
		clone:  func(g G) G { return g },
		groups: newHash(func(x *group[G, R]) G { return x.key }),
	}
}

// Len is how many records a group has.
func (x *Groups[G, R]) Len(g G) int { return x.snapshot(g).count }

// All visits a group's records in order.
func (x *Groups[G, R]) All(g G) iter.Seq[*R] { return x.snapshot(g).from(0, 0) }

// After visits a group's records that come after r in order, whether r is one of them
// or not.
func (x *Groups[G, R]) After(g G, r *R) iter.Seq[*R] {
	s := x.snapshot(g)
	return s.from(s.at(func(y *R) bool { return x.order.compare(y, r) > 0 }))
}

func (x *Groups[G, R]) snapshot(g G) *snapshot[R] {
	if found := x.groups.get(g); found != nil {
		return found.list.snapshot()
	}
	return &snapshot[R]{}
}

func (x *Groups[G, R]) replace(old, next *R) {
	x.before.reset()
	if old != nil {
		x.of(old, x.before.add)
	}
	x.after.reset()
	if next != nil {
		x.of(next, x.after.add)
	}
	for _, g := range x.after.keys {
		if x.before.has(g) {
			x.edit(g, old, next)
		} else {
			x.edit(g, nil, next)
		}
	}
	for _, g := range x.before.keys {
		if !x.after.has(g) {
			x.edit(g, old, nil)
		}
	}
}

// edit puts next in the place of old in one group.
func (x *Groups[G, R]) edit(key G, old, next *R) {
	h := x.groups.hash(key)
	g := x.groups.find(h, key)
	isNew := g == nil
	if isNew {
		g = &group[G, R]{key: x.clone(key)}
	}
	e := g.list.edit(&x.order)
	e.replace(old, next)
	x.settle(h, g, isNew, e.publish())
}

// groupBytes is what a group takes besides its list: its key, of which the text is
// not counted, and a pointer.
const groupBytes = 32

// member is a record and a group it is in.
type member[G comparable, R any] struct {
	key    G
	record *R
}

// joining are the records that join a group, in order; maybe none.
type joining[G comparable, R any] struct {
	key     G
	records []*R
}

func (x *Groups[G, R]) load(added []*R, gone map[*R]bool) {
	added = slices.Concat(added, slices.Collect(maps.Keys(gone)))
	members := partition(added, func(r *R, to func(int, member[G, R])) {
		var d distinct[G]
		x.of(r, d.add)
		for _, g := range d.keys {
			to(shardOf(x.groups.hash(g)), member[G, R]{g, r})
		}
	})
	var joined [shardCount][]joining[G, R]
	parallel(shardCount, func(shard int) {
		joined[shard] = gather(members[shard], gone)
		for _, j := range joined[shard] {
			sortBy(j.records, x.order.compare)
		}
	})
	x.merge(joined, gone)
}

// gather makes the lists of groups out of their members. A group that only loses
// members gets an empty one.
func gather[G comparable, R any](parts [][]member[G, R], gone map[*R]bool) []joining[G, R] {
	at := map[G]int{}
	var lists []joining[G, R]
	last := -1
	for _, part := range parts {
		for _, m := range part {
			if last < 0 || lists[last].key != m.key {
				var ok bool
				if last, ok = at[m.key]; !ok {
					last = len(lists)
					at[m.key] = last
					lists = append(lists, joining[G, R]{key: m.key})
				}
			}
			if len(gone) == 0 || !gone[m.record] {
				lists[last].records = append(lists[last].records, m.record)
			}
		}
	}
	return lists
}

// merge adds many records to groups and takes away those that are gone, all shards at
// once.
func (x *Groups[G, R]) merge(joined [shardCount][]joining[G, R], gone map[*R]bool) {
	parallel(shardCount, func(shard int) {
		fresh := 0
		for _, j := range joined[shard] {
			if x.groups.get(j.key) == nil {
				fresh++
			}
		}
		if fresh > 0 {
			x.groups.reserve(shard, fresh)
		}
		for _, j := range joined[shard] {
			x.mergeOne(j, gone)
		}
	})
}

func (x *Groups[G, R]) mergeOne(j joining[G, R], gone map[*R]bool) {
	h := x.groups.hash(j.key)
	g := x.groups.find(h, j.key)
	isNew := g == nil
	if isNew {
		g = &group[G, R]{key: x.clone(j.key)}
	}
	delta := g.list.merge(&x.order, j.records, func(r *R) bool { return gone[r] })
	x.settle(h, g, isNew, delta)
}

// settle sees that readers find a group if and only if it has records.
func (x *Groups[G, R]) settle(h uint64, g *group[G, R], isNew bool, delta int64) {
	switch count := g.list.snapshot().count; {
	case isNew && count > 0:
		x.groups.set(h, g)
		delta += groupBytes
	case !isNew && count == 0:
		x.groups.remove(h, g.key)
		delta -= groupBytes
	}
	x.size.Add(delta)
}

func (x *Groups[G, R]) bytes() int64 { return x.groups.bytes() + x.size.Load() }

// distinct is a small set that keeps the order of its keys.
type distinct[G comparable] struct {
	keys []G
	seen map[G]struct{} // of many keys only
}

const fewKeys = 16

func (d *distinct[G]) reset() {
	clear(d.keys)
	d.keys, d.seen = d.keys[:0], nil
}

func (d *distinct[G]) has(g G) bool {
	if d.seen == nil {
		return slices.Contains(d.keys, g)
	}
	_, ok := d.seen[g]
	return ok
}

func (d *distinct[G]) add(g G) {
	if d.has(g) {
		return
	}
	d.keys = append(d.keys, g)
	switch {
	case d.seen != nil:
		d.seen[g] = struct{}{}
	case len(d.keys) > fewKeys:
		d.seen = make(map[G]struct{}, 4*fewKeys)
		for _, k := range d.keys {
			d.seen[k] = struct{}{}
		}
	}
}
