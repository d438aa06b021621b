package place

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/language"
)

func TestAChainOfLanguages(t *testing.T) {
	for _, c := range []struct {
		name      string
		languages []string
		def       string
		want      []string
	}{
		{"the default alone", nil, "en", []string{"en"}},
		{"a language, then the default", []string{"de"}, "en", []string{"de", "en"}},
		{"the default is not there twice", []string{"en"}, "en", []string{"en"}},
		{"a region has its language", []string{"de-AT"}, "en", []string{"de-AT", "de", "en"}},
		{"a script stands between", []string{"zh-Hant-TW"}, "en", []string{"zh-Hant-TW", "zh-Hant", "zh", "en"}},
		{"a region tells the script", []string{"zh-TW"}, "en", []string{"zh-TW", "zh-Hant", "zh", "en"}},
		{"what other regions have in common", []string{"es-MX"}, "en", []string{"es-MX", "es-419", "es", "en"}},
		{"an extension goes as a whole", []string{"de-DE-u-co-phonebk"}, "en", []string{"de-DE-u-co-phonebk", "de-DE", "de", "en"}},
		{"a private tag stands alone", []string{"x-mine"}, "en", []string{"x-mine", "en"}},
		{"several, each with its parents", []string{"fr-CH", "de-CH", "fr"}, "en", []string{"fr-CH", "fr", "de-CH", "de", "en"}},
		{"case and underscores", []string{"DE_at", "ZH-hant"}, "EN", []string{"de-AT", "de", "zh-Hant", "zh", "en"}},
		{"old codes", []string{"iw", "sh"}, "en", []string{"he", "sr-Latn", "sr", "en"}},
		{"what is no language", []string{"", "*", "xx-", "123", "und", "x", strings.Repeat("a-", 100), "\x00", "de"}, "en", []string{"de", "en"}},
		{"another default, with its parents", []string{"de"}, "pt-BR", []string{"de", "pt-BR", "pt"}},
		{"no default", []string{"de"}, "", []string{"de"}},
		{"not too many, and the default is one", []string{"de", "fr", "es", "it", "nl", "pl", "pt", "ja", "zh", "ru", "ko"}, "en",
			[]string{"de", "fr", "es", "it", "nl", "pl", "pt", "ja", "zh", "en"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Chain(c.languages, c.def)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			known := newChains()
			for range 2 { // from nothing, and from memory
				if diff := cmp.Diff(c.want, known.append(nil, c.languages, c.def)); diff != "" {
					t.Errorf("remembered (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestLanguagesAreRememberedWithinABound(t *testing.T) {
	known := newChains()
	for i := range 10 * maxChains {
		known.append(nil, []string{fmt.Sprintf("de-x-a%d", i), fmt.Sprintf("no language %d", i)}, "en")
		if n := known.known.Size(); n > maxChains {
			t.Fatalf("%d tags are remembered after %d", n, i)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		var buf [MaxChain]string
		known.append(buf[:0], []string{"de-AT", "fr"}, "en")
	}); n != 0 {
		t.Errorf("a known chain costs %v allocations", n)
	}
}

func FuzzChain(f *testing.F) {
	for _, s := range []string{"de-AT", "zh-Hant-TW", "en-GB-oed", "i-klingon", "x-foo", "*", "de-DE-u-co-phonebk", "sl-rozaj-biske-1994", "a-b"} {
		f.Add(s, "en")
	}
	f.Fuzz(func(t *testing.T, tag, def string) {
		chain := Chain([]string{tag, "fr", tag}, def)
		if len(chain) > MaxChain || len(chain) == 0 {
			t.Fatalf("%q, %q: %d languages", tag, def, len(chain))
		}
		for i, l := range chain {
			if slices.Contains(chain[:i], l) {
				t.Errorf("%q, %q: %s is there twice: %q", tag, def, l, chain)
			}
			if parsed, err := language.Parse(l); err != nil || parsed.String() != l {
				t.Errorf("%q, %q: %q is not canonical: %v, %v", tag, def, l, parsed, err)
			}
		}
		if d := Chain(nil, def); len(d) > 0 && !slices.Contains(chain, d[0]) {
			t.Errorf("%q, %q: the default is not in %q", tag, def, chain)
		}
	})
}
