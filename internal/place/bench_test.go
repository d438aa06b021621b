package place

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// generated makes n cities with names such as people give: a few beginnings are
// common, most are not. One in ten has a second name.
func generated(n int) []Place {
	r := rand.New(rand.NewPCG(1, 2))
	syllables := []string{"san", "ber", "lin", "mün", "chen", "to", "kyo", "os", "lo", "ma", "drid", "pa", "ris", "za", "greb", "ro", "ma", "São", "La", "ńa"}
	places := make([]Place, n)
	for i := range places {
		name := ""
		for range 2 + r.IntN(3) {
			name += syllables[int(r.ExpFloat64()*5)%len(syllables)]
		}
		p := Place{ID: int64(i + 1), Kind: City, CountryCode: string([]byte{'A' + byte(r.IntN(16)), 'A' + byte(r.IntN(16))}), Admin: fmt.Sprint(r.IntN(100)),
			Population: int64(1000 * r.ExpFloat64()), Located: true, Latitude: r.Float64() * 90, Longitude: r.Float64() * 180, Names: map[string]string{"en": name}, Version: 1, Change: 1}
		if i%10 == 0 {
			p.Names["de"] = name + "burg"
		}
		places[i] = p
	}
	return places
}

const benchmarked = 135_000

// benchService is a service that has generated places.
func benchService(b *testing.B) (*Service, []Place) {
	b.Helper()
	x, places := NewIndex(render), generated(benchmarked)
	if err := load(x, places); err != nil {
		b.Fatal(err)
	}
	s, err := New(Options{Store: &memory{}, Index: x})
	if err != nil {
		b.Fatal(err)
	}
	return s, places
}

func BenchmarkLoad(b *testing.B) {
	places := generated(benchmarked)
	b.ReportAllocs()
	for b.Loop() {
		x := NewIndex(render)
		if err := load(x, places); err != nil {
			b.Fatal(err)
		}
		stats := x.Stats()
		b.ReportMetric(stats.BytesPerRecord(), "B/record")
		b.ReportMetric(float64(stats.Records), "records")
	}
}

func BenchmarkGet(b *testing.B) {
	s, places := benchService(b)
	ids := make([]int64, 1<<16)
	for _, c := range []struct {
		name      string
		among     int
		languages []string
	}{{"hot", 1000, []string{"en"}}, {"any", len(places), []string{"en"}}, {"fallback, hot", 1000, []string{"de-AT", "fr"}}, {"fallback, any", len(places), []string{"de-AT", "fr"}}} {
		for i := range ids {
			ids[i] = places[rand.IntN(c.among)].ID
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Get(b.Context(), ids[i%len(ids)], c.languages); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("unknown", func(b *testing.B) {
		b.ReportAllocs()
		for i := int64(1 << 40); b.Loop(); i++ {
			if _, err := s.Get(b.Context(), i, []string{"de"}); err == nil {
				b.Fatal("found")
			}
		}
	})
}

func BenchmarkSearch(b *testing.B) {
	s, _ := benchService(b)
	for _, q := range []Query{{Prefix: "s"}, {Prefix: "sa"}, {Prefix: "san"}, {Prefix: "sanber"}, {Prefix: "sanberlinma"}, {Prefix: "s", CountryCode: "AA"}, {CountryCode: "AA"}, {}} {
		q.Languages = []string{"de", "fr"}
		b.Run(q.Prefix+"/"+q.CountryCode, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Search(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	s, places := benchService(b)
	b.ReportAllocs()
	for change := int64(2); b.Loop(); change++ {
		p := places[rand.IntN(len(places))]
		p.Version, p.Change, p.Population = change, change, p.Population+change%1000
		s.o.Index.Apply([]Place{p})
	}
}
