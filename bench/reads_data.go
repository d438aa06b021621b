package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
)

// What is made up is the same in every run.
const dataSeed = 20261122

// productLine is product number i of an import: names and descriptions in five
// languages, as a shop in Europe has them, about 900 bytes.
func productLine(i int, price int64) []byte {
	names, texts := map[string]string{}, map[string]string{}
	for _, language := range []string{"en", "de", "fr", "es", "it"} {
		names[language] = fmt.Sprintf("Product %d (%s)", i, language)
		texts[language] = fmt.Sprintf("%s: made of organic cotton, washed before it is cut, number %d.", language, i)
	}
	line, err := json.Marshal(map[string]any{
		"sku": productSKU(i), "names": names, "descriptions": texts, "price": map[string]any{"amount": price, "currency": "EUR"},
		"category": fmt.Sprint("category-", i%20), "attributes": map[string]any{"color": "black", "size": "M", "weightGrams": 100 + i%400},
	})
	if err != nil {
		panic(err) // it is made of texts and numbers alone
	}
	return line
}

func productSKU(i int) string { return fmt.Sprintf("bench-%05d", i) }

// productsFile writes so many products.
func productsFile(path string, n int) error {
	return writeLines(path, n, func(i int) []byte { return productLine(i, int64(100+i)) })
}

// keysOf lists what the scenarios put in, for a path.
func keysOf(path string) (keys []string) {
	if strings.HasPrefix(path, "/products/") {
		for i := range readProducts {
			keys = append(keys, productSKU(i))
		}
		return keys
	}
	places := newPlaceMaker()
	for range readPlaces {
		keys = append(keys, fmt.Sprint(places.next().ID))
	}
	return keys
}

// expand puts a key into a path.
func expand(path, key string) string {
	before, rest, _ := strings.Cut(path, "{")
	_, after, _ := strings.Cut(rest, "}")
	return before + key + after
}

const (
	// allPlaces is how many there are: 250 countries with names in 78 languages, and
	// cities of more than 1,000 people with one.
	allPlaces = 135_483
	countries = 250
)

// placeLine is a place as an import has it.
type placeLine struct {
	ID         int64             `json:"id"`
	Kind       string            `json:"kind"`
	Code       string            `json:"code,omitempty"`
	Country    string            `json:"country,omitempty"`
	Admin      string            `json:"admin,omitempty"`
	Population int64             `json:"population,omitempty"`
	Lat        float64           `json:"lat,omitempty"`
	Lon        float64           `json:"lon,omitempty"`
	Names      map[string]string `json:"names"`
}

// placeMaker makes places up.
type placeMaker struct {
	rng       *rand.Rand
	made      int
	id        int64
	languages []string
}

func newPlaceMaker() *placeMaker {
	m := &placeMaker{rng: rand.New(rand.NewPCG(dataSeed, 1)), id: 1_000_000}
	m.languages = strings.Fields("en de fr es it pt nl pl ru ar af am az be bg bn bs br ca cs cy da dv el et eu fa fi ga gl " +
		"gu ha he hi hr hu hy id is ja ka kk km kn ko ku ky lo lt lv mk ml mn mr ms mt my nb ne nn pa ps ro sd si sk sl so sq sr sv sw ta te tg th tk tr")
	return m
}

// next returns the next place: first all countries, then cities.
func (m *placeMaker) next() placeLine {
	m.made++
	if m.made <= countries {
		p := placeLine{ID: int64(m.made), Kind: "country", Code: countryCode(m.made - 1), Names: map[string]string{}}
		for _, l := range m.languages {
			p.Names[l] = m.name()
		}
		return p
	}
	m.id += 1 + m.rng.Int64N(80)
	p := placeLine{ID: m.id, Kind: "city", Country: countryCode(m.rng.IntN(countries)), Admin: fmt.Sprintf("%02d", m.rng.IntN(60)),
		// Few cities are large.
		Population: int64(1000 / (0.00005 + m.rng.Float64())),
		Lat:        float64(m.rng.IntN(18_000_000)-9_000_000) / 100_000, Lon: float64(m.rng.IntN(36_000_000)-18_000_000) / 100_000,
		Names: map[string]string{"en": m.name()}}
	return p
}

func countryCode(i int) string { return string(rune('A'+i/26)) + string(rune('A'+i%26)) }

// name makes a name of two to four syllables, now and then with a diacritic or a
// second word.
func (m *placeMaker) name() string {
	syllables := [...]string{"ber", "lin", "san", "ta", "ma", "ri", "kow", "ja", "ne", "ul", "por", "to", "mün", "chen", "são", "vil", "le", "grad", "ko", "shi", "ham", "burg", "a", "el", "os", "ny", "dor", "wi", "ca", "zé"}
	var b strings.Builder
	for word := range 1 + m.rng.IntN(5)/4 {
		if word > 0 {
			b.WriteByte(' ')
		}
		for i := range 2 + m.rng.IntN(3) {
			s := syllables[m.rng.IntN(len(syllables))]
			if i == 0 {
				s = strings.ToUpper(s[:1]) + s[1:]
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

// writePlaces writes so many made-up places.
func writePlaces(path string, n int) error {
	m := newPlaceMaker()
	return writeLines(path, n, func(int) []byte {
		line, err := json.Marshal(m.next())
		if err != nil {
			panic(err) // it is made of texts and numbers alone
		}
		return line
	})
}

func writeLines(path string, n int, line func(i int) []byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	for i := range n {
		_, _ = w.Write(line(i)) // Flush tells
		_ = w.WriteByte('\n')
	}
	if err := w.Flush(); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

// getJSON reads a document into v.
func getJSON(ctx context.Context, client *http.Client, t *target, path string, v any) error {
	resp, err := get(ctx, client, t, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body) // to the end, so that the connection serves again
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s %.200s", path, resp.Status, text)
	}
	return json.Unmarshal(text, v)
}
