package postgres

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// A look at the batches asks for so many at first, and for more when they have
	// nothing for the tenant.
	batchesAtFirst = 16
	batchesMax     = 1024
	// batchesPerPage bounds how many batches are looked at for one page. A page that
	// ends by it may be empty, and its cursor leads on.
	batchesPerPage = 16 << 10
	// startBatches is among how many of the newest batches the first one of a tail is
	// looked for by its time.
	startBatches = 1000
)

// batchRow is what a tail needs of a row of event_batches.
type batchRow struct{ n, firstSeq, lastSeq, firstNs, lastNs int64 }

const listBatches = `SELECT n, first_seq, last_seq, first_ns, last_ns FROM event_batches
WHERE tenant_id = '' AND n >= $1 AND last_ns >= $2 AND first_ns < $3 AND first_ns >= $4
ORDER BY n LIMIT $5`

// oldestFirst reads in the order of the batches' numbers, which is that of their
// commits, and within a batch by time and sequence. It asks the primary: the
// numbers' promise is kept there, and who follows events wants the newest.
func (e *events) oldestFirst(ctx context.Context, p *pager) error {
	conn, err := e.db.fresh.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	at, err := p.start(ctx, conn)
	if err != nil {
		return err
	}
	ask := batchesAtFirst
	for looked := 0; looked < batchesPerPage; ask = min(4*ask, batchesMax) {
		rows, err := conn.Query(ctx, listBatches, at.n, p.from, p.to, dayStart(p.from), ask)
		if err != nil {
			return err
		}
		batches, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b batchRow, err error) {
			return b, row.Scan(&b.n, &b.firstSeq, &b.lastSeq, &b.firstNs, &b.lastNs)
		})
		if err != nil || len(batches) == 0 {
			return err
		}
		looked += len(batches)
		last := batches[len(batches)-1]
		if err := p.readBatches(ctx, conn, batches, at); err != nil || p.full() || p.more {
			return err
		}
		p.seen = cursor{n: last.n, received: last.lastNs, seq: last.lastSeq}
		if len(batches) < ask {
			return nil
		}
		at = cursor{n: last.n + 1}
	}
	return nil
}

// start returns where to begin: with batch n, and of that beyond the time and
// sequence.
func (p *pager) start(ctx context.Context, conn *pgxpool.Conn) (cursor, error) {
	switch {
	case p.after != nil && p.after.n > 0:
		return *p.after, nil
	case p.after != nil:
		return findBatch(ctx, conn, *p.after)
	case p.from == math.MinInt64:
		return cursor{}, nil
	}
	// Most often a tail begins now. Then this finds nothing or little, where the order
	// of the batches' numbers would have to be gone through from the beginning.
	var n, count int64
	err := conn.QueryRow(ctx, `SELECT coalesce(min(n), 0), count(*) FROM (
	SELECT n FROM event_batches WHERE tenant_id = '' AND last_ns >= $1 ORDER BY last_ns DESC LIMIT $2) AS newest`, p.from, startBatches).Scan(&n, &count)
	switch {
	case err != nil:
		return cursor{}, err
	case count == 0:
		return cursor{n: math.MaxInt64}, nil
	case count == startBatches:
		return cursor{}, nil
	}
	return cursor{n: n}, nil
}

// findBatch completes a cursor that does not know its batch. If that was dropped,
// all that is left is later.
func findBatch(ctx context.Context, conn *pgxpool.Conn, c cursor) (cursor, error) {
	err := conn.QueryRow(ctx, `SELECT n FROM event_batches
WHERE tenant_id = '' AND last_ns >= $1 AND first_ns <= $1 AND first_ns >= $2 AND first_seq <= $3 AND last_seq >= $3
ORDER BY last_ns LIMIT 1`, c.received, dayStart(c.received), c.seq).Scan(&c.n)
	if noRows(err) {
		return cursor{}, nil
	}
	return c, err
}

// The batches come in order and the loop over them keeps that order.
const (
	batchesQuery = withinBytesHead + `
		SELECT b.n, e.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS b (n, first_seq, last_seq, first_ns, last_ns)
		CROSS JOIN LATERAL (
			SELECT ` + eventColumns + ` FROM events e
			WHERE e.tenant_id = $6 AND e.received_ns >= b.first_ns AND e.received_ns <= b.last_ns AND e.seq >= b.first_seq AND e.seq <= b.last_seq
				AND e.received_ns >= $7 AND e.received_ns < $8 AND (b.n > $9 OR (e.received_ns, e.seq) > ($10, $11))`
	batchesQueryEnd = ` ORDER BY e.received_ns, e.seq LIMIT $12) AS e
		LIMIT $12` + withinBytesTail + `$13`
	allOfBatches    = batchesQuery + batchesQueryEnd
	ofTypeOfBatches = batchesQuery + ` AND e.type = $14` + batchesQueryEnd
)

// readBatches adds what the batches have for the tenant, from the cursor on.
func (p *pager) readBatches(ctx context.Context, conn *pgxpool.Conn, batches []batchRow, at cursor) error {
	if at.n > 0 && batches[0].n == at.n && at.seq > 0 {
		batches[0].firstNs = max(batches[0].firstNs, at.received)
	}
	batches, err := p.worthReading(ctx, conn, batches)
	if err != nil || len(batches) == 0 {
		return err
	}
	columns := make([][]int64, 5)
	for _, b := range batches {
		for i, v := range []int64{b.n, b.firstSeq, b.lastSeq, b.firstNs, b.lastNs} {
			columns[i] = append(columns[i], v)
		}
	}
	query, after := allOfBatches, at
	if at.seq == 0 { // all of that batch
		after = cursor{n: at.n - 1}
	}
	events, bytes := p.room()
	args := []any{columns[0], columns[1], columns[2], columns[3], columns[4], p.q.TenantID, p.from, p.to,
		after.n, after.received, after.seq, events + 1, bytes}
	if p.q.Type != "" {
		query, args = ofTypeOfBatches, append(args, p.q.Type)
	}
	_, err = p.read(ctx, conn, events+1, query, args...)
	return err
}

// worthReading leaves out, where it costs less than to look, the batches of minutes
// in which the tenant has nothing of the kind.
func (p *pager) worthReading(ctx context.Context, conn *pgxpool.Conn, batches []batchRow) ([]batchRow, error) {
	if p.q.Type == "" && len(batches) <= batchesAtFirst {
		return batches, nil
	}
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	for _, b := range batches {
		lo, hi = min(lo, minuteOf(b.firstNs)), max(hi, minuteOf(b.lastNs))
	}
	query, args := `SELECT DISTINCT minute FROM event_rollups WHERE tenant_id = $1 AND minute BETWEEN $2 AND $3`, []any{p.q.TenantID, lo, hi}
	if p.q.Type != "" {
		query, args = query+` AND type = $4`, append(args, p.q.Type)
	}
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	busy := map[int64]bool{}
	var minute int64
	if _, err := pgx.ForEachRow(rows, []any{&minute}, func() error { busy[minute] = true; return nil }); err != nil {
		return nil, err
	}
	kept := batches[:0]
	for _, b := range batches {
		for m := minuteOf(b.firstNs); m <= minuteOf(b.lastNs); m++ {
			if busy[m] {
				kept = append(kept, b)
				break
			}
		}
	}
	return kept, nil
}
