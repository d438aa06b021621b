package sqlite

import (
	"context"
	stdsql "database/sql"
	"log/slog"

	"millrace/internal/order"
	"millrace/internal/outbox"
)

// orders is the order.Store over millrace.db.
//
// Everything that writes runs on the one connection that writes, in whole batches
// with multi-row statements, and without database/sql in between, see hotConn.
// Whoever has that connection is alone with the tables, so what it reads before it
// writes is locked. Reads for callers use the pool of reading connections.
type orders struct {
	write, read *stdsql.DB
	outbox      *outboxRows
	logger      *slog.Logger
	faults      faults
	wal         walBound // guarded by having the write connection
}

var _ order.Store = (*orders)(nil)

// openOrders makes the stores of orders and of the outbox.
func openOrders(ctx context.Context, write, read *stdsql.DB, path string, logger *slog.Logger) (*orders, error) {
	x, err := openOutbox(ctx, read)
	if err != nil {
		return nil, err
	}
	o := &orders{write: write, read: read, outbox: x, logger: logger, wal: walBound{path: path + "-wal", limit: walLimitBytes}}
	x.orders = o
	return o, nil
}

// Orders returns the store of orders.
func (db *DB) Orders() order.Store { return db.orders }

// Outbox returns the store of what transactions left to be told.
func (db *DB) Outbox() outbox.Store { return db.orders.outbox }
