package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/order"
	"millrace/internal/store/storetest"
)

func TestOrdersConform(t *testing.T) { storetest.Orders(t, ordersHarness) }

func TestOutboxConform(t *testing.T) { storetest.Outbox(t, ordersHarness) }

func ordersHarness(t testing.TB) *storetest.OrdersHarness {
	o := Options{DSN: freshDatabase(t)}
	db := openAt(t, o)
	h := &storetest.OrdersHarness{}
	use := func() {
		h.Store, h.Outbox, h.DeadLetters, h.Catalog = db.Orders(), db.Outbox(), db.DeadLetters(), db.Catalog()
	}
	use()
	h.PutProduct = func(t testing.TB, key order.ShelfKey, p storetest.Product) { putProduct(t, db, key, p) }
	h.PutStock = func(t testing.TB, key order.ShelfKey, onHand int64) { putStock(t, db, key, onHand) }
	h.Stock = func(t testing.TB, key order.ShelfKey) storetest.Stock { return stockOf(t, db, key) }
	h.DropStock = func(t testing.TB, key order.ShelfKey) {
		exec(t, db, `DELETE FROM stock WHERE tenant_id = $1 AND sku = $2`, key.TenantID, key.SKU)
	}
	h.Reopen = func(t testing.TB) {
		if err := db.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		db = openAt(t, o)
		use()
	}
	h.FailCommit = func(testing.TB) { failOnce(&db.orders.faults.beforeCommit) }
	h.LoseReply = func(testing.TB) { failOnce(&db.orders.faults.afterCommit) }
	return h
}

// failOnce makes a hook fail its next call.
func failOnce(hook *func() error) {
	*hook = func() error {
		*hook = nil
		return errors.New("a fault of the test")
	}
}

func exec(t testing.TB, db *DB, query string, args ...any) {
	t.Helper()
	if _, err := db.hot.Exec(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func putProduct(t testing.TB, db *DB, key order.ShelfKey, p storetest.Product) {
	t.Helper()
	active, now := 1, time.Now().UnixNano()
	if p.Inactive {
		active = 0
	}
	exec(t, db, `INSERT INTO products (tenant_id, sku, version, active, amount, currency, category, names, descriptions, attributes, created_ns, updated_ns, change)
		VALUES ($1, $2, 1, $3, $4, $5, '', '{}', '{}', '', $6, $6, 1)
		ON CONFLICT (tenant_id, sku) DO UPDATE SET active = excluded.active, amount = excluded.amount, currency = excluded.currency`,
		key.TenantID, key.SKU, active, p.Price, p.Currency, now)
}

func putStock(t testing.TB, db *DB, key order.ShelfKey, onHand int64) {
	t.Helper()
	exec(t, db, `INSERT INTO stock AS s (tenant_id, sku, on_hand, reserved, version, updated_ns) VALUES ($1, $2, $3, 0, 1, $4)
		ON CONFLICT (tenant_id, sku) DO UPDATE SET on_hand = excluded.on_hand, version = s.version + 1`, key.TenantID, key.SKU, onHand, time.Now().UnixNano())
}

func stockOf(t testing.TB, db *DB, key order.ShelfKey) (s storetest.Stock) {
	t.Helper()
	err := db.hot.QueryRow(t.Context(), `SELECT on_hand, reserved, version FROM stock WHERE tenant_id = $1 AND sku = $2`, key.TenantID, key.SKU).
		Scan(&s.OnHand, &s.Reserved, &s.Version)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatal(err)
	}
	return s
}
