package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"millrace/internal/event"
)

// book is a table of claims and the rows that are held to it.
type book struct {
	table string
	days  int // for how many days a claim holds, the batch's own included
	own   bool
}

// booksOf returns the books a batch is held to. own says whether it has rows that
// are exact by themselves.
func booksOf(b *event.Batch, own bool) []book {
	var books []book
	if b.Exact {
		books = append(books, book{table: "claims", days: b.ExactDays})
	}
	if own {
		books = append(books, book{table: "own_claims", days: event.OwnExactDays, own: true})
	}
	return books
}

// isOwn says whether the book is of the rows that are exact by themselves.
func (k book) isOwn() bool { return k.own }

// holds says whether a row is held to the book.
func (k book) holds(r *event.Row) bool { return r.Exact == k.own }

// claim inserts the hashes of the rows of a book and returns the rows without
// those of them whose hash was not new. They go in by order of hash, which is the
// order of the tree.
func (w *writer) claim(ctx context.Context, k book, rows []event.Row) ([]event.Row, error) {
	many, one := &w.claimMany, &w.claimOne
	if k.own {
		many, one = &w.claimOwnMany, &w.claimOwnOne
	}
	hashes := k.distinct(rows)
	fresh := make(map[event.Hash]bool, len(hashes))
	for len(hashes) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, s := 1, one
		if len(hashes) >= rowsPerInsert {
			n, s = rowsPerInsert, many
		}
		for i := range n {
			s.args[i].Value = hashes[i][:]
		}
		if err := s.hashes(fresh); err != nil {
			return nil, err
		}
		hashes = hashes[n:]
	}
	return k.keepFirst(rows, fresh), nil
}

// hashes runs a statement that answers hashes and collects them.
func (s *statement) hashes(into map[event.Hash]bool) error {
	rows, err := s.stmt.(driver.StmtQueryContext).QueryContext(context.Background(), s.args)
	if err != nil {
		return err
	}
	value := make([]driver.Value, 1)
	for {
		if err := rows.Next(value); err == io.EOF {
			return rows.Close()
		} else if err != nil {
			return errors.Join(err, rows.Close())
		}
		h, ok := value[0].([]byte)
		if !ok || len(h) != hashBytes {
			return errors.Join(fmt.Errorf("a claim of %d bytes; the file is damaged", len(h)), rows.Close())
		}
		into[event.Hash(h)] = true
	}
}

// distinct returns the hashes of the book's rows in ascending order, each once.
func (k book) distinct(rows []event.Row) []event.Hash {
	var hashes []event.Hash
	if !k.own {
		hashes = make([]event.Hash, 0, len(rows)) // most often all of them
	}
	for i := range rows {
		if k.holds(&rows[i]) {
			hashes = append(hashes, rows[i].Hash)
		}
	}
	slices.SortFunc(hashes, func(a, b event.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(hashes)
}

// keepFirst returns the first row of each hash in fresh, and the rows that are not
// the book's, in order.
func (k book) keepFirst(rows []event.Row, fresh map[event.Hash]bool) []event.Row {
	return k.keep(rows, func(h event.Hash) bool {
		first := fresh[h]
		delete(fresh, h)
		return first
	})
}

// keep returns the book's rows whose hash is wanted, and all that are not the
// book's, in order. Most often that is all of them, and nothing is copied.
func (k book) keep(rows []event.Row, wanted func(event.Hash) bool) []event.Row {
	var kept []event.Row
	for i := range rows {
		stays := !k.holds(&rows[i]) || wanted(rows[i].Hash)
		switch {
		case kept != nil && stays:
			kept = append(kept, rows[i])
		case kept == nil && !stays:
			kept = append(make([]event.Row, 0, len(rows)), rows[:i]...)
		}
	}
	if kept == nil {
		return rows
	}
	return kept
}

// unclaimedBefore returns the rows without those of the book that another day
// within the book's days, or a later one, has claimed.
func (e *events) unclaimedBefore(ctx context.Context, d day, k book, rows []event.Row) ([]event.Row, error) {
	if len(rows) == 0 {
		return rows, nil
	}
	views, err := e.files.snapshot()
	if err != nil {
		return nil, err
	}
	claimed := map[event.Hash]bool{}
	for _, v := range views {
		if !k.reaches(v, d) {
			continue
		}
		if err := e.claimedIn(ctx, v.file, k, rows, claimed); err != nil && !errors.Is(err, errDropped) {
			return nil, fmt.Errorf("look for duplicates in %s: %w", v.file.path, err)
		}
	}
	if len(claimed) == 0 {
		return rows, nil
	}
	return k.keep(rows, func(h event.Hash) bool { return !claimed[h] }), nil
}

// reaches says whether the claims of a file count for a batch of day d; those of
// the day itself are met on inserting.
func (k book) reaches(v view, d day) bool {
	if k.own && !v.hasOwn {
		return false
	}
	return v.file.day != d && int(d)-int(v.file.day) < k.days
}

// claimedIn adds to found the hashes of the book's rows that a file has claimed.
func (e *events) claimedIn(ctx context.Context, file *dayFile, k book, rows []event.Row, found map[event.Hash]bool) error {
	db, err := e.files.acquire(file)
	if err != nil {
		return err
	}
	defer e.files.release(file)
	const perQuery = 100
	query, err := db.PrepareContext(ctx, `SELECT hash FROM `+k.table+` WHERE hash IN (?`+strings.Repeat(",?", perQuery-1)+`)`)
	if err != nil {
		return err
	}
	defer query.Close()
	args := make([]any, perQuery)
	hashes := k.distinct(rows)
	for len(hashes) > 0 {
		n := min(len(hashes), perQuery)
		for i := range args {
			args[i] = hashes[min(i, n-1)][:] // the last one again where there are no more
		}
		answer, err := query.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		for answer.Next() {
			var h []byte
			if err := answer.Scan(&h); err != nil {
				answer.Close()
				return err
			}
			found[event.Hash(h)] = true
		}
		if err := errors.Join(answer.Err(), answer.Close()); err != nil {
			return err
		}
		hashes = hashes[n:]
	}
	return nil
}
