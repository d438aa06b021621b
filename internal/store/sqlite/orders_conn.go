package sqlite

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	modernc "modernc.org/sqlite"
)

// driverConn is everything database/sql asks of SQLite's connections.
type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// hotConn is the connection that writes millrace.db, with the statements of the
// hot paths prepared on it. It closes them with itself, whoever closes it: SQLite
// would keep the file open otherwise. Who has it from the pool may use it, one at
// a time.
type hotConn struct {
	driverConn
	statements map[*shape]*bulk
	// wrote says that the open transaction has changed something, lanes that it
	// put rows into the lane of that number.
	wrote bool
	lanes [len(laneNames)]bool
}

// hotConnector makes hotConns for a pool.
type hotConnector struct{ driver.Connector }

// Connect opens a connection.
func (c hotConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	full, ok := conn.(driverConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the SQLite driver's %T lacks a part of database/sql's interfaces", conn), conn.Close())
	}
	return &hotConn{driverConn: full, statements: map[*shape]*bulk{}}, nil
}

// hotPool opens the pool of the one connection that writes.
func hotPool(path string) (*stdsql.DB, error) {
	connector, err := modernc.NewConnector(dsn(path, writingMain))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db := stdsql.OpenDB(hotConnector{connector})
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	return db, nil
}

// Close closes the statements and the connection.
func (c *hotConn) Close() error {
	var errs []error
	for _, b := range c.statements {
		errs = append(errs, b.close())
	}
	clear(c.statements)
	return errors.Join(append(errs, c.driverConn.Close())...)
}

// use returns the prepared form of a shape.
func (c *hotConn) use(s *shape) *bulk {
	b := c.statements[s]
	if b == nil {
		b = &bulk{conn: c, shape: s}
		c.statements[s] = b
	}
	return b
}

// exec runs a statement that is not prepared. Nothing on the hot paths is
// cancelled half way: others wait for the same transaction.
func (c *hotConn) exec(query string) error {
	_, err := c.ExecContext(context.Background(), query, nil)
	return err
}

// rowsPerStatement are the numbers of rows that one statement takes, the largest
// first; more than 64 gain nothing.
var rowsPerStatement = [...]int{64, 8, 1}

// shape is the text of a statement about many rows: head, a group of params
// placeholders for each row, tail.
type shape struct {
	head   string
	params int
	tail   string
	// numbered puts the row's number, from 0, first in its group.
	numbered bool
	// single says that the statement has no groups: its head is all of it.
	single bool
}

func (s *shape) text(rows int) string {
	if s.single {
		return s.head
	}
	var b strings.Builder
	b.WriteString(s.head)
	group := strings.Repeat(",?", s.params)[1:]
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		if s.numbered {
			fmt.Fprintf(&b, "(%d,%s)", i, group)
		} else {
			fmt.Fprintf(&b, "(%s)", group)
		}
	}
	b.WriteString(s.tail)
	return b.String()
}

// bulk is a shape prepared for each number of rows that was needed.
type bulk struct {
	conn     *hotConn
	shape    *shape
	prepared [len(rowsPerStatement)]statement
	row      []driver.Value
}

func (b *bulk) close() error {
	var errs []error
	for i := range b.prepared {
		if b.prepared[i].stmt != nil {
			errs = append(errs, b.prepared[i].stmt.Close())
		}
	}
	return errors.Join(errs...)
}

// take returns the statement for the most of n rows, and how many it takes.
func (b *bulk) take(n int) (*statement, int, error) {
	k := len(rowsPerStatement) - 1
	if !b.shape.single {
		k = slices.IndexFunc(rowsPerStatement[:], func(rows int) bool { return rows <= n })
	}
	s, rows := &b.prepared[k], rowsPerStatement[k]
	if s.stmt == nil {
		stmt, err := b.conn.Prepare(b.shape.text(rows))
		if err != nil {
			return nil, 0, fmt.Errorf("prepare %.60q: %w", b.shape.head, err)
		}
		*s = statement{stmt: stmt, args: make([]driver.NamedValue, rows*b.shape.params)}
		for i := range s.args {
			s.args[i].Ordinal = i + 1
		}
	}
	return s, rows, nil
}

// write runs a statement that changes rows, for n of them; fill sets the
// arguments of row i. It returns how many rows of the database changed.
func (b *bulk) write(n int, fill func(i int, args []driver.NamedValue)) (changed int64, err error) {
	for begin := 0; begin < n; {
		s, rows, err := b.take(n - begin)
		if err != nil {
			return changed, err
		}
		for i := range rows {
			fill(begin+i, s.args[i*b.shape.params:(i+1)*b.shape.params])
		}
		b.conn.wrote = true
		r, err := s.stmt.(driver.StmtExecContext).ExecContext(context.Background(), s.args)
		if err != nil {
			return changed, err
		}
		more, err := r.RowsAffected()
		if err != nil {
			return changed, err
		}
		changed += more
		begin += rows
	}
	return changed, nil
}

// read runs a query for n rows of keys and hands over what it finds. A numbered
// shape must return the number first; each gets it as the index of the key. The
// values are good until the next call.
func (b *bulk) read(n int, fill func(i int, args []driver.NamedValue), each func(i int, row []driver.Value) error) error {
	for begin := 0; begin < n; {
		s, rows, err := b.take(n - begin)
		if err != nil {
			return err
		}
		for i := range rows {
			fill(begin+i, s.args[i*b.shape.params:(i+1)*b.shape.params])
		}
		if err := b.collect(s, begin, each); err != nil {
			return err
		}
		begin += rows
	}
	return nil
}

func (b *bulk) collect(s *statement, begin int, each func(i int, row []driver.Value) error) (err error) {
	found, err := s.stmt.(driver.StmtQueryContext).QueryContext(context.Background(), s.args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	if b.row == nil {
		b.row = make([]driver.Value, len(found.Columns()))
	}
	for {
		switch err := found.Next(b.row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		i, row := begin, b.row
		if b.shape.numbered {
			n, _ := row[0].(int64)
			i, row = begin+int(n), row[1:]
		}
		if err := each(i, row); err != nil {
			return err
		}
	}
}
