package sql

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"runtime"
	"testing"
)

// ledger is a database that does nothing but count its transactions.
type ledger struct{ begun, committed, rolledBack int }

func (l *ledger) Connect(context.Context) (driver.Conn, error) { return ledgerConn{l}, nil }
func (l *ledger) Driver() driver.Driver                        { return nil }

type ledgerConn struct{ *ledger }

func (ledgerConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (ledgerConn) Close() error                        { return nil }
func (c ledgerConn) Begin() (driver.Tx, error)         { c.begun++; return c, nil }
func (c ledgerConn) Commit() error                     { c.committed++; return nil }
func (c ledgerConn) Rollback() error                   { c.rolledBack++; return nil }

func TestATransactionThatOthersOvertookBeginsAgain(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		races int // before it ends
		end   error
		want  ledger
		err   error
	}{
		{"no race", 0, nil, ledger{begun: 1, committed: 1}, nil},
		{"two races", 2, nil, ledger{begun: 3, committed: 1, rolledBack: 2}, nil},
		{"an error after a race", 1, broken, ledger{begun: 2, rolledBack: 2}, broken},
		{"races without end", 1000, nil, ledger{begun: maxRaces, rolledBack: maxRaces}, errRaced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &ledger{}
			db := stdsql.OpenDB(l)
			defer db.Close()
			runs := 0
			err := transact(t.Context(), Pools{Write: db}, func(transaction) error {
				if runs++; runs <= tt.races {
					return in("write", errRaced)
				}
				return tt.end
			})
			if !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) || *l != tt.want {
				t.Errorf("error %v, %+v; want %v, %+v", err, *l, tt.err, tt.want)
			}
		})
	}
}

func TestATransactionThatEndedWithItsContextSaysSo(t *testing.T) {
	db := stdsql.OpenDB(&ledger{})
	defer db.Close()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	err := transact(ctx, Pools{Write: db}, func(tx transaction) error {
		end()
		for { // database/sql rolls it back by itself
			if _, err := tx.Prepare("x"); errors.Is(err, stdsql.ErrTxDone) {
				return in("write", err)
			}
			runtime.Gosched()
		}
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, stdsql.ErrTxDone) {
		t.Errorf("error %v, want one that says that the caller gave up", err)
	}
	// One that was ended by its own work is no matter of the caller.
	err = transact(t.Context(), Pools{Write: db}, func(tx transaction) error { return tx.Rollback() })
	if !errors.Is(err, stdsql.ErrTxDone) || errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want sql.ErrTxDone alone", err)
	}
}

func TestAManyRowStatementNumbersItsParametersInOrder(t *testing.T) {
	m := manyRows{head: "INSERT INTO t VALUES ", width: 3, numbers: []int{2}, tail: " ON CONFLICT DO NOTHING"}
	for n, want := range map[int]string{
		1: "INSERT INTO t VALUES ($1, CAST($2 AS BIGINT), $3) ON CONFLICT DO NOTHING",
		2: "INSERT INTO t VALUES ($1, CAST($2 AS BIGINT), $3), ($4, CAST($5 AS BIGINT), $6) ON CONFLICT DO NOTHING",
	} {
		if got := m.text(n); got != want {
			t.Errorf("for %d rows: %s, want %s", n, got, want)
		}
	}
}
