package place

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world is a service that knows a few places.
func world(t *testing.T) *Service {
	t.Helper()
	s, _ := newService(t, &memory{})
	country := func(id int64, code string, names ...string) Place {
		return Place{ID: id, Kind: Country, CountryCode: code, Names: pairs(names)}
	}
	city := func(id int64, code string, population int64, names ...string) Place {
		return Place{ID: id, Kind: City, CountryCode: code, Population: population, Names: pairs(names)}
	}
	put(t, s,
		country(276, "DE", "en", "Germany", "de", "Deutschland", "fr", "Allemagne", "ja", "ドイツ", "ar", "ألمانيا"),
		country(250, "FR", "en", "France", "de", "Frankreich", "ja", "フランス"),
		country(392, "JP", "en", "Japan", "de", "Japan", "ja", "日本"),
		country(300, "GR", "el", "Ελλάδα", "en", "Greece"),
		city(1, "DE", 3_426_354, "en", "Berlin"),
		city(2, "US", 10_000, "en", "Berlin"),
		city(3, "US", 10_000, "en", "Berlin"), // as large as the other
		city(4, "DE", 1_260_391, "en", "Munich", "de", "München"),
		city(5, "FR", 96_128, "en", "Saint-Denis"),
		city(6, "RE", 137_195, "en", "Saint-Denis"),
		city(7, "IT", 70_000, "en", "L’Aquila"),
		city(8, "PL", 768_755, "en", "Łódź"),
		city(9, "JP", 8_336_599, "en", "Tokyo", "ja", "東京", "de", "Tokio"),
		city(10, "RU", 10_381_222, "ru", "Москва", "en", "Moscow", "de", "Moskau"),
		city(11, "BR", 10_021_295, "en", "São Paulo"),
		city(12, "BE", 35_000, "nl", "Bergen", "fr", "Mons"), // in no default language
		city(13, "IS", 600, "is", "Þórshöfn"),
	)
	return s
}

func pairs(names []string) map[string]string {
	out := map[string]string{}
	for i := 0; i < len(names); i += 2 {
		out[names[i]] = names[i+1]
	}
	return out
}

// shown is how places look in a table: id, language, name.
func shown(found []*Localized) []string {
	out := []string{}
	for _, l := range found {
		out = append(out, fmt.Sprintf("%d %s %s", l.Key.ID, l.Key.Language, l.Name))
	}
	return out
}

func TestPlacesAreFoundByHowTheirNamesBegin(t *testing.T) {
	s := world(t)
	for _, c := range []struct {
		name string
		q    Query
		want []string
	}{
		{"the larger first, then by id", Query{Prefix: "ber"}, []string{"1 en Berlin", "2 en Berlin", "3 en Berlin"}},
		{"by one letter", Query{Prefix: "b"}, []string{"1 en Berlin", "2 en Berlin", "3 en Berlin"}},
		{"by the whole name", Query{Prefix: "berlin"}, []string{"1 en Berlin", "2 en Berlin", "3 en Berlin"}},
		{"not by more than the name", Query{Prefix: "berliner"}, []string{}},
		{"not by the middle of a name", Query{Prefix: "erlin"}, []string{}},
		{"no more than asked for", Query{Prefix: "ber", Limit: 2}, []string{"1 en Berlin", "2 en Berlin"}},
		{"whatever the case", Query{Prefix: "BERL", Limit: 1}, []string{"1 en Berlin"}},
		{"without the diacritics", Query{Prefix: "sao p"}, []string{"11 en São Paulo"}},
		{"with the diacritics", Query{Prefix: "São P"}, []string{"11 en São Paulo"}},
		{"with other diacritics", Query{Prefix: "sāo"}, []string{"11 en São Paulo"}},
		{"letters that are no diacritics", Query{Prefix: "lodz"}, []string{"8 en Łódź"}},
		{"a dash as a dash", Query{Prefix: "saint-d"}, []string{"6 en Saint-Denis", "5 en Saint-Denis"}},
		{"a dash as a space", Query{Prefix: "Saint d"}, []string{"6 en Saint-Denis", "5 en Saint-Denis"}},
		{"a space at the end", Query{Prefix: "saint "}, []string{"6 en Saint-Denis", "5 en Saint-Denis"}},
		{"an apostrophe", Query{Prefix: "l'aq"}, []string{"7 en L’Aquila"}},
		{"no apostrophe", Query{Prefix: "laq"}, []string{"7 en L’Aquila"}},
		{"in the language that is asked for", Query{Prefix: "mün", Languages: []string{"de"}}, []string{"4 de München"}},
		{"in its parent", Query{Prefix: "mün", Languages: []string{"de-AT"}}, []string{"4 de München"}},
		{"in the default language, shown in the one asked for", Query{Prefix: "munic", Languages: []string{"de"}}, []string{"4 de München"}},
		{"not in others", Query{Prefix: "münch", Languages: []string{"fr"}}, []string{}},
		{"a place with two names that begin so is there once", Query{Prefix: "mun", Languages: []string{"de", "en"}}, []string{"4 de München"}},
		{"in the better language although found by the other", Query{Prefix: "moscow", Languages: []string{"ru", "de"}}, []string{"10 ru Москва"}},
		{"countries before cities, of all languages together", Query{Prefix: "m", Languages: []string{"de", "ru"}}, []string{"10 de Moskau", "4 de München"}},
		{"a country before a city that is larger", Query{Prefix: "j", Languages: []string{"de"}}, []string{"392 de Japan"}},
		{"Han", Query{Prefix: "東", Languages: []string{"ja"}}, []string{"9 ja 東京"}},
		{"kana", Query{Prefix: "ドイ", Languages: []string{"ja"}}, []string{"276 ja ドイツ"}},
		{"Cyrillic", Query{Prefix: "МОСК", Languages: []string{"ru"}}, []string{"10 ru Москва"}},
		{"Greek without its accent", Query{Prefix: "ελλαδα", Languages: []string{"el"}}, []string{"300 el Ελλάδα"}},
		{"Arabic without its hamza", Query{Prefix: "المان", Languages: []string{"ar"}}, []string{"276 ar ألمانيا"}},
		{"Icelandic", Query{Prefix: "thorsh", Languages: []string{"is"}}, []string{"13 is Þórshöfn"}},
		{"what is no name", Query{Prefix: "'"}, []string{}},
		{"of a country", Query{Prefix: "ber", CountryCode: "US"}, []string{"2 en Berlin", "3 en Berlin"}},
		{"of a country, the country itself", Query{Prefix: "d", CountryCode: "DE", Languages: []string{"de"}}, []string{"276 de Deutschland"}},
		{"of a country, by any of the languages", Query{Prefix: "mun", CountryCode: "DE", Languages: []string{"de"}}, []string{"4 de München"}},
		{"of a country without places", Query{Prefix: "ber", CountryCode: "ZZ"}, []string{}},
		{"cities alone", Query{Prefix: "m", Kind: City, Languages: []string{"en"}}, []string{"10 en Moscow", "4 en Munich"}},
		{"cities alone, where only countries are called so", Query{Prefix: "g", Kind: City}, []string{}},
		{"countries alone", Query{Prefix: "f", Kind: Country}, []string{"250 en France"}},
		{"countries alone, by the name in another language", Query{Prefix: "german", Kind: Country, Languages: []string{"fr"}}, []string{"276 fr Allemagne"}},
		{"by nothing: countries, then the largest", Query{Limit: 6}, []string{"250 en France", "276 en Germany", "300 en Greece", "392 en Japan", "10 en Moscow", "11 en São Paulo"}},
		{"by nothing, countries", Query{Kind: Country, Limit: 100}, []string{"250 en France", "276 en Germany", "300 en Greece", "392 en Japan"}},
		{"by nothing, cities", Query{Kind: City, Limit: 2}, []string{"10 en Moscow", "11 en São Paulo"}},
		{"by nothing, of a country", Query{CountryCode: "DE", Languages: []string{"de"}}, []string{"276 de Deutschland", "1 en Berlin", "4 de München"}},
		{"by nothing, cities of a country", Query{CountryCode: "DE", Kind: City, Limit: 1}, []string{"1 en Berlin"}},
		{"by nothing, a country", Query{CountryCode: "JP", Kind: Country}, []string{"392 en Japan"}},
		{"in any language if it lacks them all", Query{CountryCode: "BE"}, []string{"12 fr Mons"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := s.Search(t.Context(), c.q)
			if diff := cmp.Diff(c.want, shown(found)); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestAQueryThatMakesNoSenseIsRefused(t *testing.T) {
	s := world(t)
	for _, c := range []struct {
		name  string
		q     Query
		field string
		says  string
	}{
		{"a long prefix", Query{Prefix: strings.Repeat("ü", 101)}, "prefix", "101 characters"},
		{"a prefix that is not UTF-8", Query{Prefix: "\xff"}, "prefix", "UTF-8"},
		{"a country in lower case", Query{CountryCode: "de"}, "country", `"de"`},
		{"a kind that is none", Query{Kind: "river"}, "kind", `"river"`},
		{"a limit below nothing", Query{Limit: -1}, "limit", "1 to 100"},
		{"a large limit", Query{Limit: 101}, "limit", "1 to 100"},
	} {
		found, err := s.Search(t.Context(), c.q)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != c.field || !strings.Contains(invalid.Detail, c.says) {
			t.Errorf("%s: %v, %v", c.name, found, err)
		}
	}
	if found, err := s.Search(t.Context(), Query{Prefix: strings.Repeat("ü", 100)}); err != nil || len(found) > 0 {
		t.Errorf("a prefix at its bound: %v, %v", found, err)
	}
}

// TestLanguagesThatShareACharacterAreNotMixedUp has names in two languages that stand
// together in the index.
func TestLanguagesThatShareACharacterAreNotMixedUp(t *testing.T) {
	const one = "de-x-a0"
	other := ""
	for i := 1; other == ""; i++ {
		if tag := fmt.Sprintf("de-x-a%d", i); searchKey(tag, "") == searchKey(one, "") {
			other = tag
		}
	}
	s, _ := newService(t, &memory{})
	put(t, s,
		Place{ID: 1, Kind: City, CountryCode: "DE", Names: map[string]string{one: "Aachen"}},
		Place{ID: 2, Kind: City, CountryCode: "DE", Names: map[string]string{other: "Aalen"}})
	for _, c := range []struct{ language, want string }{{one, "1 " + one + " Aachen"}, {other, "2 " + other + " Aalen"}} {
		found, err := s.Search(t.Context(), Query{Prefix: "a", Languages: []string{c.language}})
		if diff := cmp.Diff([]string{c.want}, shown(found)); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", c.language, err, diff)
		}
	}
}

// TestBothWaysOfSearchingFindTheSame searches a country that is too large to be looked
// at one by one, and compares with looking at everything.
func TestBothWaysOfSearchingFindTheSame(t *testing.T) {
	x := NewIndex(render)
	var all []Place
	const syllables = "baceditokulamire"
	for i := range 3 * fewPlaces {
		name := ""
		for n := i*7919 + 1; n > 0; n /= 8 {
			name += syllables[n%8*2 : n%8*2+2]
		}
		p := Place{ID: int64(i + 1), Kind: City, CountryCode: "AA", Population: int64(i * 31 % 1000), Names: map[string]string{"en": name}, Change: 1, Version: 1}
		if i%3 == 0 {
			p.CountryCode = "BB"
		}
		if i%5 == 0 {
			p.Names["de"] = "b" + name
		}
		all = append(all, p)
	}
	if err := x.Load(func(add func([]Place)) error { add(all); return nil }); err != nil {
		t.Fatal(err)
	}
	chain := []string{"de", "en"}
	for _, prefix := range []string{"b", "ba", "bac", "ceba", "dibato", "zz"} {
		for _, country := range []string{"", "AA", "BB"} {
			q := Query{CountryCode: country, Limit: 50}
			want := shown(x.live.Load().searchRegion(&q, region{country: country}, prefix, chain))
			if diff := cmp.Diff(want, shown(x.live.Load().searchNames(&q, prefix, chain))); diff != "" {
				t.Errorf("%q in %q (-one by one +by name):\n%s", prefix, country, diff)
			}
			q.Prefix = prefix
			if diff := cmp.Diff(want, shown(x.live.Load().search(&q, chain))); diff != "" {
				t.Errorf("%q in %q (-one by one +as chosen):\n%s", prefix, country, diff)
			}
		}
	}
}
