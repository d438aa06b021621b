package place

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// munich is a city that is right.
func munich() Place {
	return Place{
		ID: 2867714, Kind: City, CountryCode: "DE", Admin: "02", Population: 1260391,
		Latitude: 48.13743, Longitude: 11.57549, Located: true,
		Names: map[string]string{"en": "Munich", "de": "München"},
	}
}

// names makes n names in n languages.
func names(n int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprintf("de-x-a%d", i)] = "A"
	}
	return out
}

func TestWhatIsWrongWithAPlaceIsTold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Place)
		field  string
		says   string
	}{
		{"no id", func(p *Place) { p.ID = 0 }, "id", "0 is no id"},
		{"an id below nothing", func(p *Place) { p.ID = -1 }, "id", "above 0"},
		{"an id below nothing to delete", func(p *Place) { *p = Place{ID: -1, Deleted: true} }, "id", "above 0"},
		{"no kind", func(p *Place) { p.Kind = "" }, "kind", "missing"},
		{"another kind", func(p *Place) { p.Kind = "river" }, "kind", `"river" is no kind`},
		{"a city without a country", func(p *Place) { p.CountryCode = "" }, "country", "ISO 3166-1"},
		{"a country without a code", func(p *Place) { p.Kind, p.CountryCode = Country, "" }, "code", "ISO 3166-1"},
		{"a country in lower case", func(p *Place) { p.CountryCode = "de" }, "country", `"de" is no country's code`},
		{"a country of three letters", func(p *Place) { p.CountryCode = "DEU" }, "country", "two upper-case letters"},
		{"a long division", func(p *Place) { p.Admin = strings.Repeat("ü", 101) }, "admin", "101 characters"},
		{"a division with a line", func(p *Place) { p.Admin = "a\nb" }, "admin", "control character at byte 1"},
		{"a population below nothing", func(p *Place) { p.Population = -1 }, "population", "below 0"},
		{"too far north", func(p *Place) { p.Latitude = 90.001 }, "lat", "90.001 is out of range; give degrees of WGS 84 from -90 to 90"},
		{"too far west", func(p *Place) { p.Longitude = -180.5 }, "lon", "from -180 to 180"},
		{"no number", func(p *Place) { p.Latitude = math.NaN() }, "lat", "out of range"},
		{"no end", func(p *Place) { p.Longitude = math.Inf(1) }, "lon", "out of range"},
		{"no names", func(p *Place) { p.Names = nil }, "names", "at least one"},
		{"too many names", func(p *Place) { p.Names = names(101) }, "names", "101 languages"},
		{"a language that is none", func(p *Place) { p.Names["english"] = "x" }, "names", `"english" is not a language`},
		{"no language", func(p *Place) { p.Names[""] = "x" }, "names", `"" is not a language`},
		{"an unknown language", func(p *Place) { p.Names["und"] = "x" }, "names", `"und" is not a language`},
		{"a language twice", func(p *Place) { p.Names["EN"] = "x" }, "names", "is the language en, which is there already"},
		{"an empty name", func(p *Place) { p.Names["de"] = "" }, "names.de", "empty"},
		{"a name of spaces", func(p *Place) { p.Names["de"] = " \u00a0" }, "names.de", "empty"},
		{"a long name", func(p *Place) { p.Names["de"] = strings.Repeat("ü", 201) }, "names.de", "201 characters"},
		{"a name with a control character", func(p *Place) { p.Names["de"] = "a\x00b" }, "names.de", "control character at byte 1"},
		{"a name that is not UTF-8", func(p *Place) { p.Names["de"] = "M\xfcnchen" }, "names.de", "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := munich()
			c.change(&p)
			_, err := check(p)
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Field != c.field || !strings.Contains(invalid.Detail, c.says) {
				t.Errorf("%v, want an *InvalidError of %s that says %q", err, c.field, c.says)
			}
		})
	}
}

func TestAPlaceIsKeptInCanonicalForm(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Place)
		want   func(*Place)
	}{
		{"as it is", func(*Place) {}, func(*Place) {}},
		{"languages", func(p *Place) { p.Names = map[string]string{"DE_at": "München", "iw": "מינכן"} }, func(p *Place) { p.Names = map[string]string{"de-AT": "München", "he": "מינכן"} }},
		{"white space around a name", func(p *Place) { p.Names["en"] = " Munich\t" }, func(*Place) {}},
		{"nowhere", func(p *Place) { p.Located = false }, func(p *Place) { p.Located, p.Latitude, p.Longitude = false, 0, 0 }},
		{"on the equator", func(p *Place) { p.Latitude = math.Copysign(0, -1) }, func(p *Place) { p.Latitude = 0 }},
		{"on the bounds", func(p *Place) { p.Latitude, p.Longitude = -90, 180 }, func(p *Place) { p.Latitude, p.Longitude = -90, 180 }},
		{"long texts", func(p *Place) { p.Admin, p.Names["en"] = strings.Repeat("ü", 100), strings.Repeat("ü", 200) }, func(p *Place) { p.Admin, p.Names["en"] = strings.Repeat("ü", 100), strings.Repeat("ü", 200) }},
		{"many names", func(p *Place) { p.Names = names(100) }, func(p *Place) { p.Names = names(100) }},
		{"one that is deleted needs its id alone", func(p *Place) { p.Kind, p.Names, p.Deleted = "", nil, true }, func(p *Place) { *p = Place{ID: p.ID, Deleted: true} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			given, want := munich(), munich()
			c.change(&given)
			c.want(&want)
			got, err := check(given)
			if diff := cmp.Diff(want, got); err != nil || diff != "" || math.Signbit(got.Latitude) != (want.Latitude < 0) {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
