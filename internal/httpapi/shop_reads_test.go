package httpapi

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/catalog"
	"millrace/internal/order"
)

// aWorldlyProduct has names in three languages, a description in two, and is large
// enough to be compressed.
var aWorldlyProduct = `{"names":{"en":"Tee","de":"T-Hemd","pt-BR":"Camiseta"},"descriptions":{"en":"` + strings.Repeat("A shirt. ", 60) + `","de":"` + strings.Repeat("Ein Hemd. ", 60) +
	`"},"price":{"amount":1999,"currency":"EUR"},"category":"clothing","slug":"black-tee","position":10,"attributes":{"size":"M"}}`

func off(product string) string {
	return strings.Replace(product, `"names"`, `"active":false,"names"`, 1)
}

func (f *fixture) mustPut(target, body string, headers ...string) {
	f.t.Helper()
	if w := f.call("PUT", target, body, headers...); w.Code != 200 && w.Code != 201 {
		f.t.Fatalf("PUT %s: %d %s", target, w.Code, w.Body)
	}
}

// unpacked returns the body of an answer as it was before it was compressed.
func unpacked(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(w.Body.Bytes())
	var err error
	switch w.Header().Get("Content-Encoding") {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEachRepresentationOfAProductHasAnETagOfItsOwnAndIsNotSentTwice(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aWorldlyProduct)
	full := f.call("GET", "/products/tee", "").Body.String()
	tag := func(suffix string) string { return suffixed(tagOf(1, full), suffix) }
	for _, c := range []struct {
		name, target, encoding, accept string
		tag, wantEncoding, language    string
		body                           string // how it begins
	}{
		{"full", "/products/tee", "", "de", tagOf(1, full), "", "", full},
		{"full, gzip", "/products/tee", "gzip", "de", tag("gzip"), "gzip", "", full},
		{"full, zstd", "/products/tee", "gzip, zstd", "", tag("zstd"), "zstd", "", full},
		{"in German", "/products/tee?lang=de", "", "", tag("de"), "", "de", `{"sku":"tee","language":"de","name":"T-Hemd","description":"Ein Hemd. `},
		{"in German, zstd", "/products/tee?lang=de", "zstd", "", tag("de-zstd"), "zstd", "de", `{"sku":"tee","language":"de","name":"T-Hemd","description":"Ein Hemd. `},
		{"in the German of Austria", "/products/tee?lang=de-AT", "gzip", "", tag("de-gzip"), "gzip", "de", `{"sku":"tee","language":"de",`},
		{"by the header, as the parameter has nothing", "/products/tee?lang=ja", "", "fr, pt-BR;q=0.5", tag("pt-BR"), "", "pt-BR, en", `{"sku":"tee","language":"pt-BR","name":"Camiseta","description":"A shirt. `},
		{"English in the end", "/products/tee?lang=ja", "", "fr", tag("en"), "", "en", `{"sku":"tee","language":"en","name":"Tee",`},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Accept-Encoding", c.encoding, "Accept-Language", c.accept}
			w := f.call("GET", c.target, "", headers...)
			h := w.Header()
			got := [...]string{h.Get("ETag"), h.Get("Content-Encoding"), h.Get("Content-Language"), h.Get("Cache-Control"), h.Get("Content-Type")}
			if want := [...]string{c.tag, c.wantEncoding, c.language, "private, no-cache", "application/json"}; w.Code != 200 || got != want {
				t.Fatalf("%d %q, want %q", w.Code, got, want)
			}
			if text := unpacked(t, w); !strings.HasPrefix(text, c.body) || !strings.HasSuffix(text, `,"price":{"amount":1999,"currency":"EUR"},"category":"clothing","slug":"black-tee","position":10,`+
				`"attributes":{"size":"M"},"active":true,"version":1,"createdAt":"2026-11-22T08:30:00Z","updatedAt":"2026-11-22T08:30:00Z"}`) {
				t.Errorf("%s", text)
			}
			head := f.call("HEAD", c.target, "", headers...)
			if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) || head.Header().Get("ETag") != c.tag {
				t.Errorf("HEAD: %d %v", head.Code, head.Header())
			}
			for _, known := range []string{c.tag, "W/" + c.tag, `"other", ` + c.tag, "*", `"x" ,W/` + c.tag + ` , "y"`} {
				for _, method := range []string{"GET", "HEAD"} {
					w := f.call(method, c.target, "", append(headers, "If-None-Match", known)...)
					got := [...]string{w.Header().Get("ETag"), w.Header().Get("Cache-Control"), w.Header().Get("Vary"), w.Header().Get("Content-Language")}
					if want := [...]string{c.tag, "private, no-cache", h.Get("Vary"), c.language}; w.Code != 304 || w.Body.Len() != 0 || got != want {
						t.Errorf("%s with %s: %d %q, want %q", method, known, w.Code, got, want)
					}
					if w.Header().Get("Content-Type") != "" || w.Header().Get("Content-Encoding") != "" {
						t.Errorf("%s with %s: %v", method, known, w.Header())
					}
				}
			}
			for _, known := range []string{`"v1"`, `"v1-de"`, `"v1-00000000"`, tagOf(2, full), tag("fr"), `"v"`, `v1`, strings.Trim(c.tag, `"`), tag("gzip-de")} {
				if w := f.call("GET", c.target, "", append(headers, "If-None-Match", known)...); w.Code != 200 {
					t.Errorf("If-None-Match %s: %d", known, w.Code)
				}
			}
		})
	}
}

func TestSmallBodiesGoOutAsTheyAre(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	w := f.call("GET", "/products/tee", "", "Accept-Encoding", "gzip, zstd")
	if w.Header().Get("Content-Encoding") != "" || w.Header().Get("ETag") != tagOf(1, w.Body.String()) || !strings.HasPrefix(w.Header().Get("Vary"), "Accept-Encoding") {
		t.Errorf("%v", w.Header())
	}
}

func TestWhatOthersMayKeepDependsOnTheCredential(t *testing.T) {
	var since time.Duration
	f := newFixture(t, func(o *Options) {
		o.CatalogStale = func() time.Duration { return since }
		o.PlacesStale = o.CatalogStale
		o.CatalogPublic, o.CatalogCache = true, HTTPCache{MaxAge: 10 * time.Second, StaleWhileRevalidate: time.Minute}
	})
	f.mustPut("/products/tee", aWorldlyProduct)
	const caller, fresh = ", Authorization, X-Api-Key, X-Millrace-Tenant", "max-age=10, stale-while-revalidate=60"
	for _, c := range []struct{ name, target, credential, cache, vary string }{
		{"a visitor's product", "/products/tee?tenant=demo", "", "public, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's product, of the tenant in the header", "/products/tee", "", "private, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's product in a language that it has", "/products/tee?tenant=demo&lang=de", "", "public, " + fresh, "Accept-Encoding" + caller},
		{"the same, of the tenant in the header", "/products/tee?lang=de", "", "private, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's product in a language that it has not", "/products/tee?tenant=demo&lang=ja", "", "private, " + fresh, "Accept-Encoding, Accept-Language" + caller},
		{"a visitor's list", "/products?tenant=demo", "", "public, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's list, of the tenant in the header", "/products", "", "private, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's place", "/places/276", "", "private, " + fresh, "Accept-Encoding, Accept-Language" + caller},
		{"a visitor's place in a language that it has", "/places/276?lang=de-AT", "", "public, " + fresh, "Accept-Encoding" + caller},
		{"a visitor's place in a language that it has not", "/places/276?lang=ja", "", "private, " + fresh, "Accept-Encoding, Accept-Language" + caller},
		{"a visitor's places", "/places?prefix=m", "", "private, " + fresh, "Accept-Encoding, Accept-Language" + caller},
		{"a visitor's places in a language", "/places?prefix=m&lang=ja", "", "public, " + fresh, "Accept-Encoding" + caller},
		{"a product with a credential", "/products/tee?tenant=demo", "Bearer buyer", "private, no-cache", "Accept-Encoding" + caller},
		{"a list with a credential", "/products?tenant=demo", "Bearer buyer", "private, no-cache", "Accept-Encoding" + caller},
		{"a place with a credential", "/places/276?lang=de", "Bearer other", "private, no-cache", "Accept-Encoding" + caller},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Authorization", c.credential}
			if strings.HasPrefix(c.target, "/products") && !strings.Contains(c.target, "tenant=") {
				headers = append(headers, tenantHeader, "demo")
			}
			for _, late := range []bool{false, true} {
				cache := c.cache
				if since = 0; late {
					since = time.Minute
					cache, _, _ = strings.Cut(cache, ",")
					cache += ", no-cache" // others must not have it for fresh
				}
				w := f.call("GET", c.target, "", headers...)
				for range 2 {
					if got := w.Header(); got.Get("Cache-Control") != cache || got.Get("Vary") != c.vary || got.Get("ETag") == "" || late != (got.Get("Cache-Status") != "") {
						t.Errorf("%d %v", w.Code, got)
					}
					w = f.call("GET", c.target, "", append(headers, "If-None-Match", w.Header().Get("ETag"))...)
					if w.Code != 304 {
						t.Errorf("%d with the ETag", w.Code)
					}
				}
			}
		})
	}
	// What a shared cache keeps by the URL alone is the same for everybody.
	for _, target := range []string{"/products/tee?tenant=demo&lang=de", "/places/276?lang=de", "/places?prefix=m&lang=ja", "/places?country=CH&lang=ja"} {
		one, other := f.call("GET", target, "", "Authorization", "", "Accept-Language", "fr"), f.call("GET", target, "", "Authorization", "", "Accept-Language", "de, en;q=0.1")
		if one.Body.String() != other.Body.String() || one.Header().Get("ETag") != other.Header().Get("ETag") {
			t.Errorf("%s: %s and %s", target, one.Body, other.Body)
		}
	}
	for _, target := range []string{"/products/none?tenant=demo", "/products/tee", "/places/1", "/products?tenant=demo&x=y"} {
		if w := f.call("GET", target, "", "Authorization", ""); w.Code < 400 || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("ETag") != "" {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
	for cache, want := range map[HTTPCache]string{{}: "no-cache", {MaxAge: time.Minute}: "max-age=60", {StaleWhileRevalidate: time.Second}: "max-age=0, stale-while-revalidate=1"} {
		if got := newCaching(cache).fresh; got[0][0] != "private, "+want || got[1][0] != "public, "+want {
			t.Errorf("%+v: %q, want %q", cache, got, want)
		}
	}
}

func TestWhoAsksIsToldToCachesWhereCredentialsAreNeeded(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	f.orders.set(aStoredOrder())
	for target, vary := range map[string]string{
		"/products/tee": "Accept-Encoding, Authorization, X-Api-Key", "/products/tee?lang=ja": "Accept-Encoding, Accept-Language, Authorization, X-Api-Key",
		"/products": "Accept-Encoding, Authorization, X-Api-Key", "/places/276": "Accept-Encoding, Accept-Language, Authorization, X-Api-Key",
	} {
		if w := f.call("GET", target, ""); w.Code != 200 || w.Header().Get("Vary") != vary {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
		operator := strings.Replace(vary, "Authorization, X-Api-Key", "X-Millrace-Tenant", 1)
		w := f.callOn(f.server.ControlHandler(), "GET", target, "", tenantHeader, "demo")
		if w.Code != 200 || w.Header().Get("Vary") != operator || w.Header().Get("Cache-Control") != "private, no-cache" {
			t.Errorf("the operator's %s: %d %v", target, w.Code, w.Header())
		}
	}
	status := "/orders/" + testOrderID + "/status"
	w := f.call("GET", status, "")
	for range 2 {
		if w.Header().Get("Vary") != "Authorization, X-Api-Key" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		w = f.call("GET", status, "", "If-None-Match", w.Header().Get("ETag"))
	}
	wantProblem(t, f.call("GET", status, "", "Authorization", "Bearer other", "If-None-Match", w.Header().Get("ETag")), 404, "not-found")
	wantProblem(t, f.call("GET", "/places/276", "", "Authorization", ""), 401, "token-missing")
}

func TestAVisitorLearnsNothingOfWhatIsNotOnSale(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.CatalogPublic = true })
	f.mustPut("/products/off", off(aWorldlyProduct))
	w := f.call("GET", "/products/off", "", "Authorization", "Bearer buyer")
	if w.Code != 200 {
		t.Fatalf("%d for a credential", w.Code)
	}
	full := w.Header().Get("ETag")
	german := f.call("GET", "/products/off?lang=de", "", "Accept-Encoding", "gzip").Header().Get("ETag") // so that all variants are there
	if german != suffixed(full, "de-gzip") {
		t.Fatalf("%s, %s", full, german)
	}
	for _, target := range []string{"/products/off?tenant=demo", "/products/off?tenant=demo&lang=de", "/products/off?lang=de&tenant=demo"} {
		for _, header := range [][2]string{{"If-None-Match", full}, {"If-None-Match", "*"}, {"If-None-Match", german}, {"If-Match", "*"}, {"If-Match", full}, {"Range", "bytes=0-"}, {"X-A", "b"}} {
			for _, method := range []string{"GET", "HEAD"} {
				w := f.call(method, target, "", "Authorization", "", "Accept-Encoding", "gzip", header[0], header[1])
				if w.Code != 404 || w.Header().Get("ETag") != "" {
					t.Errorf("%s %s with %s: %d %v", method, target, header, w.Code, w.Header())
				}
			}
		}
	}
	if w := f.call("GET", "/products?tenant=demo&slug=black-tee", "", "Authorization", ""); w.Body.String() != `{"products":[],"nextCursor":""}`+"\n" {
		t.Errorf("%s", w.Body)
	}
	wantProblem(t, f.call("GET", "/products?tenant=demo&slug=black-tee&inactive=true", "", "Authorization", ""), 403, "scope-missing")
	if w := f.call("GET", "/products?slug=black-tee&inactive=true", ""); !strings.HasPrefix(w.Body.String(), `{"products":[{"sku":"off"`) {
		t.Errorf("%s", w.Body)
	}
}

func TestAnotherTenantsProductIsNotThere(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aWorldlyProduct)
	targets := []string{"/products/tee", "/products/tee?lang=en", "/products"}
	encodings := []string{"", "gzip", "zstd"}
	for _, enc := range encodings {
		for _, target := range targets[:2] {
			tag := f.call("GET", target, "", "Accept-Encoding", enc).Header().Get("ETag")
			for _, tag := range []string{"", "*", tag} {
				wantProblem(t, f.call("GET", target, "", "Authorization", "Bearer other", "Accept-Encoding", enc, "If-None-Match", tag), 404, "not-found")
			}
		}
	}
	// With an equal version of its own it gets its own, and never a 304 for ours.
	f.mustPut("/products/tee", strings.Replace(aWorldlyProduct, "Tee", "Theirs", 1), "Authorization", "Bearer other")
	for _, target := range targets {
		for _, enc := range encodings {
			ours := f.call("GET", target, "", "Accept-Encoding", enc)
			theirs := f.call("GET", target, "", "Accept-Encoding", enc, "Authorization", "Bearer other")
			if a, b := unpacked(t, ours), unpacked(t, theirs); strings.Contains(a, "Theirs") || !strings.Contains(b, "Theirs") {
				t.Errorf("%s %s: ours %s theirs %s", target, enc, a, b)
			}
			for _, method := range []string{"GET", "HEAD"} {
				w := f.call(method, target, "", "Accept-Encoding", enc, "Authorization", "Bearer other", "If-None-Match", ours.Header().Get("ETag"))
				if w.Code != 200 || w.Header().Get("ETag") != theirs.Header().Get("ETag") {
					t.Errorf("%s %s %s: %d %v for the ETag of another tenant", method, target, enc, w.Code, w.Header())
				}
			}
		}
	}
	if w := f.call("GET", "/products?slug=black-tee", "", "Authorization", "Bearer other"); !strings.Contains(w.Body.String(), "Theirs") {
		t.Errorf("%s", w.Body)
	}
}

func TestAProductIsDeletedAndMadeAgainWithNoETagTwice(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aWorldlyProduct)
	first := f.call("GET", "/products/tee", "", "Accept-Encoding", "gzip").Header().Get("ETag")
	wantProblem(t, f.call("DELETE", "/products/tee", "", "If-Match", `"v9"`), 412, "precondition-failed")
	wantProblem(t, f.call("DELETE", "/products/tee", "", "If-Match", `v9`), 400, "invalid-parameter")
	wantProblem(t, f.call("DELETE", "/products/tee?x=1", ""), 400, "invalid-parameter")
	wantProblem(t, f.call("DELETE", "/products/tee", "", "Authorization", "Bearer other"), 404, "not-found")
	if w := f.call("DELETE", "/products/tee", "", "If-Match", `"v1-de-gzip"`, "X-Request-Id", "r-9"); w.Code != 204 || w.Body.Len() != 0 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if f.catalog.actor.RequestID != "r-9" || f.catalog.actor.Subject != "ops" {
		t.Errorf("%+v", f.catalog.actor)
	}
	wantProblem(t, f.call("GET", "/products/tee", "", "If-None-Match", first), 404, "not-found")
	wantProblem(t, f.call("DELETE", "/products/tee", ""), 404, "not-found")
	wantProblem(t, f.call("DELETE", "/products/tee", "", "If-Match", "*"), 412, "precondition-failed")
	wantProblem(t, f.call("PUT", "/products/tee", aWorldlyProduct, "If-Match", "*"), 412, "precondition-failed")
	if p := wantProblem(t, f.call("PUT", "/products/tee", aWorldlyProduct, "If-Match", `"v1"`), 412, "precondition-failed"); !strings.Contains(p.Detail, "no such product") {
		t.Errorf("%q", p.Detail)
	}
	if w := f.call("PUT", "/products/tee", aWorldlyProduct, "If-None-Match", "*"); w.Code != 201 || w.Header().Get("ETag") != tagOf(3, w.Body.String()) {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	for _, enc := range []string{"", "gzip"} {
		if w := f.call("GET", "/products/tee", "", "Accept-Encoding", enc, "If-None-Match", first+`, "v1", "v2", "v1-en"`); w.Code != 200 {
			t.Errorf("the new one is taken for the old one: %d %v", w.Code, w.Header())
		}
	}
}

func TestAChangeTakesAnyETagOfTheVersionThatItMeans(t *testing.T) {
	f := newFixture(t)
	for n, tag := range []string{`"v0"`, `"v1"`, `"v2-de"`, `"v3-gzip"`, `"v4-zh-Hant-zstd"`} {
		body := strings.Replace(aProduct, "1999", fmt.Sprint(1000+n), 1)
		if n == 0 {
			f.mustPut("/products/tee", body)
			continue
		}
		if w := f.call("PUT", "/products/tee", body, "If-Match", tag); w.Code != 200 || w.Header().Get("ETag") != tagOf(n+1, w.Body.String()) {
			t.Errorf("%s: %d %s", tag, w.Code, w.Body)
		}
	}
	for _, tag := range []string{`"v4-de"`, `"v6"`} {
		wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", tag), 412, "precondition-failed")
	}
	for _, tag := range []string{`"h-0123456789abcdef"`, `W/"v5"`, `"v5-de`, `"v5-d"e"`, `"v-5"`, `v5-de`, `"v5-"`, `"v5", x`, `"v5", *`} {
		wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", tag), 400, "invalid-parameter")
	}
}

func TestASlugIsOneProducts(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aWorldlyProduct)
	p := wantProblem(t, f.call("PUT", "/products/tee-2", aWorldlyProduct), 409, "slug-taken")
	if want := `the slug "black-tee" is that of the product tee; give another, or take it from that product first`; p.Detail != want {
		t.Errorf("%q", p.Detail)
	}
	w := f.callOn(f.server.ControlHandler(), "POST", "/control/import/products", `{"line":1,"sku":"tee-2",`+aWorldlyProduct[1:], tenantHeader, "demo")
	if want := `{"results":[{"line":1,"applied":false,"error":"slug: the slug \"black-tee\" is that of the product tee; give another, or take it from that product first"}]}` + "\n"; w.Body.String() != want {
		t.Errorf("%s", w.Body)
	}
	if w := f.call("GET", "/products?slug=black-tee", ""); w.Body.String() != `{"products":[`+f.call("GET", "/products/tee", "").Body.String()+`],"nextCursor":""}`+"\n" {
		t.Errorf("%s", w.Body)
	}
	for _, query := range []string{"slug=a&category=b", "slug=a&cursor=b", "slug=a&slug=b"} {
		wantProblem(t, f.call("GET", "/products?"+query, ""), 400, "invalid-parameter")
	}
}

func TestListsHaveTheETagOfWhatTheyShow(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/a", aProduct)
	f.mustPut("/products/b", aWorldlyProduct)
	f.mustPut("/products/c", off(aProduct))
	for _, c := range []struct{ target, want string }{
		{"/products", `{"products":[` + f.call("GET", "/products/a", "").Body.String() + "," + f.call("GET", "/products/b", "").Body.String() + `],"nextCursor":"n"}` + "\n"},
		{"/products?category=none", `{"products":[],"nextCursor":"n"}` + "\n"},
		{"/places?prefix=M%C3%9Cn&lang=de", `{"places":[` + f.call("GET", "/places/2867714?lang=de", "").Body.String() + "," + f.call("GET", "/places/2867543?lang=de", "").Body.String() + `]}` + "\n"},
		{"/places?prefix=zzz", `{"places":[]}` + "\n"},
	} {
		w := f.call("GET", c.target, "")
		if diff := cmp.Diff(c.want, w.Body.String()); w.Code != 200 || diff != "" {
			t.Errorf("%s: %d %s", c.target, w.Code, diff)
		}
		tag := w.Header().Get("ETag")
		if len(tag) != 20 || !strings.HasPrefix(tag, `"h-`) {
			t.Errorf("%s: ETag %s", c.target, tag)
		}
		if w := f.call("GET", c.target, "", "If-None-Match", tag); w.Code != 304 || w.Body.Len() != 0 {
			t.Errorf("%s: %d %s", c.target, w.Code, w.Body)
		}
		if w := f.call("HEAD", c.target, ""); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != fmt.Sprint(len(c.want)) || w.Header().Get("ETag") != tag {
			t.Errorf("%s: HEAD %d %v", c.target, w.Code, w.Header())
		}
	}
	before := f.call("GET", "/products", "").Header().Get("ETag")
	f.mustPut("/products/a", strings.Replace(aProduct, "1999", "2000", 1))
	if w := f.call("GET", "/products", "", "If-None-Match", before); w.Code != 200 || w.Header().Get("ETag") == before {
		t.Errorf("after a change: %d %v", w.Code, w.Header())
	}
}

func TestReadsFromMemoryRefuseWhatTheyDoNotKnow(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	for target, says := range map[string]string{
		"/products/tee?langs=de": `"langs" is not known here; the parameters are lang`, "/products/tee?lang=de&lang=fr": `"lang" is given 2 times`, "/products/tee?lang=%": "cannot be read",
		"/products/tee?lang=d": `"lang" is "d", which is no language; give a BCP 47 tag`, "/products/tee?lang=%21%21": "which is no language", "/products/tee?tenant=demo": `"tenant" is not known`,
		"/products?limit=0": "from 1 to 1000", "/products?prefix=a": `"prefix" is not known here`,
		"/places?limit=101": "from 1 to 100", "/places?kind=river": "use one of country, city", "/places?country=D": "no country's code", "/places?country=DEU": "at most 2",
		"/places?lang=xx-": "which is no language", "/places?q=a": `"q" is not known here; the parameters are prefix, country, kind, lang, limit`, "/places?prefix=%ff": "not text in UTF-8",
		"/places?prefix=" + strings.Repeat("a", 101): "101 characters", "/places/276?x=1": `"x" is not known here; the parameters are lang`, "/places/276?lang=1": "which is no language",
	} {
		if p := wantProblem(t, f.call("GET", target, ""), 400, "invalid-parameter"); !strings.Contains(p.Detail, says) {
			t.Errorf("%s: %q, want %q", target, p.Detail, says)
		}
	}
	if w := f.call("GET", "/products/tee?lang=", ""); w.Code != 200 || w.Header().Get("ETag") != tagOf(1, w.Body.String()) {
		t.Errorf("an empty lang: %d %v", w.Code, w.Header())
	}
}

func TestReadsSayWhenMemoryIsNotCompleteOrMayBeOutOfDate(t *testing.T) {
	var since time.Duration
	reg := prometheus.NewRegistry()
	f := newFixture(t, func(o *Options) {
		o.CatalogStale, o.Metrics = func() time.Duration { return since }, NewMetrics(reg)
		o.PlacesStale = o.CatalogStale
	})
	f.mustPut("/products/tee", aProduct)
	targets := []string{"/products/tee", "/products/tee?lang=en", "/products", "/places/276", "/places?prefix=g"}
	for _, c := range []struct {
		since time.Duration
		want  string
	}{{0, ""}, {3999 * time.Millisecond, ""}, {32 * time.Second, "millrace; hit; ttl=-32; detail=stale"}, {31001 * time.Millisecond, "millrace; hit; ttl=-32; detail=stale"}} {
		since = c.since
		for _, target := range targets {
			w := f.call("GET", target, "")
			if got := w.Header().Get("Cache-Status"); w.Code != 200 || got != c.want {
				t.Errorf("%s after %v: %d %q", target, c.since, w.Code, got)
			}
			for _, none := range []string{"/products/none", "/products/none?lang=de", "/places/1"} {
				if w := f.call("GET", none, ""); w.Code != 404 || w.Header().Get("Cache-Status") != c.want {
					t.Errorf("%s after %v: %d %v", none, c.since, w.Code, w.Header())
				}
			}
			if w := f.call("GET", target, "", "If-None-Match", w.Header().Get("ETag")); w.Code != 304 || w.Header().Get("Cache-Status") != c.want {
				t.Errorf("%s after %v, 304: %d %q", target, c.since, w.Code, w.Header())
			}
		}
	}
	if n := testutil.ToFloat64(f.server.metrics.stale.WithLabelValues("/products/{sku}")); n != 28 {
		t.Errorf("%v stale products are counted, want 28", n)
	}
	f.catalog.loading, f.places.ready = true, errors.New("loading: 40,000 records")
	for _, target := range targets {
		w := f.call("GET", target, "")
		if wantProblem(t, w, 503, "loading"); w.Header().Get("Retry-After") != "1" || w.Header().Get("Cache-Status") != "" {
			t.Errorf("%s: %v", target, w.Header())
		}
	}
}

func TestAnOrderFromTheCacheSaysWhenItMayBeOutOfDate(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	f.orders.page = order.Page{Orders: []order.Order{aStoredOrder()}}
	targets := []string{"/orders", "/orders/" + testOrderID, "/orders/" + testOrderID + "/status"}
	for _, target := range targets {
		if w := f.call("GET", target, ""); w.Code != 200 || len(w.Header()["Cache-Status"]) != 0 {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
	f.orders.age = 2500 * time.Millisecond
	for _, target := range targets {
		if w := f.call("GET", target, ""); w.Code != 200 || w.Header().Get("Cache-Status") != "millrace; hit; ttl=-3; detail=stale" {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
	}
	// Who waits for a change is told what the store has.
	if w := f.call("GET", targets[2]+"?wait=1ms", "", "If-None-Match", `"v1"`); w.Code != 200 || w.Header().Get("Cache-Status") != "" {
		t.Errorf("with wait: %d %v", w.Code, w.Header())
	}
}

func TestAProductOfADatabaseThatWentBackIsNotTheOldOne(t *testing.T) {
	f := newFixture(t)
	targets := []string{"/products/tee", "/products/tee?lang=de", "/products/tee?lang=en"}
	f.mustPut("/products/tee", aWorldlyProduct)
	before := map[string]string{}
	for _, target := range targets {
		for _, enc := range []string{"", "gzip", "zstd"} {
			before[target+enc] = f.call("GET", target, "", "Accept-Encoding", enc).Header().Get("ETag")
		}
	}
	// The same version once more, with another text, as after a restore of a backup.
	f.catalog.products["demo/tee"] = catalog.Product{}
	f.mustPut("/products/tee", strings.Replace(aWorldlyProduct, "T-Hemd", "Leibchen", 1))
	for _, target := range targets {
		for _, enc := range []string{"", "gzip", "zstd"} {
			w := f.call("GET", target, "", "Accept-Encoding", enc, "If-None-Match", before[target+enc])
			if text := unpacked(t, w); w.Code != 200 || !strings.Contains(text, `"version":1`) || strings.Contains(text, "T-Hemd") || target == targets[1] && !strings.Contains(text, "Leibchen") {
				t.Errorf("%s %s: %d %v %s", target, enc, w.Code, w.Header(), text)
			}
		}
	}
	// Nor is it changed for it.
	now := f.call("GET", "/products/tee", "").Header().Get("ETag")
	for _, tag := range before {
		for _, method := range []string{"PUT", "DELETE"} {
			w := f.call(method, "/products/tee", aWorldlyProduct, "If-Match", tag)
			if p := wantProblem(t, w, 412, "precondition-failed"); w.Header().Get("ETag") != now || !strings.Contains(p.Detail, now) {
				t.Errorf("%s: %v %q", tag, w.Header(), p.Detail)
			}
		}
	}
	if w := f.call("PUT", "/products/tee", aWorldlyProduct, "If-Match", suffixed(now, "de-zstd")); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestReadsFromMemoryAllocateLittleBeyondNetHTTP(t *testing.T) {
	h, token := readingEdge(t)
	for _, c := range someReads {
		r := newReadReplay(t, c, token)
		r.sendRead(t, h) // fills the pools
		if want := map[bool]int{false: 200, true: 304}[strings.HasSuffix(c.name, "304")]; r.w.status != want {
			t.Errorf("%s is answered %d", c.name, r.w.status)
		}
		most := 16.0
		if raceEnabled {
			most = 80 // pools forget at random then
		}
		if got := testing.AllocsPerRun(200, func() { r.sendRead(t, h) }); got > most {
			t.Errorf("%s allocates %v times a request beyond net/http; at most %v are wanted", c.name, got, most)
		} else {
			t.Logf("%s: %v allocations a request", c.name, got)
		}
	}
}
