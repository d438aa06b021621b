package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"millrace/internal/order"
)

var (
	sqlFindOrders = &statement{"find orders", `SELECT ` + orderColumns + `, k.n FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (tenant_id, id, n)
		JOIN orders AS o ON o.tenant_id = k.tenant_id AND o.id = k.id`}
	sqlLockOrders = &statement{"lock orders", `SELECT count(*) FROM (SELECT FROM unnest($1::text[], $2::text[]) AS k (tenant_id, id)
		JOIN orders AS o ON o.tenant_id = k.tenant_id AND o.id = k.id ORDER BY o.tenant_id, o.id FOR UPDATE OF o) AS locked`}
	// It divides by zero, which undoes the transaction with everything that was sent
	// along, when an order is not there in the version it was read in.
	sqlUpdateOrders = &statement{"update orders", `WITH changed AS (UPDATE orders AS o
			SET status = k.status, version = k.version, captured = k.captured, refunded = k.refunded, progress = k.progress, updated_ns = k.updated_ns,
				attempts = k.attempts, next_attempt_ns = k.next_attempt_ns, parked_ns = k.parked_ns, last_error = k.last_error
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[],
				$10::bigint[], $11::bigint[], $12::bigint[], $13::text[])
				AS k (tenant_id, id, read_version, status, version, captured, refunded, progress, updated_ns, attempts, next_attempt_ns, parked_ns, last_error)
			WHERE o.tenant_id = k.tenant_id AND o.id = k.id AND o.version = k.read_version RETURNING 1)
		SELECT 1 / (CASE count(*) WHEN $14::bigint THEN 1 ELSE 0 END) FROM changed`}
)

// findOrders queues the reading of orders by name; those that are not there are
// left out.
func findOrders(p *pipeline, refs []order.Ref, each func(order.Ref, order.Order)) {
	if len(refs) == 0 {
		return
	}
	tenants, ids := refArgs(refs)
	p.read(sqlFindOrders, func(r row) error {
		if err := r.wide(orderColumnCount + 1); err != nil {
			return err
		}
		found, err := decodeOrder(r)
		if err == nil {
			each(refs[intOf(r[orderColumnCount])-1], found)
		}
		return err
	}, tenants, ids)
}

func refArgs(refs []order.Ref) (tenants, ids []byte) {
	return texts(len(refs), func(i int) string { return refs[i].TenantID }), texts(len(refs), func(i int) string { return refs[i].ID })
}

// compareRefs orders orders as they are locked.
func compareRefs(a, b order.Ref) int {
	return cmp.Or(cmp.Compare(a.TenantID, b.TenantID), cmp.Compare(a.ID, b.ID))
}

// Advance applies steps. See order.Store.
func (o *orders) Advance(ctx context.Context, steps []*order.Step, p order.Policy) (outcomes []order.Outcome, err error) {
	if len(steps) == 0 {
		return nil, nil
	}
	defer o.db.o.Metrics.timed("advance", &err)()
	outcomes = make([]order.Outcome, len(steps))
	err = o.transact(ctx, len(steps), func(lo, hi int) batch {
		return &advancing{o: o, policy: p, steps: steps[lo:hi], outcomes: outcomes[lo:hi]}
	}, func(i int, err error) {
		// The step did nothing; what the order is now nobody has to know.
		outcomes[i] = order.Outcome{Err: fmt.Errorf("%s of order %s: %w", steps[i].Event, steps[i].OrderID, err)}
	})
	if err != nil {
		return nil, fmt.Errorf("advance orders by %d steps: %w", len(steps), err)
	}
	return outcomes, nil
}

// advancing is one attempt at a batch of steps. See batch.
type advancing struct {
	o        *orders
	policy   order.Policy
	steps    []*order.Step
	outcomes []order.Outcome

	orders  map[order.Ref]*standing
	changed []*standing
	keys    map[keyID]*keyRow
	bound   map[keyID]int // by steps of this batch: index in effects.keys
	effects effects
}

// standing is an order as the steps so far have left it.
type standing struct {
	order.Order
	read    int64 // the version that is stored
	changed bool
}

// look reads the orders and the keys that the steps name.
func (b *advancing) look(p *pipeline) {
	refs, ids := b.names()
	b.find(p, refs, ids)
}

// names returns the orders and the keys that the steps name, orders sorted.
func (b *advancing) names() (refs []order.Ref, ids []keyID) {
	b.orders = make(map[order.Ref]*standing, len(b.steps))
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
	slices.SortFunc(refs, compareRefs)
	return refs, ids
}

// find queues the reading of orders, and then of keys: who sees what a step has done
// sees also that it was a repetition of his own.
func (b *advancing) find(p *pipeline, refs []order.Ref, ids []keyID) {
	findOrders(p, refs, func(ref order.Ref, found order.Order) {
		b.orders[ref] = &standing{Order: found, read: found.Version}
	})
	b.keys = findKeys(p, ids)
}

// lock locks the orders and reads all anew.
func (b *advancing) lock(p *pipeline) {
	refs, ids := b.names()
	tenants, names := refArgs(refs)
	p.do(sqlLockOrders, tenants, names)
	b.find(p, refs, ids)
}

func (b *advancing) hold(p *pipeline) { b.lock(p) }

func claimKey(s *order.Step) keyID {
	return keyID{s.TenantID, s.Claim.Scope, s.Claim.Subject, s.Claim.Key}
}

// decide applies the steps in memory.
func (b *advancing) decide(func(*pipeline) error) error {
	b.changed, b.effects, b.bound = nil, effects{}, map[keyID]int{}
	for i, s := range b.steps {
		b.outcomes[i] = b.step(s)
	}
	slices.SortFunc(b.changed, func(x, y *standing) int {
		return compareRefs(order.Ref{TenantID: x.TenantID, ID: x.ID}, order.Ref{TenantID: y.TenantID, ID: y.ID})
	})
	return nil
}

func (b *advancing) decideLocked(query func(*pipeline) error) error { return b.decide(query) }

// step applies one step in memory.
func (b *advancing) step(s *order.Step) order.Outcome {
	ref := order.Ref{TenantID: s.TenantID, ID: s.OrderID}
	now := b.orders[ref]
	if now == nil {
		return order.Outcome{Err: order.ErrNotFound}
	}
	if s.Claim != nil {
		stored := b.key(claimKey(s))
		if stored != nil && stored.createdNs >= nanosOf(s.Claim.NotBefore) {
			if stored.fingerprint != s.Claim.Fingerprint || stored.objectID != s.OrderID {
				return order.Outcome{Order: now.Order, Err: order.ErrKeyReused}
			}
			return order.Outcome{Order: now.Order, Replayed: true, Answer: stored.answer}
		}
	}
	next, change, err := b.policy.Apply(now.Order, s)
	if err != nil {
		return order.Outcome{Order: now.Order, Err: err}
	}
	now.Order = next
	if !now.changed {
		now.changed = true
		b.changed = append(b.changed, now)
	}
	if s.Claim != nil {
		b.claim(s, &next)
	}
	for _, delta := range change.Stock {
		b.effects.addStock(order.ShelfKey{TenantID: s.TenantID, SKU: delta.SKU}, delta.OnHand, delta.Reserved)
	}
	if change.Park {
		b.effects.letters = append(b.effects.letters, parkedLetter(&next))
	}
	b.effects.add(ref, &change)
	return order.Outcome{Order: next, Applied: true}
}

// key returns what a key stands for: by a step of this batch, or as it is stored.
func (b *advancing) key(id keyID) *keyRow {
	if i, there := b.bound[id]; there {
		return &b.effects.keys[i]
	}
	return b.keys[id]
}

// claim binds the step's key, in place of an expired one.
func (b *advancing) claim(s *order.Step, next *order.Order) {
	row := keyRow{keyID: claimKey(s), fingerprint: s.Claim.Fingerprint, objectID: s.OrderID,
		answer: order.RefundAnswer(next), createdNs: nanosOf(s.At)}
	if i, there := b.bound[row.keyID]; there { // by an earlier step, and expired for this one
		b.effects.keys[i] = row
		return
	}
	if there := b.keys[row.keyID]; there != nil {
		b.effects.stale = append(b.effects.stale, *there)
	}
	b.bound[row.keyID] = len(b.effects.keys)
	b.effects.keys = append(b.effects.keys, row)
}

func (b *advancing) writes() bool { return len(b.changed) > 0 }

func (b *advancing) scarce() bool { return false }

func (b *advancing) overtaken(err error) bool {
	return refusedBy(err, sqlInsertKeys, stateUniqueViolation) || refusedBy(err, sqlUpdateOrders, stateDivisionByZero)
}

func (b *advancing) evidence() evidence { return b.effects.evidence() }

func (b *advancing) outbox() []outboxRow { return b.effects.outbox }

// write queues the changed orders, each once with what transitions change of it,
// and what goes with them.
func (b *advancing) write(p *pipeline, seqs []int64) error {
	c, n := b.changed, len(b.changed)
	progress := make([]string, n)
	for i := range c {
		var err error
		if progress[i], err = progressJSON(&c[i].Progress); err != nil {
			return err
		}
	}
	p.do(sqlUpdateOrders,
		texts(n, func(i int) string { return c[i].TenantID }),
		texts(n, func(i int) string { return c[i].ID }),
		numbers(n, func(i int) int64 { return c[i].read }),
		texts(n, func(i int) string { return string(c[i].Status) }),
		numbers(n, func(i int) int64 { return c[i].Version }),
		numbers(n, func(i int) int64 { return c[i].Captured }),
		numbers(n, func(i int) int64 { return c[i].Refunded }),
		texts(n, func(i int) string { return progress[i] }),
		numbers(n, func(i int) int64 { return nanosOf(c[i].UpdatedAt) }),
		numbers(n, func(i int) int64 { return int64(c[i].Attempts) }),
		numbers(n, func(i int) int64 { return nanosOf(c[i].NextAttempt) }),
		numbers(n, func(i int) int64 { return nanosOf(c[i].ParkedAt) }),
		texts(n, func(i int) string { return c[i].LastError }),
		number(int64(n)))
	b.effects.write(p, b.o.db.o.Instance, seqs)
	return nil
}
