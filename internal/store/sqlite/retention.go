package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// DropBefore removes whole days. It waits for the calls that use a file, so ctx
// should have a deadline; a day it could not remove in time stays.
func (e *events) DropBefore(ctx context.Context, before time.Time) ([]time.Time, error) {
	limit, err := midnight(before)
	if err != nil {
		return nil, fmt.Errorf("drop event days: %w", err)
	}
	var dropped []time.Time
	for _, file := range e.files.condemn(limit) {
		if err := e.drop(ctx, file); err != nil {
			return dropped, err
		}
		dropped = append(dropped, file.day.time())
		e.logger.Info("removed the events of a day", "day", file.day.time().Format(time.DateOnly), "file", file.path)
	}
	return dropped, nil
}

// drop removes one file when nobody uses it any more.
func (e *events) drop(ctx context.Context, file *dayFile) error {
	gone, ok := e.files.refuse(file)
	if !ok {
		return nil // another call is removing it, or an append has come to it since
	}
	select {
	case <-gone:
	case <-ctx.Done():
		e.files.pardon(file)
		return fmt.Errorf("drop the events of %s: it is still being read: %w", file.day.time().Format(time.DateOnly), ctx.Err())
	}
	// The append lock keeps a new file of that day from being made meanwhile.
	if err := e.lock(ctx); err != nil {
		e.files.pardon(file)
		return err
	}
	defer e.unlock()
	if e.files.isClosed() {
		return ErrClosed
	}
	if e.writer != nil && e.writer.file == file {
		e.closeWriter()
	}
	return e.files.unlink(file)
}

// condemn returns the files before a day that hold no log's position.
func (f *files) condemn(limit day) []*dayFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*dayFile
	for d, file := range f.byDay {
		if d < limit && !f.pinned(d) {
			out = append(out, file)
		}
	}
	slices.SortFunc(out, func(a, b *dayFile) int { return int(a.day) - int(b.day) })
	return out
}

// pinned says whether a day holds a log's position. The caller holds mu.
func (f *files) pinned(d day) bool {
	for _, p := range f.positions {
		if p.day == d {
			return true
		}
	}
	return false
}

// refuse lets no new call use the file. The channel is closed when the last one
// under way has ended.
func (f *files) refuse(file *dayFile) (gone <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || file.dropped != nil || f.byDay[file.day] != file || f.pinned(file.day) {
		return nil, false
	}
	file.dropped = make(chan struct{})
	if file.refs == 0 {
		close(file.dropped)
	}
	return file.dropped, true
}

func (f *files) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// pardon lets calls use the file again.
func (f *files) pardon(file *dayFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file.dropped = nil
}

// unlink removes a file that nobody uses. What belongs to it goes first, so that
// a crash in between never leaves a WAL without its database.
func (f *files) unlink(file *dayFile) error {
	f.mu.Lock()
	readers := file.readers
	file.readers = nil
	delete(f.byDay, file.day)
	f.metrics.dayFiles.Set(float64(len(f.byDay)))
	f.mu.Unlock()
	if readers != nil {
		if err := readers.Close(); err != nil {
			return fmt.Errorf("close %s before its removal: %w", file.path, err)
		}
	}
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Remove(file.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove an event file whose time is over: %w", err)
		}
	}
	return nil
}
