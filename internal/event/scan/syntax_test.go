package scan

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkValid compares Valid with the standard library.
func checkValid(t *testing.T, text string) {
	t.Helper()
	want := json.Valid([]byte(text)) && utf8.ValidString(text)
	if got := Valid([]byte(text)); got != want {
		t.Errorf("Valid is %v, want %v: %.200q", got, want, text)
	}
}

func TestEveryByteInEveryPlaceIsJudgedAsEncodingJSONDoes(t *testing.T) {
	places := []string{
		`@`, `@1`, `1@`, `-@`, `0@`, `1.@`, `1.0@`, `1e@`, `1e+@`, `[@]`, `[1@]`, `[1@2]`, `[1,@]`, `{@}`, `{@"a":1}`, `{"a"@1}`, `{"a":@}`,
		`{"a":1@}`, `{"a":1@"b":2}`, `tru@`, `true@`, `nul@`, `fals@`, `"\@"`, `"\u@000"`, `"\u0@00"`, `"\u00@0"`, `"\u000@"`, `"@`, `"\@`,
	}
	// A string's text is read a word at a time: the byte goes to each place of a
	// word, of the next word and of what is left after the last.
	for n := range 20 {
		places = append(places, `"`+strings.Repeat("a", n)+`@"`, `["`+strings.Repeat("a", n)+`@", "some more text"]`, `{"`+strings.Repeat("a", n)+`@":1}`)
	}
	for _, place := range places {
		for c := range 256 {
			checkValid(t, strings.ReplaceAll(place, "@", string([]byte{byte(c)})))
		}
	}
}

func TestEveryCutOfATextIsJudgedAsEncodingJSONDoes(t *testing.T) {
	text := string(telemetryBatch(2)) + ` `
	for i := range len(text) {
		checkValid(t, text[:i])
		checkValid(t, text[i:])
		checkValid(t, text[:i]+text[i+1:])
	}
}

func TestDeepTextsOfMixedKindsAreJudgedAsEncodingJSONDoes(t *testing.T) {
	closers := map[string]string{"[": "]", `{"a":`: "}"}
	for _, pattern := range [][]string{{"["}, {`{"a":`}, {"[", `{"a":`}, {"[", "[", `{"a":`}, {`{"a":`, `{"a":`, `{"a":`, "["}} {
		for _, depth := range []int{1, 2, 63, 64, 65, 127, 128, 129, 130, 1000, 9999, 10_000, 10_001} {
			var open, closing strings.Builder
			ends := make([]string, depth)
			for i := range depth {
				kind := pattern[i%len(pattern)]
				open.WriteString(kind)
				ends[depth-1-i] = closers[kind]
			}
			for _, end := range ends {
				closing.WriteString(end)
			}
			text, end := open.String()+"1", closing.String()
			checkValid(t, text+end)
			checkValid(t, text+end[:len(end)-1])
			for i := 0; i < len(end) && depth < 1000; i++ {
				other := "]"
				if end[i] == ']' {
					other = "}"
				}
				checkValid(t, text+end[:i]+other+end[i+1:])
				checkValid(t, text+end[:i]+`,1`+end[i:])
			}
		}
	}
}
