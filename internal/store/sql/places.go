package sql

import (
	"context"
	"fmt"
	"maps"

	"millrace/internal/place"
)

// The statements of places, which all have the tenant place.Everywhere.
const (
	placeColumns = `tenant_id, id, version, deleted, change, kind, country_code, admin, population, located, latitude, longitude, names, updated_ns`

	loadPlaces = `SELECT ` + placeColumns + ` FROM places WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3`
)

var (
	changesOfPlaces = changesOf("places", placeColumns, "octet_length(names)")

	getPlaces = manyRows{head: `SELECT ` + placeColumns + ` FROM places WHERE (tenant_id, id) IN (VALUES `, width: 2, numbers: []int{2}, tail: `)`}

	// putPlaces changes a place only if it is still of the version before.
	putPlaces = manyRows{head: `INSERT INTO places (` + placeColumns + `) VALUES `, width: 14,
		tail: ` ON CONFLICT (tenant_id, id) DO UPDATE SET version = excluded.version, deleted = excluded.deleted, change = excluded.change,
kind = excluded.kind, country_code = excluded.country_code, admin = excluded.admin, population = excluded.population, located = excluded.located,
latitude = excluded.latitude, longitude = excluded.longitude, names = excluded.names, updated_ns = excluded.updated_ns
WHERE places.version = excluded.version - 1`}
)

// Places is the place.Store of a SQL database.
type Places struct{ on Pools }

var _ place.Store = (*Places)(nil)

// NewPlaces returns the places of a database.
func NewPlaces(on Pools) *Places { return &Places{on: on} }

// Put writes the places that differ from what stands. See place.Store.
func (s *Places) Put(ctx context.Context, put place.Put) ([]place.PutResult, error) {
	results := make([]place.PutResult, len(put.Places))
	if len(put.Places) == 0 {
		return results, nil
	}
	last := make(map[int64]int, len(put.Places)) // by id, who counts
	for i := range put.Places {
		last[put.Places[i].ID] = i
	}
	err := transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		held, err := p.holdVersions(ctx, placesTopic, []string{place.Everywhere})
		if err != nil {
			return err
		}
		for i := 0; i < len(put.Places); i += rowsPerChunk {
			end := min(i+rowsPerChunk, len(put.Places))
			c := placeChunk{put: &put, places: put.Places[i:end], first: i, last: last, results: results[i:end], versions: held}
			if err := c.write(ctx, p); err != nil {
				return err
			}
		}
		return s.finish(ctx, p, held, &put, results)
	})
	if err != nil {
		return nil, in("put places", err)
	}
	for i := range results { // of two places with one id, both show what became of it
		results[i].Place = results[last[put.Places[i].ID]].Place
	}
	return results, nil
}

// finish ends a Put that has written its places.
func (s *Places) finish(ctx context.Context, p *prepared, held *versions, put *place.Put, results []place.PutResult) error {
	if len(held.raised) == 0 {
		return nil
	}
	entry, err := place.PutEntry(put.TenantID, results, put.Now, put.Actor)
	if err != nil {
		return err
	}
	if err := held.raise(ctx, p); err != nil {
		return err
	}
	return insertAudit(ctx, p.tx, entry)
}

// placeChunk is some of the places of a Put.
type placeChunk struct {
	put      *place.Put
	places   []place.Place
	first    int           // the index of the first of them
	last     map[int64]int // by id, the index of the one that counts
	results  []place.PutResult
	versions *versions

	args []any
}

func (c *placeChunk) write(ctx context.Context, p *prepared) error {
	there, err := c.read(ctx, p)
	if err != nil {
		return err
	}
	for i := range c.places {
		c.results[i] = place.PutResult{} // of a run that others overtook
		if c.last[c.places[i].ID] != c.first+i {
			continue
		}
		if err := c.one(i, there[c.places[i].ID]); err != nil {
			return err
		}
	}
	changed, err := p.exec(ctx, putPlaces, c.args)
	if err == nil && changed != putPlaces.rows(c.args) {
		err = errRaced
	}
	return err
}

// read returns the places as they stand.
func (c *placeChunk) read(ctx context.Context, p *prepared) (map[int64]*place.Place, error) {
	args := make([]any, 0, len(c.places)*getPlaces.width)
	for i := range c.places {
		args = append(args, place.Everywhere, c.places[i].ID)
	}
	there := make(map[int64]*place.Place, len(c.places))
	names := newInterner()
	return there, p.each(ctx, getPlaces, args, func(row interface{ Scan(...any) error }) error {
		var r placeRow
		if _, err := scanPlace(row, &r); err != nil {
			return err
		}
		found := r.decode(names)
		there[found.ID] = &found
		return nil
	})
}

// one decides what becomes of a place; there is nil if it never was.
func (c *placeChunk) one(i int, there *place.Place) error {
	after := c.places[i]
	if after.Deleted {
		after = place.Place{ID: after.ID, Deleted: true}
	}
	gone := there == nil || there.Deleted
	switch {
	case gone && after.Deleted:
		if there != nil {
			after = *there
		}
		c.results[i].Place = after
		return nil
	case !gone && samePlace(there, &after):
		c.results[i].Place = *there
		return nil
	}
	after.Version, after.Change, after.UpdatedAt = 1, c.versions.next(place.Everywhere), timeOf(nanos(c.put.Now))
	if there != nil {
		after.Version = there.Version + 1
	}
	c.results[i] = place.PutResult{Place: after, Created: gone, Changed: true}
	names, err := textsJSON(after.Names)
	if err != nil {
		return fmt.Errorf("the names of place %d: %w", after.ID, err)
	}
	c.args = append(c.args, place.Everywhere, after.ID, after.Version, number(after.Deleted), after.Change, string(after.Kind), after.CountryCode,
		after.Admin, after.Population, number(after.Located), after.Latitude, after.Longitude, names, nanos(after.UpdatedAt))
	return nil
}

// samePlace says whether two places differ in nothing but version, change and time, as
// far as can be read.
func samePlace(a, b *place.Place) bool {
	return !a.Unreadable && a.Deleted == b.Deleted && a.Kind == b.Kind && a.CountryCode == b.CountryCode && a.Admin == b.Admin && a.Population == b.Population &&
		a.Located == b.Located && a.Latitude == b.Latitude && a.Longitude == b.Longitude && maps.Equal(a.Names, b.Names)
}

// placeRow is a place as its row has it: names are not decoded.
type placeRow struct {
	place                       place.Place
	tenantID, kind, names       string
	deleted, located, updatedNs int64
}

// placeFeed reads all places.
var placeFeed = rowFeed[placeRow, place.Place]{
	load: loadPlaces,
	key: func(last *placeRow) []any {
		if last == nil {
			return []any{place.Everywhere, 0}
		}
		return []any{place.Everywhere, last.place.ID}
	},
	scan: scanPlace,
	decoder: func() func(*placeRow) place.Place {
		names := newInterner()
		return func(r *placeRow) place.Place { return r.decode(names) }
	},
}

// Versions returns the version of all places. See place.Feed.
func (s *Places) Versions(ctx context.Context) (versions map[string]int64, epoch string, err error) {
	versions, epoch, err = readVersions(ctx, s.on, placesTopic)
	return versions, epoch, in("read the version of places", err)
}

// Load calls each with all places. See place.Feed.
func (s *Places) Load(ctx context.Context, each func([]place.Place) error) error {
	return in("load the places", placeFeed.all(ctx, s.on.AllLists, each))
}

// Changes returns the places that have changed. See place.Feed.
func (s *Places) Changes(ctx context.Context, scope string, after int64, limit int) (places []place.Place, more bool, err error) {
	places, more, err = placeFeed.changes(ctx, s.on.AllRead, changesOfPlaces, scope, after, limit)
	return places, more, in("read the places that have changed", err)
}

// scanPlace reads a row and says how many bytes of text it has.
func scanPlace(row interface{ Scan(...any) error }, r *placeRow) (int, error) {
	p := &r.place
	err := row.Scan(&r.tenantID, &p.ID, &p.Version, &r.deleted, &p.Change, &r.kind, &p.CountryCode, &p.Admin, &p.Population,
		&r.located, &p.Latitude, &p.Longitude, &r.names, &r.updatedNs)
	return len(r.names), err
}

// decode returns the place of a row. One whose names are not what Put writes is
// Unreadable.
func (r *placeRow) decode(names *interner) place.Place {
	p := r.place
	p.Deleted, p.Located, p.UpdatedAt = r.deleted != 0, r.located != 0, timeOf(r.updatedNs)
	p.Kind, p.CountryCode, p.Admin = place.Kind(names.of(r.kind)), names.of(p.CountryCode), names.of(p.Admin)
	if p.Deleted {
		return p
	}
	var err error
	if p.Names, err = names.texts(r.names); err != nil {
		p.Unreadable, p.Names = true, nil
	}
	return p
}
