package place

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// fewPlaces is how many places of a country are looked at one by one rather than all
// places of the world whose names begin alike.
const fewPlaces = 2000

// Search returns the places that q asks for, each once: countries first, then those
// with most people. Each is in the best of the languages that it has a name in, which
// need not be the one whose name was found. The answers are shared and must not be
// changed. The error is an *InvalidError or wraps ErrLoading.
func (s *Service) Search(_ context.Context, q Query) ([]*Localized, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	if s.o.Ready() != nil {
		return nil, ErrLoading
	}
	if q.Limit == 0 {
		q.Limit = defaultLimit
	}
	chain := s.chains.append(make([]string, 0, MaxChain), q.Languages, s.o.DefaultLanguage)
	return s.o.Index.live.Load().search(&q, chain), nil
}

func (q *Query) check() error {
	switch {
	case !utf8.ValidString(q.Prefix):
		return &InvalidError{Field: "prefix", Detail: "the text is not valid UTF-8; encode it as UTF-8"}
	case utf8.RuneCountInString(q.Prefix) > maxPrefixRunes:
		return &InvalidError{Field: "prefix", Detail: fmt.Sprintf("the text has %d characters; use at most %d", utf8.RuneCountInString(q.Prefix), maxPrefixRunes)}
	case q.CountryCode != "" && !validCountry(q.CountryCode):
		return &InvalidError{Field: "country", Detail: countryProblem(q.CountryCode)}
	case q.Kind != "" && q.Kind != Country && q.Kind != City:
		return &InvalidError{Field: "kind", Detail: kindProblem(q.Kind)}
	case q.Limit < 0 || q.Limit > maxLimit:
		return &InvalidError{Field: "limit", Detail: fmt.Sprintf("%d is out of range; use 1 to %d", q.Limit, maxLimit)}
	}
	return nil
}

// looks is how often a place is looked for that changes while it is looked for. Once more
// is enough, unless it changes as often as it is read.
const looks = 4

// localized returns a place in the first language of a chain that it has, else in
// any, nil if there is no such place.
func (t *tables) localized(id int64, chain []string) *Localized {
	for range looks {
		if l, changed := t.look(id, chain); !changed {
			return l
		}
	}
	return nil
}

// look is localized. It may find nothing although there is something if the place is
// changed meanwhile, and says so.
func (t *tables) look(id int64, chain []string) (l *Localized, changed bool) {
	for _, language := range chain {
		if l := t.names.Get(Key{ID: id, Language: language}); l != nil && !l.gone {
			return l, false
		}
	}
	place := t.places.Get(id)
	if place == nil {
		return nil, false
	}
	for language := range strings.FieldsSeq(place.languages) {
		if l := t.names.Get(Key{ID: id, Language: language}); l != nil && !l.gone {
			return l, false
		}
	}
	return nil, place.languages != ""
}

// search finds places, in a chain of languages.
func (t *tables) search(q *Query, chain []string) []*Localized {
	prefix := fold(q.Prefix)
	region := region{country: q.CountryCode}
	if q.Kind == Country && q.CountryCode == "" {
		region.kind = Country
	}
	if prefix == "" || region.kind != "" || region.country != "" && t.regions.Len(region) <= fewPlaces {
		return t.searchRegion(q, region, prefix, chain)
	}
	return t.searchNames(q, prefix, chain)
}

// searchRegion looks at the places of a region one by one.
func (t *tables) searchRegion(q *Query, region region, prefix string, chain []string) []*Localized {
	out := make([]*Localized, 0, q.Limit)
	for place := range t.regions.All(region) {
		if q.Kind != "" && place.Kind != q.Kind || prefix != "" && !t.called(place.ID, prefix, chain) {
			continue
		}
		if l := t.localized(place.ID, chain); l != nil {
			if out = append(out, l); len(out) == q.Limit {
				break
			}
		}
	}
	return out
}

// called says whether a place's name in one language of the chain begins so.
func (t *tables) called(id int64, prefix string, chain []string) bool {
	for _, language := range chain {
		if l := t.names.Get(Key{ID: id, Language: language}); l != nil && !l.gone && strings.HasPrefix(l.folded(), prefix) {
			return true
		}
	}
	return false
}

// folded is the name without what searchKey put before it.
func (l *Localized) folded() string {
	_, size := utf8.DecodeRuneInString(l.search)
	return l.search[size:]
}

// searchNames looks at the names that begin so, in each language of the chain.
func (t *tables) searchNames(q *Query, prefix string, chain []string) []*Localized {
	var found []*Localized
	for _, language := range chain {
		found = append(found, t.prefixes.Top(searchKey(language, prefix), q.Limit, func(l *Localized) bool {
			return l.Key.Language == language && (q.CountryCode == "" || l.Place.CountryCode == q.CountryCode) && (q.Kind == "" || l.Place.Kind == q.Kind)
		})...)
	}
	slices.SortStableFunc(found, byRank)
	out := make([]*Localized, 0, q.Limit)
	for _, l := range found {
		if len(out) == q.Limit {
			break
		}
		if slices.ContainsFunc(out, func(o *Localized) bool { return o.Key.ID == l.Key.ID }) {
			continue // found by another of its names
		}
		if best := t.localized(l.Key.ID, chain); best != nil {
			out = append(out, best)
		}
	}
	return out
}
