package postgres

import (
	"cmp"
	"crypto/sha256"
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
	sqlInsertHistory = &statement{"insert history", `INSERT INTO order_history (tenant_id, order_id, version, at_ns, event, from_status, to_status, actor, reason)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])`}

	sqlFindKeys = &statement{"find keys", `SELECT k.n, i.fingerprint, i.object_id, i.answer, i.created_ns
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS k (tenant_id, scope, subject, key, n)
		JOIN idempotency_keys AS i ON i.tenant_id = k.tenant_id AND i.scope = k.scope AND i.subject = k.subject AND i.key = k.key`}
	sqlInsertKeys = &statement{"insert keys", `INSERT INTO idempotency_keys (tenant_id, scope, subject, key, fingerprint, object_id, answer, created_ns)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::bigint[])`}
	// Keys that are removed are as they were read: who has bound one anew meanwhile
	// makes the insertion that follows fail.
	sqlDeleteKeys = &statement{"delete keys", `DELETE FROM idempotency_keys AS i
		USING unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS k (tenant_id, scope, subject, key, created_ns)
		WHERE i.tenant_id = k.tenant_id AND i.scope = k.scope AND i.subject = k.subject AND i.key = k.key AND i.created_ns = k.created_ns`}

	// The last column tells in what order rows are locked, by an index of the primary
	// key; statements that update follow.
	sqlLockStock = &statement{"lock stock", `SELECT count(*) FROM (SELECT FROM unnest($1::text[], $2::text[]) AS k (tenant_id, sku)
		JOIN stock AS s ON s.tenant_id = k.tenant_id AND s.sku = k.sku ORDER BY s.tenant_id, s.sku FOR UPDATE OF s) AS locked`}
	// It divides by zero, which undoes the transaction with everything that was sent
	// along, when there is no stock of something.
	sqlChangeStock = &statement{"change stock", `WITH changed AS (UPDATE stock AS s
			SET on_hand = s.on_hand + k.on_hand, reserved = s.reserved + k.reserved, version = s.version + 1, updated_ns = greatest(s.updated_ns, $5::bigint)
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS k (tenant_id, sku, on_hand, reserved)
			WHERE s.tenant_id = k.tenant_id AND s.sku = k.sku RETURNING 1)
		SELECT 1 / (CASE count(*) WHEN $6::bigint THEN 1 ELSE 0 END) FROM changed`}

	sqlInsertLetter = &statement{"insert dead letter", storesql.AddLetter}
	sqlInsertAudit  = &statement{"insert audit entry", storesql.AddAudit}
)

// allHotStatements are those that connections of the hot paths prepare.
func allHotStatements() []*statement {
	return []*statement{
		sqlBegin, sqlCommit, sqlRollback, sqlXid, sqlSavepoint, sqlRollbackTo, sqlRelease,
		sqlInsertHistory, sqlFindKeys, sqlInsertKeys, sqlDeleteKeys, sqlLockStock, sqlChangeStock, sqlInsertLetter, sqlInsertAudit,
		sqlFindShelves, sqlInsertOrders, sqlFindOrders, sqlLockOrders, sqlUpdateOrders,
		sqlOutboxBlock, sqlInsertOutbox, sqlRemoveOutbox, sqlLoadLedger, sqlAppendLedger,
	}
}

// effects collects what a batch of transitions writes besides the orders.
type effects struct {
	history []historyRow
	outbox  []outboxRow
	stock   map[order.ShelfKey]stockDelta
	keys    []keyRow // to be bound
	stale   []keyRow // to be removed before
	letters []deadletter.Letter
	audited []audit.Entry
	lastNs  int64 // the newest time of the transitions
}

type historyRow struct {
	order.Ref
	entry order.HistoryEntry
}

type stockDelta struct{ onHand, reserved int64 }

// outboxRow is a row on its way in.
type outboxRow struct {
	lane     outbox.Lane
	tenantID string
	message  *order.Message
}

// keyID names an idempotency key.
type keyID struct{ tenantID, scope, subject, key string }

func (k keyID) compare(other keyID) int {
	return cmp.Or(cmp.Compare(k.tenantID, other.tenantID), cmp.Compare(k.scope, other.scope),
		cmp.Compare(k.subject, other.subject), cmp.Compare(k.key, other.key))
}

// keyRow is a key and what it stands for.
type keyRow struct {
	keyID
	fingerprint [32]byte
	objectID    string
	answer      string
	createdNs   int64
}

// add takes over what a transition writes but its stock.
func (e *effects) add(ref order.Ref, change *order.Change) {
	e.history = append(e.history, historyRow{ref, change.History})
	e.lastNs = max(e.lastNs, nanosOf(change.History.At))
	if change.Audit != nil {
		e.audited = append(e.audited, *change.Audit)
	}
	for i := range change.Messages {
		m := &change.Messages[i]
		e.outbox = append(e.outbox, outboxRow{lane: outbox.Lane(m.Lane), tenantID: ref.TenantID, message: m})
	}
}

// addStock sums up what happens to a SKU.
func (e *effects) addStock(key order.ShelfKey, onHand, reserved int64) {
	if e.stock == nil {
		e.stock = map[order.ShelfKey]stockDelta{}
	}
	d := e.stock[key]
	e.stock[key] = stockDelta{d.onHand + onHand, d.reserved + reserved}
}

// write queues it all, what others may wait for last. seqs are the outbox rows'.
func (e *effects) write(p *pipeline, instance string, seqs []int64) {
	e.writeKeys(p)
	e.writeHistory(p)
	for i := range e.letters {
		p.do(sqlInsertLetter, encodeArgs(storesql.LetterArgs(&e.letters[i]))...)
	}
	for i := range e.audited {
		p.do(sqlInsertAudit, encodeArgs(storesql.AuditArgs(&e.audited[i]))...)
	}
	writeOutbox(p, e.outbox, instance, seqs)
	e.writeStock(p)
}

// encodeArgs encodes arguments of a shared statement.
func encodeArgs(args []any) [][]byte {
	encoded := make([][]byte, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			encoded[i] = text(v)
		case int64:
			encoded[i] = number(v)
		case []byte:
			encoded[i] = v
		}
	}
	return encoded
}

// writeStock changes stock, locked in order.
func (e *effects) writeStock(p *pipeline) {
	keys := slices.SortedFunc(maps.Keys(e.stock), order.ShelfKey.Compare)
	keys = slices.DeleteFunc(keys, func(k order.ShelfKey) bool { return e.stock[k] == stockDelta{} })
	n := len(keys)
	if n == 0 {
		return
	}
	tenants, skus := shelfArgs(keys)
	if n > 1 {
		p.do(sqlLockStock, tenants, skus)
	}
	p.do(sqlChangeStock, tenants, skus,
		numbers(n, func(i int) int64 { return e.stock[keys[i]].onHand }),
		numbers(n, func(i int) int64 { return e.stock[keys[i]].reserved }),
		number(e.lastNs), number(int64(n)))
}

func shelfArgs(keys []order.ShelfKey) (tenants, skus []byte) {
	return texts(len(keys), func(i int) string { return keys[i].TenantID }), texts(len(keys), func(i int) string { return keys[i].SKU })
}

func (e *effects) writeHistory(p *pipeline) {
	h, n := e.history, len(e.history)
	if n == 0 {
		return
	}
	p.do(sqlInsertHistory,
		texts(n, func(i int) string { return h[i].TenantID }),
		texts(n, func(i int) string { return h[i].ID }),
		numbers(n, func(i int) int64 { return h[i].entry.Version }),
		numbers(n, func(i int) int64 { return nanosOf(h[i].entry.At) }),
		texts(n, func(i int) string { return string(h[i].entry.Event) }),
		texts(n, func(i int) string { return string(h[i].entry.From) }),
		texts(n, func(i int) string { return string(h[i].entry.To) }),
		texts(n, func(i int) string { return h[i].entry.Actor }),
		texts(n, func(i int) string { return h[i].entry.Reason }))
}

// writeKeys inserts keys in sorted order, and removes the expired ones before.
func (e *effects) writeKeys(p *pipeline) {
	deleteKeys(p, e.stale)
	insertKeys(p, e.keys)
}

func insertKeys(p *pipeline, keys []keyRow) {
	n := len(keys)
	if n == 0 {
		return
	}
	slices.SortFunc(keys, func(a, b keyRow) int { return a.compare(b.keyID) })
	p.do(sqlInsertKeys, append(keyArgs(n, func(i int) *keyID { return &keys[i].keyID }),
		blobs(n, func(i int) []byte { return keys[i].fingerprint[:] }),
		texts(n, func(i int) string { return keys[i].objectID }),
		texts(n, func(i int) string { return keys[i].answer }),
		numbers(n, func(i int) int64 { return keys[i].createdNs }))...)
}

func deleteKeys(p *pipeline, keys []keyRow) {
	n := len(keys)
	if n == 0 {
		return
	}
	slices.SortFunc(keys, func(a, b keyRow) int { return a.compare(b.keyID) })
	p.do(sqlDeleteKeys, append(keyArgs(n, func(i int) *keyID { return &keys[i].keyID }),
		numbers(n, func(i int) int64 { return keys[i].createdNs }))...)
}

func keyArgs(n int, at func(i int) *keyID) [][]byte {
	return [][]byte{
		texts(n, func(i int) string { return at(i).tenantID }),
		texts(n, func(i int) string { return at(i).scope }),
		texts(n, func(i int) string { return at(i).subject }),
		texts(n, func(i int) string { return at(i).key }),
	}
}

// findKeys queues the look-up of keys and returns where those that are stored will
// be, expired or not.
func findKeys(p *pipeline, ids []keyID) map[keyID]*keyRow {
	found := make(map[keyID]*keyRow)
	if len(ids) == 0 {
		return found
	}
	p.read(sqlFindKeys, func(r row) error {
		if err := r.wide(5); err != nil {
			return err
		}
		id := ids[intOf(r[0])-1]
		if len(r[1]) != 32 {
			return fmt.Errorf("the idempotency key of %s %s has a fingerprint of %d bytes instead of 32; restore the database from a backup",
				id.scope, textOf(r[2]), len(r[1]))
		}
		found[id] = &keyRow{keyID: id, fingerprint: [32]byte(r[1]), objectID: textOf(r[2]), answer: textOf(r[3]), createdNs: intOf(r[4])}
		return nil
	}, keyArgs(len(ids), func(i int) *keyID { return &ids[i] })...)
	return found
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
