package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/event"
)

// errPacked says that the packed hashes of a batch do not unpack.
var errPacked = errors.New("its packed hashes are damaged")

// RecentHashes yields the hashes of events since a time. See event.Store. It reads
// the batches' packed hashes, one batch after the other.
func (e *events) RecentHashes(ctx context.Context, since time.Time, yield func(event.Hash, time.Time) bool) error {
	sinceNs := unixNano(since, math.MinInt64)
	var r packed
	// Batches are read a few at a time, so that no statement is long.
	for after := (batchPlace{lastNs: sinceNs}); ; {
		n, more, err := e.hashesAfter(ctx, &after, sinceNs, &r, yield)
		if err != nil {
			return in("read the recent ids of events", err)
		}
		if !more || n < hashBatches {
			return nil
		}
	}
}

// batchPlace is behind a batch in the order of their last receipts.
type batchPlace struct{ lastNs, n int64 }

// hashBatches is how many batches one statement reads.
const hashBatches = 64

// hashesAfter yields the hashes of the next batches.
func (e *events) hashesAfter(ctx context.Context, after *batchPlace, since int64, r *packed, yield func(event.Hash, time.Time) bool) (n int, more bool, err error) {
	ctx, cancel := e.db.deadline(ctx)
	defer cancel()
	rows, err := e.db.hot.Query(ctx, `SELECT last_ns, n, first_ns, hashes, ticks FROM event_batches
WHERE tenant_id = '' AND last_ns >= $1 AND (last_ns, n) > ($1, $2) AND first_ns >= $3
ORDER BY last_ns, n LIMIT $4`, after.lastNs, after.n, dayStart(since), hashBatches)
	if err != nil {
		return 0, false, err
	}
	more = true
	_, err = pgx.ForEachRow(rows, []any{&after.lastNs, &after.n, &r.firstNs, (*pgxBytes)(&r.hashes), (*pgxBytes)(&r.ticks)}, func() error {
		n++
		if !more {
			return nil
		}
		var err error
		more, err = r.unpack(since, yield)
		return err
	})
	return n, more, err
}

// packed is a batch's hashes as they are stored.
type packed struct {
	firstNs       int64
	hashes, ticks []byte
}

func (r *packed) unpack(since int64, yield func(event.Hash, time.Time) bool) (more bool, err error) {
	const size = len(event.Hash{})
	at, ticks, hashes := r.firstNs, r.ticks, r.hashes
	for len(ticks) > 0 {
		later, n := binary.Varint(ticks)
		if n <= 0 {
			return false, errPacked
		}
		run, m := binary.Uvarint(ticks[n:])
		if m <= 0 || run > uint64(len(hashes)/size) {
			return false, errPacked
		}
		ticks, at = ticks[n+m:], at+later
		received := time.Unix(0, at).UTC()
		for ; run > 0; run-- {
			if at >= since && !yield(event.Hash(hashes[:size]), received) {
				return false, nil
			}
			hashes = hashes[size:]
		}
	}
	if len(hashes) > 0 {
		return false, fmt.Errorf("%w: %d bytes have no time of receipt", errPacked, len(hashes))
	}
	return true, nil
}

// pgxBytes reads a bytea into memory that is used again.
type pgxBytes []byte

// ScanBytes implements pgtype.BytesScanner.
func (b *pgxBytes) ScanBytes(src []byte) error {
	*b = append((*b)[:0], src...)
	return nil
}
