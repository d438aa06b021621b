package sql

import (
	"encoding/json"
	"fmt"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestTextsComeBackWhateverIsInThem(t *testing.T) {
	for _, texts := range []map[string]string{
		{}, {"en": ""}, {"en": "Town"}, {"en": "Germany", "de": "Deutschland", "ja": "ドイツ"},
		{"en": `"a":"b","c"`}, {"en": `a\`, "de": `{"}`}, {"en": "<b> & \u2028 \t\n\x7f"}, {"": ""}, {"a,b": "c:d"},
	} {
		object, err := textsJSON(texts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := newInterner().texts(object)
		if diff := cmp.Diff(texts, got); diff != "" || err != nil {
			t.Errorf("%s: error %v, differs (-want +got):\n%s", object, err, diff)
		}
	}
	for object, want := range map[string]map[string]string{
		` { "en" : "Town" } `:         {"en": "Town"},
		`{"en":"a","en":"b"}`:         {"en": "b"},
		`{"en":"T\u00f6wn","de":"x"}`: {"en": "Töwn", "de": "x"},
	} {
		if got, err := newInterner().texts(object); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: %v, error %v; want %v", object, got, err, want)
		}
	}
	for _, object := range []string{"", "{", "}", `{"en"}`, `{"en":}`, `{"en":"a",}`, `{"en":"a"]`, `{"en":"a""de":"b"}`, `{"en":1}`, `[]`, `{,}`, `{"en":"a"}}`} {
		if got, err := newInterner().texts(object); err == nil {
			t.Errorf("%q is taken for %v", object, got)
		}
	}
}

func TestAnInternerIsBounded(t *testing.T) {
	n := newInterner()
	for i := range 2 * maxInterned {
		if s := fmt.Sprint("text ", i); n.of(s) != s {
			t.Fatalf("%q became another", s)
		}
	}
	if len(n.known) != maxInterned {
		t.Errorf("%d texts are kept, want %d", len(n.known), maxInterned)
	}
}

func FuzzTexts(f *testing.F) {
	f.Add(`{"en":"Town","de":"Stadt"}`, "en", "Town")
	f.Add(`{"en":"a","en":"b"}`, `"`, `\`)
	f.Add(`{"":""}`, "", "\u2028<>&")
	f.Fuzz(func(t *testing.T, object, language, text string) {
		if !utf8.ValidString(object) || !utf8.ValidString(language) || !utf8.ValidString(text) {
			return // no database has it
		}
		var want map[string]string
		if err := json.Unmarshal([]byte(object), &want); err == nil && want != nil {
			if got, ok := newInterner().cut(object); ok && !cmp.Equal(want, got) {
				t.Errorf("%q is cut into %v, and is %v", object, got, want)
			}
		}
		pair := map[string]string{language: text}
		written, err := textsJSON(pair)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := newInterner().texts(written); err != nil || !cmp.Equal(pair, got) {
			t.Errorf("%q comes back as %v, error %v", pair, got, err)
		}
	})
}
