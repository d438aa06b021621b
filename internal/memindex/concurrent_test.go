package memindex_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/internal/memindex"
)

// writeWhileReading runs readers again and again, each in its goroutine, until write
// has returned and every reader has run at least once. A reader returns what is wrong.
func writeWhileReading(t *testing.T, write func(), readers ...func() error) {
	t.Helper()
	var over atomic.Bool
	var wg sync.WaitGroup
	for _, read := range readers {
		wg.Go(func() {
			for last := false; !last; {
				last = over.Load()
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	write()
	over.Store(true)
	wg.Wait()
}

func TestARecordThatChangesIsAlwaysFound(t *testing.T) {
	x := newEntries()
	const rounds = 2400
	slug := func(i int) string { return fmt.Sprint("slug-", i) }
	key := entryKey{1, "de"}
	state := func(i int) *entry {
		return &entry{key: key, version: i + 1, slug: slug(i / 4), groups: []int{1, 2 + i/4}, rank: i % 3, names: []string{"wien"}}
	}
	// Others come and go around it, so that tables grow and shrink.
	other := func(i int) *entry {
		return &entry{key: entryKey{2 + i%700, "de"}, version: i + 1, slug: fmt.Sprint("other-", i%700), groups: []int{1}, names: []string{"wiesbaden"}, rank: i % 7, deleted: i/700%2 == 1}
	}
	x.Put(state(0))
	newest := 0 // the slug the reader saw last; slugs only rise
	writeWhileReading(t,
		func() {
			for i := 1; i < rounds; i++ {
				x.Put(state(i), other(2*i), other(2*i+1))
			}
		},
		func() error {
			if x.Get(key) == nil {
				return errors.New("the record is not under its primary key")
			}
			return nil
		},
		func() error {
			for ; newest <= rounds/4; newest++ {
				if e := x.bySlug.Get(slug(newest)); e != nil {
					if e.slug != slug(newest) {
						return fmt.Errorf("under %q there is a record that claims %q", slug(newest), e.slug)
					}
					return nil
				}
			}
			return errors.New("the record is under none of its slugs")
		},
		func() error {
			for _, prefix := range []string{"wi", "wien"} {
				if top := x.byName.Top(prefix, 1, func(e *entry) bool { return e.key == key }); len(top) != 1 {
					return fmt.Errorf("Top(%q) finds %d records, want the one", prefix, len(top))
				}
			}
			return nil
		},
	)
}

func TestAWalkIsInOrderAndWithoutDuplicatesWhileRecordsMove(t *testing.T) {
	x := newEntries()
	const n = 2000 // several chunks
	var version atomic.Int64
	random := rand.New(rand.NewPCG(5, 5))
	state := func(id int) *entry {
		return &entry{
			key: entryKey{id, "de"}, version: int(version.Add(1)), rank: random.IntN(n), groups: []int{1},
			names: []string{"san " + randomName(random), "san " + randomName(random)},
		}
	}
	all := make([]*entry, n)
	for id := range all {
		all[id] = state(id)
	}
	load(t, x.Table, all)

	ordered := func(what string, walk []*entry, want int) error {
		if len(walk) != want {
			return fmt.Errorf("%s visits %d records, want %d", what, len(walk), want)
		}
		seen := map[int]bool{}
		for i, e := range walk {
			if seen[e.key.id] {
				return fmt.Errorf("%s visits %v twice", what, e)
			}
			seen[e.key.id] = true
			if i > 0 && byRank(walk[i-1], e) >= 0 {
				return fmt.Errorf("%s visits %v before %v", what, walk[i-1], e)
			}
		}
		return nil
	}
	writeWhileReading(t,
		func() {
			for range 2000 {
				x.Put(state(random.IntN(n)))
			}
			for id := range all {
				all[id] = state(id)
			}
			load(t, x.Table, all)
		},
		func() error { return ordered("Groups.All", slices.Collect(x.byGroup.All(1)), n) },
		func() error { return ordered("Prefixes.Top of a short prefix", x.byName.Top("san", n, nil), n) },
		func() error { return ordered("Prefixes.Top of a long prefix", x.byName.Top("san ", n, nil), n) },
		func() error {
			seen := map[int]bool{}
			for e := range x.All() {
				seen[e.key.id] = true
			}
			if len(seen) != n {
				return fmt.Errorf("All visits %d records, want %d", len(seen), n)
			}
			return nil
		},
	)
}

func TestWhatIsPutStaysFoundWhileTheTableGrows(t *testing.T) {
	x := newEntries()
	var there atomic.Int64 // ids below are there
	writeWhileReading(t,
		func() {
			for id := range 20_000 {
				x.Put(&entry{key: entryKey{id, "de"}, slug: fmt.Sprint("slug-", id)})
				there.Store(int64(id) + 1)
			}
		},
		func() error {
			n := int(there.Load())
			if n == 0 {
				return nil
			}
			id := rand.IntN(n)
			if e := x.Get(entryKey{id, "de"}); e == nil || e.key.id != id {
				return fmt.Errorf("record %d of %d is %v", id, n, e)
			}
			if e := x.bySlug.Get(fmt.Sprint("slug-", id)); e == nil || e.key.id != id {
				return fmt.Errorf("the slug of record %d of %d is that of %v", id, n, e)
			}
			return nil
		})
}

func TestALoadTakesPagesFromSeveralGoroutinesAndKeepsWhatIsPutMeanwhile(t *testing.T) {
	x := newEntries()
	const pages, size = 40, 500
	state := func(id, version int) *entry {
		return &entry{key: entryKey{id, "de"}, version: version, slug: fmt.Sprint("slug-", id), groups: []int{version}, names: []string{"wien"}, rank: id}
	}
	err := x.Load(func(add func([]*entry)) error {
		var wg sync.WaitGroup
		for page := range pages {
			wg.Go(func() {
				records := make([]*entry, size)
				for i := range records {
					records[i] = state(page*size+i, 1)
				}
				add(records)
				x.Put(state(page*size, 2), state(page*size+1, 0)) // one newer, one older
				clear(records)                                    // the page remains the caller's
			})
		}
		wg.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := x.byGroup.Len(1); got != pages*size-pages {
		t.Errorf("%d records are as they were loaded, want %d", got, pages*size-pages)
	}
	if got := x.byGroup.Len(2); got != pages {
		t.Errorf("%d records are as they were put, want %d", got, pages)
	}
	if got := x.byGroup.Len(0); got != 0 {
		t.Errorf("%d older records are left", got)
	}
	if got := len(x.byName.Top("wien", pages*size+1, nil)); got != pages*size {
		t.Errorf("%d records have the name, want %d", got, pages*size)
	}
	for id := range pages * size {
		if e := x.bySlug.Get(fmt.Sprint("slug-", id)); e == nil || e != x.Get(entryKey{id, "de"}) {
			t.Fatalf("the slug of record %d is that of %v", id, e)
		}
	}
}

func TestALoadThatFailsLeavesNothing(t *testing.T) {
	x := newEntries()
	away := errors.New("the database is away")
	err := x.Load(func(add func([]*entry)) error {
		add([]*entry{{key: entryKey{1, "de"}, slug: "wien"}})
		return away
	})
	if !errors.Is(err, away) {
		t.Fatalf("Load() = %v, want %v", err, away)
	}
	if x.Len() != 0 || x.bySlug.Get("wien") != nil {
		t.Errorf("there are %d records", x.Len())
	}
}

func TestMisuseIsToldByAPanic(t *testing.T) {
	for _, test := range []struct {
		what, want string
		do         func()
	}{
		{"a secondary key after the first record", "before the first record", func() {
			x := newEntries()
			x.Put(&entry{})
			memindex.AddUnique(x.Table, func(e *entry) (string, bool) { return e.slug, true })
		}},
		{"add after feed has returned", "after it had returned", func() {
			var late func([]*entry)
			if err := newEntries().Load(func(add func([]*entry)) error { late = add; return nil }); err != nil {
				t.Error(err)
			}
			late(nil)
		}},
		{"no key", "primary key", func() { memindex.New[int, entry](nil, memindex.Options[entry]{}) }},
	} {
		t.Run(test.what, func(t *testing.T) {
			defer func() {
				if told := fmt.Sprint(recover()); !strings.Contains(told, test.want) {
					t.Errorf("the panic is %q, want one with %q", told, test.want)
				}
			}()
			test.do()
		})
	}
}

func TestARecordThatComesTwiceInOneLoadIsThereOnce(t *testing.T) {
	table := memindex.New(func(e *entry) int { return e.key.id }, memindex.Options[entry]{})
	groups := memindex.AddGroups(table, func(_ *entry, add func(int)) { add(1) }, byRank)
	slugs := memindex.AddUnique(table, func(e *entry) (string, bool) { return e.slug, true })
	first, between := &entry{slug: "first"}, &entry{slug: "between"}
	load(t, table, []*entry{first, between, first, first})
	if got := slices.Collect(groups.All(1)); !slices.Equal(got, []*entry{first}) {
		t.Errorf("the group has %v, want the last that came", got)
	}
	if slugs.Get("first") != first || slugs.Get("between") != nil || table.Len() != 1 || table.Stats().Live != 1 {
		t.Errorf("%d records, under their slugs %v and %v", table.Len(), slugs.Get("first"), slugs.Get("between"))
	}
}
