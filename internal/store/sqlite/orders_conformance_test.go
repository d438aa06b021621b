package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"testing"
	"time"

	"millrace/internal/order"
	"millrace/internal/store/storetest"
)

func TestOrdersConform(t *testing.T) { storetest.Orders(t, ordersHarness) }

func TestOutboxConform(t *testing.T) { storetest.Outbox(t, ordersHarness) }

func ordersHarness(t testing.TB) *storetest.OrdersHarness {
	dir := t.TempDir()
	db := open(t, dir)
	h := &storetest.OrdersHarness{}
	use := func() {
		h.Store, h.Outbox, h.DeadLetters, h.Catalog = db.Orders(), db.Outbox(), db.DeadLetters(), db.Catalog()
	}
	use()
	h.PutProduct = func(t testing.TB, key order.ShelfKey, p storetest.Product) { putProduct(t, db, key, p) }
	h.PutStock = func(t testing.TB, key order.ShelfKey, onHand int64) { putStock(t, db, key, onHand) }
	h.Stock = func(t testing.TB, key order.ShelfKey) (s storetest.Stock) {
		t.Helper()
		err := db.write.QueryRow(`SELECT on_hand, reserved, version FROM stock WHERE tenant_id = ? AND sku = ?`, key.TenantID, key.SKU).
			Scan(&s.OnHand, &s.Reserved, &s.Version)
		if err != nil && !errors.Is(err, stdsql.ErrNoRows) {
			t.Fatal(err)
		}
		return s
	}
	h.DropStock = func(t testing.TB, key order.ShelfKey) {
		mustExec(t, db, `DELETE FROM stock WHERE tenant_id = ? AND sku = ?`, key.TenantID, key.SKU)
	}
	h.Reopen = func(t testing.TB) {
		if err := db.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		db = open(t, dir)
		use()
	}
	h.FailCommit = func(t testing.TB) { holdFaults(t, db, func(f *faults) { failOnce(&f.beforeCommit) }) }
	h.LoseReply = func(t testing.TB) { holdFaults(t, db, func(f *faults) { failOnce(&f.afterCommit) }) }
	return h
}

func holdFaults(t testing.TB, db *DB, set func(*faults)) {
	t.Helper()
	if err := db.orders.hold(context.Background(), func(*hotConn) error { set(&db.orders.faults); return nil }); err != nil {
		t.Fatal(err)
	}
}

func failOnce(hook *func() error) {
	*hook = func() error {
		*hook = nil
		return errors.New("a fault of the test")
	}
}

func mustExec(t testing.TB, db *DB, query string, args ...any) {
	t.Helper()
	if _, err := db.write.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

func putProduct(t testing.TB, db *DB, key order.ShelfKey, p storetest.Product) {
	t.Helper()
	mustExec(t, db, `INSERT OR REPLACE INTO products (tenant_id, sku, version, active, amount, currency, category, names, descriptions, attributes, created_ns, updated_ns)
		VALUES (?, ?, 1, ?, ?, ?, '', '{}', '{}', '', ?, ?)`, key.TenantID, key.SKU, !p.Inactive, p.Price, p.Currency, time.Now().UnixNano(), time.Now().UnixNano())
}

func putStock(t testing.TB, db *DB, key order.ShelfKey, onHand int64) {
	t.Helper()
	mustExec(t, db, `INSERT INTO stock (tenant_id, sku, on_hand, reserved, version, updated_ns) VALUES (?, ?, ?, 0, 1, ?)
		ON CONFLICT (tenant_id, sku) DO UPDATE SET on_hand = excluded.on_hand, version = version + 1`, key.TenantID, key.SKU, onHand, time.Now().UnixNano())
}
