// Package scan finds the events in a request body.
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
