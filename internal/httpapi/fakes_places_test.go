package httpapi

import (
	"context"
	"sync"
	"time"

	"millrace/internal/place"
)

// fakePlaces is the domain's own service over a store that keeps places as its
// contract says.
type fakePlaces struct {
	*place.Service
	store *placeStore
	ready error
}

// placeStore keeps places in memory. It is no feed.
type placeStore struct {
	place.Feed

	mu     sync.Mutex
	places map[int64]place.Place
	change int64
	put    place.Put
	err    error
}

func (s *placeStore) Put(_ context.Context, p place.Put) ([]place.PutResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	s.put = p
	s.change++
	results := make([]place.PutResult, len(p.Places))
	for i, next := range p.Places {
		old := s.places[next.ID]
		there := old.Version > 0 && !old.Deleted
		if next.Deleted && !there {
			continue
		}
		same := old
		same.Version, same.Change, same.UpdatedAt = 0, 0, next.UpdatedAt
		if there && string(RenderPlace(&same, "en", same.Names["en"])) == string(RenderPlace(&next, "en", next.Names["en"])) && !next.Deleted {
			results[i] = place.PutResult{Place: old}
			continue
		}
		next.Version, next.Change, next.UpdatedAt = old.Version+1, s.change, testNow
		s.places[next.ID] = next
		results[i] = place.PutResult{Place: next, Created: !there, Changed: true}
	}
	return results, nil
}

func newFakePlaces() *fakePlaces {
	f := &fakePlaces{store: &placeStore{places: map[int64]place.Place{}}}
	var err error
	f.Service, err = place.New(place.Options{Store: f.store, Index: place.NewIndex(RenderPlace), Ready: func() error { return f.ready },
		Now: func() time.Time { return testNow }})
	if err != nil {
		panic(err)
	}
	if _, errs, err := f.Put(context.Background(), place.Put{Places: []place.Place{
		{ID: 276, Kind: place.Country, CountryCode: "DE", Names: map[string]string{"en": "Germany", "de": "Deutschland"}},
		{ID: 756, Kind: place.Country, CountryCode: "CH", Names: map[string]string{"de": "Schweiz", "fr": "Suisse"}},
		{ID: 2867714, Kind: place.City, CountryCode: "DE", Admin: "02", Population: 1_260_391, Latitude: 48.13743, Longitude: 11.57549, Located: true,
			Names: map[string]string{"en": "Munich", "de": "München"}},
		{ID: 2867543, Kind: place.City, CountryCode: "DE", Admin: "07", Population: 270_184, Latitude: 51.96236, Longitude: 7.62571, Located: true,
			Names: map[string]string{"en": "Münster"}},
	}}); err != nil || errs[0] != nil {
		panic("the places of the tests are wrong")
	}
	return f
}
