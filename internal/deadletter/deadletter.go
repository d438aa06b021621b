// Package deadletter is the one place for everything that could not be
// processed: it keeps the thing itself, says why, and lets an operator put it
// back on its road.
package deadletter

import (
	"context"
	"errors"
	"time"
)

// Kind says what a dead letter was before it died.
type Kind string

// The kinds there are.
const (
	// KindEvent is an event that was refused by the scanner or by the store.
	KindEvent Kind = "event"
	// KindBody is a request body in which no events could be found.
	KindBody Kind = "body"
	// KindWebhook is an incoming webhook delivery that could not become an event.
	KindWebhook Kind = "webhook"
	// KindOrder is an order whose work failed too often: it is parked until it is
	// redriven. The letter's payload names it.
	KindOrder Kind = "order"
	// KindDelivery is an outgoing webhook that nobody took: its payload is the body
	// that was sent.
	KindDelivery Kind = "delivery"
	// KindMessage is a message of the broker that could not be processed.
	KindMessage Kind = "message"
)

// Letter is one dead letter.
type Letter struct {
	// ID is a UUID, deterministic in what made the letter, so that writing the
	// same letter twice keeps one.
	ID       string
	TenantID string
	Kind     Kind
	// Reason says in one sentence what was wrong and what would mend it.
	Reason string
	// Source and Type name the origin as far as it is known.
	Source string
	Type   string
	// EventID is the caller's id of the event, if it could be read.
	EventID string
	// BatchID is the batch it came with, if any.
	BatchID    string
	ReceivedAt time.Time
	// Attempts counts the times it was tried to process, the first included.
	Attempts int
	// LastAttemptAt is the time of the last redrive, zero if there was none.
	LastAttemptAt time.Time
	// ContentType says how Payload is written, as far as it is known, for
	// example "application/cloudevents+json".
	ContentType string
	// Payload is the thing itself, as received: not always JSON or UTF-8.
	Payload []byte
	// Truncated says that Payload is only the beginning. Such a letter cannot be
	// redriven as it is.
	Truncated bool
}

// Filter selects letters of one tenant.
type Filter struct {
	TenantID string
	Kind     Kind   // empty means all
	Type     string // empty means all
	// From and To bound the time of receipt: [From, To). Zero means unbounded.
	From, To time.Time
}

// Store keeps dead letters. Implementations are safe for concurrent use.
type Store interface {
	// Add writes the letters durably, many in several transactions, so that others
	// write in between; a letter whose (tenant, id) is there already is left as it
	// is. After an error some may have been written: call it again with all.
	Add(ctx context.Context, letters []Letter) error
	// List returns letters newest first, at most limit, beginning after cursor.
	// The next cursor is empty when nothing follows.
	List(ctx context.Context, f Filter, limit int, cursor string) (letters []Letter, next string, err error)
	// Get returns one letter, ErrNotFound if the tenant has no such letter.
	Get(ctx context.Context, tenantID, id string) (Letter, error)
	// Delete removes one letter, ErrNotFound if the tenant has no such letter.
	Delete(ctx context.Context, tenantID, id string) error
	// RecordAttempt counts a failed redrive, with its time and new reason.
	RecordAttempt(ctx context.Context, tenantID, id string, at time.Time, reason string) error
	// Count returns the number of letters of all tenants, by kind.
	Count(ctx context.Context) (map[Kind]int64, error)
	// DropBefore removes letters received before t, at most limit, and returns
	// how many it removed. Letters of KindOrder stay: each stands for an order that
	// waits for a person.
	DropBefore(ctx context.Context, t time.Time, limit int) (int, error)
}

// Errors a Store answers with; test with errors.Is.
var (
	ErrNotFound  = errors.New("dead letter not found")
	ErrBadCursor = errors.New("cursor is not one this server gave")
)
