package sqlite

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"fmt"
	"slices"
	"time"

	"millrace/internal/order"
)

// Orders that wait for their completion are apart from those that are worked on:
// there may be very many, and PullForward passes them over.
const (
	beingWorkedOn  = " next_attempt_ns > 0 AND parked_ns = 0 AND status <> 'shipped' "
	shippedAlready = " next_attempt_ns > 0 AND parked_ns = 0 AND status = 'shipped' "
)

var (
	dueWorked = shape{params: 2, single: true,
		head: "SELECT " + orderColumns + " FROM orders AS o WHERE next_attempt_ns <= ? AND" + beingWorkedOn + "ORDER BY next_attempt_ns LIMIT ?"}
	dueShipped = shape{params: 2, single: true,
		head: "SELECT " + orderColumns + " FROM orders AS o WHERE next_attempt_ns <= ? AND" + shippedAlready + "ORDER BY next_attempt_ns LIMIT ?"}
	postpone = shape{params: 3, single: true,
		head: "UPDATE orders SET next_attempt_ns = ? WHERE tenant_id = ? AND id = ?"}
	deferOrder = shape{params: 5, single: true,
		head: "UPDATE orders SET next_attempt_ns = ?, last_error = ? WHERE tenant_id = ? AND id = ? AND version = ? AND parked_ns = 0"}
	pullForward = shape{params: 2, single: true,
		head: "UPDATE orders SET next_attempt_ns = ? WHERE next_attempt_ns > ? AND" + beingWorkedOn +
			"AND status IN ('placed', 'charging', 'cancelling', 'paid', 'refunding')"}
	dropKeys = shape{params: 2, single: true,
		head: `DELETE FROM idempotency_keys WHERE (tenant_id, scope, subject, key) IN
			(SELECT tenant_id, scope, subject, key FROM idempotency_keys WHERE created_ns < ? ORDER BY created_ns LIMIT ?)`}
)

// Due claims orders that are overdue. See order.Store.
func (o *orders) Due(ctx context.Context, now, until time.Time, limit int) ([]order.Order, error) {
	if limit < 1 {
		return nil, fmt.Errorf("find orders that are due: the limit is %d; ask for at least 1", limit)
	}
	var due []order.Order
	err := o.transact(ctx, func(c *hotConn) error {
		due = nil
		for _, s := range []*shape{&dueWorked, &dueShipped} {
			err := c.use(s).read(1, func(_ int, args []driver.NamedValue) {
				args[0].Value, args[1].Value = nanosOf(now), int64(limit)
			}, func(_ int, row []driver.Value) error {
				found, err := decodeOrder(row)
				due = append(due, found)
				return err
			})
			if err != nil {
				return err
			}
		}
		slices.SortStableFunc(due, func(a, b order.Order) int { return a.NextAttempt.Compare(b.NextAttempt) })
		due = due[:min(limit, len(due))]
		for i := range due {
			due[i].NextAttempt = until
			if _, err := c.use(&postpone).write(1, func(_ int, args []driver.NamedValue) {
				args[0].Value, args[1].Value, args[2].Value = nanosOf(until), due[i].TenantID, due[i].ID
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find orders that are due: %w", err)
	}
	return due, nil
}

// Defer moves attempts to later. See order.Store.
func (o *orders) Defer(ctx context.Context, deferrals []order.Deferral) error {
	if len(deferrals) == 0 {
		return nil
	}
	err := o.transact(ctx, func(c *hotConn) error {
		for i := range deferrals {
			d := &deferrals[i]
			if _, err := c.use(&deferOrder).write(1, func(_ int, args []driver.NamedValue) {
				args[0].Value, args[1].Value = nanosOf(d.Until), d.Reason
				args[2].Value, args[3].Value, args[4].Value = d.TenantID, d.OrderID, d.Version
			}); err != nil {
				return fmt.Errorf("order %s: %w", d.OrderID, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("defer %d orders: %w", len(deferrals), err)
	}
	return nil
}

// PullForward makes attempts due that lie too far ahead. See order.Store. There
// are hardly ever any, so it looks before it takes the connection that writes.
func (o *orders) PullForward(ctx context.Context, now, horizon time.Time) (int, error) {
	var there bool
	err := o.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM orders WHERE next_attempt_ns > ? AND"+beingWorkedOn+")", nanosOf(horizon)).Scan(&there)
	if err != nil {
		return 0, fmt.Errorf("find orders whose next attempt is too far ahead: %w", err)
	}
	if !there {
		return 0, nil
	}
	return o.change(ctx, "pull orders forward", &pullForward, nanosOf(now), nanosOf(horizon))
}

// DropKeys removes old idempotency keys. See order.Store.
func (o *orders) DropKeys(ctx context.Context, t time.Time, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("drop idempotency keys: the limit is %d; allow at least 1", limit)
	}
	var there bool
	if err := o.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM idempotency_keys WHERE created_ns < ?)", nanosOf(t)).Scan(&there); err != nil {
		return 0, fmt.Errorf("look for old idempotency keys: %w", err)
	}
	if !there {
		return 0, nil
	}
	return o.change(ctx, "drop idempotency keys", &dropKeys, nanosOf(t), int64(limit))
}

// change runs one statement and says how many rows it changed.
func (o *orders) change(ctx context.Context, doing string, s *shape, values ...driver.Value) (int, error) {
	var changed int64
	err := o.transact(ctx, func(c *hotConn) (err error) {
		changed, err = c.use(s).write(1, func(_ int, args []driver.NamedValue) {
			for i, v := range values {
				args[i].Value = v
			}
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", doing, err)
	}
	return int(changed), nil
}

// countOrders counts the orders of one status, tenant by tenant.
const countOrders = `WITH RECURSIVE tenants (id) AS (
		SELECT min(tenant_id) FROM orders
		UNION ALL
		SELECT (SELECT min(tenant_id) FROM orders WHERE tenant_id > tenants.id) FROM tenants WHERE tenants.id IS NOT NULL)
	SELECT sum((SELECT count(*) FROM orders WHERE tenant_id = tenants.id AND status = ?)) FROM tenants WHERE tenants.id IS NOT NULL`

// CountByStatus counts what is not terminal, without looking at what is: of each
// tenant it counts one range of an index for each status. See order.Store.
func (o *orders) CountByStatus(ctx context.Context) (map[order.Status]int64, error) {
	counts := map[order.Status]int64{}
	for _, status := range order.Statuses() {
		if status.Terminal() {
			continue
		}
		var n stdsql.NullInt64
		err := o.lists.QueryRowContext(ctx, countOrders, string(status)).Scan(&n)
		if err != nil {
			return nil, fmt.Errorf("count orders by status: %w", err)
		}
		if n.Int64 > 0 {
			counts[status] = n.Int64
		}
	}
	return counts, nil
}
