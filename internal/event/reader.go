package event

import (
	"context"
	"errors"
	"time"
)

// CommitSignal tells that something new can be read; *Sink is one.
type CommitSignal interface {
	// Changed returns a channel that is closed at the next commit.
	Changed() <-chan struct{}
}

// Reader reads events. It is safe for concurrent use.
type Reader struct {
	Store
	commits CommitSignal
	now     func() time.Time
}

// NewReader returns a Reader of the store; commits wakes its tails.
func NewReader(store Store, commits CommitSignal, now func() time.Time) *Reader {
	if now == nil {
		now = time.Now
	}
	return &Reader{Store: store, commits: commits, now: now}
}

const (
	// tailPage is how many events a tail reads at once.
	tailPage = 500
	// tailBytes bounds what a tail holds of the store's events while its reader is
	// slow.
	tailBytes = 256 << 10
	// tailEvery is the least time between two reads of a tail that has caught up:
	// at full rate there is a commit every few milliseconds.
	tailEvery = 100 * time.Millisecond
	// tailPoll bounds how long a tail waits for a commit before it looks all the
	// same: other instances commit to the same store.
	tailPoll = time.Second
)

// Tail calls yield with every event that becomes queryable, oldest first, and
// the cursor that resumes after it, until the context ends or yield returns an
// error, which it returns. A tail reads from the store at its own pace and holds
// one small page, so a slow one costs little but its place.
func (r *Reader) Tail(ctx context.Context, q TailQuery, yield func(e Event, cursor string) error) error {
	query := Query{TenantID: q.TenantID, Type: q.Type, Limit: tailPage, MaxBytes: tailBytes, Cursor: q.Cursor, Ascending: true}
	if q.Cursor == "" {
		query.From = r.now()
	}
	for {
		changed := r.commits.Changed() // before the read: no commit may fall between
		page, err := r.Events(ctx, query)
		if err != nil {
			return tailEnd(ctx, err)
		}
		for i := range page.Events {
			if err := yield(page.Events[i], page.Events[i].Cursor); err != nil {
				return err
			}
		}
		if page.Next != "" {
			query.Cursor = page.Next
		}
		if len(page.Events) > 0 && more(&page) {
			continue
		}
		if !sleep(ctx, tailEvery) {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(tailPoll):
		case <-ctx.Done():
			return nil
		}
	}
}

// more says whether a page ended because it was full.
func more(p *Page) bool {
	bytes := 0
	for i := range p.Events {
		bytes += len(p.Events[i].Payload)
	}
	return len(p.Events) == tailPage || bytes >= tailBytes
}

func tailEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ErrBadCursor) {
		return nil
	}
	return err
}
