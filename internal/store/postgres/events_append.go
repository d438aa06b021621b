package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/event"
)

// maxBatchRows is how many numbers one value of event_seq stands for.
const maxBatchRows = 1 << 20

// Append commits a batch to the partitions of its day. See event.Store.
func (e *events) Append(ctx context.Context, b event.Batch) (inserted int, err error) {
	defer e.db.o.Metrics.timed("append events", &err)()
	d, own, err := checkBatch(&b)
	if err != nil {
		return 0, err
	}
	ctx, cancel := e.db.deadline(ctx)
	defer cancel()
	s := e.scratch.Get().(*appendScratch)
	defer e.scratch.Put(s)
	for again := false; ; again = true {
		if err := e.ensureDay(ctx, d); err != nil {
			return 0, err
		}
		inserted, err = e.appendTo(ctx, d, &b, booksOf(&b, own), s)
		s.reset()
		if sqlState(err) != stateUndefinedTable || again {
			return inserted, tooSlow(because(ctx, err))
		}
		e.forget(d) // retention has dropped the day since it was looked at
	}
}

// tooSlow marks an error of a statement that the server ended for its time.
func tooSlow(err error) error {
	if sqlState(err) == stateQueryCanceled && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", event.ErrSlow, err)
	}
	return err
}

// appendTo runs the transaction on a connection of its own.
func (e *events) appendTo(ctx context.Context, d day, b *event.Batch, books []book, s *appendScratch) (int, error) {
	conn, err := e.db.hot.Acquire(ctx)
	if err != nil {
		return 0, in("append events", err)
	}
	defer conn.Release()
	inserted, err := e.transact(ctx, conn, d, b, books, s)
	if err != nil || b.DryRun {
		e.rollback(ctx, conn)
		if err != nil {
			return 0, err
		}
		return inserted, nil
	}
	if inserted > 0 {
		e.summarise(ctx, conn, d)
	}
	return inserted, nil
}

// transact does all of an append, and but for a dry run its commit.
func (e *events) transact(ctx context.Context, conn *pgxpool.Conn, d day, b *event.Batch, books []book, s *appendScratch) (int, error) {
	seq, rows, err := e.begin(ctx, conn, d, b, books)
	if err != nil {
		return 0, err
	}
	if len(rows) > 0 {
		if err := copyRows(ctx, conn, d, rows, seq, s); err != nil {
			return 0, fmt.Errorf("copy events to PostgreSQL: %w", dataError(err))
		}
	}
	return len(rows), e.finish(ctx, conn, d, b, rows, seq, s)
}

// The statements that compare and set a position. They answer nothing when the log
// stands elsewhere; a second appender of the log waits here for the first one's end.
const (
	// takePosition begins a log that is not there; movePosition does not.
	takePosition = `INSERT INTO event_positions AS p (tenant_id, log_id, next_seq, last_day) VALUES ('', $1, $2, $3)
ON CONFLICT (tenant_id, log_id) DO UPDATE SET next_seq = excluded.next_seq, last_day = excluded.last_day
WHERE p.next_seq = $4 RETURNING nextval('event_seq')`
	movePosition = `UPDATE event_positions SET next_seq = $2, last_day = $3
WHERE tenant_id = '' AND log_id = $1 AND next_seq = $4 RETURNING nextval('event_seq')`
)

// begin opens the transaction and returns the sequence of the first row, and the
// rows without those that are claimed already.
func (e *events) begin(ctx context.Context, conn *pgxpool.Conn, d day, b *event.Batch, books []book) (seq int64, rows []event.Row, err error) {
	rows = b.Rows
	pipe := &pgx.Batch{}
	pipe.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED`)
	position := takePosition
	if b.Known {
		position = movePosition
	}
	pipe.Queue(position, b.LogID, int64(b.UpTo), int64(d), int64(b.From))
	for _, k := range books {
		k.queue(pipe, d, rows)
	}
	results := conn.SendBatch(ctx, pipe)
	defer func() {
		if closing := results.Close(); err == nil {
			err = in("begin to append events", closing)
		}
	}()
	if _, err := results.Exec(); err != nil {
		return 0, nil, in("begin to append events", err)
	}
	switch err := results.QueryRow().Scan(&seq); {
	case noRows(err):
		results.Close()
		return 0, nil, e.elsewhere(ctx, conn, b)
	case err != nil:
		return 0, nil, in("take the event log's position", err)
	}
	for _, k := range books {
		fresh, err := claimed(results)
		if err != nil {
			return 0, nil, in("claim the ids of events", dataError(err))
		}
		rows = k.keepFirst(rows, fresh)
	}
	return seq, rows, nil
}

// elsewhere says where the log stands.
func (e *events) elsewhere(ctx context.Context, conn *pgxpool.Conn, b *event.Batch) error {
	var have int64
	switch err := conn.QueryRow(ctx, selectPosition, b.LogID).Scan(&have); {
	case noRows(err):
		return &event.PositionError{From: b.From, Unknown: true}
	case err != nil:
		return in("find out where the event log stands", err)
	}
	return &event.PositionError{Have: uint64(have), From: b.From}
}

// finish writes what is counted of the rows and commits. What is sent last takes
// the batch's number, and the commit follows at once: until then other commits of
// events wait.
func (e *events) finish(ctx context.Context, conn *pgxpool.Conn, d day, b *event.Batch, rows []event.Row, seq int64, s *appendScratch) error {
	pipe := &pgx.Batch{}
	if len(rows) > 0 {
		s.tally(rows)
		s.queueRollups(pipe, d, b.LogID)
		s.pack(rows)
		number := `event_batch_number()`
		if b.DryRun { // others would wait until it is rolled back, a round trip later
			number = `-$2::bigint`
		}
		pipe.Queue(`INSERT INTO `+d.of("event_batches")+` (n, log_id, first_seq, last_seq, first_ns, last_ns, hashes, ticks)
VALUES (`+number+`, $1, $2, $3, $4, $5, $6, $7)`,
			b.LogID, seq, seq+int64(len(rows))-1, s.firstNs, s.lastNs, s.hashes, s.ticks)
	}
	if !b.DryRun {
		pipe.Queue(`COMMIT`)
	}
	if pipe.Len() == 0 {
		return nil
	}
	results := conn.SendBatch(ctx, pipe)
	tag, err := pgconn.CommandTag{}, error(nil)
	for range pipe.Len() {
		if tag, err = results.Exec(); err != nil {
			break
		}
	}
	if closing := results.Close(); err == nil {
		err = closing
	}
	switch {
	case err != nil:
		// The commit may have taken place or not: the log's position tells.
		return fmt.Errorf("commit events: %w", dataError(err))
	case b.DryRun:
		return nil
	case tag.String() != "COMMIT":
		return fmt.Errorf("commit events: the server answered %s", tag)
	}
	return nil
}

// rollback ends the transaction if there is one. A connection that does not get
// rid of it is closed when it is released, which ends it as well.
func (e *events) rollback(ctx context.Context, conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelGrace)
	defer cancel()
	if _, err := conn.Exec(ctx, `ROLLBACK`); err != nil {
		e.db.o.Logger.Debug("an append could not be rolled back; its connection is closed", "error", err)
	}
}

// checkBatch answers an error for a batch that breaks the contract, and one that
// wraps event.ErrData for a row that the database cannot keep. own says whether the
// batch has rows that are exact by themselves.
func checkBatch(b *event.Batch) (d day, own bool, err error) {
	d, err = midnight(b.Day)
	switch {
	case err != nil:
		return 0, false, fmt.Errorf("append events: the day of the batch: %w", err)
	case b.UpTo < b.From:
		return 0, false, fmt.Errorf("append events: the batch ends at log sequence %d, before its beginning at %d", b.UpTo, b.From)
	case b.UpTo > math.MaxInt64:
		return 0, false, fmt.Errorf("append events: the batch ends at log sequence %d, which is more than 63 bits", b.UpTo)
	case b.Exact && b.ExactDays < 1:
		return 0, false, fmt.Errorf("append events: exact mode over %d days; give at least 1", b.ExactDays)
	case len(b.Rows) > maxBatchRows:
		return 0, false, fmt.Errorf("append events: %d rows in a batch; give at most %d", len(b.Rows), maxBatchRows)
	}
	from, to := d.startNs(), d.endNs()
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.ReceivedAt < from || r.ReceivedAt >= to {
			return 0, false, fmt.Errorf("append events: row %d was received at %s, which is not on %s, the day of the batch",
				i, time.Unix(0, r.ReceivedAt).UTC().Format(time.RFC3339Nano), d)
		}
		own = own || r.Exact
		if err := checkRow(r); err != nil {
			return 0, false, fmt.Errorf("%w: row %d %w", event.ErrData, i, err)
		}
	}
	return d, own, nil
}

// Errors of checkRow; what is not text PostgreSQL would refuse itself, but only
// after all rows before it were sent.
var (
	errLacks   = errors.New("lacks its tenant, type or id")
	errNoText  = errors.New("has a NUL or is not UTF-8")
	errTooLong = errors.New("is longer than the database can take")
)

// maxRowBytes is how long PostgreSQL lets a value be, with room for its copying.
const maxRowBytes = 256 << 20

func checkRow(r *event.Row) error {
	switch {
	case r.TenantID == "" || r.Type == "" || r.ID == "":
		return errLacks
	case !isText(r.Payload) || !isText(r.ID) || !isText(r.Type) || !isText(r.TenantID) || !isText(r.Source) || !isText(r.Attributes) || !isText(r.Currency):
		return errNoText
	case len(r.Payload)+len(r.Attributes)+len(r.ID)+len(r.Source) > maxRowBytes:
		return errTooLong
	}
	return nil
}

func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
