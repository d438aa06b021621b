package httpapi

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzAppendStringAgreesWithEncodingJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\x7f\n\r\t\b\f", "ü€😀", "\u2028\u2029", "\xff\xc0\xaf", "a\xed\xa0\x80b", strings.Repeat("x", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := appendString(nil, s)
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%q becomes %s: %v", s, got, err)
		}
		std, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want string
		if err := json.Unmarshal(std, &want); err != nil {
			t.Fatal(err)
		}
		if back != want || !utf8.Valid(got) || strings.ContainsAny(string(got), "\n\r\u2028\u2029") {
			t.Errorf("%q becomes %s, which reads as %q; want %q", s, got, back, want)
		}
	})
}

func FuzzTraceparent(f *testing.F) {
	for _, s := range []string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseTraceparent([]string{s})
		if !ok {
			return
		}
		if !c.TraceID.IsValid() || !c.SpanID.IsValid() {
			t.Fatalf("%q gives ids that are not valid", s)
		}
		again, ok := parseTraceparent([]string{formatTraceparent(c)})
		if !ok || again.TraceID != c.TraceID || again.SpanID != c.SpanID || again.TraceFlags != c.TraceFlags {
			t.Errorf("%q does not survive being written", s)
		}
	})
}

func TestTraceparentIsReadAsW3CSaysIt(t *testing.T) {
	const ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
	for _, c := range []struct {
		name, value string
		ok, sampled bool
	}{
		{"sampled", "00-" + ids + "-01", true, true},
		{"not sampled", "00-" + ids + "-00", true, false},
		{"further flags", "00-" + ids + "-03", true, true},
		{"a later version", "01-" + ids + "-01", true, true},
		{"a later version with more", "01-" + ids + "-01-more", true, true},
		{"a later version with more and no dash", "01-" + ids + "-01more", false, false},
		{"version 00 with more", "00-" + ids + "-01-more", false, false},
		{"the version there is not", "ff-" + ids + "-01", false, false},
		{"upper case", strings.ToUpper("00-" + ids + "-01"), false, false},
		{"no trace id", "00-00000000000000000000000000000000-b7ad6b7169203331-01", false, false},
		{"no span id", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false, false},
		{"too short", "00-" + ids, false, false},
		{"nothing", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseTraceparent([]string{c.value})
			if ok != c.ok || got.TraceFlags.IsSampled() != c.sampled {
				t.Errorf("read %v, sampled %v", ok, got.TraceFlags.IsSampled())
			}
			if ok && got.TraceID.String() != ids[:32] {
				t.Errorf("trace id %s", got.TraceID)
			}
		})
	}
	if _, ok := parseTraceparent([]string{"00-" + ids + "-01", "00-" + ids + "-01"}); ok {
		t.Error("two headers are taken for one")
	}
}
