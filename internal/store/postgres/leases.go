package postgres

import (
	"millrace/internal/lease"
	storesql "millrace/internal/store/sql"
)

// Leases returns the store of leases.
func (db *DB) Leases() lease.Store { return storesql.NewLeases(db.owner) }
