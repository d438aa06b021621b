package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/order"
)

// Orders that wait for their completion are apart from those that are worked on:
// there may be very many, and PullForward passes them over.
const (
	beingWorkedOn  = ` o.next_attempt_ns > 0 AND o.parked_ns = 0 AND o.status <> 'shipped' `
	shippedAlready = ` o.next_attempt_ns > 0 AND o.parked_ns = 0 AND o.status = 'shipped' `
)

// claimDue claims what is due. What others have locked is being worked on; nothing
// is waited for.
const claimDue = `WITH worked AS (SELECT o.tenant_id, o.id, o.next_attempt_ns FROM orders AS o
		WHERE o.next_attempt_ns <= $1 AND` + beingWorkedOn + `ORDER BY o.next_attempt_ns LIMIT $3 FOR UPDATE SKIP LOCKED),
	shipped AS (SELECT o.tenant_id, o.id, o.next_attempt_ns FROM orders AS o
		WHERE o.next_attempt_ns <= $1 AND` + shippedAlready + `ORDER BY o.next_attempt_ns LIMIT $3 FOR UPDATE SKIP LOCKED),
	due AS (SELECT * FROM worked UNION ALL SELECT * FROM shipped ORDER BY next_attempt_ns LIMIT $3)
	UPDATE orders AS o SET next_attempt_ns = $2 FROM due WHERE o.tenant_id = due.tenant_id AND o.id = due.id
	RETURNING ` + orderColumns + `, due.next_attempt_ns`

// Due claims orders that are overdue. See order.Store.
func (o *orders) Due(ctx context.Context, now, until time.Time, limit int) (due []order.Order, err error) {
	if limit < 1 {
		return nil, fmt.Errorf("find orders that are due: the limit is %d; ask for at least 1", limit)
	}
	defer o.db.o.Metrics.timed("due", &err)()
	type overdue struct {
		order.Order
		since int64
	}
	var found []overdue
	err = o.retried(ctx, func(ctx context.Context) error {
		found = found[:0]
		rows, err := o.db.hot.Query(ctx, claimDue, nanosOf(now), nanosOf(until), limit)
		return eachRow(rows, err, func(r row) error {
			if err := r.wide(orderColumnCount + 1); err != nil {
				return err
			}
			claimed, err := decodeOrder(r)
			found = append(found, overdue{claimed, intOf(r[orderColumnCount])})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("find orders that are due: %w", err)
	}
	slices.SortStableFunc(found, func(a, b overdue) int { return int(max(-1, min(1, a.since-b.since))) })
	due = make([]order.Order, len(found))
	for i := range found {
		due[i] = found[i].Order
	}
	return due, nil
}

// retried runs a statement again when it lost against another transaction.
func (o *orders) retried(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := o.db.deadline(ctx)
	defer cancel()
	for try := 1; ; try++ {
		if err := do(ctx); err == nil || !isConflict(err) || try == maxTries {
			return err
		}
	}
}

// eachRow hands over the rows of a query and closes them.
func eachRow(rows pgx.Rows, err error, each func(row) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.RawValues()); err != nil {
			return err
		}
	}
	return rows.Err()
}

// changed runs a statement and says how many rows it changed.
func (o *orders) changed(ctx context.Context, statement string, args ...any) (n int, err error) {
	err = o.retried(ctx, func(ctx context.Context) error {
		tag, err := o.db.hot.Exec(ctx, statement, args...)
		n = int(tag.RowsAffected())
		return err
	})
	return n, err
}

const deferOrders = `UPDATE orders AS o SET next_attempt_ns = k.until, last_error = k.reason
	FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS k (tenant_id, id, version, until, reason)
	WHERE o.tenant_id = k.tenant_id AND o.id = k.id AND o.version = k.version AND o.parked_ns = 0`

// Defer moves attempts to later. See order.Store.
func (o *orders) Defer(ctx context.Context, deferrals []order.Deferral) (err error) {
	if len(deferrals) == 0 {
		return nil
	}
	defer o.db.o.Metrics.timed("defer", &err)()
	sorted := slices.SortedStableFunc(slices.Values(deferrals), func(a, b order.Deferral) int {
		return compareRefs(order.Ref{TenantID: a.TenantID, ID: a.OrderID}, order.Ref{TenantID: b.TenantID, ID: b.OrderID})
	})
	var tenants, ids, reasons []string
	var versions, untils []int64
	for i := range sorted {
		d := &sorted[i]
		tenants, ids, reasons = append(tenants, storable(d.TenantID)), append(ids, storable(d.OrderID)), append(reasons, storable(d.Reason))
		versions, untils = append(versions, d.Version), append(untils, nanosOf(d.Until))
	}
	if _, err = o.changed(ctx, deferOrders, tenants, ids, versions, untils, reasons); err != nil {
		return fmt.Errorf("defer %d orders: %w", len(deferrals), err)
	}
	return nil
}

// pulledAtOnce bounds the orders that one statement pulls forward.
const pulledAtOnce = 1000

const pullForward = `UPDATE orders AS o SET next_attempt_ns = $1
	FROM (SELECT o.tenant_id, o.id FROM orders AS o WHERE o.next_attempt_ns > $2 AND` + beingWorkedOn +
	`AND o.status IN ('placed', 'charging', 'cancelling', 'paid', 'refunding') LIMIT $3 FOR UPDATE SKIP LOCKED) AS far
	WHERE o.tenant_id = far.tenant_id AND o.id = far.id`

// PullForward makes attempts due that lie too far ahead. See order.Store.
func (o *orders) PullForward(ctx context.Context, now, horizon time.Time) (pulled int, err error) {
	defer o.db.o.Metrics.timed("pull_forward", &err)()
	for {
		n, err := o.changed(ctx, pullForward, nanosOf(now), nanosOf(horizon), pulledAtOnce)
		pulled += n
		if err != nil {
			return pulled, fmt.Errorf("pull orders forward: %w", err)
		}
		if n < pulledAtOnce || !now.Before(horizon) { // what it pulled is not found again
			return pulled, nil
		}
	}
}

// dropKeys goes by the place of the rows, in order: two who drop at once wait for
// each other and never in a circle.
const dropKeys = `DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY (
	SELECT ctid FROM idempotency_keys WHERE created_ns < $1 ORDER BY created_ns LIMIT $2))`

// DropKeys removes old idempotency keys. See order.Store.
func (o *orders) DropKeys(ctx context.Context, t time.Time, limit int) (dropped int, err error) {
	if limit < 1 {
		return 0, fmt.Errorf("drop idempotency keys: the limit is %d; allow at least 1", limit)
	}
	defer o.db.o.Metrics.timed("drop_keys", &err)()
	if dropped, err = o.changed(ctx, dropKeys, nanosOf(t), limit); err != nil {
		return 0, fmt.Errorf("drop idempotency keys: %w", err)
	}
	return dropped, nil
}

// countOrders counts one range of an index for each tenant and status.
const countOrders = `WITH RECURSIVE tenants (id) AS (
		SELECT min(tenant_id) FROM orders
		UNION ALL
		SELECT (SELECT min(tenant_id) FROM orders WHERE tenant_id > tenants.id) FROM tenants WHERE tenants.id IS NOT NULL)
	SELECT s.status, coalesce(sum((SELECT count(*) FROM orders WHERE tenant_id = tenants.id AND status = s.status)), 0)::bigint
	FROM unnest($1::text[]) AS s (status) CROSS JOIN tenants WHERE tenants.id IS NOT NULL GROUP BY s.status`

// CountByStatus counts what is not terminal, without looking at what is. See
// order.Store.
func (o *orders) CountByStatus(ctx context.Context) (counts map[order.Status]int64, err error) {
	defer o.db.o.Metrics.timed("count_by_status", &err)()
	ctx, cancel := o.db.deadline(ctx)
	defer cancel()
	var asked []string
	for _, status := range order.Statuses() {
		if !status.Terminal() {
			asked = append(asked, string(status))
		}
	}
	counts = map[order.Status]int64{}
	rows, err := o.db.hot.Query(ctx, countOrders, asked)
	err = eachRow(rows, err, func(r row) error {
		if n := intOf(r[1]); n > 0 {
			counts[order.Status(textOf(r[0]))] = n
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count orders by status: %w", err)
	}
	return counts, nil
}
