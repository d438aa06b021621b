package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/event"
)

// events is the event.Store over day files.
type events struct {
	files   *files
	logger  *slog.Logger
	metrics *Metrics

	// appending is the append lock: it holds a token while somebody appends or
	// creates or removes a file. A channel, so that waiting for it can be cancelled.
	appending chan struct{}
	// writer is the open writer of the day appended to last, nil if there is
	// none. Guarded by the append lock.
	writer *writer

	// afterCommit lets a test lose the reply of a commit that took place.
	// Guarded by the append lock.
	afterCommit func() error
	// walLimit is walLimitBytes, less in tests.
	walLimit int64
}

var _ event.Store = (*events)(nil)

func newEvents(f *files, logger *slog.Logger, m *Metrics) *events {
	return &events{files: f, logger: logger, metrics: m, appending: make(chan struct{}, 1), walLimit: walLimitBytes}
}

func (e *events) lock(ctx context.Context) error {
	select {
	case e.appending <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another append to end: %w", ctx.Err())
	}
}

func (e *events) unlock() { <-e.appending }

// Position returns the first record of the log that is not in the store.
func (e *events) Position(ctx context.Context, log event.LogID) (next uint64, known bool, err error) {
	if err := e.lock(ctx); err != nil {
		return 0, false, err
	}
	defer e.unlock()
	if err := e.files.settle(ctx); err != nil {
		return 0, false, fmt.Errorf("find out where the event log stands in the store: %w", err)
	}
	next, known = e.files.position(log)
	return next, known, nil
}

// LastReceived returns the newest time of receipt.
func (e *events) LastReceived(context.Context) (time.Time, error) {
	views, err := e.files.snapshot()
	if err != nil || len(views) == 0 {
		return time.Time{}, err
	}
	return time.Unix(0, views[len(views)-1].lastReceived).UTC(), nil
}

// ping reads from the newest file.
func (e *events) ping(ctx context.Context) error {
	views, err := e.files.snapshot()
	if err != nil || len(views) == 0 {
		return err
	}
	file := views[len(views)-1].file
	db, err := e.files.acquire(file)
	if err != nil {
		return err
	}
	defer e.files.release(file)
	var n int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM positions`).Scan(&n); err != nil {
		return fmt.Errorf("%s cannot be read: %w", file.path, err)
	}
	return nil
}

func (e *events) close() error {
	e.appending <- struct{}{}
	defer e.unlock()
	err := e.files.close()
	e.closeWriter() // last, so that its closing checkpoints the file
	return err
}

// closeWriter closes the writer, if there is one. The caller holds the append lock.
func (e *events) closeWriter() {
	if e.writer == nil {
		return
	}
	if err := e.writer.close(); err != nil {
		e.logger.Warn("closing an event file failed; what was committed to it is safe", "file", e.writer.file.path, "error", err)
	}
	e.writer = nil
}
