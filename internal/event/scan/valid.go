package scan

// Valid reports whether text is one JSON value by RFC 8259 in valid UTF-8,
// nested no deeper than 10,000: what json.Valid and utf8.Valid agree on. It is
// safe for concurrent use and allocates nothing.
func Valid(text []byte) bool {
	var p parser
	i := p.value(text, 0, 0)
	return i >= 0 && space(text, i) == len(text) && !p.notUTF8
}

// Member returns the raw value of an object's first member of that name, names
// compared exactly and after their escapes are resolved; nil if there is none or
// the text is not an object up to there. It is safe for concurrent use.
func Member(object []byte, name string) []byte {
	var p parser
	i := space(object, 0)
	if i >= len(object) || object[i] != '{' {
		return nil
	}
	for i++; ; i++ {
		nameAt := space(object, i)
		var escaped bool
		if i, escaped = p.key(object, nameAt); i < 0 {
			return nil
		}
		text := inside(object[nameAt:i])
		if escaped {
			text, _ = unescape(nil, text)
		}
		from := space(object, i)
		if i = p.value(object, from, 1); i < 0 {
			return nil
		}
		if string(text) == name {
			return object[from:i]
		}
		if i = space(object, i); i >= len(object) || object[i] != ',' {
			return nil
		}
	}
}
