package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"log/slog"

	"millrace/internal/coalesce"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

// orders is the order.Store over millrace.db.
//
// Everything that writes runs on the one connection that writes, in whole batches
// with multi-row statements, and without database/sql in between, see hotConn.
// Whoever has that connection is alone with the tables, so what it reads before it
// writes is locked. What several methods want to write at one moment shares one
// transaction, and so one sync of the disk, see orders_group.go. Reads of single
// orders and of the outbox use one pool of reading connections, lists another.
type orders struct {
	write, read, lists *stdsql.DB
	byID               *stdsql.Stmt // of read
	outbox             *outboxRows
	checkpoints        *checkpointer
	group              *coalesce.Caller[part, struct{}]
	metrics            *Metrics
	faults             faults
}

var _ order.Store = (*orders)(nil)

// openOrders makes the stores of orders and of the outbox, on the pools of db.
func openOrders(ctx context.Context, db *DB, path string, logger *slog.Logger, metrics *Metrics) (*orders, error) {
	x, err := openOutbox(ctx, db.read, db.lists)
	if err != nil {
		return nil, err
	}
	o := &orders{write: db.write, read: db.read, lists: db.lists, outbox: x, metrics: metrics}
	if o.byID, err = o.read.PrepareContext(ctx, orderByID); err != nil {
		return nil, fmt.Errorf("prepare to read orders: %w", err)
	}
	if o.checkpoints, err = startCheckpointer(path, o.hold, logger); err != nil {
		return nil, err
	}
	x.orders, o.group = o, o.newGroup()
	return o, nil
}

// close stops what runs in the background. The pools are their owner's.
func (o *orders) close() error {
	o.group.Close()
	return errors.Join(o.checkpoints.close(), o.byID.Close())
}

// Orders returns the store of orders.
func (db *DB) Orders() order.Store { return db.orders }

// Outbox returns the store of what transactions left to be told.
func (db *DB) Outbox() outbox.Store { return db.orders.outbox }
