package memindex

import (
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// rankedRunes is up to how many runes of a prefix there is a ready list of the
// records it fits. Longer ones are found among the names themselves: in real names of
// places four runes fit a fiftieth of them at most, and mostly far fewer.
const rankedRunes = 3

// Prefixes find live records by the beginning of one of their names, in order of rank.
// All methods are safe for concurrent use.
type Prefixes[R any] struct {
	names  func(r *R, add func(string))
	ranked *Groups[string, R] // by the first 0 to rankedRunes runes of a name
	byName list[named[R]]
	order  order[named[R]]
	size   atomic.Int64 // of byName, bytes

	before, after distinct[string] // the writer's
}

// named is a record under one of its names.
type named[R any] struct {
	name   string
	record *R
}

const namedBytes = 24

// AddPrefixes adds a search by prefix, before the first record. The function calls add
// with each name of a record, as prefixes are compared: folded to lower case without
// diacritics, say. A name should be a string that the record has anyway: the index
// keeps it. Compare is the rank, best first; it must be total, so that no two records
// are equal.
func AddPrefixes[K comparable, R any](t *Table[K, R], names func(r *R, add func(string)), compare func(a, b *R) int) *Prefixes[R] {
	x := &Prefixes[R]{
		names: names,
		ranked: newGroups(func(r *R, add func(string)) {
			names(r, func(name string) { eachBeginning(name, add) })
		}, compare),
		order: order[named[R]]{
			compare: func(a, b *named[R]) int {
				if c := strings.Compare(a.name, b.name); c != 0 {
					return c
				}
				return compare(a.record, b.record)
			},
			same: func(a, b *named[R]) bool { return a.record == b.record },
		},
	}
	x.ranked.clone = strings.Clone
	t.add(x)
	return x
}

// eachBeginning calls add with the first 0 to rankedRunes runes of a name, up to what
// is not UTF-8: prefixes of that are looked for among the names.
func eachBeginning(name string, add func(string)) {
	add("")
	end := 0
	for range rankedRunes {
		r, size := utf8.DecodeRuneInString(name[end:])
		if r == utf8.RuneError && size <= 1 {
			return
		}
		end += size
		add(name[:end])
	}
}

// Top returns the first records by rank, at most limit, that keep accepts and of which
// a name begins with prefix. A record is there once. The empty prefix fits all records
// that have a name. Nil keep accepts all.
func (x *Prefixes[R]) Top(prefix string, limit int, keep func(*R) bool) []*R {
	if limit <= 0 {
		return nil
	}
	if utf8.ValidString(prefix) && utf8.RuneCountInString(prefix) <= rankedRunes {
		return x.topRanked(prefix, limit, keep)
	}
	return x.topNamed(prefix, limit, keep)
}

func (x *Prefixes[R]) topRanked(prefix string, limit int, keep func(*R) bool) []*R {
	s := x.ranked.snapshot(prefix)
	top := make([]*R, 0, min(limit, s.count))
	for r := range s.from(0, 0) {
		if keep != nil && !keep(r) {
			continue
		}
		if top = append(top, r); len(top) == limit {
			break
		}
	}
	return top
}

// topNamed keeps the best of all names that fit. A record that has several of them
// compares equal to itself.
func (x *Prefixes[R]) topNamed(prefix string, limit int, keep func(*R) bool) []*R {
	s := x.byName.snapshot()
	compare := x.ranked.order.compare
	var top []*R
	for n := range s.from(s.at(func(n *named[R]) bool { return n.name >= prefix })) {
		if !strings.HasPrefix(n.name, prefix) {
			break
		}
		full := len(top) == limit
		if full && compare(n.record, top[limit-1]) >= 0 || keep != nil && !keep(n.record) {
			continue
		}
		i, found := slices.BinarySearchFunc(top, n.record, compare)
		if found {
			continue
		}
		if full {
			top = top[:limit-1]
		}
		top = slices.Insert(top, i, n.record)
	}
	return top
}

func (x *Prefixes[R]) replace(old, next *R) {
	x.ranked.replace(old, next)
	x.before.reset()
	if old != nil {
		x.names(old, x.before.add)
	}
	x.after.reset()
	if next != nil {
		x.names(next, x.after.add)
	}
	delta := int64(len(x.after.keys)-len(x.before.keys)) * namedBytes
	e := x.byName.edit(&x.order)
	for _, name := range x.before.keys {
		was := &named[R]{name, old}
		if x.after.has(name) {
			e.replace(was, &named[R]{name, next})
		} else {
			e.replace(was, nil)
		}
	}
	for _, name := range x.after.keys {
		if !x.before.has(name) {
			e.replace(nil, &named[R]{name, next})
		}
	}
	x.size.Add(delta + e.publish())
}

func (x *Prefixes[R]) bytes() int64 { return x.ranked.bytes() + x.size.Load() }
