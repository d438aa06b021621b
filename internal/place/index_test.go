package place

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// readPlaces reads a file as import places takes it.
func readPlaces(t testing.TB, name string) []Place {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zr, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []Place
	for lines := bufio.NewScanner(zr); ; {
		if !lines.Scan() {
			if lines.Err() != nil {
				t.Fatal(lines.Err())
			}
			return out
		}
		var l struct {
			ID            int64
			Kind          Kind
			Code, Country string
			Admin         string
			Population    int64
			Lat, Lon      *float64
			Names         map[string]string
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		p := Place{ID: l.ID, Kind: l.Kind, CountryCode: l.Code + l.Country, Admin: l.Admin, Population: l.Population, Names: l.Names}
		if l.Lat != nil && l.Lon != nil {
			p.Latitude, p.Longitude, p.Located = *l.Lat, *l.Lon, true
		}
		if p, err = check(p); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		p.Version, p.Change = 1, int64(len(out)/250+1)
		out = append(out, p)
	}
}

// subset is the file that the demo ships.
func subset(t testing.TB) []Place { return readPlaces(t, "demo/places.ndjson.gz") }

// load loads places as a feed gives them: pages, from several goroutines.
func load(x *Index, places []Place) error {
	return x.Load(func(add func([]Place)) error {
		var wg sync.WaitGroup
		for page := range slices.Chunk(places, 2000) {
			wg.Go(func() { add(page) })
		}
		wg.Wait()
		return nil
	})
}

// at gives a place a version and the change that brought it.
func at(p Place, version, change int64) Place {
	p.Version, p.Change = version, change
	return p
}

// english is the place without its other names.
func english(p Place) Place {
	p.Names = map[string]string{"en": p.Names["en"]}
	return p
}

func TestAFileOfTheWorldIsLoaded(t *testing.T) {
	x, places := NewIndex(render), subset(t)
	if err := load(x, places); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range places {
		for language, name := range p.Names {
			n++
			l := x.live.Load().localized(p.ID, []string{language})
			if l == nil || l.Name != name || l.Key != (Key{p.ID, language}) || string(l.Body) != string(render(&p, language, name)) {
				t.Fatalf("%d in %s: %+v", p.ID, language, l)
			}
		}
	}
	stats := x.Stats()
	if stats.Records != n || stats.Live != n || stats.RecordBytes < int64(n)*100 || stats.IndexBytes <= 0 {
		t.Errorf("%d names: %+v", n, stats)
	}
}

func TestEachNameIsFoundWhileItIsTyped(t *testing.T) {
	for _, p := range subset(t) {
		for language, name := range p.Names {
			whole := fold(name)
			for i := range name {
				if typed := fold(name[:i]); strings.ContainsFunc(typed, unicode.IsLetter) && !strings.HasPrefix(whole, typed) {
					t.Errorf("%d in %s: %q is folded to %q, but %q to %q", p.ID, language, name, whole, name[:i], typed)
				}
			}
		}
	}
}

// TestWhatIsOlderChangesNothing applies the states of one place in each order.
func TestWhatIsOlderChangesNothing(t *testing.T) {
	states := []Place{at(munich(), 1, 3), at(english(munich()), 2, 5), at(Place{ID: munich().ID, Deleted: true}, 3, 8), at(english(munich()), 4, 9)}
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {3, 3, 0, 3}, {0, 3}, {2, 0, 3}} {
		x := NewIndex(render)
		for _, i := range order {
			x.Apply(states[i : i+1])
		}
		if l := x.live.Load().localized(munich().ID, []string{"de"}); l == nil || l.Key.Language != "en" || l.Place.Version != 4 {
			t.Errorf("%v: %+v", order, l)
		}
	}
	x := NewIndex(render)
	x.Apply([]Place{states[2], states[0]})
	if l := x.live.Load().localized(munich().ID, []string{"de"}); l != nil {
		t.Errorf("it is back after it was deleted: %+v", l)
	}
	x = NewIndex(render)
	x.Apply([]Place{at(english(munich()), 2, 3), at(munich(), 1, 3)})
	if l := x.live.Load().localized(munich().ID, []string{"de"}); l == nil || l.Key.Language != "en" {
		t.Errorf("of two versions of one change the older one is shown: %+v", l)
	}
}

func TestATombstoneIsListedNowhere(t *testing.T) {
	gone := at(munich(), 2, 2) // with what it had, as a store may leave it
	gone.Deleted = true
	for name, fill := range map[string]func(x *Index) error{
		"applied": func(x *Index) error { x.Apply([]Place{at(munich(), 1, 1)}); x.Apply([]Place{gone}); return nil },
		"loaded":  func(x *Index) error { return load(x, []Place{gone}) },
	} {
		x := NewIndex(render)
		if err := fill(x); err != nil {
			t.Fatal(err)
		}
		if l := x.live.Load().localized(gone.ID, []string{"de"}); l != nil || x.live.Load().regions.Len(region{}) != 0 || x.live.Load().regions.Len(region{country: "DE"}) != 0 {
			t.Errorf("%s: %+v, %d places are listed", name, l, x.live.Load().regions.Len(region{}))
		}
	}
}

func TestALoadBringsNothingBack(t *testing.T) {
	city := munich()
	full, less, gone := at(city, 1, 1), at(english(city), 2, 2), at(Place{ID: city.ID, Deleted: true}, 3, 3)
	for _, c := range []struct {
		name string
		do   func(x *Index) error
		want string
	}{
		{"a name dropped before a load that has read it", func(x *Index) error {
			return x.Load(func(add func([]Place)) error { x.Apply([]Place{less}); add([]Place{full}); return nil })
		}, "en 2"},
		{"a name dropped after a load has read it", func(x *Index) error {
			return x.Load(func(add func([]Place)) error { add([]Place{full}); x.Apply([]Place{less}); return nil })
		}, "en 2"},
		{"a place deleted before a load that has read it", func(x *Index) error {
			return x.Load(func(add func([]Place)) error { x.Apply([]Place{gone}); add([]Place{full}); return nil })
		}, ""},
		{"a place deleted after a load has read it", func(x *Index) error {
			return x.Load(func(add func([]Place)) error { add([]Place{full}); x.Apply([]Place{gone}); return nil })
		}, ""},
		{"a name dropped between two loads", func(x *Index) error { return errors.Join(load(x, []Place{full}), load(x, []Place{less})) }, "en 2"},
		{"a place deleted between two loads", func(x *Index) error { return errors.Join(load(x, []Place{full}), load(x, []Place{gone})) }, ""},
		{"two states in one load", func(x *Index) error { return load(x, []Place{full, less, full}) }, "en 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := NewIndex(render)
			if err := c.do(x); err != nil {
				t.Fatal(err)
			}
			got := ""
			if l := x.live.Load().localized(city.ID, []string{"de"}); l != nil {
				got = fmt.Sprint(l.Key.Language, " ", l.Place.Version)
			}
			if got != c.want {
				t.Errorf("German readers get %q, want %q", got, c.want)
			}
			if found := x.live.Load().search(&Query{Prefix: "münc", Limit: 1}, []string{"de"}); len(found) > 0 {
				t.Errorf("the German name finds %v", shown(found))
			}
			if found := x.live.Load().search(&Query{CountryCode: "DE", Limit: 5}, nil); len(found) != min(len(c.want), 1) {
				t.Errorf("the country has %v", shown(found))
			}
		})
	}
}

// A database that was restored from a backup has older places, and those it never had
// are gone.
func TestALoadReplacesWhatIsNewer(t *testing.T) {
	x, other := NewIndex(render), at(english(munich()), 9, 9)
	other.ID++
	if err := errors.Join(load(x, []Place{at(english(munich()), 2, 2), other}), load(x, []Place{at(munich(), 1, 1)})); err != nil {
		t.Fatal(err)
	}
	if l := x.live.Load().localized(munich().ID, []string{"de"}); l == nil || l.Name != "München" || l.Place.Version != 1 {
		t.Errorf("%+v", l)
	}
	if l := x.live.Load().localized(other.ID, nil); l != nil || x.Stats().Live != 2 {
		t.Errorf("%+v, %+v", l, x.Stats())
	}
}

func TestALoadThatBreaksOffIsDoneAgain(t *testing.T) {
	x, gone := NewIndex(render), errors.New("the database is away")
	err := x.Load(func(add func([]Place)) error { add([]Place{at(munich(), 1, 1)}); return gone })
	if !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	if err := load(x, []Place{at(munich(), 1, 1)}); err != nil {
		t.Fatal(err)
	}
	if l := x.live.Load().localized(munich().ID, []string{"de"}); l == nil || l.Name != "München" {
		t.Errorf("%+v", l)
	}
}

// TestReadersAreRightWhilePlacesChange has readers look at places that one writer
// changes all the time: names come and go, ranks change, places are moved.
func TestReadersAreRightWhilePlacesChange(t *testing.T) {
	const places, changes = 50, 2000
	x := NewIndex(func(p *Place, language, name string) []byte { return fmt.Appendf(nil, "%s %d", name, p.Version) })
	state := func(id, version int64) Place {
		p := Place{ID: id, Kind: City, CountryCode: "AA", Population: (id * version) % 17, Version: version, Change: version,
			Names: map[string]string{"en": fmt.Sprintf("ab%d", version), "de": fmt.Sprintf("ad%d", version)}}
		if version%3 == 0 {
			delete(p.Names, "de")
		}
		if version%5 == 0 {
			p.CountryCode = "BB"
		}
		return p
	}
	var first []Place
	for id := range int64(places) {
		first = append(first, state(id+1, 1))
	}
	if err := load(x, first); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer done.Store(true)
		for version := int64(2); version < changes; version++ {
			x.Apply([]Place{state(version%places+1, version)})
		}
	})
	chain := []string{"de", "en"}
	for range 3 {
		wg.Go(func() {
			seen := map[Key]int64{}
			for !done.Load() {
				id := rand.Int64N(places) + 1
				l := x.live.Load().localized(id, chain)
				if l == nil || l.Key.ID != id || string(l.Body) != fmt.Sprintf("%s %d", l.Name, l.Place.Version) || !strings.HasSuffix(l.Name, fmt.Sprint(l.Place.Version)) {
					t.Errorf("%d: %+v", id, l)
					return
				}
				if l.Place.Version < seen[l.Key] {
					t.Errorf("%d went back from version %d to %d", id, seen[l.Key], l.Place.Version)
					return
				}
				seen[l.Key] = l.Place.Version
				for _, q := range []Query{{Prefix: "a", Limit: 100}, {Prefix: "ab1", Limit: 100}, {Limit: 100}, {CountryCode: "AA", Prefix: "ab", Limit: 100}} {
					ids := map[int64]bool{}
					for _, l := range x.live.Load().search(&q, chain) {
						if ids[l.Key.ID] {
							t.Errorf("%+v: %d is there twice", q, l.Key.ID)
							return
						}
						ids[l.Key.ID] = true
					}
					if q.Prefix == "a" && len(ids) != places {
						t.Errorf("%d of %d places have a name that begins with a", len(ids), places)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	var want []string
	for id := range int64(places) {
		last := int64(0)
		for version := int64(1); version < changes; version++ {
			if version == 1 || version%places == id {
				last = version
			}
		}
		p := state(id+1, last)
		language := "en"
		if p.Names["de"] != "" {
			language = "de"
		}
		want = append(want, fmt.Sprintf("%d %s %s", p.ID, language, p.Names[language]))
	}
	var got []string
	for id := range int64(places) {
		got = append(got, shown([]*Localized{x.live.Load().localized(id+1, chain)})...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the end (-want +got):\n%s", diff)
	}
}
