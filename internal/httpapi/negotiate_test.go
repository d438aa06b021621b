package httpapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnEncodingIsChosenByWhatTheCallerLikes(t *testing.T) {
	for _, c := range []struct {
		name, accept string
		want         encoding
	}{
		{"nothing is said", "", encodingIdentity},
		{"gzip", "gzip", encodingGzip},
		{"zstd", "zstd", encodingZstd},
		{"an old name of gzip", "x-gzip", encodingGzip},
		{"case does not matter", "GZIP;Q=1.0", encodingGzip},
		{"of two the smaller", "gzip, zstd", encodingZstd},
		{"what browsers send", "gzip, deflate, br, zstd", encodingZstd},
		{"the one that is liked better", "gzip;q=1, zstd;q=0.9", encodingGzip},
		{"unknown ones alone", "br, deflate, compress;q=0.5", encodingIdentity},
		{"anything", "*", encodingGzip},
		{"anything but gzip", "gzip;q=0, *", encodingIdentity},
		{"a word for the rest does not raise gzip", "gzip;q=0.2, zstd;q=0.1, *;q=0.9", encodingGzip},
		{"as it is", "identity", encodingIdentity},
		{"rather as it is", "identity, gzip;q=0.5", encodingIdentity},
		{"not as it is", "identity;q=0, gzip;q=0.001", encodingGzip},
		{"not gzip", "gzip;q=0", encodingIdentity},
		{"nothing at all", "*;q=0", encodingIdentity},
		{"nothing at all, not even as it is", "identity;q=0, *;q=0", encodingIdentity},
		{"weights with spaces", "  zstd ; q=0.5 ,\tgzip;q=0.4", encodingZstd},
		{"weights that are none", "gzip;q=2, zstd;q=x, zstd;level=3", encodingIdentity},
		{"three digits", "gzip;q=0.999, zstd;q=0.998", encodingGzip},
		{"too many digits", "gzip;q=0.9999", encodingIdentity},
		{"a weight that is none is no wish, whatever the rest is", "gzip;q=x, *", encodingIdentity},
		{"a parameter that is none is no wish", "zstd;level=3, gzip;q=0.5;x=y, *;q=0.1", encodingIdentity},
		{"empty members", ",, gzip ,", encodingGzip},
		{"part of a name", "gzi, gzipp, zst", encodingIdentity},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := acceptedEncoding([]string{c.accept}); got != c.want {
				t.Errorf("%q: %v, want %v", c.accept, got, c.want)
			}
			if got := acceptedEncoding(strings.Split(c.accept, ",")); got != c.want {
				t.Errorf("%q in several lines: %v, want %v", c.accept, got, c.want)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { acceptedEncoding([]string{"gzip, deflate, br;q=0.8, zstd"}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLanguagesAreReadByHowMuchTheyAreWanted(t *testing.T) {
	for _, c := range []struct {
		name, lang, accept string
		tags, chain        []string
		own                int
	}{
		{"nothing", "", "", nil, []string{"en"}, 0},
		{"the parameter", "de-AT", "", []string{"de-AT"}, []string{"de-AT", "de", "en"}, 2},
		{"the header", "", "fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5", []string{"fr-CH", "fr", "en", "de"}, []string{"fr-CH", "fr", "en", "de"}, 0},
		{"the parameter before the header", "ja", "de", []string{"ja", "de"}, []string{"ja", "de", "en"}, 1},
		{"by weight, then in order", "", "en;q=0.2, de;q=0.8, fr, es;q=0.8", []string{"fr", "de", "es", "en"}, []string{"fr", "de", "es", "en"}, 0},
		{"not at all", "", "de;q=0, fr;q=0.1", []string{"fr"}, []string{"fr", "en"}, 0},
		{"what is malformed is left out", "", "de;q=1.5, ;q=1, fr;x=y, es", []string{"es"}, []string{"es", "en"}, 0},
		{"what is no language stays out of the chain", "", "123, es", []string{"123", "es"}, []string{"es", "en"}, 0},
		{"twice", "de", "de, de-DE;q=0.5", []string{"de", "de-DE"}, []string{"de", "de-DE", "en"}, 1},
		{"another spelling", "DE_at", "", []string{"de-AT"}, []string{"de-AT", "de", "en"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLanguages()
			for range 2 { // from nothing, and from memory
				p, ok := l.of(c.lang, []string{c.accept})
				if !ok {
					t.Fatal("refused")
				}
				if diff := cmp.Diff(preference{c.tags, c.chain, c.own}, *p, cmp.AllowUnexported(preference{})); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	for _, lang := range []string{"x", "english!", "d", "und", strings.Repeat("de-", 30) + "de"} {
		if _, ok := newLanguages().of(lang, nil); ok {
			t.Errorf("%q is taken for a language", lang)
		}
	}
}

func TestLanguagesThatAreAskedForAreRememberedWithinABound(t *testing.T) {
	l := newLanguages()
	for i := range 3 * maxPreferences {
		if _, ok := l.of("", []string{fmt.Sprintf("de;q=0.%03d, fr-%d", i%1000, i)}); !ok {
			t.Fatal("refused")
		}
		if n := l.known.Size(); n > maxPreferences {
			t.Fatalf("%d are remembered after %d", n, i)
		}
	}
	long := strings.Repeat("de-x-abcdefgh, ", 1000) + "fr"
	p, ok := l.of("", []string{long})
	if !ok || len(p.tags) != 1 || p.tags[0] != "de-x-abcdefgh" {
		t.Errorf("%v %+v", ok, p)
	}
	for w := range l.known.All() {
		if len(w.accept) > maxAcceptLanguageBytes {
			t.Errorf("a question of %d bytes is remembered", len(w.accept))
		}
	}
	if p, ok := l.of("", []string{strings.Repeat("x", 2*maxAcceptLanguageBytes)}); !ok || len(p.tags) != 0 {
		t.Errorf("one long word: %v %+v", ok, p)
	}
	many := []string{"de", "fr;q=0.5"}
	if p, _ := l.of("", many); !cmp.Equal(p.tags, []string{"de", "fr"}) {
		t.Errorf("several lines: %q", p.tags)
	}
}

func FuzzNegotiation(f *testing.F) {
	for _, s := range []string{"gzip;q=0.5, *", "de-AT;q=1.000,en;q=0", ";;,,", "q=;q=", "*;q=0.1234"} {
		f.Add("de", s)
	}
	l := newLanguages()
	f.Fuzz(func(t *testing.T, lang, header string) {
		for member, q := range negotiable([]string{header}) {
			if member == "" || q < 0 || q > 1000 || !strings.Contains(header, member) {
				t.Errorf("%q: member %q with weight %d", header, member, q)
			}
		}
		if enc := acceptedEncoding([]string{header}); enc != encodingIdentity && !strings.ContainsAny(header, "gGzZ*") {
			t.Errorf("%q: %v", header, enc)
		}
		if p, ok := l.of(lang, []string{header}); ok && (len(p.chain) == 0 || len(p.tags) > 10 || p.own > len(p.chain)) {
			t.Errorf("%q, %q: %+v", lang, header, p)
		}
		_ = matches([]string{header}, `"v1"`)
		if e, ok := readETag(header); ok && (e.version < 1 || header[0] != '"') {
			t.Errorf("%q is %+v", header, e)
		}
		if p, err := readPrecondition([]string{header}, nil); err == nil && slices.ContainsFunc(p.tags, func(e etag) bool { return e.version < 1 }) {
			t.Errorf("%q is %+v", header, p)
		}
	})
}
