package sqlite

import (
	"fmt"
	"testing"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/place"
)

// fill puts n records in batches.
func fill(b *testing.B, n, batch int, put func(first, n int) error) {
	b.Helper()
	for first := 0; first < n; first += batch {
		if err := put(first, min(batch, n-first)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoadPlaces is as many places as there are cities of 1,000 people and
// countries: one name each, and a few with 80.
func BenchmarkLoadPlaces(b *testing.B) {
	const n = 135_000
	store := open(b, b.TempDir()).Places()
	languages := map[string]string{}
	for i := range 80 {
		languages[fmt.Sprintf("x%02d", i)] = fmt.Sprint("Country in the language ", i)
	}
	fill(b, n, 5000, func(first, n int) error {
		put := place.Put{TenantID: "demo", Now: time.Unix(1_800_000_000, 0), Actor: shopkeeper}
		for i := range n {
			id := int64(first + i + 1)
			p := place.Place{ID: id, Kind: place.City, CountryCode: string([]byte{'A' + byte(id%26), 'A' + byte(id/26%26)}), Admin: fmt.Sprint(id % 40),
				Population: id * 7, Latitude: float64(id%180) - 89.98765, Longitude: float64(id%360) - 179.12345, Located: true, Names: map[string]string{"en": fmt.Sprint("Town number ", id)}}
			if id%540 == 0 {
				p.Kind, p.Names = place.Country, languages
			}
			put.Places = append(put.Places, p)
		}
		_, err := store.Put(b.Context(), put)
		return err
	})
	b.ReportAllocs()
	loaded := 0
	for b.Loop() {
		if err := store.Load(b.Context(), func(page []place.Place) error { loaded += len(page); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(loaded)/b.Elapsed().Seconds(), "places/s")
}

// BenchmarkLoadProducts is products in five languages.
func BenchmarkLoadProducts(b *testing.B) {
	const n = 50_000
	store := open(b, b.TempDir()).Catalog()
	fill(b, n, 5000, func(first, n int) error {
		list := puts(1, first, n)
		for i := range list {
			p := &list[i].Product
			for _, language := range []string{"fr", "es", "ja"} {
				p.Names[language], p.Descriptions[language] = p.Names["en"], p.Descriptions["en"]
			}
		}
		_, _, err := store.Put(b.Context(), list)
		return err
	})
	b.ReportAllocs()
	loaded := 0
	for b.Loop() {
		if err := store.Load(b.Context(), func(page []catalog.Product) error { loaded += len(page); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(loaded)/b.Elapsed().Seconds(), "products/s")
}
