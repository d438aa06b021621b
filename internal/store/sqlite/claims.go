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

// claim inserts the hashes of the rows and returns the rows whose hash was new.
// They go in by order of hash, which is the order of the tree.
func (w *writer) claim(ctx context.Context, rows []event.Row) ([]event.Row, error) {
	hashes := distinct(rows)
	fresh := make(map[event.Hash]bool, len(hashes))
	for len(hashes) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, s := 1, &w.claimOne
		if len(hashes) >= rowsPerInsert {
			n, s = rowsPerInsert, &w.claimMany
		}
		for i := range n {
			s.args[i].Value = hashes[i][:]
		}
		if err := s.hashes(fresh); err != nil {
			return nil, err
		}
		hashes = hashes[n:]
	}
	return keepFirst(rows, fresh), nil
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

// distinct returns the hashes of the rows in ascending order, each once.
func distinct(rows []event.Row) []event.Hash {
	hashes := make([]event.Hash, len(rows))
	for i := range rows {
		hashes[i] = rows[i].Hash
	}
	slices.SortFunc(hashes, func(a, b event.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(hashes)
}

// keepFirst returns the first row of each hash in fresh, in order.
func keepFirst(rows []event.Row, fresh map[event.Hash]bool) []event.Row {
	kept := make([]event.Row, 0, len(fresh))
	for i := range rows {
		if h := rows[i].Hash; fresh[h] {
			delete(fresh, h)
			kept = append(kept, rows[i])
		}
	}
	return kept
}

// unclaimedBefore returns the rows that the exactDays-1 days before d have not
// claimed.
func (e *events) unclaimedBefore(ctx context.Context, d day, exactDays int, rows []event.Row) ([]event.Row, error) {
	if len(rows) == 0 {
		return rows, nil
	}
	views, err := e.files.snapshot()
	if err != nil {
		return nil, err
	}
	claimed := map[event.Hash]bool{}
	for _, v := range views {
		if v.file.day >= d || int(d)-int(v.file.day) >= exactDays {
			continue
		}
		if err := e.claimedIn(ctx, v.file, rows, claimed); err != nil && !errors.Is(err, errDropped) {
			return nil, fmt.Errorf("look for duplicates in %s: %w", v.file.path, err)
		}
	}
	if len(claimed) == 0 {
		return rows, nil
	}
	kept := make([]event.Row, 0, len(rows))
	for i := range rows {
		if !claimed[rows[i].Hash] {
			kept = append(kept, rows[i])
		}
	}
	return kept, nil
}

// claimedIn adds to found the hashes of the rows that a file has claimed.
func (e *events) claimedIn(ctx context.Context, file *dayFile, rows []event.Row, found map[event.Hash]bool) error {
	db, err := e.files.acquire(file)
	if err != nil {
		return err
	}
	defer e.files.release(file)
	const perQuery = 100
	query, err := db.PrepareContext(ctx, `SELECT hash FROM claims WHERE hash IN (?`+strings.Repeat(",?", perQuery-1)+`)`)
	if err != nil {
		return err
	}
	defer query.Close()
	args := make([]any, perQuery)
	hashes := distinct(rows)
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
