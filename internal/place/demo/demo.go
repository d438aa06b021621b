// Package demo is enough of the world to try Millrace with: all countries in
// fourteen languages, and the largest cities of each and of all, the best known ones
// in several languages. It is a subset of what NOTICE names; whoever needs all of it
// imports it.
package demo

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"millrace/internal/place"
)

//go:embed places.ndjson.gz
var places []byte

// line is one line of places.ndjson.
type line struct {
	ID         int64             `json:"id"`
	Kind       place.Kind        `json:"kind"`
	Code       string            `json:"code"`    // of a country
	Country    string            `json:"country"` // that a city lies in
	Admin      string            `json:"admin"`
	Population int64             `json:"population"`
	Latitude   *float64          `json:"lat"`
	Longitude  *float64          `json:"lon"`
	Names      map[string]string `json:"names"`
}

// Places returns the places, countries first. They are the caller's own.
func Places() []place.Place {
	list, err := read()
	if err != nil {
		panic(fmt.Sprintf("demo: places.ndjson.gz, which is part of the program: %v", err))
	}
	return list
}

func read() ([]place.Place, error) {
	zr, err := gzip.NewReader(bytes.NewReader(places))
	if err != nil {
		return nil, err
	}
	var list []place.Place
	for d := json.NewDecoder(zr); ; {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		p := place.Place{ID: l.ID, Kind: l.Kind, CountryCode: l.Country, Admin: l.Admin, Population: l.Population, Names: l.Names}
		if l.Kind == place.Country {
			p.CountryCode = l.Code
		}
		if l.Latitude != nil && l.Longitude != nil {
			p.Latitude, p.Longitude, p.Located = *l.Latitude, *l.Longitude, true
		}
		list = append(list, p)
	}
}
