package sqlite

import (
	"context"
	stdsql "database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"millrace/internal/event"
)

// RecentHashes yields the hashes of events since a time, with a time that is at
// most a second after their receipt. See event.Store. It reads the packed index,
// chunk by chunk, and holds one chunk (1.2 MiB) in memory.
func (e *events) RecentHashes(ctx context.Context, since time.Time, yield func(event.Hash, time.Time) bool) error {
	views, err := e.files.snapshot()
	if err != nil {
		return err
	}
	sinceNs := unixNano(since, 0)
	for _, v := range views {
		if v.lastReceived < sinceNs {
			continue
		}
		more, err := e.hashesIn(ctx, v, sinceNs, yield)
		if err != nil && !errors.Is(err, errDropped) {
			return fmt.Errorf("read the recent ids of %s: %w", v.file.day.time().Format(time.DateOnly), err)
		}
		if err == nil && !more {
			return nil
		}
	}
	return nil
}

// tick says that events from seq on were received within a second of time.
type tick struct{ seq, received int64 }

func (e *events) hashesIn(ctx context.Context, v view, since int64, yield func(event.Hash, time.Time) bool) (more bool, err error) {
	db, err := e.files.acquire(v.file)
	if err != nil {
		return false, err
	}
	defer e.files.release(v.file)
	ticks, first, err := recentTicks(ctx, db, v.lastSeq, since)
	if err != nil || len(ticks) == 0 {
		return true, err
	}
	chunk := &chunkHashes{}
	for c := first >> chunkBits; c <= v.lastSeq>>chunkBits; c++ {
		if err := chunk.read(ctx, db, c); err != nil {
			return false, err
		}
		for seq := max(first, c<<chunkBits); seq <= min(v.lastSeq, (c+1)<<chunkBits-1); seq++ {
			for len(ticks) > 1 && ticks[1].seq <= seq {
				ticks = ticks[1:]
			}
			at := seq & (1<<chunkBits - 1)
			// A clock that once went back may have put older events in between.
			if !chunk.there[at] || ticks[0].received+nanosPerTick <= since {
				continue
			}
			if !yield(chunk.hashes[at], time.Unix(0, min(ticks[0].received+nanosPerTick, v.lastReceived)).UTC()) {
				return false, nil
			}
		}
	}
	return true, nil
}

// recentTicks returns the ticks of a file from the one that may hold the first
// event received at or after since, and that event's sequence.
func recentTicks(ctx context.Context, db *stdsql.DB, lastSeq, since int64) (ticks []tick, first int64, err error) {
	rows, err := db.QueryContext(ctx, `SELECT seq, received_ns FROM ticks WHERE seq <= ? ORDER BY seq`, lastSeq)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var t tick
		if err := rows.Scan(&t.seq, &t.received); err != nil {
			return nil, 0, err
		}
		if len(ticks) > 0 || t.received+nanosPerTick > since {
			ticks = append(ticks, t)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(ticks) == 0 {
		return nil, 0, err
	}
	// At most one second of rows is read here.
	err = db.QueryRowContext(ctx, `SELECT seq FROM events WHERE seq BETWEEN ? AND ? AND received_ns >= ? ORDER BY seq LIMIT 1`,
		ticks[0].seq, lastSeq, since).Scan(&first)
	if errors.Is(err, stdsql.ErrNoRows) {
		return nil, 0, nil
	}
	return ticks, first, err
}

// chunkHashes is the hashes of one chunk in order of sequence.
type chunkHashes struct {
	hashes [1 << chunkBits]event.Hash
	there  [1 << chunkBits]bool
}

func (c *chunkHashes) read(ctx context.Context, db *stdsql.DB, chunk int64) error {
	clear(c.there[:])
	rows, err := db.QueryContext(ctx, `SELECT entries FROM event_ids WHERE slot BETWEEN ? AND ?`,
		chunk<<bucketBits, chunk<<bucketBits+buckets-1)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var entries stdsql.RawBytes
		if err := rows.Scan(&entries); err != nil {
			return err
		}
		for len(entries) >= entryBytes {
			at := binary.LittleEndian.Uint16(entries[hashBytes:])
			c.hashes[at], c.there[at] = event.Hash(entries[:hashBytes]), true
			entries = entries[entryBytes:]
		}
	}
	return rows.Err()
}
