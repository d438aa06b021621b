package scan

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// The oracle judges an event with encoding/json and the simplest code there is.
// It knows nothing of how the scanner works; the two must come to one verdict.

var (
	attributeName     = regexp.MustCompile(`^[a-z0-9]+$`)
	nulEscape         = regexp.MustCompile(`(^|[^\\])(\\\\)*\\u0000`)
	replacementEscape = regexp.MustCompile(`(?i)\\ufffd`)
	rfc3339           = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
)

// oracleEvent is what the oracle makes of an event that it accepts.
type oracleEvent struct {
	ID, Type, Source, TenantID string
	HasTimestamp               bool
	Timestamp                  int64
	Attributes, Payload        string
}

type oracleMember struct {
	name      string
	raw       json.RawMessage
	nameValue string // the member's text, as the attributes keep it
}

// oracle returns what an event is, or false if it must be rejected. raw is
// well-formed for encoding/json.
func oracle(raw []byte, cloud bool, lim Limits) (oracleEvent, bool) {
	none := oracleEvent{}
	if len(raw) == 0 || raw[0] != '{' || !utf8.Valid(raw) || hasNUL(raw) || depthOf(raw) > lim.MaxDepth || len(raw) > lim.MaxEventBytes {
		return none, false
	}
	members := oracleMembers(raw)
	fields := map[string]json.RawMessage{}
	var attributes []string
	others := 0
	known := " id type source timestamp tenantId payload "
	if cloud {
		known = " id type source time tenantid data data_base64 specversion "
	}
	for _, m := range members {
		if _, there := fields[m.name]; there {
			return none, false
		}
		fields[m.name] = m.raw
		isNull := string(m.raw) == "null"
		if !strings.Contains(known, " "+m.name+" ") || m.name == "" || strings.Contains(m.name, " ") {
			others++
			if cloud && (m.raw[0] == '{' || m.raw[0] == '[' || !attributeName.MatchString(m.name)) {
				return none, false
			}
			if !cloud || !isNull {
				attributes = append(attributes, m.nameValue)
			}
		} else if m.name == "specversion" && !isNull {
			others++
			attributes = append(attributes, m.nameValue)
		}
	}
	if others > MaxAttributes {
		return none, false
	}
	present := func(name string) bool { return fields[name] != nil && string(fields[name]) != "null" }
	ok := true
	text := func(name string, limit int, emptyOK bool) string {
		if !present(name) {
			return ""
		}
		var s string
		if json.Unmarshal(fields[name], &s) != nil || len(s) > limit || (s == "" && !emptyOK) || halfSurrogate(fields[name]) {
			ok = false
		}
		return s
	}
	e := oracleEvent{Payload: "null"}
	e.ID, e.Type, e.Source = text("id", 256, false), text("type", 256, false), text("source", 2048, !cloud)
	timeName, tenantName, payloadName := "timestamp", "tenantId", "payload"
	if cloud {
		timeName, tenantName, payloadName = "time", "tenantid", "data"
		if text("specversion", 9, false) != "1.0" || e.ID == "" || e.Source == "" {
			return none, false
		}
	}
	e.TenantID = text(tenantName, 256, false)
	if at := text(timeName, 1<<20, false); present(timeName) {
		ns, valid := oracleTime(at)
		e.HasTimestamp, e.Timestamp, ok = true, ns, ok && valid
	}
	if present(payloadName) {
		e.Payload = string(fields[payloadName])
	}
	if cloud && present("data_base64") {
		coded := text("data_base64", 1<<20, true)
		if _, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\r", "?", "\n", "?").Replace(coded)); err != nil || present("data") {
			return none, false
		}
		e.Payload = string(fields["data_base64"])
		attributes = append(attributes, `"data_base64":true`)
	}
	if len(attributes) > 0 {
		e.Attributes = "{" + strings.Join(attributes, ",") + "}"
	}
	return e, ok && e.Type != ""
}

// oracleMembers splits an object with encoding/json's decoder.
func oracleMembers(raw []byte) []oracleMember {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		panic(err)
	}
	var members []oracleMember
	for dec.More() {
		from := dec.InputOffset()
		name, err := dec.Token()
		if err != nil {
			panic(err)
		}
		var m oracleMember
		m.name = name.(string)
		if err := dec.Decode(&m.raw); err != nil {
			panic(err)
		}
		m.nameValue = strings.TrimLeft(string(raw[from:dec.InputOffset()]), ", \t\r\n")
		members = append(members, m)
	}
	return members
}

// oracleTime reads a time with package time, which is laxer than RFC 3339 here
// and there.
func oracleTime(s string) (int64, bool) {
	if !rfc3339.MatchString(s) {
		return 0, false
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
	if err != nil {
		return 0, false
	}
	if at.Unix() < -maxSeconds || at.Unix() >= maxSeconds {
		return 0, false
	}
	return at.UnixNano(), true
}

// hasNUL reports whether a string of a well-formed text holds \u0000.
func hasNUL(raw []byte) bool {
	return nulEscape.Match(raw)
}

// halfSurrogate reports whether a well-formed string has half a surrogate pair:
// encoding/json puts U+FFFD there, which the text did not have.
func halfSurrogate(raw []byte) bool {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return false
	}
	written := strings.Count(string(raw), "\uFFFD") + len(replacementEscape.FindAll(bytes.ReplaceAll(raw, []byte(`\\`), nil), -1))
	return strings.Count(s, "\uFFFD") > written
}

// depthOf counts how deep a well-formed text nests.
func depthOf(raw []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}
