package sql

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// rowsPerChunk is how many rows a batch reads before it writes them.
const rowsPerChunk = 128

// How many rows one statement has. SQLite looks a parameter called $1 up by its
// name, so that the cost of a statement grows with the square of its parameters,
// and it keeps a journal for a statement that could fail between two rows.
const (
	rowsPerRead  = 16
	rowsPerWrite = 4
)

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

// prepared keeps the statements that one transaction runs many times.
type prepared struct {
	tx    *stdsql.Tx
	stmts map[string]*stdsql.Stmt // by text
}

func prepareIn(tx *stdsql.Tx) *prepared { return &prepared{tx: tx, stmts: map[string]*stdsql.Stmt{}} }

func (p *prepared) close() {
	for _, s := range p.stmts {
		s.Close()
	}
}

// stmt returns the statement for n rows.
func (p *prepared) stmt(ctx context.Context, m manyRows, n int) (*stdsql.Stmt, error) {
	text := m.text(n)
	if s := p.stmts[text]; s != nil {
		return s, nil
	}
	s, err := p.tx.PrepareContext(ctx, text)
	if err == nil {
		p.stmts[text] = s
	}
	return s, err
}

// exec writes whole rows of args and says how many rows of the database changed.
func (p *prepared) exec(ctx context.Context, m manyRows, args []any) (int, error) {
	changed := 0
	for piece := range slices.Chunk(args, rowsPerWrite*m.width) {
		stmt, err := p.stmt(ctx, m, m.rows(piece))
		if err != nil {
			return 0, err
		}
		r, err := stmt.ExecContext(ctx, piece...)
		if err != nil {
			return 0, err
		}
		n, err := r.RowsAffected()
		if err != nil {
			return 0, err
		}
		changed += int(n)
	}
	return changed, nil
}

// each reads by whole rows of args and calls scan for each row of the answers.
func (p *prepared) each(ctx context.Context, m manyRows, args []any, scan func(row interface{ Scan(...any) error }) error) error {
	for piece := range slices.Chunk(args, rowsPerRead*m.width) {
		stmt, err := p.stmt(ctx, m, m.rows(piece))
		if err != nil {
			return err
		}
		if err := scanAll(ctx, stmt, piece, scan); err != nil {
			return err
		}
	}
	return nil
}

func scanAll(ctx context.Context, stmt *stdsql.Stmt, args []any, scan func(row interface{ Scan(...any) error }) error) error {
	rows, err := stmt.QueryContext(ctx, args...)
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
	if err = do(tx); err == nil {
		err = tx.Commit()
	}
	if errors.Is(err, stdsql.ErrTxDone) && ctx.Err() != nil {
		// It was rolled back for that, which ErrTxDone does not say.
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}
