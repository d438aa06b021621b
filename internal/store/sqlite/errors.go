package sqlite

import (
	"errors"
	"fmt"

	modernc "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"millrace/internal/event"
)

// ErrClosed is the answer of a store that was closed.
var ErrClosed = errors.New("the store is closed")

// IncompatibleError says that a file was written by a newer program which this
// one cannot stand in for.
type IncompatibleError struct {
	// File is the database file.
	File string
	// FileVersion is the schema version the file has.
	FileVersion int64
	// NeedsVersion is the oldest schema version a program must know to use it.
	NeedsVersion int64
	// KnownVersion is the newest schema version this program knows.
	KnownVersion int64
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("%s has schema version %d, which needs a Millrace that knows version %d or newer; "+
		"this one knows up to version %d. Start the newer Millrace again, or restore the data directory from before its first start",
		e.File, e.FileVersion, e.NeedsVersion, e.KnownVersion)
}

// code returns SQLite's primary result code of an error, 0 if it is not SQLite's.
func code(err error) int {
	var e *modernc.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

// dataError marks an error that comes from what is in a row, so that trying
// again cannot help.
func dataError(err error) error {
	var e *modernc.Error
	if errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_ROWID) {
		return err // two rows of one number: that is our doing, not the row's
	}
	switch code(err) {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return fmt.Errorf("%w: %w", event.ErrData, err)
	}
	return err
}

// reason names the kind of a failed append, for the metrics.
func reason(err error) string {
	var position *event.PositionError
	switch {
	case errors.Is(err, event.ErrData):
		return "data"
	case errors.As(err, &position):
		return "position"
	}
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		return "full"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "busy"
	case sqlite3.SQLITE_IOERR:
		return "io"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return "corrupt"
	}
	return "other"
}
