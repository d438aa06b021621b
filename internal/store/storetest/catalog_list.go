package storetest

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

func productListTests() []catalogTest {
	return []catalogTest{
		{"products are listed in the order of SKU, with filters", productList},
		{"products of a category are listed in the order of position and SKU", productPositions},
		{"pages have every product once while others are put", productPages},
		{"a large page ends early and goes on", productLargePages},
		{"a cursor that the server did not give for this list is refused", productCursors},
		{"a page of nothing is not asked for", productLimits},
	}
}

func productList(t *testing.T, s CatalogStore, _ audit.Store) {
	var puts []catalog.Put
	for i, sku := range []string{"b", "B", "a.1", "a-1", "a_1", "10", "9", "aa"} {
		p := product("demo", i)
		p.SKU, p.Category, p.Active = sku, []string{"", "x", "y"}[i%3], i%4 != 0
		puts = append(puts, putOf(p, 0))
	}
	putProducts(t, s, puts...)
	for _, tt := range []struct {
		q    catalog.Query
		want []string
	}{
		{catalog.Query{Inactive: true}, []string{"10", "9", "B", "a-1", "a.1", "a_1", "aa", "b"}},
		{catalog.Query{}, []string{"10", "9", "B", "a-1", "a.1", "aa"}},
		{catalog.Query{Category: "x"}, []string{"B", "aa"}},
		{catalog.Query{Category: "x", Inactive: true}, []string{"B", "a_1", "aa"}},
		{catalog.Query{Category: "X"}, nil},
	} {
		tt.q.TenantID = "demo"
		for limit := 1; limit <= 9; limit++ {
			tt.q.Limit, tt.q.Cursor = limit, ""
			if diff := cmp.Diff(tt.want, allSKUs(t, s, tt.q)); diff != "" {
				t.Errorf("%+v: SKUs differ (-want +got):\n%s", tt.q, diff)
			}
		}
	}
}

// allSKUs reads every page of a query.
func allSKUs(t testing.TB, s CatalogStore, q catalog.Query) (skus []string) {
	t.Helper()
	for range 10_000 {
		page, err := s.Products(t.Context(), q)
		if err != nil || len(page.Products) > q.Limit {
			t.Fatalf("Products(%+v): %d products, error %v", q, len(page.Products), err)
		}
		for _, p := range page.Products {
			skus = append(skus, p.SKU)
		}
		if q.Cursor = page.Next; page.Next == "" {
			return skus
		}
	}
	t.Fatalf("the pages of %+v do not end", q)
	return nil
}

func productPages(t *testing.T, s CatalogStore, _ audit.Store) {
	var want []string
	for i := range 50 {
		p := product("demo", 2*i)
		want = append(want, p.SKU)
		putProducts(t, s, putOf(p, 0))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 50 {
			p := product("demo", 2*i+1)
			p.Category = "others"
			if _, errs, err := s.Put(t.Context(), []catalog.Put{putOf(p, 0)}); err != nil || errs[0] != nil {
				t.Errorf("Put: %v, %v", errs, err)
			}
		}
	})
	defer wg.Wait()
	got := allSKUs(t, s, catalog.Query{TenantID: "demo", Category: "shirts", Limit: 7})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SKUs differ (-want +got):\n%s", diff)
	}
}

func productLargePages(t *testing.T, s CatalogStore, _ audit.Store) {
	text := make([]rune, 10_000)
	for i := range text {
		text[i] = '語'
	}
	var want []string
	for i := range 40 {
		p := product("demo", i)
		p.Descriptions = map[string]string{}
		for l := range 20 {
			p.Descriptions[fmt.Sprintf("x%d", l)] = string(text)
		}
		want = append(want, p.SKU)
		putProducts(t, s, putOf(p, 0))
	}
	page, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: 100})
	if n := len(page.Products); n == 0 || n >= 40 || page.Next == "" || err != nil {
		t.Errorf("a page of %d products of 600 kB, next %q, error %v; want fewer", n, page.Next, err)
	}
	if diff := cmp.Diff(want, allSKUs(t, s, catalog.Query{TenantID: "demo", Limit: 100})); diff != "" {
		t.Errorf("SKUs differ (-want +got):\n%s", diff)
	}
}

func productCursors(t *testing.T, s CatalogStore, _ audit.Store) {
	putProducts(t, s, putOf(product("demo", 1), 0), putOf(product("demo", 2), 0))
	page, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: 1})
	if err != nil || page.Next == "" {
		t.Fatalf("next %q, error %v", page.Next, err)
	}
	q := catalog.Query{TenantID: "demo", Category: "shirts", Limit: 1}
	ofCategory, err := s.Products(t.Context(), q)
	if err != nil || ofCategory.Next == "" {
		t.Fatalf("next %q, error %v", ofCategory.Next, err)
	}
	q.Cursor = page.Next
	if _, err := s.Products(t.Context(), q); !errors.Is(err, catalog.ErrBadCursor) {
		t.Errorf("the cursor of all products for a category: error %v, want catalog.ErrBadCursor", err)
	}
	for _, cursor := range []string{ofCategory.Next, "x", page.Next + "A", page.Next[1:], "!!", "tee-0001"} {
		if _, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: 1, Cursor: cursor}); !errors.Is(err, catalog.ErrBadCursor) {
			t.Errorf("cursor %q: error %v, want catalog.ErrBadCursor", cursor, err)
		}
	}
}

func productPositions(t *testing.T, s CatalogStore, _ audit.Store) {
	var puts []catalog.Put
	for sku, position := range map[string]int64{"a": 3, "b": -1, "c": 0, "d": 3, "B": 3, "e": math.MinInt64, "f": math.MaxInt64, "g": 0} {
		p := product("demo", 0)
		p.SKU, p.Position, p.Active = sku, position, sku != "d"
		puts = append(puts, putOf(p, 0))
	}
	other := product("demo", 1)
	other.Category, other.Position = "others", 1
	putProducts(t, s, append(puts, putOf(other, 0))...)
	for inactive, want := range map[bool][]string{false: {"e", "b", "c", "g", "B", "a", "f"}, true: {"e", "b", "c", "g", "B", "a", "d", "f"}} {
		for limit := 1; limit <= 9; limit++ {
			q := catalog.Query{TenantID: "demo", Category: "shirts", Inactive: inactive, Limit: limit}
			if diff := cmp.Diff(want, allSKUs(t, s, q)); diff != "" {
				t.Errorf("%+v: SKUs differ (-want +got):\n%s", q, diff)
			}
		}
	}
}

func productLimits(t *testing.T, s CatalogStore, _ audit.Store) {
	putProducts(t, s, putOf(product("demo", 1), 0))
	for _, limit := range []int{0, -1} {
		if _, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: limit}); err == nil {
			t.Errorf("a page of %d products is given", limit)
		}
		if _, err := s.Prices(t.Context(), "demo", product("demo", 1).SKU, limit); err == nil {
			t.Errorf("%d prices are given", limit)
		}
	}
}
