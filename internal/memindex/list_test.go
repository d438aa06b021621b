package memindex

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// numbers are elements that may be equal in the order and yet different.
func numbers() *order[int] {
	return &order[int]{
		compare: func(a, b *int) int { return cmp.Compare(*a, *b) },
		same:    func(a, b *int) bool { return a == b },
	}
}

func TestChunksStayWithinTheirBoundsHoweverAListChanges(t *testing.T) {
	for _, test := range []struct {
		name string
		next func(i int) int
	}{
		{"rising", func(i int) int { return i }},
		{"falling", func(i int) int { return -i }},
		{"random", func(int) int { return rand.IntN(1 << 20) }},
		{"mostly equal", func(int) int { return rand.IntN(3) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n = 3000
			var l list[int]
			o := numbers()
			var bytes int64
			all := make([]*int, n)
			for i := range all {
				x := test.next(i)
				all[i] = &x
				e := l.edit(o)
				e.replace(nil, all[i])
				bytes += e.publish()
			}
			checkList(t, &l, all, bytes)
			if chunks := len(l.snapshot().chunks); chunks > 2*n/maxChunk+2 {
				t.Errorf("%d elements are in %d chunks", n, chunks)
			}
			rand.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
			for len(all) > 0 {
				e := l.edit(o)
				e.replace(all[0], nil)
				bytes += e.publish()
				if all = all[1:]; len(all)%500 == 0 {
					checkList(t, &l, all, bytes)
				}
				if chunks := len(l.snapshot().chunks); chunks > 2*len(all)/minChunk+2 {
					t.Fatalf("%d elements are left in %d chunks", len(all), chunks)
				}
			}
		})
	}
}

func checkList(t *testing.T, l *list[int], want []*int, bytes int64) {
	t.Helper()
	s := l.snapshot()
	if s.count != len(want) {
		t.Fatalf("count is %d, want %d", s.count, len(want))
	}
	for i, c := range s.chunks {
		if n := len(c.items); n == 0 || n > maxChunk {
			t.Fatalf("chunk %d has %d elements", i, n)
		}
	}
	got := slices.Collect(s.from(0, 0))
	if !slices.IsSortedFunc(got, numbers().compare) {
		t.Fatal("the list is not in order")
	}
	left := map[*int]bool{}
	for _, x := range got {
		left[x] = true
	}
	for _, x := range want {
		delete(left, x)
	}
	if len(got) != len(want) || len(left) > 0 {
		t.Fatalf("the list has %d elements, %d of them wrong, want %d", len(got), len(left), len(want))
	}
	if bytes != s.bytes() {
		t.Fatalf("changes add up to %d bytes, the list takes %d", bytes, s.bytes())
	}
}

func TestAnElementThatStaysInPlaceIsReplacedWithoutACopy(t *testing.T) {
	var l list[int]
	o := numbers()
	old, next, other := 1, 1, 2
	e := l.edit(o)
	e.replace(nil, &old)
	e.replace(nil, &other)
	e.publish()
	before := l.snapshot()
	e = l.edit(o)
	e.replace(&old, &next)
	if grown := e.publish(); grown != 0 || l.snapshot() != before {
		t.Errorf("the list was copied and has grown by %d bytes", grown)
	}
	if got := slices.Collect(l.snapshot().from(0, 0)); !slices.Equal(got, []*int{&next, &other}) {
		t.Errorf("the list is %v", got)
	}
}

func TestKeysOfAllKindsHashByWhatTheyEqual(t *testing.T) {
	type inner struct {
		b bool
		n int16
		_ int32
		s string
	}
	type outer struct {
		id int64
		inner
		small uint8
	}
	check(t, "nested structs", outer{1, inner{true, 2, 0, "x"}, 3}, outer{1, inner{true, 2, 9, "x"}, 3}, []outer{
		{}, {2, inner{true, 2, 0, "x"}, 3}, {1, inner{false, 2, 0, "x"}, 3}, {1, inner{true, 3, 0, "x"}, 3},
		{1, inner{true, 2, 0, "y"}, 3}, {1, inner{true, 2, 0, "x"}, 4},
	})
	check(t, "strings", "ab", string([]byte("ab")), []string{"", "a", "b", "ba", "abc"})
	check(t, "numbers", uint32(7), uint32(7), []uint32{0, 6, 7 << 16})
	check(t, "arrays", [2]string{"a", "b"}, [2]string{"a", "b"}, []([2]string){{"b", "a"}, {"ab", ""}})
	check(t, "two strings", struct{ a, b string }{"a", "b"}, struct{ a, b string }{"a", "b"},
		[]struct{ a, b string }{{"b", "a"}, {"ab", ""}, {"", "ab"}, {"a", ""}})
	check(t, "empty structs", struct{}{}, struct{}{}, nil)
	one, two := 1, 1
	check(t, "pointers", &one, &one, []*int{&two, nil})
}

func check[K comparable](t *testing.T, what string, k, same K, others []K) {
	t.Helper()
	h := newKeyHash[K]()
	if h.hash(k) != h.hash(same) {
		t.Errorf("%s that are equal have different hashes", what)
	}
	for _, other := range others {
		if h.hash(k) == h.hash(other) {
			t.Errorf("%s: %v and %v have one hash", what, k, other)
		}
	}
	if again := newKeyHash[K](); len(others) > 0 && again.hash(k) == h.hash(k) {
		t.Errorf("%s hash alike with another seed", what)
	}
}

func TestABucketThatIsPassedByTooOftenToCountStillFindsEverything(t *testing.T) {
	// All keys have one home: every bucket on the way counts up to its bound.
	type value struct{ key int }
	h := newHash(func(v *value) int { return v.key })
	s := &shard[value]{buckets: make([]bucket[value], 400)}
	h.shards[0].Store(s)
	const n = 1000
	for k := range n {
		h.counts[0]++
		s.add(uint64(k%200+1)<<32, &value{k})
	}
	hash := func(k int) uint64 { return uint64(k%200+1) << 32 }
	for k := range n {
		if v := h.find(hash(k), k); v == nil || v.key != k {
			t.Fatalf("key %d finds %v", k, v)
		}
	}
	for k := 0; k < n; k += 2 {
		at, slot := h.locate(hash(k), k)
		if at == nil || at.slots[slot].Load().key != k {
			t.Fatalf("key %d is not located", k)
		}
	}
	for k := n; k < n+200; k++ {
		if v := h.find(hash(k), k); v != nil {
			t.Fatalf("key %d, which is not there, finds %v", k, v)
		}
	}
}
