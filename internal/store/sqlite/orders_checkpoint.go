package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// checkpointEvery is the pause between two checkpoints while there are commits.
	checkpointEvery = 200 * time.Millisecond
	// checkpointIdle is the pause when nobody says that there were: what is written
	// beside the orders, such as imports, does not.
	checkpointIdle = time.Second
	// finishPages is the length of the SQLite WAL (32 MiB) at which a checkpoint is
	// finished while nobody writes, so that the WAL begins anew. That syncs the file
	// while all who write wait, so it must be rare.
	finishPages = 8000
)

// checkpointer copies what was committed from millrace.db's SQLite WAL into the
// file. SQLite would do it within a commit, and make all who wait for that commit
// wait for the copying of 32 MiB. This does most of it on a connection of its own
// while others write, and only what came meanwhile, a few milliseconds' worth,
// while it has the connection that writes.
type checkpointer struct {
	path   string
	db     *stdsql.DB // one connection, which reads
	hold   func(context.Context, func(*hotConn) error) error
	logger *slog.Logger

	committed chan struct{} // at most one signal pending
	stop      context.CancelFunc
	done      chan struct{}
	closing   sync.Once

	walLimit int64   // bytes, see walLimitBytes
	forcing  forcing // of run alone
}

// startCheckpointer starts one; close stops it.
func startCheckpointer(path string, hold func(context.Context, func(*hotConn) error) error, logger *slog.Logger) (*checkpointer, error) {
	db, err := pool(path, reading, 1)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &checkpointer{path: path, db: db, hold: hold, logger: logger, walLimit: walLimitBytes, committed: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	go k.run(ctx)
	return k, nil
}

// wake says that something was committed. It does not block.
func (k *checkpointer) wake() {
	select {
	case k.committed <- struct{}{}:
	default: // one is pending
	}
}

// close stops it and waits for its end. A second close does nothing.
func (k *checkpointer) close() (err error) {
	k.closing.Do(func() {
		k.stop()
		<-k.done
		err = k.db.Close()
	})
	return err
}

func (k *checkpointer) run(ctx context.Context) {
	defer close(k.done)
	pause := time.NewTimer(checkpointEvery)
	defer pause.Stop()
	idle := time.NewTicker(checkpointIdle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.committed:
		case <-idle.C:
		}
		if err := k.checkpoint(ctx); err != nil && ctx.Err() == nil {
			k.logger.Warn("a checkpoint of the database failed; its WAL grows until one succeeds", "file", k.path, "error", err)
		}
		pause.Reset(checkpointEvery)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// checkpoint copies as far as readers let it.
func (k *checkpointer) checkpoint(ctx context.Context) error {
	pages, err := k.passive(ctx)
	if err != nil || pages < finishPages {
		return err
	}
	if _, err := k.passive(ctx); err != nil { // what came while the first went on
		return err
	}
	return k.hold(ctx, func(c *hotConn) error {
		if pages, err = k.passive(ctx); err != nil || !k.forcing.due(pages*mainPageBytes, k.walLimit) {
			return err
		}
		return k.force(ctx, c)
	})
}

// passive checkpoints without making anybody wait. It returns the length of the
// WAL.
func (k *checkpointer) passive(ctx context.Context) (pages int64, err error) {
	var busy, copied int64
	err = k.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &copied)
	return pages, err
}

// force waits a little for readers, which must have kept the WAL from beginning
// anew for long. The caller holds the connection that writes.
func (k *checkpointer) force(ctx context.Context, c *hotConn) error {
	err := truncateWAL(c.exec)
	left, again := k.passive(ctx)
	if again == nil {
		k.forcing.done(left*mainPageBytes, k.walLimit, k.path, k.logger)
	}
	return errors.Join(err, again)
}

// truncateWAL checkpoints all of the WAL and empties it, on a connection that
// writes, unless readers keep it from that for longer than forceTimeout. It is no
// error if they do.
func truncateWAL(exec func(query string) error) error {
	err := exec(fmt.Sprintf("PRAGMA busy_timeout = %d", forceTimeout.Milliseconds()))
	if err == nil {
		err = exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return errors.Join(err, exec(fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout.Milliseconds())))
}

// forcing spaces the checkpoints that make writers wait: after one that a reader
// kept from its end the WAL may double before the next.
type forcing struct {
	next int64 // bytes of the WAL, 0 if the last was not kept from its end
}

// due says whether a WAL of so many bytes must be cut.
func (f *forcing) due(bytes, limit int64) bool { return bytes >= max(limit, f.next) }

// done notes what a forced checkpoint left, and tells the operator if a reader
// holds it; once, until one has succeeded.
func (f *forcing) done(left, limit int64, path string, logger *slog.Logger) {
	if left < limit {
		f.next = 0
		return
	}
	if f.next == 0 {
		logger.Warn("a reader holds the database's WAL, which grows until it ends; "+
			"close what else has the file open, such as a sqlite3 shell or a backup, or restart if nothing has",
			"file", path, "bytes", left)
	}
	f.next = 2 * left
}
