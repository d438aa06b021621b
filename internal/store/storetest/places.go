package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/place"
)

// Places runs the conformance suite of place.Store. The factory gives a fresh store,
// with the audit log it writes, and registers its own clean-up.
func Places(t *testing.T, fresh func(t testing.TB) (place.Store, audit.Store)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, place.Store, audit.Store)
	}{
		{"every field comes back as it went in", placeFields},
		{"a put that changes anything raises the versions", placeChanges},
		{"a put that changes nothing leaves versions and audit log", placeSame},
		{"a deleted place leaves a tombstone, and goes on with its version", placeDelete},
		{"of two places with one id the later one counts", placeTwice},
		{"the audit log has one entry for a put", placeAudit},
		{"a put that cannot be finished leaves nothing", placeUnfinished},
		{"changes come in their order and never cut in two", placeChangesInOrder},
		{"a load has every place", placeLoad},
		{"a follower misses nothing of many writers", placeFollower},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, log := fresh(t)
			c.test(t, s, log)
		})
	}
}

// city returns a city that is told apart by id.
func city(id int64) place.Place {
	return place.Place{ID: id, Kind: place.City, CountryCode: "DE", Admin: "16", Population: 1000 * id, Latitude: 52.52437, Longitude: 13.41053, Located: true,
		Names: map[string]string{"en": fmt.Sprint("Town ", id)}}
}

func germany() place.Place {
	return place.Place{ID: 276, Kind: place.Country, CountryCode: "DE",
		Names: map[string]string{"en": "Germany", "de": "Deutschland", "ja": "ドイツ", "x-test": `<a> & "b" \ ` + "\u2028\U0001F600", "ar": "ألمانيا"}}
}

func placesPut(places ...place.Place) place.Put {
	return place.Put{Places: places, TenantID: "demo", Now: monday, Actor: ann}
}

// putPlaces puts places and fails the test if they cannot be.
func putPlaces(t testing.TB, s place.Store, put place.Put) []place.PutResult {
	t.Helper()
	results, err := s.Put(t.Context(), put)
	if err != nil || len(results) != len(put.Places) {
		t.Fatalf("Put of %d: %d results, error %v", len(put.Places), len(results), err)
	}
	return results
}

// loadPlaces returns all places by id.
func loadPlaces(t testing.TB, s place.Feed) (all map[int64]place.Place, pages int) {
	t.Helper()
	all = map[int64]place.Place{}
	err := s.Load(t.Context(), func(page []place.Place) error {
		pages++
		for _, p := range page {
			if _, twice := all[p.ID]; twice {
				t.Errorf("place %d comes twice", p.ID)
			}
			all[p.ID] = p
		}
		return nil
	})
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return all, pages
}

// wantPlaces fails the test unless these are all places, tombstones included.
func wantPlaces(t testing.TB, s place.Feed, want ...place.Place) {
	t.Helper()
	got, _ := loadPlaces(t, s)
	byID := map[int64]place.Place{}
	for _, p := range want {
		byID[p.ID] = p
	}
	if diff := cmp.Diff(byID, got); diff != "" {
		t.Errorf("places differ (-want +got):\n%s", diff)
	}
}

// stamped returns a place as it is after a put.
func stamped(p place.Place, version, change int64, at time.Time) place.Place {
	p.Version, p.Change, p.UpdatedAt = version, change, at
	return p
}

func placeFields(t *testing.T, s place.Store, _ audit.Store) {
	wantPlaces(t, s)
	wantVersions(t, s, map[string]int64{})
	far := city(math.MaxInt64)
	far.Population, far.Latitude, far.Longitude = math.MaxInt64, -math.SmallestNonzeroFloat64, 179.99999999999997
	put := placesPut(germany(), city(1), far)
	put.Now = monday.Add(123456789)
	results := putPlaces(t, s, put)
	var want []place.Place
	for i, p := range put.Places {
		want = append(want, stamped(p, 1, 1, put.Now))
		if diff := cmp.Diff(place.PutResult{Place: want[i], Created: true, Changed: true}, results[i]); diff != "" {
			t.Errorf("result %d differs (-want +got):\n%s", i, diff)
		}
	}
	wantPlaces(t, s, want...)
	wantVersions(t, s, map[string]int64{place.Everywhere: 1})
	if results := putPlaces(t, s, placesPut()); len(results) != 0 {
		t.Errorf("a put of nothing: %v", results)
	}
	wantVersions(t, s, map[string]int64{place.Everywhere: 1})
}

func placeChanges(t *testing.T, s place.Store, _ audit.Store) {
	p := city(1)
	p.Names["de"] = "Stadt"
	putPlaces(t, s, placesPut(p, city(2)))
	version := int64(1)
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"a name", func() { p.Names = map[string]string{"en": "Other", "de": "Stadt"} }},
		{"a language less", func() { p.Names = map[string]string{"en": "Other"} }},
		{"a language", func() { p.Names = map[string]string{"fr": "Other"} }},
		{"the kind", func() { p.Kind = place.Country }},
		{"the country", func() { p.CountryCode = "AT" }},
		{"the division", func() { p.Admin = "" }},
		{"the population", func() { p.Population++ }},
		{"the latitude", func() { p.Latitude += 1e-13 }},
		{"the longitude", func() { p.Longitude = -p.Longitude }},
		{"that it lies somewhere", func() { p.Located = false }},
	} {
		change.do()
		put := placesPut(p, city(2))
		put.Now = monday.Add(time.Duration(version) * time.Minute)
		results := putPlaces(t, s, put)
		version++
		want := []place.PutResult{{Place: stamped(p, version, version, put.Now), Changed: true}, {Place: stamped(city(2), 1, 1, monday)}}
		if diff := cmp.Diff(want, results); diff != "" {
			t.Errorf("%s: results differ (-want +got):\n%s", change.name, diff)
		}
		wantPlaces(t, s, want[0].Place, want[1].Place)
	}
	wantVersions(t, s, map[string]int64{place.Everywhere: version})
}

func placeSame(t *testing.T, s place.Store, log audit.Store) {
	first := putPlaces(t, s, placesPut(germany(), city(1)))
	again := placesPut(city(1), germany())
	again.Now = monday.Add(time.Hour)
	want := []place.PutResult{{Place: first[1].Place}, {Place: first[0].Place}}
	if diff := cmp.Diff(want, putPlaces(t, s, again)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	wantPlaces(t, s, first[0].Place, first[1].Place)
	wantVersions(t, s, map[string]int64{place.Everywhere: 1})
	if got, err := log.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10}); len(got.Entries) != 1 || err != nil {
		t.Errorf("%d audit entries, error %v; want 1", len(got.Entries), err)
	}
}

func placeDelete(t *testing.T, s place.Store, _ audit.Store) {
	gone := germany() // only the id counts
	gone.Deleted = true
	if diff := cmp.Diff([]place.PutResult{{Place: place.Place{ID: 276, Deleted: true}}}, putPlaces(t, s, placesPut(gone))); diff != "" {
		t.Errorf("deleting what never was (-want +got):\n%s", diff)
	}
	wantVersions(t, s, map[string]int64{})
	putPlaces(t, s, placesPut(germany(), city(1)))
	put := placesPut(gone)
	put.Now = monday.Add(time.Hour)
	tombstone := stamped(place.Place{ID: 276, Deleted: true}, 2, 2, put.Now)
	if diff := cmp.Diff([]place.PutResult{{Place: tombstone, Changed: true}}, putPlaces(t, s, put)); diff != "" {
		t.Errorf("deleting (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]place.PutResult{{Place: tombstone}}, putPlaces(t, s, placesPut(gone))); diff != "" {
		t.Errorf("deleting again (-want +got):\n%s", diff)
	}
	wantPlaces(t, s, tombstone, stamped(city(1), 1, 1, monday))
	changed, _, err := s.Changes(t.Context(), place.Everywhere, 1, 10)
	if diff := cmp.Diff([]place.Place{tombstone}, changed); diff != "" || err != nil {
		t.Errorf("changes: error %v, differ (-want +got):\n%s", err, diff)
	}
	again := stamped(germany(), 3, 3, monday)
	if diff := cmp.Diff([]place.PutResult{{Place: again, Created: true, Changed: true}}, putPlaces(t, s, placesPut(germany()))); diff != "" {
		t.Errorf("making it again (-want +got):\n%s", diff)
	}
	wantPlaces(t, s, again, stamped(city(1), 1, 1, monday))
}

func placeTwice(t *testing.T, s place.Store, log audit.Store) {
	small, large := city(1), city(1)
	large.Population = 1_000_000
	want := stamped(large, 1, 1, monday)
	results := putPlaces(t, s, placesPut(small, city(2), large))
	if diff := cmp.Diff([]place.PutResult{{Place: want}, {Place: stamped(city(2), 1, 1, monday), Created: true, Changed: true}, {Place: want, Created: true, Changed: true}}, results); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	wantPlaces(t, s, want, stamped(city(2), 1, 1, monday))
	// The two may be far from each other.
	many := []place.Place{{ID: 1, Deleted: true}}
	for id := int64(3); id < 300; id++ {
		many = append(many, city(id))
	}
	results = putPlaces(t, s, placesPut(append(many, large)...))
	if first, last := results[0], results[len(results)-1]; first.Changed || last.Changed || !cmp.Equal(first.Place, want) {
		t.Errorf("deleted and put as it was: %+v, %+v; want no change", first, last)
	}
	wantVersions(t, s, map[string]int64{place.Everywhere: 2})
	wantEntries(t, log, audit.Query{TenantID: "demo", Action: "places.delete"})
}

func placeAudit(t *testing.T, s place.Store, log audit.Store) {
	first := placesPut(germany(), city(1), city(2))
	made := putPlaces(t, s, first)
	second := placesPut(place.Place{ID: 1, Deleted: true}, city(2), city(3), place.Place{ID: 9, Deleted: true})
	second.Now, second.Actor = monday.Add(time.Hour), bob
	changed := putPlaces(t, s, second)
	var want []audit.Entry
	for _, c := range []struct {
		put     place.Put
		results []place.PutResult
	}{{second, changed}, {first, made}} {
		e, err := place.PutEntry("demo", c.results, c.put.Now, c.put.Actor)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	if got := string(want[0].After); got != `{"put":1,"deleted":1}` {
		t.Errorf("the entry says %s", got)
	}
	wantEntries(t, log, audit.Query{TenantID: "demo"}, want...)
	wantEntries(t, log, audit.Query{TenantID: place.Everywhere})
}

func placeUnfinished(t *testing.T, s place.Store, log audit.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results, err := s.Put(ctx, placesPut(city(1))); err == nil || results != nil {
		t.Errorf("%v, error %v; want an error alone", results, err)
	}
	wantPlaces(t, s)
	wantVersions(t, s, map[string]int64{})
	wantEntries(t, log, audit.Query{TenantID: "demo"})
}

func placeChangesInOrder(t *testing.T, s place.Store, _ audit.Store) {
	for change := range int64(5) { // 3 places each
		putPlaces(t, s, placesPut(city(10*change+1), city(10*change+2), city(10*change+3)))
	}
	for after := int64(0); after <= 5; after++ {
		for limit := 1; limit <= 16; limit++ {
			got, more, err := s.Changes(t.Context(), place.Everywhere, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			last := min(5, after+int64(limit+2)/3)
			if want := 3 * int(last-after); len(got) != want || want > 0 && (got[0].Change != after+1 || got[len(got)-1].Change != last) {
				t.Errorf("after %d, limit %d: %d places %+v, want %d up to change %d", after, limit, len(got), got, want, last)
			}
			if more != (last < 5) {
				t.Errorf("after %d, limit %d: up to change %d, more %v", after, limit, last, more)
			}
			if !slices.IsSortedFunc(got, func(a, b place.Place) int { return int(a.Change - b.Change) }) {
				t.Errorf("after %d, limit %d: not in the order of change", after, limit)
			}
		}
	}
	if got, _, err := s.Changes(t.Context(), "demo", 0, 10); len(got) != 0 || err != nil {
		t.Errorf("changes of another scope: %v, %v", got, err)
	}
	if _, _, err := s.Changes(t.Context(), place.Everywhere, 0, 0); err == nil {
		t.Error("no changes are given")
	}
}

func placeLoad(t *testing.T, s place.Store, _ audit.Store) {
	const n = 4500 // more than a page
	var places, want []place.Place
	for id := int64(1); id <= n; id++ {
		places = append(places, city(id))
	}
	for i, r := range putPlaces(t, s, placesPut(places...)) {
		if !r.Changed {
			t.Fatalf("place %d was not put", i)
		}
		want = append(want, r.Place)
	}
	for _, i := range []int{0, 3999, 4000, n - 1} {
		want[i] = putPlaces(t, s, placesPut(place.Place{ID: want[i].ID, Deleted: true}))[0].Place
	}
	wantPlaces(t, s, want...)
	if _, pages := loadPlaces(t, s); pages < 2 {
		t.Errorf("%d pages; the test has too few places for two", pages)
	}
	full := errors.New("the index is full")
	if err := s.Load(t.Context(), func([]place.Place) error { return full }); !errors.Is(err, full) {
		t.Errorf("error %v, want the callee's", err)
	}
}

// placeFollower has several put the same and other places while one follows.
func placeFollower(t *testing.T, s place.Store, _ audit.Store) {
	const writing, rounds = 3, 30
	var writers sync.WaitGroup
	for w := range int64(writing) {
		writers.Go(func() {
			for round := range int64(rounds) {
				fought := city(1 + round%3)
				fought.Population = 1000*w + round
				own := city(1000*(w+1) + round)
				if _, err := s.Put(t.Context(), placesPut(own, fought, place.Place{ID: 1000*(w+1) + round - 5, Deleted: true})); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	got, seen := map[int64]place.Place{}, int64(0)
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		versions, _, err := s.Versions(t.Context())
		for err == nil && seen < versions[place.Everywhere] {
			var changed []place.Place
			if changed, _, err = s.Changes(t.Context(), place.Everywhere, seen, 2); len(changed) == 0 && err == nil {
				err = fmt.Errorf("there is no change after %d of %d", seen, versions[place.Everywhere])
			}
			for _, p := range changed {
				got[p.ID], seen = p, p.Change
			}
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	<-done
	want, _ := loadPlaces(t, s)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the follower's places differ (-store +follower):\n%s", diff)
	}
	if seen != writing*rounds {
		t.Errorf("the follower is at %d, want %d", seen, writing*rounds)
	}
}
