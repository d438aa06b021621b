package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

// maxPageBytes bounds the payloads of one page, whatever the query asks for; the
// cursor goes on from there. A page has at least one event, however large.
const maxPageBytes = 8 << 20

// Events returns one page. See event.Store.
func (e *events) Events(ctx context.Context, q event.Query) (page event.Page, err error) {
	defer e.db.o.Metrics.timed("events", &err)()
	if q.Limit < 1 {
		return event.Page{}, fmt.Errorf("query events: the limit is %d; ask for at least 1", q.Limit)
	}
	p := &pager{q: q, from: unixNano(q.From, math.MinInt64), to: unixNano(q.To, math.MaxInt64)}
	if q.Cursor != "" {
		after, err := parseCursor(q.Cursor)
		if err != nil {
			return event.Page{}, err
		}
		p.after = &after
	}
	ctx, cancel := e.db.deadline(storesql.ForTenant(ctx, q.TenantID))
	defer cancel()
	if q.Ascending {
		err = e.oldestFirst(ctx, p)
	} else {
		err = e.lagging(ctx, func(pool *pgxpool.Pool) error {
			p.events, p.bytes, p.more = nil, 0, false
			return e.newestFirst(ctx, pool, p)
		})
	}
	if err != nil {
		return event.Page{}, in("query events", because(ctx, err))
	}
	return p.page(), nil
}

// lagging reads where reader says. If that is the replica and it goes away, or ends
// the query because the primary dropped what it reads, the primary is asked.
func (e *events) lagging(ctx context.Context, read func(pool *pgxpool.Pool) error) error {
	pool := e.db.reader(ctx)
	err := read(pool)
	if pool != e.db.fresh && ctx.Err() == nil && (isConflict(err) || unavailable(err)) {
		return read(e.db.fresh)
	}
	return err
}

// pager collects a page.
type pager struct {
	q        event.Query
	from, to int64 // Unix nanoseconds, [from, to)
	after    *cursor

	events []event.Event
	bytes  int64
	last   cursor // the last event of the page
	seen   cursor // oldest first: how far was looked, if that is beyond last
	more   bool   // the page is full and something follows
}

// room is what the page still takes.
func (p *pager) room() (events int, bytes int64) {
	most := p.q.MaxBytes
	if most <= 0 || most > maxPageBytes {
		most = maxPageBytes
	}
	return p.q.Limit - len(p.events), int64(most) - p.bytes
}

// full says whether the page takes no further event.
func (p *pager) full() bool {
	events, bytes := p.room()
	return events <= 0 || bytes <= 0
}

func (p *pager) page() event.Page {
	out := event.Page{Events: p.events}
	switch {
	case p.more, p.q.Ascending && len(p.events) > 0:
		out.Next = p.last.String()
	case p.q.Ascending && p.seen.n > 0:
		out.Next = p.seen.String()
	case p.q.Ascending:
		out.Next = p.q.Cursor
	}
	return out
}

const (
	// eventColumns are what a page needs of a row, and the bytes it counts of it.
	eventColumns = `e.received_ns, e.seq, e.timestamp_ns, e.type, e.id, e.source, e.attributes, e.payload,
	octet_length(e.payload) + coalesce(octet_length(e.attributes), 0) AS size`
	// withinBytes ends a page by its bytes before they are sent, and tells for every
	// row how many there would be without that. Its query is in order already.
	withinBytesHead = `SELECT n, received_ns, seq, timestamp_ns, type, id, source, attributes, payload, size, found FROM (
	SELECT *, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before, count(*) OVER () AS found FROM (`
	withinBytesTail = `) AS candidates) AS page WHERE before < `

	newestQuery = withinBytesHead + `
		SELECT 0::bigint AS n, ` + eventColumns + ` FROM events e
		WHERE e.tenant_id = $1 AND e.received_ns >= $2 AND e.received_ns < $3 AND e.received_ns <= $4 AND (e.received_ns, e.seq) < ($4, $5)
		ORDER BY e.received_ns DESC, e.seq DESC LIMIT $6` + withinBytesTail + `$7`

	// The spans come newest first and the loop over them keeps that order.
	newestOfTypeQuery = withinBytesHead + `
		SELECT 0::bigint AS n, e.* FROM unnest($1::bigint[], $2::bigint[]) AS span (lo, hi) CROSS JOIN LATERAL (
			SELECT ` + eventColumns + ` FROM events e
			WHERE e.tenant_id = $3 AND e.type = $4 AND e.received_ns >= span.lo AND e.received_ns < span.hi AND (e.received_ns, e.seq) < ($5, $6)
			ORDER BY e.received_ns DESC, e.seq DESC LIMIT $7) AS e
		LIMIT $7` + withinBytesTail + `$8`
)

// newestFirst reads by time and sequence, from the newest down.
func (e *events) newestFirst(ctx context.Context, pool *pgxpool.Pool, p *pager) error {
	at := cursor{received: math.MaxInt64, seq: math.MaxInt64}
	if p.after != nil {
		at = *p.after
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if p.q.Type == "" {
		events, bytes := p.room()
		_, err := p.read(ctx, conn, events+1, newestQuery, p.q.TenantID, p.from, p.to, at.received, at.seq, events+1, bytes)
		return err
	}
	to := p.to
	if at.received < math.MaxInt64 {
		to = min(to, at.received+1)
	}
	spans := &spanReader{conn: conn, tenant: p.q.TenantID, kind: p.q.Type, from: p.from, to: to}
	for {
		next, err := spans.next(ctx)
		if err != nil || len(next) == 0 {
			return err
		}
		lo, hi := columnsOf(next)
		events, bytes := p.room()
		if p.full() {
			events, bytes = 0, 1 // whether there is one more
		}
		if _, err := p.read(ctx, conn, events+1, newestOfTypeQuery, lo, hi, p.q.TenantID, p.q.Type, at.received, at.seq, events+1, bytes); err != nil || p.more {
			return err
		}
	}
}

// read adds the events of a query of eleven columns: those of withinBytesHead. asked is
// how many it asks for, one more than the page takes: that tells whether more follow.
func (p *pager) read(ctx context.Context, conn *pgxpool.Conn, asked int, query string, args ...any) (found int, err error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	var r eventRow
	read := 0
	_, err = pgx.ForEachRow(rows, r.fields(), func() error {
		if read++; read == asked {
			return nil // it only tells that there is more
		}
		p.last = cursor{n: r.n, received: r.received, seq: r.seq}
		ev := r.event(p.q.TenantID)
		if p.q.Ascending {
			ev.Cursor = p.last.String()
		}
		p.events = append(p.events, ev)
		p.bytes += r.size
		return nil
	})
	if err != nil {
		return 0, err
	}
	found = int(r.found)
	p.more = found > 0 && (read == asked || read < found)
	return found, nil
}

// eventRow is one row of a query for events.
type eventRow struct {
	n, received, seq, timestamp int64
	kind, id                    string
	source                      *string
	attributes, payload         []byte
	size, found                 int64
}

func (r *eventRow) fields() []any {
	return []any{&r.n, &r.received, &r.seq, &r.timestamp, &r.kind, &r.id, &r.source, &r.attributes, &r.payload, &r.size, &r.found}
}

// event returns the event and leaves the row to be read into again.
func (r *eventRow) event(tenant string) event.Event {
	ev := event.Event{
		ID: r.id, Type: r.kind, TenantID: tenant,
		Timestamp:  time.Unix(0, r.timestamp).UTC(),
		ReceivedAt: time.Unix(0, r.received).UTC(),
		Payload:    r.payload,
	}
	if r.source != nil {
		ev.Source = *r.source
	}
	if len(r.attributes) > 0 {
		ev.Attributes = json.RawMessage(r.attributes)
	}
	r.attributes, r.payload, r.source = nil, nil, nil
	return ev
}

// span is a stretch of time, [lo, hi) in Unix nanoseconds.
type span struct{ lo, hi int64 }

func columnsOf(spans []span) (lo, hi []int64) {
	for _, s := range spans {
		lo, hi = append(lo, s.lo), append(hi, s.hi)
	}
	return lo, hi
}

// spanReader tells from the rollups in which seconds a tenant has events of a type,
// newest first, and only as far as it is asked.
type spanReader struct {
	conn         *pgxpool.Conn
	tenant, kind string
	from, to     int64 // what is still to be looked at

	asked int // minutes the last look asked for
}

// next returns the spans of the next minutes, none when there are no more.
func (r *spanReader) next(ctx context.Context) ([]span, error) {
	for r.from < r.to {
		// Most pages end within the first minutes; a rare type may need thousands.
		r.asked = min(max(4, r.asked*4), 4096)
		minutes, err := r.minutes(ctx)
		if err != nil {
			return nil, err
		}
		var out []span
		for _, m := range minutes {
			out = m.spans(out, r.from, r.to)
		}
		if len(minutes) < r.asked {
			r.to = r.from // that was all
		} else {
			r.to = minutes[len(minutes)-1].start()
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, nil
}

// busyMinute is a minute in which there are events, and its seconds that have some.
type busyMinute struct{ minute, seconds int64 }

func (m busyMinute) start() int64 { return m.minute * int64(time.Minute) }

func (r *spanReader) minutes(ctx context.Context) ([]busyMinute, error) {
	rows, err := r.conn.Query(ctx, `SELECT minute, bit_or(seconds) FROM event_rollups
WHERE tenant_id = $1 AND type = $2 AND minute BETWEEN $3 AND $4 GROUP BY minute ORDER BY minute DESC LIMIT $5`,
		r.tenant, r.kind, minuteOf(r.from), minuteOf(r.to-1), r.asked)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m busyMinute, err error) {
		return m, row.Scan(&m.minute, &m.seconds)
	})
}

// spans appends the runs of busy seconds, newest first and within [from, to), and
// joins the first with the span before it if they touch.
func (m busyMinute) spans(out []span, from, to int64) []span {
	for second := int64(59); second >= 0; second-- {
		if m.seconds>>second&1 == 0 {
			continue
		}
		s := span{lo: m.start() + second*int64(time.Second)}
		s.hi = s.lo + int64(time.Second)
		s.lo, s.hi = max(s.lo, from), min(s.hi, to)
		if s.lo >= s.hi {
			continue
		}
		if n := len(out); n > 0 && out[n-1].lo == s.hi {
			out[n-1].lo = s.lo
			continue
		}
		out = append(out, s)
	}
	return slices.Clip(out)
}
