package cache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// tagIndex knows which entries of RAM have a tag, and remembers in a bounded way when
// a tag was invalidated, for loads that were under way: their tags are not known
// before they end.
type tagIndex struct {
	seed maphash.Seed
	// invalidated and told are moments of seq: of the invalidation of a tag, and of
	// the second level's having been told of it.
	seq               atomic.Int64
	invalidated, told moments

	mu   sync.Mutex
	keys map[string]map[string]any // tag, key, its *item
}

// moments holds for each tag when something last happened to it. Tags share places,
// so the answer may be too late a moment, never too early a one.
type moments [4096]atomic.Int64

func newTagIndex() *tagIndex {
	return &tagIndex{seed: maphash.MakeSeed(), keys: make(map[string]map[string]any)}
}

func (x *tagIndex) place(m *moments, tag string) *atomic.Int64 {
	return &m[maphash.String(x.seed, tag)%uint64(len(m))]
}

// now is a moment before everything that happens from now on.
func (x *tagIndex) now() int64 { return x.seq.Load() }

// mark notes that something happens to a tag now.
func (x *tagIndex) mark(m *moments, tag string) {
	n, at := x.seq.Add(1), x.place(m, tag)
	for {
		old := at.Load()
		if old >= n || at.CompareAndSwap(old, n) {
			return
		}
	}
}

// latest is the last moment for any of tags.
func (x *tagIndex) latest(m *moments, tags []string) (n int64) {
	for _, tag := range tags {
		n = max(n, x.place(m, tag).Load())
	}
	return n
}

// add notes the tags of an item that is about to be in RAM.
func (x *tagIndex) add(key string, it any, tags []string) {
	if len(tags) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, tag := range tags {
		if x.keys[tag] == nil {
			x.keys[tag] = make(map[string]any)
		}
		x.keys[tag][key] = it
	}
}

// remove forgets an item that is no longer in RAM, unless another has its place.
func (x *tagIndex) remove(key string, it any, tags []string) {
	if len(tags) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, tag := range tags {
		if keys := x.keys[tag]; keys[key] == it {
			delete(keys, key)
			if len(keys) == 0 {
				delete(x.keys, tag)
			}
		}
	}
}

// of returns the keys in RAM with a tag.
func (x *tagIndex) of(tag string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	keys := make([]string, 0, len(x.keys[tag]))
	for key := range x.keys[tag] {
		keys = append(keys, key)
	}
	return keys
}
