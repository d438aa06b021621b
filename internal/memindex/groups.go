package memindex

import (
	"iter"
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
// key.
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
	delta := e.publish()
	switch {
	case isNew && e.count > 0:
		x.groups.set(h, g)
		delta += groupBytes
	case !isNew && e.count == 0:
		x.groups.remove(h, key)
		delta -= groupBytes + g.list.snapshot().bytes()
	}
	x.size.Add(delta)
}

// groupBytes is what a group takes besides its list: its key, of which the text is
// not counted, and a pointer.
const groupBytes = 32

// member is a record and a group it is in.
type member[G comparable, R any] struct {
	key    G
	record *R
}

func (x *Groups[G, R]) load(added []*R, gone map[*R]bool) {
	joining := x.members(added)
	leaving := x.members(keys(gone))
	parallel(shardCount, func(shard int) {
		lists := map[G]*[]*R{}
		gather(lists, joining[shard])
		left := map[G]*[]*R{}
		gather(left, leaving[shard])
		fresh := 0
		for key := range lists {
			if x.groups.get(key) == nil {
				fresh++
			}
		}
		if fresh > 0 {
			x.groups.reserve(shard, fresh)
		}
		for key, list := range lists {
			x.merge(key, *list, gone)
			delete(left, key)
		}
		for key := range left {
			x.merge(key, nil, gone)
		}
	})
}

// members deals records out to the shards of their groups.
func (x *Groups[G, R]) members(records []*R) [shardCount][][]member[G, R] {
	return partition(records, func(r *R, to func(int, member[G, R])) {
		var d distinct[G]
		x.of(r, d.add)
		for _, g := range d.keys {
			to(shardOf(x.groups.hash(g)), member[G, R]{g, r})
		}
	})
}

func gather[G comparable, R any](lists map[G]*[]*R, parts [][]member[G, R]) {
	for _, part := range parts {
		for _, m := range part {
			list := lists[m.key]
			if list == nil {
				list = new([]*R)
				lists[m.key] = list
			}
			*list = append(*list, m.record)
		}
	}
}

// merge adds many records to a group and takes away those that are gone.
func (x *Groups[G, R]) merge(key G, added []*R, gone map[*R]bool) {
	sortBy(added, x.order.compare)
	h := x.groups.hash(key)
	g := x.groups.find(h, key)
	isNew := g == nil
	if isNew {
		g = &group[G, R]{key: x.clone(key)}
	}
	delta := g.list.merge(&x.order, added, func(r *R) bool { return gone[r] })
	switch count := g.list.snapshot().count; {
	case isNew && count > 0:
		x.groups.set(h, g)
		delta += groupBytes
	case !isNew && count == 0:
		x.groups.remove(h, key)
		delta -= groupBytes + g.list.snapshot().bytes()
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
