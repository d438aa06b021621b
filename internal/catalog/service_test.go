package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/currency"

	"millrace/internal/audit"
)

// by is who puts.
var by = audit.Actor{Subject: "ann", Method: "jwt", RequestID: "r1"}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// memory is a Store that keeps what it is given, and answers what it is told to.
type memory struct {
	Store
	puts []Put
	errs map[string]error // by SKU
	err  error
}

func (m *memory) Put(_ context.Context, puts []Put) ([]PutResult, []error, error) {
	if m.err != nil {
		return nil, nil, m.err
	}
	m.puts = append(m.puts, puts...)
	results, errs := make([]PutResult, len(puts)), make([]error, len(puts))
	for i, p := range puts {
		results[i], errs[i] = PutResult{Product: p.Product, Changed: true}, m.errs[p.Product.SKU]
	}
	return results, errs, nil
}

func (m *memory) Product(_ context.Context, tenantID, sku string) (Product, error) {
	return Product{TenantID: tenantID, SKU: sku}, nil
}

func (m *memory) Products(context.Context, Query) (ProductPage, error) {
	return ProductPage{Next: "more"}, nil
}

func (m *memory) Prices(_ context.Context, _, _ string, limit int) ([]Price, error) {
	return make([]Price, limit), nil
}

func newService(m *memory) *Service {
	s, err := New(Options{Store: m, Now: func() time.Time { return noon }})
	if err != nil {
		panic(err)
	}
	return s
}

func tee() Product {
	return Product{TenantID: "demo", SKU: "tee-black.M_1", Names: map[string]string{"en": "Tee"}, Price: Money{Amount: 1999, Currency: "EUR"}, Active: true}
}

// nested returns a JSON object that is nested n deep.
func nested(n int) json.RawMessage {
	return json.RawMessage(`{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`)
}

func TestProductsThatAreRefused(t *testing.T) {
	many := map[string]string{}
	for i := range 101 {
		many[fmt.Sprintf("x-a%05d", i)] = "x"
	}
	for _, tt := range []struct {
		name, field, want string
		change            func(*Product)
	}{
		{"no tenant", "tenantId", "missing", func(p *Product) { p.TenantID = "" }},
		{"no SKU", "sku", `"" is not a SKU`, func(p *Product) { p.SKU = "" }},
		{"a long SKU", "sku", "1 to 64", func(p *Product) { p.SKU = strings.Repeat("x", 65) }},
		{"a SKU with a slash", "sku", `"a/b"`, func(p *Product) { p.SKU = "a/b" }},
		{"a SKU with a letter beyond ASCII", "sku", "A-Z", func(p *Product) { p.SKU = "größe" }},
		{"a SKU with NUL", "sku", `"a\x00"`, func(p *Product) { p.SKU = "a\x00" }},
		{"a SKU that is a place in an address", "sku", `".."`, func(p *Product) { p.SKU = ".." }},
		{"no name", "names", "at least one", func(p *Product) { p.Names = map[string]string{} }},
		{"an empty name", "names.en", "empty", func(p *Product) { p.Names["en"] = "" }},
		{"a blank name", "names.en", "empty", func(p *Product) { p.Names["en"] = " \u00a0" }},
		{"a long name", "names.en", "201 characters", func(p *Product) { p.Names["en"] = strings.Repeat("ü", 201) }},
		{"a name with NUL", "names.en", "NUL character at byte 1", func(p *Product) { p.Names["en"] = "a\x00" }},
		{"a name that is not UTF-8", "names.en", "not valid UTF-8", func(p *Product) { p.Names["en"] = "a\xff" }},
		{"a name with a line break", "names.en", "control character at byte 1", func(p *Product) { p.Names["en"] = "a\nb" }},
		{"a second name that is bad", "names.de", "empty", func(p *Product) { p.Names["de"] = "" }},
		{"a language that is none", "names", `"english please" is not a language`, func(p *Product) { p.Names["english please"] = "x" }},
		{"no language", "names", `"" is not a language`, func(p *Product) { p.Names[""] = "x" }},
		{"an undetermined language", "names", `"und" is not a language`, func(p *Product) { p.Names["und"] = "x" }},
		{"a language with NUL", "names", `"en\x00" is not a language`, func(p *Product) { p.Names["en\x00"] = "x" }},
		{"one language twice", "names", "the language en, which is there already", func(p *Product) { p.Names["EN"] = "x" }},
		{"too many languages", "names", "101 languages", func(p *Product) { p.Names = many }},
		{"a long description", "descriptions.de", "10001 characters", func(p *Product) { p.Descriptions = map[string]string{"de": strings.Repeat("ü", 10_001)} }},
		{"a description with NUL", "descriptions.de", "NUL", func(p *Product) { p.Descriptions = map[string]string{"de": "\x00"} }},
		{"a description that is not UTF-8", "descriptions.de", "UTF-8", func(p *Product) { p.Descriptions = map[string]string{"de": "\xc3"} }},
		{"a price of nothing", "price.amount", "from 1 to", func(p *Product) { p.Price.Amount = 0 }},
		{"a price below nothing", "price.amount", "-1 is out of range", func(p *Product) { p.Price.Amount = -1 }},
		{"a price beyond reason", "price.amount", "to 1000000000000", func(p *Product) { p.Price.Amount = 1_000_000_000_001 }},
		{"no currency", "price.currency", `"" is not a currency`, func(p *Product) { p.Price.Currency = "" }},
		{"a currency in lower case", "price.currency", `"eur"`, func(p *Product) { p.Price.Currency = "eur" }},
		{"a currency that is none", "price.currency", `"EUX"`, func(p *Product) { p.Price.Currency = "EUX" }},
		{"two halves of currencies", "price.currency", `"D A"`, func(p *Product) { p.Price.Currency = "D A" }},
		{"a currency with NUL", "price.currency", `"EU\x00"`, func(p *Product) { p.Price.Currency = "EU\x00" }},
		{"a long category", "category", "101 characters", func(p *Product) { p.Category = strings.Repeat("x", 101) }},
		{"a category with NUL", "category", "NUL", func(p *Product) { p.Category = "a\x00b" }},
		{"a category that is not UTF-8", "category", "UTF-8", func(p *Product) { p.Category = "\xff" }},
		{"a slug in upper case", "slug", `"Black"`, func(p *Product) { p.Slug = "Black" }},
		{"a slug with a letter beyond ASCII", "slug", "a-z", func(p *Product) { p.Slug = "größe" }},
		{"a slug with a slash", "slug", "a-z", func(p *Product) { p.Slug = "a/b" }},
		{"a slug that begins with a dash", "slug", "both ends", func(p *Product) { p.Slug = "-a" }},
		{"a slug that ends with a dash", "slug", "both ends", func(p *Product) { p.Slug = "a-" }},
		{"a slug with two dashes", "slug", "no two -", func(p *Product) { p.Slug = "a--b" }},
		{"a long slug", "slug", "1 to 100", func(p *Product) { p.Slug = strings.Repeat("x", 101) }},
		{"a position that is too high", "position", "1000000001 is out of range", func(p *Product) { p.Position = 1_000_000_001 }},
		{"a position that is too low", "position", "from -1000000000", func(p *Product) { p.Position = -1_000_000_001 }},
		{"attributes that are no object", "attributes", "not a JSON object", func(p *Product) { p.Attributes = json.RawMessage(`[1]`) }},
		{"attributes that are no JSON", "attributes", "not a JSON object", func(p *Product) { p.Attributes = json.RawMessage(`{"a":}`) }},
		{"attributes and more", "attributes", "not a JSON object", func(p *Product) { p.Attributes = json.RawMessage(`{}{}`) }},
		{"attributes that are not UTF-8", "attributes", "UTF-8", func(p *Product) { p.Attributes = json.RawMessage("{\"a\":\"\xff\"}") }},
		{"attributes with NUL in a text", "attributes", "NUL", func(p *Product) { p.Attributes = json.RawMessage(`{"a":["\u0000"]}`) }},
		{"attributes with NUL in a name", "attributes", "NUL", func(p *Product) { p.Attributes = json.RawMessage(`{"\u0000":1}`) }},
		{"attributes that are too deep", "attributes", "deeper than 16", func(p *Product) { p.Attributes = nested(17) }},
		{"attributes that are too long", "attributes", "16385 bytes", func(p *Product) { p.Attributes = json.RawMessage(`{"a":"` + strings.Repeat("x", 16<<10-7) + `"}`) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &memory{}
			p := tee()
			tt.change(&p)
			good := tee()
			results, errs, err := newService(m).Put(t.Context(), []Put{{Product: p}, {Product: good}})
			var invalid *InvalidError
			if err != nil || !errors.As(errs[0], &invalid) || invalid.Field != tt.field || !strings.Contains(invalid.Detail, tt.want) {
				t.Errorf("got %v, error %v, want an *InvalidError about %s that says %q", errs[0], err, tt.field, tt.want)
			}
			if errs[1] != nil || !results[1].Changed || results[0].Changed || len(m.puts) != 1 {
				t.Errorf("the good one beside it: %v, %+v, %d put", errs[1], results, len(m.puts))
			}
		})
	}
}

func TestProductsAtTheirBoundsAreTaken(t *testing.T) {
	for name, change := range map[string]func(*Product){
		"a long SKU":         func(p *Product) { p.SKU = strings.Repeat("x", 64) },
		"a long name":        func(p *Product) { p.Names["en"] = strings.Repeat("ü", 200) },
		"a long description": func(p *Product) { p.Descriptions = map[string]string{"en": strings.Repeat("語", 10_000)} },
		"a high price":       func(p *Product) { p.Price.Amount = 1_000_000_000_000 },
		"a long category":    func(p *Product) { p.Category = strings.Repeat("ü", 100) },
		"a long slug":        func(p *Product) { p.Slug = strings.Repeat("x", 100) },
		"a short slug":       func(p *Product) { p.Slug = "0" },
		"a slug with dashes": func(p *Product) { p.Slug = "a-0-b" },
		"a high position":    func(p *Product) { p.Position = 1_000_000_000 },
		"a low position":     func(p *Product) { p.Position = -1_000_000_000 },
		"deep attributes":    func(p *Product) { p.Attributes = nested(16) },
		"long attributes":    func(p *Product) { p.Attributes = json.RawMessage(`{"a":"` + strings.Repeat("x", 16<<10-8) + `"}`) },
		"three dots":         func(p *Product) { p.SKU = "..." },
	} {
		p := tee()
		change(&p)
		if _, errs, err := newService(&memory{}).Put(t.Context(), []Put{{Product: p}}); err != nil || errs[0] != nil {
			t.Errorf("%s: %v, %v", name, errs, err)
		}
	}
}

func TestAProductIsKeptInCanonicalForm(t *testing.T) {
	p := tee()
	p.Names = map[string]string{"EN": "a", "de-at": "b", "zh-hant-tw": "c", "iw": "d", "en-latn-us": "e"}
	p.Descriptions = map[string]string{"PT-br": "Zeile 1\nZeile 2\t!"}
	p.Attributes = json.RawMessage(" {\"b\" : 1.50,\n \"a\": \"\\u00fc x\"} ")
	m := &memory{}
	if _, errs, err := newService(m).Put(t.Context(), []Put{{Product: p}}); err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	want := tee()
	want.Names = map[string]string{"en": "a", "de-AT": "b", "zh-Hant-TW": "c", "he": "d", "en-Latn-US": "e"}
	want.Descriptions = map[string]string{"pt-BR": "Zeile 1\nZeile 2\t!"}
	want.Attributes = json.RawMessage(`{"b":1.50,"a":"\u00fc x"}`)
	if diff := cmp.Diff(Put{Product: want, Now: noon}, m.puts[0]); diff != "" {
		t.Errorf("put (-want +got):\n%s", diff)
	}
	for _, empty := range []string{"", "null", " {} "} {
		p.Attributes, p.Descriptions = json.RawMessage(empty), map[string]string{}
		if _, errs, err := newService(m).Put(t.Context(), []Put{{Product: p}}); err != nil || errs[0] != nil {
			t.Fatal(errs, err)
		}
		if got := m.puts[len(m.puts)-1].Product; got.Attributes != nil || got.Descriptions != nil {
			t.Errorf("attributes %q are kept as %q, no descriptions as %v", empty, got.Attributes, got.Descriptions)
		}
	}
	if _, there := p.Names["EN"]; !there {
		t.Error("the caller's map was changed")
	}
}

func TestEachPutHasItsOwnOutcome(t *testing.T) {
	m := &memory{errs: map[string]error{"stale": ErrVersion}}
	a, stale, bad := tee(), tee(), tee()
	stale.SKU, bad.SKU = "stale", "/"
	later := noon.Add(time.Hour)
	results, errs, err := newService(m).Put(t.Context(), []Put{{Product: bad}, {Product: stale, IfVersion: 3}, {Product: a, IfVersion: NoVersion, Now: later}, {Product: a, IfVersion: -3}})
	if err != nil || len(results) != 4 || errs[0] == nil || !errors.Is(errs[1], ErrVersion) || errs[2] != nil || results[2].Product.SKU != a.SKU {
		t.Errorf("%+v, %v, %v", results, errs, err)
	}
	var invalid *InvalidError
	if !errors.As(errs[3], &invalid) || invalid.Field != "version" {
		t.Errorf("a version that is none: %v", errs[3])
	}
	if diff := cmp.Diff([]Put{{Product: stale, IfVersion: 3, Now: noon}, {Product: a, IfVersion: NoVersion, Now: later}}, m.puts); diff != "" {
		t.Errorf("puts (-want +got):\n%s", diff)
	}
	m.err = errors.New("the disk is full")
	if _, _, err := newService(m).Put(t.Context(), []Put{{Product: a}}); !errors.Is(err, m.err) {
		t.Errorf("error %v, want the store's", err)
	}
	if _, errs, err := newService(m).Put(t.Context(), []Put{{Product: bad}}); err != nil || errs[0] == nil {
		t.Errorf("the store was asked to put nothing: %v, %v", errs, err)
	}
	if _, _, err := newService(m).Put(t.Context(), make([]Put, MaxPuts+1)); !errors.As(err, &invalid) || invalid.Field != "products" {
		t.Errorf("too many: error %v", err)
	}
}

func TestADeletionNeedsOnlyTheKey(t *testing.T) {
	m := &memory{}
	gone := Product{TenantID: "demo", SKU: "a", Deleted: true}
	of := func(change func(*Product)) Put {
		p := gone
		change(&p)
		return Put{Product: p, IfVersion: AnyVersion}
	}
	_, errs, err := newService(m).Put(t.Context(), []Put{
		of(func(p *Product) { p.Names, p.Slug, p.Active = map[string]string{"": ""}, "--", true }),
		of(func(p *Product) { p.TenantID = "" }),
		of(func(p *Product) { p.SKU = "/" }),
	})
	var invalid *InvalidError
	if err != nil || errs[0] != nil || !errors.As(errs[1], &invalid) || invalid.Field != "tenantId" || !errors.As(errs[2], &invalid) || invalid.Field != "sku" {
		t.Errorf("errors %v, %v", errs, err)
	}
	if diff := cmp.Diff([]Put{{Product: gone, IfVersion: AnyVersion, Now: noon}}, m.puts); diff != "" {
		t.Errorf("puts (-want +got):\n%s", diff)
	}
}

func TestWhatCannotBeASKUIsNotFound(t *testing.T) {
	s := newService(&memory{})
	for _, sku := range []string{"", "a b", "..", "\x00", strings.Repeat("x", 65)} {
		_, getErr := s.Get(t.Context(), "demo", sku)
		_, pricesErr := s.Prices(t.Context(), "demo", sku, 1)
		if !errors.Is(getErr, ErrNotFound) || !errors.Is(pricesErr, ErrNotFound) {
			t.Errorf("%q: %v, %v", sku, getErr, pricesErr)
		}
	}
	if p, err := s.Get(t.Context(), "demo", "a"); p.SKU != "a" || err != nil {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := s.Prices(t.Context(), "demo", "a", 2); len(p) != 2 || err != nil {
		t.Errorf("%+v, %v", p, err)
	}
	var invalid *InvalidError
	if _, err := s.List(t.Context(), Query{TenantID: "demo", Category: "a\x00", Limit: 1}); !errors.As(err, &invalid) || invalid.Field != "category" {
		t.Errorf("a category with NUL: %v", err)
	}
	if page, err := s.List(t.Context(), Query{TenantID: "demo", Category: "a", Limit: 1}); page.Next != "more" || err != nil {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestCurrenciesAreThoseOfTheStandard(t *testing.T) {
	// What the table has and the library is too old to know, or the other way round.
	newer := map[string]bool{"MRU": true, "VES": true, "SLE": true, "VED": true, "XCG": true, "ZWG": true}
	for _, code := range strings.Fields(currencies) {
		if _, err := currency.ParseISO(code); err != nil && !newer[code] {
			t.Errorf("%s is not known elsewhere: %v", code, err)
		}
	}
	old := map[string]bool{"MRO": true, "VEF": true, "ANG": true, "BGN": true, "CUC": true, "HRK": true, "SLL": true, "ZWL": true}
	funds := map[string]bool{"BOV": true, "CHE": true, "CHW": true, "CLF": true, "COU": true, "MXV": true, "USN": true, "UYI": true}
	for it := currency.Query(currency.Date(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))); it.Next(); {
		if code := it.Unit().String(); !knownCurrency(code) && !old[code] && !funds[code] {
			t.Errorf("%s of %s is not in the table", code, it.Region())
		}
	}
	for _, code := range []string{"XXX", "XTS", "XAU", "XDR", "DEM", "ED ", " AF", "AEDA", "AED AFN", "eur"} {
		if knownCurrency(code) {
			t.Errorf("%q is taken for a currency", code)
		}
	}
}

func TestTheAuditEntryOfAPutShowsBothSides(t *testing.T) {
	after := tee()
	after.Version, after.Attributes = 2, json.RawMessage(`{"size":"M"}`)
	before := tee()
	before.Version, before.Price.Amount, before.Descriptions, before.Category = 1, 2999, map[string]string{"en": "<b>"}, "shirts"
	e, err := PutEntry(&before, &after, noon, by)
	if err != nil {
		t.Fatal(err)
	}
	if e.TenantID != "demo" || e.Action != "product.put" || e.Object != "product/tee-black.M_1" || e.Actor != by || !e.At.Equal(noon) {
		t.Errorf("entry %+v", e)
	}
	const was = `{"names":{"en":"Tee"},"descriptions":{"en":"\u003cb\u003e"},"price":{"amount":2999,"currency":"EUR"},"category":"shirts","active":true,"version":1}`
	const is = `{"names":{"en":"Tee"},"price":{"amount":1999,"currency":"EUR"},"category":"","attributes":{"size":"M"},"active":true,"version":2}`
	if diff := cmp.Diff([]string{was, is}, []string{string(e.Before), string(e.After)}); diff != "" {
		t.Errorf("before and after (-want +got):\n%s", diff)
	}
	if e, err := PutEntry(nil, &after, noon, by); e.Before != nil || err != nil {
		t.Errorf("of a new product: before %s, error %v", e.Before, err)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add(`{"a":[1,{"b":"\u0000"}]}`)
	f.Add(` {"a" : 1e999, "a":2 } `)
	f.Fuzz(func(t *testing.T, text string) {
		kept, err := checkAttributes(json.RawMessage(text))
		if err != nil || kept == nil {
			return
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(kept, &object) != nil || len(kept) > maxAttributesBytes {
			t.Errorf("%q is kept as %q, which is not a short JSON object", text, kept)
		}
		if again, err := checkAttributes(kept); err != nil || string(again) != string(kept) {
			t.Errorf("%q is kept as %q, and that as %q, error %v", text, kept, again, err)
		}
	})
}
