package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"millrace/internal/audit"
)

// The statements of the audit log. A filter that is not set is passed as the
// empty string, and bounds that are not set as the ends of the range. The bounds
// on ids say again what those on times say, for the index.
const (
	auditColumns = `tenant_id, id, at_ns, subject, method, request_id, action, object, before, after`

	listAudit = `SELECT ` + auditColumns + ` FROM audit_log
WHERE tenant_id = $1 AND id >= $2 AND id < $3 AND at_ns >= $4 AND at_ns < $5
  AND ($6 = '' OR action = $6) AND ($7 = '' OR subject = $7)
ORDER BY id DESC LIMIT $8`

	// The pairs are of one object. Without them SQLite would take the primary key.
	listAuditOfObject = `SELECT ` + auditColumns + ` FROM audit_log
WHERE tenant_id = $1 AND (object, id) >= ($2, $3) AND (object, id) < ($2, $4) AND at_ns >= $5 AND at_ns < $6
  AND ($7 = '' OR action = $7) AND ($8 = '' OR subject = $8)
ORDER BY object DESC, id DESC LIMIT $9`

	// These find the last entry that a page may look at, from an index alone.
	lastOfAudit = `SELECT id FROM audit_log WHERE tenant_id = $1 AND id >= $2 AND id < $3
ORDER BY id DESC LIMIT 1 OFFSET $4`

	lastOfAuditOfObject = `SELECT id FROM audit_log WHERE tenant_id = $1 AND object = $2 AND id >= $3 AND id < $4
ORDER BY id DESC LIMIT 1 OFFSET $5`
)

var addAudit = manyRows{head: `INSERT INTO audit_log (` + auditColumns + `) VALUES `, width: 10,
	tail: ` ON CONFLICT (tenant_id, id) DO NOTHING`}

// Audit is the audit.Store of a SQL database.
type Audit struct{ on Pools }

var _ audit.Store = (*Audit)(nil)

// NewAudit returns the audit log of a database.
func NewAudit(on Pools) *Audit { return &Audit{on: on} }

// insertAudit writes the entries of a change in the change's own transaction.
func insertAudit(ctx context.Context, tx transaction, entries ...audit.Entry) error {
	p := prepareIn(tx)
	defer p.close()
	return p.insertAudit(ctx, entries)
}

func (p *prepared) insertAudit(ctx context.Context, entries []audit.Entry) error {
	args := make([]any, 0, min(len(entries), rowsPerChunk)*addAudit.width)
	for chunk := range slices.Chunk(entries, rowsPerChunk) {
		args = args[:0]
		for i := range chunk {
			args = append(args, AuditArgs(&chunk[i])...)
		}
		if _, err := p.exec(ctx, addAudit, args); err != nil {
			return in("write the audit log", err)
		}
	}
	return nil
}

// AddAudit is the statement that writes one entry, for a store that does so in a
// transaction of its own. AuditArgs are its arguments.
const AddAudit = `INSERT INTO audit_log (` + auditColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant_id, id) DO NOTHING`

// AuditArgs returns the arguments of AddAudit: string and int64.
func AuditArgs(e *audit.Entry) []any {
	return []any{e.TenantID, e.ID, nanos(e.At), readable(e.Actor.Subject), readable(e.Actor.Method),
		readable(e.Actor.RequestID), readable(e.Action), readable(e.Object), readable(string(e.Before)), readable(string(e.After))}
}

// Record writes entries that belong to no other change. See audit.Store.
func (s *Audit) Record(ctx context.Context, entries []audit.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	return in("record in the audit log", transact(ctx, s.on, func(tx transaction) error { return insertAudit(ctx, tx, entries...) }))
}

// Entries returns one page, newest first. See audit.Store.
func (s *Audit) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	if q.Limit < 1 {
		return audit.Page{}, fmt.Errorf("read the audit log: the limit is %d; ask for at least 1", q.Limit)
	}
	first, end, err := auditSpan(q)
	if err != nil {
		return audit.Page{}, err
	}
	if !storable(q.Action, q.Subject, q.Object) {
		return audit.Page{}, nil
	}
	ctx = ForTenant(ctx, q.TenantID)
	var page audit.Page
	if q.Action != "" || q.Subject != "" {
		last, err := s.lastLookedAt(ctx, q, first, end)
		if err != nil {
			return audit.Page{}, in("read the audit log", err)
		}
		if last != "" {
			first, page.Next = last, packCursor(auditCursor, last)
		}
	}
	statement, args := auditQuery(q, first, end)
	rows, err := s.on.Lists.QueryContext(ctx, statement, args...)
	if err != nil {
		return audit.Page{}, in("read the audit log", err)
	}
	defer rows.Close()
	bytes := 0
	for rows.Next() {
		if n := len(page.Entries); n >= q.Limit || bytes >= maxListBytes {
			page.Next = packCursor(auditCursor, page.Entries[n-1].ID)
			return page, nil
		}
		e, err := scanAudit(rows)
		if err != nil {
			return audit.Page{}, in("read the audit log", err)
		}
		page.Entries = append(page.Entries, e)
		bytes += len(e.Before) + len(e.After)
	}
	return page, in("read the audit log", rows.Err())
}

// endOfIDs is above every id.
const endOfIDs = "~"

// auditSpan returns the ids that a page is from: [first, end).
func auditSpan(q audit.Query) (first, end string, err error) {
	end = endOfIDs
	if !q.From.IsZero() {
		first = audit.FirstID(q.From)
	}
	if !q.To.IsZero() {
		// An entry below To can have an id of To's own part of a millisecond.
		end = audit.FirstID(q.To.Add(1000))
	}
	if q.Cursor != "" {
		after, ok := unpackCursor(auditCursor, q.Cursor)
		if !ok {
			return "", "", audit.ErrBadCursor
		}
		end = min(end, after)
	}
	return first, end, nil
}

// lastLookedAt returns the id of the last entry that a page may look at, empty if
// it may look at all there are.
func (s *Audit) lastLookedAt(ctx context.Context, q audit.Query, first, end string) (id string, err error) {
	if q.Object == "" {
		err = s.on.Lists.QueryRowContext(ctx, lastOfAudit, q.TenantID, first, end, audit.MaxScan-1).Scan(&id)
	} else {
		err = s.on.Lists.QueryRowContext(ctx, lastOfAuditOfObject, q.TenantID, q.Object, first, end, audit.MaxScan-1).Scan(&id)
	}
	if noRows(err) {
		return "", nil
	}
	return id, err
}

func auditQuery(q audit.Query, first, end string) (string, []any) {
	from, to := bound(q.From, math.MinInt64), bound(q.To, math.MaxInt64)
	if q.Object == "" {
		return listAudit, []any{q.TenantID, first, end, from, to, q.Action, q.Subject, q.Limit + 1}
	}
	return listAuditOfObject, []any{q.TenantID, q.Object, first, end, from, to, q.Action, q.Subject, q.Limit + 1}
}

func scanAudit(row interface{ Scan(...any) error }) (audit.Entry, error) {
	var e audit.Entry
	var at int64
	var before, after string
	err := row.Scan(&e.TenantID, &e.ID, &at, &e.Actor.Subject, &e.Actor.Method, &e.Actor.RequestID, &e.Action, &e.Object, &before, &after)
	e.At = timeOf(at)
	if before != "" {
		e.Before = json.RawMessage(before)
	}
	if after != "" {
		e.After = json.RawMessage(after)
	}
	return e, err
}
