package sql

import (
	"context"
	stdsql "database/sql"
	"errors"
	"strconv"
	"strings"
)

// rowsPerStatement is how many rows one multi-row statement writes or reads. It
// keeps the parameters well below what databases allow (32,766 in SQLite).
const rowsPerStatement = 128

// manyRows is a statement over any number of rows of parameters. The rows stand
// between its head and its tail.
type manyRows struct {
	head, tail string
	width      int // columns of a row
	// number is the column, from 1, that is a number although nothing in the
	// statement says so; 0 if there is none.
	number int
}

// text returns the statement for n rows: head ($1, $2), ($3, $4), … tail.
func (m manyRows) text(n int) string {
	var b strings.Builder
	b.WriteString(m.head)
	for i := range n * m.width {
		switch {
		case i == 0:
			b.WriteByte('(')
		case i%m.width == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		parameter := "$" + strconv.Itoa(i+1)
		if i%m.width+1 == m.number {
			parameter = "CAST(" + parameter + " AS BIGINT)"
		}
		b.WriteString(parameter)
	}
	b.WriteByte(')')
	b.WriteString(m.tail)
	return b.String()
}

// rows returns how many rows args are of.
func (m manyRows) rows(args []any) int { return len(args) / m.width }

// prepared keeps the full-sized form of statements that one transaction runs
// many times; the rest of a batch runs unprepared.
type prepared struct {
	tx    *stdsql.Tx
	stmts map[string]*stdsql.Stmt
}

func prepareIn(tx *stdsql.Tx) *prepared { return &prepared{tx: tx, stmts: map[string]*stdsql.Stmt{}} }

func (p *prepared) close() {
	for _, s := range p.stmts {
		s.Close()
	}
}

// full returns the prepared statement for args if they are a full chunk, else nil.
func (p *prepared) full(ctx context.Context, m manyRows, args []any) (*stdsql.Stmt, error) {
	if m.rows(args) != rowsPerStatement {
		return nil, nil
	}
	if s := p.stmts[m.head]; s != nil {
		return s, nil
	}
	s, err := p.tx.PrepareContext(ctx, m.text(rowsPerStatement))
	if err == nil {
		p.stmts[m.head] = s
	}
	return s, err
}

// exec runs m once for args, whole rows of it, and says how many rows of the
// database it changed.
func (p *prepared) exec(ctx context.Context, m manyRows, args []any) (int, error) {
	if len(args) == 0 {
		return 0, nil
	}
	stmt, err := p.full(ctx, m, args)
	if err != nil {
		return 0, err
	}
	var r stdsql.Result
	if stmt != nil {
		r, err = stmt.ExecContext(ctx, args...)
	} else {
		r, err = p.tx.ExecContext(ctx, m.text(m.rows(args)), args...)
	}
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// each runs m once for args and calls scan for each row of the answer.
func (p *prepared) each(ctx context.Context, m manyRows, args []any, scan func(row interface{ Scan(...any) error }) error) error {
	stmt, err := p.full(ctx, m, args)
	if err != nil {
		return err
	}
	var rows *stdsql.Rows
	if stmt != nil {
		rows, err = stmt.QueryContext(ctx, args...)
	} else {
		rows, err = p.tx.QueryContext(ctx, m.text(m.rows(args)), args...)
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// errRaced says that another transaction changed what this one had read. It
// leaves the store only as the cause of another error.
var errRaced = errors.New("the rows were changed by others meanwhile")

// maxRaces bounds how often a transaction that others overtook is run again. A
// database with one writer, such as SQLite, never needs a second run.
const maxRaces = 10

// transact runs do in a transaction and commits it. do must be safe to run again.
func transact(ctx context.Context, db *stdsql.DB, do func(tx *stdsql.Tx) error) error {
	for tries := 1; ; tries++ {
		err := transactOnce(ctx, db, do)
		if !errors.Is(err, errRaced) || tries == maxRaces {
			return err
		}
	}
}

func transactOnce(ctx context.Context, db *stdsql.DB, do func(tx *stdsql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}
