package sqlite

import (
	"context"
	stdsql "database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/internal/event"
)

// maxPageBytes bounds the payloads of one page, whatever the query asks for; the
// cursor goes on from there. A page has at least one event, however large.
const maxPageBytes = 8 << 20

// Events returns one page. See event.Store.
func (e *events) Events(ctx context.Context, q event.Query) (event.Page, error) {
	defer e.metrics.timed("events")()
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
	views, err := e.files.snapshot()
	if err != nil {
		return event.Page{}, err
	}
	if !q.Ascending {
		slices.Reverse(views)
	}
	for _, v := range views {
		lo, hi := p.bounds(v)
		if lo > hi {
			continue
		}
		if err := e.pageOf(ctx, v.file, lo, hi, p); err != nil && !errors.Is(err, errDropped) {
			return event.Page{}, fmt.Errorf("query events of %s: %w", v.file.day.time().Format(time.DateOnly), err)
		}
		if p.more {
			break
		}
	}
	return p.page(), nil
}

// pager collects a page.
type pager struct {
	q        event.Query
	from, to int64 // Unix nanoseconds, [from, to)
	after    *cursor

	events []event.Event
	bytes  int
	last   cursor // the last event of the page
	more   bool   // the page is full and something follows
}

// bounds returns the sequences of a file the query may look at; none if lo > hi.
func (p *pager) bounds(v view) (lo, hi int64) {
	lo, hi = 1, v.lastSeq
	d := v.file.day
	if d.endNs() <= p.from || d.startNs() >= p.to {
		return 1, 0
	}
	if p.after == nil {
		return lo, hi
	}
	switch {
	case d == p.after.day && p.q.Ascending:
		lo = p.after.seq
		if lo < math.MaxInt64 {
			lo++
		}
	case d == p.after.day:
		hi = min(hi, p.after.seq-1)
	case p.q.Ascending == (d < p.after.day):
		return 1, 0
	}
	return lo, hi
}

// full says whether the page takes no further event.
func (p *pager) full() bool {
	most := p.q.MaxBytes
	if most <= 0 || most > maxPageBytes {
		most = maxPageBytes
	}
	return len(p.events) >= p.q.Limit || p.bytes >= most
}

func (p *pager) page() event.Page {
	out := event.Page{Events: p.events}
	switch {
	case p.more, p.q.Ascending && len(p.events) > 0:
		out.Next = p.last.String()
	case p.q.Ascending:
		out.Next = p.q.Cursor
	}
	return out
}

// pageOf adds the events of one file.
func (e *events) pageOf(ctx context.Context, file *dayFile, lo, hi int64, p *pager) error {
	db, err := e.files.acquire(file)
	if err != nil {
		return err
	}
	defer e.files.release(file)
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	order, kind := "DESC", ""
	if p.q.Ascending {
		order = "ASC"
	}
	if p.q.Type != "" {
		kind = "AND type = ?"
	}
	rows, err := conn.PrepareContext(ctx, `SELECT seq, received_ns, type, id, source, timestamp_ns, attributes, payload
		FROM events WHERE seq BETWEEN ? AND ? AND received_ns >= ? AND received_ns < ? AND tenant_id = ? `+kind+`
		ORDER BY seq `+order+` LIMIT ?`)
	if err != nil {
		return err
	}
	defer rows.Close()
	spans := &spanReader{conn: conn, order: order, tenant: p.q.TenantID, kind: p.q.Type, from: p.from, to: p.to, lo: lo, hi: hi}
	for {
		next, err := spans.next(ctx)
		if err != nil || len(next) == 0 {
			return err
		}
		for _, s := range next {
			if err := p.read(ctx, rows, file.day, s); err != nil || p.more {
				return err
			}
		}
	}
}

// read adds the events of one span.
func (p *pager) read(ctx context.Context, stmt *stdsql.Stmt, d day, s span) error {
	args := []any{s.lo, s.hi, p.from, p.to, p.q.TenantID}
	if p.q.Type != "" {
		args = append(args, p.q.Type)
	}
	// One more than fits tells whether anything follows.
	rows, err := stmt.QueryContext(ctx, append(args, p.q.Limit-len(p.events)+1)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if p.full() {
			p.more = true
			return nil
		}
		seq, ev, err := scanEvent(rows, p.q.TenantID)
		if err != nil {
			return err
		}
		p.last = cursor{day: d, seq: seq}
		if p.q.Ascending {
			ev.Cursor = p.last.String()
		}
		p.events = append(p.events, ev)
		p.bytes += len(ev.Payload) + len(ev.Attributes)
	}
	return rows.Err()
}

// scanEvent reads a row of seq, received_ns, type, id, source, timestamp_ns,
// attributes, payload.
func scanEvent(row interface{ Scan(...any) error }, tenant string) (seq int64, ev event.Event, err error) {
	var received, timestamp int64
	var source stdsql.NullString
	var attributes, payload []byte
	if err := row.Scan(&seq, &received, &ev.Type, &ev.ID, &source, &timestamp, &attributes, &payload); err != nil {
		return 0, event.Event{}, err
	}
	ev.TenantID = tenant
	ev.Source = source.String
	ev.ReceivedAt = time.Unix(0, received).UTC()
	ev.Timestamp = time.Unix(0, timestamp).UTC()
	ev.Payload = payload
	if len(attributes) > 0 {
		ev.Attributes = json.RawMessage(attributes)
	}
	return seq, ev, nil
}
