package sql

import (
	"context"
	stdsql "database/sql"
	"time"

	"millrace/internal/lease"
)

// The statements of leases. They belong to no tenant: tenant_id is empty.
const (
	// acquireLease takes a lease that is new, expired, given back or the holder's own.
	// It changes and returns no row if another has it.
	acquireLease = `INSERT INTO leases (tenant_id, name, holder, token, expires_ns)
VALUES ('', $1, $2, 1, $3)
ON CONFLICT (tenant_id, name) DO UPDATE SET
  token = CASE WHEN leases.holder = excluded.holder THEN leases.token ELSE leases.token + 1 END,
  holder = excluded.holder, expires_ns = excluded.expires_ns
WHERE leases.holder = excluded.holder OR leases.holder = '' OR leases.expires_ns <= $4
RETURNING holder, token, expires_ns`

	getLease = `SELECT holder, token, expires_ns FROM leases WHERE tenant_id = '' AND name = $1`

	// releaseLease keeps the row, and with it the token.
	releaseLease = `UPDATE leases SET holder = '', expires_ns = 0
WHERE tenant_id = '' AND name = $1 AND holder = $2`

	// listLeases reads the names from a prefix on, up to the first that no longer has
	// it.
	listLeases = `SELECT name, holder, token, expires_ns FROM leases
WHERE tenant_id = '' AND name >= $1 AND substr(name, 1, $2) = $1 AND holder <> '' AND expires_ns > $3
ORDER BY name`
)

// Leases is the lease.Store of a SQL database.
type Leases struct{ write *stdsql.DB }

var _ lease.Store = (*Leases)(nil)

// NewLeases returns the leases of a database. They are read where they are
// written: a replica may be behind.
func NewLeases(write *stdsql.DB) *Leases { return &Leases{write: write} }

// Acquire takes or prolongs a lease. See lease.Store.
func (s *Leases) Acquire(ctx context.Context, name, holder string, now time.Time, ttl time.Duration) (lease.Lease, bool, error) {
	if err := lease.Check(name, holder, ttl); err != nil {
		return lease.Lease{}, false, err
	}
	l, err := scanLease(name, s.write.QueryRowContext(ctx, acquireLease, name, holder, nanos(now.Add(ttl)), nanos(now)))
	if noRows(err) {
		l, err = scanLease(name, s.write.QueryRowContext(ctx, getLease, name))
		return l, false, in("read the lease "+name, err)
	}
	return l, err == nil, in("acquire the lease "+name, err)
}

// Release gives a lease back. See lease.Store.
func (s *Leases) Release(ctx context.Context, name, holder string) error {
	_, err := s.write.ExecContext(ctx, releaseLease, name, holder)
	return in("release the lease "+name, err)
}

// Leases lists the leases of a prefix. See lease.Store.
func (s *Leases) Leases(ctx context.Context, prefix string, now time.Time) ([]lease.Lease, error) {
	rows, err := s.write.QueryContext(ctx, listLeases, prefix, len([]rune(prefix)), nanos(now))
	if err != nil {
		return nil, in("list leases", err)
	}
	defer rows.Close()
	var list []lease.Lease
	for rows.Next() {
		var l lease.Lease
		var expires int64
		if err := rows.Scan(&l.Name, &l.Holder, &l.Token, &expires); err != nil {
			return nil, in("list leases", err)
		}
		l.ExpiresAt = timeOf(expires)
		list = append(list, l)
	}
	return list, in("list leases", rows.Err())
}

func scanLease(name string, row *stdsql.Row) (lease.Lease, error) {
	l := lease.Lease{Name: name}
	var expires int64
	if err := row.Scan(&l.Holder, &l.Token, &expires); err != nil {
		return lease.Lease{}, err
	}
	l.ExpiresAt = timeOf(expires)
	return l, nil
}
