package event

import (
	"errors"
	"fmt"
	"time"

	"millrace/internal/event/scan"
)

// Submission is one request body to be accepted.
type Submission struct {
	// TenantID is the caller's tenant; an event that names another is rejected.
	TenantID string
	// Body is the decompressed body. It may be reused after Ingest returned.
	Body []byte
	// Format says how the body is written.
	Format scan.Format
}

// HookSubmission is one incoming webhook delivery.
type HookSubmission struct {
	// Source is the configured name the delivery was posted to.
	Source string
	// Header returns a request header's first value, empty if absent.
	Header func(name string) string
	// Body is the raw body. It may be reused after IngestHook returned.
	Body []byte
}

// Receipt says what became of a submission. All of it is as durable as the
// configured ack mode promises.
type Receipt struct {
	// BatchID is a UUIDv7.
	BatchID string
	// Accepted counts the events that are kept, duplicates of kept ones included.
	Accepted int
	// Duplicates counts the accepted events that were there already.
	Duplicates int
	// Rejected lists the events that became dead letters.
	Rejected []Rejection
	// IDs has the id of each accepted event in order of the batch, if the server
	// gave at least one of them; nil otherwise.
	IDs []string
}

// Rejection is one event that was not accepted.
type Rejection struct {
	Index  int    // position in the batch, from 0
	ID     string // the caller's id if it could be read
	Reason string // what is wrong and what to do
}

// Unavailable says that a submission cannot be taken now. Unless Unknown is set
// nothing of it was kept.
type Unavailable struct {
	// Reason is a stable slug: "backlog-full", "disk-full", "overloaded",
	// "log-failed", "shutting-down", "store-timeout", "store-behind".
	Reason string
	// Detail says what happened and what to do.
	Detail string
	// RetryAfter is how long to wait before trying again.
	RetryAfter time.Duration
	// Unknown says that the events may or may not have been kept: it is safe to
	// repeat them with the same ids.
	Unknown bool
	// Err is the cause, for the log only.
	Err error
}

func (e *Unavailable) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Detail, e.Err)
	}
	return e.Reason + ": " + e.Detail
}

func (e *Unavailable) Unwrap() error { return e.Err }

// ErrUnknownHook says that no webhook source of that name is configured.
var ErrUnknownHook = errors.New("no webhook source of that name is configured")

// TailQuery asks for a tenant's events as they become queryable.
type TailQuery struct {
	TenantID string
	Type     string // empty means all
	// Cursor resumes after an event; empty begins with what comes next.
	Cursor string
}
