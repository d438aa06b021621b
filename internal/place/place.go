// Package place is where things can be shipped to: countries and cities with
// coordinates and names in many languages. Places are reference data that all
// tenants share; an operator imports them.
//
// A Service judges and finds places; a Store keeps them, each change in one durable
// transaction. Reads are answered from an Index in memory. All are safe for
// concurrent use.
package place

import (
	"context"
	"errors"
	"time"

	"millrace/internal/audit"
)

// Kind says what a place is.
type Kind string

// The kinds of places.
const (
	Country Kind = "country"
	City    Kind = "city"
)

// Place is a country or a city.
type Place struct {
	// ID is the source's, above zero: GeoNames' for cities, ISO 3166-1 numeric for
	// countries.
	ID   int64
	Kind Kind
	// CountryCode is ISO 3166-1 alpha-2, upper case: the country's own, or the one a
	// city lies in.
	CountryCode string
	// Admin is the first-level administrative division of a city, as its source
	// names it; empty if there is none.
	Admin      string
	Population int64
	// Latitude and Longitude are degrees of WGS 84; Located says that they are known.
	Latitude, Longitude float64
	Located             bool
	// Names are by BCP 47 language tag; at least one.
	Names map[string]string
	// Version is 1 for a new place and rises with every change, deletions included.
	Version   int64
	UpdatedAt time.Time
	// Deleted says that the place is gone. What is left is a tombstone: ID, version,
	// change and time. Only a Put and a Feed have them.
	Deleted bool
	// Unreadable says that the names in the store are not what a Put writes: somebody else
	// has written them. The rest is as it stands. Nobody is shown such a place; to put it
	// again mends it. Only a Put and a Feed have them.
	Unreadable bool
	// Change is the version of all places that brought this place's version: see Feed.
	Change int64
}

// Put asks to create, replace or, if Deleted is set, delete places.
type Put struct {
	Places []Place // versions, changes and times are set by the store
	// TenantID is whose audit log tells of it.
	TenantID string
	Now      time.Time
	Actor    audit.Actor
}

// PutResult says what became of one place.
type PutResult struct {
	Place            Place
	Created, Changed bool
}

// Store keeps places. It is safe for concurrent use.
type Store interface {
	// Put writes the places that differ from what stands, raises the version of all
	// places by one if there are any (as catalog.Store.Put does) and adds one audit
	// entry (PutEntry), all in one durable transaction. The results are in the order of
	// places; deleting what is not there changes nothing. Of two places with one ID the
	// later one counts.
	Put(ctx context.Context, p Put) ([]PutResult, error)
	Feed
}

// Feed is how the places in memory are loaded and kept up to date; see catalog.Feed.
// There is one scope: Everywhere.
type Feed interface {
	Versions(ctx context.Context) (versions map[string]int64, epoch string, err error)
	Load(ctx context.Context, each func([]Place) error) error
	Changes(ctx context.Context, scope string, after int64, limit int) (places []Place, more bool, err error)
}

// Everywhere is the scope of the version of all places, and the tenant they are
// stored under. No tenant can be called that.
const Everywhere = "*"

// ErrNotFound says that there is no such place.
var ErrNotFound = errors.New("place not found")

// InvalidError says what is wrong with a place or a query, by field.
type InvalidError struct {
	// Field is the member of the JSON line or the parameter, such as "names.de".
	Field string
	// Detail says what is wrong and what to do. It is safe to show.
	Detail string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }

// audited is what the audit log keeps of a Put.
type audited struct {
	Put     int `json:"put"`
	Deleted int `json:"deleted"`
}

// PutEntry is the audit entry ("places.put", "places") of places that were put. A
// store writes it with them.
func PutEntry(tenantID string, results []PutResult, at time.Time, by audit.Actor) (audit.Entry, error) {
	var a audited
	for i := range results {
		switch {
		case !results[i].Changed:
		case results[i].Place.Deleted:
			a.Deleted++
		default:
			a.Put++
		}
	}
	return audit.NewEntry(tenantID, at, by, "places.put", "places", nil, &a)
}
