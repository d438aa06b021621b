package scan

// Limits bound what one body may hold. The size of the body itself is the
// caller's to bound. A field that is zero or less takes its default.
type Limits struct {
	// MaxEvents is the largest number of events in a body; 100 by default.
	MaxEvents int
	// MaxEventBytes is the largest size of one event's text; 256 KiB by default.
	MaxEventBytes int
	// MaxDepth is how deep an event may nest, the event itself being depth 1;
	// 64 by default.
	MaxDepth int
}

// Defaults of Limits.
const (
	DefaultMaxEvents     = 100
	DefaultMaxEventBytes = 256 << 10
	DefaultMaxDepth      = 64
)

// Limits of an envelope, in bytes of decoded text where not said otherwise.
const (
	MaxIDBytes     = 256
	MaxTypeBytes   = 256
	MaxSourceBytes = 2048
	// MaxAttributes is how many members without a field of their own an envelope
	// may have.
	MaxAttributes = 128
)

func (l Limits) withDefaults() Limits {
	if l.MaxEvents <= 0 {
		l.MaxEvents = DefaultMaxEvents
	}
	if l.MaxEventBytes <= 0 {
		l.MaxEventBytes = DefaultMaxEventBytes
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = DefaultMaxDepth
	}
	return l
}

// Event is one event of a body, valid or rejected. Its slices alias the body or
// memory of the Scanner; see Scanner for how long they are valid. They must not
// be changed.
type Event struct {
	// ID, Type, Source and TenantID are decoded text, nil when absent. In a
	// rejected event they are set as far as they could be read.
	ID, Type, Source, TenantID []byte
	// HasTimestamp says whether the event named its time.
	HasTimestamp bool
	// Timestamp is the event's time in nanoseconds since the Unix epoch; digits
	// beyond the nanosecond are cut off.
	Timestamp int64
	// Attributes is a JSON object of the members that have no field here, in
	// their order and with their bytes; nil when there are none. Of a CloudEvent
	// it holds specversion too, and leaves out what is null, which means unset
	// there; it ends with "data_base64":true if the payload is the text of
	// data_base64.
	Attributes []byte
	// Payload is the payload's JSON text as received, "null" when absent.
	Payload []byte
	// Raw is the whole text of the event, without white space around it.
	Raw []byte
	// Reason says why the event is rejected and what to do; empty means valid.
	Reason string
}
