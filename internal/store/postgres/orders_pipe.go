package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statement is one that the hot paths prepare on every connection they use.
// Arguments and columns are in the binary format.
type statement struct{ name, sql string }

// hotConn is a connection of the pool with the statements prepared. One goroutine
// at a time.
type hotConn struct {
	conn *pgxpool.Conn
	pg   *pgconn.PgConn
	at   map[*statement]*pgconn.StatementDescription
}

// hotStatements is the key under which a connection remembers what is prepared.
const hotStatements = "millrace.hot"

// planner is how the hot paths want to be planned: once, and by following the
// arrays in their order through the keys' indexes, whatever the size of a table was
// when it was planned. This is also what makes statements lock rows in the arrays'
// order.
const planner = `SET plan_cache_mode = force_generic_plan; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET enable_material = off`

// holdHot takes a connection from the pool and prepares it, the first time.
func (db *DB) holdHot(ctx context.Context, use func(*hotConn) error) error {
	conn, err := db.hot.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("wait for a connection to PostgreSQL: %w", err)
	}
	defer conn.Release() // closes it if a transaction is still open
	c := &hotConn{conn: conn, pg: conn.Conn().PgConn()}
	data := c.pg.CustomData()
	if c.at, _ = data[hotStatements].(map[*statement]*pgconn.StatementDescription); c.at == nil {
		if err := c.prepare(ctx); err != nil {
			return fmt.Errorf("prepare a connection to PostgreSQL: %w", err)
		}
		data[hotStatements] = c.at
	}
	return use(c)
}

// prepare prepares every statement in one round trip.
func (c *hotConn) prepare(ctx context.Context) error {
	if _, err := c.pg.Exec(ctx, planner).ReadAll(); err != nil {
		return err
	}
	all := allHotStatements()
	c.at = make(map[*statement]*pgconn.StatementDescription, len(all))
	pipe := c.pg.StartPipeline(ctx)
	for _, s := range all {
		pipe.SendPrepare(s.name, s.sql, nil)
	}
	err := pipe.Sync()
	for _, s := range all {
		if err != nil {
			break
		}
		var got any
		if got, err = pipe.GetResults(); err != nil {
			err = fmt.Errorf("statement %s: %w", s.name, err)
			break
		}
		described, ok := got.(*pgconn.StatementDescription)
		if !ok {
			err = fmt.Errorf("statement %s: the server described no statement", s.name)
			break
		}
		described.Name = s.name
		c.at[s] = described
	}
	return errors.Join(err, pipe.Close())
}

// binary1 asks for all columns, and declares all arguments, in the binary format.
func binary1() []int16 { return []int16{1} }

// pipeline is a row of statements that are sent at once. One goroutine at a time.
type pipeline struct {
	calls []call
}

type call struct {
	s    *statement
	args [][]byte
	each func(row) error // nil if no rows are expected
}

// do queues a statement that answers nothing.
func (p *pipeline) do(s *statement, args ...[]byte) { p.read(s, nil, args...) }

// read queues a statement whose rows each gets.
func (p *pipeline) read(s *statement, each func(row) error, args ...[]byte) {
	p.calls = append(p.calls, call{s: s, args: args, each: each})
}

// refusal is the server's answer to one statement of a pipeline, after which it did
// nothing of the rest.
type refusal struct {
	s   *statement // nil if it was the commit
	err error
}

func (r *refusal) Error() string {
	if r.s == nil {
		return r.err.Error()
	}
	return r.s.name + ": " + r.err.Error()
}

func (r *refusal) Unwrap() error { return r.err }

// refusedBy says whether the server refused a statement, with one of the states if
// any are given.
func refusedBy(err error, s *statement, states ...string) bool {
	var r *refusal
	if !errors.As(err, &r) || r.s != s {
		return false
	}
	for _, state := range states {
		if sqlState(r.err) == state {
			return true
		}
	}
	return len(states) == 0
}

// send queues some of the pipeline's statements on the connection.
func (p *pipeline) send(c *hotConn, pipe *pgconn.Pipeline, from, to int) {
	for i := from; i < to; i++ {
		pipe.SendQueryStatement(c.at[p.calls[i].s], p.calls[i].args, binary1(), binary1())
	}
}

// run sends the statements, waits for all answers and hands their rows over. Unless
// a transaction was begun they are one of their own.
func (c *hotConn) run(ctx context.Context, p *pipeline) error {
	pipe := c.pg.StartPipeline(ctx)
	p.send(c, pipe, 0, len(p.calls))
	err := pipe.Sync()
	if err == nil {
		err, _ = p.answers(pipe, 0)
	}
	return closePipe(pipe, err)
}

// closePipe ends a pipeline whose work ended with err.
func closePipe(pipe *pgconn.Pipeline, err error) error {
	if closed := pipe.Close(); err == nil {
		return closed
	}
	return err
}

// answers reads the answers from the statement numbered first on, up to the
// synchronization point. synced says whether the server came to it, which it does
// after a refusal too: without an error all is done then, and with a *refusal
// nothing is. An error of each is told after the rest was read.
func (p *pipeline) answers(pipe *pgconn.Pipeline, first int) (err error, synced bool) {
	note := func(s *statement, failed error) {
		if err == nil && failed != nil {
			err = &refusal{s, failed}
		}
	}
	for i := first; ; {
		got, failed := pipe.GetResults()
		var s *statement
		if i < len(p.calls) {
			s = p.calls[i].s
		}
		switch got := got.(type) {
		case *pgconn.PipelineSync:
			return err, true
		case *pgconn.ResultReader:
			failed, each := p.calls[i].consume(got)
			if fatal(failed) {
				return lost(err, failed), false
			}
			note(s, failed)
			if err == nil {
				err = each
			}
			i++
			continue
		}
		switch {
		case failed == nil:
			return lost(err, errors.New("the server's answers ended early")), false
		case fatal(failed):
			return lost(err, failed), false
		}
		note(s, failed)
	}
}

// consume reads a statement's rows. failed is the server's or the connection's
// error, each that of who got the rows.
func (c *call) consume(rows *pgconn.ResultReader) (failed, each error) {
	for rows.NextRow() {
		if each == nil && c.each != nil {
			if each = c.each(rows.Values()); each != nil {
				each = fmt.Errorf("%s: %w", c.s.name, each)
			}
		}
	}
	_, failed = rows.Close()
	return failed, each
}

// fatal says whether an error is not an answer to a statement, but the end of the
// connection.
func fatal(err error) bool {
	if err == nil {
		return false
	}
	var refused *pgconn.PgError
	return !errors.As(err, &refused) || refused.SeverityUnlocalized == "FATAL" || refused.SeverityUnlocalized == "PANIC" ||
		refused.SeverityUnlocalized == "" && (refused.Severity == "FATAL" || refused.Severity == "PANIC")
}

// lost joins what the server said before the connection ended, if anything.
func lost(said, failed error) error {
	if said == nil {
		return failed
	}
	return fmt.Errorf("%w (before that: %v)", failed, said)
}
