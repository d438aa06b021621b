package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// partitioned are the tables with a partition a day, the rows last: who finds a
// day's partition of events finds the others.
var partitioned = [...]struct {
	table string
	// unit is how many units of the key make a day.
	unit int64
	// with are the storage parameters of a partition, which it does not inherit.
	with string
}{
	{"event_rollups", minutesPerDay, " WITH (fillfactor = 70)"},
	{"event_batches", nanosPerDay, ""},
	{"events", nanosPerDay, ""},
}

const (
	// partitionsLock is the key of the advisory lock under which partitions are made.
	partitionsLock = 0x6d696c6c72616366
	// attachTimeout bounds the wait for the lock to attach a partition: appends wait
	// for it only if they brought a day that nobody had made ahead.
	attachTimeout = 5 * time.Second
)

// ensureDay makes the partitions of a day unless they are there. It waits for no
// reader or appender of other days, nor they for it.
func (e *events) ensureDay(ctx context.Context, d day) error {
	if e.isThere(d) {
		return nil
	}
	if d.time().Year() < 1970 || d.endNs() < d.startNs() || d.time().Year() > 9999 {
		return fmt.Errorf("there can be no partition of events for %s: its times do not fit", d)
	}
	err := e.db.withTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true), pg_advisory_xact_lock($2)`,
			millis(attachTimeout), int64(partitionsLock)); err != nil {
			return err
		}
		for _, p := range partitioned {
			if err := attach(ctx, tx, p.table, p.with, d, p.unit); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make the partitions of events for %s: %w", d, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.there[d] = true
	return nil
}

// attach makes one table's partition of a day. A table that is attached after it
// was created, unlike one created as a partition, locks nobody out of its parent.
func attach(ctx context.Context, tx pgx.Tx, table, with string, d day, unit int64) error {
	name := d.of(table)
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there); err != nil || there {
		return err
	}
	from, to := strconv.FormatInt(int64(d)*unit, 10), strconv.FormatInt((int64(d)+1)*unit, 10)
	if _, err := tx.Exec(ctx, `CREATE TABLE `+name+` (LIKE `+table+` INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION)`+with); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `ALTER TABLE `+table+` ATTACH PARTITION `+name+` FOR VALUES FROM (`+from+`) TO (`+to+`)`)
	return err
}

func (e *events) isThere(d day) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.there[d]
}

// forget makes the next append of the day look for its partitions.
func (e *events) forget(d day) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.there, d)
	delete(e.brins, d)
	delete(e.swept, d)
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// eventDays returns the days that have a partition of events, oldest first.
func eventDays(ctx context.Context, q querier) ([]day, error) {
	rows, err := q.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass`)
	if err != nil {
		return nil, in("list the partitions of events", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, in("list the partitions of events", err)
	}
	var days []day
	for _, name := range names {
		if d, ok := dayOfPartition("events", name); ok {
			days = append(days, d)
		}
	}
	slices.Sort(days)
	return days, nil
}

// PartitionsAhead returns for how many days after that of now, without a gap, the
// partitions of events are there.
func (db *DB) PartitionsAhead(ctx context.Context, now time.Time) (int, error) {
	ctx, cancel := db.deadline(ctx)
	defer cancel()
	return partitionsAhead(ctx, db.vital, now)
}

func partitionsAhead(ctx context.Context, q querier, now time.Time) (int, error) {
	days, err := eventDays(ctx, q)
	if err != nil {
		return 0, err
	}
	n := 0
	for d := dayOf(now) + 1; slices.Contains(days, d); d++ {
		n++
	}
	return n, nil
}

const (
	// dropLockTimeout bounds one try to drop a day. While it waits for its lock, which
	// is one on the parent too, readers wait behind it, and so do appends to that day.
	dropLockTimeout = 100 * time.Millisecond
	// dropPause and dropPauseMax bound the time between two tries.
	dropPause    = 50 * time.Millisecond
	dropPauseMax = 2 * time.Second
	// dropPatience is for how long a day is tried if the context sets no sooner end.
	dropPatience = time.Minute
)

// DropBefore removes whole days. A day that readers do not let go in time stays, as
// the error says; ctx bounds how long that may take. The positions of logs are in no
// day: every day may go.
func (e *events) DropBefore(ctx context.Context, before time.Time) ([]time.Time, error) {
	limit, err := midnight(before)
	if err != nil {
		return nil, fmt.Errorf("drop event days: %w", err)
	}
	days, err := eventDays(ctx, e.db.hot)
	if err != nil {
		return nil, err
	}
	var dropped []time.Time
	for _, d := range days {
		if d >= limit {
			break
		}
		had, err := e.drop(ctx, d)
		if err != nil {
			return dropped, fmt.Errorf("drop the events of %s: %w", d, err)
		}
		if had {
			dropped = append(dropped, d.time())
			e.db.o.Logger.Info("removed the events of a day", "day", d.String())
		}
	}
	return dropped, nil
}

// drop removes one day and says whether it had any events.
func (e *events) drop(ctx context.Context, d day) (had bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dropPatience)
	defer cancel()
	for pause := dropPause; ; pause = min(2*pause, dropPauseMax) {
		had, err = e.tryDrop(ctx, d)
		e.forget(d)
		switch state := sqlState(err); {
		case state == stateUndefinedTable:
			return false, nil // another instance was faster
		case state != stateLockNotAvailable && state != stateDeadlock:
			return had && err == nil, err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return false, fmt.Errorf("it is still being read: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// tryDrop drops one day's partitions, all or none.
func (e *events) tryDrop(ctx context.Context, d day) (had bool, err error) {
	err = pgx.BeginFunc(ctx, e.db.hot, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, millis(dropLockTimeout)); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+d.of("event_batches")+`)`).Scan(&had); err != nil {
			return err
		}
		for _, p := range slices.Backward(partitioned[:]) {
			if _, err := tx.Exec(ctx, `DROP TABLE `+d.of(p.table)); err != nil {
				return err
			}
		}
		return nil
	})
	return had, err
}
