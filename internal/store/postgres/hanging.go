package postgres

import (
	"context"
	"time"
)

const (
	// hangAfter is for how long a transaction that has written may stand still because
	// its process says nothing; StatementTimeout if that is shorter. Others wait for its
	// locks.
	hangAfter = 8 * time.Second
	// looksPerHang is how often it is looked at meanwhile.
	looksPerHang = 4
	// watchTimeout bounds one look.
	watchTimeout = 3 * time.Second
)

// stillStanding finds this program's transactions in which the server waits for the
// client, and what of them would move if they did. A client can be stopped anywhere:
// between two statements, in the midst of one it is sending or of rows it is being
// sent. The server's timeouts end only some of these; in a row of statements sent
// together, as in a copy, it counts as active and no timeout applies. An xid, or an
// advisory lock, is what others may be waiting for.
const stillStanding = `SELECT concat_ws('/', a.pid, a.backend_start, a.xact_start, a.query_start, a.state_change, a.wait_event, c.bytes_processed) AS at,
	a.pid, a.application_name, a.state,
	a.backend_xid IS NOT NULL OR a.pid IN (SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted) AS holds
FROM pg_stat_activity a LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
WHERE a.datname = current_database() AND a.usename = session_user AND a.pid <> pg_backend_pid() AND a.application_name LIKE 'millrace%'
	AND a.xact_start IS NOT NULL AND a.wait_event IN ('ClientRead', 'ClientWrite')`

// endStanding ends one of them, if it has not moved since.
const endStanding = `SELECT count(pg_terminate_backend(s.pid)) FROM (` + stillStanding + `) s WHERE s.at = $1`

// watchman ends the server's side of transactions whose process has stopped: those
// of this instance and of all others, for as long as one of them runs. It takes no
// lock, so none that was stopped can keep it from its work. What it ends was not
// committed, and is tried again by whoever began it.
type watchman struct {
	db       *DB
	patience time.Duration // for who may hold others up
	idle     time.Duration // for who cannot

	seen   map[string]time.Time // since when they stand so
	looked time.Time
}

func newWatchman(db *DB) *watchman {
	return &watchman{db: db, patience: min(hangAfter, db.o.StatementTimeout), idle: 2 * db.o.StatementTimeout}
}

// run looks until the background ends.
func (w *watchman) run(ctx context.Context) {
	tick := time.NewTicker(w.patience / looksPerHang)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := w.look(ctx, time.Now()); err != nil && ctx.Err() == nil {
				w.db.o.Logger.Debug("could not look for transactions whose process has stopped; it is tried again", "error", err)
			}
		}
	}
}

type standingRow struct {
	at          string
	pid         int32
	application string
	state       string
	holds       bool
}

// look ends what has stood still for too long.
func (w *watchman) look(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	rows, err := w.db.vital.Query(ctx, stillStanding)
	if err != nil {
		return err
	}
	defer rows.Close()
	if now.Sub(w.looked) > w.patience {
		w.seen = nil // it was this process that stood still: it has not watched
	}
	w.looked = now
	seen := map[string]time.Time{}
	var hanging []standingRow
	for rows.Next() {
		var r standingRow
		if err := rows.Scan(&r.at, &r.pid, &r.application, &r.state, &r.holds); err != nil {
			return err
		}
		since, known := w.seen[r.at]
		if !known {
			since = now
		}
		seen[r.at] = since
		if stood := now.Sub(since); r.holds && stood >= w.patience || stood >= w.idle {
			hanging = append(hanging, r)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.seen = seen
	return w.end(ctx, hanging)
}

func (w *watchman) end(ctx context.Context, hanging []standingRow) error {
	for _, r := range hanging {
		var ended int64
		if err := w.db.vital.QueryRow(ctx, endStanding, r.at).Scan(&ended); err != nil {
			return err
		}
		if ended > 0 {
			w.db.o.Logger.Warn("ended a transaction whose process has stopped in the midst of it; others may have waited for its locks, and its process tries again if it goes on",
				"connectionOf", r.application, "pid", r.pid, "state", r.state)
		}
	}
	return nil
}
