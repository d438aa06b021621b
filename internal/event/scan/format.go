// Package scan finds the events in a request body.
//
// One pass over the text does all of it: it checks the JSON strictly (RFC 8259,
// and as encoding/json where that leaves a choice), checks the UTF-8, finds where
// each event and each payload begins and ends, and decodes the few members of
// the envelope. Nothing is decoded into maps and nothing is written again: what
// an Event holds is parts of the body, or of the Scanner's own memory where text
// had escapes.
//
// There are two kinds of bad news. A *SyntaxError refuses a body as a whole: it
// is not JSON, or not a batch. All else is a rejected event, which carries its
// Reason and spoils no other.
//
// A Scanner serves one goroutine at a time and is meant to be pooled: Scan, use
// the events, Reset, put it back. Once its memory has grown to fit the traffic,
// scanning allocates nothing but the reasons of rejections.
package scan

// Format says how a body is written.
type Format uint8

// The formats there are.
const (
	// JSON is an array of events, or an object {"events":[…]}.
	JSON Format = iota
	// NDJSON is one event a line.
	NDJSON
	// CloudEvent is one CloudEvents 1.0 event in structured mode.
	CloudEvent
	// CloudEventBatch is a CloudEvents 1.0 JSON batch.
	CloudEventBatch
)
