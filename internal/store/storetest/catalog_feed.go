package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

func catalogFeedTests() []catalogTest {
	return []catalogTest{
		{"a put of several tenants raises the version of those whose products change", feedVersions},
		{"changes come in their order, tombstones included, and never cut in two", feedChanges},
		{"a load has every product of every tenant, tombstones included", feedLoad},
		{"a load of large products has small pages", feedLoadLarge},
		{"changes of large products come in small pages, and one large change whole", feedChangesLarge},
		{"a load ends with the caller's error, or the caller's patience", feedLoadEnds},
		{"a load while others write, and the changes since, are all there is", feedLoadWhile},
		{"a follower misses nothing of many writers", feedFollower},
	}
}

func wantVersions(t testing.TB, s interface {
	Versions(ctx context.Context) (map[string]int64, string, error)
}, want map[string]int64) {
	t.Helper()
	got, epoch, err := s.Versions(t.Context())
	if again, other, err := s.Versions(t.Context()); epoch == "" || other != epoch || err != nil {
		t.Errorf("epoch %q of %v, then %q of %v, error %v; want one", epoch, got, other, again, err)
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("versions: error %v, differ (-want +got):\n%s", err, diff)
	}
}

func feedVersions(t *testing.T, s CatalogStore, _ audit.Store) {
	wantVersions(t, s, map[string]int64{})
	putProducts(t, s, putOf(product("b", 1), 0), putOf(product("a", 1), 0), putOf(product("b", 2), 0))
	wantVersions(t, s, map[string]int64{"a": 1, "b": 1})
	dearer := product("b", 1)
	dearer.Price.Amount++
	// c is refused, a is not changed, d is new.
	results, errs, err := s.Put(t.Context(), []catalog.Put{putOf(product("c", 1), 3), putOf(product("d", 1), 0), putOf(dearer, 0), putOf(product("a", 1), 0)})
	if err != nil || !errors.Is(errs[0], catalog.ErrVersion) || errs[1] != nil || errs[2] != nil || errs[3] != nil {
		t.Fatal(errs, err)
	}
	wantVersions(t, s, map[string]int64{"a": 1, "b": 2, "d": 1})
	for i, want := range []int64{0, 1, 2, 1} {
		if got := results[i].Product.Change; got != want {
			t.Errorf("result %d has change %d, want %d", i, got, want)
		}
	}
	// A put that cannot be finished raises nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Put(ctx, []catalog.Put{deletion(dearer, 0, 0)}); err == nil {
		t.Error("a put whose caller has gone was put")
	}
	wantVersions(t, s, map[string]int64{"a": 1, "b": 2, "d": 1})
}

func feedChanges(t *testing.T, s CatalogStore, _ audit.Store) {
	want := map[int64][]string{}
	put := func(change int64, puts ...catalog.Put) {
		t.Helper()
		for _, r := range putProducts(t, s, puts...) {
			if r.Product.Change != change {
				t.Fatalf("change %d, want %d", r.Product.Change, change)
			}
			for c := range want {
				want[c] = slices.DeleteFunc(want[c], func(sku string) bool { return sku == r.Product.SKU })
			}
			want[change] = append(want[change], r.Product.SKU)
			slices.Sort(want[change])
		}
	}
	var many []catalog.Put
	for i := range 10 {
		many = append(many, putOf(product("demo", i), 0))
	}
	put(1, many...)
	put(2, putOf(slugged(11, "x"), 0))
	put(3, deletion(product("demo", 3), 0, 0), putOf(slugged(4, "four"), 0), putOf(slugged(5, "five"), 0))
	put(4, putOf(product("demo", 12), 0))
	putProducts(t, s, putOf(product("rival", 1), 0))
	for after := int64(-1); after <= 5; after++ {
		for limit := 1; limit <= 14; limit++ {
			got, more, err := s.Changes(t.Context(), "demo", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.IsSortedFunc(got, func(a, b catalog.Product) int { return int(a.Change - b.Change) }) {
				t.Errorf("after %d, limit %d: not in the order of change", after, limit)
			}
			have := map[int64][]string{}
			for _, p := range got {
				have[p.Change] = append(have[p.Change], p.SKU)
				if p.TenantID != "demo" || p.Deleted != (p.SKU == product("demo", 3).SKU) {
					t.Errorf("after %d, limit %d: %+v", after, limit, p)
				}
			}
			if len(got) > 0 && more != (got[len(got)-1].Change < 4) || len(got) == 0 && more {
				t.Errorf("after %d, limit %d: up to %+v, more %v", after, limit, got, more)
			}
			expect, n := map[int64][]string{}, 0
			for change := max(after+1, 1); change <= 4 && n < limit; change++ {
				expect[change] = want[change]
				n += len(want[change])
			}
			for change := range have {
				slices.Sort(have[change])
			}
			if diff := cmp.Diff(expect, have); diff != "" {
				t.Errorf("after %d, limit %d: SKUs by change differ (-want +got):\n%s", after, limit, diff)
			}
		}
	}
	if got, more, err := s.Changes(t.Context(), "nobody", 0, 10); len(got) != 0 || more || err != nil {
		t.Errorf("changes of a tenant without products: %v, %v", got, err)
	}
	for _, limit := range []int{0, -1} {
		if _, _, err := s.Changes(t.Context(), "demo", 0, limit); err == nil {
			t.Errorf("%d changes are given", limit)
		}
	}
}

// loadAll returns what a load gives, and the sizes of its pages.
func loadAll(t testing.TB, s catalog.Feed) (all []catalog.Product, pages []int) {
	t.Helper()
	var kept [][]catalog.Product
	err := s.Load(t.Context(), func(page []catalog.Product) error {
		kept = append(kept, page) // it is ours
		return nil
	})
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	for _, page := range kept {
		all, pages = append(all, page...), append(pages, len(page))
	}
	return all, pages
}

// sorted returns products in the order of tenant and SKU.
func sorted(products []catalog.Product) []catalog.Product {
	slices.SortFunc(products, func(a, b catalog.Product) int {
		return strings.Compare(a.TenantID+"\x00"+a.SKU, b.TenantID+"\x00"+b.SKU)
	})
	return products
}

func feedLoad(t *testing.T, s CatalogStore, _ audit.Store) {
	if all, pages := loadAll(t, s); len(all) != 0 {
		t.Errorf("an empty store has %d products in %d pages", len(all), len(pages))
	}
	full := fullProduct()
	full.TenantID = "full"
	var want []catalog.Product
	puts := []catalog.Put{putOf(full, 0)}
	for i := range 4500 { // more than a page
		puts = append(puts, putOf(product([]string{"a", "b", "c"}[i%3], i), 0))
	}
	for _, r := range putProducts(t, s, puts...) {
		want = append(want, r.Product)
	}
	for _, i := range []int{0, 1, 7, 4500} {
		want[i] = putProducts(t, s, deletion(want[i], 0, time.Hour))[0].Product
	}
	all, pages := loadAll(t, s)
	if diff := cmp.Diff(sorted(want), sorted(all)); diff != "" {
		t.Errorf("products differ (-want +got):\n%s", diff)
	}
	if len(pages) < 2 {
		t.Errorf("pages of %v; the test has too few products for two", pages)
	}
}

// large returns a product of 600 kB.
func large(i int) catalog.Product {
	p := product("demo", i)
	p.Descriptions = map[string]string{}
	for l := range 20 {
		p.Descriptions[fmt.Sprintf("x%d", l)] = strings.Repeat("語", 10_000)
	}
	return p
}

func feedChangesLarge(t *testing.T, s CatalogStore, _ audit.Store) {
	const alone, together = 31, 20
	var whole []catalog.Put
	for i := range together {
		whole = append(whole, putOf(large(alone+i), 0))
	}
	for i := range alone - 1 {
		putProducts(t, s, putOf(large(i), 0))
	}
	putProducts(t, s, whole...)
	putProducts(t, s, putOf(large(alone-1), 0))
	var pages []int
	for after, more := int64(0), true; more; {
		var page []catalog.Product
		var err error
		if page, more, err = s.Changes(t.Context(), "demo", after, 1000); err != nil || len(page) == 0 {
			t.Fatalf("after change %d: %d products, error %v", after, len(page), err)
		}
		after = page[len(page)-1].Change
		pages = append(pages, len(page))
	}
	// 14 make 8 MiB; the change of 20 comes with the 2 before it.
	if diff := cmp.Diff([]int{14, 14, 2 + together, 1}, pages); diff != "" {
		t.Errorf("products by page (-want +got):\n%s", diff)
	}
}

func feedLoadLarge(t *testing.T, s CatalogStore, _ audit.Store) {
	const n = 40
	for i := range n {
		putProducts(t, s, putOf(large(i), 0))
	}
	all, pages := loadAll(t, s)
	if len(all) != n || slices.Max(pages) > 20 {
		t.Errorf("%d products of 600 kB in pages of %v; want %d in pages of about 8 MB", len(all), pages, n)
	}
}

func feedLoadEnds(t *testing.T, s CatalogStore, _ audit.Store) {
	var puts []catalog.Put
	for i := range 50 {
		puts = append(puts, putOf(product("demo", i), 0))
	}
	putProducts(t, s, puts...)
	full, calls := errors.New("the index is full"), 0
	if err := s.Load(t.Context(), func([]catalog.Product) error { calls++; return full }); !errors.Is(err, full) || calls != 1 {
		t.Errorf("error %v after %d calls, want the callee's after the first", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Load(ctx, func([]catalog.Product) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if all, _ := loadAll(t, s); len(all) != 50 {
		t.Errorf("%d products afterwards, want 50", len(all))
	}
}

// replica is what a follower has of the products.
type replica struct {
	products map[string]catalog.Product // by tenant and SKU
	seen     map[string]int64           // by tenant, the change that it is at
}

func (r *replica) apply(products []catalog.Product) {
	for _, p := range products {
		key := p.TenantID + "/" + p.SKU
		if there, ok := r.products[key]; !ok || there.Change < p.Change || there.Change == p.Change && there.Version < p.Version {
			r.products[key] = p
		}
	}
}

// follow reads the versions and what has changed.
func (r *replica) follow(ctx context.Context, s catalog.Feed, limit int) error {
	versions, _, err := s.Versions(ctx)
	if err != nil {
		return err
	}
	for tenantID, version := range versions {
		for r.seen[tenantID] < version {
			changed, more, err := s.Changes(ctx, tenantID, r.seen[tenantID], limit)
			if err != nil {
				return err
			}
			if len(changed) == 0 {
				return fmt.Errorf("%s is at version %d, and there is no change after %d", tenantID, version, r.seen[tenantID])
			}
			r.apply(changed)
			r.seen[tenantID] = changed[len(changed)-1].Change
			if !more && r.seen[tenantID] < version {
				return fmt.Errorf("%s is at version %d, and nothing is said to be more than %d", tenantID, version, r.seen[tenantID])
			}
		}
	}
	return nil
}

// want fails the test unless the replica is what the store has.
func (r *replica) want(t testing.TB, s catalog.Feed) {
	t.Helper()
	all, _ := loadAll(t, s)
	want := map[string]catalog.Product{}
	for _, p := range all {
		want[p.TenantID+"/"+p.SKU] = p
	}
	if diff := cmp.Diff(want, r.products); diff != "" {
		t.Errorf("the follower's products differ (-store +follower):\n%s", diff)
	}
}

// writeAtRandom puts and deletes products of three tenants: some of them again and
// again, others once.
func writeAtRandom(t testing.TB, s catalog.Store, writer, rounds int) {
	rng := rand.New(rand.NewPCG(uint64(writer), 1))
	for round := range rounds {
		var puts []catalog.Put
		for range 1 + rng.IntN(6) {
			n := rng.IntN(20)
			if rng.IntN(2) == 0 {
				n = 1000*(writer+1) + 10*round + len(puts)
			}
			p := product([]string{"a", "b", "c"}[rng.IntN(3)], n)
			p.Price.Amount = rng.Int64N(1000) + 1
			put := putOf(p, 0)
			if rng.IntN(4) == 0 {
				put = deletion(p, 0, 0)
			}
			puts = append(puts, put)
		}
		_, errs, err := s.Put(t.Context(), puts)
		for i, e := range errs {
			if e != nil && !(puts[i].Product.Deleted && errors.Is(e, catalog.ErrNotFound)) {
				t.Errorf("put %+v: %v", puts[i], e)
			}
		}
		if err != nil {
			t.Errorf("Put: %v", err)
			return
		}
	}
}

func feedLoadWhile(t *testing.T, s CatalogStore, _ audit.Store) {
	var puts []catalog.Put
	for i := range 4200 {
		puts = append(puts, putOf(product("b", 10_000+i), 0))
	}
	putProducts(t, s, puts...)
	r := &replica{products: map[string]catalog.Product{}}
	var err error
	if r.seen, _, err = s.Versions(t.Context()); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	defer writers.Wait()
	for w := range 2 {
		writers.Go(func() { writeAtRandom(t, s, w, 40) })
	}
	if err := s.Load(t.Context(), func(page []catalog.Product) error { r.apply(page); return nil }); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	if err := r.follow(t.Context(), s, 7); err != nil {
		t.Fatal(err)
	}
	r.want(t, s)
}

func feedFollower(t *testing.T, s CatalogStore, _ audit.Store) {
	const writing, rounds = 4, 60
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var writers sync.WaitGroup
	for w := range writing {
		writers.Go(func() { writeAtRandom(t, s, w, rounds) })
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	r := &replica{products: map[string]catalog.Product{}, seen: map[string]int64{}}
	for polls, last := 0, false; !last; polls++ {
		select {
		case <-done:
			last = true // once more, and that is all
		default:
		}
		if err := r.follow(ctx, s, 1+polls%5); err != nil {
			t.Error(err)
			break
		}
	}
	<-done
	r.want(t, s)
	versions, _, err := s.Versions(ctx)
	var sum int64
	for tenantID, version := range versions {
		sum += version
		if r.seen[tenantID] != version {
			t.Errorf("%s: the follower is at %d, the store at %d", tenantID, r.seen[tenantID], version)
		}
	}
	if sum < writing*rounds/2 || err != nil {
		t.Errorf("versions %v, error %v: the writers have hardly written", versions, err)
	}
}
