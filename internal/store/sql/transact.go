package sql

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
)

// errRaced says that another transaction changed what this one had read. It
// leaves the store only as the cause of another error.
var errRaced = errors.New("the rows were changed by others meanwhile")

// maxRaces bounds how often a transaction that others overtook is run again. A
// database with one writer, such as SQLite, never needs a second run.
const maxRaces = 10

// transaction is one transaction of a database.
type transaction struct {
	*stdsql.Tx
	dialect Dialect
}

// transact runs do in a transaction and commits it. do must be safe to run again.
func transact(ctx context.Context, on Pools, do func(tx transaction) error) error {
	for tries := 1; ; tries++ {
		err := transactOnce(ctx, on, do)
		if err == nil || !lost(err) || tries == maxRaces || ctx.Err() != nil {
			return err
		}
	}
}

// lost says whether a transaction lost against another, so that the whole of it may
// be run again.
func lost(err error) bool {
	switch state := sqlState(err); state {
	case serializationFailure, deadlockDetected:
		return true
	}
	return errors.Is(err, errRaced)
}

// SQLSTATEs of databases that have them.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)

// sqlState returns the SQLSTATE of an error, empty if it has none.
func sqlState(err error) string {
	var e interface {
		error
		SQLState() string
	}
	if !errors.As(err, &e) {
		return ""
	}
	return e.SQLState()
}

func transactOnce(ctx context.Context, on Pools, do func(tx transaction) error) error {
	tx, err := on.Write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if err = do(transaction{tx, on.Dialect}); err == nil {
		err = tx.Commit()
	}
	if errors.Is(err, stdsql.ErrTxDone) && ctx.Err() != nil {
		// It was rolled back for that, which ErrTxDone does not say.
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}
