package scan

import (
	"math/bits"
	"unicode/utf8"
)

// maxNesting is how deep any JSON text may nest, as in encoding/json.
const maxNesting = 10_000

// parser walks JSON text and checks it. Its methods take the text and a position
// and return the position after what they read, or failed, in which case failAt
// and failReason say where and why. What is no matter of syntax is noted on the
// way: how deep the text nests, bytes that are not UTF-8, and \u0000.
//
// Text and position travel as arguments, not as fields, so that they stay in
// registers: that is worth a third of the speed.
type parser struct {
	failAt     int
	failReason string

	deepest int  // containers around the innermost value seen
	notUTF8 bool // a string holds bytes that are not UTF-8
	nul     bool // a string holds \u0000

	// outer keeps the kinds of the containers that do not fit into one word, 64
	// to the word, for the value being read.
	outer [maxNesting/64 + 1]uint64
}

const failed = -1

func (p *parser) fail(at int, reason string) int {
	p.failAt, p.failReason = at, reason
	return failed
}

// forget drops the notes taken so far; depth is the number of containers around
// what comes next.
func (p *parser) forget(depth int) {
	p.deepest, p.notUTF8, p.nul = depth, false, false
}

// Reasons for a text not to be JSON.
const (
	reasonEnds        = "the JSON text ends too early: send the whole of it"
	reasonNoValue     = "a JSON value is expected here"
	reasonNoKey       = "a member name in double quotes is expected here"
	reasonNoColon     = "a colon is expected after a member name"
	reasonNoComma     = `"," or "}" is expected after a member`
	reasonNoItemComma = `"," or "]" is expected after an array element`
	reasonControl     = `a control character stands in a string: escape it, a line feed for example as \n`
	reasonEscape      = "an escape in a string is not one that JSON knows"
	reasonHex         = `\u in a string needs four hexadecimal digits`
	reasonOpenString  = "a string is not closed"
	reasonNumber      = "a number is not written as JSON asks"
	reasonNesting     = "the JSON nests deeper than 10,000"
	reasonTrailing    = "something follows after the end of the JSON text"
)

// space skips white space.
func space(b []byte, i int) int {
	const blanks = 1<<' ' | 1<<'\n' | 1<<'\t' | 1<<'\r'
	for i < len(b) && b[i] <= ' ' && blanks>>b[i]&1 != 0 {
		i++
	}
	return i
}

// value reads the value that begins at or after b[i]. depth is the number of
// containers around it.
//
// It keeps the kinds of the open containers as bits instead of calling itself:
// a hostile text cannot grow the stack, and an innocent one saves the calls.
func (p *parser) value(b []byte, i, depth int) int {
	var (
		kinds uint64 // bit 0: the innermost open container is an object
		base  = depth
		end   int
		c     byte
	)
value:
	if i = space(b, i); i >= len(b) {
		return p.fail(i, reasonEnds)
	}
	c = b[i]
	switch c {
	case '"':
		if i = plain(b, i+1); i < len(b) && b[i] == '"' {
			i++
		} else if i, _ = p.str(b, i); i < 0 {
			return failed
		}
	case '{', '[':
		if depth >= maxNesting {
			return p.fail(i, reasonNesting)
		}
		kinds = p.push(kinds, depth-base, c)
		depth++
		p.deepest = max(p.deepest, depth)
		if i = space(b, i+1); i >= len(b) {
			return p.fail(i, reasonEnds)
		}
		if b[i] == c+2 { // the closing bracket of either kind
			goto pop
		}
		if c == '{' {
			goto key
		}
		goto value
	default:
		if i = p.scalar(b, i); i < 0 {
			return failed
		}
	}
after:
	if depth == base {
		return i
	}
	if i = space(b, i); i >= len(b) {
		return p.fail(i, reasonEnds)
	}
	c = b[i]
	if c == ',' {
		i++
		if kinds&1 == 0 {
			goto value
		}
		goto key
	}
	if kinds&1 != 0 && c != '}' {
		return p.fail(i, reasonNoComma)
	}
	if kinds&1 == 0 && c != ']' {
		return p.fail(i, reasonNoItemComma)
	}
pop:
	i++
	depth--
	kinds = p.pop(kinds, depth-base)
	goto after
key:
	if i < len(b) && b[i] == '"' { // what most names are: plain, with nothing around them
		if end = plain(b, i+1); end+1 < len(b) && b[end] == '"' && b[end+1] == ':' {
			i = end + 2
			goto value
		}
	}
	if i, _ = p.key(b, i); i < 0 {
		return failed
	}
	goto value
}

// push and pop keep the kinds of the open containers, one bit each, set for an
// object. open counts those that are open before a push and after a pop.
func (p *parser) push(kinds uint64, open int, bracket byte) uint64 {
	if open&63 == 0 && open > 0 {
		p.outer[open>>6-1] = kinds
	}
	kinds <<= 1
	if bracket == '{' {
		kinds |= 1
	}
	return kinds
}

func (p *parser) pop(kinds uint64, open int) uint64 {
	if open&63 == 0 && open > 0 {
		return p.outer[open>>6-1]
	}
	return kinds >> 1
}

// key reads a member name that begins at or after b[i], and the colon after it.
func (p *parser) key(b []byte, i int) (end int, escaped bool) {
	if i = space(b, i); i >= len(b) {
		return p.fail(i, reasonEnds), false
	}
	if b[i] != '"' {
		return p.fail(i, reasonNoKey), false
	}
	if i = plain(b, i+1); i < len(b) && b[i] == '"' {
		i++
	} else if i, escaped = p.str(b, i); i < 0 {
		return failed, false
	}
	if i = space(b, i); i >= len(b) {
		return p.fail(i, reasonEnds), false
	}
	if b[i] != ':' {
		return p.fail(i, reasonNoColon), false
	}
	return i + 1, escaped
}

// scalar reads a number, true, false or null.
func (p *parser) scalar(b []byte, i int) int {
	switch c := b[i]; c {
	case 't':
		return p.word(b, i, "true")
	case 'f':
		return p.word(b, i, "false")
	case 'n':
		return p.word(b, i, "null")
	default:
		if c == '-' || c-'0' <= 9 {
			return p.number(b, i)
		}
		return p.fail(i, reasonNoValue)
	}
}

func (p *parser) word(b []byte, i int, word string) int {
	if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
		return i + len(word)
	}
	return p.fail(i, reasonNoValue)
}

// number reads a number; b[i] is its first digit or its minus sign.
func (p *parser) number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i >= len(b) {
		return p.fail(i, reasonEnds)
	}
	if b[i] == '0' {
		i++
	} else if n := digits(b, i); n > i {
		i = n
	} else {
		return p.fail(i, reasonNumber)
	}
	if i < len(b) && b[i] == '.' {
		n := digits(b, i+1)
		if n == i+1 {
			return p.fail(n, reasonNumber)
		}
		i = n
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		n := digits(b, i)
		if n == i {
			return p.fail(n, reasonNumber)
		}
		i = n
	}
	return i
}

// digits skips decimal digits.
func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// One byte in every place of a word.
const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// words has the words that stops works with. They are never changed; they are no
// constants because the compiler would load each of them into a register again
// for every word of text, which costs a tenth of the speed on long strings.
var words = struct{ two, afterBlank, backslash, one, high uint64 }{lows * 2, lows * 0x21, lows * '\\', lows, highs}

// stops marks, in the high bit of its byte, where a string's plain ASCII text
// stops in the eight bytes x: at a quote, a backslash, a control character or a
// byte beyond ASCII. The lowest mark is right, marks above it may not be; all
// other bits mean nothing.
//
// XOR with 2 turns the quote (0x22) into 0x20 and keeps control characters below
// that, so one subtraction finds both. A byte beyond ASCII keeps its high bit
// through the second term, but for 0xdc, which keeps it through the first.
func stops(x uint64) uint64 {
	return ((x ^ words.two) - words.afterBlank) | ((x ^ words.backslash) - words.one)
}

// plain skips the plain ASCII text of a string, in whole words as long as there
// are whole words. It is small enough to be inlined, which is why it exists:
// almost all strings are nothing else.
func plain(b []byte, i int) int {
	for i <= len(b)-8 {
		x := load8(b, i)
		if m := stops(x) & words.high; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	return i
}

// str reads a string or what plain has left of one; b[i] is the first byte after
// the opening quote or later.
func (p *parser) str(b []byte, i int) (end int, escaped bool) {
	start := i
	var seen uint64 // all words read, or-ed: shows whether any byte is beyond ASCII
	for {
		for i <= len(b)-8 {
			x := load8(b, i)
			seen |= x
			if m := stops(x) &^ x & highs; m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				goto stop
			}
			i += 8
		}
		for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
			seen |= uint64(b[i])
			i++
		}
		if i >= len(b) {
			return p.fail(i, reasonOpenString), false
		}
	stop:
		switch b[i] {
		case '"':
			if seen&highs != 0 && !utf8.Valid(b[start:i]) {
				p.notUTF8 = true
			}
			return i + 1, escaped
		case '\\':
			if i = p.escape(b, i); i < 0 {
				return failed, false
			}
			escaped = true
		default:
			return p.fail(i, reasonControl), false
		}
	}
}

// escape reads the escape whose backslash is b[i].
func (p *parser) escape(b []byte, i int) int {
	if i+1 >= len(b) {
		return p.fail(i+1, reasonOpenString)
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if len(b)-i < 6 {
			return p.fail(len(b), reasonHex)
		}
		r := hex4(b[i+2 : i+6])
		if r < 0 {
			return p.fail(i, reasonHex)
		}
		if r == 0 {
			p.nul = true
		}
		return i + 6
	}
	return p.fail(i, reasonEscape)
}

// hex4 returns the value of four hexadecimal digits, or -1.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
