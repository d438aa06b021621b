package httpapi

import (
	"strconv"
	"time"
	"unicode/utf8"

	"millrace/internal/event"
)

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD; the
// characters that JavaScript takes for line ends are escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			b = appendEscape(b, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendMember appends `,"name":"value"` unless value is empty.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), '"', ':')
	return appendString(b, value)
}

// appendTime appends a time as a JSON string, RFC 3339 in UTC.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// appendReceipt appends the answer to an accepted batch.
func appendReceipt(b []byte, r *event.Receipt) []byte {
	b = append(b, `{"batchId":`...)
	b = appendString(b, r.BatchID)
	b = append(b, `,"accepted":`...)
	b = strconv.AppendInt(b, int64(r.Accepted), 10)
	if r.Duplicates > 0 {
		b = append(b, `,"duplicates":`...)
		b = strconv.AppendInt(b, int64(r.Duplicates), 10)
	}
	b = append(b, `,"rejected":[`...)
	for i := range r.Rejected {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendRejected(b, r.Rejected[i].Index, r.Rejected[i].ID, r.Rejected[i].Reason)
	}
	b = append(b, ']')
	if len(r.IDs) > 0 {
		for i, id := range r.IDs {
			b = append(b, separator(i, `,"ids":[`)...)
			b = appendString(b, id)
		}
		b = append(b, ']')
	}
	return append(b, '}', '\n')
}

func appendRejected(b []byte, index int, id, reason string) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"id":`...)
	b = appendString(b, id)
	b = append(b, `,"reason":`...)
	b = appendString(b, reason)
	return append(b, '}')
}

// appendEvent appends a stored event. Payload and attributes are JSON already
// and go out as they came in.
func appendEvent(b []byte, e *event.Event) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"type":`...)
	b = appendString(b, e.Type)
	b = appendMember(b, "source", e.Source)
	b = append(b, `,"tenantId":`...)
	b = appendString(b, e.TenantID)
	b = append(b, `,"timestamp":`...)
	b = appendTime(b, e.Timestamp)
	b = append(b, `,"receivedAt":`...)
	b = appendTime(b, e.ReceivedAt)
	if len(e.Attributes) > 0 {
		b = append(b, `,"attributes":`...)
		b = append(b, e.Attributes...)
	}
	b = append(b, `,"payload":`...)
	if len(e.Payload) == 0 {
		b = append(b, "null"...)
	} else {
		b = append(b, e.Payload...)
	}
	return append(b, '}')
}
