package catalog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAPutIsReadAtOnceAndTold(t *testing.T) {
	store := newShop()
	s := newProducts(t, store, true)
	type told struct {
		TenantID string
		Change   int64
	}
	var wrote []told
	s.o.Wrote = func(tenantID string, change int64) {
		if it := s.index.get(tenantID, "a"); it == nil || it.Change != change {
			t.Errorf("change %d is told before the index has it: %+v", change, it)
		}
		wrote = append(wrote, told{tenantID, change})
	}
	mustTell := func(want ...told) {
		t.Helper()
		if diff := cmp.Diff(want, wrote); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		wrote = nil
	}
	s.put(named("a", "1"))
	mustTell(told{"demo", 1})
	s.put(named("a", "1"))
	mustTell() // nothing changed

	batch := []Put{{Product: named("a", "2")}, {Product: named("b", "1")}, {Product: named("a", "3"), IfVersion: 1}, {Product: deleted("c")}, {Product: named("/", "")}}
	if _, errs, err := s.Put(t.Context(), batch); err != nil || errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], ErrVersion) || !errors.Is(errs[3], ErrNotFound) || errs[4] == nil {
		t.Fatalf("%v, %v", errs, err)
	}
	mustTell(told{"demo", 2})
	for _, sku := range []string{"a", "b"} {
		want := store.products[itemKey{"demo", sku}]
		if diff := cmp.Diff(newItem(&want, showProduct), s.index.get("demo", sku)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sku, diff)
		}
	}
	s.o.Wrote = func(string, int64) {}
	s.put(deleted("a"))
	if _, err := s.Get(t.Context(), "demo", "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what was deleted is read: %v", err)
	}
	s.put(named("a", "again"))
	if it, err := s.Get(t.Context(), "demo", "a"); err != nil || it.Version != 4 || it.Change != 4 {
		t.Errorf("made again: %+v, %v", it, err)
	}
}

func TestAfterAPutThatChangesNothingReadsAreNotOlderThanItsAnswer(t *testing.T) {
	store := newShop()
	a, b := newProducts(t, store, true), newProducts(t, store, true)
	b.o.Wrote = func(tenantID string, change int64) { t.Errorf("change %d, which another wrote, is told", change) }
	version := func(sku string) int64 {
		it, err := b.Get(t.Context(), "demo", sku)
		if err != nil {
			return 0
		}
		return it.Version
	}
	for _, sku := range []string{"same", "412", "slug"} {
		p := named(sku, "one")
		p.Slug = sku
		b.index.Apply([]Product{a.put(p).Product})
		p.Names = map[string]string{"en": "two"} // b does not hear of it
		a.put(p)
		put := Put{Product: p}
		var want error
		switch sku {
		case "412":
			put.IfVersion, want = 1, ErrVersion
		case "slug":
			put.Product.SKU, want = "other", ErrSlugTaken
		}
		results, errs, err := b.Put(t.Context(), []Put{put})
		if err != nil || !errors.Is(errs[0], want) || results[0].Changed || results[0].Product.Version != 2 {
			t.Fatalf("%s: %+v, %v, %v", sku, results, errs, err)
		}
		if got := version(sku); got != 2 {
			t.Errorf("%s: the answer tells of version 2, and then version %d is read", sku, got)
		}
	}
}

// The load ends between two steps of a read.
func TestAReadDuringTheLoadIsNotTakenForNotFound(t *testing.T) {
	store := newShop()
	p := named("here", "here")
	p.Slug = "here"
	newProducts(t, store, false).put(p)
	for name, read := range map[string]func(s *Service) (*Item, error){
		"by SKU":  func(s *Service) (*Item, error) { return s.Get(t.Context(), "demo", "here") },
		"by slug": func(s *Service) (*Item, error) { return s.BySlug(t.Context(), "demo", "here") },
	} {
		x := NewIndex(showProduct)
		s, err := New(Options{Store: store, Index: x, Ready: func() error { return x.Load(store.feed(1)) }})
		if err != nil {
			t.Fatal(err)
		}
		if it, err := read(s); err != nil || it.SKU != "here" {
			t.Errorf("%s: %v, error %v", name, it, err)
		}
	}
}

func TestAfterAPutWithoutAnAnswerNothingIsShown(t *testing.T) {
	store := newShop()
	s := newProducts(t, store, true)
	s.put(named("a", "1"))
	s.o.Wrote = func(string, int64) { t.Error("it is told") }
	for name, fault := range map[string]*error{"nothing was written": &store.fail, "all was written": &store.lost} {
		*fault = errors.New("the connection is lost")
		if _, _, err := s.Put(t.Context(), []Put{{Product: named("a", name)}}); !errors.Is(err, *fault) {
			t.Errorf("%s: error %v", name, err)
		}
		*fault = nil
		if it := s.index.get("demo", "a"); it.Version != 1 {
			t.Errorf("%s: the index has %+v", name, it)
		}
	}
	s.index.Apply(store.changes("demo", 1)) // as who follows the database does
	if it := s.index.get("demo", "a"); it.Version != 2 {
		t.Errorf("followed: %+v", it)
	}
}

func TestAnIndexThatIsNotCompleteAnswersNothing(t *testing.T) {
	s := newProducts(t, newShop(), true)
	s.put(named("a", "1"))
	loading := errors.New("loading: 40,000 records")
	s.o.Ready = func() error { return loading }
	_, getErr := s.Get(t.Context(), "demo", "a")
	_, noneErr := s.Get(t.Context(), "demo", "none")
	_, slugErr := s.BySlug(t.Context(), "demo", "none")
	_, listErr := s.List(t.Context(), Query{TenantID: "demo", Limit: 1})
	for _, err := range []error{getErr, noneErr, slugErr, listErr} {
		if !errors.Is(err, ErrLoading) || !errors.Is(err, loading) {
			t.Errorf("error %v, want ErrLoading and how far it is", err)
		}
	}
	loading = nil
	if it, err := s.Get(t.Context(), "demo", "a"); err != nil || it.SKU != "a" {
		t.Errorf("%+v, %v", it, err)
	}
}

func TestAServiceNeedsAStore(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no error")
	}
}

// TestInstancesThatWriteTheSameProductsEndEqual has two instances write the same
// products at once, while each is told of the other's changes late, more than once,
// in any order, and sometimes not before the end.
func TestInstancesThatWriteTheSameProductsEndEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShop()
		some(t, store)
		a, b := newProducts(t, store, true), newProducts(t, store, true)
		var working sync.WaitGroup
		for n, writer := range []products{a, b} {
			working.Go(func() { writeAnything(t, writer, uint64(n)) })
		}
		for n, index := range []*Index{a.index, b.index, a.index, b.index} {
			working.Go(func() { // a follower, and another that lags
				random := rand.New(rand.NewPCG(uint64(n), 9))
				for range 300 {
					changes := store.changes("demo", random.Int64N(store.version("demo")+1))
					random.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
					time.Sleep(time.Duration(random.IntN(20)) * time.Microsecond) // the others go on before it is applied
					index.Apply(changes[:random.IntN(len(changes)+1)])
				}
			})
		}
		working.Wait()
		for _, s := range []products{a, b} {
			s.index.Apply(store.changes("demo", 0))
		}
		fresh := newProducts(t, store, true)
		for _, q := range []Query{{Inactive: true}, {}, {Category: "shirts", Inactive: true}, {Category: "shirts"}} {
			q.TenantID, q.Limit = "demo", 10_000
			want := pagesOf(t, fresh, q)
			for name, s := range map[string]products{"a": a, "b": b} {
				if diff := cmp.Diff(want, pagesOf(t, s, q)); diff != "" {
					t.Errorf("%+v: instance %s (-database +instance):\n%s", q, name, diff)
				}
			}
		}
	})
}

func (s *shop) version(tenantID string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.versions[tenantID]
}

// writeAnything creates, changes, hides, deletes and makes again ten products.
func writeAnything(t *testing.T, s products, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	for n := range 1000 {
		p := named(fmt.Sprint("p", random.IntN(10)), fmt.Sprint(seed, " ", n))
		p.Category, p.Position, p.Active = "shirts", int64(random.IntN(3)), random.IntN(2) == 0
		if random.IntN(3) == 0 {
			p = deleted(p.SKU)
		} else if random.IntN(2) == 0 {
			p.Slug = fmt.Sprint("slug-", random.IntN(3))
		}
		time.Sleep(time.Duration(random.IntN(10)) * time.Microsecond)
		_, errs, err := s.Put(t.Context(), []Put{{Product: p}})
		if err != nil || errs[0] != nil && !errors.Is(errs[0], ErrNotFound) && !errors.Is(errs[0], ErrSlugTaken) {
			t.Errorf("put %s: %v, %v", p.SKU, errs, err)
		}
	}
}
