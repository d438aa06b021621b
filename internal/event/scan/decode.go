package scan

import (
	"unicode/utf16"
	"unicode/utf8"
)

// unescape appends to dst the text of a string's inside that the parser has
// accepted. A surrogate without its other half becomes U+FFFD as in
// encoding/json; whole is false then.
func unescape(dst, inside []byte) (text []byte, whole bool) {
	whole = true
	for i := 0; i < len(inside); {
		c := inside[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		c = inside[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(inside[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				if r = secondHalf(r, inside[i:]); r == utf8.RuneError {
					whole = false
				} else {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
	return dst, whole
}

// secondHalf returns the character that the surrogate first makes with the
// escape at the beginning of rest, or utf8.RuneError if there is none.
func secondHalf(first rune, rest []byte) rune {
	if len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' {
		return utf8.RuneError
	}
	return utf16.DecodeRune(first, hex4(rest[2:]))
}

// isBase64 reports whether text is base64 of RFC 4648, padded, with the standard
// alphabet, as CloudEvents asks.
func isBase64(text []byte) bool {
	if len(text)%4 != 0 {
		return false
	}
	for range 2 {
		if n := len(text); n > 0 && text[n-1] == '=' {
			text = text[:n-1]
		}
	}
	for _, c := range text {
		if c-'0' > 9 && c|0x20-'a' > 25 && c != '+' && c != '/' {
			return false
		}
	}
	return true
}
