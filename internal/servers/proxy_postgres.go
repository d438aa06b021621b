package servers

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"sync"
)

const (
	// wireKept is how much of a message's body is looked at.
	wireKept = 64 << 10
	// sslRequest and gssRequest stand in place of a protocol version and are
	// answered with one byte.
	sslRequest = 80877103
	gssRequest = 80877104
)

// postgresWire follows the two directions of one connection far enough to know
// when a COMMIT is sent and when it has been answered.
type postgresWire struct {
	mu         sync.Mutex
	opaque     bool // encrypted
	startup    bool // the client's next message has no type
	oneByte    int  // answers of one byte to come from the server
	fromClient messages
	fromServer messages

	statements map[string]bool // prepared, by name: is it a COMMIT
	portals    map[string]bool

	expected int // answers that end with ReadyForQuery: of what was sent
	ready    int // and that came
	awaited  int // the value of ready that ends the COMMIT's answer
}

func newPostgresWire() *postgresWire {
	return &postgresWire{
		startup:    true,
		statements: make(map[string]bool),
		portals:    make(map[string]bool),
		expected:   1, // that of the start
	}
}

// commitText is a text of one or more statements of which one ends the
// transaction. It does not look into literals.
var commitText = regexp.MustCompile(`(?is)(^|;)\s*(commit|end)\b`)

// client takes what the client sent and says whether a COMMIT is complete with it.
func (w *postgresWire) client(sent []byte) (commit bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(sent) > 0 && !w.opaque {
		kind, body, rest, whole := w.fromClient.next(sent, !w.startup)
		if sent = rest; !whole {
			break
		}
		if w.startup {
			w.start(body)
			continue
		}
		if w.executes(kind, body) {
			commit = true
			// The answer ends with that to this query, or to the Sync to come.
			w.awaited = w.expected + 1
		}
		if kind == 'Q' || kind == 'S' || kind == 'F' {
			w.expected++
		}
	}
	return commit
}

// start reads a first message: a version, or a question whether to encrypt.
func (w *postgresWire) start(body []byte) {
	if len(body) < 4 {
		return
	}
	switch binary.BigEndian.Uint32(body) {
	case sslRequest, gssRequest:
		w.oneByte++
	default:
		w.startup = false
	}
}

// executes reports whether a message runs a COMMIT.
func (w *postgresWire) executes(kind byte, body []byte) bool {
	first, rest, _ := bytes.Cut(body, []byte{0})
	second, _, _ := bytes.Cut(rest, []byte{0})
	switch kind {
	case 'Q': // query
		return commitText.Match(first)
	case 'P': // parse: statement, text
		w.statements[string(first)] = commitText.Match(second)
	case 'B': // bind: portal, statement
		w.portals[string(first)] = w.statements[string(second)]
	case 'E': // execute: portal
		return w.portals[string(first)]
	}
	return false
}

// server takes what the server sent. While a COMMIT's answer is awaited it returns
// the outcome once that is there.
func (w *postgresWire) server(sent []byte, awaited bool) (outcome string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(sent) > 0 && !w.opaque && outcome == "" {
		if w.oneByte > 0 {
			w.oneByte--
			w.opaque = sent[0] != 'N'
			sent = sent[1:]
			continue
		}
		kind, body, rest, whole := w.fromServer.next(sent, true)
		if sent = rest; !whole {
			break
		}
		outcome = w.answer(kind, body, awaited)
	}
	return outcome
}

func (w *postgresWire) answer(kind byte, body []byte, awaited bool) string {
	switch kind {
	case 'C': // command complete, with its tag
		tag := string(bytes.TrimRight(body, "\x00"))
		if awaited && w.ready == w.awaited-1 && (tag == "COMMIT" || tag == "ROLLBACK") {
			return tag
		}
	case 'Z': // ready for query
		w.ready++
		if awaited && w.ready >= w.awaited {
			return "ERROR" // it ended with neither tag
		}
	}
	return ""
}

// messages cuts a stream into messages: a type unless it is the first one, a
// length that counts itself, a body.
type messages struct {
	head []byte // of a message whose length is not complete
	kind byte
	body []byte // at most wireKept of it
	left int    // bytes of the body to come; valid while inside
	in   bool   // inside a body
}

// next consumes up to one message. whole says that it is complete; rest is what
// was not consumed.
func (m *messages) next(data []byte, typed bool) (kind byte, body, rest []byte, whole bool) {
	if !m.in {
		size := 4
		if typed {
			size = 5
		}
		n := min(size-len(m.head), len(data))
		m.head, data = append(m.head, data[:n]...), data[n:]
		if len(m.head) < size {
			return 0, nil, nil, false
		}
		if typed {
			m.kind = m.head[0]
		}
		m.left = max(0, int(binary.BigEndian.Uint32(m.head[size-4:]))-4)
		m.head, m.body, m.in = m.head[:0], m.body[:0], true
	}
	n := min(m.left, len(data))
	m.body = append(m.body, data[:min(n, wireKept-len(m.body))]...)
	m.left -= n
	if m.left > 0 {
		return 0, nil, data[n:], false
	}
	m.in = false
	return m.kind, m.body, data[n:], true
}
