package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// pagesPerRange is the BRIN index's, and a page's size the server's usual one.
	pagesPerRange = 32
	pageBytes     = 8192
	// summariseEvery is the least time between two summaries of one partition by one
	// instance: what was not summarised is read in full by whoever looks up an id.
	summariseEvery = time.Second
	// summariseLockTimeout is short: a vacuum of the partition holds the lock for long,
	// and summarises by itself at its end.
	summariseLockTimeout = 10 * time.Millisecond
	// summariseRanges bounds what one append summarises.
	summariseRanges = 2000
)

// brinState is how far one partition's BRIN index is summarised, as far as this
// instance knows.
type brinState struct {
	index string // the index's name
	next  int64  // the first range not summarised
	due   time.Time
}

// summarise brings the day's BRIN index up to the last full range. Full, because a
// row that comes into a summarised range has to be put into its filter one by one,
// which costs more than all the rest of it. It is part of an append, so that the
// pace is that of the rows; a failure only leaves more to the next.
func (e *events) summarise(ctx context.Context, conn *pgxpool.Conn, d day) {
	now := time.Now()
	e.mu.Lock()
	s := e.brins[d]
	if s == nil {
		s = &brinState{next: -1}
		e.brins[d] = s
	}
	if now.Before(s.due) {
		e.mu.Unlock()
		return
	}
	s.due = now.Add(summariseEvery)
	todo := *s
	e.mu.Unlock()

	err := todo.advance(ctx, conn, d, 0)
	if err != nil && ctx.Err() == nil {
		e.db.o.Logger.Debug("the index of event ids could not be summarised; the next append tries again", "day", d.String(), "error", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.index, s.next = todo.index, max(s.next, todo.next)
}

// advance summarises what is full. With a key it does nothing while another has the
// lock of that key.
func (s *brinState) advance(ctx context.Context, conn *pgxpool.Conn, d day, key int64) error {
	if s.index == "" {
		err := conn.QueryRow(ctx, `SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE i.indrelid = to_regclass($1) AND a.amname = 'brin'`, d.of("events")).Scan(&s.index)
		if err != nil {
			return err
		}
	}
	var bytes int64
	if err := conn.QueryRow(ctx, `SELECT pg_relation_size(to_regclass($1))`, d.of("events")).Scan(&bytes); err != nil {
		return err
	}
	full := bytes / (pagesPerRange * pageBytes)
	if s.next < 0 { // it is not known what was done before this instance came
		s.next = max(0, full-summariseRanges)
	}
	upTo := min(full, s.next+summariseRanges)
	if upTo <= s.next {
		return nil
	}
	mine := true
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT $2::bigint = 0 OR pg_try_advisory_xact_lock($2::bigint) FROM set_config('lock_timeout', $1, true)`,
			millis(summariseLockTimeout), key).Scan(&mine); err != nil || !mine {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT count(brin_summarize_range($1::regclass, n * $4)) FROM generate_series($2::bigint, $3::bigint) n`,
			s.index, s.next, upTo-1, int64(pagesPerRange))
		return err
	})
	if err == nil && mine {
		s.next = upTo
	}
	return err
}

const (
	// claimsLock and indexLock are the keys of the advisory locks under which one
	// instance at a time does these chores. They are a transaction's: who has stopped
	// loses them with it.
	claimsLock = 0x6d696c6c72616368
	indexLock  = 0x6d696c6c72616369
	// claimsPerDelete is how many old claims one transaction deletes, and deletePatience
	// for how long one call goes on with it.
	claimsPerDelete = 10_000
	deletePatience  = 20 * time.Second
	// claimSlack is how many days a claim outlives the last that it is asked for, for
	// logs that are behind.
	claimSlack = 2
)

// MaintainEvents makes the partitions of the days to come, deletes claims that
// nobody will ask for and summarises the index of ids where no append has come to
// it. Call it every minute or so, in every instance: of those that do it at once one
// does the work. now is the time.
func (db *DB) MaintainEvents(ctx context.Context, now time.Time) error {
	e, today := db.events, dayOf(now)
	var errs []error
	for d := today; d <= today+day(db.o.PartitionsAhead); d++ {
		errs = append(errs, e.ensureDay(ctx, d))
	}
	conn, err := db.hot.Acquire(ctx)
	if err != nil {
		return errors.Join(append(errs, in("maintain the partitions of events", err))...)
	}
	defer conn.Release()
	errs = append(errs, e.deleteClaims(ctx, conn, today), e.summariseDays(ctx, conn))
	return errors.Join(errs...)
}

// deleteClaims is one statement a transaction, so that no client stands between its
// lock and its end.
func (e *events) deleteClaims(ctx context.Context, conn *pgxpool.Conn, today day) error {
	begun := time.Now()
	for _, table := range []string{"event_claims", "event_own_claims"} {
		for more := true; more && time.Since(begun) < deletePatience; {
			tag, err := conn.Exec(ctx, `WITH l AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($2) AS mine)
DELETE FROM `+table+` WHERE (SELECT mine FROM l) AND ctid = ANY (ARRAY(SELECT ctid FROM `+table+` WHERE until_day < $1 LIMIT `+
				strconv.Itoa(claimsPerDelete)+`))`, int64(today)-claimSlack, int64(claimsLock))
			if err != nil {
				return fmt.Errorf("delete old claims from %s: %w", table, err)
			}
			more = tag.RowsAffected() == claimsPerDelete
		}
	}
	return nil
}

// summariseDays summarises every day's partition for as far as nobody has. A vacuum
// that is at it is let be, and so is another instance.
func (e *events) summariseDays(ctx context.Context, conn *pgxpool.Conn) error {
	days, err := eventDays(ctx, conn)
	if err != nil {
		return err
	}
	for _, d := range days {
		e.mu.Lock()
		s := e.swept[d]
		e.mu.Unlock()
		for before := int64(-1); s.next > before && err == nil; {
			before = s.next
			err = s.advance(ctx, conn, d, indexLock)
		}
		switch state := sqlState(err); {
		case state == stateUndefinedTable || noRows(err) || state == stateLockNotAvailable: // dropped meanwhile, or in work
			err = nil
		case err != nil:
			return fmt.Errorf("summarise the index of event ids of %s: %w", d, err)
		}
		e.mu.Lock()
		e.swept[d] = s
		e.mu.Unlock()
	}
	return nil
}
