package sql

import (
	"context"
	stdsql "database/sql"
	"io"
	"slices"
	"strconv"
	"strings"
)

// rowsPerChunk is how many rows a batch reads before it writes them.
const rowsPerChunk = 128

// manyRows is a statement over any number of rows of parameters. The rows stand
// between its head and its tail.
type manyRows struct {
	head, tail string
	width      int // columns of a row
	// numbers are the columns, from 1, that are numbers although nothing in the
	// statement says so.
	numbers []int
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
		if slices.Contains(m.numbers, i%m.width+1) {
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

// statement is a statement of a transaction that runs many times.
type statement interface {
	ExecContext(ctx context.Context, args ...any) (stdsql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*stdsql.Rows, error)
}

// prepared keeps the statements that one transaction runs many times.
type prepared struct {
	tx    transaction
	stmts map[string]statement // by text
}

func prepareIn(tx transaction) *prepared { return &prepared{tx: tx, stmts: map[string]statement{}} }

func (p *prepared) close() {
	for _, s := range p.stmts {
		if c, ok := s.(io.Closer); ok {
			c.Close()
		}
	}
}

// stmt returns the statement of a text.
func (p *prepared) stmt(ctx context.Context, text string) (statement, error) {
	if s := p.stmts[text]; s != nil {
		return s, nil
	}
	if p.tx.dialect.keepsStatements() {
		s := unprepared{p.tx.Tx, text}
		p.stmts[text] = s
		return s, nil
	}
	s, err := p.tx.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	p.stmts[text] = s
	return s, nil
}

// unprepared leaves it to the driver to prepare a statement, which then keeps it for
// longer than a transaction.
type unprepared struct {
	tx   *stdsql.Tx
	text string
}

func (s unprepared) ExecContext(ctx context.Context, args ...any) (stdsql.Result, error) {
	return s.tx.ExecContext(ctx, s.text, args...)
}

func (s unprepared) QueryContext(ctx context.Context, args ...any) (*stdsql.Rows, error) {
	return s.tx.QueryContext(ctx, s.text, args...)
}

// exec writes whole rows of args and says how many rows of the database changed.
func (p *prepared) exec(ctx context.Context, m manyRows, args []any) (int, error) {
	changed := 0
	for piece := range slices.Chunk(args, p.tx.dialect.rowsPerWrite()*m.width) {
		stmt, err := p.stmt(ctx, m.text(m.rows(piece)))
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
	for piece := range slices.Chunk(args, p.tx.dialect.rowsPerRead()*m.width) {
		stmt, err := p.stmt(ctx, m.text(m.rows(piece)))
		if err != nil {
			return err
		}
		if err := scanAll(ctx, stmt, piece, scan); err != nil {
			return err
		}
	}
	return nil
}

func scanAll(ctx context.Context, stmt statement, args []any, scan func(row interface{ Scan(...any) error }) error) error {
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
