package sqlite

import (
	"context"
	stdsql "database/sql"
	"math/bits"
	"slices"
)

// span is a run of sequences, both ends included.
type span struct{ lo, hi int64 }

// spanReader reads from the sparse index where a tenant's events of a type may
// be, in the order of the query and only as far as it is asked.
type spanReader struct {
	conn         *stdsql.Conn
	order        string // "ASC" or "DESC"
	tenant, kind string // kind is empty for all
	from, to     int64  // Unix nanoseconds, [from, to)
	lo, hi       int64  // what is still to be looked at

	asked int // chunks the last look asked for
}

// next returns the spans of the next chunks, none when there are no more.
func (r *spanReader) next(ctx context.Context) ([]span, error) {
	if r.lo > r.hi {
		return nil, nil
	}
	// Most pages end within the first chunks; a rare type may need thousands.
	r.asked = min(max(4, r.asked*4), 1024)
	rows, err := r.conn.QueryContext(ctx, `SELECT chunk, blocks FROM presence
		WHERE tenant_id = ? AND type = ? AND chunk BETWEEN ? AND ? AND last_ns >= ? AND first_ns < ?
		ORDER BY chunk `+r.order+` LIMIT ?`,
		r.tenant, r.kind, r.lo>>chunkBits, r.hi>>chunkBits, r.from, r.to, r.asked)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []span
	var chunk, blocks int64
	n := 0
	for rows.Next() {
		if err := rows.Scan(&chunk, &blocks); err != nil {
			return nil, err
		}
		n++
		out = r.spansOf(out, chunk, uint64(blocks))
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	switch {
	case n < r.asked:
		r.lo, r.hi = 1, 0 // that was all
	case r.order == "ASC":
		r.lo = (chunk + 1) << chunkBits
	default:
		r.hi = chunk<<chunkBits - 1
	}
	if len(out) == 0 && n > 0 {
		return r.next(ctx) // chunks at the edge whose blocks are all out of bounds
	}
	return out, nil
}

// spansOf appends the runs of set bits of a chunk, cut to [lo, hi].
func (r *spanReader) spansOf(out []span, chunk int64, blocks uint64) []span {
	begin := len(out)
	for blocks != 0 {
		first := bits.TrailingZeros64(blocks)
		length := bits.TrailingZeros64(^(blocks >> first))
		s := span{lo: chunk<<chunkBits + int64(first)<<blockBits}
		s.hi = s.lo + int64(length)<<blockBits - 1
		s.lo, s.hi = max(s.lo, r.lo), min(s.hi, r.hi)
		if s.lo <= s.hi {
			out = append(out, s)
		}
		if first+length >= 64 {
			break
		}
		blocks &= ^uint64(0) << (first + length)
	}
	if r.order != "ASC" {
		slices.Reverse(out[begin:])
	}
	return out
}
