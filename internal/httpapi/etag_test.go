package httpapi

import (
	"context"
	"strings"
	"testing"

	"millrace/internal/catalog"
	"millrace/internal/inventory"
)

func TestAnETagIsReadWhateverItsLanguageAndEncoding(t *testing.T) {
	for tag, want := range map[string]etag{
		`"v7"`: {version: 7}, `"v7-de"`: {version: 7}, `"v7-zh-Hant-gzip"`: {version: 7}, `"v7-1F3A9C2E"`: {version: 7}, `"v7-1f3a9c2"`: {version: 7},
		`"v7-1f3a9c2e"`: {7, 0x1f3a9c2e, true}, `"v7-00000000-de-AT-zstd"`: {7, 0, true}, `"v9223372036854775807-ffffffff"`: {1<<63 - 1, 1<<32 - 1, true},
	} {
		if got, ok := readETag(tag); !ok || got != want {
			t.Errorf("%s: %v %+v, want %+v", tag, ok, got, want)
		}
	}
	for _, tag := range []string{``, `"`, `""`, `"v"`, `v7`, `"v7`, `v7"`, `"v07"`, `"v-7"`, `"v0"`, `"v+7"`, `"v7-"`, `"v7-d"e"`, `W/"v7"`, `"h-0123456789abcdef"`, `"v9223372036854775808"`} {
		if got, ok := readETag(tag); ok {
			t.Errorf("%s: %+v", tag, got)
		}
	}
	for _, c := range []struct {
		version  int64
		sum      uint64
		language string
		want     string
	}{{7, 0xaaaaaaaa1f3a9c2e, "", `"v7-1f3a9c2e"`}, {1 << 62, 5, "zh-Hant", `"v4611686018427387904-00000005-zh-Hant"`}} {
		if got := contentTag(c.version, c.sum, c.language); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func TestAnETagOfAnotherTenantIsNeverTakenForOnesOwn(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	f.mustPut("/stock/tee", `{"onHand":1}`)
	f.mustPut("/webhook-endpoints/wh", `{"url":"https://a.example"}`)
	f.stock.levels["hat"] = inventory.Level{TenantID: "other", SKU: "hat", OnHand: 1, Version: 1, UpdatedAt: testNow}
	ours := f.call("GET", "/stock/tee", "").Header().Get("ETag")
	theirs := f.call("GET", "/stock/hat", "", "Authorization", "Bearer other").Header().Get("ETag")
	for tag, want := range map[string]int{ours: 200, "W/" + ours + `, "v1"`: 200, theirs: 304, ours + "\n" + theirs: 304} {
		if w := f.call("GET", "/stock/hat", "", "Authorization", "Bearer other", "If-None-Match", tag); w.Code != want || w.Header().Get("ETag") != theirs {
			t.Errorf("If-None-Match %q: %d %v, want %d", tag, w.Code, w.Header(), want)
		}
	}
	// Nor does a change that another tenant's state was meant by go through.
	for _, target := range []string{"/products/tee", "/stock/tee", "/webhook-endpoints/wh"} {
		now := f.call("GET", target, "").Header().Get("ETag")
		body := map[string]string{"/products/tee": aWorldlyProduct, "/stock/tee": `{"onHand":2}`, "/webhook-endpoints/wh": `{"url":"https://b.example"}`}[target]
		for _, tag := range []string{contentTag(1, tenantSum("other")+1, ""), theirs} {
			if p := wantProblem(t, f.call("PUT", target, body, "If-Match", tag), 412, "precondition-failed"); !strings.Contains(p.Detail, now) {
				t.Errorf("%s: %q", target, p.Detail)
			}
		}
	}
}

func TestAChangeMayNameSeveralETagsInSeveralLines(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	f.mustPut("/stock/tee", `{"onHand":1}`)
	f.mustPut("/webhook-endpoints/wh", `{"url":"https://0.example"}`)
	for target, body := range map[string]string{
		"/products/tee": strings.Replace(aProduct, "1999", "N", 1), "/stock/tee": `{"onHand":N}`, "/webhook-endpoints/wh": `{"url":"https://N.example"}`,
	} {
		t.Run(target, func(t *testing.T) {
			stands := func() string { return f.call("GET", target, "").Header().Get("ETag") }
			for n, lines := range []string{`"v99", TAG`, `TAG,"v99-de"`, "\"v99\"\nTAG", "\"v99\", \"v98\"\n , \"v97-00000000\",\tTAG ,", "TAG\nTAG"} {
				tag := stands()
				w := f.call("PUT", target, strings.Replace(body, "N", string(rune('1'+n)), 1), "If-Match", strings.ReplaceAll(lines, "TAG", tag))
				if w.Code != 200 || w.Header().Get("ETag") == tag || w.Header().Get("ETag") != stands() {
					t.Errorf("%q at %s: %d %v %s", lines, tag, w.Code, w.Header(), w.Body)
				}
				// What stood does no more.
				p := wantProblem(t, f.call("PUT", target, strings.Replace(body, "N", "7", 1), "If-Match", strings.ReplaceAll(lines, "TAG", tag)), 412, "precondition-failed")
				if !strings.Contains(p.Detail, stands()) {
					t.Errorf("%q", p.Detail)
				}
			}
			if p := wantProblem(t, f.call("PUT", target, strings.Replace(body, "N", "8", 1), "If-Match", `"v99", W/`+stands()), 400, "invalid-parameter"); !strings.Contains(p.Detail, "is weak") {
				t.Errorf("%q", p.Detail)
			}
		})
	}
}

// behind is a catalogue whose memory has not seen the last change yet.
type behind struct {
	*fakeCatalog
	item *catalog.Item
}

func (b *behind) Get(context.Context, string, string) (*catalog.Item, error) { return b.item, nil }

func TestAChangeIsJudgedByTheStoreWhereMemoryIsBehind(t *testing.T) {
	old := &behind{}
	f := newFixture(t, func(o *Options) { old.fakeCatalog = o.Catalog.(*fakeCatalog); o.Catalog = old })
	f.mustPut("/products/tee", aProduct)
	f.catalog.mu.Lock()
	old.item = f.catalog.items["demo/tee"]
	f.catalog.mu.Unlock()
	first := f.call("GET", "/products/tee", "").Header().Get("ETag")
	second := f.put("/products/tee", aWorldlyProduct)
	// Another instance has shown the second.
	third := f.put("/products/tee", aProduct, "If-Match", second)
	fourth := f.put("/products/tee", aWorldlyProduct, "If-Match", first+", "+third)
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", first+", "+third), 412, "precondition-failed")
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", first), 412, "precondition-failed")
	wrong := strings.Replace(fourth, `-`, `-0`, 1)
	wrong = wrong[:len(wrong)-2] + `"`
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", first+", "+wrong), 412, "precondition-failed")
	if w := f.call("DELETE", "/products/tee", "", "If-Match", first+", "+fourth); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// put puts something and returns its ETag.
func (f *fixture) put(target, body string, headers ...string) string {
	f.t.Helper()
	w := f.call("PUT", target, body, headers...)
	if w.Code != 200 && w.Code != 201 {
		f.t.Fatalf("PUT %s: %d %s", target, w.Code, w.Body)
	}
	return w.Header().Get("ETag")
}

func TestADeletionTakesNoIfNoneMatch(t *testing.T) {
	f := newFixture(t)
	f.mustPut("/products/tee", aProduct)
	for _, tag := range []string{"*", `"v9"`, `"v1"`} {
		p := wantProblem(t, f.call("DELETE", "/products/tee", "", "If-None-Match", tag), 400, "invalid-parameter")
		if len(p.Errors) != 1 || p.Errors[0].Location != "header.If-None-Match" {
			t.Errorf("%+v", p.Errors)
		}
	}
	if w := f.call("GET", "/products/tee", ""); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
}
