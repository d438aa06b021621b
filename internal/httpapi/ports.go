package httpapi

import (
	"context"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/limit"
)

// EventIngester takes events in.
type EventIngester interface {
	// Admit says whether a submission would be taken now, before its body is
	// read. The error is an *event.Unavailable.
	Admit() error
	// Ingest accepts one body. The error is a *scan.SyntaxError when the body as
	// a whole is refused, or an *event.Unavailable. A receipt that accepted
	// nothing is no error here; the edge answers 422.
	Ingest(ctx context.Context, s event.Submission) (event.Receipt, error)
}

// EventReader reads a tenant's events back.
type EventReader interface {
	Events(ctx context.Context, q event.Query) (event.Page, error)
	Event(ctx context.Context, tenantID, id string) (event.Event, error)
	Stats(ctx context.Context, q event.StatsQuery) ([]event.Series, error)
	// Tail calls yield for each event from the cursor on, and waits for more
	// until ctx ends or yield returns an error, which it returns. A cursor that
	// this server did not give is event.ErrBadCursor, at once. The event must stay
	// valid until yield returns.
	Tail(ctx context.Context, q event.TailQuery, yield func(e event.Event, cursor string) error) error
}

// HookIngester takes webhook deliveries in.
type HookIngester interface {
	// IngestHook verifies and accepts one delivery. Besides the errors of Ingest
	// it answers with event.ErrUnknownHook or a *hook.Error.
	IngestHook(ctx context.Context, s event.HookSubmission) (event.Receipt, error)
}

// DeadLetters is what can be done with dead letters. A letter the tenant does
// not have is deadletter.ErrNotFound. *deadletter.Service is one.
type DeadLetters interface {
	List(ctx context.Context, f deadletter.Filter, limit int, cursor string) (letters []deadletter.Letter, next string, err error)
	Get(ctx context.Context, tenantID, id string) (deadletter.Letter, error)
	Delete(ctx context.Context, tenantID, id string, by audit.Actor) error
	// DeleteAll removes at most limit letters.
	DeleteAll(ctx context.Context, f deadletter.Filter, limit int, by audit.Actor) (deadletter.Summary, error)
	// Redrive puts one letter back on its road, or the replacement instead of its
	// payload when that is not empty. A letter that is refused again stays: the
	// error is a *deadletter.RejectedError, or deadletter.ErrTruncated.
	Redrive(ctx context.Context, tenantID, id string, replacement []byte, by audit.Actor) (deadletter.Letter, error)
	// RedriveAll redrives at most limit letters.
	RedriveAll(ctx context.Context, f deadletter.Filter, limit int, by audit.Actor) (deadletter.Summary, error)
}

// Authenticator judges a credential: what stands after "Bearer ", or an API key.
// A refusal is an *auth.Error; any other error means that it cannot tell now.
type Authenticator interface {
	Authenticate(ctx context.Context, credential string) (*auth.Principal, error)
}

// Keys creates, lists and revokes API keys.
type Keys interface {
	Create(ctx context.Context, k auth.CreateKey) (key auth.Key, secret string, err error)
	List(ctx context.Context, tenantID string) ([]auth.Key, error)
	Revoke(ctx context.Context, tenantID, id string, by audit.Actor) error
}

// Rates is what each tenant may spend, in events or orders, by this instance alone or
// by all together. *limit.Rates, *limit.Windows and *limit.Policies are Rates. Both
// methods answer at once, or within the time an exact limit may wait.
type Rates interface {
	// Allow says whether the tenant may spend at all. It takes nothing, or one unit
	// if the limit is exact.
	Allow(tenantID string) limit.Decision
	// Spend takes what a request that was allowed turned out to cost, beyond what
	// Allow took, and says what is left. With 0 an exact limit gives back what Allow
	// took.
	Spend(tenantID string, n int64) limit.Decision
}

// Bytes bounds the memory that request bodies may hold. *limit.Bytes is one.
type Bytes interface {
	TryAcquire(n int64) bool
	Release(n int64)
	// Limit returns the bound in bytes.
	Limit() int64
}

// Check is one part's say in whether this instance can serve.
type Check struct {
	// Name is the part's name in the answer, for example "log".
	Name string
	// Jobs are the jobs that need the part, for example "events". A part without
	// jobs is needed by all.
	Jobs []string
	// Probe returns nil when the part can serve, and an error that says what is
	// wrong, safe to show to anyone, when it cannot. It must heed ctx.
	Probe func(ctx context.Context) error
}
