package memindex_test

import (
	"cmp"
	"fmt"
	"strings"

	"millrace/internal/memindex"
)

// A place in one language, as readers get it.
type place struct {
	key        placeKey
	name       string
	country    string
	population int
	version    int
	deleted    bool
}

type placeKey struct {
	id       int
	language string
}

func byPopulation(a, b *place) int {
	return cmp.Or(
		cmp.Compare(b.population, a.population),
		cmp.Compare(a.key.id, b.key.id),
		cmp.Compare(a.key.language, b.key.language),
	)
}

func Example() {
	places := memindex.New(func(p *place) placeKey { return p.key }, memindex.Options[place]{
		Name:       "places",
		Supersedes: func(old, next *place) bool { return next.version > old.version },
		Live:       func(p *place) bool { return !p.deleted },
	})
	byCountry := memindex.AddGroups(places,
		func(p *place, add func(string)) { add(p.country) }, byPopulation)
	byName := memindex.AddPrefixes(places,
		func(p *place, add func(string)) { add(strings.ToLower(p.name)) }, byPopulation)

	places.Put(
		&place{key: placeKey{1, "de"}, name: "Wien", country: "AT", population: 1_691_468, version: 1},
		&place{key: placeKey{2, "de"}, name: "Graz", country: "AT", population: 222_326, version: 1},
		&place{key: placeKey{3, "de"}, name: "Wiesbaden", country: "DE", population: 272_432, version: 1},
	)

	fmt.Println("id 2 in German:", places.Get(placeKey{2, "de"}).name)
	for p := range byCountry.All("AT") {
		fmt.Println("in Austria:", p.name)
	}
	for _, p := range byName.Top("wie", 10, nil) {
		fmt.Println("wie…:", p.name)
	}

	// States may come in any order: the deletion is newer than what comes after it.
	places.Put(&place{key: placeKey{2, "de"}, version: 3, deleted: true})
	changed := places.Put(&place{key: placeKey{2, "de"}, name: "Graz", country: "AT", version: 2})
	fmt.Println("changed by the older state:", changed, "- left in Austria:", byCountry.Len("AT"))
	// Output:
	// id 2 in German: Graz
	// in Austria: Wien
	// in Austria: Graz
	// wie…: Wien
	// wie…: Wiesbaden
	// changed by the older state: 0 - left in Austria: 1
}
