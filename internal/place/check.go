package place

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a place and of a query.
const (
	maxLanguages   = 100
	maxNameRunes   = 200
	maxAdminRunes  = 100
	maxPrefixRunes = 100
	maxLimit       = 100
	defaultLimit   = 20
)

// check judges a place and returns it as it is kept: language tags in their
// canonical form, names without white space around them. The error is an
// *InvalidError. Of a place that is deleted only the ID counts.
func check(p Place) (Place, error) {
	if p.ID <= 0 {
		return p, &InvalidError{Field: "id", Detail: fmt.Sprintf("%d is no id of a place; give the source's, a whole number above 0", p.ID)}
	}
	if p.Deleted {
		return Place{ID: p.ID, Deleted: true}, nil
	}
	country, err := checkKind(p)
	if err != nil {
		return p, err
	}
	if !validCountry(p.CountryCode) {
		return p, &InvalidError{Field: country, Detail: countryProblem(p.CountryCode)}
	}
	if detail := textProblem(p.Admin, maxAdminRunes); detail != "" {
		return p, &InvalidError{Field: "admin", Detail: detail}
	}
	if p.Population < 0 {
		return p, &InvalidError{Field: "population", Detail: fmt.Sprintf("%d is below 0; give 0 if it is not known", p.Population)}
	}
	if err := checkCoordinates(&p); err != nil {
		return p, err
	}
	p.Names, err = checkNames(p.Names)
	return p, err
}

// checkKind returns the name of the member that has the country's code.
func checkKind(p Place) (country string, err error) {
	switch p.Kind {
	case Country:
		return "code", nil
	case City:
		return "country", nil
	case "":
		return "", &InvalidError{Field: "kind", Detail: "the kind is missing; give country or city"}
	}
	return "", &InvalidError{Field: "kind", Detail: kindProblem(p.Kind)}
}

func kindProblem(k Kind) string {
	return fmt.Sprintf("%q is no kind of place; use country or city", clip(string(k)))
}

func validCountry(code string) bool {
	return len(code) == 2 && code[0] >= 'A' && code[0] <= 'Z' && code[1] >= 'A' && code[1] <= 'Z'
}

func countryProblem(code string) string {
	return fmt.Sprintf("%q is no country's code; use the two upper-case letters of ISO 3166-1, such as DE", clip(code))
}

// checkCoordinates judges where a place is, if it is known.
func checkCoordinates(p *Place) error {
	if !p.Located {
		p.Latitude, p.Longitude = 0, 0
		return nil
	}
	for _, c := range []struct {
		field string
		value *float64
		most  float64
	}{{"lat", &p.Latitude, 90}, {"lon", &p.Longitude, 180}} {
		if math.IsNaN(*c.value) || math.Abs(*c.value) > c.most {
			return &InvalidError{Field: c.field, Detail: fmt.Sprintf("%v is out of range; give degrees of WGS 84 from -%g to %g", *c.value, c.most, c.most)}
		}
		*c.value += 0 // a negative zero is zero
	}
	return nil
}

// checkNames judges names by language and returns them by canonical tag.
func checkNames(names map[string]string) (map[string]string, error) {
	if len(names) == 0 {
		return nil, &InvalidError{Field: "names", Detail: `there is no name; give at least one by language, such as {"en": "Munich"}`}
	}
	if len(names) > maxLanguages {
		return nil, &InvalidError{Field: "names", Detail: fmt.Sprintf("there are %d languages; give at most %d", len(names), maxLanguages)}
	}
	checked := make(map[string]string, len(names))
	// In order, so that of several mistakes always the same one is told.
	for _, name := range slices.Sorted(maps.Keys(names)) {
		tag, err := canonicalTag(name)
		if err != nil {
			return nil, &InvalidError{Field: "names", Detail: err.Error()}
		}
		if _, twice := checked[tag]; twice {
			return nil, &InvalidError{Field: "names", Detail: fmt.Sprintf("%q is the language %s, which is there already; give each language once", name, tag)}
		}
		text := strings.TrimSpace(names[name])
		if text == "" {
			return nil, &InvalidError{Field: "names." + tag, Detail: fmt.Sprintf("the name is empty; give 1 to %d characters", maxNameRunes)}
		}
		if detail := textProblem(text, maxNameRunes); detail != "" {
			return nil, &InvalidError{Field: "names." + tag, Detail: detail}
		}
		checked[tag] = text
	}
	return checked, nil
}

// textProblem says what is wrong with a text of one line, "" if nothing is.
func textProblem(s string, maxRunes int) string {
	if !utf8.ValidString(s) {
		return "the text is not valid UTF-8; encode it as UTF-8"
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Sprintf("there is a control character at byte %d; leave it out", i)
	}
	if n := utf8.RuneCountInString(s); n > maxRunes {
		return fmt.Sprintf("the text has %d characters; use at most %d", n, maxRunes)
	}
	return ""
}

// clip shortens what a message repeats.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
