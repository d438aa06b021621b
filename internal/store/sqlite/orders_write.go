package sqlite

import (
	"cmp"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"millrace/internal/audit"
	"millrace/internal/deadletter"
	"millrace/internal/order"
	"millrace/internal/outbox"
	storesql "millrace/internal/store/sql"
)

var (
	insertHistory = shape{params: 9,
		head: "INSERT INTO order_history (tenant_id, order_id, version, at_ns, event, from_status, to_status, actor, reason) VALUES "}
	insertKeys = shape{params: 8,
		head: "INSERT INTO idempotency_keys (tenant_id, scope, subject, key, fingerprint, object_id, answer, created_ns) VALUES "}
	deleteKey = shape{params: 4, single: true,
		head: "DELETE FROM idempotency_keys WHERE tenant_id = ? AND scope = ? AND subject = ? AND key = ?"}
	findKeys = shape{params: 4, numbered: true,
		head: "WITH k (n, tenant_id, scope, subject, key) AS (VALUES ",
		tail: `) SELECT k.n, i.fingerprint, i.object_id, i.answer, i.created_ns FROM k CROSS JOIN idempotency_keys AS i
			ON i.tenant_id = k.tenant_id AND i.scope = k.scope AND i.subject = k.subject AND i.key = k.key`}
	insertLetter = shape{params: 14, single: true, head: storesql.AddLetter}
	insertAudit  = shape{params: 10, single: true, head: storesql.AddAudit}
	changeStock  = shape{params: 5, single: true,
		head: `UPDATE stock SET on_hand = on_hand + ?, reserved = reserved + ?, version = version + 1, updated_ns = max(updated_ns, ?)
			WHERE tenant_id = ? AND sku = ?`}
)

// effects collects what a batch of transitions writes besides the orders.
type effects struct {
	history []historyRow
	outbox  []outboxRow
	stock   map[order.ShelfKey]stockDelta
	keys    []keyRow
	letters []deadletter.Letter
	audited []audit.Entry
	lastNs  int64 // the newest time of the transitions
}

type historyRow struct {
	order.Ref
	entry order.HistoryEntry
}

type stockDelta struct{ onHand, reserved int64 }

// keyID names an idempotency key.
type keyID struct{ tenantID, scope, subject, key string }

// keyRow is a key and what it stands for.
type keyRow struct {
	keyID
	fingerprint [32]byte
	objectID    string
	answer      string
	createdNs   int64
	// stale says that an expired row of this key must make way.
	stale bool
}

// add takes over what a transition writes but its stock.
func (e *effects) add(ref order.Ref, change *order.Change) error {
	e.history = append(e.history, historyRow{ref, change.History})
	e.lastNs = max(e.lastNs, nanosOf(change.History.At))
	if change.Audit != nil {
		e.audited = append(e.audited, *change.Audit)
	}
	for i := range change.Messages {
		m := &change.Messages[i]
		lane, err := laneNumber(outbox.Lane(m.Lane))
		if err != nil {
			return err
		}
		e.outbox = append(e.outbox, outboxRow{lane: lane, tenantID: ref.TenantID, message: m})
	}
	return nil
}

// addStock sums up what happens to a SKU.
func (e *effects) addStock(key order.ShelfKey, onHand, reserved int64) {
	if e.stock == nil {
		e.stock = map[order.ShelfKey]stockDelta{}
	}
	d := e.stock[key]
	e.stock[key] = stockDelta{d.onHand + onHand, d.reserved + reserved}
}

// write puts it all into the open transaction.
func (e *effects) write(c *hotConn, x *outboxRows) error {
	if err := e.writeStock(c); err != nil {
		return err
	}
	if err := e.writeKeys(c); err != nil {
		return err
	}
	if err := e.writeHistory(c); err != nil {
		return err
	}
	if err := e.writeRows(c, &insertLetter, len(e.letters), func(i int) []any { return storesql.LetterArgs(&e.letters[i]) }); err != nil {
		return fmt.Errorf("write the dead letter of an order that was parked: %w", err)
	}
	if err := e.writeRows(c, &insertAudit, len(e.audited), func(i int) []any { return storesql.AuditArgs(&e.audited[i]) }); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return x.write(c, e.outbox)
}

// writeStock changes stock in locking order.
func (e *effects) writeStock(c *hotConn) error {
	for _, key := range slices.SortedFunc(maps.Keys(e.stock), order.ShelfKey.Compare) {
		d := e.stock[key]
		if d == (stockDelta{}) {
			continue
		}
		changed, err := c.use(&changeStock).write(1, func(_ int, args []driver.NamedValue) {
			args[0].Value, args[1].Value, args[2].Value = d.onHand, d.reserved, e.lastNs
			args[3].Value, args[4].Value = key.TenantID, key.SKU
		})
		if err == nil && changed == 0 {
			err = fmt.Errorf("%w: there is no stock of it", order.ErrData)
		}
		if err != nil {
			return fmt.Errorf("change the stock of %s by %d on hand and %d reserved: %w", key.SKU, d.onHand, d.reserved, refusedData(err))
		}
	}
	return nil
}

func (e *effects) writeHistory(c *hotConn) error {
	_, err := c.use(&insertHistory).write(len(e.history), func(i int, args []driver.NamedValue) {
		h := &e.history[i]
		args[0].Value = h.TenantID
		args[1].Value = h.ID
		args[2].Value = h.entry.Version
		args[3].Value = nanosOf(h.entry.At)
		args[4].Value = string(h.entry.Event)
		args[5].Value = string(h.entry.From)
		args[6].Value = string(h.entry.To)
		args[7].Value = h.entry.Actor
		args[8].Value = h.entry.Reason
	})
	if err != nil {
		return fmt.Errorf("write the history: %w", refusedData(err))
	}
	return nil
}

// writeKeys inserts keys in sorted order, and removes the expired ones before.
func (e *effects) writeKeys(c *hotConn) error {
	slices.SortFunc(e.keys, func(a, b keyRow) int {
		return cmp.Or(cmp.Compare(a.tenantID, b.tenantID), cmp.Compare(a.scope, b.scope), cmp.Compare(a.subject, b.subject), cmp.Compare(a.key, b.key))
	})
	for i := range e.keys {
		k := &e.keys[i]
		if !k.stale {
			continue
		}
		if _, err := c.use(&deleteKey).write(1, func(_ int, args []driver.NamedValue) { k.keyID.fill(args) }); err != nil {
			return fmt.Errorf("remove an expired idempotency key: %w", refusedData(err))
		}
	}
	_, err := c.use(&insertKeys).write(len(e.keys), func(i int, args []driver.NamedValue) {
		k := &e.keys[i]
		k.keyID.fill(args)
		args[4].Value = k.fingerprint[:]
		args[5].Value = k.objectID
		args[6].Value = k.answer
		args[7].Value = k.createdNs
	})
	if err != nil {
		return fmt.Errorf("write the idempotency keys: %w", refusedData(err))
	}
	return nil
}

func (k keyID) fill(args []driver.NamedValue) {
	args[0].Value, args[1].Value, args[2].Value, args[3].Value = k.tenantID, k.scope, k.subject, k.key
}

// findKeyRows returns the keys that are stored, expired or not.
func findKeyRows(c *hotConn, ids []keyID) (map[keyID]*keyRow, error) {
	found := make(map[keyID]*keyRow)
	err := c.use(&findKeys).read(len(ids), func(i int, args []driver.NamedValue) { ids[i].fill(args) },
		func(i int, row []driver.Value) error {
			fingerprint := bytesOf(row[0])
			if len(fingerprint) != 32 {
				return fmt.Errorf("the idempotency key of %s %s has a fingerprint of %d bytes instead of 32; restore the database from a backup",
					ids[i].scope, textOf(row[1]), len(fingerprint))
			}
			found[ids[i]] = &keyRow{keyID: ids[i], fingerprint: [32]byte(fingerprint), objectID: textOf(row[1]), answer: textOf(row[2]), createdNs: intOf(row[3])}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("look up idempotency keys: %w", err)
	}
	return found, nil
}

// parkedLetter is the dead letter that stands for an order that was parked.
func parkedLetter(o *order.Order) deadletter.Letter {
	payload, _ := json.Marshal(struct {
		OrderID string       `json:"orderId"`
		Status  order.Status `json:"status"`
		Version int64        `json:"version"`
	}{o.ID, o.Status, o.Version}) // strings and a number: cannot fail
	why := o.LastError
	if why == "" {
		why = "no reason was given"
	}
	return deadletter.Letter{
		ID: letterID(o), TenantID: o.TenantID, Kind: deadletter.KindOrder,
		Reason: fmt.Sprintf("the work on the order, which is %s, failed %d times and is not tried again by itself; the last time: %s. Redriving it lets the work begin anew",
			o.Status, o.Attempts, why),
		Source: "orders", Type: "order." + string(o.Status), EventID: o.ID,
		ReceivedAt: o.ParkedAt, Attempts: o.Attempts, ContentType: "application/json", Payload: payload,
	}
}

// letterID is the same whenever the same version of an order is parked.
func letterID(o *order.Order) string {
	h := sha256.Sum256(fmt.Appendf(nil, "parked\x00%s\x00%s\x00%d", o.TenantID, o.ID, o.Version))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // a UUID of version 8: made in a way of our own
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// writeRows runs a statement for each of n rows of which there are few.
func (e *effects) writeRows(c *hotConn, s *shape, n int, args func(i int) []any) error {
	for i := range n {
		_, err := c.use(s).write(1, func(_ int, to []driver.NamedValue) {
			for k, v := range args(i) {
				to[k].Value = v
			}
		})
		if err != nil {
			return refusedData(err)
		}
	}
	return nil
}
