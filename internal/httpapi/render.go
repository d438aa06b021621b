package httpapi

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/place"
)

// RenderProduct returns a product as the API shows it, as one JSON object without a
// newline. It is a catalog.Render.
func RenderProduct(p *catalog.Product) []byte {
	var room [2 << 10]byte
	view := showProduct(p)
	return bytes.Clone(appendProduct(room[:0], &view)) // in memory of its own size
}

// RenderPlace returns a place in one language as the API shows it, as one JSON object
// without a newline. It is a place.Render.
func RenderPlace(p *place.Place, language, name string) []byte {
	var room [512]byte
	b := append(room[:0], `{"id":`...)
	b = strconv.AppendInt(b, p.ID, 10)
	b = appendMember(b, "kind", string(p.Kind))
	b = appendMember(b, "language", language)
	b = appendMember(b, "name", name)
	b = appendMember(b, "country", p.CountryCode)
	b = appendMember(b, "admin", p.Admin)
	if p.Population > 0 { // of countries it is not known
		b = append(b, `,"population":`...)
		b = strconv.AppendInt(b, p.Population, 10)
	}
	if p.Located {
		b = append(b, `,"lat":`...)
		b = strconv.AppendFloat(b, p.Latitude, 'f', -1, 64)
		b = append(b, `,"lon":`...)
		b = strconv.AppendFloat(b, p.Longitude, 'f', -1, 64)
	}
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, p.Version, 10)
	b = append(b, `,"updatedAt":`...)
	b = appendTime(b, p.UpdatedAt)
	return bytes.Clone(append(b, '}')) // in memory of its own size
}

// writeJSON writes the product as RenderProduct does; it makes it a jsonWriter.
func (v productView) writeJSON(w io.Writer) error {
	var room [2 << 10]byte
	_, err := w.Write(append(appendProduct(room[:0], &v), '\n'))
	return err
}

// appendProduct appends all of a product, with its texts in every language.
func appendProduct(b []byte, v *productView) []byte {
	b = append(b, `{"sku":`...)
	b = appendString(b, v.SKU)
	b = append(b, `,"names":`...)
	b = appendTexts(b, v.Names)
	if len(v.Descriptions) > 0 {
		b = append(b, `,"descriptions":`...)
		b = appendTexts(b, v.Descriptions)
	}
	return appendProductRest(b, v)
}

// appendProductRest appends what a product has besides its texts, and the end of it.
func appendProductRest(b []byte, v *productView) []byte {
	b = append(b, `,"price":{"amount":`...)
	b = strconv.AppendInt(b, v.Price.Amount, 10)
	b = append(b, `,"currency":`...)
	b = appendString(b, v.Price.Currency)
	b = append(b, '}')
	b = appendMember(b, "category", v.Category)
	b = appendMember(b, "slug", v.Slug)
	b = append(b, `,"position":`...)
	b = strconv.AppendInt(b, v.Position, 10)
	if len(v.Attributes) > 0 {
		b = append(b, `,"attributes":`...)
		b = append(b, v.Attributes...)
	}
	b = append(b, `,"active":`...)
	b = strconv.AppendBool(b, v.Active)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, v.Version, 10)
	b = append(b, `,"createdAt":`...)
	b = appendTime(b, v.CreatedAt)
	b = append(b, `,"updatedAt":`...)
	b = appendTime(b, v.UpdatedAt)
	return append(b, '}')
}

// appendTexts appends texts by language, in the order of the languages.
func appendTexts(b []byte, texts map[string]string) []byte {
	var room [8]string
	languages := slices.AppendSeq(room[:0], maps.Keys(texts))
	slices.Sort(languages)
	b = append(b, '{')
	for i, language := range languages {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, language)
		b = append(b, ':')
		b = appendString(b, texts[language])
	}
	return append(b, '}')
}

// placeView is a place as RenderPlace shows it: the schema of what is written there.
type placeView struct {
	ID         int64     `json:"id" doc:"GeoNames' for cities, ISO 3166-1 numeric for countries." example:"2950159"`
	Kind       string    `json:"kind" enum:"country,city" example:"city"`
	Language   string    `json:"language" doc:"What the name is in (BCP 47)." example:"de"`
	Name       string    `json:"name" example:"Berlin"`
	Country    string    `json:"country" doc:"ISO 3166-1 alpha-2: its own, or the one the city lies in." example:"DE"`
	Admin      string    `json:"admin,omitempty" doc:"The first-level administrative division of a city, as its source names it." example:"16"`
	Population int64     `json:"population,omitempty" doc:"Absent if it is not known." example:"3426354"`
	Latitude   *float64  `json:"lat,omitempty" doc:"Degrees of WGS 84." example:"52.52437"`
	Longitude  *float64  `json:"lon,omitempty" doc:"Degrees of WGS 84." example:"13.41053"`
	Version    int64     `json:"version" doc:"Rises with every change." example:"1"`
	UpdatedAt  time.Time `json:"updatedAt" example:"2026-11-22T08:30:00Z"`
}
