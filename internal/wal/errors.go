package wal

import (
	"errors"
	"fmt"
)

// Errors of Admit, Append and AppendAsync; test with errors.Is. All but
// ErrUnknown mean that the record was definitely not stored.
var (
	// ErrUnknown says that the log failed while the record was being written: it
	// may be there after a restart, or not.
	ErrUnknown = errors.New("wal: outcome unknown, the log failed during the write")
	// ErrBacklogFull says that MaxBacklogBytes are waiting to be released.
	ErrBacklogFull = errors.New("wal: the backlog is full, the reader has to catch up first")
	// ErrDiskFull says that there is no room on the disk. The log goes on by
	// itself when there is.
	ErrDiskFull = errors.New("wal: the disk is full, make room and the log goes on by itself")
	// ErrBusy says that MaxQueuedBytes are waiting to be written.
	ErrBusy = errors.New("wal: too many bytes wait to be written, try again shortly")
	// ErrFailed says that the log failed earlier and takes nothing any more.
	ErrFailed = errors.New("wal: the log failed, restart the process")
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("wal: closed")
	// ErrTooLarge says that a record is larger than MaxRecordBytes.
	ErrTooLarge = errors.New("wal: the record is too large")
)

// ErrReleased says that a Reader stands at a position that was released.
var ErrReleased = errors.New("wal: these records were released already")

// ErrPosition says that a sequence lies outside the log. If a store's position
// lies beyond the log's end, records are missing from the log.
var ErrPosition = errors.New("wal: the sequence is not in the log")

// DamageError says that a log was changed by something other than itself: bytes
// differ, or a file is missing. Open and readers return it and change nothing.
type DamageError struct {
	// File is the path of the damaged or missing file.
	File string
	// Offset is where in the file the damage begins.
	Offset int64
	// Reason says what is wrong.
	Reason string
	// FirstLost is the first sequence that cannot be read, 0 if not known.
	FirstLost uint64
	// NextIntact is the first sequence after the damage that can be read again, 0
	// if not known.
	NextIntact uint64
}

func (e *DamageError) Error() string {
	lost := ""
	switch {
	case e.NextIntact != 0 && e.FirstLost >= e.NextIntact:
		lost = " No record is affected."
	case e.FirstLost != 0 && e.NextIntact != 0:
		lost = fmt.Sprintf(" Records %d to %d are affected.", e.FirstLost, e.NextIntact-1)
	case e.FirstLost != 0:
		lost = fmt.Sprintf(" Records from %d on are affected.", e.FirstLost)
	}
	return fmt.Sprintf("wal: %s is damaged at offset %d: %s.%s Nothing was changed. Bring the file back from a copy, "+
		"or run `millrace wal repair`, which puts the damage aside and lists what is lost", e.File, e.Offset, e.Reason, lost)
}
