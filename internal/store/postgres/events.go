package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"millrace/internal/event"
)

// events is the event.Store of the database.
//
// An append is one transaction of three round trips: the position is compared and
// set, claims are made and a block of sequences is taken; the rows are copied into
// the day's partition; the rollups and the batch's own row are written and it
// commits. It names the partitions themselves, not their parents, so that it waits
// for nothing that happens to other days.
//
// Newest first, events are read by (received_ns, seq). Oldest first means the order
// of commits, which the numbers of event_batches give.
type events struct {
	db *DB

	// scratch is the working memory of appends, reused between them.
	scratch sync.Pool // of *appendScratch

	mu sync.Mutex
	// there are days that were seen to have their partitions.
	there map[day]bool
	// brins is how far the partitions appended to are summarised, and swept is how far
	// maintenance has seen to it, from their beginning on.
	brins map[day]*brinState
	swept map[day]brinState
}

var _ event.Store = (*events)(nil)

// Events returns the store of events.
func (db *DB) Events() event.Store { return db.events }

func newEvents(db *DB) (*events, error) {
	e := &events{db: db, there: map[day]bool{}, brins: map[day]*brinState{}, swept: map[day]brinState{}}
	e.scratch.New = func() any { return newAppendScratch() }
	return e, nil
}

// Position returns the first record of the log that is not in the store.
func (e *events) Position(ctx context.Context, log event.LogID) (next uint64, known bool, err error) {
	ctx, cancel := e.db.deadline(ctx)
	defer cancel()
	var have int64
	err = e.db.hot.QueryRow(ctx, selectPosition, log).Scan(&have)
	switch {
	case noRows(err):
		return 0, false, nil
	case err != nil:
		return 0, false, in("find out where an event log stands in the store", err)
	}
	return uint64(have), true, nil
}

const selectPosition = `SELECT next_seq FROM event_positions WHERE tenant_id = '' AND log_id = $1`

// LastReceived returns the newest time of receipt.
func (e *events) LastReceived(ctx context.Context) (time.Time, error) {
	ctx, cancel := e.db.deadline(ctx)
	defer cancel()
	var last int64
	err := e.db.hot.QueryRow(ctx, `SELECT last_ns FROM event_batches WHERE tenant_id = '' ORDER BY last_ns DESC LIMIT 1`).Scan(&last)
	switch {
	case noRows(err):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, in("look up the newest event", err)
	}
	return time.Unix(0, last).UTC(), nil
}

// Times beyond what int64 nanoseconds can hold become the nearest they can.
var (
	earliest = time.Unix(0, math.MinInt64)
	latest   = time.Unix(0, math.MaxInt64)
)

// unixNano returns t in Unix nanoseconds, or otherwise if t is zero.
func unixNano(t time.Time, otherwise int64) int64 {
	switch {
	case t.IsZero():
		return otherwise
	case t.Before(earliest):
		return math.MinInt64
	case t.After(latest):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// minuteOf returns the Unix minute of a time in Unix nanoseconds.
func minuteOf(ns int64) int64 { return floorDiv(ns, int64(time.Minute)) }

func floorDiv(a, by int64) int64 {
	d := a / by
	if a%by < 0 {
		d--
	}
	return d
}

// because adds to an error of a call whose context has ended that it has: what the
// server says of it is only that the statement was cancelled.
func because(ctx context.Context, err error) error {
	if ended := ctx.Err(); err != nil && ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}
