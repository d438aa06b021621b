package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/place"
)

// taker is a place.Store that takes everything.
type taker struct {
	place.Store
	change int64
}

func (s *taker) Put(_ context.Context, p place.Put) ([]place.PutResult, error) {
	s.change++
	results := make([]place.PutResult, len(p.Places))
	for i, one := range p.Places {
		one.Version, one.Change, one.UpdatedAt = 1, s.change, p.Now
		results[i] = place.PutResult{Place: one, Created: true, Changed: true}
	}
	return results, nil
}

// imported returns the places as they are served once all have been put.
func imported(t *testing.T) *place.Service {
	t.Helper()
	index := place.NewIndex(func(p *place.Place, language, name string) []byte {
		return fmt.Appendf(nil, `{"id":%d,"language":%q,"name":%q}`, p.ID, language, name)
	})
	service, err := place.New(place.Options{Store: &taker{}, Index: index})
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(Places(), place.MaxPuts) {
		_, errs, err := service.Put(t.Context(), place.Put{Places: part, TenantID: "demo"})
		if err := errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
	}
	return service
}

func TestEveryDemoPlaceIsTakenAndFoundByItsNames(t *testing.T) {
	service := imported(t)
	for _, p := range Places() {
		for _, language := range slices.Sorted(maps.Keys(p.Names)) {
			l, err := service.Get(t.Context(), p.ID, []string{language})
			if err != nil || l.Name != p.Names[language] || l.Key.Language != language {
				t.Fatalf("%d in %s: %+v, %v", p.ID, language, l, err)
			}
			found, err := service.Search(t.Context(), place.Query{Prefix: p.Names[language], CountryCode: p.CountryCode, Languages: []string{language}, Limit: 100})
			if err != nil || !slices.Contains(found, l) {
				t.Errorf("%d is not found by %q in %s: %d others, %v", p.ID, p.Names[language], language, len(found), err)
			}
		}
	}
}

func TestTheDemoFindsTheWorldsCities(t *testing.T) {
	service := imported(t)
	for _, c := range []struct{ prefix, language, want string }{
		{"berlin", "de", "Berlin"},
		{"munch", "de", "München"},
		{"munic", "en", "Munich"},
		{"munic", "de", "München"},
		{"sao paulo", "fr", "São Paulo"},
		{"東京", "ja", "東京"},
		{"東", "ja", "東ティモール"},
		{"моск", "ru", "Москва"},
		{"lodz", "en", "Łódź"},
		{"saint-d", "en", "Saint-Denis"},
		{"deutschl", "de", "Deutschland"},
	} {
		found, err := service.Search(t.Context(), place.Query{Prefix: c.prefix, Languages: []string{c.language}, Limit: 1})
		if err != nil || len(found) != 1 || found[0].Name != c.want {
			t.Errorf("%q in %s: %+v, %v; want %s", c.prefix, c.language, found, err, c.want)
		}
	}
}

func TestTheDemoIsAllCountriesAndAFewCities(t *testing.T) {
	countries, cities := map[string]bool{}, map[string]int{}
	languages := []string{"ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh"}
	for _, p := range Places() {
		if p.Kind == place.City {
			cities[p.CountryCode]++
			if !p.Located || p.Names["en"] == "" {
				t.Errorf("%+v", p)
			}
			continue
		}
		countries[p.CountryCode] = true
		if diff := cmp.Diff(languages, slices.Sorted(maps.Keys(p.Names))); diff != "" {
			t.Errorf("%s: languages (-want +got):\n%s", p.CountryCode, diff)
		}
	}
	if len(countries) != 250 || len(cities) != 246 || len(Places()) != 1750 {
		t.Errorf("%d countries, cities in %d of them, %d places", len(countries), len(cities), len(Places()))
	}
	for code := range cities {
		if !countries[code] {
			t.Errorf("cities lie in %s, which is no country", code)
		}
	}
	if len(places) > 150<<10 {
		t.Errorf("the file has %d bytes, which every binary carries", len(places))
	}
}

func TestEachCallerHasPlacesOfItsOwn(t *testing.T) {
	Places()[0].Names["en"] = "spoilt"
	if Places()[0].Names["en"] == "spoilt" {
		t.Error("what one caller changed, another sees")
	}
}
