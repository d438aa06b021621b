package postgres

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// sqlPool returns a pool of database/sql over the pools that pick answers with, one
// for each connection that is asked for; where that one has none to give, over
// otherwise, if it is not nil. It keeps no connection itself.
func sqlPool(pick func(ctx context.Context) *pgxpool.Pool, otherwise *pgxpool.Pool) *stdsql.DB {
	db := stdsql.OpenDB(connector{pick, otherwise})
	db.SetMaxIdleConns(0)
	return db
}

// connector lends connections of pools.
type connector struct {
	pick      func(ctx context.Context) *pgxpool.Pool
	otherwise *pgxpool.Pool
}

// Connect takes a connection out of a pool; closing it puts it back.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	pool := c.pick(ctx)
	conn, err := stdlib.GetPoolConnector(pool).Connect(ctx)
	if err != nil && c.otherwise != nil && pool != c.otherwise && ctx.Err() == nil {
		conn, err = stdlib.GetPoolConnector(c.otherwise).Connect(ctx)
	}
	if err != nil {
		return nil, asExpected(ctx, err)
	}
	return sqlConn{conn.(*stdlib.Conn)}, nil
}

// Driver implements driver.Connector.
func (connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// sqlConn is a connection whose errors are told as callers expect them.
type sqlConn struct{ *stdlib.Conn }

// PrepareContext implements driver.ConnPrepareContext.
func (c sqlConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.Conn.PrepareContext(ctx, query)
	return s, asExpected(ctx, err)
}

// BeginTx implements driver.ConnBeginTx.
func (c sqlConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.Conn.BeginTx(ctx, o)
	return tx, asExpected(ctx, err)
}

// ExecContext implements driver.ExecerContext.
func (c sqlConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	r, err := c.Conn.ExecContext(ctx, query, args)
	return r, asExpected(ctx, err)
}

// QueryContext implements driver.QueryerContext.
func (c sqlConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.Conn.QueryContext(ctx, query, args)
	return rows, asExpected(ctx, err)
}

// unavailableError is an error of a database that cannot be reached or goes down.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return "PostgreSQL is not available: " + e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// Unavailable says that asking again later may help.
func (e *unavailableError) Unavailable() bool { return true }

// asExpected returns err as callers of a store expect it: a statement that was cancelled
// because its context ended says that with the context's error, one that the server
// ended for its length with context.DeadlineExceeded, and one that failed with its
// connection has a method Unavailable. Apply it to reads and to what is not
// repeated; a nil err stays nil.
func asExpected(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, driver.ErrBadConn):
		return err
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case ctx.Err() != nil:
		return err
	case sqlState(err) == stateQueryCanceled:
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case unavailable(err):
		return &unavailableError{err}
	}
	return err
}
