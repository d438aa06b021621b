package place

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNamesAreFoldedAsPeopleTypeThem(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"what is folded stays", "berlin", "berlin"},
		{"upper case", "BERLIN", "berlin"},
		{"diacritics", "São Paulo", "sao paulo"},
		{"diacritics that stand apart", "Sa\u0303o Paulo", "sao paulo"},
		{"umlauts", "MÜNCHEN", "munchen"},
		{"several marks on a letter", "Đà Nẵng", "da nang"},
		{"a stroke", "Łódź", "lodz"},
		{"a special letter with a mark", "Ǿ", "o"},
		{"sharp s", "Straße", "strasse"},
		{"capital sharp s", "STRAẞE", "strasse"},
		{"ligatures", "Æbeltoft Œuf ﬁn", "aebeltoft oeuf fin"},
		{"Icelandic letters", "Þórshöfn Eiði", "thorshofn eidi"},
		{"Turkish dotted and dotless i", "İstanbul Iğdır", "istanbul igdir"},
		{"Azerbaijani", "Gəncə", "gence"},
		{"dashes", "Saint-Denis", "saint denis"},
		{"a dash of another kind", "Saint\u2010Denis \u2013 Réunion", "saint denis reunion"},
		{"white space around and between", "  New\u00a0 York\t", "new york"},
		{"two spaces", "new  york", "new york"},
		{"apostrophes", "L'Aquila", "laquila"},
		{"apostrophes of books", "L’Aquila", "laquila"},
		{"an accent for an apostrophe", "L´Aquila", "laquila"},
		{"letters that look like apostrophes", "Afgʻoniston", "afgoniston"},
		{"a grave accent alone", "Ta`izz", "taizz"},
		{"full stops", "St. Moritz, U.S.A.", "st moritz usa"},
		{"brackets", "Korea (Republic of)", "korea republic of"},
		{"digits", "10th of Ramadan City", "10th of ramadan city"},
		{"full width", "Ｔｏｋｙｏ", "tokyo"},
		{"Greek with its accents and final sigma", "Ελλάδα Πειραιάς", "ελλαδα πειραιασ"},
		{"Cyrillic", "Йошкар-Ола Орёл", "иошкар ола орел"},
		{"Arabic with vowels and stretched", "مَكَّة مـكة", "مكة مكة"},
		{"Hebrew with points", "יְרוּשָׁלַיִם", "ירושלים"},
		{"Han", "東京", "東京"},
		{"kana keeps its voice", "ガ", "カ\u3099"},
		{"half-width kana is kana", "ｶﾞ", "カ\u3099"},
		{"Devanagari keeps its vowels", "दिल्ली", "दिल्ली"},
		{"a joiner nobody sees", "هنگ\u200cکنگ", "هنگکنگ"},
		{"a zero-width space", "បួ\u200bគី", "បួគី"},
		{"nothing", "", ""},
		{"nothing but what is dropped", "...", "..."},
		{"nothing but spaces", " - ", " - "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fold(c.in); got != c.want {
				t.Errorf("fold(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestANameThatIsFoldedCostsNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { fold("san francisco 2") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSearchKeysBeginWithOneCharacterForTheLanguage(t *testing.T) {
	for _, language := range []string{"en", "de", "zh-Hant", "sr-Latn-ME"} {
		key := searchKey(language, "oslo")
		r, size := utf8.DecodeRuneInString(key)
		if r < 0xE000 || r > 0xF8FF || key[size:] != "oslo" {
			t.Errorf("%s: %q", language, key)
		}
	}
	if searchKey("en", "x") == searchKey("de", "x") {
		t.Error("English and German are one")
	}
}

func FuzzFold(f *testing.F) {
	for _, s := range []string{"Saint-Denis", "São Paulo", "İstanbul", "ガ", "한국", "Ǿ", "'", "\xff", "a\u0344b", "ẞ", "ſt", "Ω", "ﷺ", "\u1e9b\u0323"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := fold(s)
		if again := fold(got); again != got {
			t.Errorf("fold(%q) = %q, folded again %q", s, got, again)
		}
		if (got == "") != (s == "") {
			t.Errorf("fold(%q) = %q", s, got)
		}
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("fold(%q) = %q is not UTF-8", s, got)
		}
		// A name is decomposed into 18 characters at most, of 4 bytes at most.
		if len(got) > 3*18*max(len(s), 1) {
			t.Errorf("fold of %d bytes has %d", len(s), len(got))
		}
		if isASCII(s) && fold(strings.ToUpper(s)) != fold(strings.ToLower(s)) && strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") {
			t.Errorf("case matters: %q", s)
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

func BenchmarkFold(b *testing.B) {
	for _, c := range []struct{ name, in string }{{"folded", "san francisco"}, {"ASCII", "San Francisco"}, {"Latin", "São Paulo"}, {"Han", "東京都"}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fold(c.in)
			}
		})
	}
}
