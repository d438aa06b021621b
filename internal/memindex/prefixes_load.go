package memindex

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// naming is a name of a record that a Load adds. The record is its place by rank.
type naming struct {
	name   string
	record int
}

// load sorts twice, the records by rank and their names. What begins alike is then
// beside each other, so every list of a beginning is known and needs only to be filled
// in the order of rank.
func (x *Prefixes[R]) load(added []*R, gone map[*R]bool) {
	added = slices.Clone(added)
	sortBy(added, x.ranked.order.compare)
	names := x.namings(added)
	sorted := sortedNames(names)

	lists := x.beginnings(added, names, sorted)
	if len(gone) > 0 {
		lists = append(lists, x.losing(lists, gone)...)
	}
	dealt := partition(lists, func(j joining[string, R], to func(int, joining[string, R])) {
		to(shardOf(x.ranked.groups.hash(j.key)), j)
	})
	var joined [shardCount][]joining[string, R]
	for shard := range joined {
		joined[shard] = slices.Concat(dealt[shard]...)
	}
	x.ranked.merge(joined, gone)

	byName := make([]*named[R], len(sorted))
	for i, n := range sorted {
		byName[i] = &named[R]{names[n].name, added[names[n].record]}
	}
	delta := int64(len(byName)) * namedBytes
	delta += x.byName.merge(&x.order, byName, func(n *named[R]) bool {
		if gone[n.record] {
			delta -= namedBytes
			return true
		}
		return false
	})
	x.size.Add(delta)
}

// namings are the distinct names of each record, in the order of records.
func (x *Prefixes[R]) namings(records []*R) []naming {
	n := parts(len(records))
	of := make([][]naming, n)
	parallel(n, func(part int) {
		low, high := len(records)*part/n, len(records)*(part+1)/n
		all := make([]naming, 0, high-low)
		var d distinct[string]
		for i := low; i < high; i++ {
			d.reset()
			x.names(records[i], d.add)
			for _, name := range d.keys {
				all = append(all, naming{name, i})
			}
		}
		of[part] = all
	})
	return slices.Concat(of...)
}

// sortedNames returns the positions of names in the order of name and rank. The first
// eight bytes as a number decide most comparisons without following a pointer.
func sortedNames(names []naming) []int {
	type sortable struct {
		first uint64
		at    int
	}
	s := make([]sortable, len(names))
	for i, n := range names {
		var first [8]byte
		copy(first[:], n.name)
		s[i] = sortable{binary.BigEndian.Uint64(first[:]), i}
	}
	sortBy(s, func(a, b sortable) int {
		if a.first != b.first {
			return cmp.Compare(a.first, b.first)
		}
		if c := strings.Compare(names[a.at].name, names[b.at].name); c != 0 {
			return c
		}
		return cmp.Compare(a.at, b.at)
	})
	at := make([]int, len(s))
	for i := range s {
		at[i] = s[i].at
	}
	return at
}

// beginnings makes the list of every beginning that a name has.
func (x *Prefixes[R]) beginnings(records []*R, names []naming, sorted []int) []joining[string, R] {
	lists := []joining[string, R]{{key: ""}}
	sizes := []int{len(names)}
	listsOf := make([][rankedRunes]int32, len(names)) // 0: the name is shorter
	var current [rankedRunes]int32                    // the list of the beginning of so many runes
	for _, n := range sorted {
		runes := -1 // the empty beginning comes first
		eachBeginning(names[n].name, func(beginning string) {
			if runes++; runes == 0 {
				return
			}
			list := &current[runes-1]
			if lists[*list].key != beginning {
				*list = int32(len(lists))
				lists = append(lists, joining[string, R]{key: beginning})
				sizes = append(sizes, 0)
			}
			listsOf[n][runes-1] = *list
			sizes[*list]++
		})
	}
	for i := range lists {
		lists[i].records = make([]*R, 0, sizes[i])
	}
	for n, name := range names {
		r := records[name.record]
		lists[0].join(r)
		for _, list := range listsOf[n] {
			if list > 0 {
				lists[list].join(r)
			}
		}
	}
	return lists
}

// join appends a record unless it is the last one already, under another name.
func (j *joining[G, R]) join(r *R) {
	if n := len(j.records); n == 0 || j.records[n-1] != r {
		j.records = append(j.records, r)
	}
}

// losing are the lists that lose records and get none.
func (x *Prefixes[R]) losing(joined []joining[string, R], gone map[*R]bool) []joining[string, R] {
	left := map[string]bool{}
	for r := range gone {
		x.ranked.of(r, func(beginning string) { left[beginning] = true })
	}
	for _, j := range joined {
		delete(left, j.key)
	}
	var lists []joining[string, R]
	for beginning := range left {
		lists = append(lists, joining[string, R]{key: beginning})
	}
	return lists
}
