package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"millrace/internal/order"
)

var (
	sqlInsertOrders = &statement{"insert orders", `INSERT INTO orders (tenant_id, id, customer_id, status, version, currency, total, captured, refunded,
			lines, details, progress, placed_ns, updated_ns, deadline_ns, attempts, next_attempt_ns, parked_ns, last_error)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
			$10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::text[])`}
	sqlFindShelves = &statement{"find prices and stock", `SELECT k.n, p.active, p.amount, p.currency, coalesce(s.on_hand - s.reserved, 0)
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (tenant_id, sku, n)
		JOIN products AS p ON p.tenant_id = k.tenant_id AND p.sku = k.sku AND p.deleted = 0
		LEFT JOIN stock AS s ON s.tenant_id = k.tenant_id AND s.sku = k.sku`}
)

// Place places orders. See order.Store.
func (o *orders) Place(ctx context.Context, placements []*order.Placement, p order.Policy) (err error) {
	if len(placements) == 0 {
		return nil
	}
	defer o.db.o.Metrics.timed("place", &err)()
	details := make([]string, len(placements))
	for i, placement := range placements {
		details[i] = detailsJSON(&placement.Order.Details)
	}
	err = o.transact(ctx, len(placements), func(lo, hi int) batch {
		return &placing{o: o, policy: p, placements: placements[lo:hi], details: details[lo:hi]}
	}, func(i int, err error) {
		placements[i].Err = fmt.Errorf("place order %s: %w", placements[i].Order.ID, err)
	})
	if err != nil {
		return fmt.Errorf("place %d orders: %w", len(placements), err)
	}
	return nil
}

// placing is one attempt at a batch of placements. See batch.
type placing struct {
	o          *orders
	policy     order.Policy
	placements []*order.Placement
	details    []string

	demands []order.ShelfKey
	offers  map[order.ShelfKey]*order.Offer
	keys    map[keyID]*keyRow // as they are stored
	claims  map[keyID]keyRow  // what this transaction has inserted already

	open    []int                            // indexes of those whose key stands for nothing yet
	claimed map[keyID]*order.Placement       // by placements of this batch
	replays map[order.Ref][]*order.Placement // by the order that the key stands for
	placed  []int                            // indexes of those to be written
	effects effects
}

func placementKey(p *order.Placement) keyID {
	return keyID{p.Order.TenantID, order.ScopeOrder, p.Order.CustomerID, p.Key}
}

// look reads prices and stock, and then keys: who sees that a unit is gone sees
// also that it went to a repetition of the same placement.
func (b *placing) look(p *pipeline) {
	b.demands = order.Demands(b.placements)
	b.findOffers(p)
	b.findKeys(p)
}

// findKeys queues the look-up of the keys.
func (b *placing) findKeys(p *pipeline) {
	ids := make([]keyID, 0, len(b.placements))
	seen := make(map[keyID]bool, len(b.placements))
	for _, placement := range b.placements {
		if id := placementKey(placement); placement.Key != "" && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	b.keys = findKeys(p, ids)
}

// findOffers queues what is to be known of SKUs.
func (b *placing) findOffers(p *pipeline) {
	b.offers = make(map[order.ShelfKey]*order.Offer, len(b.demands))
	if len(b.demands) == 0 {
		return
	}
	tenants, skus := shelfArgs(b.demands)
	p.read(sqlFindShelves, func(r row) error {
		if err := r.wide(5); err != nil {
			return err
		}
		b.offers[b.demands[intOf(r[0])-1]] = &order.Offer{Known: true, Active: intOf(r[1]) != 0, UnitPrice: intOf(r[2]), Currency: textOf(r[3]), Available: intOf(r[4])}
		return nil
	}, tenants, skus)
}

// lock takes the locks in their order, keys before stock, and reads what the stock
// is then. Only a placed order binds its key, which is not known yet: all keys are
// claimed, and those of what is refused are given back in the end.
func (b *placing) lock(p *pipeline) {
	b.claims = map[keyID]keyRow{}
	var stale, fresh []keyRow
	for _, i := range b.open {
		placement := b.placements[i]
		id := placementKey(placement)
		if _, twin := b.claims[id]; twin || placement.Key == "" {
			continue
		}
		if there := b.keys[id]; there != nil {
			stale = append(stale, *there)
		}
		b.claims[id] = keyRow{keyID: id, fingerprint: placement.Fingerprint, objectID: placement.Order.ID, createdNs: nanosOf(placement.Order.PlacedAt)}
		fresh = append(fresh, b.claims[id])
	}
	deleteKeys(p, stale)
	insertKeys(p, fresh)
	b.lockStock(p)
}

// decideLocked allocates what was locked.
func (b *placing) decideLocked(func(*pipeline) error) error {
	b.allocate()
	return nil
}

// hold locks and reads the stock, and then looks up the keys, as look does.
func (b *placing) hold(p *pipeline) {
	b.demands = order.Demands(b.placements)
	b.lockStock(p)
	b.findKeys(p)
}

// lockStock locks the stock and reads it.
func (b *placing) lockStock(p *pipeline) {
	if len(b.demands) == 0 {
		return
	}
	tenants, skus := shelfArgs(b.demands)
	p.do(sqlLockStock, tenants, skus)
	b.findOffers(p)
}

// decide finds the placements whose key is stored, and allocates stock to the
// others.
func (b *placing) decide(query func(*pipeline) error) error {
	b.settleKeys()
	if err := b.replay(query); err != nil {
		return err
	}
	b.allocate()
	return nil
}

func (b *placing) settleKeys() {
	b.open, b.replays = b.open[:0], nil
	for i, p := range b.placements {
		p.Placed, p.Replayed, p.Err = order.Order{}, false, nil
		stored := b.keys[placementKey(p)]
		switch {
		case p.Key == "" || stored == nil || stored.createdNs < nanosOf(p.KeyNotBefore):
			b.open = append(b.open, i)
		case stored.fingerprint != p.Fingerprint:
			p.Err = order.ErrKeyReused
		default:
			if b.replays == nil {
				b.replays = map[order.Ref][]*order.Placement{}
			}
			ref := order.Ref{TenantID: p.Order.TenantID, ID: stored.objectID}
			b.replays[ref] = append(b.replays[ref], p)
		}
	}
}

// allocate decides one placement after the other: one whose key was taken before
// it in this batch is a repetition of that one. It may be called again.
func (b *placing) allocate() {
	b.claimed = make(map[keyID]*order.Placement, len(b.open))
	b.placed, b.effects = b.placed[:0], effects{}
	for _, i := range b.open {
		p := b.placements[i]
		p.Placed, p.Replayed, p.Err = order.Order{}, false, nil
		id := placementKey(p)
		if first := b.claimed[id]; first != nil {
			if first.Fingerprint != p.Fingerprint {
				p.Err = order.ErrKeyReused
				continue
			}
			p.Placed, p.Replayed = first.Placed, true
			continue
		}
		if order.Allocate(b.offers, b.placements[i:i+1]); p.Err == nil {
			b.take(i, id)
		}
	}
	for _, key := range b.demands {
		if offer := b.offers[key]; offer != nil && offer.Taken > 0 {
			b.effects.addStock(key, 0, offer.Taken)
		}
	}
	b.settleClaims()
}

// take notes what an allocated placement writes.
func (b *placing) take(i int, id keyID) {
	p := b.placements[i]
	begun, change := b.policy.Begin(p.Order)
	p.Placed = begun
	b.placed = append(b.placed, i)
	if p.Key != "" {
		b.claimed[id] = p
		b.effects.keys = append(b.effects.keys, keyRow{keyID: id, fingerprint: p.Fingerprint, objectID: begun.ID, createdNs: nanosOf(begun.PlacedAt)})
	}
	b.effects.add(order.Ref{TenantID: begun.TenantID, ID: begun.ID}, &change)
}

// settleClaims says which keys are to be removed and bound, after those that the
// transaction has bound already.
func (b *placing) settleClaims() {
	if b.claims == nil {
		for id := range b.claimed {
			if there := b.keys[id]; there != nil {
				b.effects.stale = append(b.effects.stale, *there)
			}
		}
		return
	}
	left := maps.Clone(b.claims)
	b.effects.keys = slices.DeleteFunc(b.effects.keys, func(k keyRow) bool {
		if left[k.keyID] != k {
			return false
		}
		delete(left, k.keyID)
		return true
	})
	b.effects.stale = slices.AppendSeq(b.effects.stale, maps.Values(left))
}

// replay reads the orders of keys that were stored before.
func (b *placing) replay(query func(*pipeline) error) error {
	if len(b.replays) == 0 {
		return nil
	}
	p := &pipeline{}
	findOrders(p, slices.Collect(maps.Keys(b.replays)), func(ref order.Ref, found order.Order) {
		for _, placement := range b.replays[ref] {
			placement.Placed, placement.Replayed = found, true
		}
		delete(b.replays, ref)
	})
	if err := query(p); err != nil {
		return err
	}
	for ref, left := range b.replays {
		for _, placement := range left {
			placement.Err = fmt.Errorf("%w: the idempotency key stands for order %s, which is not there; use another key", order.ErrData, ref.ID)
		}
	}
	return nil
}

func (b *placing) writes() bool { return len(b.placed) > 0 }

// What is left of a SKU after a batch that took less than a share of it will do for
// the batches that others place at the same moment.
const scarceTimes = 4

// scarce says whether some SKU may be gone before the batch is written.
func (b *placing) scarce() bool {
	for _, offer := range b.offers {
		if offer.Taken > 0 && offer.Available < scarceTimes*offer.Taken {
			return true
		}
	}
	return false
}

// overtaken says whether an error means that what was read has changed.
func (b *placing) overtaken(err error) bool {
	return refusedBy(err, sqlInsertKeys, stateUniqueViolation) || refusedBy(err, sqlChangeStock, stateCheckViolation, stateDivisionByZero)
}

func (b *placing) evidence() evidence { return b.effects.evidence() }

// write queues the orders and what goes with them.
func (b *placing) write(p *pipeline, seqs []int64) error {
	n := len(b.placed)
	at := func(k int) *order.Order { return &b.placements[b.placed[k]].Placed }
	progress := make([]string, n)
	for k := range b.placed {
		var err error
		if progress[k], err = progressJSON(&at(k).Progress); err != nil {
			return err
		}
	}
	p.do(sqlInsertOrders,
		texts(n, func(k int) string { return at(k).TenantID }),
		texts(n, func(k int) string { return at(k).ID }),
		texts(n, func(k int) string { return at(k).CustomerID }),
		texts(n, func(k int) string { return string(at(k).Status) }),
		numbers(n, func(k int) int64 { return at(k).Version }),
		texts(n, func(k int) string { return at(k).Currency }),
		numbers(n, func(k int) int64 { return at(k).Total }),
		numbers(n, func(k int) int64 { return at(k).Captured }),
		numbers(n, func(k int) int64 { return at(k).Refunded }),
		texts(n, func(k int) string { return linesJSON(at(k).Lines) }),
		texts(n, func(k int) string { return b.details[b.placed[k]] }),
		texts(n, func(k int) string { return progress[k] }),
		numbers(n, func(k int) int64 { return nanosOf(at(k).PlacedAt) }),
		numbers(n, func(k int) int64 { return nanosOf(at(k).UpdatedAt) }),
		numbers(n, func(k int) int64 { return nanosOf(at(k).Deadline) }),
		numbers(n, func(k int) int64 { return int64(at(k).Attempts) }),
		numbers(n, func(k int) int64 { return nanosOf(at(k).NextAttempt) }),
		numbers(n, func(k int) int64 { return nanosOf(at(k).ParkedAt) }),
		texts(n, func(k int) string { return at(k).LastError }))
	b.effects.write(p, b.o.db.o.Instance, seqs)
	return nil
}

func (b *placing) outbox() []outboxRow { return b.effects.outbox }
