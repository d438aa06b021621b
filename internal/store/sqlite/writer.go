package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	modernc "modernc.org/sqlite"

	"millrace/internal/event"
)

// rowsPerInsert is the number of events one statement inserts; 20 to 500 measure
// alike.
const rowsPerInsert = 50

const eventColumns = 9

// writer appends to one day file. It talks to the driver without database/sql in
// between, which would look at each of a statement's 450 arguments once more. It
// is not safe for concurrent use: the append lock guards it.
type writer struct {
	file *dayFile
	conn driver.Conn

	insertMany, insertOne statement
	addIDs, addPresence   statement
	addRollup, addTick    statement
	claimMany, claimOne   statement
	setPosition           statement
	// These are for events of Millrace's own making.
	claimOwnMany, claimOwnOne, addMoney statement

	packer packer
	tally  tally

	tail            // what the open transaction added included
	saved   tail    // as the open transaction found it
	forcing forcing // see boundWAL
}

// tail is where a day file ends; all is 0 in an empty one.
type tail struct {
	lastSeq      int64
	lastReceived int64 // Unix nanoseconds
	lastTick     int64 // Unix nanoseconds
}

// statement is a prepared statement with its arguments.
type statement struct {
	stmt driver.Stmt
	args []driver.NamedValue
}

func openWriter(ctx context.Context, file *dayFile) (*writer, error) {
	connector, err := modernc.NewConnector(dsn(file.path, writing))
	if err != nil {
		return nil, err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{file: file, conn: conn}
	if err := errors.Join(w.prepare(), w.remember()); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *writer) prepare() error {
	row := "(" + strings.Repeat("?,", eventColumns-1) + "?)"
	const events = "INSERT INTO events (seq, received_ns, tenant_id, type, id, source, timestamp_ns, attributes, payload) VALUES "
	const claims = "INSERT INTO %s (hash) VALUES %s ON CONFLICT DO NOTHING RETURNING hash"
	many := "(?)" + strings.Repeat(",(?)", rowsPerInsert-1)
	for _, p := range []struct {
		to     *statement
		params int
		query  string
	}{
		{&w.insertMany, rowsPerInsert * eventColumns, events + row + strings.Repeat(","+row, rowsPerInsert-1)},
		{&w.insertOne, eventColumns, events + row},
		{&w.addIDs, 2, "INSERT INTO event_ids (slot, entries) VALUES (?, ?) ON CONFLICT (slot) DO UPDATE SET entries = CAST(entries || excluded.entries AS BLOB)"},
		{&w.addPresence, 6, `INSERT INTO presence (tenant_id, type, chunk, blocks, first_ns, last_ns) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, type, chunk) DO UPDATE SET blocks = blocks | excluded.blocks,
				first_ns = min(first_ns, excluded.first_ns), last_ns = max(last_ns, excluded.last_ns)`},
		{&w.addRollup, 6, `INSERT INTO rollups (tenant_id, minute, type, log_id, count, bytes) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, minute, type, log_id) DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes`},
		{&w.addTick, 2, "INSERT INTO ticks (seq, received_ns) VALUES (?, ?)"},
		{&w.claimMany, rowsPerInsert, fmt.Sprintf(claims, "claims", many)},
		{&w.claimOne, 1, fmt.Sprintf(claims, "claims", "(?)")},
		{&w.claimOwnMany, rowsPerInsert, fmt.Sprintf(claims, "own_claims", many)},
		{&w.claimOwnOne, 1, fmt.Sprintf(claims, "own_claims", "(?)")},
		{&w.addMoney, 8, addMoneySQL},
		{&w.setPosition, 2, "INSERT INTO positions (log_id, next_seq) VALUES (?, ?) ON CONFLICT (log_id) DO UPDATE SET next_seq = excluded.next_seq"},
	} {
		stmt, err := w.conn.Prepare(p.query)
		if err != nil {
			return fmt.Errorf("prepare %.40q: %w", p.query, err)
		}
		*p.to = statement{stmt: stmt, args: make([]driver.NamedValue, p.params)}
		for i := range p.params {
			p.to.args[i].Ordinal = i + 1
		}
	}
	return nil
}

// remember reads where the file ends.
func (w *writer) remember() error {
	for _, p := range []struct {
		query string
		to    []*int64
	}{
		{"SELECT seq, received_ns FROM events ORDER BY seq DESC LIMIT 1", []*int64{&w.lastSeq, &w.lastReceived}},
		{"SELECT received_ns FROM ticks ORDER BY seq DESC LIMIT 1", []*int64{&w.lastTick}},
	} {
		stmt, err := w.conn.Prepare(p.query)
		if err != nil {
			return err
		}
		rows, err := stmt.(driver.StmtQueryContext).QueryContext(context.Background(), nil)
		if err != nil {
			return errors.Join(err, stmt.Close())
		}
		values := make([]driver.Value, len(p.to))
		switch err = rows.Next(values); err {
		case nil:
			for i, v := range values {
				*p.to[i], _ = v.(int64)
			}
		case io.EOF:
			err = nil
		}
		if err := errors.Join(err, rows.Close(), stmt.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) close() error {
	var errs []error
	for _, s := range []*statement{&w.insertMany, &w.insertOne, &w.addIDs, &w.addPresence, &w.addRollup, &w.addTick,
		&w.claimMany, &w.claimOne, &w.setPosition, &w.claimOwnMany, &w.claimOwnOne, &w.addMoney} {
		if s.stmt != nil {
			errs = append(errs, s.stmt.Close())
		}
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// exec runs a statement that is not prepared. Nothing in a writer is cancelled
// half way: a transaction takes milliseconds, and the one who waits for it asks
// between statements.
func (w *writer) exec(query string) error {
	_, err := w.conn.(driver.ExecerContext).ExecContext(context.Background(), query, nil)
	return err
}

func (s *statement) run() error {
	_, err := s.stmt.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
	return err
}

// with sets the arguments and runs.
func (s *statement) with(values ...driver.Value) error {
	for i, v := range values {
		s.args[i].Value = v
	}
	return s.run()
}

// append does all of a batch but the commit. After an error the caller rolls back.
func (w *writer) append(ctx context.Context, b *event.Batch, rows []event.Row, books []book) (int, error) {
	w.saved = w.tail
	if err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return 0, fmt.Errorf("begin: %w", err)
	}
	var err error
	for _, k := range books {
		if rows, err = w.claim(ctx, k, rows); err != nil {
			return 0, fmt.Errorf("claim the events: %w", err)
		}
	}
	first := w.lastSeq + 1
	if err := w.insert(ctx, rows); err != nil {
		return 0, fmt.Errorf("insert events: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.packer.add(rows, first, &w.addIDs); err != nil {
		return 0, fmt.Errorf("index the ids: %w", err)
	}
	if err := w.tally.add(w, b, rows, first); err != nil {
		return 0, fmt.Errorf("count the events: %w", err)
	}
	if err := w.setPosition.with(b.LogID[:], int64(b.UpTo)); err != nil {
		return 0, fmt.Errorf("move the log's position: %w", err)
	}
	return len(rows), nil
}

func (w *writer) commit() error { return w.exec("COMMIT") }

// rollback undoes what append did. It may be called when no transaction is open:
// some errors make SQLite roll back by itself.
func (w *writer) rollback() error {
	w.tail = w.saved
	err := w.exec("ROLLBACK")
	if err != nil && strings.Contains(err.Error(), "no transaction is active") {
		return nil
	}
	return err
}

// insert appends the rows and the ticks that lie between them.
func (w *writer) insert(ctx context.Context, rows []event.Row) error {
	var tenant, kind text
	fill := func(args []driver.NamedValue, r *event.Row) {
		w.lastSeq++
		args[0].Value = w.lastSeq
		args[1].Value = r.ReceivedAt
		args[2].Value = tenant.value(r.TenantID)
		args[3].Value = kind.value(r.Type)
		args[4].Value = r.ID
		args[5].Value = nullIfEmpty(r.Source)
		args[6].Value = r.Timestamp
		args[7].Value = nullIfEmpty(r.Attributes)
		args[8].Value = r.Payload
	}
	for len(rows) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, s := 1, &w.insertOne
		if len(rows) >= rowsPerInsert {
			n, s = rowsPerInsert, &w.insertMany
		}
		for i := range n {
			r := &rows[i]
			fill(s.args[i*eventColumns:], r)
			w.lastReceived = max(w.lastReceived, r.ReceivedAt)
			if r.ReceivedAt < w.lastTick || r.ReceivedAt >= w.lastTick+nanosPerTick {
				w.lastTick = r.ReceivedAt
				if err := w.addTick.with(w.lastSeq, r.ReceivedAt); err != nil {
					return err
				}
			}
		}
		if err := s.run(); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// text keeps the last string as a driver value, so that a run of equal ones is
// boxed once.
type text struct {
	last  string
	boxed driver.Value
}

func (t *text) value(s string) driver.Value {
	if t.boxed == nil || t.last != s {
		t.last, t.boxed = s, s
	}
	return t.boxed
}

func nullIfEmpty(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}
