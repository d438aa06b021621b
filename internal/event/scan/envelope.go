package scan

import (
	"fmt"
	"hash/maphash"
	"unicode/utf8"
)

// field is a member of an envelope that the scanner knows.
type field uint8

const (
	fieldOther field = iota
	fieldID
	fieldType
	fieldSource
	fieldTime
	fieldTenant
	fieldPayload
	fieldPayloadBase64 // CloudEvents only
	fieldSpecVersion   // CloudEvents only
)

// nativeField returns the field that a member of a native envelope is.
func nativeField(name []byte) field {
	switch string(name) {
	case "id":
		return fieldID
	case "type":
		return fieldType
	case "source":
		return fieldSource
	case "timestamp":
		return fieldTime
	case "tenantId":
		return fieldTenant
	case "payload":
		return fieldPayload
	}
	return fieldOther
}

// Reasons for an event to be rejected.
const (
	reasonNotObject   = `the event is not a JSON object: write it like {"type":"order.placed","payload":{}}`
	reasonNotUTF8     = "the event holds bytes that are not UTF-8: encode it as UTF-8"
	reasonNUL         = `the event holds the character \u0000, which cannot be stored: leave it out`
	reasonDuplicate   = "two members beside the known ones have one name: send each name once"
	reasonManyOthers  = `the event has more than 128 members beside the known ones: put them into "payload"`
	reasonTypeMissing = `"type" is missing: give each event a "type"`
	reasonTypeEmpty   = `"type" is empty: give each event a "type"`
	reasonTypeKind    = `"type" is not a string`
	reasonTypeLong    = `"type" is longer than 256 bytes: shorten it`
	reasonTypeText    = `"type" holds half a surrogate pair, which is no text`
	reasonIDEmpty     = `"id" is empty: leave it out or give it a value`
	reasonIDKind      = `"id" is not a string`
	reasonIDLong      = `"id" is longer than 256 bytes: shorten it`
	reasonIDText      = `"id" holds half a surrogate pair, which is no text`
	reasonSourceKind  = `"source" is not a string`
	reasonSourceLong  = `"source" is longer than 2048 bytes: shorten it`
	reasonSourceText  = `"source" holds half a surrogate pair, which is no text`
	reasonTenantEmpty = "the tenant id is empty: leave it out or name your tenant"
	reasonTenantKind  = "the tenant id is not a string"
	reasonTenantLong  = "the tenant id is longer than 256 bytes: name your tenant"
	reasonTenantText  = "the tenant id holds half a surrogate pair, which is no text"
	reasonTimeKind    = `the timestamp is not a string: write it like "2026-11-22T05:04:22.123Z"`
)

// maxTenantBytes bounds a tenant's name, so that a rejected event carries no
// long one along.
const maxTenantBytes = 256

var null = []byte("null")

// reject notes why the event is rejected; the first reason stays.
func (e *Event) reject(reason string) {
	if e.Reason == "" {
		e.Reason = reason
	}
}

// event reads one event at b[i] and adds it to s.events, whatever it is. depth
// is the number of containers around it.
func (s *Scanner) event(b []byte, i, depth int) int {
	s.events = append(s.events, Event{})
	e := &s.events[len(s.events)-1]
	s.p.forget(depth)
	s.others, s.seen, s.versioned, s.base64 = s.others[:0], 0, false, false
	start := i
	if i >= len(b) || b[i] != '{' {
		e.Reason = reasonNotObject
		if i = s.p.value(b, i, depth); i < 0 {
			return failed
		}
		e.Raw, e.Payload = b[start:i], null
		return i
	}
	if i = s.members(e, b, i+1, depth+1); i < 0 {
		return failed
	}
	e.Raw = b[start:i]
	s.finish(e, b, depth)
	return i
}

// members reads the members of an envelope; b[i] follows the opening brace.
func (s *Scanner) members(e *Event, b []byte, i, depth int) int {
	s.p.deepest = depth
	if i = space(b, i); i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		nameAt := space(b, i)
		var escaped bool
		if i, escaped = s.p.key(b, nameAt); i < 0 {
			return failed
		}
		name := s.name(b[nameAt:i], escaped)
		valueAt := space(b, i)
		escaped = false
		if valueAt < len(b) && b[valueAt] == '"' {
			if i = plain(b, valueAt+1); i < len(b) && b[i] == '"' {
				i++
			} else {
				i, escaped = s.p.str(b, i)
			}
		} else {
			i = s.p.value(b, valueAt, depth)
		}
		if i < 0 {
			return failed
		}
		value := b[valueAt:i]
		switch f := s.field(name); {
		case f == fieldOther:
			s.other(e, member{name: name, start: nameAt, end: i}, value)
		case s.seen&(1<<f) != 0:
			e.reject(`"` + string(name) + `" is there twice: send each name once`)
		default:
			s.seen |= 1 << f
			s.member(e, f, value, escaped)
			if f == fieldSpecVersion && value[0] != 'n' {
				s.others = append(s.others, member{name: name, start: nameAt, end: i})
			}
		}
		if i = space(b, i); i >= len(b) {
			return s.p.fail(i, reasonEnds)
		}
		if b[i] == '}' {
			return i + 1
		}
		if b[i] != ',' {
			return s.p.fail(i, reasonNoComma)
		}
		i++
	}
}

// name returns the decoded name of a member; quoted is its text up to the colon.
func (s *Scanner) name(quoted []byte, escaped bool) []byte {
	if !escaped {
		return inside(quoted)
	}
	text, _ := s.decode(inside(quoted))
	return text
}

// inside returns what stands between the quotes of a member's name, given its
// text up to the colon.
func inside(quoted []byte) []byte {
	last := len(quoted) - 2
	for quoted[last] != '"' {
		last--
	}
	return quoted[1:last]
}

// decode puts the text of a string's inside into the arena.
func (s *Scanner) decode(inside []byte) (text []byte, whole bool) {
	from := len(s.arena)
	s.arena, whole = unescape(s.arena, inside)
	return s.arena[from:len(s.arena):len(s.arena)], whole
}

// field returns the field that a member of the envelope is.
func (s *Scanner) field(name []byte) field {
	if s.cloud {
		return cloudField(name)
	}
	return nativeField(name)
}

// member takes a member that has a field into the event.
func (s *Scanner) member(e *Event, f field, value []byte, escaped bool) {
	if value[0] == 'n' {
		return // null is absent, and an absent payload is null
	}
	switch f {
	case fieldPayload:
		if e.Payload != nil {
			e.reject(reasonCloudData)
		}
		e.Payload = value
	case fieldID:
		e.ID = s.text(e, f, value, escaped, MaxIDBytes)
	case fieldType:
		e.Type = s.text(e, f, value, escaped, MaxTypeBytes)
	case fieldSource:
		e.Source = s.text(e, f, value, escaped, MaxSourceBytes)
	case fieldTenant:
		e.TenantID = s.text(e, f, value, escaped, maxTenantBytes)
	case fieldTime:
		s.time(e, value, escaped)
	case fieldPayloadBase64:
		s.payloadBase64(e, value, escaped)
	case fieldSpecVersion:
		if text := s.text(e, f, value, escaped, MaxTypeBytes); text != nil && string(text) != "1.0" {
			e.reject(reasonCloudVersion)
		}
		s.versioned = true
	}
}

// textProblem says what is wrong with a member that must be text.
type textProblem uint8

const (
	textKind textProblem = iota
	textEmpty
	textLong
	textBroken
)

// textReason returns the reason to give for a problem of a field.
func textReason(f field, problem textProblem) string {
	switch f {
	case fieldID:
		return [...]string{reasonIDKind, reasonIDEmpty, reasonIDLong, reasonIDText}[problem]
	case fieldType:
		return [...]string{reasonTypeKind, reasonTypeEmpty, reasonTypeLong, reasonTypeText}[problem]
	case fieldSource:
		return [...]string{reasonSourceKind, reasonCloudSource, reasonSourceLong, reasonSourceText}[problem]
	case fieldTenant:
		return [...]string{reasonTenantKind, reasonTenantEmpty, reasonTenantLong, reasonTenantText}[problem]
	}
	return reasonCloudVersion
}

// text returns the decoded text of a member that must be a string, nil if it is
// refused.
func (s *Scanner) text(e *Event, f field, value []byte, escaped bool, limit int) []byte {
	if value[0] != '"' {
		e.reject(textReason(f, textKind))
		return nil
	}
	text := value[1 : len(value)-1]
	if escaped {
		from := len(s.arena)
		var whole bool
		if text, whole = s.decode(text); !whole {
			s.arena = s.arena[:from]
			e.reject(textReason(f, textBroken))
			return nil
		}
	}
	if len(text) == 0 {
		if f != fieldSource || s.cloud { // a native event may say that it has no source
			e.reject(textReason(f, textEmpty))
		}
		return nil
	}
	if len(text) > limit {
		e.reject(textReason(f, textLong))
		return nil
	}
	return text
}

func (s *Scanner) time(e *Event, value []byte, escaped bool) {
	if value[0] != '"' {
		e.reject(reasonTimeKind)
		return
	}
	text := value[1 : len(value)-1]
	if escaped {
		text, _ = s.decode(text)
	}
	ns, reason := parseTime(text)
	if reason != "" {
		e.reject(reason)
		return
	}
	e.HasTimestamp, e.Timestamp = true, ns
}

// nameSeed makes the hashes of names unpredictable, so that nobody can send names
// that all have to be compared. It never changes.
var nameSeed = maphash.MakeSeed()

// other keeps a member that has no field of its own.
func (s *Scanner) other(e *Event, m member, value []byte) {
	if s.cloud {
		if reason := checkExtension(m.name, value); reason != "" {
			e.reject(reason)
			return
		}
	}
	if len(s.others) == MaxAttributes {
		e.reject(reasonManyOthers)
		return
	}
	m.hash = maphash.Bytes(nameSeed, m.name)
	for i := range s.others {
		if s.others[i].hash == m.hash && string(s.others[i].name) == string(m.name) {
			e.reject(reasonDuplicate)
			return
		}
	}
	if s.cloud && value[0] == 'n' {
		m.end = m.start // CloudEvents: null is absent, but still there for duplicates
	}
	s.others = append(s.others, m)
}

// finish judges an event whose text has been read.
func (s *Scanner) finish(e *Event, b []byte, depth int) {
	if e.Payload == nil {
		e.Payload = null
	}
	switch {
	case len(e.Raw) > s.lim.MaxEventBytes:
		e.Reason = fmt.Sprintf("the event is %d bytes, more than the %d allowed: send less in one event", len(e.Raw), s.lim.MaxEventBytes)
	case s.p.deepest-depth > s.lim.MaxDepth:
		e.Reason = fmt.Sprintf("the event nests %d deep, more than the %d allowed: flatten it", s.p.deepest-depth, s.lim.MaxDepth)
	case s.p.notUTF8:
		e.Reason = reasonNotUTF8
	case s.p.nul:
		e.Reason = reasonNUL
	}
	if e.Reason != "" {
		e.dropUnreadable()
		return
	}
	switch {
	case s.cloud:
		s.finishCloud(e)
	case e.Type == nil:
		e.Reason = reasonTypeMissing
	}
	if e.Reason == "" && (len(s.others) > 0 || s.base64) {
		e.Attributes = s.attributes(b)
	}
}

// dropUnreadable takes from a rejected event what must not travel any further:
// text that is not UTF-8 or holds NUL.
func (e *Event) dropUnreadable() {
	for _, text := range []*[]byte{&e.ID, &e.Type, &e.Source, &e.TenantID} {
		if !storable(*text) {
			*text = nil
		}
	}
}

func storable(text []byte) bool {
	for _, c := range text {
		if c == 0 {
			return false
		}
	}
	return utf8.Valid(text)
}

// attributes puts the other members into the arena as one JSON object.
func (s *Scanner) attributes(b []byte) []byte {
	from := len(s.arena)
	s.arena = append(s.arena, '{')
	for _, m := range s.others {
		if m.start == m.end {
			continue
		}
		if len(s.arena) > from+1 {
			s.arena = append(s.arena, ',')
		}
		s.arena = append(s.arena, b[m.start:m.end]...)
	}
	if s.base64 {
		if len(s.arena) > from+1 {
			s.arena = append(s.arena, ',')
		}
		s.arena = append(s.arena, markBase64...)
	}
	if len(s.arena) == from+1 {
		s.arena = s.arena[:from]
		return nil
	}
	s.arena = append(s.arena, '}')
	return s.arena[from:len(s.arena):len(s.arena)]
}
