package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"millrace/internal/event/scan"
)

// maxBodyErrors bounds the mistakes that are told of one body.
const maxBodyErrors = 20

// jsonWalker reads a JSON text that is known to be valid, member by member, and
// keeps what is wrong with its shape: so only shapes are checked here, and nothing
// is built that is not wanted. It holds strings of the text, so it allocates next
// to nothing. It belongs to one goroutine.
type jsonWalker struct {
	text string
	pos  int
	// Where it is, for errors: the member it is in, and the position in its list, -1
	// outside one.
	in    string
	index int
	errs  []parameterError
}

// checkJSON says why a body is not one JSON value, nil if it is.
func checkJSON(body []byte) *problem {
	if scan.Valid(body) {
		return nil
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return newProblem(slugMalformedBody, "the body is empty; send a JSON object")
	}
	var any json.RawMessage
	err := json.Unmarshal(body, &any)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return newProblem(slugMalformedBody, fmt.Sprintf("at byte %d: %s", syntax.Offset, syntax.Error()))
	case !utf8.Valid(body):
		return newProblem(slugMalformedBody, "the body is not valid UTF-8")
	}
	return newProblem(slugMalformedBody, "the body is not valid JSON")
}

// walkJSON returns a walker over a body that checkJSON found to be valid. It
// copies the body once: the strings it gives may be kept.
func walkJSON(body []byte) jsonWalker {
	return jsonWalker{text: string(body), index: -1}
}

// problem returns what was found to be wrong, nil if nothing was.
func (w *jsonWalker) problem() *problem {
	if len(w.errs) == 0 {
		return nil
	}
	return invalidBody(w.errs...)
}

// invalidBody is the problem of a body with mistakes, of which there is at least
// one.
func invalidBody(errs ...parameterError) *problem {
	p := newProblem(slugInvalidBody, errs[0].Location+": "+errs[0].Message)
	p.Errors = errs
	return p
}

// wrong notes what is wrong with a member; an empty name stands for the value that
// the walker is in.
func (w *jsonWalker) wrong(name, format string, args ...any) {
	if len(w.errs) >= maxBodyErrors {
		return
	}
	at := "body"
	if w.in != "" {
		at += "." + w.in
	}
	if w.index >= 0 {
		at += "[" + strconv.Itoa(w.index) + "]"
	}
	if name != "" {
		at += "." + clip(name)
	}
	w.errs = append(w.errs, parameterError{Location: at, Message: fmt.Sprintf(format, args...)})
}

// next returns the first byte of the value that comes.
func (w *jsonWalker) next() byte {
	for w.text[w.pos] <= ' ' {
		w.pos++
	}
	return w.text[w.pos]
}

// isNull takes a null, which means the same as leaving the member out.
func (w *jsonWalker) isNull() bool {
	if w.next() != 'n' {
		return false
	}
	w.pos += len("null")
	return true
}

// mismatch notes that a value is of another type and skips it.
func (w *jsonWalker) mismatch(name, want string) {
	w.wrong(name, "is %s; give %s", typeOfJSON(w.next()), want)
	w.skip()
}

func typeOfJSON(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "text"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// members reads an object and calls do with the position of each member's name in
// known; do must take the value. Other members, and those that come twice, are
// wrong. It returns the members that were there, as bits.
func (w *jsonWalker) members(name string, known []string, do func(i int)) (seen uint32) {
	if w.next() != '{' {
		w.mismatch(name, "an object")
		return 0
	}
	w.pos++
	for {
		switch w.next() {
		case '}':
			w.pos++
			return seen
		case ',':
			w.pos++
			w.next()
		}
		member, whole := w.string()
		w.next()
		w.pos++ // the colon
		switch i := slices.Index(known, member); {
		case i < 0 || !whole:
			w.wrong(member, "is not known here; the members are %s", strings.Join(known, ", "))
			w.skip()
		case seen&(1<<i) != 0:
			w.wrong(member, "is there twice; give it once")
			w.skip()
		default:
			seen |= 1 << i
			do(i)
		}
	}
}

// list reads a list and calls do for each element, which do must take. Elements
// beyond most are wrong.
func (w *jsonWalker) list(name string, most int, do func()) {
	if w.next() != '[' {
		w.mismatch(name, "a list")
		return
	}
	w.pos++
	in := w.in
	w.in = name
	for n := 0; ; {
		switch w.next() {
		case ']':
			w.pos++
			w.in, w.index = in, -1
			return
		case ',':
			w.pos++
			continue
		}
		if n == most {
			w.index = -1
			w.wrong("", "has more than %d elements; give at most %d", most, most)
		}
		if n >= most {
			w.skip()
		} else {
			w.index = n
			do()
		}
		n++
	}
}

// word reads text; null is none.
func (w *jsonWalker) word(name string) string {
	if w.isNull() {
		return ""
	}
	if w.next() != '"' {
		w.mismatch(name, "text in quotes")
		return ""
	}
	s, whole := w.string()
	if !whole {
		w.wrong(name, halfCharacter)
	}
	return s
}

// halfCharacter is what is wrong with text that cannot be kept as it was sent.
const halfCharacter = `holds half of a surrogate pair, such as \ud83d alone; send the whole character`

// whole reads a whole number.
func (w *jsonWalker) whole(name string) int64 {
	c := w.next()
	if c != '-' && (c < '0' || c > '9') {
		w.mismatch(name, "a whole number without quotes")
		return 0
	}
	from := w.pos
	w.skip()
	digits := w.text[from:w.pos]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err == nil:
	case strings.ContainsAny(digits, ".eE"):
		w.wrong(name, "is %s; give a whole number, without a fraction and without an exponent", clip(digits))
	default:
		w.wrong(name, "is %s, which is out of range; give a number of at most %d", clip(digits), int64(math.MaxInt64))
	}
	return n
}

// skip takes a value, whatever it is.
func (w *jsonWalker) skip() {
	switch w.next() {
	case '"':
		w.skipString()
		return
	case '{', '[':
	default:
		for w.pos < len(w.text) && !strings.ContainsRune(" \t\r\n,]}", rune(w.text[w.pos])) {
			w.pos++
		}
		return
	}
	for depth := 0; ; {
		switch w.text[w.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				w.pos++
				return
			}
		case '"':
			w.skipString()
			continue
		}
		w.pos++
	}
}

// skipString takes a string and says whether there are escapes in it.
func (w *jsonWalker) skipString() (escaped bool) {
	for w.pos++; ; w.pos++ {
		switch w.text[w.pos] {
		case '\\':
			escaped = true
			w.pos++
		case '"':
			w.pos++
			return escaped
		}
	}
}

// string takes a string; whole is false if it holds half of a surrogate pair.
func (w *jsonWalker) string() (s string, whole bool) {
	from := w.pos + 1
	if !w.skipString() {
		return w.text[from : w.pos-1], true
	}
	return unescapeJSON(w.text[from : w.pos-1])
}

// unescapeJSON resolves the escapes of a valid string.
func unescapeJSON(s string) (text string, whole bool) {
	b, whole := make([]byte, 0, len(s)), true
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b = append(b, s[i])
			i++
			continue
		}
		c := s[i+1]
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
			r := hexRune(s[i : i+4])
			i += 4
			if utf16.IsSurrogate(r) {
				second := rune(-1)
				if strings.HasPrefix(s[i:], `\u`) {
					second = hexRune(s[i+2 : i+6])
				}
				if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
					whole = false
				} else {
					i += 6
				}
			}
			b = utf8.AppendRune(b, r)
			continue
		}
		b = append(b, c)
	}
	return string(b), whole
}

// hexRune reads four hexadecimal digits.
func hexRune(s string) rune {
	n, err := strconv.ParseUint(s, 16, 16)
	if err != nil {
		return utf8.RuneError // cannot be: the text is valid
	}
	return rune(n)
}
