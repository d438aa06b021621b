package sqlite

import (
	"context"
	stdsql "database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/internal/event"
)

// Event returns a tenant's event by id. See event.Store.
func (e *events) Event(ctx context.Context, tenantID, id string) (event.Event, error) {
	defer e.metrics.timed("event")()
	views, err := e.files.snapshot()
	if err != nil {
		return event.Event{}, err
	}
	for _, v := range slices.Backward(views) {
		ev, err := e.eventIn(ctx, v, tenantID, id)
		switch {
		case err == nil:
			return ev, nil
		case !errors.Is(err, event.ErrNotFound) && !errors.Is(err, errDropped):
			return event.Event{}, fmt.Errorf("look up an event in %s: %w", v.file.day.time().Format(time.DateOnly), err)
		}
	}
	return event.Event{}, event.ErrNotFound
}

// eventIn looks for the id in one file: it reads the id's bucket of each chunk,
// the newest first, and the rows the bucket names.
func (e *events) eventIn(ctx context.Context, v view, tenantID, id string) (event.Event, error) {
	db, err := e.files.acquire(v.file)
	if err != nil {
		return event.Event{}, err
	}
	defer e.files.release(v.file)
	conn, err := db.Conn(ctx) // one, so that look-ups cannot wait for each other's second
	if err != nil {
		return event.Event{}, err
	}
	defer conn.Close()
	key := event.HashOf(tenantID, "", id)
	for slot := slotOf(v.lastSeq>>chunkBits, key); slot >= 0; slot -= buckets {
		var entries []byte
		if slot, entries, err = bucketWith(ctx, conn, slot, key); err != nil {
			return event.Event{}, err
		}
		byID := func(have event.Hash) bool { return have.LookupKey() == key.LookupKey() }
		for _, seq := range seqsOf(nil, slot>>bucketBits, entries, byID) {
			if seq > v.lastSeq {
				continue
			}
			ev, err := eventAt(ctx, conn, seq, tenantID, id)
			if !errors.Is(err, event.ErrNotFound) {
				return ev, err
			}
		}
	}
	return event.Event{}, event.ErrNotFound
}

// Has says whether an event with this hash is stored. See event.Store. The packed
// index tells; no row is read.
func (e *events) Has(ctx context.Context, h event.Hash) (bool, error) {
	views, err := e.files.snapshot()
	if err != nil {
		return false, err
	}
	for _, v := range slices.Backward(views) {
		there, err := e.hasIn(ctx, v, h)
		if err != nil && !errors.Is(err, errDropped) {
			return false, fmt.Errorf("look for an event in %s: %w", v.file.day.time().Format(time.DateOnly), err)
		}
		if there {
			return true, nil
		}
	}
	return false, nil
}

func (e *events) hasIn(ctx context.Context, v view, h event.Hash) (bool, error) {
	db, err := e.files.acquire(v.file)
	if err != nil {
		return false, err
	}
	defer e.files.release(v.file)
	conn, err := db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	for slot := slotOf(v.lastSeq>>chunkBits, h); slot >= 0; slot -= buckets {
		var entries []byte
		slot, entries, err = bucketWith(ctx, conn, slot, h)
		if errors.Is(err, event.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for _, seq := range seqsOf(nil, slot>>bucketBits, entries, func(have event.Hash) bool { return have == h }) {
			if seq <= v.lastSeq {
				return true, nil
			}
		}
	}
	return false, nil
}

// bucketWith returns the newest bucket, from slot on downwards, whose entries
// have the look-up key of a hash, with its entries. event.ErrNotFound if there is
// none.
func bucketWith(ctx context.Context, conn *stdsql.Conn, slot int64, key event.Hash) (found int64, entries []byte, err error) {
	// SQLite steps through the chunks by itself and hands over a bucket only if it
	// holds the key, or happens to hold its bytes across two entries.
	err = conn.QueryRowContext(ctx, `WITH RECURSIVE slots (slot) AS (
			VALUES (?1) UNION ALL SELECT slot - ?2 FROM slots WHERE slot >= ?2)
		SELECT slots.slot, entries FROM slots CROSS JOIN event_ids ON event_ids.slot = slots.slot
		WHERE instr(entries, ?3) > 0 LIMIT 1`, slot, buckets, key[:8]).Scan(&found, &entries)
	if errors.Is(err, stdsql.ErrNoRows) {
		return 0, nil, event.ErrNotFound
	}
	return found, entries, err
}

// seqsOf appends the sequences of a bucket's entries whose hash is wanted, the
// newest first.
func seqsOf(out []int64, chunk int64, entries []byte, wanted func(event.Hash) bool) []int64 {
	for n := len(entries) / entryBytes; n > 0; n-- {
		entry := entries[(n-1)*entryBytes : n*entryBytes]
		if wanted(event.Hash(entry[:hashBytes])) {
			out = append(out, chunk<<chunkBits|int64(binary.LittleEndian.Uint16(entry[hashBytes:])))
		}
	}
	return out
}

// eventAt reads one row, event.ErrNotFound if it is not that tenant's event.
func eventAt(ctx context.Context, conn *stdsql.Conn, seq int64, tenantID, id string) (event.Event, error) {
	row := conn.QueryRowContext(ctx, `SELECT seq, received_ns, type, id, source, timestamp_ns, attributes, payload
		FROM events WHERE seq = ? AND tenant_id = ? AND id = ?`, seq, tenantID, id)
	_, ev, err := scanEvent(row, tenantID)
	if errors.Is(err, stdsql.ErrNoRows) {
		return event.Event{}, event.ErrNotFound
	}
	return ev, err
}
