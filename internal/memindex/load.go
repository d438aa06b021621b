package memindex

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Load puts many records at once, using all processors. It calls feed, whose add may
// be called by several goroutines, with any number of records each; the pages remain
// the caller's, the records must not be changed any more. When feed has returned all
// records become visible, at the latest when Load returns; if it returns an error
// none does, and Load returns that error. What is Put while feed runs is visible
// at once and stands as if it had come before: Supersedes decides.
func (t *Table[K, R]) Load(feed func(add func([]*R)) error) error {
	var (
		mu      sync.Mutex
		records []*R
		over    bool
	)
	err := feed(func(page []*R) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			panic("memindex: the function that feeds a Load called add after it had returned")
		}
		records = append(records, page...)
	})
	mu.Lock()
	over = true
	mu.Unlock()
	if err != nil {
		return err
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	added, gone := t.loadPrimary(records)
	for _, x := range t.secondary {
		x.load(added, gone)
	}
	return nil
}

// hashed is a record and the hash of its primary key.
type hashed[R any] struct {
	hash   uint64
	record *R
}

// loadPrimary puts records under their primary keys. It returns the live ones that are
// new there, and the live ones that were there before and are not any more.
func (t *Table[K, R]) loadPrimary(records []*R) (added []*R, gone map[*R]bool) {
	dealt := partition(records, func(r *R, to func(int, hashed[R])) {
		h := t.primary.hash(t.primary.key(r))
		to(shardOf(h), hashed[R]{h, r})
	})
	var addedOf [shardCount][]*R
	var goneOf [shardCount]map[*R]int
	parallel(shardCount, func(shard int) {
		addedOf[shard], goneOf[shard] = t.loadShard(shard, dealt[shard])
	})
	gone = map[*R]bool{}
	for shard := range shardCount {
		for r, n := range goneOf[shard] {
			if n > 0 && t.options.Live(r) {
				gone[r] = true
			}
		}
	}
	return slices.Concat(addedOf[:]...), gone
}

// loadShard is loadPrimary for one shard. What replaced how often is counted, because
// a record may come, be replaced and come again within one Load.
func (t *Table[K, R]) loadShard(shard int, parts [][]hashed[R]) (added []*R, replaced map[*R]int) {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	if n == 0 {
		return nil, nil
	}
	t.primary.reserve(shard, n)
	var grown sizes
	added = make([]*R, 0, n)
	replaced = map[*R]int{}
	for _, part := range parts {
		for _, x := range part {
			old := t.primary.find(x.hash, t.primary.key(x.record))
			switch {
			case old == nil:
				t.primary.add(x.hash, x.record)
			case old == x.record || !t.options.Supersedes(old, x.record):
				continue
			default:
				t.primary.set(x.hash, x.record)
				replaced[old]++
			}
			grown.add(t.sizes(x.record), 1)
			grown.add(t.sizes(old), -1)
			added = append(added, x.record)
		}
	}
	t.count(grown)
	added = slices.DeleteFunc(added, func(r *R) bool {
		if replaced[r] > 0 {
			replaced[r]--
			return true
		}
		return !t.options.Live(r)
	})
	return added, replaced
}

// parallel calls f with 0 to n-1, as many at once as there are processors.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wg.Wait()
}

// parts says into how many parts n items are cut for all processors to work on.
func parts(n int) int {
	const least = 2048 // fewer are not worth a goroutine
	return max(1, min(runtime.GOMAXPROCS(0), n/least))
}

// partition has deal say what of each item goes to which shard. What a shard gets
// comes in the order of the items, in several parts.
func partition[T, U any](items []T, deal func(item T, to func(shard int, u U))) (dealt [shardCount][][]U) {
	n := parts(len(items))
	of := make([][shardCount][]U, n)
	parallel(n, func(i int) {
		to := func(shard int, u U) {
			if of[i][shard] == nil { // most deal one of each item, evenly
				of[i][shard] = make([]U, 0, len(items)/n/shardCount*5/4+4)
			}
			of[i][shard] = append(of[i][shard], u)
		}
		for _, item := range items[len(items)*i/n : len(items)*(i+1)/n] {
			deal(item, to)
		}
	})
	for shard := range dealt {
		for i := range of {
			dealt[shard] = append(dealt[shard], of[i][shard])
		}
	}
	return dealt
}

// sortBy sorts like slices.SortFunc, large slices on all processors.
func sortBy[E any](s []E, compare func(a, b E) int) {
	n := parts(len(s))
	if n == 1 || slices.IsSortedFunc(s, compare) {
		slices.SortFunc(s, compare)
		return
	}
	ends := make([]int, n+1)
	for i := range ends {
		ends[i] = len(s) * i / n
	}
	parallel(n, func(i int) { slices.SortFunc(s[ends[i]:ends[i+1]], compare) })
	spare := make([]E, len(s))
	from, to := s, spare
	for len(ends) > 2 {
		var merged []int
		for i := 0; i < len(ends); i += 2 {
			merged = append(merged, ends[i])
		}
		if len(ends)%2 == 0 {
			merged = append(merged, len(s))
		}
		parallel(len(merged)-1, func(i int) {
			low, high := merged[i], merged[i+1]
			middle := min(ends[2*i+1], high)
			mergeInto(to[low:high], from[low:middle], from[middle:high], compare)
		})
		ends, from, to = merged, to, from
	}
	if &from[0] != &s[0] {
		copy(s, from)
	}
}

// mergeInto merges two sorted slices into one that has room for both.
func mergeInto[E any](to, a, b []E, compare func(a, b E) int) {
	for i := range to {
		if len(b) == 0 || len(a) > 0 && compare(a[0], b[0]) <= 0 {
			to[i], a = a[0], a[1:]
		} else {
			to[i], b = b[0], b[1:]
		}
	}
}
