package sql

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"millrace/internal/audit"
	"millrace/internal/inventory"
)

// The statements of stock.
const (
	levelColumns = `tenant_id, sku, on_hand, reserved, version, updated_ns`

	getLevel = `SELECT ` + levelColumns + ` FROM stock WHERE tenant_id = $1 AND sku = $2`

	listLevels = `SELECT ` + levelColumns + ` FROM stock WHERE tenant_id = $1 AND sku > $2 ORDER BY sku LIMIT $3`

	// claimStockKey takes a key that is free, or whose time is over.
	claimStockKey = `INSERT INTO idempotency_keys (tenant_id, scope, subject, key, fingerprint, object_id, answer, created_ns)
VALUES ($1, 'stock', $2, $3, $4, $5, '', $6)
ON CONFLICT (tenant_id, scope, subject, key) DO UPDATE
SET fingerprint = excluded.fingerprint, object_id = excluded.object_id, answer = '', created_ns = excluded.created_ns
WHERE idempotency_keys.created_ns <= $7`

	stockKey = `SELECT fingerprint FROM idempotency_keys WHERE tenant_id = $1 AND scope = 'stock' AND subject = $2 AND key = $3`
)

var (
	getLevels = manyRows{head: `SELECT ` + levelColumns + ` FROM stock WHERE (tenant_id, sku) IN (VALUES `, width: 2, tail: `)`}

	lockLevels = manyRows{head: `SELECT 1 FROM stock WHERE (tenant_id, sku) IN (VALUES `, width: 2,
		tail: `) ORDER BY tenant_id, sku`}

	// putLevels changes a level only if it is still of the version before, and
	// never what is reserved: that belongs to orders.
	putLevels = manyRows{head: `INSERT INTO stock (` + levelColumns + `) VALUES `, width: 6,
		tail: ` ON CONFLICT (tenant_id, sku) DO UPDATE
SET on_hand = excluded.on_hand, version = excluded.version, updated_ns = excluded.updated_ns
WHERE stock.version = excluded.version - 1`}

	getImportLines = manyRows{head: `SELECT tenant_id, import_id, line, content FROM stock_import_lines WHERE (tenant_id, import_id, line) IN (VALUES `,
		width: 3, numbers: []int{3}, tail: `)`}

	addImportLines = manyRows{head: `INSERT INTO stock_import_lines (tenant_id, import_id, line, content, applied_ns) VALUES `, width: 5,
		tail: ` ON CONFLICT (tenant_id, import_id, line) DO NOTHING`}
)

// Inventory is the inventory.Store of a SQL database.
type Inventory struct{ on Pools }

var _ inventory.Store = (*Inventory)(nil)

// NewInventory returns the stock of a database.
func NewInventory(on Pools) *Inventory { return &Inventory{on: on} }

// Set sets what is on hand. See inventory.Store.
func (s *Inventory) Set(ctx context.Context, set inventory.Set) (inventory.Level, error) {
	var after inventory.Level
	err := transact(ctx, s.on, func(tx transaction) error {
		before, err := levelIn(ctx, tx, set.TenantID, set.SKU)
		if err != nil {
			return err
		}
		after = before
		switch {
		case set.IfVersion == 0 && before.Version > 0:
			return inventory.ErrExists
		case set.IfVersion > 0 && set.IfVersion != before.Version:
			return inventory.ErrVersion
		}
		if err := inventory.CheckOnHand(set.SKU, set.OnHand, before.Reserved); err != nil {
			return err
		}
		if before.Version > 0 && before.OnHand == set.OnHand {
			return nil
		}
		after.OnHand, after.UpdatedAt = set.OnHand, timeOf(nanos(set.Now))
		after.Version++
		entry, err := inventory.SetEntry(set, before, after)
		if err != nil {
			return err
		}
		return changeLevel(ctx, tx, after, entry)
	})
	if err != nil {
		return inventory.Level{}, in("set stock of "+set.SKU, err)
	}
	return after, nil
}

// Adjust changes what is on hand, once for its key. See inventory.Store.
func (s *Inventory) Adjust(ctx context.Context, a inventory.Adjustment) (inventory.Level, bool, error) {
	var after inventory.Level
	var replayed bool
	err := transact(ctx, s.on, func(tx transaction) (err error) {
		if replayed, err = claimAdjustment(ctx, tx, &a); err != nil {
			return err
		}
		before, err := levelIn(ctx, tx, a.TenantID, a.SKU)
		after = before
		if err != nil || replayed {
			return err
		}
		after.OnHand, after.UpdatedAt = before.OnHand+a.Delta, timeOf(nanos(a.Now))
		after.Version++
		if err := inventory.CheckOnHand(a.SKU, after.OnHand, before.Reserved); err != nil {
			return err
		}
		entry, err := inventory.AdjustEntry(a, before, after)
		if err != nil {
			return err
		}
		return changeLevel(ctx, tx, after, entry)
	})
	if err != nil {
		return inventory.Level{}, false, in("adjust stock of "+a.SKU, err)
	}
	return after, replayed, nil
}

// claimAdjustment binds the key to the adjustment, or says that it was before.
func claimAdjustment(ctx context.Context, tx transaction, a *inventory.Adjustment) (replayed bool, err error) {
	want := fingerprint(a)
	subject := readable(a.Actor.Subject)
	claimed, err := one(tx.ExecContext(ctx, claimStockKey, a.TenantID, subject, a.Key, want[:], a.SKU,
		nanos(a.Now), nanos(a.Now.Add(-inventory.KeyLife))))
	if err != nil || claimed {
		return false, err
	}
	var got []byte
	if err := tx.QueryRowContext(ctx, stockKey, a.TenantID, subject, a.Key).Scan(&got); err != nil {
		return false, err
	}
	if string(got) != string(want[:]) {
		return false, inventory.ErrKeyReused
	}
	return true, nil
}

// fingerprint tells an adjustment from another. Its form is in the database: it
// is never changed.
func fingerprint(a *inventory.Adjustment) [sha256.Size]byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(a.Delta))
	b = append(b, a.SKU...)
	b = append(b, 0) // not in a SKU
	return sha256.Sum256(append(b, a.Reason...))
}

// levelIn returns a level as the transaction sees it, of version 0 if there is
// none, and keeps others from changing it.
func levelIn(ctx context.Context, tx transaction, tenantID, sku string) (inventory.Level, error) {
	l, err := scanLevel(tx.QueryRowContext(ctx, tx.dialect.forUpdate(getLevel), tenantID, sku))
	if noRows(err) {
		return inventory.Level{TenantID: tenantID, SKU: sku}, nil
	}
	return l, err
}

// changeLevel writes a level that was read in the same transaction, with its
// version one higher.
func changeLevel(ctx context.Context, tx transaction, l inventory.Level, entry audit.Entry) error {
	p := prepareIn(tx)
	defer p.close()
	changed, err := p.exec(ctx, putLevels, levelArgs(nil, &l))
	if err != nil {
		return err
	}
	if changed == 0 {
		return errRaced
	}
	return insertAudit(ctx, tx, entry)
}

func levelArgs(args []any, l *inventory.Level) []any {
	return append(args, l.TenantID, l.SKU, l.OnHand, l.Reserved, l.Version, nanos(l.UpdatedAt))
}

// Level returns one SKU's stock. See inventory.Store.
func (s *Inventory) Level(ctx context.Context, tenantID, sku string) (inventory.Level, error) {
	l, err := scanLevel(s.on.Read.QueryRowContext(ForTenant(ctx, tenantID), getLevel, tenantID, sku))
	if noRows(err) {
		return inventory.Level{}, inventory.ErrNotFound
	}
	return l, in("read stock", err)
}

// Levels returns one page in the order of SKU. See inventory.Store.
func (s *Inventory) Levels(ctx context.Context, q inventory.Query) (inventory.Page, error) {
	if q.Limit < 1 {
		return inventory.Page{}, fmt.Errorf("list stock: the limit is %d; ask for at least 1", q.Limit)
	}
	after := ""
	if q.Cursor != "" {
		var ok bool
		if after, ok = unpackCursor(stockCursor, q.Cursor); !ok {
			return inventory.Page{}, inventory.ErrBadCursor
		}
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, q.TenantID), listLevels, q.TenantID, after, q.Limit+1)
	if err != nil {
		return inventory.Page{}, in("list stock", err)
	}
	defer rows.Close()
	var page inventory.Page
	for rows.Next() {
		if n := len(page.Levels); n >= q.Limit {
			page.Next = packCursor(stockCursor, page.Levels[n-1].SKU)
			return page, nil
		}
		l, err := scanLevel(rows)
		if err != nil {
			return inventory.Page{}, in("list stock", err)
		}
		page.Levels = append(page.Levels, l)
	}
	return page, in("list stock", rows.Err())
}

func scanLevel(row interface{ Scan(...any) error }) (inventory.Level, error) {
	var l inventory.Level
	var updated int64
	err := row.Scan(&l.TenantID, &l.SKU, &l.OnHand, &l.Reserved, &l.Version, &updated)
	l.UpdatedAt = timeOf(updated)
	return l, err
}
