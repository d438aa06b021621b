package place

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// fold writes a name as it is compared when people search: what they would type in
// a hurry finds it. Case and diacritics are dropped, letters that are no diacritics
// but are typed as others are replaced (ø o, ł l, ß ss), apostrophes and full stops
// are dropped, and whatever else stands between words is one space. So "saint-d"
// finds "Saint-Denis", "laqu" finds "L’Aquila" and "lodz" finds "Łódź".
//
// Marks are dropped of scripts that are read without them (Latin, Greek, Cyrillic,
// Arabic, Hebrew). Those that make another letter (kana, the scripts of India and
// South East Asia) are kept. A name of which nothing is left is kept as it is, so
// that every name can be found. Folding what is folded changes nothing.
func fold(name string) string {
	if folded, ok := foldASCII(name); ok {
		return folded
	}
	folded := foldAny(name)
	// Decomposing may bring what is decomposed again, such as a special letter with a
	// mark on it, and so may lower case. Twice has been enough; three times is a bound.
	for range 3 {
		again := foldAny(folded)
		if again == folded {
			break
		}
		folded = again
	}
	return folded
}

// What is done with a character of ASCII.
const (
	asciiKeep  = iota
	asciiLower // upper case
	asciiDrop
	asciiSpace
)

func asciiClass(c byte) int {
	switch {
	case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		return asciiKeep
	case c >= 'A' && c <= 'Z':
		return asciiLower
	case c == '\'', c == '.', c == '`', c == '"':
		return asciiDrop
	}
	return asciiSpace
}

// foldASCII folds a name that is ASCII alone, without allocation if it is folded
// already. ok is false if it is not for it.
func foldASCII(name string) (folded string, ok bool) {
	clean, space := true, true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= utf8.RuneSelf {
			return "", false
		}
		switch asciiClass(c) {
		case asciiKeep:
			space = false
		case asciiSpace:
			clean = clean && c == ' ' && !space
			space = true
		default:
			clean = false
		}
	}
	if name == "" || clean && !space {
		return name, true
	}
	var b strings.Builder
	b.Grow(len(name))
	gap := false
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch asciiClass(c) {
		case asciiDrop:
			continue
		case asciiSpace:
			gap = true
			continue
		case asciiLower:
			c += 'a' - 'A'
		}
		if gap && b.Len() > 0 {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteByte(c)
	}
	if b.Len() == 0 {
		return name, true // "..." is found by its own
	}
	return b.String(), true
}

// foldAny folds any name, once.
func foldAny(name string) string {
	var b strings.Builder
	b.Grow(len(name))
	gap := false
	write := func(s string) {
		if gap && b.Len() > 0 {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteString(s)
	}
	var buf [utf8.UTFMax]byte
	for _, r := range norm.NFKD.String(dropApostrophes(name)) {
		r = unicode.ToLower(r)
		switch special, ok := specialLetters[r]; {
		case ok:
			if special != "" {
				write(special)
			}
		case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
			if keepsMark(r) {
				write(string(buf[:utf8.EncodeRune(buf[:], r)]))
			}
		case unicode.Is(unicode.Cf, r): // such as a joiner, which nobody sees
		case unicode.IsLetter(r), unicode.IsNumber(r), unicode.Is(unicode.Mc, r):
			write(string(buf[:utf8.EncodeRune(buf[:], r)]))
		default:
			gap = true
		}
	}
	if b.Len() == 0 {
		return name
	}
	return norm.NFD.String(b.String())
}

// dropApostrophes drops the accents that stand alone for an apostrophe: decomposed
// they would be a space.
func dropApostrophes(name string) string {
	if !strings.ContainsAny(name, "´῾᾿") {
		return name
	}
	return strings.NewReplacer("´", "", "῾", "", "᾿", "").Replace(name)
}

// keepsMark says whether a mark makes another letter of the one it stands on.
func keepsMark(r rune) bool {
	switch r {
	case '\u3099', '\u309a': // the voiced marks of kana
		return true
	case '\u034f': // joins graphemes, and is not seen
		return false
	}
	return !unicode.In(r, unicode.Inherited, unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Arabic, unicode.Hebrew)
}

// specialLetters are letters that do not decompose and how they are typed, in lower
// case, and what is dropped.
var specialLetters = map[rune]string{
	'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ð': "d", 'þ': "th", 'ł': "l", 'ħ': "h",
	'ı': "i", 'ŋ': "n", 'ŧ': "t", 'ə': "e", 'ĸ': "k", 'ɓ': "b", 'ɗ': "d", 'ɖ': "d", 'ƙ': "k", 'ǝ': "e", 'ɛ': "e", 'ɔ': "o", 'ƴ': "y", 'ɣ': "g",
	'ς': "σ", // at the end of a word
	// Apostrophes, quotation marks and what letters of other alphabets are written as.
	'\'': "", '’': "", '‘': "", '‛': "", '′': "", '`': "", '"': "", '“': "", '”': "", '„': "", '″': "",
	'ʻ': "", 'ʼ': "", 'ʽ': "", 'ʾ': "", 'ʿ': "", 'ˈ': "", 'ʹ': "", 'ʺ': "", 'ꞌ': "", '.': "", '·': "",
	'\u0640': "", // stretches an Arabic word
}
