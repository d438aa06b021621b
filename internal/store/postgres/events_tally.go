package postgres

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/event"
)

// appendScratch is the working memory of one append. Between appends it keeps its
// buffers and nothing of the rows.
type appendScratch struct {
	copied []byte // the buffer of a rowReader

	// What pack makes.
	hashes, ticks   []byte
	firstNs, lastNs int64

	// What tally makes. The keys alias the rows.
	groups map[rollupKey]*rollup
	free   []*rollup // to be used for new groups

	// The rollups as columns.
	tenants, kinds, currencies             []string
	minutes, counts, bytes, sums, inSecond []int64
}

// rollupKey is what is counted together.
type rollupKey struct {
	tenant, kind, currency string
	minute                 int64
}

// rollup is what is known of a rollupKey.
type rollup struct {
	events, bytes, amount int64
	seconds               uint64 // bit n: in second n of the minute
}

func newAppendScratch() *appendScratch { return &appendScratch{groups: map[rollupKey]*rollup{}} }

// maxScratchBytes is how large a buffer may be to be kept for the next append.
const maxScratchBytes = 4 << 20

// reset lets go of the rows.
func (s *appendScratch) reset() {
	s.copied, s.hashes, s.ticks = keepable(s.copied), keepable(s.hashes), keepable(s.ticks)
	for _, g := range s.groups {
		s.free = append(s.free, g)
	}
	clear(s.groups)
	for _, column := range []*[]string{&s.tenants, &s.kinds, &s.currencies} {
		clear(*column)
		*column = (*column)[:0]
	}
	for _, column := range []*[]int64{&s.minutes, &s.counts, &s.bytes, &s.sums, &s.inSecond} {
		*column = (*column)[:0]
	}
}

func keepable(b []byte) []byte {
	if cap(b) > maxScratchBytes {
		return nil
	}
	return b[:0]
}

// pack gathers the hashes of the rows and their times of receipt.
func (s *appendScratch) pack(rows []event.Row) {
	s.hashes, s.ticks = s.hashes[:0], s.ticks[:0]
	first := rows[0].ReceivedAt
	s.firstNs, s.lastNs = first, first
	for i := range rows {
		at := rows[i].ReceivedAt
		s.firstNs, s.lastNs = min(s.firstNs, at), max(s.lastNs, at)
	}
	at, run := s.firstNs, uint64(0)
	before := s.firstNs // the time of the run before
	for i := range rows {
		s.hashes = append(s.hashes, rows[i].Hash[:]...)
		if rows[i].ReceivedAt != at && run > 0 {
			s.ticks = appendTick(s.ticks, at-before, run)
			before, run = at, 0
		}
		at = rows[i].ReceivedAt
		run++
	}
	s.ticks = appendTick(s.ticks, at-before, run)
}

func appendTick(b []byte, later int64, run uint64) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, later), run)
}

// tally counts the rows.
func (s *appendScratch) tally(rows []event.Row) {
	var last rollupKey
	var g *rollup
	for i := range rows {
		r := &rows[i]
		key := rollupKey{r.TenantID, r.Type, r.Currency, minuteOf(r.ReceivedAt)}
		if g == nil || key != last {
			last, g = key, s.group(key)
		}
		g.events++
		g.bytes += int64(len(r.Payload))
		g.amount = addWithin(g.amount, r.Amount)
		g.seconds |= 1 << secondOf(r.ReceivedAt, key.minute)
	}
}

// secondOf returns the second within its minute.
func secondOf(ns, minute int64) uint64 {
	return uint64(ns-minute*int64(time.Minute)) / uint64(time.Second)
}

func (s *appendScratch) group(key rollupKey) *rollup {
	g := s.groups[key]
	if g != nil {
		return g
	}
	if n := len(s.free); n > 0 {
		g, s.free = s.free[n-1], s.free[:n-1]
		*g = rollup{}
	} else {
		g = &rollup{}
	}
	s.groups[key] = g
	return g
}

// queueRollups adds what was counted to the day's rollups. A sum beyond 64 bits is
// an error to PostgreSQL, so it must not come to that.
func (s *appendScratch) queueRollups(pipe *pgx.Batch, d day, log event.LogID) {
	for key, g := range s.groups {
		s.tenants, s.kinds, s.currencies = append(s.tenants, key.tenant), append(s.kinds, key.kind), append(s.currencies, key.currency)
		s.minutes, s.counts = append(s.minutes, key.minute), append(s.counts, g.events)
		s.bytes, s.sums = append(s.bytes, g.bytes), append(s.sums, g.amount)
		s.inSecond = append(s.inSecond, int64(g.seconds))
	}
	pipe.Queue(`INSERT INTO `+d.of("event_rollups")+` AS r (tenant_id, minute, type, currency, log_id, count, bytes, amount, seconds)
SELECT t.tenant_id, t.minute, t.type, t.currency, $1, t.count, t.bytes, t.amount, t.seconds
FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
	AS t (tenant_id, minute, type, currency, count, bytes, amount, seconds)
ON CONFLICT (tenant_id, minute, type, currency, log_id) DO UPDATE SET
	count = r.count + excluded.count, bytes = r.bytes + excluded.bytes, seconds = r.seconds | excluded.seconds,
	amount = CASE
		WHEN excluded.amount > 0 AND r.amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807
		WHEN excluded.amount < 0 AND r.amount < -9223372036854775807 - 1 - excluded.amount THEN -9223372036854775807 - 1
		ELSE r.amount + excluded.amount END`,
		log, s.tenants, s.minutes, s.kinds, s.currencies, s.counts, s.bytes, s.sums, s.inSecond)
}

// addWithin returns a + b, or the bound of int64 that it exceeds.
func addWithin(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}
