package event

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"millrace/internal/event/dedupe"
	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
	"millrace/internal/wal"
)

// AckMode says what has happened to an event when its sender is answered.
type AckMode string

// The ack modes there are.
const (
	// AckWAL answers when the event is in the log, on disk.
	AckWAL AckMode = "wal"
	// AckStore answers when the event is committed in the store and queryable.
	AckStore AckMode = "store"
	// AckMemory answers when the event is queued for the log: a crash loses it.
	AckMemory AckMode = "memory"
	// AckStream answers when a replicated stream has the event. The log is a
	// PatientLog.
	AckStream AckMode = "stream"
)

// CommitWaiter waits for the store; *Sink is one.
type CommitWaiter interface {
	// WaitCommitted returns once the store has every record below upTo.
	WaitCommitted(ctx context.Context, upTo uint64) error
}

// IngesterOptions are what an Ingester is made of. Log is required, and a
// PatientLog for AckStream; Commits is for AckStore.
type IngesterOptions struct {
	Log Log
	// Window recognises events that come again; without one every event is kept.
	Window  *dedupe.Window
	Commits CommitWaiter
	Ack     AckMode // AckWAL if empty
	// StoreAckTimeout bounds the wait for the store in AckStore, 30 s if zero.
	StoreAckTimeout time.Duration
	// StreamAckTimeout bounds, in AckStream, the wait for the stream and for other
	// submissions of the same events; 10 s if zero.
	StreamAckTimeout time.Duration
	Limits           scan.Limits
	// KeepBodyBytes bounds what is kept of a body in which no events were found.
	KeepBodyBytes int
	// Hooks are the webhook sources by name.
	Hooks   map[string]*hook.Verifier
	Now     func() time.Time // time.Now if nil
	Logger  *slog.Logger
	Metrics *IngestMetrics
}

// Ingester accepts events. It is safe for concurrent use and owns no goroutine.
type Ingester struct {
	o       IngesterOptions
	patient PatientLog // the log, in AckStream
	pool    sync.Pool  // of *submission
	pending atomic.Int64
}

// NewIngester returns an Ingester.
func NewIngester(o IngesterOptions) (*Ingester, error) {
	if o.Ack == "" {
		o.Ack = AckWAL
	}
	if o.StoreAckTimeout == 0 {
		o.StoreAckTimeout = 30 * time.Second
	}
	if o.StreamAckTimeout == 0 {
		o.StreamAckTimeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewIngestMetrics(nil)
	}
	switch {
	case o.Log == nil:
		return nil, errors.New("an ingester needs a log")
	case o.Ack == AckStore && o.Commits == nil:
		return nil, errors.New("ack mode store needs a sink to wait for")
	case o.Ack != AckWAL && o.Ack != AckStore && o.Ack != AckMemory && o.Ack != AckStream:
		return nil, errors.New("unknown ack mode " + string(o.Ack))
	}
	in := &Ingester{o: o}
	if o.Ack == AckStream {
		var ok bool
		if in.patient, ok = o.Log.(PatientLog); !ok {
			return nil, errors.New("ack mode stream needs a log that is a replicated stream")
		}
	}
	in.pool.New = func() any { return &submission{scanner: scan.NewScanner()} }
	return in, nil
}

// Admit says whether a submission would be refused before it is even read:
// nil, or an *Unavailable. It does no I/O.
func (in *Ingester) Admit() error {
	if err := in.o.Log.Admit(); err != nil {
		return in.refuse(err)
	}
	return nil
}

// Ingest accepts the events of a body. It answers with
//   - a Receipt: the accepted events are durable as the ack mode says, and the
//     rejected ones are dead letters;
//   - a *scan.SyntaxError: no events could be found in the body;
//   - an *Unavailable: not now, or outcome unknown.
//
// The context bounds only the waiting for other submissions and for the store;
// what has been handed to the log is not taken back.
func (in *Ingester) Ingest(ctx context.Context, s Submission) (Receipt, error) {
	sub := in.begin(s.TenantID)
	defer in.end(sub)
	events, err := sub.scanner.Scan(s.Body, s.Format, in.o.Limits)
	if err != nil {
		in.keepBody(sub, s, err)
		return Receipt{}, err
	}
	sub.events, sub.format = events, s.Format
	return in.accept(ctx, sub)
}

// keepBody makes a body that is not what it claims to be a dead letter. That is
// a courtesy: the answer says what is wrong with the body whether it succeeds or
// not.
func (in *Ingester) keepBody(sub *submission, s Submission, cause error) {
	var syntax *scan.SyntaxError
	if !errors.As(cause, &syntax) || len(s.Body) == 0 {
		return
	}
	if syntax.Code != scan.Malformed && syntax.Code != scan.WrongShape {
		return // an empty or too large batch holds nothing that its sender lacks
	}
	entry := deadEntry{kind: deadBody, format: s.Format, reason: cause.Error(), payload: s.Body}
	if len(entry.payload) > in.o.KeepBodyBytes {
		entry.payload, entry.truncated = entry.payload[:in.o.KeepBodyBytes], true
	}
	in.keep(sub, entry)
}

func (in *Ingester) keep(sub *submission, entry deadEntry) {
	sub.dead = append(sub.dead[:0], entry)
	sub.encode()
	if _, err := in.o.Log.Append(sub.record); err != nil {
		in.o.Logger.Warn("what was answered with an error could not be kept as a dead letter",
			"tenant", sub.tenantID, "error", err)
		return
	}
	in.o.Metrics.malformed.Inc()
}

// Pending returns how many submissions are being accepted now.
func (in *Ingester) Pending() int { return int(in.pending.Load()) }

// begin takes a submission's working memory from the pool.
func (in *Ingester) begin(tenantID string) *submission {
	in.pending.Add(1)
	sub := in.pool.Get().(*submission)
	sub.tenantID = tenantID
	sub.batchID = batchID(newUUID())
	return sub
}

// end puts the working memory back, unless an unusual body made it large.
func (in *Ingester) end(sub *submission) {
	in.pending.Add(-1)
	if cap(sub.record) > keepRecordBytes {
		return
	}
	sub.reset()
	in.pool.Put(sub)
}

// keepRecordBytes is the largest record buffer that is kept for reuse: more than
// a batch of a hundred common events, less than the largest body.
const keepRecordBytes = 512 << 10

func newUUID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		// The system's random source has failed; crypto/rand itself crashes the
		// process on that, so this cannot be reached.
		panic(err)
	}
	return id
}

// The refusals there are, each made once: under overload they are the hot path.
var refusals = []struct {
	cause   error
	refusal Unavailable
}{
	{wal.ErrBacklogFull, Unavailable{Reason: "backlog-full", RetryAfter: 2 * time.Second,
		Detail: "the backlog of events that are not yet in the database has reached its bound; try again later"}},
	{wal.ErrDiskFull, Unavailable{Reason: "disk-full", RetryAfter: 5 * time.Second,
		Detail: "the disk of the event log is nearly full; try again later, service resumes when there is space"}},
	{wal.ErrBusy, Unavailable{Reason: "overloaded", RetryAfter: time.Second,
		Detail: "more events arrive than the event log can write; try again later"}},
	{wal.ErrUnknown, Unavailable{Reason: "outcome-unknown", RetryAfter: 2 * time.Second, Unknown: true,
		Detail: "the event log failed while it was writing these events, they may or may not be kept; it is safe to repeat them with the same ids"}},
	{wal.ErrFailed, Unavailable{Reason: "log-failed", RetryAfter: 5 * time.Second,
		Detail: "the event log has failed and this instance is going down; try another one, or try again later"}},
	{wal.ErrClosed, Unavailable{Reason: "shutting-down", RetryAfter: 2 * time.Second,
		Detail: "this instance is shutting down; try again"}},
	{ErrLogFull, Unavailable{Reason: "backlog-full", RetryAfter: 2 * time.Second,
		Detail: "the backlog of events that are not yet in the database has reached its bound; try again later"}},
	{ErrLogBusy, Unavailable{Reason: "overloaded", RetryAfter: time.Second,
		Detail: "more events arrive than the stream can take; try again later"}},
	{ErrLogAway, Unavailable{Reason: "stream-away", RetryAfter: 2 * time.Second,
		Detail: "the stream that keeps the events cannot be reached or has no leader; nothing was kept, try again later"}},
	{ErrLogUnknown, Unavailable{Reason: "outcome-unknown", RetryAfter: 2 * time.Second, Unknown: true,
		Detail: "the stream has not said in time whether it keeps these events; it is safe to repeat them with the same ids"}},
	{ErrLogClosed, Unavailable{Reason: "shutting-down", RetryAfter: 2 * time.Second,
		Detail: "this instance is shutting down; try again"}},
}

// refuse turns an error of the log into what the caller is told.
func (in *Ingester) refuse(err error) *Unavailable {
	for i := range refusals {
		if errors.Is(err, refusals[i].cause) {
			u := refusals[i].refusal
			u.Err = err
			in.o.Metrics.refused(u.Reason)
			return &u
		}
	}
	in.o.Metrics.refused("other")
	return &Unavailable{Reason: "log-refused", RetryAfter: 5 * time.Second, Err: err,
		Detail: "the event log did not take these events; nothing was kept, try again later"}
}
