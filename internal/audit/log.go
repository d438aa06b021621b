package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// NewEntry returns the entry of a change made at a time, with an id of that
// time. before and after are written as JSON; nil, of whatever type, is nothing.
// Neither may hold a secret. The error is one of writing them.
func NewEntry(tenantID string, at time.Time, by Actor, action, object string, before, after any) (Entry, error) {
	e := Entry{ID: NewID(at), TenantID: tenantID, At: at, Actor: by, Action: action, Object: object}
	var err error
	if e.Before, err = marshal(before); err != nil {
		return Entry{}, fmt.Errorf("audit: %s of %s: before: %w", action, object, err)
	}
	if e.After, err = marshal(after); err != nil {
		return Entry{}, fmt.Errorf("audit: %s of %s: after: %w", action, object, err)
	}
	return e, nil
}

func marshal(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	text, err := json.Marshal(v)
	if err != nil || bytes.Equal(text, []byte("null")) {
		return nil, err
	}
	return text, nil
}

// NewID returns a random UUIDv7 of a time. Ids of times that are 250 ns apart or
// more are in the order of the times; below that the order is random.
func NewID(at time.Time) string {
	var id uuid.UUID
	rand.Read(id[8:]) // never fails: the process ends if the system has no randomness
	stamp(&id, at)
	return id.String()
}

// FirstID returns the lowest id that NewID gives for a time. A store uses it to
// find the entries of a span of time by their ids.
func FirstID(at time.Time) string {
	var id uuid.UUID
	stamp(&id, at)
	return id.String()
}

// stamp writes the time, version and variant of RFC 9562 section 5.7, with the
// part of the millisecond in the 12 bits behind the version. What a UUIDv7 cannot
// tell becomes the nearest that it can.
func stamp(id *uuid.UUID, at time.Time) {
	ms, rest := at.UnixMilli(), at.Nanosecond()%int(time.Millisecond)
	switch {
	case ms < 0:
		ms, rest = 0, 0
	case ms >= 1<<48:
		ms, rest = 1<<48-1, int(time.Millisecond)-1
	}
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16|0x7000|uint64(rest)<<12/uint64(time.Millisecond))
	id[8] = id[8]&0x3f | 0x80
}

// Log is the audit log as its readers use it, and as those write it whose change
// is not a transaction of the store. It is safe for concurrent use.
type Log struct {
	store Store
	now   func() time.Time
}

// NewLog returns the log that lies in store. A nil now means time.Now.
func NewLog(store Store, now func() time.Time) *Log {
	if now == nil {
		now = time.Now
	}
	return &Log{store: store, now: now}
}

// Record writes entries durably, all or none. One without a time is of now, and
// one without an id gets one of its time.
func (l *Log) Record(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	now := l.now().UTC()
	complete := make([]Entry, len(entries))
	for i, e := range entries {
		if e.TenantID == "" || e.Action == "" || e.Object == "" {
			return fmt.Errorf("audit: entry %d has tenant %q, action %q and object %q; give it all three", i, e.TenantID, e.Action, e.Object)
		}
		if e.At.IsZero() {
			e.At = now
		}
		if e.ID == "" {
			e.ID = NewID(e.At)
		}
		complete[i] = e
	}
	if err := l.store.Record(ctx, complete); err != nil {
		return fmt.Errorf("audit: record %d entries: %w", len(complete), err)
	}
	return nil
}

// Entries returns one page of a tenant's entries, newest first. The error wraps
// ErrBadCursor if the cursor is not one that a page gave.
func (l *Log) Entries(ctx context.Context, q Query) (Page, error) {
	if q.TenantID == "" {
		return Page{}, errors.New("audit: a query needs a tenant")
	}
	return l.store.Entries(ctx, q)
}
