// Package inventory is how much of each product there is: what the merchant
// counts, and how much of that is promised to orders. Orders reserve, ship and
// release in transactions of their own; this package is the merchant's side.
//
// A Service judges requests; a Store makes each change in one durable transaction
// with its audit entry. Both are safe for concurrent use, beside orders too, and
// nothing runs in the background.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/audit"
)

// KeyLife is how long the key of an adjustment is kept: after it the key is free.
const KeyLife = 24 * time.Hour

// MaxQuantity bounds every quantity, so that sums of them cannot overflow.
const MaxQuantity = 1_000_000_000

// Level is the stock of one SKU.
type Level struct {
	TenantID string
	SKU      string
	// OnHand is what the merchant counts, in units. Reserved of these are promised
	// to orders that have not shipped. 0 ≤ Reserved ≤ OnHand holds always.
	OnHand, Reserved int64
	// Version rises with every change, reservations included.
	Version   int64
	UpdatedAt time.Time
}

// Available is what can still be ordered.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// Set asks to set what is on hand.
type Set struct {
	TenantID, SKU string
	OnHand        int64
	// IfVersion is the version the caller saw: 0 if it believes there is no level
	// yet, AnyVersion if it does not care (the edge never allows that).
	IfVersion int64
	Now       time.Time
	Actor     audit.Actor
}

// AnyVersion in Set.IfVersion sets whatever stands.
const AnyVersion = -1

// Adjustment asks to change what is on hand by a delta.
type Adjustment struct {
	TenantID, SKU string
	Delta         int64
	Reason        string
	// Key makes the adjustment once for this actor, within KeyLife: the same key with the same request again
	// changes nothing and answers with the level as it is now; with another request
	// it is ErrKeyReused.
	Key   string
	Now   time.Time
	Actor audit.Actor
}

// ImportLine is one line of an import: it either sets what is on hand or changes
// it by a delta, once for each (tenant, import, line), however long ago that was.
type ImportLine struct {
	TenantID string
	// ImportID names the import; Line is the line's number in it, from 1.
	ImportID string
	Line     int64
	SKU      string
	// OnHand is used when IsDelta is false, Delta when it is true.
	IsDelta       bool
	OnHand, Delta int64
	Now           time.Time
	Actor         audit.Actor
}

// Content is what the line says, in short, such as "tee onHand 100": two lines with
// one content do the same.
func (l *ImportLine) Content() string {
	if l.IsDelta {
		return fmt.Sprintf("%s delta %d", l.SKU, l.Delta)
	}
	return fmt.Sprintf("%s onHand %d", l.SKU, l.OnHand)
}

// ImportResult is what became of one line.
type ImportResult struct {
	Level Level
	// Repeated says that the line had been applied before.
	Repeated bool
	// Err is an *InvalidError, a *ReservedError, an *OverflowError or a
	// *ReusedLineError; nil if the line was applied, now or before. A line with an error is as if it had not come.
	Err error
}

// Query asks for a tenant's levels in the order of SKU.
type Query struct {
	TenantID string
	Limit    int
	Cursor   string
}

// Page is one page of levels; Next is empty when nothing follows.
type Page struct {
	Levels []Level
	Next   string
}

// Store keeps levels. Each change is one durable transaction with its audit
// entry (SetEntry, AdjustEntry, ImportEntry). What leaves a level as it was raises
// no version and has no entry. It is safe for concurrent use, with orders being
// placed at the same time too.
type Store interface {
	// Set sets what is on hand. ErrExists if IfVersion is 0 and a level exists,
	// ErrVersion if it has another version, *ReservedError if more is reserved.
	Set(ctx context.Context, s Set) (Level, error)
	// Adjust changes what is on hand; a level that does not exist counts as zero.
	// replayed says that the key had done it before. Errors: *ReservedError,
	// *OverflowError, ErrKeyReused.
	Adjust(ctx context.Context, a Adjustment) (level Level, replayed bool, err error)
	// Import applies lines in order in one transaction, each with a result of its
	// own.
	Import(ctx context.Context, lines []ImportLine) ([]ImportResult, error)
	// Level returns one SKU's stock, ErrNotFound if none was ever set.
	Level(ctx context.Context, tenantID, sku string) (Level, error)
	Levels(ctx context.Context, q Query) (Page, error)
}

// Errors a Store answers with; test with errors.Is.
var (
	ErrNotFound  = errors.New("no stock is kept for this SKU")
	ErrBadCursor = errors.New("cursor is not one this server gave")
	ErrExists    = errors.New("stock exists already: name the version you saw")
	ErrVersion   = errors.New("the stock has changed meanwhile")
	ErrKeyReused = errors.New("the key was used for another request")
)

// InvalidError says what is wrong with a request, by field.
type InvalidError struct {
	// Field is the member of the request, such as "delta".
	Field string
	// Detail says what is wrong and what to do. It is safe to show.
	Detail string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }

// ReservedError says that a change would leave less on hand than is reserved.
type ReservedError struct {
	SKU              string
	OnHand, Reserved int64 // what the change asked for, and what is reserved
}

func (e *ReservedError) Error() string {
	return fmt.Sprintf("%s: %d are reserved by orders, so %d on hand is too few: cancel orders first", e.SKU, e.Reserved, e.OnHand)
}

// ReusedLineError says that another line was applied under the same number of the
// same import.
type ReusedLineError struct {
	ImportID string
	Line     int64
	// Applied is the Content of the line that was applied.
	Applied string
}

func (e *ReusedLineError) Error() string {
	return fmt.Sprintf("line %d of the import %q was applied before as %q and is another now: put it back, or import what is new under another id", e.Line, e.ImportID, e.Applied)
}

// OverflowError says that a change would leave more on hand than MaxQuantity.
type OverflowError struct {
	SKU    string
	OnHand int64
}

func (e *OverflowError) Error() string {
	return fmt.Sprintf("%s: %d on hand is out of range: from 0 to %d", e.SKU, e.OnHand, int64(MaxQuantity))
}
