package sql

import stdsql "database/sql"

// Dialect is what the shared statements must know of the database they run on.
type Dialect int

const (
	// SQLite has one writer, and statements that are cheap to call and dear to parse.
	SQLite Dialect = iota
	// PostgreSQL has many writers, and every statement is a round trip to it.
	PostgreSQL
)

// Pools are the connections of a database. All may be the same, and they belong to
// the caller, who closes them.
type Pools struct {
	Dialect Dialect
	// Write is for all that changes rows.
	Write *stdsql.DB
	// Read is for single rows of a tenant, and Lists for pages of them. A read of either
	// says in its context whose it is (ForTenant).
	Read, Lists *stdsql.DB
	// AllRead and AllLists are for the same of no one tenant: by ids that say nothing of
	// their tenant, and counts of everything.
	AllRead, AllLists *stdsql.DB
}

// How many rows one statement has. SQLite looks a parameter called $1 up by its
// name, so that the cost of a statement grows with the square of its parameters,
// and it keeps a journal for a statement that could fail between two rows.
// PostgreSQL takes up to 65,535 parameters, and an answer costs more than a row.
func (d Dialect) rowsPerRead() int {
	if d == PostgreSQL {
		return 64
	}
	return 16
}

func (d Dialect) rowsPerWrite() int {
	if d == PostgreSQL {
		return 64
	}
	return 4
}

// keepsStatements says whether the driver prepares what it is given by itself and
// keeps it as long as the connection, so that to do it here would only cost.
func (d Dialect) keepsStatements() bool { return d == PostgreSQL }

// locksRows says whether there are several writers, so that rows that are read to
// be changed are locked, in order of tenant and SKU.
func (d Dialect) locksRows() bool { return d == PostgreSQL }

// forUpdate locks what a query reads, where that is needed.
func (d Dialect) forUpdate(query string) string {
	if d.locksRows() {
		return query + ` FOR UPDATE`
	}
	return query
}

// epoch is an expression that says which database answers. After a failover that lost
// commits, or a restored backup, versions are given again for other changes: on
// PostgreSQL such a database is on another timeline of the log, in another cluster or
// made anew in this one. It fails on a standby, which may not have what was written.
// A SQLite file is not replaced while it is open.
func (d Dialect) epoch() string {
	if d == PostgreSQL {
		return `(SELECT system_identifier FROM pg_control_system()) || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
|| '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)`
	}
	return `'file'`
}

// skipLocked has a query for work leave out what another takes at this moment.
func (d Dialect) skipLocked() string {
	if d.locksRows() {
		return ` FOR UPDATE SKIP LOCKED`
	}
	return ``
}
