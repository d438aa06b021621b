package sql

import (
	"context"
	stdsql "database/sql"
	"fmt"
)

const (
	// loadPageRows is the most rows of a page of a load, and pageBytes roughly the most
	// text of any page: a load's ends with the row that reaches it, one of changes with
	// the change.
	loadPageRows = 4000
	pageBytes    = 8 << 20
	// loadPagesAhead is how many pages are read before the first of them is taken.
	loadPagesAhead = 2
)

// changesOf returns the statement that reads what has changed in a table. It is one, so
// that it is one view. First it finds the change with which the page is full, by rows or
// by bytes, whose sizes are known without reading the texts; what else is of that change
// is read too. The last column says whether there is more. All versions are above 0: that
// is said for an index.
func changesOf(table, columns, size string) string {
	newer := ` FROM ` + table + ` WHERE tenant_id = $1 AND version > 0 AND change > `
	return `WITH sized AS (SELECT change, ` + size + ` AS size` + newer + `$2 ORDER BY change LIMIT $3),
summed AS (SELECT change, count(*) OVER upto AS entries, sum(size) OVER upto AS bytes FROM sized WINDOW upto AS (ORDER BY change)),
page AS (SELECT min(change) AS last FROM summed WHERE entries >= $3 OR bytes >= $4)
SELECT ` + columns + `, CASE WHEN (SELECT change` + newer + `(SELECT last FROM page) ORDER BY change LIMIT 1) IS NULL THEN 0 ELSE 1 END` + newer + `$2
AND change <= coalesce((SELECT last FROM page), 9223372036854775807) ORDER BY change`
}

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
	decoder func() func(*Row) Rec
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
	for bytes := 0; bytes < pageBytes && rows.Next(); {
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
		records := make([]Rec, len(page))
		for i := range page {
			records[i] = decode(&page[i])
		}
		if err := each(records); err != nil {
			return err
		}
	}
	return nil
}

// changes returns the records that a query finds for a scope: those with a change
// after one, until with a whole change there are limit of them or pageBytes of text,
// and whether there are more.
func (f *rowFeed[Row, Rec]) changes(ctx context.Context, db *stdsql.DB, query, scope string, after int64, limit int) (records []Rec, more bool, err error) {
	if limit < 1 {
		return nil, false, fmt.Errorf("the limit is %d; ask for at least 1", limit)
	}
	rows, err := db.QueryContext(ctx, query, scope, after, limit, pageBytes)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	decode := f.decoder()
	var rest int64 // the same of all rows
	for rows.Next() {
		var row Row
		if _, err := f.scan(withColumn{rows, &rest}, &row); err != nil {
			return nil, false, err
		}
		records = append(records, decode(&row))
	}
	return records, rest != 0, rows.Err()
}

// withColumn is a row that has one more column than is asked for.
type withColumn struct {
	row  interface{ Scan(...any) error }
	last *int64
}

func (w withColumn) Scan(dest ...any) error { return w.row.Scan(append(dest, w.last)...) }
