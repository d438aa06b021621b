package scan

// Valid reports whether text is one JSON value by RFC 8259 in valid UTF-8,
// nested no deeper than 10,000: what json.Valid and utf8.Valid agree on. It is
// safe for concurrent use and allocates nothing.
func Valid(text []byte) bool {
	var p parser
	i := p.value(text, 0, 0)
	return i >= 0 && space(text, i) == len(text) && !p.notUTF8
}
