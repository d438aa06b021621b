package demo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/catalog"
)

// taker is a catalog.Store that takes everything.
type taker struct{ catalog.Store }

func (taker) Put(_ context.Context, puts []catalog.Put) ([]catalog.PutResult, []error, error) {
	return make([]catalog.PutResult, len(puts)), make([]error, len(puts)), nil
}

func TestTheCatalogTakesEveryDemoProduct(t *testing.T) {
	var puts []catalog.Put
	for _, p := range Products() {
		p.TenantID = "demo"
		puts = append(puts, catalog.Put{Product: p, IfVersion: -1})
	}
	service, err := catalog.New(catalog.Options{Store: taker{}})
	if err != nil {
		t.Fatal(err)
	}
	_, errs, err := service.Put(t.Context(), puts)
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Error(err)
	}
}

func TestTheDemoIsASmallShopInTwoLanguages(t *testing.T) {
	skus, categories := map[string]bool{}, map[string]bool{}
	for _, p := range Products() {
		skus[p.SKU], categories[p.Category] = true, true
		languages := []string{"de", "en"}
		if diff := cmp.Diff([][]string{languages, languages}, [][]string{slices.Sorted(maps.Keys(p.Names)), slices.Sorted(maps.Keys(p.Descriptions))}); diff != "" {
			t.Errorf("%s: languages (-want +got):\n%s", p.SKU, diff)
		}
		if !p.Active || p.Price.Currency != Currency {
			t.Errorf("%s: active %v, price in %s", p.SKU, p.Active, p.Price.Currency)
		}
	}
	if len(skus) != 12 || len(categories) != 3 {
		t.Errorf("%d products in %d categories", len(skus), len(categories))
	}
	stock := Stock()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(skus)), slices.Sorted(maps.Keys(stock))); diff != "" {
		t.Errorf("SKUs with stock (-products +stock):\n%s", diff)
	}
	for sku, n := range stock {
		if sku == Scarce && n != 10 || sku != Scarce && (n < 100 || n > 1000) {
			t.Errorf("%d of %s", n, sku)
		}
	}
}

func TestEachCallerHasADemoOfItsOwn(t *testing.T) {
	Products()[0].Names["en"] = "spoilt"
	Stock()[Scarce] = 0
	if Products()[0].Names["en"] == "spoilt" || Stock()[Scarce] != 10 {
		t.Error("what one caller changed, another sees")
	}
}
