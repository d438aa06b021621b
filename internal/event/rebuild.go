package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/event/dedupe"
	"millrace/internal/wal"
)

// RebuildWindow fills a dedupe window, at start, with what was accepted since
// the given time: what is in the store, and then what is in the log from the
// record sunk on, which the store does not have yet. Without a log there is only
// the store.
func RebuildWindow(ctx context.Context, w *dedupe.Window, store Store, log *wal.Log, sunk uint64, since time.Time) error {
	b := windowBuilder{window: w}
	err := store.RecentHashes(ctx, since, func(h Hash, receivedAt time.Time) bool {
		b.add(h, receivedAt)
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("reading recent events from the store: %w", err)
	}
	if log != nil {
		if err := b.addLog(log, sunk, since); err != nil {
			return fmt.Errorf("reading recent events from the event log: %w", err)
		}
	}
	b.flush()
	return nil
}

// windowBuilder hands hashes to the window in groups of one time of receipt.
type windowBuilder struct {
	window *dedupe.Window
	at     time.Time
	hashes []Hash
}

const windowGroup = 1024

func (b *windowBuilder) add(h Hash, at time.Time) {
	if len(b.hashes) == windowGroup || !at.Equal(b.at) {
		b.flush()
		b.at = at
	}
	b.hashes = append(b.hashes, h)
}

func (b *windowBuilder) flush() {
	b.window.Remember(b.hashes, b.at)
	b.hashes = b.hashes[:0]
}

func (b *windowBuilder) addLog(log *wal.Log, from uint64, since time.Time) error {
	reader, err := log.NewReader(max(from, log.First()))
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		f, ok, err := reader.TryNext()
		if err != nil || !ok {
			return err
		}
		if f.ReceivedAt.Before(since) {
			continue
		}
		for _, raw := range f.Records {
			if err := b.addRecord(raw, f.ReceivedAt); err != nil {
				return err
			}
		}
	}
}

func (b *windowBuilder) addRecord(raw []byte, at time.Time) error {
	r, err := decodeRecord(raw)
	if err != nil {
		return err
	}
	for range r.events {
		h, err := r.skipEvent()
		if err != nil {
			return errors.Join(errRecord, err)
		}
		b.add(h, at)
	}
	return nil
}
