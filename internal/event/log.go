package event

import (
	"context"
	"errors"

	"millrace/internal/wal"
)

// Position is where a record went.
type Position = wal.Position

// Frame is records of one log that became durable together.
type Frame = wal.Frame

// Frames reads a log in order; a *wal.Reader is one.
type Frames = wal.Frames

// Log is where accepted batches go. *wal.Log is one.
type Log interface {
	// Admit is a cheap check whether an append would be refused now.
	Admit() error
	// Append returns when the record is durable.
	Append(record []byte) (Position, error)
	// AppendAsync returns when the record is queued; if it is, finished is called
	// with the outcome and must not wait for anything.
	AppendAsync(record []byte, finished func(err error)) error
	// Next is one past the sequence of the last durable record. Only AckStore asks.
	Next() uint64
}

// PatientLog is a Log that may know the outcome of an append only long after
// anybody waits for it, as one does that lies on other machines. AckStream needs
// one.
type PatientLog interface {
	Log
	// AppendWithin is Append, but returns at the latest when ctx ends or the log's own
	// patience does. decided is called exactly once, perhaps long after the return
	// and perhaps before it: with nil if the record is kept, or with the error if it
	// is not. Where that is not known at the return, the error is ErrLogUnknown. The
	// record is not kept after the return; decided must not wait for anything.
	AppendWithin(ctx context.Context, record []byte, decided func(err error)) error
}

// SinkLog is what a Sink reads: one log, or one partition of a stream. *wal.Log is
// one. Sequences begin at 1 or above and have no gaps but those that a repair left.
type SinkLog interface {
	// ID names the log for its whole life; one that is made anew has another.
	ID() LogID
	// First is the sequence of the first record that is still there, and Next is one
	// past the last.
	First() uint64
	Next() uint64
	// ReadFrames returns the frames from a record on.
	ReadFrames(from uint64) (Frames, error)
	// Release says that every record below upTo is safely in the store. It may trim
	// the log now, later or not at all, and it must not wait for anything.
	Release(upTo uint64) error
}

// Refresher is a SinkLog that others write to and trim too. Refresh brings what
// First and Next say up to date.
type Refresher interface {
	Refresh(ctx context.Context) error
}

var (
	_ Log     = (*wal.Log)(nil)
	_ SinkLog = (*wal.Log)(nil)
)

// Errors of a Log that lies on other machines; test with errors.Is. All but
// ErrLogUnknown mean that the record was definitely not stored.
var (
	// ErrLogUnknown says that the record may be stored or not.
	ErrLogUnknown = errors.New("the stream has not answered, the outcome is unknown")
	// ErrLogFull says that the stream is at its bound.
	ErrLogFull = errors.New("the stream is full, the sinks have to catch up first")
	// ErrLogBusy says that as many bytes as may be are on their way to the stream.
	ErrLogBusy = errors.New("too many bytes wait for the stream, try again shortly")
	// ErrLogAway says that the stream cannot be reached, or has no leader.
	ErrLogAway = errors.New("the stream takes nothing now")
	// ErrLogClosed says that this instance's way to the stream was closed.
	ErrLogClosed = errors.New("the way to the stream was closed")
	// ErrLogTooLarge says that a record is larger than a message may be.
	ErrLogTooLarge = errors.New("the record is larger than a message of the stream may be")
)

// ErrFramesMissing is wrapped by an error of Frames that stand where the log has
// nothing any more. If others sink the same log, they may have brought it into the
// store and trimmed it.
var ErrFramesMissing = errors.New("records are missing")

// Advice says of a log how it is called and what to do when something is wrong
// with it. The zero value is that of the write-ahead log.
type Advice struct {
	// Name is how messages call the log.
	Name string
	// MissingStart and MissingEnd say what to do when the store wants records that the
	// log has no more, or has records that the log does not have yet.
	MissingStart, MissingEnd string
	// Unreadable says what to do when the log cannot be read.
	Unreadable string
}

func (a Advice) withDefaults() Advice {
	if a.Name == "" {
		a.Name = "the event log"
	}
	if a.MissingStart == "" {
		a.MissingStart = "restore the missing segments, or start with an empty wal directory if they are lost for good"
	}
	if a.MissingEnd == "" {
		a.MissingEnd = "restore the newest segments, or start with an empty wal directory if they are lost for good"
	}
	if a.Unreadable == "" {
		a.Unreadable = "run `millrace wal inspect`"
	}
	return a
}
