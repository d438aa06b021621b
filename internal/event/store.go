package event

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Batch is what one Append commits: the rows of the log records [From, UpTo) of
// one log, all received on one UTC day.
type Batch struct {
	LogID LogID
	// From and UpTo are record sequence numbers: the batch covers [From, UpTo).
	From, UpTo uint64
	// Day is the UTC midnight that begins the day of receipt of every row.
	Day time.Time
	// Rows are in order of receipt. It may be empty: the position still moves.
	Rows []Row
	// Exact asks that a row whose Hash was stored by an exact batch within the last
	// ExactDays days (this one included) or on a later day, or stands earlier in Rows,
	// is left out.
	//
	// A row that is Exact by itself is held to the same by all rows that are, over
	// OwnExactDays days, whatever Exact and ExactDays say. The two kinds are kept
	// apart: no row of the one kind makes a row of the other be left out.
	Exact     bool
	ExactDays int
	// Known says that the caller was told by the store that it has the log: then a
	// store that does not know it has lost it, and takes nothing.
	Known bool
	// DryRun asks for everything but the commit: the transaction is rolled back.
	// It serves to find the row a database refuses without losing the others.
	DryRun bool
}

// OwnExactDays is for how many days of receipt an exact row is recognised, the
// day of the batch included: a week at the least, and no longer than its day is
// kept.
const OwnExactDays = 8

// Store keeps events. Implementations are safe for concurrent use, except that
// one log has one appender at a time.
type Store interface {
	// Position returns the sequence of the first record of the log that is not
	// in the store, and whether the store has seen that log at all.
	Position(ctx context.Context, log LogID) (next uint64, known bool, err error)

	// Append commits rows, per-minute rollups and the log's position in one
	// transaction, durably. The position is compared first: when the store does
	// not stand at b.From, or does not know a log that it should (b.Known), the answer
	// is a *PositionError and nothing changed. Any other log the store has never seen
	// stands wherever its first batch begins.
	// It returns how many rows were inserted, which is less than len(b.Rows) only
	// in exact mode and with exact rows.
	//
	// An error that wraps ErrData means that the database refuses these rows for
	// what is in them, now and always; the caller finds the row by bisection. Any
	// other error may pass, and it may also come after the commit took place: then
	// the next try is answered with a *PositionError whose Have is b.UpTo.
	Append(ctx context.Context, b Batch) (inserted int, err error)

	// Events returns one page of a tenant's events.
	Events(ctx context.Context, q Query) (Page, error)

	// Event returns a tenant's event by id, the newest if several sources used
	// the same id. ErrNotFound if there is none. Where the id tells when it was made
	// (UUIDv7), the store may answer with the newest one received about then.
	Event(ctx context.Context, tenantID, id string) (Event, error)

	// Has says whether an event with this hash, source included, is stored.
	Has(ctx context.Context, h Hash) (bool, error)

	// Stats returns counts, payload bytes and amounts per type, currency and step,
	// from the rollups. Sums beyond what an int64 can hold stop at its bounds.
	Stats(ctx context.Context, q StatsQuery) ([]Series, error)

	// RecentHashes calls yield with the hash of every event received at or after
	// since, oldest first, and with a time that is never before its receipt and at
	// most some seconds after. It serves to rebuild the dedupe window at start, so
	// it reads no payloads. It stops when yield returns false.
	RecentHashes(ctx context.Context, since time.Time, yield func(h Hash, receivedAt time.Time) bool) error

	// LastReceived returns the newest time of receipt in the store, zero if there
	// is none.
	LastReceived(ctx context.Context) (time.Time, error)

	// DropBefore removes whole days of receipt before the given UTC midnight and
	// returns the days it removed. No log's position is lost by it: where days hold
	// the positions, the days that do stay.
	DropBefore(ctx context.Context, day time.Time) ([]time.Time, error)
}

// Errors a Store answers with; test with errors.Is.
var (
	ErrNotFound  = errors.New("event not found")
	ErrBadCursor = errors.New("cursor is not one this server gave")
	// ErrTooManyPoints says that statistics would have more points than asked for.
	ErrTooManyPoints = errors.New("the statistics have too many points")
	// ErrData marks an error that comes from the content of a row.
	ErrData = errors.New("the database refuses this data")
	// ErrSlow marks an error of an append that took longer than it may: fewer rows may
	// have success.
	ErrSlow = errors.New("the database took too long")
)

// PositionError says that the store does not stand where a batch begins.
type PositionError struct {
	// Have is the sequence of the first record the store does not have.
	Have uint64
	// From is where the batch begins.
	From uint64
	// Unknown says that the store knew the log once, and does not any more. Have is 0.
	Unknown bool
}

func (e *PositionError) Error() string {
	if e.Unknown {
		return fmt.Sprintf("the store does not know the log any more, of which it had all below sequence %d", e.From)
	}
	return fmt.Sprintf("the store stands at log sequence %d, the batch begins at %d", e.Have, e.From)
}

// Query asks for events of one tenant, by time of receipt.
type Query struct {
	TenantID string
	// Type restricts to one type; empty means all.
	Type string
	// From and To bound the time of receipt: [From, To). Zero means unbounded.
	From, To time.Time
	// Limit is the page size, at least 1.
	Limit int
	// MaxBytes ends a page at so many bytes of payloads, after at least one event;
	// zero, and anything beyond it, means the store's own bound of 8 MiB.
	MaxBytes int
	// Cursor continues after a page's Next; empty starts anew.
	Cursor string
	// Ascending asks for the oldest first; the default is the newest first.
	//
	// Within a log, oldest first is by time of receipt. Where several logs are
	// appended at once, an event that was received earlier may become queryable
	// later: then it is the order in which events became queryable, so that a tail
	// that goes on from a cursor misses none and gets none twice.
	Ascending bool
}

// Page is one page of events. Next is empty when, at the time of the query,
// nothing followed; with Ascending it is always set if any event was ever
// reached, so that a tail can go on from it, and may be set on a page without
// events: it saves looking again at what is not the tail's.
type Page struct {
	Events []Event
	Next   string
}

// StatsQuery asks for the number of events of one tenant over time of receipt.
type StatsQuery struct {
	TenantID string
	Type     string // empty means all
	From, To time.Time
	// Step is the width of a point, a whole number of minutes, at least one.
	// Points are aligned to multiples of Step since the Unix epoch.
	Step time.Duration
	// MaxPoints bounds the points of all series together, zero means no bound.
	// Beyond it the answer is ErrTooManyPoints.
	MaxPoints int
}

// Series is the counts of one type and currency over time, oldest first. Steps
// without events have no point. The series of a query are in order of type, then
// currency.
type Series struct {
	Type string
	// Currency is that of the events' amounts; empty for the events that are not
	// about money, as all that come from outside.
	Currency string
	Points   []Point
}

// Point counts the events received in [Time, Time+Step) and their payload bytes.
type Point struct {
	Time  time.Time
	Count int64
	Bytes int64
	// Amount is the sum of the events' amounts in minor units of the series'
	// currency.
	Amount int64
}
