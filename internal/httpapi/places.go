package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/auth"
	"millrace/internal/place"
)

// placeReaders are those of the catalogue. Places are no tenant's, so that nobody has
// to name one.
var placeReaders = access{open: true, shared: true}

// getPlace shows a place in the language that is wanted most.
func (sf *surface) getPlace(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.permit(ctx, ex, r, placeReaders)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	lang, ok := onlyLang(r.URL.RawQuery)
	if !ok {
		q := queryOf(r)
		lang = q.take("lang")
		if err := q.err(); err != nil {
			ex.refuse(problemOf(ctx, err))
			return
		}
	}
	wanted, ok := s.languages.of(lang, r.Header["Accept-Language"])
	if !ok {
		ex.refuse(noLanguage(lang))
		return
	}
	text := r.PathValue("id")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || text[0] < '1' || text[0] > '9' { // a place has one address
		ex.refuse(problemOf(ctx, place.ErrNotFound))
		return
	}
	l, err := s.o.Places.Get(ctx, id, wanted.tags)
	if err != nil {
		s.refuseRead(ex, r, s.o.PlacesStale(), err)
		return
	}
	e := entity{visitor: isVisitor(p), named: true, language: !slices.Contains(wanted.chain[:wanted.own], l.Key.Language), stale: s.o.PlacesStale}
	d := document{body: l.Body, tag: contentTag(l.Place.Version, l.Sum, l.Key.Language), language: ex.value(l.Key.Language)}
	s.show(ex, r, &e, &d, source{variantKey{place: l.Key.ID, language: l.Key.Language}, l.Sum})
}

// Bounds of a search for places.
const (
	maxPlaces        = 100
	defaultPlaces    = 20
	maxPrefixBytes   = 400 // 100 characters
	countryCodeBytes = 2
)

// searchPlaces shows the places whose names begin with a prefix.
func (sf *surface) searchPlaces(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.permit(ctx, ex, r, placeReaders)
	if refused == nil {
		refused = s.reads.enter(readerOf(p))
	}
	if refused != nil {
		ex.refuse(refused)
		return
	}
	defer s.reads.leave(readerOf(p)) // as of listProducts
	q := queryOf(r)
	query := place.Query{Prefix: q.text("prefix", maxPrefixBytes), CountryCode: strings.ToUpper(q.text("country", countryCodeBytes)),
		Kind: place.Kind(q.oneOf("kind", string(place.Country), string(place.City)))}
	lang := q.take("lang")
	query.Limit = q.number("limit", defaultPlaces, 1, maxPlaces)
	if err := q.err(); err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	accepted := r.Header["Accept-Language"]
	if lang != "" {
		accepted = nil // the URL says everything then, and caches may rely on it
	}
	wanted, ok := s.languages.of(lang, accepted)
	if !ok {
		ex.refuse(noLanguage(lang))
		return
	}
	query.Languages = wanted.tags
	list, err := s.o.Places.Search(ctx, query)
	if err != nil {
		ex.refuse(placeQueryProblem(ctx, err))
		return
	}
	e := entity{visitor: isVisitor(p), named: true, language: lang == "", stale: s.o.PlacesStale}
	s.showList(ex, r, &e, "places", func(yield func([]byte) bool) {
		for _, l := range list {
			if !yield(l.Body) {
				return
			}
		}
	}, "]}\n")
}

// placeLine is a line of an import of places, as their file has it: what code is for
// a country, country is for a city.
type placeLine struct {
	Line       int64             `json:"line"`
	ID         int64             `json:"id"`
	Kind       string            `json:"kind,omitempty"`
	Code       string            `json:"code,omitempty"`
	Country    string            `json:"country,omitempty"`
	Admin      string            `json:"admin,omitempty"`
	Population int64             `json:"population,omitempty"`
	Latitude   *float64          `json:"lat,omitempty"`
	Longitude  *float64          `json:"lon,omitempty"`
	Names      map[string]string `json:"names,omitempty"`
	Deleted    bool              `json:"deleted,omitempty"`
}

// place returns the place that is asked for; what is wrong with the line that the
// domain cannot see, the text tells.
func (l *placeLine) place() (p place.Place, wrong string) {
	p = place.Place{ID: l.ID, Kind: place.Kind(l.Kind), CountryCode: l.Country, Admin: l.Admin, Population: l.Population, Names: l.Names, Deleted: l.Deleted}
	if l.Deleted {
		return p, ""
	}
	switch {
	case p.Kind == place.Country && l.Country != "":
		return p, "country: is for cities; a country's own code is in code"
	case p.Kind == place.City && l.Code != "":
		return p, "code: is for countries; the one that a city lies in is in country"
	case (l.Latitude == nil) != (l.Longitude == nil):
		return p, "lat: give lat and lon, or neither"
	case p.Kind == place.Country:
		p.CountryCode = l.Code
	}
	if l.Latitude != nil {
		p.Latitude, p.Longitude, p.Located = *l.Latitude, *l.Longitude, true
	}
	return p, ""
}

// importPlaces creates, replaces and deletes places, one a line.
func (sf *surface) importPlaces() handler {
	return importHandler(sf, importOf[placeLine]{
		scope: auth.ScopeCatalogWrite, shape: shapeOf[placeLine](reflect.TypeFor[placeLine]()),
		number: func(l *placeLine) int64 { return l.Line },
		apply: func(ctx context.Context, from importer, lines []placeLine, results []*importResult) error {
			put := place.Put{TenantID: from.tenant, Actor: from.by}
			var index []int // of put.Places in lines
			for i := range lines {
				p, wrong := lines[i].place()
				if wrong != "" {
					results[i].Error = wrong
					continue
				}
				put.Places, index = append(put.Places, p), append(index, i)
			}
			if len(index) == 0 {
				return nil
			}
			done, errs, err := sf.server.o.Places.Put(ctx, put)
			if err != nil {
				return err
			}
			counts := map[int64]int{} // by id, the last that could be applied: see place.Store.Put
			for j := range put.Places {
				if errs[j] == nil {
					counts[put.Places[j].ID] = j
				}
			}
			for j, i := range index {
				if last := counts[put.Places[j].ID]; errs[j] == nil && last != j {
					errs[j] = fmt.Errorf("overridden by line %d of this request, which has the same id; give each place once", lines[index[last]].Line)
				}
				results[i].settle(errs[j], !done[j].Changed)
			}
			return nil
		},
	})
}
