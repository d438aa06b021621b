// Package outbox brings what the store's transactions left to be told to where it
// is to be told: a relay for each lane reads the oldest rows, hands them over, and
// removes them. Rows are handed over at least once, in order where nothing failed.
package outbox

import (
	"context"
	"time"
)

// Lane separates the roads out of the outbox, so that one that is blocked holds
// up no other.
type Lane string

// The lanes there are.
const (
	// LaneBus goes to the message broker.
	LaneBus Lane = "bus"
	// LaneEvents goes into the event store.
	LaneEvents Lane = "events"
)

// Row is one thing to be told.
type Row struct {
	// Seq orders the rows of a lane.
	Seq      int64
	Lane     Lane
	TenantID string
	// Subject is what it is about: the bus's subject or the event's type.
	Subject string
	// ID is the same whenever this row is handed over.
	ID string
	// At is when it was written.
	At time.Time
	// Trace is the W3C traceparent of what caused it, empty if unknown.
	Trace string
	Data  []byte
}

// Store is the relay's view of the outbox. It is safe for concurrent use.
type Store interface {
	// Pending returns the oldest rows of a lane after a sequence, at most limit, in
	// order. Where transactions can commit out of order, a row may appear before
	// those already returned; the relay looks from the beginning again and again.
	Pending(ctx context.Context, lane Lane, after int64, limit int) ([]Row, error)
	// Remove removes the rows with these sequences. Some may be gone already.
	Remove(ctx context.Context, lane Lane, seqs []int64) error
	// Depth returns how many rows a lane holds and when the oldest was written, zero
	// if there is none. The count may be capped at 100,000.
	Depth(ctx context.Context, lane Lane) (rows int64, oldest time.Time, err error)
	// Written returns a channel that gets a signal, at most one pending, whenever
	// this process has committed rows to the lane. Rows of other processes are
	// found by polling. One relay per lane may use it.
	Written(lane Lane) <-chan struct{}
}
