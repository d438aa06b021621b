// Package memindex keeps typed records in memory under several keys, for data that
// fits: a catalogue, the places of the world.
//
// Pattern: a Table holds every record under its primary key. Secondary keys are added
// before the first record: Unique finds one record by another key, Groups list
// records in order (the products of a category by position), Prefixes find records by
// the beginning of a name, best first. Records are pointers to values that nobody
// changes: a new state of a record is a new value, and Put replaces the pointer.
// Supersedes keeps older states from replacing newer ones, so states may come in any
// order and more than once. A record that is not live, such as a tombstone, keeps its
// primary key, so that what came before it stays out, and has no other.
//
// Concurrency: readers never wait and take no lock: they follow atomic pointers to
// what the last writer put in place. Writers (Put, the end of Load) take turns. While
// a Put moves a record to another secondary key it is for a moment found under both,
// never under none. A walk (All, After, Top) is of one moment: in order, no record
// twice; only a record that changed without moving may already appear in its new
// state.
//
// Lifecycle: nothing runs in the background and nothing needs closing. A table grows
// by parts, so that no Put has to copy everything.
//
// Memory, besides the records: at most 20 bytes for each record and hash (the primary
// key and every Unique), 12 for each record and group of many records, about 120 for
// each group itself, and 80 for each name of Prefixes.
package memindex

import (
	"iter"
	"reflect"
	"sync"
	"sync/atomic"
)

// Options say how a table treats its records of type R. The functions must be pure:
// they are called at any time, by several goroutines at once, again for the same
// record, and must answer the same.
type Options[R any] struct {
	// Name is what metrics call the table.
	Name string
	// Supersedes says whether next may replace old of the same primary key; nil:
	// always.
	Supersedes func(old, next *R) bool
	// Live says whether secondary keys show the record; nil: always.
	Live func(*R) bool
	// Bytes is the memory that a record holds itself: the value and what only it
	// points to, without what the table needs to find it. Nil counts the value alone.
	Bytes func(*R) int
}

// Stats is what a table holds.
type Stats struct {
	// Records are all records, Live those that secondary keys show.
	Records, Live int
	// RecordBytes is the sum of Options.Bytes, IndexBytes what the table takes to find
	// the records by all of its keys.
	RecordBytes, IndexBytes int64
}

// BytesPerRecord is what one record takes in memory on average, the table's part
// included; 0 if there is none.
func (s Stats) BytesPerRecord() float64 {
	if s.Records == 0 {
		return 0
	}
	return float64(s.RecordBytes+s.IndexBytes) / float64(s.Records)
}

// Table is records of type R under primary keys of type K, see the package comment.
// All methods are safe for concurrent use.
type Table[K comparable, R any] struct {
	options Options[R]
	primary *hash[K, R]

	mu        sync.Mutex // of the writer
	secondary []secondary[R]

	records, live atomic.Int64
	recordBytes   atomic.Int64
}

// secondary is one way of finding records besides the primary key. Only the writer of
// the table calls replace and load, and only with live records.
type secondary[R any] interface {
	// replace puts next in the place of old. Either may be nil: there was none, or
	// there is none any more.
	replace(old, next *R)
	// load adds many records and takes away those that are gone, using all processors.
	load(added []*R, gone map[*R]bool)
	bytes() int64
}

// New makes an empty table. The key of a record is its primary key; K must not be, or
// contain, a floating-point number or an interface.
func New[K comparable, R any](key func(*R) K, o Options[R]) *Table[K, R] {
	if key == nil {
		panic("memindex: New needs the function that gives a record's primary key")
	}
	if o.Supersedes == nil {
		o.Supersedes = func(_, _ *R) bool { return true }
	}
	if o.Live == nil {
		o.Live = func(*R) bool { return true }
	}
	if o.Bytes == nil {
		size := int(reflect.TypeFor[R]().Size())
		o.Bytes = func(*R) int { return size }
	}
	return &Table[K, R]{options: o, primary: newHash(key)}
}

// add registers a secondary key.
func (t *Table[K, R]) add(s secondary[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Len() > 0 {
		panic("memindex: secondary keys are added before the first record")
	}
	t.secondary = append(t.secondary, s)
}

// Get returns the record of a primary key, whether it is live or not; nil if there is
// none.
func (t *Table[K, R]) Get(k K) *R { return t.primary.get(k) }

// Len is how many records there are, those included that are not live.
func (t *Table[K, R]) Len() int { return int(t.records.Load()) }

// Stats returns what the table holds. It takes the same time however much that is.
func (t *Table[K, R]) Stats() Stats {
	s := Stats{
		Records:     int(t.records.Load()),
		Live:        int(t.live.Load()),
		RecordBytes: t.recordBytes.Load(),
		IndexBytes:  t.primary.bytes(),
	}
	for _, x := range t.secondary {
		s.IndexBytes += x.bytes()
	}
	return s
}

// All visits all records, those included that are not live, in no order. Records that
// are put meanwhile may be visited or not.
func (t *Table[K, R]) All() iter.Seq[*R] { return t.primary.all() }

// Put makes records visible one after the other, under all their keys, each in the
// place of the one with its primary key. One that does not supersede what is there is
// left out, and so is the very record that is there. It returns how many were
// not left out. The records must not be changed any more.
func (t *Table[K, R]) Put(records ...*R) (changed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		if t.put(r) {
			changed++
		}
	}
	return changed
}

func (t *Table[K, R]) put(r *R) bool {
	k := t.primary.key(r)
	h := t.primary.hash(k)
	old := t.primary.find(h, k)
	if old == r || old != nil && !t.options.Supersedes(old, r) {
		return false
	}
	t.primary.set(h, r)
	grown := t.sizes(r)
	grown.add(t.sizes(old), -1)
	t.count(grown)
	before, after := t.ifLive(old), t.ifLive(r)
	if before == nil && after == nil {
		return true
	}
	for _, x := range t.secondary {
		x.replace(before, after)
	}
	return true
}

// ifLive returns the record if secondary keys show it, else nil.
func (t *Table[K, R]) ifLive(r *R) *R {
	if r == nil || !t.options.Live(r) {
		return nil
	}
	return r
}

// sizes are what the table counts of records.
type sizes struct{ records, live, bytes int64 }

func (s *sizes) add(more sizes, times int64) {
	s.records += times * more.records
	s.live += times * more.live
	s.bytes += times * more.bytes
}

// sizes are those of a record, nil being none.
func (t *Table[K, R]) sizes(r *R) sizes {
	switch {
	case r == nil:
		return sizes{}
	case t.options.Live(r):
		return sizes{records: 1, live: 1, bytes: int64(t.options.Bytes(r))}
	default:
		return sizes{records: 1, bytes: int64(t.options.Bytes(r))}
	}
}

func (t *Table[K, R]) count(grown sizes) {
	t.records.Add(grown.records)
	t.live.Add(grown.live)
	t.recordBytes.Add(grown.bytes)
}
