package sql

import (
	"encoding/json"
	"strings"
)

// interner keeps one copy of texts that many rows have in common: tenants, languages,
// currencies. It is for one goroutine.
type interner struct{ known map[string]string }

// maxInterned bounds an interner; what comes later is kept as it is.
const maxInterned = 10_000

func newInterner() *interner { return &interner{known: map[string]string{}} }

func (n *interner) of(s string) string {
	if there, ok := n.known[s]; ok {
		return there
	}
	if len(n.known) < maxInterned {
		s = strings.Clone(s) // not with the row that it stands in
		n.known[s] = s
	}
	return s
}

// texts decodes a JSON object of strings by language. Objects as textsJSON writes
// them, without escapes, are cut apart; what else there is, encoding/json decodes.
func (n *interner) texts(object string) (map[string]string, error) {
	if m, ok := n.cut(object); ok {
		return m, nil
	}
	var m map[string]string
	err := json.Unmarshal([]byte(object), &m)
	return m, err
}

// cut decodes an object that has neither escapes nor white space between its parts;
// ok is false for any other.
func (n *interner) cut(object string) (_ map[string]string, ok bool) {
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' || strings.IndexByte(object, '\\') >= 0 {
		return nil, false
	}
	rest := object[1 : len(object)-1]
	if rest == "" {
		return map[string]string{}, true
	}
	m := make(map[string]string, 1)
	for {
		var language, text string
		if language, rest, ok = cutString(rest); !ok || rest == "" || rest[0] != ':' {
			return nil, false
		}
		if text, rest, ok = cutString(rest[1:]); !ok {
			return nil, false
		}
		m[n.of(language)] = text
		if rest == "" {
			return m, true
		}
		if rest[0] != ',' {
			return nil, false
		}
		rest = rest[1:]
	}
}

// cutString cuts a JSON string without escapes off.
func cutString(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", s, false
	}
	end := strings.IndexByte(s[1:], '"')
	if end < 0 {
		return "", s, false
	}
	return s[1 : 1+end], s[end+2:], true
}

// textsJSON writes texts by language as a JSON object.
func textsJSON(texts map[string]string) (string, error) {
	if len(texts) == 0 {
		return "{}", nil
	}
	object, err := json.Marshal(texts)
	return string(object), err
}
