package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/place"
)

func TestAPlaceIsShownInTheLanguageThatIsWantedMost(t *testing.T) {
	f := newFixture(t)
	const byHeader = "Accept-Language, "
	for _, c := range []struct{ name, target, accept, language, text, vary string }{
		{"in German", "/places/2867714?lang=de", "", "de", "München", ""},
		{"in the German of Austria", "/places/2867714?lang=de-AT", "en", "de", "München", ""},
		{"by the header", "/places/2867714", "fr, de-CH;q=0.9, en;q=0.8", "de", "München", byHeader},
		{"the parameter before the header", "/places/2867714?lang=en", "de", "en", "Munich", ""},
		{"the header where the parameter has nothing", "/places/756?lang=ja", "it, fr;q=0.3", "fr", "Suisse", byHeader},
		{"not what is refused", "/places/2867714", "de;q=0, en;q=0.1", "en", "Munich", byHeader},
		{"the default", "/places/276", "", "en", "Germany", byHeader},
		{"any, if there is no default", "/places/756", "ja", "de", "Schweiz", byHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := f.call("GET", c.target, "", "Accept-Language", c.accept, "Authorization", "Bearer other", "Accept-Encoding", "gzip")
			h := w.Header()
			if w.Code != 200 || h.Get("Content-Language") != c.language || h.Get("ETag") != suffixed(tagOf(1, w.Body.String()), c.language) || h.Get("Vary") != "Accept-Encoding, "+c.vary+"Authorization, X-Api-Key" || h.Get("Content-Encoding") != "" {
				t.Errorf("%d %v", w.Code, h)
			}
			if !strings.Contains(w.Body.String(), `"language":"`+c.language+`","name":"`+c.text+`"`) {
				t.Errorf("%s", w.Body)
			}
			if w := f.call("GET", c.target, "", "Accept-Language", c.accept, "If-None-Match", h.Get("ETag")); w.Code != 304 || w.Header().Get("Content-Language") != c.language {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			if w := f.call("HEAD", c.target, "", "Accept-Language", c.accept); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" {
				t.Errorf("HEAD: %d %v", w.Code, w.Header())
			}
		})
	}
	for _, target := range []string{"/places/1", "/places/-276", "/places/x", "/places/99999999999999999999", "/places/276.0", "/places/+276", "/places/0276", "/places/0", "/places/%20276"} {
		wantProblem(t, f.call("GET", target, ""), 404, "not-found")
	}
}

func TestPlacesAreFoundByPrefixCountryAndKind(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.CatalogPublic = true })
	for target, want := range map[string][]string{
		"/places?prefix=mun":                {"Munich", "Münster"},
		"/places?prefix=MUN&lang=de":        {"München", "Münster"},
		"/places?prefix=mun&limit=1":        {"Munich"},
		"/places?country=DE":                {"Germany", "Munich", "Münster"},
		"/places?country=de&kind=city":      {"Munich", "Münster"},
		"/places?kind=country&lang=fr":      {"Germany", "Suisse"},
		"/places?prefix=sui&lang=fr":        {"Suisse"},
		"/places?prefix=&country=CH":        {"Schweiz"},
		"/places?prefix=x&country=CH&limit": {},
	} {
		w := f.call("GET", target, "", "Authorization", "")
		got := []string{}
		for i, part := range strings.Split(w.Body.String(), `"name":"`) {
			if name, _, _ := strings.Cut(part, `"`); i > 0 {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(want, got); w.Code != 200 || diff != "" {
			t.Errorf("%s: %d %s", target, w.Code, diff)
		}
	}
}

func TestPlacesAreImportedAsTheirFileHasThem(t *testing.T) {
	f := newFixture(t)
	control := f.server.ControlHandler()
	post := func(lines ...string) string {
		t.Helper()
		w := f.callOn(control, "POST", "/control/import/places", strings.Join(lines, "\n"), tenantHeader, "demo", "X-Request-Id", "r-1")
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	const country = `{"line":1,"id":4,"kind":"country","code":"AF","names":{"en":"Afghanistan","de":"Afghanistan"}}`
	const city = `{"line":2,"id":3040051,"kind":"city","country":"AD","admin":"08","population":15853,"lat":42.50729,"lon":1.53414,"names":{"en":"les Escaldes"}}`
	got := post(country, city, `{"line":3,"id":5,"kind":"country","country":"AX","names":{"en":"X"}}`, `{"line":4,"id":6,"kind":"city","code":"AD","names":{"en":"X"}}`,
		`{"line":5,"id":7,"kind":"city","country":"AD","lat":1,"names":{"en":"X"}}`, `{"line":6,"id":0,"kind":"city","country":"AD","names":{"en":"X"}}`,
		`{"line":7,"id":8,"kind":"city","country":"AD","names":{"en":"X"},"name":"X"}`, `{"line":8,"id":276,"deleted":true}`, `{"line":9,"id":77,"deleted":true}`)
	results := strings.Split(strings.TrimPrefix(got, `{"results":[`), "},")
	for i, want := range []string{`{"line":1,"applied":true`, `{"line":2,"applied":true`, "country: is for cities; a country's own code is in code", "code: is for countries", "lat: give lat and lon, or neither",
		`"applied":false,"error":"id: `, "name: is not known here; the members are admin, code, country, deleted, id, kind, lat, line, lon, names, population", `{"line":8,"applied":true`, `{"line":9,"applied":true,"repeated":true`} {
		if !strings.Contains(results[i], want) {
			t.Errorf("line %d: %s, want %s", i+1, results[i], want)
		}
	}
	want := place.Place{ID: 3040051, Kind: place.City, CountryCode: "AD", Admin: "08", Population: 15853, Latitude: 42.50729, Longitude: 1.53414, Located: true,
		Names: map[string]string{"en": "les Escaldes"}, Version: 1, Change: 2, UpdatedAt: testNow}
	if diff := cmp.Diff(want, f.places.store.places[3040051]); diff != "" {
		t.Error(diff)
	}
	if f.places.store.put.TenantID != "demo" || f.places.store.put.Actor != (audit.Actor{Subject: "operator", Method: auth.MethodOperator, RequestID: "r-1"}) {
		t.Errorf("%+v", f.places.store.put)
	}
	if w := f.call("GET", "/places/4?lang=de", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"kind":"country","language":"de","name":"Afghanistan","country":"AF"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("GET", "/places/276", ""), 404, "not-found")
	if got := post(country, city); got != `{"results":[{"line":1,"applied":true,"repeated":true},{"line":2,"applied":true,"repeated":true}]}`+"\n" {
		t.Errorf("again: %s", got)
	}
	if got := post(`{"line":1,"id":5,"kind":"country","country":"AX","names":{"en":"X"}}`); !strings.Contains(got, "is for cities") {
		t.Errorf("bad lines alone: %s", got)
	}
	wantProblem(t, f.call("POST", "/control/import/places", country), 404, "not-found")
	f.places.store.err = errors.New("disk")
	wantProblem(t, f.callOn(control, "POST", "/control/import/places", country, tenantHeader, "demo"), 500, "internal")
}

func TestOfSeveralLinesWithOnePlaceOnlyTheLastIsApplied(t *testing.T) {
	f := newFixture(t)
	lines := []string{
		`{"line":11,"id":4,"kind":"country","code":"AF","names":{"en":"First"}}`,
		`{"line":12,"id":8,"kind":"country","code":"AL","names":{"en":"Albania"}}`,
		`{"line":13,"id":4,"kind":"country","country":"AF","names":{"en":"Wrong"}}`,
		`{"line":14,"id":4,"kind":"country","code":"AF","names":{"en":"Last"}}`,
		`{"line":15,"id":4,"kind":"country","code":"AFG","names":{"en":"Wrong too"}}`,
	}
	w := f.callOn(f.server.ControlHandler(), "POST", "/control/import/places", strings.Join(lines, "\n"), tenantHeader, "demo")
	var got struct{ Results []importResult }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Results) != len(lines) {
		t.Fatalf("%v %s", err, w.Body)
	}
	for i, want := range []importResult{
		{Line: 11, Error: "overridden by line 14 of this request, which has the same id; give each place once"}, {Line: 12, Applied: true},
		{Line: 13, Error: "country: is for cities; a country's own code is in code"}, {Line: 14, Applied: true}, {Line: 15},
	} {
		r := got.Results[i]
		if i == 4 && r.Error != "" { // in the domain's words
			r.Error = ""
		}
		if r != want {
			t.Errorf("%+v, want %+v", got.Results[i], want)
		}
	}
	if w := f.call("GET", "/places/4", ""); !strings.Contains(w.Body.String(), `"name":"Last"`) {
		t.Errorf("%s", w.Body)
	}
}

func TestAnswersFromMemoryTellTheirLengthOnTheWire(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/small", aProduct)
	f.mustPut("/products/large", strings.Replace(aWorldlyProduct, "A shirt. ", strings.Repeat("A shirt. ", 3), 1))
	srv := httptest.NewServer(f.server.Handler())
	defer srv.Close()
	for _, target := range []string{"/products/small", "/products/large", "/products/large?lang=de", "/places/276", "/products", "/places?country=DE"} {
		for _, encoding := range []string{"identity", "gzip"} {
			var lengths []int64
			for _, method := range []string{"GET", "HEAD"} {
				req, err := http.NewRequest(method, srv.URL+target, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer admin")
				req.Header.Set("Accept-Encoding", encoding)
				answer, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(answer.Body)
				_ = answer.Body.Close()
				if err != nil || len(answer.TransferEncoding) > 0 || method == "GET" && int64(len(body)) != answer.ContentLength {
					t.Errorf("%s %s %s: %v, %d bytes, Content-Length %d, %q", method, target, encoding, err, len(body), answer.ContentLength, answer.TransferEncoding)
				}
				lengths = append(lengths, answer.ContentLength)
			}
			if lengths[0] != lengths[1] || lengths[0] <= 0 {
				t.Errorf("%s %s: GET has %d bytes, HEAD says %d", target, encoding, lengths[0], lengths[1])
			}
		}
	}
}
