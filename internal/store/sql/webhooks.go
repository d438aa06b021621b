package sql

import (
	"cmp"
	"context"
	stdsql "database/sql"
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
)

// The statements of webhook deliveries. next_attempt_ns > 0 says that one is not
// settled, and is said in every statement that the index of those is for.
const (
	deliveryColumns = `tenant_id, id, endpoint_id, event_type, object_id, payload, created_ns, attempts, next_attempt_ns, delivered_ns, last_status, last_error, trace`

	// nextBacklog steps from endpoint to endpoint through the index of unsettled
	// deliveries; the row it finds is the endpoint's oldest due.
	nextBacklog = `SELECT tenant_id, endpoint_id, next_attempt_ns FROM webhook_deliveries
WHERE next_attempt_ns > 0 AND (tenant_id, endpoint_id) > ($1, $2)
ORDER BY tenant_id, endpoint_id, next_attempt_ns LIMIT 1`

	releaseDelivery = `UPDATE webhook_deliveries SET attempts = attempts - 1, next_attempt_ns = $1
WHERE tenant_id = $2 AND id = $3 AND attempts = $4 AND next_attempt_ns > 0`

	giveUpDelivery = `UPDATE webhook_deliveries SET next_attempt_ns = 0, last_status = $1, last_error = $2
WHERE tenant_id = $3 AND id = $4 AND attempts = $5 AND next_attempt_ns > 0
RETURNING ` + deliveryColumns

	giveUpDeliveries = `UPDATE webhook_deliveries SET next_attempt_ns = 0, last_error = $1
WHERE (tenant_id, id) IN (
  SELECT tenant_id, id FROM webhook_deliveries
  WHERE tenant_id = $2 AND endpoint_id = $3 AND next_attempt_ns > 0 ORDER BY next_attempt_ns LIMIT $4)
  AND next_attempt_ns > 0
RETURNING ` + deliveryColumns

	countDue = `SELECT coalesce(sum(CASE WHEN next_attempt_ns <= $1 THEN 1 ELSE 0 END), 0),
  coalesce(sum(CASE WHEN next_attempt_ns > $2 THEN 1 ELSE 0 END), 0)
FROM webhook_deliveries WHERE next_attempt_ns > 0`

	recallDeliveries = `UPDATE webhook_deliveries SET next_attempt_ns = $1 WHERE (tenant_id, id) IN (
  SELECT tenant_id, id FROM webhook_deliveries WHERE next_attempt_ns > 0 AND next_attempt_ns > $2 LIMIT $3)
  AND next_attempt_ns > $2`

	listDeliveries = `SELECT ` + deliveryColumns + ` FROM webhook_deliveries
WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`

	listDeliveriesOfEndpoint = `SELECT ` + deliveryColumns + ` FROM webhook_deliveries
WHERE tenant_id = $1 AND endpoint_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4`

	reviveDelivery = `INSERT INTO webhook_deliveries (` + deliveryColumns + `)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, 0, 0, '', $9)
ON CONFLICT (tenant_id, id) DO UPDATE
SET payload = excluded.payload, created_ns = excluded.created_ns, attempts = 0, next_attempt_ns = excluded.next_attempt_ns
WHERE webhook_deliveries.delivered_ns = 0 AND webhook_deliveries.next_attempt_ns = 0`

	dropDeliveries = `DELETE FROM webhook_deliveries WHERE (tenant_id, id) IN (
  SELECT tenant_id, id FROM webhook_deliveries WHERE next_attempt_ns = 0 AND created_ns < $1 ORDER BY created_ns LIMIT $2)
  AND next_attempt_ns = 0 AND created_ns < $1`
)

// claimDeliveries takes what is due and what no other takes at this moment.
func claimDeliveries(d Dialect) string {
	return `WITH due (of, which) AS MATERIALIZED (
  SELECT tenant_id, id FROM webhook_deliveries
  WHERE tenant_id = $1 AND endpoint_id = $2 AND next_attempt_ns > 0 AND next_attempt_ns <= $3
  ORDER BY next_attempt_ns LIMIT $4` + d.skipLocked() + `)
UPDATE webhook_deliveries SET attempts = attempts + 1, next_attempt_ns = $5
FROM due WHERE webhook_deliveries.tenant_id = due.of AND webhook_deliveries.id = due.which
RETURNING ` + deliveryColumns
}

// The statements of many deliveries at once.
var (
	enqueueDeliveries = manyRows{head: `INSERT INTO webhook_deliveries (` + deliveryColumns + `) VALUES `, width: 13,
		tail: ` ON CONFLICT (tenant_id, id) DO NOTHING`}

	// settleDeliveries is for deliveries that arrived or are tried again.
	settleDeliveries = manyRows{
		head: `WITH s (tenant_id, id, attempt, next_ns, delivered_ns, status, error) AS (VALUES `, width: 7, numbers: []int{3, 4, 5, 6},
		tail: `) UPDATE webhook_deliveries
SET next_attempt_ns = s.next_ns, delivered_ns = s.delivered_ns, last_status = s.status, last_error = s.error
FROM s WHERE webhook_deliveries.tenant_id = s.tenant_id AND webhook_deliveries.id = s.id
  AND webhook_deliveries.attempts = s.attempt AND webhook_deliveries.next_attempt_ns > 0`}
)

// deliveryCursor is the kind of a cursor of deliveries.
const deliveryCursor byte = 16

func webhookStatements(d Dialect) map[string]string {
	return map[string]string{
		"webhook endpoint: get":              getEndpoint,
		"webhook endpoint: list":             listEndpoints,
		"webhook endpoint: count":            countEndpoints,
		"webhook endpoint: insert":           insertEndpoint,
		"webhook endpoint: update":           updateEndpoint,
		"webhook endpoint: delete":           deleteEndpoint,
		"webhook delivery: next backlog":     nextBacklog,
		"webhook delivery: claim":            claimDeliveries(d),
		"webhook delivery: release":          releaseDelivery,
		"webhook delivery: give up":          giveUpDelivery,
		"webhook delivery: give up all":      giveUpDeliveries,
		"webhook delivery: count due":        countDue,
		"webhook delivery: recall":           recallDeliveries,
		"webhook delivery: list":             listDeliveries,
		"webhook delivery: list of endpoint": listDeliveriesOfEndpoint,
		"webhook delivery: revive":           reviveDelivery,
		"webhook delivery: drop":             dropDeliveries,
		"webhook delivery: enqueue":          enqueueDeliveries.text(2),
		"webhook delivery: settle":           settleDeliveries.text(2),
	}
}

// Enqueue writes deliveries that are not there yet. See fulfilment.Store.
func (s *Webhooks) Enqueue(ctx context.Context, deliveries []fulfilment.Delivery) error {
	if len(deliveries) == 0 {
		return nil
	}
	// In the order of the tree: neighbours share pages.
	deliveries = slices.Clone(deliveries)
	slices.SortFunc(deliveries, func(a, b fulfilment.Delivery) int {
		return cmp.Or(cmp.Compare(a.TenantID, b.TenantID), cmp.Compare(a.ID, b.ID))
	})
	return in("enqueue webhook deliveries", transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		args := make([]any, 0, min(len(deliveries), rowsPerChunk)*enqueueDeliveries.width)
		for chunk := range slices.Chunk(deliveries, rowsPerChunk) {
			args = args[:0]
			for i := range chunk {
				d := &chunk[i]
				args = append(args, d.TenantID, d.ID, d.EndpointID, d.EventType, d.OrderID, string(d.Payload), nanos(d.CreatedAt),
					d.Attempts, nanos(d.NextAttempt), nanos(d.DeliveredAt), d.LastStatus, readable(d.LastError), d.Trace)
			}
			if _, err := p.exec(ctx, enqueueDeliveries, args); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Backlog returns endpoints that have something due. See fulfilment.Store.
func (s *Webhooks) Backlog(ctx context.Context, now time.Time, after fulfilment.EndpointRef, limit int) ([]fulfilment.EndpointRef, fulfilment.EndpointRef, error) {
	if limit < 1 {
		return nil, after, fmt.Errorf("look for due webhooks: the limit is %d; ask for at least 1", limit)
	}
	step, err := s.on.AllRead.PrepareContext(ctx, nextBacklog)
	if err != nil {
		return nil, after, in("look for due webhooks", err)
	}
	defer step.Close()
	var due []fulfilment.EndpointRef
	for range limit {
		var ns int64
		err := step.QueryRowContext(ctx, after.TenantID, after.EndpointID).Scan(&after.TenantID, &after.EndpointID, &ns)
		if noRows(err) {
			return due, fulfilment.EndpointRef{}, nil
		}
		if err != nil {
			return nil, after, in("look for due webhooks", err)
		}
		if ns <= nanos(now) {
			due = append(due, after)
		}
	}
	return due, after, nil
}

// Claim takes due deliveries. See fulfilment.Store.
func (s *Webhooks) Claim(ctx context.Context, now, until time.Time, shares []fulfilment.Share) ([]fulfilment.Delivery, error) {
	if len(shares) == 0 {
		return nil, nil
	}
	var claimed []fulfilment.Delivery
	err := transact(ctx, s.on, func(tx transaction) error {
		claimed = claimed[:0]
		p := prepareIn(tx)
		defer p.close()
		stmt, err := p.stmt(ctx, claimDeliveries(tx.dialect))
		if err != nil {
			return err
		}
		for _, share := range shares {
			rows, err := stmt.QueryContext(ctx, share.TenantID, share.EndpointID, nanos(now), share.Limit, nanos(until))
			if err != nil {
				return err
			}
			if claimed, err = appendDeliveries(claimed, rows); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, in("claim webhook deliveries", err)
	}
	return claimed, nil
}

// Settle writes the outcome of attempts. See fulfilment.Store.
func (s *Webhooks) Settle(ctx context.Context, settlements []fulfilment.Settlement) error {
	if len(settlements) == 0 {
		return nil
	}
	return in("settle webhook deliveries", transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		args := make([]any, 0, min(len(settlements), rowsPerChunk)*settleDeliveries.width)
		flush := func() error {
			_, err := p.exec(ctx, settleDeliveries, args)
			args = args[:0]
			return err
		}
		for i := range settlements {
			v := &settlements[i]
			var err error
			switch v.Outcome {
			case fulfilment.OutcomeDelivered:
				args = append(args, v.TenantID, v.DeliveryID, v.Attempt, 0, nanos(v.At), v.Status, readable(v.Error))
			case fulfilment.OutcomeRetry:
				args = append(args, v.TenantID, v.DeliveryID, v.Attempt, nanos(v.RetryAt), 0, v.Status, readable(v.Error))
			case fulfilment.OutcomeReleased:
				_, err = tx.ExecContext(ctx, releaseDelivery, nanos(v.RetryAt), v.TenantID, v.DeliveryID, v.Attempt)
			case fulfilment.OutcomeGaveUp:
				err = giveUp(ctx, tx, v)
			default:
				err = fmt.Errorf("delivery %s is settled with the outcome %d, which there is not", v.DeliveryID, v.Outcome)
			}
			if err == nil && len(args) == rowsPerChunk*settleDeliveries.width {
				err = flush()
			}
			if err == nil && v.Disable != nil {
				err = disableEndpoint(ctx, tx, v.Disable, v.At)
			}
			if err != nil {
				return err
			}
		}
		return flush()
	}))
}

// giveUp settles a delivery for good and leaves a dead letter if that is asked for.
func giveUp(ctx context.Context, tx transaction, v *fulfilment.Settlement) error {
	d, err := scanDelivery(tx.QueryRowContext(ctx, giveUpDelivery, v.Status, readable(v.Error), v.TenantID, v.DeliveryID, v.Attempt))
	if noRows(err) {
		return nil // settled already, or claimed anew
	}
	if err != nil || !v.Letter {
		return err
	}
	l := fulfilment.LetterOf(&d, v)
	return insertLetter(ctx, tx, &l)
}

// giveUpAll settles the deliveries of an endpoint that was deleted, oldest first,
// and leaves dead letters, a bounded number at a time for the memory they take.
func giveUpAll(ctx context.Context, tx transaction, tenantID, endpointID string, at time.Time) error {
	const chunk = 100
	v := fulfilment.Settlement{At: at, Error: fulfilment.DeletedReason(endpointID)}
	for range fulfilment.MaxGivenUpAtOnce / chunk {
		rows, err := tx.QueryContext(ctx, giveUpDeliveries, readable(v.Error), tenantID, endpointID, chunk)
		if err != nil {
			return err
		}
		list, err := appendDeliveries(nil, rows)
		for i := 0; err == nil && i < len(list); i++ {
			l := fulfilment.LetterOf(&list[i], &v)
			err = insertLetter(ctx, tx, &l)
		}
		if err != nil || len(list) < chunk {
			return err
		}
	}
	return nil
}

func insertLetter(ctx context.Context, tx transaction, l *deadletter.Letter) error {
	_, err := tx.ExecContext(ctx, addLetter, l.TenantID, l.ID, string(l.Kind), readable(l.Reason), readable(l.Source), readable(l.Type),
		readable(l.EventID), readable(l.BatchID), nanos(l.ReceivedAt), l.Attempts, nanos(l.LastAttemptAt), readable(l.ContentType),
		number(l.Truncated), l.Payload)
	return err
}

// Due counts what is due and what is too far away. See fulfilment.Store.
func (s *Webhooks) Due(ctx context.Context, now, horizon time.Time) (due, beyond int, err error) {
	err = s.on.AllLists.QueryRowContext(ctx, countDue, nanos(now), bound(horizon, math.MaxInt64)).Scan(&due, &beyond)
	return due, beyond, in("count due webhooks", err)
}

// Recall makes due what is too far away. See fulfilment.Store.
func (s *Webhooks) Recall(ctx context.Context, now, horizon time.Time, limit int) (int, error) {
	r, err := s.on.Write.ExecContext(ctx, recallDeliveries, nanos(now), bound(horizon, math.MaxInt64), limit)
	if err != nil {
		return 0, in("recall webhook deliveries", err)
	}
	n, err := r.RowsAffected()
	return int(n), in("recall webhook deliveries", err)
}

// Deliveries lists deliveries by id, descending. See fulfilment.Store.
func (s *Webhooks) Deliveries(ctx context.Context, tenantID, endpointID string, limit int, cursor string) ([]fulfilment.Delivery, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("list webhook deliveries: the limit is %d; ask for at least 1", limit)
	}
	before := endOfIDs
	if cursor != "" {
		var ok bool
		if before, ok = unpackCursor(deliveryCursor, cursor); !ok {
			return nil, "", fulfilment.ErrBadCursor
		}
	}
	statement, args := listDeliveries, []any{tenantID, before, limit + 1}
	if endpointID != "" {
		statement, args = listDeliveriesOfEndpoint, []any{tenantID, endpointID, before, limit + 1}
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, tenantID), statement, args...)
	if err != nil {
		return nil, "", in("list webhook deliveries", err)
	}
	defer rows.Close()
	var page []fulfilment.Delivery
	bytes := 0
	for rows.Next() {
		if n := len(page); n >= limit || bytes >= maxListBytes {
			return page, packCursor(deliveryCursor, page[n-1].ID), nil
		}
		d, err := scanDelivery(rows)
		if err != nil {
			return nil, "", in("list webhook deliveries", err)
		}
		page = append(page, d)
		bytes += len(d.Payload)
	}
	return page, "", in("list webhook deliveries", rows.Err())
}

// Revive makes a delivery that was given up due again. See fulfilment.Store.
func (s *Webhooks) Revive(ctx context.Context, d fulfilment.Delivery) error {
	_, err := s.on.Write.ExecContext(ctx, reviveDelivery, d.TenantID, d.ID, d.EndpointID, d.EventType, d.OrderID, string(d.Payload),
		nanos(d.CreatedAt), nanos(d.NextAttempt), d.Trace)
	return in("revive a webhook delivery", err)
}

// DropSettled removes old deliveries. See fulfilment.Store.
func (s *Webhooks) DropSettled(ctx context.Context, t time.Time, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("drop webhook deliveries: the limit is %d; allow at least 1", limit)
	}
	r, err := s.on.Write.ExecContext(ctx, dropDeliveries, bound(t, math.MinInt64), limit)
	if err != nil {
		return 0, in("drop webhook deliveries", err)
	}
	n, err := r.RowsAffected()
	return int(n), in("drop webhook deliveries", err)
}

// appendDeliveries reads and closes rows, the oldest due first: RETURNING has no
// order of its own, but then ids are in the order of the orders.
func appendDeliveries(list []fulfilment.Delivery, rows *stdsql.Rows) ([]fulfilment.Delivery, error) {
	defer rows.Close()
	first := len(list)
	for rows.Next() {
		d, err := scanDelivery(rows)
		if err != nil {
			return list, err
		}
		list = append(list, d)
	}
	slices.SortFunc(list[first:], func(a, b fulfilment.Delivery) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list, rows.Err()
}

func scanDelivery(row interface{ Scan(...any) error }) (fulfilment.Delivery, error) {
	var d fulfilment.Delivery
	var payload string
	var created, next, delivered int64
	err := row.Scan(&d.TenantID, &d.ID, &d.EndpointID, &d.EventType, &d.OrderID, &payload, &created, &d.Attempts, &next, &delivered,
		&d.LastStatus, &d.LastError, &d.Trace)
	d.Payload = []byte(payload)
	d.CreatedAt, d.NextAttempt, d.DeliveredAt = timeOf(created), timeOf(next), timeOf(delivered)
	return d, err
}
