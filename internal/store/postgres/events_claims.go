package postgres

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/jackc/pgx/v5"

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
		books = append(books, book{table: "event_claims", days: b.ExactDays})
	}
	if own {
		books = append(books, book{table: "event_own_claims", days: event.OwnExactDays, own: true})
	}
	return books
}

// holds says whether a row is held to the book.
func (k book) holds(r *event.Row) bool { return r.Exact == k.own }

// claim is one row's, of its tenant.
type claim struct {
	tenant string
	hash   event.Hash
}

// queue claims the hashes of the book's rows. Of several transactions that claim
// one hash at once, also for different days, one gets it: the others wait for its
// end. All claim in the same order, so none waits for another in a circle. A row of
// an older day than its claim, as of a log that is behind, is a repetition: the claim
// does not tell whether that day had it too.
func (k book) queue(pipe *pgx.Batch, d day, rows []event.Row) {
	claims := k.distinct(rows)
	tenants, hashes := make([]string, len(claims)), make([][16]byte, len(claims))
	for i := range claims {
		tenants[i], hashes[i] = claims[i].tenant, claims[i].hash
	}
	pipe.Queue(`INSERT INTO `+k.table+` AS c (tenant_id, hash, day, until_day)
SELECT t.tenant_id, t.hash, $1, $2 FROM unnest($3::text[], $4::uuid[]) AS t (tenant_id, hash)
ON CONFLICT (tenant_id, hash) DO UPDATE SET day = excluded.day, until_day = greatest(c.until_day, excluded.until_day)
WHERE excluded.day - c.day >= $5 RETURNING hash`,
		int64(d), int64(d)+int64(k.days)-1, tenants, hashes, int64(k.days))
}

// claimed reads the hashes that a claim has won.
func claimed(results pgx.BatchResults) (map[event.Hash]bool, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	fresh := map[event.Hash]bool{}
	var h [16]byte
	_, err = pgx.ForEachRow(rows, []any{&h}, func() error {
		fresh[h] = true
		return nil
	})
	return fresh, err
}

// distinct returns the claims of the book's rows in ascending order, each once.
func (k book) distinct(rows []event.Row) []claim {
	var claims []claim
	if !k.own {
		claims = make([]claim, 0, len(rows)) // most often all of them
	}
	for i := range rows {
		if k.holds(&rows[i]) {
			claims = append(claims, claim{rows[i].TenantID, rows[i].Hash})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), bytes.Compare(a.hash[:], b.hash[:]))
	})
	return slices.Compact(claims)
}

// keepFirst returns the first row of each hash in fresh, and the rows that are not
// the book's, in order. Most often that is all of them, and nothing is copied.
func (k book) keepFirst(rows []event.Row, fresh map[event.Hash]bool) []event.Row {
	var kept []event.Row
	for i := range rows {
		r := &rows[i]
		stays := !k.holds(r) || fresh[r.Hash]
		if k.holds(r) {
			delete(fresh, r.Hash)
		}
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
