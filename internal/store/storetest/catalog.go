package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

// CatalogStore is what keeps products.
type CatalogStore interface {
	catalog.Store
	catalog.Feed
}

// catalogTest is a sentence of the contract.
type catalogTest struct {
	name string
	test func(*testing.T, CatalogStore, audit.Store)
}

// Catalog runs the conformance suite of catalog.Store and catalog.Feed. The factory
// gives a fresh store, with the audit log it writes, and registers its own clean-up.
func Catalog(t *testing.T, fresh func(t testing.TB) (CatalogStore, audit.Store)) {
	for _, c := range slices.Concat(productTests(), productListTests(), deleteTests(), slugTests(), catalogFeedTests()) {
		t.Run(c.name, func(t *testing.T) {
			s, log := fresh(t)
			c.test(t, s, log)
		})
	}
}

func productTests() []catalogTest {
	return []catalogTest{
		{"every field comes back as it went in", productFields},
		{"a put that changes anything raises the version", productChanges},
		{"a put that changes nothing leaves version, prices and audit log", productSame},
		{"every price is kept, newest first", productPrices},
		{"a put names the version it has seen", productVersions},
		{"of many puts of one version one wins", productRace},
		{"batches of the same products at once, in any order, all come through", productCross},
		{"one put that fails leaves the others", productOneFails},
		{"puts of one product in one batch follow each other", productTwice},
		{"a batch of thousands is put as a whole", productMany},
		{"a put that cannot be finished leaves nothing", productCancelled},
		{"the audit log has what was before and what is after", productAudit},
		{"no tenant sees or changes another's products", productTenants},
	}
}

// product returns a product that is told apart by n.
func product(tenant string, n int) catalog.Product {
	return catalog.Product{
		TenantID: tenant,
		SKU:      fmt.Sprintf("tee-%04d", n),
		Names:    map[string]string{"en": fmt.Sprint("Tee ", n), "de": fmt.Sprint("Hemd ", n)},
		Price:    catalog.Money{Amount: int64(1000 + n), Currency: "EUR"},
		Category: "shirts",
		Active:   true,
	}
}

func putOf(p catalog.Product, ifVersion int64) catalog.Put {
	return catalog.Put{Product: p, IfVersion: ifVersion, Now: monday, Actor: ann}
}

// putProducts puts products and fails the test if not all of them can be.
func putProducts(t testing.TB, s CatalogStore, puts ...catalog.Put) []catalog.PutResult {
	t.Helper()
	results, errs, err := s.Put(t.Context(), puts)
	if err := errors.Join(append(errs, err)...); err != nil || len(results) != len(puts) || len(errs) != len(puts) {
		t.Fatalf("Put of %d: %d results, %d errors: %v", len(puts), len(results), len(errs), err)
	}
	return results
}

// wantProduct fails the test unless the product stands as it is wanted.
func wantProduct(t testing.TB, s CatalogStore, want catalog.Product) {
	t.Helper()
	got, err := s.Product(t.Context(), want.TenantID, want.SKU)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("product %s: error %v, differs (-want +got):\n%s", want.SKU, err, diff)
	}
}

func fullProduct() catalog.Product {
	p := product("demo", 1)
	p.Names["zh-Hant"] = `黑色 "T恤" <b>&` + "\U0001F600"
	p.Descriptions = map[string]string{"en": "Line one\nline two\t\u2028", "de": ""}
	p.Price.Amount = 1_000_000_000_000
	p.Attributes = json.RawMessage(`{"b":1.50,"a":[true,null,{"c":"ü"}]}`)
	p.Slug, p.Position = "full-tee", -1_000_000_000
	return p
}

func productFields(t *testing.T, s CatalogStore, _ audit.Store) {
	full := fullProduct()
	bare := catalog.Product{TenantID: "demo", SKU: "bare", Names: map[string]string{"en": "x"}, Price: catalog.Money{Amount: 1, Currency: "JPY"}}
	puts := []catalog.Put{putOf(full, 0), putOf(bare, -1)}
	puts[0].Now = monday.Add(123456789)
	results := putProducts(t, s, puts...)
	full.Version, full.Change, full.CreatedAt, full.UpdatedAt = 1, 1, puts[0].Now, puts[0].Now
	bare.Version, bare.Change, bare.CreatedAt, bare.UpdatedAt = 1, 1, monday, monday
	want := []catalog.PutResult{{Product: full, Created: true, Changed: true}, {Product: bare, Created: true, Changed: true}}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	wantProduct(t, s, full)
	wantProduct(t, s, bare)
	if _, err := s.Product(t.Context(), "demo", "none"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a product that is not there: error %v, want catalog.ErrNotFound", err)
	}
	if results, errs, err := s.Put(t.Context(), nil); len(results) != 0 || len(errs) != 0 || err != nil {
		t.Errorf("a put of nothing: %v, %v, %v", results, errs, err)
	}
}

func productChanges(t *testing.T, s CatalogStore, _ audit.Store) {
	p := fullProduct()
	p.Version, p.CreatedAt = 1, monday
	putProducts(t, s, putOf(p, -1))
	for name, change := range map[string]func(){
		"a name":                 func() { p.Names = map[string]string{"en": "other"} },
		"a description":          func() { p.Descriptions = map[string]string{"en": "other"} },
		"no description":         func() { p.Descriptions = nil },
		"the amount":             func() { p.Price.Amount = 7 },
		"the currency":           func() { p.Price.Currency = "USD" },
		"the category":           func() { p.Category = "" },
		"the position":           func() { p.Position = 7 },
		"the slug":               func() { p.Slug = "other" },
		"no slug":                func() { p.Slug = "" },
		"the attributes":         func() { p.Attributes = json.RawMessage(`{"a":1}`) },
		"no attributes":          func() { p.Attributes = nil },
		"that it can be ordered": func() { p.Active = !p.Active },
	} {
		change()
		put := putOf(p, p.Version)
		put.Now = monday.Add(time.Duration(p.Version) * time.Minute)
		result := putProducts(t, s, put)[0]
		p.Version, p.Change, p.UpdatedAt = p.Version+1, p.Version+1, put.Now
		if diff := cmp.Diff(catalog.PutResult{Product: p, Changed: true}, result); diff != "" {
			t.Errorf("%s: result differs (-want +got):\n%s", name, diff)
		}
		wantProduct(t, s, p)
	}
}

func productSame(t *testing.T, s CatalogStore, log audit.Store) {
	p := fullProduct()
	first := putProducts(t, s, putOf(p, 0))[0]
	again := putOf(fullProduct(), 0)
	again.Now = monday.Add(time.Hour)
	for _, again.IfVersion = range []int64{0, 1} {
		got := putProducts(t, s, again)[0]
		if diff := cmp.Diff(catalog.PutResult{Product: first.Product}, got); diff != "" {
			t.Errorf("result differs (-want +got):\n%s", diff)
		}
	}
	wantProduct(t, s, first.Product)
	prices, err := s.Prices(t.Context(), "demo", p.SKU, 10)
	if len(prices) != 1 || err != nil {
		t.Errorf("prices %v, error %v", prices, err)
	}
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10}); len(got.Entries) != 1 || err != nil {
		t.Errorf("%d audit entries, error %v; want 1", len(got.Entries), err)
	}
}

func productPrices(t *testing.T, s CatalogStore, _ audit.Store) {
	p := product("demo", 1)
	var want []catalog.Price
	for i, price := range []catalog.Money{{Amount: 100, Currency: "EUR"}, {Amount: 90, Currency: "EUR"}, {Amount: 90, Currency: "EUR"}, {Amount: 90, Currency: "USD"}, {Amount: 100, Currency: "EUR"}} {
		p.Price, p.Active = price, i%2 == 0 // the third put changes something else
		put := putOf(p, int64(i))
		put.Now = monday.Add(time.Duration(i) * time.Minute)
		if i == 3 {
			put.Now = monday.Add(-time.Hour) // a clock that went back
			put.Actor = bob
		}
		putProducts(t, s, put)
		if i != 2 {
			want = append([]catalog.Price{{Money: price, From: put.Now, ProductVersion: int64(i + 1), ChangedBy: put.Actor.Subject}}, want...)
		}
	}
	for _, limit := range []int{1, 3, 4, 100} {
		got, err := s.Prices(t.Context(), "demo", p.SKU, limit)
		if diff := cmp.Diff(want[:min(limit, len(want))], got); diff != "" || err != nil {
			t.Errorf("limit %d: error %v, prices differ (-want +got):\n%s", limit, err, diff)
		}
	}
	if _, err := s.Prices(t.Context(), "demo", "none", 1); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("prices of no product: error %v, want catalog.ErrNotFound", err)
	}
}

func productVersions(t *testing.T, s CatalogStore, log audit.Store) {
	p := product("demo", 1)
	results, errs, err := s.Put(t.Context(), []catalog.Put{putOf(p, 1)})
	if !errors.Is(errs[0], catalog.ErrVersion) || err != nil || results[0].Changed {
		t.Errorf("a version of a product that is not there: %v, %v, %v", results, errs, err)
	}
	first := putProducts(t, s, putOf(p, -1))[0].Product
	for _, ifVersion := range []int64{-1, 2, 7} {
		other := p
		other.Category = "other"
		for _, put := range []catalog.Put{putOf(other, ifVersion), putOf(p, ifVersion)} {
			results, errs, err := s.Put(t.Context(), []catalog.Put{put})
			if !errors.Is(errs[0], catalog.ErrVersion) || err != nil || cmp.Diff(catalog.PutResult{Product: first}, results[0]) != "" {
				t.Errorf("version %d: %+v, %v, %v", ifVersion, results, errs, err)
			}
		}
	}
	wantProduct(t, s, first)
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10}); len(got.Entries) != 1 || err != nil {
		t.Errorf("%d audit entries, error %v; want 1", len(got.Entries), err)
	}
}

func productRace(t *testing.T, s CatalogStore, _ audit.Store) {
	putProducts(t, s, putOf(product("demo", 1), 0))
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			p := product("demo", 1)
			p.Price.Amount = int64(1 + i)
			_, errs, err := s.Put(t.Context(), []catalog.Put{putOf(p, 1)})
			switch {
			case err != nil:
				t.Errorf("Put: %v", err)
			case errs[0] == nil:
				won.Add(1)
			case !errors.Is(errs[0], catalog.ErrVersion):
				t.Errorf("error %v, want catalog.ErrVersion", errs[0])
			}
		})
	}
	wg.Wait()
	got, err := s.Product(t.Context(), "demo", product("demo", 1).SKU)
	if n := won.Load(); n != 1 || got.Version != 2 || err != nil {
		t.Errorf("%d puts won, version %d, error %v; want 1 and version 2", n, got.Version, err)
	}
}

func productOneFails(t *testing.T, s CatalogStore, _ audit.Store) {
	a, b, c := product("demo", 1), product("demo", 2), product("demo", 3)
	_, errs, err := s.Put(t.Context(), []catalog.Put{putOf(a, 0), putOf(b, 9), putOf(c, 0)})
	if errs[0] != nil || !errors.Is(errs[1], catalog.ErrVersion) || errs[2] != nil || err != nil {
		t.Errorf("errors %v, %v", errs, err)
	}
	page, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: 10})
	if len(page.Products) != 2 || page.Products[0].SKU != a.SKU || page.Products[1].SKU != c.SKU || err != nil {
		t.Errorf("%+v, %v", page, err)
	}
}

func productTwice(t *testing.T, s CatalogStore, log audit.Store) {
	a, b := product("demo", 1), product("demo", 2)
	dearer := a
	dearer.Price.Amount *= 2
	puts := []catalog.Put{putOf(a, -1), putOf(b, -1), putOf(dearer, 1), putOf(dearer, 0), putOf(a, 2), putOf(a, 2)}
	results, errs, err := s.Put(t.Context(), puts)
	if err != nil {
		t.Fatal(err)
	}
	var versions []int64
	for _, r := range results {
		versions = append(versions, r.Product.Version)
	}
	if diff := cmp.Diff([]int64{1, 1, 2, 2, 3, 3}, versions); diff != "" || errors.Join(errs[:5]...) != nil || !errors.Is(errs[5], catalog.ErrVersion) {
		t.Errorf("errors %v, versions differ (-want +got):\n%s", errs, diff)
	}
	prices, err := s.Prices(t.Context(), "demo", a.SKU, 10)
	if len(prices) != 3 || err != nil {
		t.Errorf("%d prices, error %v; want 3", len(prices), err)
	}
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Object: "product/" + a.SKU, Limit: 10}); len(got.Entries) != 3 || err != nil {
		t.Errorf("%d audit entries, error %v; want 3", len(got.Entries), err)
	}
}

func productMany(t *testing.T, s CatalogStore, log audit.Store) {
	const n = 1000
	var puts []catalog.Put
	for i := range n {
		puts = append(puts, putOf(product("demo", i), 0))
	}
	putProducts(t, s, puts...)
	for i := range puts {
		puts[i].Product.Category = "other"
		puts[i].IfVersion = 1
	}
	putProducts(t, s, puts...)
	seen := 0
	for q := (catalog.Query{TenantID: "demo", Category: "other", Limit: 300}); ; {
		page, err := s.Products(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Products {
			if want := product("demo", seen).SKU; p.SKU != want || p.Version != 2 {
				t.Fatalf("product %d is %s of version %d, want %s of 2", seen, p.SKU, p.Version, want)
			}
			seen++
		}
		if q.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 3 * n})
	if seen != n || len(got.Entries) != 2*n || err != nil {
		t.Errorf("%d products, %d audit entries, error %v; want %d and %d", seen, len(got.Entries), err, n, 2*n)
	}
}

func productCancelled(t *testing.T, s CatalogStore, log audit.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results, errs, err := s.Put(ctx, []catalog.Put{putOf(product("demo", 1), 0)}); err == nil || results != nil || errs != nil {
		t.Errorf("%v, %v, error %v; want an error of the whole alone", results, errs, err)
	}
	if page, err := s.Products(t.Context(), catalog.Query{TenantID: "demo", Limit: 1}); len(page.Products) != 0 || err != nil {
		t.Errorf("left %+v, error %v", page, err)
	}
	wantEntries(t, log, audit.Query{TenantID: "demo"})
}

func productAudit(t *testing.T, s CatalogStore, log audit.Store) {
	p := fullProduct()
	before := putProducts(t, s, putOf(p, 0))[0].Product
	put := putOf(product("demo", 1), 1)
	put.Now, put.Actor = monday.Add(time.Hour), bob
	after := putProducts(t, s, put)[0].Product
	created, err := catalog.PutEntry(nil, &before, monday, ann)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := catalog.PutEntry(&before, &after, put.Now, bob)
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, log, audit.Query{TenantID: "demo"}, changed, created)
}

func productTenants(t *testing.T, s CatalogStore, log audit.Store) {
	mine, theirs := product("demo", 1), product("rival", 1)
	theirs.Price.Amount = 1
	results := putProducts(t, s, putOf(mine, -1), putOf(theirs, -1))
	for i, tenant := range []string{"demo", "rival"} {
		want := results[i].Product
		wantProduct(t, s, want)
		page, err := s.Products(t.Context(), catalog.Query{TenantID: tenant, Limit: 10})
		if diff := cmp.Diff([]catalog.Product{want}, page.Products); diff != "" || err != nil {
			t.Errorf("%s: error %v, products differ (-want +got):\n%s", tenant, err, diff)
		}
		if prices, err := s.Prices(t.Context(), tenant, want.SKU, 10); len(prices) != 1 || prices[0].Money != want.Price || err != nil {
			t.Errorf("%s: prices %v, error %v", tenant, prices, err)
		}
		if got, err := log.Entries(t.Context(), audit.Query{TenantID: tenant, Limit: 10}); len(got.Entries) != 1 || err != nil {
			t.Errorf("%s: %d audit entries, error %v", tenant, len(got.Entries), err)
		}
	}
	if page, err := s.Products(t.Context(), catalog.Query{TenantID: "nobody", Limit: 10}); len(page.Products) != 0 || err != nil {
		t.Errorf("a tenant without products: %+v, error %v", page, err)
	}
}
