package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

func slugTests() []catalogTest {
	return []catalogTest{
		{"a slug that another product has is refused, with that product", slugTaken},
		{"a slug is free again when its product leaves it or is deleted", slugFreed},
		{"of slugs in one batch the earlier put counts", slugBatch},
		{"slugs move through a batch of hundreds", slugChain},
		{"of many who want one slug at once one gets it", slugRace},
	}
}

// slugged returns the n-th product with a slug.
func slugged(n int, slug string) catalog.Product {
	p := product("demo", n)
	p.Slug = slug
	return p
}

func slugTaken(t *testing.T, s CatalogStore, log audit.Store) {
	first := putProducts(t, s, putOf(slugged(1, "tee"), 0))[0].Product
	other := putProducts(t, s, putOf(slugged(2, "other"), 0))[0].Product
	for _, n := range []int{2, 3} { // one that is there and one that is not
		results, errs, err := s.Put(t.Context(), []catalog.Put{putOf(slugged(n, "tee"), 0)})
		if err != nil || !errors.Is(errs[0], catalog.ErrSlugTaken) || cmp.Diff(catalog.PutResult{Product: first}, results[0]) != "" {
			t.Errorf("product %d: %+v, %v, %v; want catalog.ErrSlugTaken and the product that has the slug", n, results, errs, err)
		}
	}
	// The version is judged first: who has not seen the product learns that.
	if _, errs, err := s.Put(t.Context(), []catalog.Put{putOf(slugged(2, "tee"), 7)}); err != nil || !errors.Is(errs[0], catalog.ErrVersion) {
		t.Errorf("a slug and a version: %v, %v; want catalog.ErrVersion", errs, err)
	}
	wantProduct(t, s, first)
	wantProduct(t, s, other)
	wantVersions(t, s, map[string]int64{"demo": 2})
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10}); len(got.Entries) != 2 || err != nil {
		t.Errorf("%d audit entries, error %v; want 2", len(got.Entries), err)
	}
	theirs := slugged(1, "tee")
	theirs.TenantID = "rival"
	putProducts(t, s, putOf(theirs, 0))
	// None is no slug: any number of products have none.
	putProducts(t, s, putOf(slugged(8, ""), 0), putOf(slugged(9, ""), 0))
}

func slugFreed(t *testing.T, s CatalogStore, _ audit.Store) {
	putProducts(t, s, putOf(slugged(1, "tee"), 0))
	putProducts(t, s, putOf(slugged(1, "shirt"), 0))
	putProducts(t, s, putOf(slugged(2, "tee"), 0))
	putProducts(t, s, deletion(slugged(2, ""), 0, time.Minute))
	putProducts(t, s, putOf(slugged(3, "tee"), 0))
	results, errs, err := s.Put(t.Context(), []catalog.Put{putOf(slugged(2, "tee"), 0)})
	if err != nil || !errors.Is(errs[0], catalog.ErrSlugTaken) || results[0].Product.SKU != product("demo", 3).SKU {
		t.Errorf("one that is made again and had the slug: %+v, %v, %v; want catalog.ErrSlugTaken", results, errs, err)
	}
	putProducts(t, s, putOf(slugged(3, ""), 0))
	putProducts(t, s, putOf(slugged(2, "tee"), 0))
}

func slugBatch(t *testing.T, s CatalogStore, _ audit.Store) {
	for _, tt := range []struct {
		name string
		puts []catalog.Put // after 1 has the slug a, and 2 has b
		want []int         // who is refused, by index
		left map[int]string
	}{
		{"two new ones want one", []catalog.Put{putOf(slugged(3, "c"), 0), putOf(slugged(4, "c"), 0)}, []int{1}, map[int]string{1: "a", 2: "b", 3: "c"}},
		{"one leaves it, another takes it", []catalog.Put{putOf(slugged(1, "c"), 0), putOf(slugged(3, "a"), 0)}, nil, map[int]string{1: "c", 2: "b", 3: "a"}},
		{"one takes it before the other leaves it", []catalog.Put{putOf(slugged(3, "a"), 0), putOf(slugged(1, "c"), 0)}, []int{0}, map[int]string{1: "c", 2: "b"}},
		{"two change places", []catalog.Put{putOf(slugged(1, "b"), 0), putOf(slugged(2, "a"), 0)}, []int{0, 1}, map[int]string{1: "a", 2: "b"}},
		{"they do it by way of a third", []catalog.Put{putOf(slugged(1, "c"), 0), putOf(slugged(2, "a"), 0), putOf(slugged(1, "b"), 0)}, nil, map[int]string{1: "b", 2: "a"}},
		{"one is deleted, another takes it", []catalog.Put{deletion(slugged(1, ""), 0, 0), putOf(slugged(2, "a"), 0)}, nil, map[int]string{2: "a"}},
		{"a deletion that is refused frees nothing", []catalog.Put{deletion(slugged(1, ""), 9, 0), putOf(slugged(2, "a"), 0)}, []int{0, 1}, map[int]string{1: "a", 2: "b"}},
		{"a put that is refused takes nothing", []catalog.Put{putOf(slugged(3, "c"), 9), putOf(slugged(4, "c"), 0)}, []int{0}, map[int]string{1: "a", 2: "b", 4: "c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for n := range 5 {
				if _, errs, err := s.Put(t.Context(), []catalog.Put{deletion(product("demo", n), 0, 0)}); err != nil || errs[0] != nil && !errors.Is(errs[0], catalog.ErrNotFound) {
					t.Fatal(errs, err)
				}
			}
			putProducts(t, s, putOf(slugged(1, "a"), 0), putOf(slugged(2, "b"), 0))
			_, errs, err := s.Put(t.Context(), tt.puts)
			if err != nil {
				t.Fatal(err)
			}
			var refused []int
			for i := range errs {
				if errs[i] != nil {
					refused = append(refused, i)
				}
			}
			if diff := cmp.Diff(tt.want, refused); diff != "" {
				t.Errorf("refused (-want +got):\n%s\n%v", diff, errs)
			}
			left := map[int]string{}
			for n := range 5 {
				if p, err := s.Product(t.Context(), "demo", product("demo", n).SKU); err == nil {
					left[n] = p.Slug
				}
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("slugs (-want +got):\n%s", diff)
			}
		})
	}
}

// slugChain has each product take the slug that the one before it leaves, in a batch
// of more than one statement and one chunk.
func slugChain(t *testing.T, s CatalogStore, _ audit.Store) {
	const n = 300
	var puts, moved []catalog.Put
	for i := range n {
		puts = append(puts, putOf(slugged(i, fmt.Sprint("slug-", i)), 0))
		moved = append(moved, putOf(slugged(i, fmt.Sprint("slug-", i-1)), 1))
	}
	putProducts(t, s, puts...)
	putProducts(t, s, moved...)
	for _, i := range []int{0, 1, 127, 128, 129, n - 1} {
		if p, err := s.Product(t.Context(), "demo", product("demo", i).SKU); p.Slug != fmt.Sprint("slug-", i-1) || err != nil {
			t.Errorf("product %d has the slug %q, error %v", i, p.Slug, err)
		}
	}
}

func slugRace(t *testing.T, s CatalogStore, _ audit.Store) {
	for round := range 5 {
		var wg sync.WaitGroup
		var won atomic.Int64
		slug := fmt.Sprint("drop-", round)
		for i := range 12 {
			wg.Go(func() {
				// Half of them have other products beside it, so that they meet at different moments.
				puts := []catalog.Put{putOf(slugged(i, slug), 0)}
				for k := range i % 2 * 20 {
					puts = append(puts, putOf(product("demo", 100*round+1000*(i+1)+k), 0))
				}
				results, errs, err := s.Put(t.Context(), puts)
				switch {
				case err != nil:
					t.Errorf("Put: %v", err)
				case errs[0] == nil:
					won.Add(1)
				case !errors.Is(errs[0], catalog.ErrSlugTaken) || results[0].Product.Slug != slug:
					t.Errorf("%+v, error %v; want catalog.ErrSlugTaken and who has it", results[0], errs[0])
				}
			})
		}
		wg.Wait()
		if n := won.Load(); n != 1 {
			t.Errorf("%d have got the slug, want 1", n)
		}
	}
}
