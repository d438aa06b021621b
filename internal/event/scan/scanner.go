package scan

import (
	"bytes"
	"fmt"
)

// Scanner finds the events in bodies. It is not safe for concurrent use; keep
// one per goroutine or in a pool. Events it returned, and all they point to, are
// valid until the next Scan or Reset, and as long as the body is not changed.
type Scanner struct {
	p      parser
	lim    Limits
	cloud  bool // the events are CloudEvents
	events []Event

	// arena holds what cannot alias the body: text that had escapes, and
	// attributes. When it grows, older slices go on in the old array.
	arena []byte
	// others are the members of the current event that have no field.
	others []member
	// seen has a bit per field of the current event that was there.
	seen uint16
	// versioned and base64 say that a CloudEvent's specversion was there, and
	// that its payload came as data_base64.
	versioned, base64 bool
}

// member is one member of an envelope: its decoded name and that name's hash,
// and where its text from the name's quote to the value's end stands.
type member struct {
	name       []byte
	hash       uint64
	start, end int
}

// NewScanner returns a Scanner that is ready for use.
func NewScanner() *Scanner { return &Scanner{} }

// What a Scanner keeps over a Reset at most.
const (
	maxKeptArenaBytes = 1 << 20
	maxKeptEvents     = 1024
)

// Reset lets go of the last body and its events, so that a pooled Scanner keeps
// no body alive. Memory that can be used again stays, up to a bound. Call it
// before the Scanner goes back to its pool; Scan itself needs no Reset.
func (s *Scanner) Reset() {
	clear(s.events[:cap(s.events)])
	clear(s.others[:cap(s.others)])
	s.events, s.others, s.arena = s.events[:0], s.others[:0], s.arena[:0]
	if cap(s.events) > maxKeptEvents {
		s.events = nil
	}
	if cap(s.arena) > maxKeptArenaBytes {
		s.arena = nil
	}
}

// Scan returns the events of a body in order, the rejected ones included. The
// error is a *SyntaxError when the body as a whole is refused.
func (s *Scanner) Scan(body []byte, f Format, lim Limits) ([]Event, error) {
	s.lim = lim.withDefaults()
	s.events, s.arena = s.events[:0], s.arena[:0]
	s.cloud = f == CloudEvent || f == CloudEventBatch
	if err := refuseMark(body); err != nil {
		return nil, err
	}
	var err error
	switch f {
	case JSON:
		err = s.scanJSON(body)
	case NDJSON:
		err = s.scanLines(body)
	case CloudEvent:
		err = s.scanSingle(body)
	case CloudEventBatch:
		err = s.scanCloudBatch(body)
	default:
		err = refuse(WrongShape, 0, fmt.Sprintf("no scanner for format %d", f))
	}
	if err != nil {
		return nil, err
	}
	if len(s.events) == 0 {
		return nil, refuse(Empty, len(body), "the batch holds no event: send at least one")
	}
	return s.events, nil
}

func refuse(code Code, at int, reason string) error {
	return &SyntaxError{Code: code, Offset: at, Reason: reason}
}

// malformed is the error for what the parser found.
func (s *Scanner) malformed() error {
	return refuse(Malformed, s.p.failAt, s.p.failReason)
}

// refuseMark refuses a byte order mark, which would else be a riddle: no editor
// shows it.
func refuseMark(body []byte) error {
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return refuse(Malformed, 0, "the body begins with a byte order mark: send UTF-8 without it")
	case bytes.HasPrefix(body, []byte("\xff\xfe")), bytes.HasPrefix(body, []byte("\xfe\xff")):
		return refuse(Malformed, 0, "the body is UTF-16: send UTF-8")
	}
	return nil
}

// first returns where the body's value begins.
func first(body []byte) (int, error) {
	i := space(body, 0)
	if i == len(body) {
		return 0, refuse(Empty, i, "the body is empty: send at least one event")
	}
	return i, nil
}

// end checks that nothing but white space follows.
func end(body []byte, i int) error {
	if i = space(body, i); i < len(body) {
		return refuse(Malformed, i, reasonTrailing)
	}
	return nil
}

func (s *Scanner) scanJSON(body []byte) error {
	i, err := first(body)
	if err != nil {
		return err
	}
	switch body[i] {
	case '[':
		i, err = s.array(body, i, 0)
	case '{':
		i, err = s.wrapper(body, i)
	default:
		return s.wrongShape(body, i, `the body is no batch: send an array of events or {"events":[…]}`)
	}
	if err != nil {
		return err
	}
	return end(body, i)
}

func (s *Scanner) scanCloudBatch(body []byte) error {
	i, err := first(body)
	if err != nil {
		return err
	}
	if body[i] != '[' {
		return s.wrongShape(body, i, "a CloudEvents batch is a JSON array: send one, or one event as application/cloudevents+json")
	}
	if i, err = s.array(body, i, 0); err != nil {
		return err
	}
	return end(body, i)
}

// scanSingle reads the body of one CloudEvent.
func (s *Scanner) scanSingle(body []byte) error {
	i, err := first(body)
	if err != nil {
		return err
	}
	if body[i] != '{' {
		return s.wrongShape(body, i, "a CloudEvent is a JSON object: send one, or a batch as application/cloudevents-batch+json")
	}
	if i = s.event(body, i, 0); i < 0 {
		return s.malformed()
	}
	return end(body, i)
}

// wrongShape refuses a body whose value at i is not what was asked for, and
// says that it is no JSON if it is not.
func (s *Scanner) wrongShape(body []byte, i int, reason string) error {
	after := s.p.value(body, i, 0)
	if after < 0 {
		return s.malformed()
	}
	if err := end(body, after); err != nil {
		return err
	}
	return refuse(WrongShape, i, reason)
}

// wrapper reads {"events":[…]}.
func (s *Scanner) wrapper(b []byte, i int) (int, error) {
	const single = `the body is one object: send an array of events or {"events":[…]}`
	start, found := i, false
	if i = space(b, i+1); i < len(b) && b[i] == '}' {
		return 0, s.wrongShape(b, start, single)
	}
	for {
		nameAt := space(b, i)
		var escaped bool
		if i, escaped = s.p.key(b, nameAt); i < 0 {
			return 0, s.malformed()
		}
		name := s.name(b[nameAt:i], escaped)
		switch {
		case string(name) != "events" && found:
			return 0, s.wrongShape(b, start, `a member stands beside "events": put it into each event`)
		case string(name) != "events" && nativeField(name) != fieldOther:
			return 0, s.wrongShape(b, start, `the body is one event: wrap it in an array, [{…}]`)
		case string(name) != "events":
			return 0, s.wrongShape(b, start, single)
		case found:
			return 0, s.wrongShape(b, start, `"events" is there twice: send it once`)
		}
		found = true
		if i = space(b, i); i < len(b) && b[i] != '[' {
			return 0, s.wrongShape(b, start, `"events" is not an array: send {"events":[…]}`)
		}
		var err error
		if i, err = s.array(b, i, 1); err != nil {
			return 0, err
		}
		if i = space(b, i); i >= len(b) {
			return 0, refuse(Malformed, i, reasonEnds)
		}
		if b[i] == '}' {
			return i + 1, nil
		}
		if b[i] != ',' {
			return 0, refuse(Malformed, i, reasonNoComma)
		}
		i++
	}
}

// array reads an array of events at b[i].
func (s *Scanner) array(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, refuse(Malformed, i, reasonEnds)
	}
	if i = space(b, i+1); i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		i = space(b, i)
		if len(s.events) == s.lim.MaxEvents {
			return 0, s.tooMany(i)
		}
		if i = s.event(b, i, depth+1); i < 0 {
			return 0, s.malformed()
		}
		if i = space(b, i); i >= len(b) {
			return 0, refuse(Malformed, i, reasonEnds)
		}
		if b[i] == ']' {
			return i + 1, nil
		}
		if b[i] != ',' {
			return 0, refuse(Malformed, i, reasonNoItemComma)
		}
		i++
	}
}

func (s *Scanner) tooMany(at int) error {
	return refuse(TooManyEvents, at, fmt.Sprintf("the batch holds more than %d events: send fewer at a time", s.lim.MaxEvents))
}

// scanLines reads NDJSON: a line that is no event is a rejected event.
func (s *Scanner) scanLines(body []byte) error {
	for start := 0; start < len(body); {
		line := body[start:]
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line = line[:n]
		}
		next := start + len(line) + 1
		from := space(line, 0)
		if from < len(line) {
			if len(s.events) == s.lim.MaxEvents {
				return s.tooMany(start)
			}
			s.line(line, from)
		}
		start = next
	}
	return nil
}

// line reads the event of a line, which begins at line[from].
func (s *Scanner) line(line []byte, from int) {
	i := s.event(line, from, 0)
	if i >= 0 {
		if i = space(line, i); i == len(line) {
			return
		}
		s.p.fail(i, "something follows after the event: write one event a line")
	}
	e := &s.events[len(s.events)-1]
	e.Raw = bytes.TrimRight(line[from:], " \t\r")
	e.Reason = fmt.Sprintf("the line is not one JSON object: at byte %d of it: %s", s.p.failAt, s.p.failReason)
	e.Payload, e.Attributes = null, nil
	e.dropUnreadable()
}
