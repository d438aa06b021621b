package sql

import (
	"context"
	stdsql "database/sql"
	"fmt"
)

const (
	// loadPageRows is the most rows of a page of a feed, and loadPageBytes roughly the
	// most text: a page ends with the row that reaches it.
	loadPageRows  = 4000
	loadPageBytes = 8 << 20
	// loadPagesAhead is how many pages are read before the first of them is taken.
	loadPagesAhead = 2
)

// rowFeed reads a table by its primary key. Row is a row as it is read, Rec a record
// that was made of it.
type rowFeed[Row, Rec any] struct {
	// load is the statement of a page: the rows after a key, in its order; its last
	// parameter is how many.
	load string
	// key returns the parameters of the page that follows a row, or of the first.
	key func(last *Row) []any
	// scan reads a row and says how many bytes of text it has.
	scan func(row interface{ Scan(...any) error }, to *Row) (int, error)
	// decoder returns a function that makes records, one after the other.
	decoder func() func(*Row) (Rec, error)
}

// all calls each with all records of the table, page by page. The pages are read
// ahead in a goroutine of its own, which ends before all returns, and decoded in the
// caller's.
func (f *rowFeed[Row, Rec]) all(ctx context.Context, db *stdsql.DB, each func([]Rec) error) error {
	ctx, cancel := context.WithCancel(ctx)
	pages := make(chan []Row, loadPagesAhead)
	var failed error
	go func() {
		defer close(pages)
		failed = f.pages(ctx, db, pages)
	}()
	defer func() { // whatever each does
		cancel()
		for range pages { // until the other has ended
		}
	}()
	if err := f.decode(pages, each); err != nil {
		return err
	}
	return failed // of before pages was closed
}

// pages sends the pages of the table.
func (f *rowFeed[Row, Rec]) pages(ctx context.Context, db *stdsql.DB, to chan<- []Row) error {
	var last *Row
	for limit := loadPageRows; ; {
		page, err := f.page(ctx, db, last, limit)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		select {
		case to <- page:
		case <-ctx.Done():
			return ctx.Err()
		}
		last = &page[len(page)-1]
		// Of rows that are large no more are asked for than will be taken.
		limit = min(2*len(page), loadPageRows)
	}
}

// page reads the rows that follow one.
func (f *rowFeed[Row, Rec]) page(ctx context.Context, db *stdsql.DB, last *Row, limit int) ([]Row, error) {
	rows, err := db.QueryContext(ctx, f.load, append(f.key(last), limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]Row, 0, limit)
	for bytes := 0; bytes < loadPageBytes && rows.Next(); {
		page = append(page, *new(Row))
		n, err := f.scan(rows, &page[len(page)-1])
		if err != nil {
			return nil, err
		}
		bytes += n
	}
	return page, rows.Err()
}

func (f *rowFeed[Row, Rec]) decode(pages <-chan []Row, each func([]Rec) error) error {
	decode := f.decoder()
	for page := range pages {
		records, err := decodeRows(page, decode)
		if err != nil {
			return err
		}
		if err := each(records); err != nil {
			return err
		}
	}
	return nil
}

func decodeRows[Row, Rec any](rows []Row, decode func(*Row) (Rec, error)) ([]Rec, error) {
	records := make([]Rec, len(rows))
	for i := range rows {
		var err error
		if records[i], err = decode(&rows[i]); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// changes returns the records that a query finds for a scope: those with a change
// after one, at least limit of them if there are as many, and no change cut in two.
func (f *rowFeed[Row, Rec]) changes(ctx context.Context, db *stdsql.DB, query, scope string, after int64, limit int) ([]Rec, error) {
	if limit < 1 {
		return nil, fmt.Errorf("the limit is %d; ask for at least 1", limit)
	}
	rows, err := db.QueryContext(ctx, query, scope, after, limit-1)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	decode := f.decoder()
	var records []Rec
	for rows.Next() {
		var row Row
		if _, err := f.scan(rows, &row); err != nil {
			return nil, err
		}
		record, err := decode(&row)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, rows.Err()
}
