// Package event is the domain of events: what an event is, how a batch is
// accepted, how accepted batches travel through the log into the store, and how
// they are read back.
//
// The way of a batch: an Ingester scans the body, claims the ids of its events
// in the dedupe window, appends one record to the log and answers when the log
// says that the record is durable. A Sink reads the log in order and hands whole
// frames to the Store, which commits rows, rollups and the log position in one
// transaction. Nothing else connects the two: there is no queue but the log.
//
// Millrace itself writes events too, of its orders: Ingester.IngestOwn takes
// them past the scanner and the window into the same log. Their rows are marked
// exact, which the store honours whatever the configuration says, and may carry
// an amount of money, which events from outside never do.
//
// The package knows no HTTP and no SQL. What it needs of the outside it declares
// as small interfaces (Log, SinkLog, Store, DeadLetterWriter). The log is the
// write-ahead log of this instance, or a stream that several instances share: then
// there is a Sink for each of its partitions, wherever that runs.
package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/cespare/xxhash/v2"

	"millrace/internal/event/dedupe"
	"millrace/internal/event/scan"
)

// Event is one stored event as a reader sees it.
type Event struct {
	// ID is the caller's id, or a UUIDv7 given on acceptance.
	ID string
	// Type names what happened, for example "order.placed".
	Type string
	// Source names who says so; empty when the caller gave none.
	Source string
	// TenantID is the tenant the event belongs to.
	TenantID string
	// Timestamp is the caller's time of the event, in UTC.
	Timestamp time.Time
	// ReceivedAt is the time of receipt, in UTC. It never goes back within a log, but
	// for a partition of a stream whose servers' clocks disagree.
	ReceivedAt time.Time
	// Attributes is a JSON object of envelope members that have no field of their
	// own, such as CloudEvents extensions; nil when there are none.
	Attributes json.RawMessage
	// Payload is the caller's payload, byte for byte.
	Payload json.RawMessage
	// Cursor resumes a query after this event. Only ascending queries set it.
	Cursor string
}

// Hash identifies an event for deduplication and for look-up by id. Its first
// eight bytes depend on (tenant, id) only and serve look-ups; the whole depends
// on (tenant, source, id). The tenant and the id go through SHA-256, so that no
// tenant can craft an id that collides with another tenant's event.
type Hash = dedupe.Hash

// HashOf returns the hash of an event's identity. It allocates nothing for
// identities of up to 256 bytes.
func HashOf(tenantID, source, id string) Hash {
	var stack [256]byte
	buf := append(stack[:0], tenantID...)
	buf = append(buf, 0)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	var h Hash
	copy(h[:], sum[:16])
	if source != "" {
		low := binary.LittleEndian.Uint64(h[8:]) ^ xxhash.Sum64String(source)
		binary.LittleEndian.PutUint64(h[8:], low)
	}
	return h
}

// LogID names one write-ahead log for its whole life.
type LogID = [16]byte

// Row is one accepted event on its way from the log to the store. Its strings
// alias the buffer the log was read into: they are valid until Store.Append
// returns, and a store that keeps one must copy it.
type Row struct {
	Hash       Hash
	TenantID   string
	ID         string
	Type       string
	Source     string
	Timestamp  int64  // Unix nanoseconds
	ReceivedAt int64  // Unix nanoseconds
	Attributes string // JSON object, empty when there is none
	Payload    string // JSON text as received
	// Exact asks for what Batch.Exact does, whatever that says: the row is of an
	// event that Millrace made itself.
	Exact bool
	// Amount is what the statistics add up, in minor units of Currency. An event
	// that is not about money has neither.
	Amount   int64
	Currency string
}

// MaxTypeBytes is the longest type an event can have, in bytes.
const MaxTypeBytes = scan.MaxTypeBytes
