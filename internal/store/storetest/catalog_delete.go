package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

func deleteTests() []catalogTest {
	return []catalogTest{
		{"a deleted product is gone, and a tombstone is left of it", deleteGone},
		{"a product that is made again goes on with its version, as a new one", deleteRecreate},
		{"what is not there cannot be deleted", deleteNothing},
		{"a put says what must stand, deleted or not", deleteVersions},
		{"puts and deletions of one product in one batch follow each other", deleteInBatch},
		{"the audit log has what was deleted", deleteAudit},
	}
}

// deletion returns a put that deletes a product, some time after monday.
func deletion(p catalog.Product, ifVersion int64, after time.Duration) catalog.Put {
	return catalog.Put{Product: catalog.Product{TenantID: p.TenantID, SKU: p.SKU, Deleted: true}, IfVersion: ifVersion, Now: monday.Add(after), Actor: bob}
}

// wantGone fails the test if anything shows a product that is deleted.
func wantGone(t testing.TB, s CatalogStore, p catalog.Product) {
	t.Helper()
	if got, err := s.Product(t.Context(), p.TenantID, p.SKU); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("the deleted product: %+v, error %v; want catalog.ErrNotFound", got, err)
	}
	if got, err := s.Prices(t.Context(), p.TenantID, p.SKU, 10); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("its prices: %+v, error %v; want catalog.ErrNotFound", got, err)
	}
	for _, category := range []string{"", p.Category} {
		q := catalog.Query{TenantID: p.TenantID, Category: category, Inactive: true, Limit: 100}
		for _, sku := range allSKUs(t, s, q) {
			if sku == p.SKU {
				t.Errorf("the list of category %q has it", category)
			}
		}
	}
}

func deleteGone(t *testing.T, s CatalogStore, _ audit.Store) {
	p := fullProduct()
	putProducts(t, s, putOf(p, 0), putOf(product("demo", 2), 0))
	d := deletion(p, 0, time.Hour)
	d.Product = fullProduct() // only tenant and SKU count
	d.Product.Deleted = true
	got := putProducts(t, s, d)[0]
	want := catalog.Product{TenantID: "demo", SKU: p.SKU, Version: 2, Change: 2, Deleted: true, CreatedAt: monday, UpdatedAt: monday.Add(time.Hour)}
	if diff := cmp.Diff(catalog.PutResult{Product: want, Changed: true}, got); diff != "" {
		t.Errorf("result differs (-want +got):\n%s", diff)
	}
	wantGone(t, s, p)
	changed, _, err := s.Changes(t.Context(), "demo", 1, 10)
	if diff := cmp.Diff([]catalog.Product{want}, changed); diff != "" || err != nil {
		t.Errorf("changes: error %v, differ (-want +got):\n%s", err, diff)
	}
	if skus := allSKUs(t, s, catalog.Query{TenantID: "demo", Limit: 10}); len(skus) != 1 {
		t.Errorf("products %q are left, want the other one", skus)
	}
}

func deleteRecreate(t *testing.T, s CatalogStore, log audit.Store) {
	p := fullProduct()
	putProducts(t, s, putOf(p, 0))
	putProducts(t, s, deletion(p, 1, time.Minute))
	again := putOf(fullProduct(), catalog.NoVersion)
	again.Now, again.Actor = monday.Add(time.Hour), bob
	got := putProducts(t, s, again)[0]
	want := fullProduct()
	want.Version, want.Change, want.CreatedAt, want.UpdatedAt = 3, 3, again.Now, again.Now
	if diff := cmp.Diff(catalog.PutResult{Product: want, Created: true, Changed: true}, got); diff != "" {
		t.Errorf("result differs (-want +got):\n%s", diff)
	}
	wantProduct(t, s, want)
	prices, err := s.Prices(t.Context(), "demo", p.SKU, 10)
	if diff := cmp.Diff([]catalog.Price{
		{Money: p.Price, From: again.Now, ProductVersion: 3, ChangedBy: "bob"},
		{Money: p.Price, From: monday, ProductVersion: 1, ChangedBy: "ann"},
	}, prices); diff != "" || err != nil {
		t.Errorf("prices: error %v, differ (-want +got):\n%s", err, diff)
	}
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Action: "product.put", Limit: 10}); err != nil || len(got.Entries) != 2 || got.Entries[0].Before != nil {
		t.Errorf("audit entries %+v, error %v; want two puts of a product that was not there", got.Entries, err)
	}
}

func deleteNothing(t *testing.T, s CatalogStore, log audit.Store) {
	p := product("demo", 1)
	other := product("rival", 1)
	putProducts(t, s, putOf(other, 0))
	refused := func(what string) {
		t.Helper()
		for _, ifVersion := range []int64{0, 1, 2, catalog.NoVersion, catalog.AnyVersion} {
			results, errs, err := s.Put(t.Context(), []catalog.Put{deletion(p, ifVersion, time.Hour)})
			if err != nil || !errors.Is(errs[0], catalog.ErrNotFound) || cmp.Diff(catalog.PutResult{}, results[0]) != "" {
				t.Errorf("%s, version %d: %+v, %v, %v; want catalog.ErrNotFound", what, ifVersion, results, errs, err)
			}
		}
	}
	refused("a product that never was")
	putProducts(t, s, putOf(p, 0))
	putProducts(t, s, deletion(p, 0, time.Minute))
	refused("a product that is deleted")
	wantVersions(t, s, map[string]int64{"demo": 2, "rival": 1})
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10}); len(got.Entries) != 2 || err != nil {
		t.Errorf("%d audit entries, error %v; want 2", len(got.Entries), err)
	}
	wantProduct(t, s, func() catalog.Product {
		other.Version, other.Change, other.CreatedAt, other.UpdatedAt = 1, 1, monday, monday
		return other
	}())
}

func deleteVersions(t *testing.T, s CatalogStore, _ audit.Store) {
	const never, stands, deleted = 0, 1, 2 // and the version it has then
	n := 0
	for _, tt := range []struct {
		before    int
		ifVersion int64
		want      error
	}{
		{never, 0, nil}, {never, catalog.NoVersion, nil}, {never, catalog.AnyVersion, catalog.ErrVersion}, {never, 1, catalog.ErrVersion},
		{stands, 0, nil}, {stands, catalog.NoVersion, catalog.ErrVersion}, {stands, catalog.AnyVersion, nil}, {stands, 1, nil}, {stands, 2, catalog.ErrVersion},
		{deleted, 0, nil}, {deleted, catalog.NoVersion, nil}, {deleted, catalog.AnyVersion, catalog.ErrVersion}, {deleted, 1, catalog.ErrVersion}, {deleted, 2, catalog.ErrVersion},
	} {
		for _, deleting := range []bool{false, true} {
			if deleting && tt.before != stands {
				continue // see deleteNothing
			}
			n++
			p := product("demo", n)
			var standing catalog.Product
			if tt.before >= stands {
				standing = putProducts(t, s, putOf(p, 0))[0].Product
			}
			if tt.before == deleted {
				putProducts(t, s, deletion(p, 0, time.Minute))
				standing = catalog.Product{}
			}
			p.Price.Amount++
			put := putOf(p, tt.ifVersion)
			if deleting {
				put = deletion(p, tt.ifVersion, time.Hour)
			}
			results, errs, err := s.Put(t.Context(), []catalog.Put{put})
			if err != nil || !errors.Is(errs[0], tt.want) || (errs[0] == nil) != (tt.want == nil) {
				t.Errorf("%+v, deleting %v: errors %v, %v", tt, deleting, errs, err)
				continue
			}
			if got := results[0]; tt.want == nil && (!got.Changed || got.Product.Version != int64(tt.before)+1) {
				t.Errorf("%+v, deleting %v: %+v", tt, deleting, got)
			} else if diff := cmp.Diff(catalog.PutResult{Product: standing}, got); tt.want != nil && diff != "" {
				t.Errorf("%+v, deleting %v: the result of the refused differs (-want +got):\n%s", tt, deleting, diff)
			}
		}
	}
}

func deleteInBatch(t *testing.T, s CatalogStore, _ audit.Store) {
	p := product("demo", 1)
	puts := []catalog.Put{putOf(p, catalog.NoVersion), deletion(p, 1, 0), deletion(p, 0, 0), putOf(p, catalog.AnyVersion), putOf(p, catalog.NoVersion), putOf(p, 3), deletion(p, 3, 0)}
	results, errs, err := s.Put(t.Context(), puts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, r := range results {
		got = append(got, fmt.Sprint(r.Product.Version, r.Product.Change, r.Created, r.Changed, errs[i]))
	}
	want := []string{"1 1 true true <nil>", "2 1 false true <nil>", fmt.Sprint("0 0 false false ", catalog.ErrNotFound), fmt.Sprint("0 0 false false ", catalog.ErrVersion),
		"3 1 true true <nil>", "3 1 false false <nil>", "4 1 false true <nil>"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("version, change, created, changed and error differ (-want +got):\n%s", diff)
	}
	wantGone(t, s, p)
	wantVersions(t, s, map[string]int64{"demo": 1})
}

func deleteAudit(t *testing.T, s CatalogStore, log audit.Store) {
	before := putProducts(t, s, putOf(fullProduct(), 0))[0].Product
	putProducts(t, s, deletion(before, 0, time.Hour))
	created, err := catalog.PutEntry(nil, &before, monday, ann)
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := catalog.DeleteEntry(&before, monday.Add(time.Hour), bob)
	if err != nil {
		t.Fatal(err)
	}
	if deleted.Action != "product.delete" || deleted.Object != "product/"+before.SKU || deleted.Before == nil || deleted.After != nil {
		t.Errorf("the entry of a deletion is %+v", deleted)
	}
	wantEntries(t, log, audit.Query{TenantID: "demo"}, deleted, created)
}
