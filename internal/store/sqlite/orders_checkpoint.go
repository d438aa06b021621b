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

	nextForce int64 // pages before another forced checkpoint; of run alone
}

// startCheckpointer starts one; close stops it.
func startCheckpointer(path string, hold func(context.Context, func(*hotConn) error) error, logger *slog.Logger) (*checkpointer, error) {
	db, err := pool(path, reading, 1)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &checkpointer{path: path, db: db, hold: hold, logger: logger, committed: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.committed:
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
		if pages, err = k.passive(ctx); err != nil || pages*mainPageBytes < max(walLimitBytes, k.nextForce*mainPageBytes) {
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

// force waits for readers, which must have kept the WAL from beginning anew for
// long. The caller holds the connection that writes.
func (k *checkpointer) force(ctx context.Context, c *hotConn) error {
	err := c.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	k.nextForce = 0
	left, again := k.passive(ctx)
	if again == nil && left*mainPageBytes >= walLimitBytes {
		k.nextForce = left + walKeptBytes/mainPageBytes // do not make every commit wait for that reader
		err = errors.Join(err, fmt.Errorf("a reader holds %d pages of the WAL", left))
	}
	return errors.Join(err, again)
}
