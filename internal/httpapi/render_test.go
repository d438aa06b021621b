package httpapi

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/catalog"
	"millrace/internal/place"
)

// asJSON is v as encoding/json writes it, without escapes for HTML.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

func TestAProductIsRenderedAsItsSchemaSays(t *testing.T) {
	east := time.FixedZone("", 3600)
	for name, p := range map[string]catalog.Product{
		"the least": {SKU: "a", Names: map[string]string{"en": "A"}, Price: catalog.Money{Amount: 1, Currency: "EUR"}, Version: 1, CreatedAt: testNow, UpdatedAt: testNow},
		"all of it": {TenantID: "demo", SKU: "tee.black_M-1", Names: map[string]string{"en": "Tee \"M\" <b>&", "de": "Größe\tM", "zh-Hant": "黑色\u2028T恤"},
			Descriptions: map[string]string{"en": "a\nb\\c\x01", "ar": "قميص"}, Price: catalog.Money{Amount: 1_000_000_000_000, Currency: "JPY"},
			Category: "clothing/männer", Slug: "black-tee", Position: -17, Attributes: []byte(`{"a":[1,{"b":null}]}`), Active: true, Version: 1 << 40, Change: 9,
			CreatedAt: testNow.Add(time.Nanosecond).In(east), UpdatedAt: testNow.Add(time.Hour).In(east)},
		"empty texts": {SKU: "a", Names: map[string]string{}, Descriptions: map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := RenderProduct(&p)
			if diff := cmp.Diff(asJSON(t, showProduct(&p)), string(got)); diff != "" {
				t.Error(diff)
			}
			if cap(got) > 2*len(got)+64 {
				t.Errorf("%d bytes hold %d", len(got), cap(got))
			}
		})
	}
}

func TestAPlaceIsRenderedAsItsSchemaSays(t *testing.T) {
	for name, c := range map[string]struct {
		place          place.Place
		language, text string
		want           placeView
	}{
		"a country": {place.Place{ID: 276, Kind: place.Country, CountryCode: "DE", Names: map[string]string{"de": "Deutschland", "en": "Germany"}, Version: 3, UpdatedAt: testNow, Change: 7},
			"de", "Deutschland", placeView{ID: 276, Kind: "country", Language: "de", Name: "Deutschland", Country: "DE", Version: 3, UpdatedAt: testNow}},
		"a city": {place.Place{ID: 3040051, Kind: place.City, CountryCode: "AD", Admin: "08", Population: 15853, Latitude: 42.50729, Longitude: -1.53414, Located: true, Version: 1, UpdatedAt: testNow},
			"en", "les \"Escaldes\"", placeView{ID: 3040051, Kind: "city", Language: "en", Name: "les \"Escaldes\"", Country: "AD", Admin: "08", Population: 15853, Latitude: new(42.50729), Longitude: new(-1.53414), Version: 1, UpdatedAt: testNow}},
		"on the equator": {place.Place{ID: 1, Kind: place.City, CountryCode: "ST", Located: true, Version: 1, UpdatedAt: testNow},
			"pt", "Rolas", placeView{ID: 1, Kind: "city", Language: "pt", Name: "Rolas", Country: "ST", Latitude: new(0.0), Longitude: new(0.0), Version: 1, UpdatedAt: testNow}},
	} {
		t.Run(name, func(t *testing.T) {
			got := RenderPlace(&c.place, c.language, c.text)
			if diff := cmp.Diff(asJSON(t, c.want), string(got)); diff != "" {
				t.Error(diff)
			}
			if cap(got) > 2*len(got)+64 {
				t.Errorf("%d bytes hold %d", len(got), cap(got))
			}
		})
	}
}

func BenchmarkRender(b *testing.B) {
	p := catalog.Product{TenantID: "demo", SKU: "tee-black-m", Price: catalog.Money{Amount: 1999, Currency: "EUR"}, Category: "clothing", Active: true, Version: 3,
		Names: map[string]string{}, Descriptions: map[string]string{}, Attributes: []byte(`{"size":"M"}`), CreatedAt: testNow, UpdatedAt: testNow}
	for _, l := range []string{"en", "de", "fr", "es", "ja"} {
		p.Names[l], p.Descriptions[l] = "T-shirt, black, M", "A shirt that is black, of cotton that was grown without poison, and made to last for ten years."
	}
	b.Run("product in 5 languages", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			RenderProduct(&p)
		}
	})
	city := place.Place{ID: 3040051, Kind: place.City, CountryCode: "AD", Admin: "08", Population: 15853, Latitude: 42.50729, Longitude: 1.53414, Located: true, Version: 1, UpdatedAt: testNow}
	b.Run("place", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			RenderPlace(&city, "en", "les Escaldes")
		}
	})
}
