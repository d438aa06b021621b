package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"

	"millrace/internal/order"
)

var (
	findOrders = shape{params: 2, numbered: true,
		head: "WITH k (n, tenant_id, id) AS (VALUES ",
		tail: ") SELECT k.n, " + orderColumns + " FROM k CROSS JOIN orders AS o ON o.tenant_id = k.tenant_id AND o.id = k.id"}
	updateOrder = shape{params: 12, single: true,
		head: `UPDATE orders SET status = ?, version = ?, captured = ?, refunded = ?, progress = ?, updated_ns = ?,
			attempts = ?, next_attempt_ns = ?, parked_ns = ?, last_error = ? WHERE tenant_id = ? AND id = ?`}
)

// findOrderRows reads orders by name; those that are not there are left out.
func findOrderRows(c *hotConn, refs []order.Ref, each func(order.Ref, order.Order) error) error {
	err := c.use(&findOrders).read(len(refs), func(i int, args []driver.NamedValue) {
		args[0].Value, args[1].Value = refs[i].TenantID, refs[i].ID
	}, func(i int, row []driver.Value) error {
		o, err := decodeOrder(row)
		if err != nil {
			return err
		}
		return each(refs[i], o)
	})
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	return nil
}

// Advance applies steps. See order.Store.
func (o *orders) Advance(ctx context.Context, steps []*order.Step, p order.Policy) ([]order.Outcome, error) {
	if len(steps) == 0 {
		return nil, nil
	}
	outcomes := make([]order.Outcome, len(steps))
	err := o.transactParts(ctx, len(steps), func(c *hotConn, lo, hi int) error {
		b := advancing{conn: c, policy: p, steps: steps[lo:hi], outcomes: outcomes[lo:hi]}
		return b.run(o.outbox)
	}, func(i int, err error) {
		// The step did nothing; what the order is now nobody has to know.
		outcomes[i] = order.Outcome{Err: fmt.Errorf("%s of order %s: %w", steps[i].Event, steps[i].OrderID, err)}
	})
	if err != nil {
		return nil, fmt.Errorf("advance orders by %d steps: %w", len(steps), err)
	}
	return outcomes, nil
}

// advancing is one attempt at a batch of steps.
type advancing struct {
	conn     *hotConn
	policy   order.Policy
	steps    []*order.Step
	outcomes []order.Outcome

	orders  map[order.Ref]*standing
	changed []*standing // in the order of their first step
	keys    map[keyID]*keyRow
	effects effects
}

// standing is an order as the steps so far have left it.
type standing struct {
	order.Order
	changed bool
}

func (b *advancing) run(x *outboxRows) error {
	if err := b.read(); err != nil {
		return err
	}
	for i, s := range b.steps {
		out, err := b.step(s)
		if err != nil {
			return err
		}
		b.outcomes[i] = out
	}
	if len(b.changed) == 0 {
		return nil
	}
	if err := b.update(); err != nil {
		return err
	}
	return b.effects.write(b.conn, x)
}

// read finds the orders and the keys that the steps name.
func (b *advancing) read() error {
	b.orders = make(map[order.Ref]*standing, len(b.steps))
	refs := make([]order.Ref, 0, len(b.steps))
	var ids []keyID
	seen := map[keyID]bool{}
	for _, s := range b.steps {
		ref := order.Ref{TenantID: s.TenantID, ID: s.OrderID}
		if _, there := b.orders[ref]; !there {
			b.orders[ref] = nil
			refs = append(refs, ref)
		}
		if s.Claim != nil && !seen[claimKey(s)] {
			seen[claimKey(s)] = true
			ids = append(ids, claimKey(s))
		}
	}
	var err error
	if b.keys, err = findKeyRows(b.conn, ids); err != nil {
		return err
	}
	return findOrderRows(b.conn, refs, func(ref order.Ref, found order.Order) error {
		b.orders[ref] = &standing{Order: found}
		return nil
	})
}

func claimKey(s *order.Step) keyID {
	return keyID{s.TenantID, s.Claim.Scope, s.Claim.Subject, s.Claim.Key}
}

// step applies one step in memory. Its error is of the whole batch.
func (b *advancing) step(s *order.Step) (order.Outcome, error) {
	ref := order.Ref{TenantID: s.TenantID, ID: s.OrderID}
	now := b.orders[ref]
	if now == nil {
		return order.Outcome{Err: order.ErrNotFound}, nil
	}
	var stored *keyRow
	if s.Claim != nil {
		stored = b.keys[claimKey(s)]
		if stored != nil && stored.createdNs >= nanosOf(s.Claim.NotBefore) {
			if stored.fingerprint != s.Claim.Fingerprint || stored.objectID != s.OrderID {
				return order.Outcome{Order: now.Order, Err: order.ErrKeyReused}, nil
			}
			return order.Outcome{Order: now.Order, Replayed: true, Answer: stored.answer}, nil
		}
	}
	next, change, err := b.policy.Apply(now.Order, s)
	if err != nil {
		return order.Outcome{Order: now.Order, Err: err}, nil
	}
	now.Order = next
	if !now.changed {
		now.changed = true
		b.changed = append(b.changed, now)
	}
	if s.Claim != nil {
		b.claim(s, &next, stored)
	}
	for _, delta := range change.Stock {
		b.effects.addStock(order.ShelfKey{TenantID: s.TenantID, SKU: delta.SKU}, delta.OnHand, delta.Reserved)
	}
	if change.Park {
		b.effects.letters = append(b.effects.letters, parkedLetter(&next))
	}
	return order.Outcome{Order: next, Applied: true}, b.effects.add(ref, &change)
}

// claim binds the step's key, in place of an expired one.
func (b *advancing) claim(s *order.Step, next *order.Order, stored *keyRow) {
	row := &keyRow{keyID: claimKey(s), fingerprint: s.Claim.Fingerprint, objectID: s.OrderID,
		answer: order.RefundAnswer(next), createdNs: nanosOf(s.At), stale: stored != nil}
	b.keys[row.keyID] = row
	b.effects.keys = append(b.effects.keys, *row)
}

// update writes each changed order once: what transitions change of it.
func (b *advancing) update() error {
	for _, now := range b.changed {
		progress, err := progressJSON(&now.Progress)
		if err != nil {
			return err
		}
		changed, err := b.conn.use(&updateOrder).write(1, func(_ int, args []driver.NamedValue) {
			args[0].Value = string(now.Status)
			args[1].Value = now.Version
			args[2].Value = now.Captured
			args[3].Value = now.Refunded
			args[4].Value = progress
			args[5].Value = nanosOf(now.UpdatedAt)
			args[6].Value = int64(now.Attempts)
			args[7].Value = nanosOf(now.NextAttempt)
			args[8].Value = nanosOf(now.ParkedAt)
			args[9].Value = now.LastError
			args[10].Value = now.TenantID
			args[11].Value = now.ID
		})
		if err != nil {
			return fmt.Errorf("update an order: %w", refusedData(err))
		}
		if changed != 1 {
			return fmt.Errorf("update order %s: %d rows changed instead of one", now.ID, changed)
		}
	}
	return nil
}
