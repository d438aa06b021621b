package event

import (
	"encoding/json"
	"time"
)

// AppendEnvelope appends a row as the JSON envelope it could have come in: what
// was an attribute is a member again.
func AppendEnvelope(dst []byte, r Row) []byte {
	member := func(name, value string) {
		text, _ := json.Marshal(value) // a string always marshals
		dst = append(dst, '"')
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = append(dst, text...)
		dst = append(dst, ',')
	}
	dst = append(dst, '{')
	member("id", r.ID)
	member("type", r.Type)
	if r.Source != "" {
		member("source", r.Source)
	}
	member("timestamp", time.Unix(0, r.Timestamp).UTC().Format(time.RFC3339Nano))
	if n := len(r.Attributes); n > 2 {
		dst = append(dst, r.Attributes[1:n-1]...)
		dst = append(dst, ',')
	}
	dst = append(dst, `"payload":`...)
	dst = append(dst, r.Payload...)
	return append(dst, '}')
}
