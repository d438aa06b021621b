package httpapi

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/puzpuzpuz/xsync/v4"

	"millrace/internal/place"
)

// negotiable returns the members of an Accept-… header and how much each is wanted, in
// thousandths. What is malformed, or has another parameter than a weight, is not wanted: 0. It
// allocates nothing.
func negotiable(values []string) iter.Seq2[string, int] {
	return func(yield func(member string, q int) bool) {
		for _, value := range values {
			for more := true; more; {
				var member string
				member, value, more = strings.Cut(value, ",")
				name, weight, weighed := strings.Cut(member, ";")
				q := 1000
				if weighed {
					q = parseWeight(strings.Trim(weight, " \t"))
				}
				if name = strings.Trim(name, " \t"); name != "" && !yield(name, q) {
					return
				}
			}
		}
	}
}

// parseWeight reads the "q=0.5" of RFC 9110, in thousandths. What is none is 0.
func parseWeight(s string) int {
	if len(s) < 3 || len(s) > len("q=0.123") || s[0]|0x20 != 'q' || s[1] != '=' || s[2] != '0' && s[2] != '1' || len(s) > 3 && s[3] != '.' {
		return 0
	}
	q := int(s[2]-'0') * 1000
	for i, unit := 4, 100; i < len(s); i, unit = i+1, unit/10 {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		q += int(s[i]-'0') * unit
	}
	if q > 1000 {
		return 0
	}
	return q
}

// acceptedEncoding returns the encoding that a caller likes best of those there are.
// Of two it likes equally it is the one that makes less of it. Who asks for anything
// at all gets gzip, which everybody can read; who can take nothing that there is gets
// it as it is.
func acceptedEncoding(values []string) encoding {
	if len(values) == 0 {
		return encodingIdentity
	}
	const unset = -1
	plain, gzipped, zipped, any := unset, unset, 0, unset
	for member, q := range negotiable(values) {
		switch {
		case len(member) > len("identity"): // no name that is known is longer
		case equalFold(member, "gzip"), equalFold(member, "x-gzip"):
			gzipped = q
		case equalFold(member, "zstd"):
			zipped = q
		case equalFold(member, "identity"):
			plain = q
		case member == "*":
			any = q
		}
	}
	if gzipped == unset {
		gzipped = max(any, 0)
	}
	if plain == unset {
		plain = 0 // worse than what was asked for, but it may be sent
	}
	switch best := max(gzipped, zipped); {
	case best == 0 || best < plain:
		return encodingIdentity
	case zipped == best:
		return encodingZstd
	}
	return encodingGzip
}

// equalFold says whether s is the word, which is in lower case and ASCII.
func equalFold(s, word string) bool {
	if len(s) != len(word) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] != word[i] && s[i]|0x20 != word[i] {
			return false
		}
	}
	return true
}

// Bounds of languages that are asked for.
const (
	// maxLangBytes bounds the parameter lang. The longest tags in use have 35 bytes.
	maxLangBytes = 64
	// maxAcceptLanguageBytes is how much of an Accept-Language is read.
	maxAcceptLanguageBytes = 512
	// maxPreferences bounds the combinations that are remembered: about 1 MiB.
	maxPreferences = 1024
	// lastLanguage is shown to those who asked for nothing that there is.
	lastLanguage = "en"
)

// preference is what languages a caller wants. It is shared and never changed.
type preference struct {
	// tags are the languages as they were asked for, best first: the parameter lang,
	// then those of Accept-Language.
	tags []string
	// chain are those and their parents, canonical, with English at the end; the first
	// own of them come of the parameter.
	chain []string
	own   int
}

// languages reads what languages are asked for, and remembers it by the text of the
// question. It is safe for concurrent use.
type languages struct {
	known *xsync.Map[wish, *preference]
}

// wish is a question for languages: the parameter lang and the Accept-Language.
type wish struct{ lang, accept string }

func newLanguages() *languages { return &languages{known: xsync.NewMap[wish, *preference]()} }

// of returns what languages are asked for; false if lang is none.
func (l *languages) of(lang string, accept []string) (*preference, bool) {
	w := wish{lang: lang}
	switch len(accept) {
	case 0:
	case 1:
		w.accept = accept[0]
	default:
		w.accept = strings.Join(accept, ",")
	}
	if len(w.accept) > maxAcceptLanguageBytes {
		// The rest, and what it cuts in two, is of languages that are hardly wanted.
		w.accept = w.accept[:strings.LastIndexByte(w.accept[:maxAcceptLanguageBytes], ',')+1]
	}
	if p, ok := l.known.Load(w); ok {
		return p, true
	}
	p, ok := readPreference(w)
	if !ok {
		return nil, false
	}
	if l.known.Size() >= maxPreferences {
		// Somebody tries them all. Those in use are soon there again.
		l.known.Clear()
	}
	// The texts of a request are parts of its whole header.
	l.known.Store(wish{lang: strings.Clone(w.lang), accept: strings.Clone(w.accept)}, p)
	return p, true
}

func readPreference(w wish) (*preference, bool) {
	p := &preference{}
	if w.lang != "" {
		own := place.Chain([]string{w.lang}, "")
		if len(w.lang) > maxLangBytes || len(own) == 0 {
			return nil, false
		}
		p.own = len(own)
		p.tags = append(p.tags, own[0])
	}
	type weighed struct {
		tag string
		q   int
	}
	var accepted []weighed
	for tag, q := range negotiable([]string{w.accept}) {
		if q > 0 && tag != "*" && len(tag) <= maxLangBytes && len(accepted) < 4*place.MaxChain {
			accepted = append(accepted, weighed{tag, q})
		}
	}
	slices.SortStableFunc(accepted, func(a, b weighed) int { return cmp.Compare(b.q, a.q) })
	for _, a := range accepted {
		if tag := strings.Clone(a.tag); len(p.tags) < place.MaxChain && !slices.Contains(p.tags, tag) {
			p.tags = append(p.tags, tag)
		}
	}
	p.chain = place.Chain(p.tags, lastLanguage)
	return p, true
}

// choose returns the language of texts that is wanted most: the first of the chain,
// else the first in the alphabet. asked says that it is what the parameter lang asked
// for, whatever the caller's Accept-Language is.
func (p *preference) choose(texts map[string]string) (language string, asked bool) {
	for i, tag := range p.chain {
		if _, ok := texts[tag]; ok {
			return tag, i < p.own
		}
	}
	return firstLanguage(texts), false
}

// firstLanguage returns the first language of texts in the alphabet.
func firstLanguage(texts map[string]string) (first string) {
	for tag := range texts {
		if first == "" || tag < first {
			first = tag
		}
	}
	return first
}
