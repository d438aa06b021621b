package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"

	"millrace/internal/order"
)

var (
	insertOrders = shape{params: orderColumnCount,
		head: `INSERT INTO orders (tenant_id, id, customer_id, status, version, currency, total, captured, refunded,
			lines, details, progress, placed_ns, updated_ns, deadline_ns, attempts, next_attempt_ns, parked_ns, last_error) VALUES `}
	findShelves = shape{params: 2, numbered: true,
		head: "WITH k (n, tenant_id, sku) AS (VALUES ",
		tail: `) SELECT k.n, p.active, p.amount, p.currency, coalesce(s.on_hand - s.reserved, 0)
			FROM k CROSS JOIN products AS p ON p.tenant_id = k.tenant_id AND p.sku = k.sku AND p.deleted = 0
			LEFT JOIN stock AS s ON s.tenant_id = k.tenant_id AND s.sku = k.sku`}
)

// Place places orders. See order.Store.
func (o *orders) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	if len(placements) == 0 {
		return nil
	}
	details := make([]string, len(placements))
	for i, placement := range placements {
		details[i] = detailsJSON(&placement.Order.Details) // while others have the connection
	}
	err := o.transactParts(ctx, len(placements), func(c *hotConn, lo, hi int) error {
		b := placing{conn: c, policy: p, placements: placements[lo:hi], details: details[lo:hi]}
		return b.run(o.outbox)
	}, func(i int, err error) {
		placements[i].Err = fmt.Errorf("place order %s: %w", placements[i].Order.ID, err)
	})
	if err != nil {
		return fmt.Errorf("place %d orders: %w", len(placements), err)
	}
	return nil
}

// placing is one attempt at a batch of placements.
type placing struct {
	conn       *hotConn
	policy     order.Policy
	placements []*order.Placement
	details    []string

	keys    map[keyID]*keyRow                // as they are stored
	claimed map[keyID]*order.Placement       // by placements of this batch
	replays map[order.Ref][]*order.Placement // by the order that the key stands for
	placed  []int                            // indexes of those to be written
	effects effects
}

func (b *placing) run(x *outboxRows) error {
	open, err := b.settleKeys()
	if err != nil {
		return err
	}
	if err := b.decide(open); err != nil {
		return err
	}
	if err := b.replay(); err != nil {
		return err
	}
	if len(b.placed) == 0 {
		return nil
	}
	if err := b.insert(); err != nil {
		return err
	}
	return b.effects.write(b.conn, x)
}

func placementKey(p *order.Placement) keyID {
	return keyID{p.Order.TenantID, order.ScopeOrder, p.Order.CustomerID, p.Key}
}

// settleKeys finds the placements whose key is stored, and returns the indexes of
// the others.
func (b *placing) settleKeys() ([]int, error) {
	ids := make([]keyID, 0, len(b.placements))
	seen := make(map[keyID]bool, len(b.placements))
	for _, p := range b.placements {
		p.Placed, p.Replayed, p.Err = order.Order{}, false, nil
		if id := placementKey(p); p.Key != "" && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	var err error
	if b.keys, err = findKeyRows(b.conn, ids); err != nil {
		return nil, err
	}
	open := make([]int, 0, len(b.placements))
	for i, p := range b.placements {
		stored := b.keys[placementKey(p)]
		switch {
		case p.Key == "" || stored == nil || stored.createdNs < nanosOf(p.KeyNotBefore):
			open = append(open, i)
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
	return open, nil
}

// decide allocates stock, one after the other: a placement whose key was taken
// before it in this batch is a repetition of that one.
func (b *placing) decide(open []int) error {
	if len(open) == 0 {
		return nil
	}
	asking := make([]*order.Placement, len(open))
	for k, i := range open {
		asking[k] = b.placements[i]
	}
	demands := order.Demands(asking)
	offers, err := findOffers(b.conn, demands)
	if err != nil {
		return err
	}
	b.claimed = make(map[keyID]*order.Placement, len(open))
	for k, i := range open {
		p, id := asking[k], placementKey(asking[k])
		if first := b.claimed[id]; first != nil {
			if first.Fingerprint != p.Fingerprint {
				p.Err = order.ErrKeyReused
				continue
			}
			p.Placed, p.Replayed = first.Placed, true
			continue
		}
		if order.Allocate(offers, asking[k:k+1]); p.Err != nil {
			continue
		}
		if err := b.take(i, id); err != nil {
			return err
		}
	}
	for _, key := range demands {
		if offer := offers[key]; offer != nil && offer.Taken > 0 {
			b.effects.addStock(key, 0, offer.Taken)
		}
	}
	return nil
}

// take notes what an allocated placement writes.
func (b *placing) take(i int, id keyID) error {
	p := b.placements[i]
	begun, change := b.policy.Begin(p.Order)
	p.Placed = begun
	b.placed = append(b.placed, i)
	if p.Key != "" {
		b.claimed[id] = p
		b.effects.keys = append(b.effects.keys, keyRow{keyID: id, fingerprint: p.Fingerprint, objectID: begun.ID,
			createdNs: nanosOf(begun.PlacedAt), stale: b.keys[id] != nil})
	}
	return b.effects.add(order.Ref{TenantID: begun.TenantID, ID: begun.ID}, &change)
}

// findOffers reads what is known of SKUs.
func findOffers(c *hotConn, demands []order.ShelfKey) (map[order.ShelfKey]*order.Offer, error) {
	offers := make(map[order.ShelfKey]*order.Offer, len(demands))
	err := c.use(&findShelves).read(len(demands), func(i int, args []driver.NamedValue) {
		args[0].Value, args[1].Value = demands[i].TenantID, demands[i].SKU
	}, func(i int, row []driver.Value) error {
		offers[demands[i]] = &order.Offer{Known: true, Active: intOf(row[0]) != 0, UnitPrice: intOf(row[1]), Currency: textOf(row[2]), Available: intOf(row[3])}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read prices and stock: %w", err)
	}
	return offers, nil
}

// replay reads the orders of keys that were stored before.
func (b *placing) replay() error {
	if len(b.replays) == 0 {
		return nil
	}
	refs := make([]order.Ref, 0, len(b.replays))
	for ref := range b.replays {
		refs = append(refs, ref)
	}
	err := findOrderRows(b.conn, refs, func(ref order.Ref, found order.Order) error {
		for _, p := range b.replays[ref] {
			p.Placed, p.Replayed = found, true
		}
		delete(b.replays, ref)
		return nil
	})
	for ref, left := range b.replays {
		for _, p := range left {
			p.Err = fmt.Errorf("%w: the idempotency key stands for order %s, which is not there; use another key", order.ErrData, ref.ID)
		}
	}
	return err
}

// insert writes the orders.
func (b *placing) insert() error {
	progress := make([]string, len(b.placed))
	for k, i := range b.placed {
		var err error
		if progress[k], err = progressJSON(&b.placements[i].Placed.Progress); err != nil {
			return err
		}
	}
	_, err := b.conn.use(&insertOrders).write(len(b.placed), func(k int, args []driver.NamedValue) {
		i := b.placed[k]
		fillOrder(args, &b.placements[i].Placed, b.details[i], progress[k])
	})
	if err != nil {
		return fmt.Errorf("insert orders: %w", refusedData(err))
	}
	return nil
}
