package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// What is known of the other instances that have rows in the outbox. Their clocks
// are compared with nobody's: an instance is gone when this one has seen the same
// heartbeat for silence, by its own clock, or when it has taken its leave.
type adoption struct {
	now  func() time.Time
	seen map[string]sighting // by instance
}

// sighting is a heartbeat and when it was seen first.
type sighting struct {
	beatNs int64
	since  time.Time
}

const (
	// silence is how long an instance says nothing before others take over its rows.
	silence = 10 * time.Second
	// adoptedAtOnce bounds the rows of one transaction, and adoptedPerCall those of
	// one call.
	adoptedAtOnce  = 1000
	adoptedPerCall = 100_000
	// adoptionLock is the key of the advisory lock that one instance adopts under.
	adoptionLock = 0x6f7574626f786573 // "outboxes"
)

const (
	// otherOwners finds who has rows by jumping from one to the next in the index.
	otherOwners = `WITH RECURSIVE owners (lane, owner) AS (
			SELECT l.lane, (SELECT min(o.owner) FROM outbox AS o WHERE o.lane = l.lane) FROM unnest($1::text[]) AS l (lane)
			UNION ALL
			SELECT w.lane, (SELECT min(o.owner) FROM outbox AS o WHERE o.lane = w.lane AND o.owner > w.owner) FROM owners AS w WHERE w.owner IS NOT NULL)
		SELECT DISTINCT w.owner, i.heartbeat_ns FROM owners AS w LEFT JOIN instances AS i ON i.tenant_id = '' AND i.id = w.owner
		WHERE w.owner IS NOT NULL AND w.owner <> $2`

	// adoptRows takes nothing from an instance that has said something since.
	adoptRows = `UPDATE outbox SET owner = $1 WHERE ctid = ANY (ARRAY (
			SELECT ctid FROM outbox WHERE lane = $2 AND owner = $3 ORDER BY seq LIMIT $4 FOR UPDATE SKIP LOCKED))
		AND NOT EXISTS (SELECT FROM instances AS i WHERE i.tenant_id = '' AND i.id = $3 AND i.heartbeat_ns IS DISTINCT FROM $5)`
)

// AdoptOutbox makes this instance the owner of outbox rows whose instance is gone,
// and says how many there were. It is to be called every few seconds, by one
// goroutine at a time; of several instances one does the work and the others find
// nothing to do. An instance that was only paused finds its rows gone: what it had
// in hand is handed over twice.
func (db *DB) AdoptOutbox(ctx context.Context) (rows int, err error) {
	defer db.o.Metrics.timed("adopt_outbox", &err)()
	gone, err := db.outbox.gone(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for outbox rows of instances that are gone: %w", err)
	}
	for owner, beatNs := range gone {
		for lane := range laneNames {
			n, err := db.outbox.adopt(ctx, lane, owner, beatNs, adoptedPerCall-rows)
			rows += n
			if n > 0 {
				db.outbox.wake(lane)
			}
			if err != nil {
				return rows, fmt.Errorf("take over the outbox of instance %s: %w", owner, err)
			}
		}
	}
	if rows > 0 {
		db.o.Logger.Info("took over outbox rows of instances that are gone", "rows", rows, "instances", len(gone))
	}
	return rows, nil
}

// gone returns the owners of rows that do not live any more, with the heartbeat
// that was seen of them last, nil if there is none.
func (x *outboxRows) gone(ctx context.Context) (map[string]*int64, error) {
	ctx, cancel := x.db.deadline(ctx)
	defer cancel()
	lanes := make([]string, len(laneNames))
	for i, lane := range laneNames {
		lanes[i] = string(lane)
	}
	a := &x.adoption
	found, now := map[string]sighting{}, a.now()
	gone := map[string]*int64{}
	rows, err := x.db.hot.Query(ctx, otherOwners, lanes, x.db.o.Instance)
	if err != nil {
		return nil, err
	}
	var owner string
	var beatNs *int64
	_, err = pgx.ForEachRow(rows, []any{&owner, &beatNs}, func() error {
		if beatNs == nil {
			gone[owner] = nil
			return nil
		}
		last, there := a.seen[owner]
		if !there || last.beatNs != *beatNs {
			last = sighting{*beatNs, now}
		}
		found[owner] = last
		if now.Sub(last.since) >= silence {
			gone[owner] = &last.beatNs
		}
		return nil
	})
	a.seen = found
	return gone, err
}

// adopt takes over rows of a lane, at most limit, unless another instance is at it.
func (x *outboxRows) adopt(ctx context.Context, lane int, owner string, beatNs *int64, limit int) (rows int, err error) {
	for rows < limit {
		var taken int64
		batch := min(adoptedAtOnce, limit-rows)
		err := x.db.withTx(ctx, func(tx pgx.Tx) error {
			taken = 0
			var mine bool
			if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, int64(adoptionLock)).Scan(&mine); err != nil || !mine {
				return err
			}
			tag, err := tx.Exec(ctx, adoptRows, x.db.o.Instance, string(laneNames[lane]), owner, batch, beatNs)
			taken = tag.RowsAffected()
			return err
		})
		if err != nil {
			return rows, err
		}
		rows += int(taken)
		if int(taken) < batch {
			return rows, nil
		}
	}
	return rows, nil
}
