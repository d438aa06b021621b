package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/internal/event"
)

// Append commits a batch to the file of its day. See event.Store.
func (e *events) Append(ctx context.Context, b event.Batch) (inserted int, err error) {
	begin := time.Now()
	defer func() {
		if err != nil {
			e.metrics.appendFailures.WithLabelValues(reason(err)).Inc()
			return
		}
		if !b.DryRun {
			e.metrics.appendSeconds.Observe(time.Since(begin).Seconds())
			e.metrics.rows.Add(float64(inserted))
		}
	}()
	d, own, err := checkBatch(b)
	if err != nil {
		return 0, err
	}
	if err := e.lock(ctx); err != nil {
		return 0, err
	}
	defer e.unlock()
	if err := e.files.settle(ctx); err != nil {
		return 0, fmt.Errorf("find out where the event log stands in the store: %w", err)
	}
	switch have, known := e.files.position(b.LogID); {
	case known && have != b.From:
		return 0, &event.PositionError{Have: have, From: b.From}
	case !known && b.Known:
		return 0, &event.PositionError{From: b.From, Unknown: true}
	}
	file, err := e.files.get(ctx, d)
	if err != nil {
		return 0, err
	}
	if err := e.files.hold(file); err != nil {
		return 0, err
	}
	defer e.files.release(file)
	rows := b.Rows
	books := booksOf(&b, own)
	for _, k := range books {
		if rows, err = e.unclaimedBefore(ctx, d, k, rows); err != nil {
			return 0, err
		}
	}
	if err := e.useWriter(ctx, file); err != nil {
		return 0, err
	}
	return e.commit(ctx, &b, rows, books)
}

// commit runs the transaction and publishes it. The caller holds the append lock.
func (e *events) commit(ctx context.Context, b *event.Batch, rows []event.Row, books []book) (int, error) {
	w := e.writer
	inserted, err := w.append(ctx, b, rows, books)
	if err != nil || b.DryRun {
		if rollback := w.rollback(); rollback != nil {
			// The connection is in no state we know: the next call opens another.
			err = errors.Join(err, rollback)
			e.closeWriter()
		}
		if err == nil {
			return inserted, nil // a dry run: it was all but the commit
		}
		return 0, dataError(err)
	}
	err = w.commit()
	if err == nil && e.afterCommit != nil {
		err = e.afterCommit()
	}
	if err != nil {
		// It may have been committed or not. Nothing the writer remembers holds.
		e.files.doubt(w.file)
		e.closeWriter()
		return 0, fmt.Errorf("commit events to %s: %w", w.file.path, err)
	}
	e.files.publish(w.file, w.lastSeq, w.lastReceived, b.LogID, b.UpTo, slices.ContainsFunc(books, book.isOwn))
	e.boundWAL(w)
	return inserted, nil
}

// useWriter makes e.writer the writer of the file.
func (e *events) useWriter(ctx context.Context, file *dayFile) error {
	if e.writer != nil && e.writer.file == file {
		return nil
	}
	e.closeWriter()
	w, err := openWriter(ctx, file)
	if err != nil {
		return fmt.Errorf("open %s to append: %w", file.path, err)
	}
	e.writer = w
	return nil
}

// boundWAL checkpoints by force when the WAL grew too long: SQLite's own
// checkpoints yield to readers, and under steady reading might never finish.
func (e *events) boundWAL(w *writer) {
	info, err := os.Stat(w.file.path + "-wal")
	if err != nil {
		return // only a measure against growth; the next append looks again
	}
	e.metrics.walBytes.Set(float64(info.Size()))
	if !w.forcing.due(info.Size(), e.walLimit) {
		return
	}
	if err := truncateWAL(w.exec); err != nil {
		e.logger.Warn("the SQLite WAL could not be cut; the next append tries again", "file", w.file.path, "bytes", info.Size(), "error", err)
	}
	if info, err := os.Stat(w.file.path + "-wal"); err == nil {
		w.forcing.done(info.Size(), e.walLimit, w.file.path, e.logger)
	}
}

// checkBatch answers an error for a batch that breaks the contract, and one that
// wraps event.ErrData for a row that no store can keep. own says whether the batch
// has rows that are exact by themselves.
func checkBatch(b event.Batch) (d day, own bool, err error) {
	d, err = midnight(b.Day)
	if err != nil {
		return 0, false, fmt.Errorf("append events: the day of the batch: %w", err)
	}
	if b.UpTo < b.From {
		return 0, false, fmt.Errorf("append events: the batch ends at log sequence %d, before its beginning at %d", b.UpTo, b.From)
	}
	if b.Exact && b.ExactDays < 1 {
		return 0, false, fmt.Errorf("append events: exact mode over %d days; give at least 1", b.ExactDays)
	}
	from, to := d.startNs(), d.endNs()
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.ReceivedAt < from || r.ReceivedAt >= to {
			return 0, false, fmt.Errorf("append events: row %d was received at %s, which is not on %s, the day of the batch",
				i, time.Unix(0, r.ReceivedAt).UTC().Format(time.RFC3339Nano), b.Day.Format(time.DateOnly))
		}
		own = own || r.Exact
		if r.TenantID == "" || r.Type == "" || r.ID == "" {
			return 0, false, fmt.Errorf("%w: row %d lacks its tenant, type or id", event.ErrData, i)
		}
		if !isText(r.Payload) || !isText(r.ID) || !isText(r.Type) || !isText(r.TenantID) || !isText(r.Source) || !isText(r.Attributes) || !isText(r.Currency) {
			return 0, false, fmt.Errorf("%w: row %d has a NUL or is not UTF-8", event.ErrData, i)
		}
	}
	return d, own, nil
}

func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
