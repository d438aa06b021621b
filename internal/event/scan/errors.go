package scan

import "fmt"

// Code says why a whole body was refused.
type Code uint8

// The codes there are.
const (
	// Malformed: the body is not JSON (in NDJSON a bad line is a rejected event
	// instead). Fits 400.
	Malformed Code = iota + 1
	// WrongShape: the body is JSON so far, but no batch of events. Fits 400.
	WrongShape
	// Empty: the batch holds no event. Fits 422.
	Empty
	// TooManyEvents: the batch holds more than Limits.MaxEvents. Fits 413.
	TooManyEvents
)

// String returns the code as a stable slug.
func (c Code) String() string {
	switch c {
	case Malformed:
		return "malformed"
	case WrongShape:
		return "wrong-shape"
	case Empty:
		return "empty"
	case TooManyEvents:
		return "too-many-events"
	}
	return fmt.Sprintf("code-%d", uint8(c))
}

// SyntaxError says that a whole body was refused; no event of it may be used.
type SyntaxError struct {
	Code Code
	// Offset is the byte of the body where scanning stopped, from 0.
	Offset int
	// Reason says what is wrong and what to do. It quotes nothing of the body.
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("at byte %d: %s", e.Offset, e.Reason)
}
