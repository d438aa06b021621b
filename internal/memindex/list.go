package memindex

import (
	"iter"
	"slices"
	"sort"
	"sync/atomic"
)

const (
	// A chunk's pointers fill a size of the allocator: 4 KiB with its header.
	maxChunk = 511
	// fullChunk is how far bulk loads and mergers fill a chunk, so that the next
	// insert does not split it.
	fullChunk = 383
	// minChunk is where a chunk is merged with the one beside it if they fit.
	minChunk = 128
)

// order is how the elements of a list follow one another.
type order[E any] struct {
	compare func(a, b *E) int
	// same says whether two elements that compare equal are the same one.
	same func(a, b *E) bool
}

// list is elements in order, for many readers and one writer. A reader takes a
// snapshot. The writer copies the chunk it changes and the directory of chunks, a few
// kilobytes for a list of any size, and puts the new snapshot in place at once. An
// element that gives way to one of the same place in the order is replaced within the
// chunk, which copies nothing.
type list[E any] struct{ current atomic.Pointer[snapshot[E]] }

// snapshot is a list at one moment. No chunk is empty. A chunk's pointers are atomic
// because one of them may be replaced; nothing else of it changes.
type snapshot[E any] struct {
	chunks []*chunk[E]
	count  int
}

type chunk[E any] struct{ items []atomic.Pointer[E] }

func (l *list[E]) snapshot() *snapshot[E] {
	if s := l.current.Load(); s != nil {
		return s
	}
	return &snapshot[E]{}
}

// at returns the position of the first element of which from is true. It is false of
// those before and true of those after.
func (s *snapshot[E]) at(from func(*E) bool) (c, i int) {
	c = sort.Search(len(s.chunks), func(c int) bool { return from(s.chunks[c].items[0].Load()) })
	if c == 0 {
		return 0, 0
	}
	before := s.chunks[c-1].items
	i = 1 + sort.Search(len(before)-1, func(j int) bool { return from(before[j+1].Load()) })
	if i == len(before) {
		return c, 0
	}
	return c - 1, i
}

// from visits the elements from a position on.
func (s *snapshot[E]) from(c, i int) iter.Seq[*E] {
	return func(yield func(*E) bool) {
		first := i
		for _, chunk := range s.chunks[c:] {
			for j := first; j < len(chunk.items); j++ {
				if !yield(chunk.items[j].Load()) {
					return
				}
			}
			first = 0
		}
	}
}

// edit is a change of a list that becomes visible as a whole, but for replacements
// within the order, which are visible at once.
type edit[E any] struct {
	list  *list[E]
	order *order[E]
	snapshot[E]
	own   bool  // the directory is a copy
	delta int64 // of bytes
}

func (l *list[E]) edit(o *order[E]) *edit[E] {
	return &edit[E]{list: l, order: o, snapshot: *l.snapshot()}
}

// replace puts next in the place of old. Either may be nil.
func (e *edit[E]) replace(old, next *E) {
	if old != nil {
		if c, i, ok := e.find(old); ok {
			if next != nil && e.order.compare(old, next) == 0 {
				e.chunks[c].items[i].Store(next)
				return
			}
			e.remove(c, i)
		}
	}
	if next != nil {
		e.insert(next)
	}
}

// find returns the position of an element.
func (e *edit[E]) find(x *E) (c, i int, ok bool) {
	c, i = e.at(func(y *E) bool { return e.order.compare(y, x) >= 0 })
	for y := range e.from(c, i) {
		if e.order.compare(y, x) != 0 {
			break
		}
		if e.order.same(y, x) {
			return c, i, true
		}
		if i++; i == len(e.chunks[c].items) {
			c, i = c+1, 0
		}
	}
	return 0, 0, false
}

// set puts chunks in the place of the chunks [from, to).
func (e *edit[E]) set(from, to int, chunks ...*chunk[E]) {
	for _, c := range e.chunks[from:to] {
		e.delta -= c.bytes()
	}
	for _, c := range chunks {
		e.delta += c.bytes()
	}
	if !e.own {
		e.chunks = slices.Concat(e.chunks[:from], chunks, e.chunks[to:])
		e.own = true
		return
	}
	e.chunks = slices.Replace(e.chunks, from, to, chunks...)
}

func (e *edit[E]) remove(c, i int) {
	e.count--
	items := e.chunks[c].items
	if len(items) == 1 {
		e.set(c, c+1)
		return
	}
	left, right := items[:i], items[i+1:]
	if len(items)-1 < minChunk {
		if c > 0 && len(e.chunks[c-1].items)+len(items) <= fullChunk {
			e.set(c-1, c+1, join(e.chunks[c-1].items, left, right))
			return
		}
		if c+1 < len(e.chunks) && len(items)+len(e.chunks[c+1].items) <= fullChunk {
			e.set(c, c+2, join(left, right, e.chunks[c+1].items))
			return
		}
	}
	e.set(c, c+1, join(left, right))
}

func (e *edit[E]) insert(x *E) {
	e.count++
	single := make([]atomic.Pointer[E], 1)
	single[0].Store(x)
	if len(e.chunks) == 0 {
		e.set(0, 0, join(single))
		return
	}
	c, i := e.at(func(y *E) bool { return e.order.compare(y, x) > 0 })
	if i == 0 && c > 0 { // between two chunks: the end of the one before
		c--
		i = len(e.chunks[c].items)
	}
	items := e.chunks[c].items
	half := len(items) / 2
	switch {
	case len(items) < maxChunk:
		e.set(c, c+1, join(items[:i], single, items[i:]))
	case i == len(items) && c == len(e.chunks)-1: // lists that grow at their end have full chunks
		e.set(c+1, c+1, join(single))
	case i <= half:
		e.set(c, c+1, join(items[:i], single, items[i:half]), join(items[half:]))
	default:
		e.set(c, c+1, join(items[:half]), join(items[half:i], single, items[i:]))
	}
}

// join copies parts of chunks into a new one. That copies atomic pointers, whose
// documentation forbids it because somebody might store to one of them meanwhile: only
// the writer stores, and it is here.
func join[E any](parts ...[]atomic.Pointer[E]) *chunk[E] {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	items := make([]atomic.Pointer[E], n)
	n = 0
	for _, p := range parts {
		n += copy(items[n:], p)
	}
	return &chunk[E]{items}
}

// publish makes the edit visible and returns by how many bytes the list has grown.
func (e *edit[E]) publish() int64 {
	if !e.own {
		return 0
	}
	next := &snapshot[E]{chunks: e.chunks, count: e.count}
	delta := e.delta + next.directoryBytes() - e.list.snapshot().directoryBytes()
	e.list.current.Store(next)
	return delta
}

// merge adds many elements, which are in order, and takes away those that gone says,
// in one walk. It returns by how many bytes the list has grown.
func (l *list[E]) merge(o *order[E], added []*E, gone func(*E) bool) int64 {
	before := l.snapshot()
	all := added
	if before.count > 0 {
		all = make([]*E, 0, before.count+len(added))
		for x := range before.from(0, 0) {
			if gone(x) {
				continue
			}
			for len(added) > 0 && o.compare(added[0], x) < 0 {
				all, added = append(all, added[0]), added[1:]
			}
			all = append(all, x)
		}
		all = append(all, added...)
	}
	next := &snapshot[E]{count: len(all)}
	delta := -before.bytes()
	if len(all) > 0 {
		next.chunks = make([]*chunk[E], 0, (len(all)+fullChunk-1)/fullChunk)
		for part := range slices.Chunk(all, fullChunk) {
			items := make([]atomic.Pointer[E], len(part))
			for i, x := range part {
				items[i].Store(x)
			}
			next.chunks = append(next.chunks, &chunk[E]{items})
		}
	}
	l.current.Store(next)
	return delta + next.bytes()
}

// bytes is what the snapshot takes, its elements left out.
func (s *snapshot[E]) bytes() int64 {
	n := s.directoryBytes()
	for _, c := range s.chunks {
		n += c.bytes()
	}
	return n
}

// directoryBytes is what it takes without the chunks.
func (s *snapshot[E]) directoryBytes() int64 {
	if len(s.chunks) == 0 {
		return 0
	}
	return allocated(len(s.chunks)*pointerBytes) + allocated(sliceBytes+8)
}

func (c *chunk[E]) bytes() int64 {
	return allocated(sliceBytes) + allocated(len(c.items)*pointerBytes)
}
