package place

import (
	"fmt"
	"slices"
	"strings"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/text/language"
)

// Bounds of languages.
const (
	// MaxChain bounds the languages that a reader is offered a name in.
	MaxChain = 10
	// maxTagBytes is longer than any tag in use; RFC 5646 asks for 35.
	maxTagBytes = 64
	// maxChains bounds the tags that are remembered with their parents.
	maxChains = 1024
)

// Chain returns the languages to look for a name in, best first: each of languages
// and then the default def, canonical, each followed by its parents (zh-Hant-TW,
// zh-Hant, zh), each once and at most MaxChain, of which the default is one. What is
// no BCP 47 tag, "*" included, is left out. It is safe for concurrent use.
func Chain(languages []string, def string) []string {
	return new(chains).append(nil, languages, def)
}

// chains makes chains, and remembers the parents of the tags that are asked for. The
// zero value remembers nothing. It is safe for concurrent use.
type chains struct {
	known *xsync.Map[string, []string] // a tag as it was asked for: canonical, with parents
}

func newChains() *chains { return &chains{known: xsync.NewMap[string, []string]()} }

// append appends a Chain to out, which is empty. With room in it nothing is
// allocated.
func (c *chains) append(out, languages []string, def string) []string {
	fallback := c.expand(def)
	room := MaxChain - len(fallback)
	for _, tag := range languages {
		for _, t := range c.expand(tag) {
			if len(out) < room && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
		if len(out) == room {
			break
		}
	}
	for _, t := range fallback {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// expand returns a tag, canonical, and its parents, none if it is no tag. The slice
// is shared: it must not be changed.
func (c *chains) expand(tag string) []string {
	if c.known == nil {
		return expand(tag)
	}
	if chain, ok := c.known.Load(tag); ok {
		return chain
	}
	chain := expand(tag)
	if len(chain) > 0 {
		if c.known.Size() >= maxChains {
			// Somebody tries them all. Those in use are soon there again.
			c.known.Clear()
		}
		c.known.Store(strings.Clone(tag), chain)
	}
	return chain
}

// expand is chains.expand, from nothing.
func expand(name string) []string {
	tag, err := parseTag(name)
	if err != nil {
		return nil
	}
	out := []string{tag.String()}
	add := func(t string) {
		if !slices.Contains(out, t) && len(out) < MaxChain/2 {
			out = append(out, t)
		}
	}
	// By what is known of languages: zh-TW is written as zh-Hant.
	for p := tag.Parent(); !p.IsRoot(); p = p.Parent() {
		add(p.String())
	}
	// By their text, as RFC 4647 looks them up, without extensions.
	subtags := strings.Split(out[0], "-")
	if i := slices.IndexFunc(subtags, func(s string) bool { return len(s) == 1 }); i >= 0 {
		subtags = subtags[:i]
	}
	for n := len(subtags); n > 0; n-- {
		add(strings.Join(subtags[:n], "-"))
	}
	return out
}

// canonicalTag returns a language tag as it is kept.
func canonicalTag(name string) (string, error) {
	switch name { // the usual ones, which are canonical
	case "en", "de", "fr", "es", "it", "nl", "pl", "pt", "ja", "zh":
		return name, nil
	}
	tag, err := parseTag(name)
	if err != nil {
		return "", err
	}
	return tag.String(), nil
}

func parseTag(name string) (language.Tag, error) {
	if len(name) <= maxTagBytes {
		if tag, err := language.Parse(name); err == nil && !tag.IsRoot() {
			return tag, nil
		}
	}
	return language.Und, fmt.Errorf("%q is not a language; use a BCP 47 tag such as en, de-AT or zh-Hant", clip(name))
}
