package postgres

import (
	"context"
	"fmt"
	"testing"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	places "millrace/internal/place"
	storesql "millrace/internal/store/sql"
	"millrace/internal/store/storetest"
)

func TestDeadLettersConform(t *testing.T) {
	storetest.DeadLetters(t, func(t testing.TB) deadletter.Store { return openTest(t).DeadLetters() })
}

func TestKeysConform(t *testing.T) {
	storetest.Keys(t, func(t testing.TB) (auth.KeyStore, audit.Store) {
		db := openTest(t)
		return db.Keys(), db.Audit()
	})
}

func TestAuditConforms(t *testing.T) {
	storetest.Audit(t, func(t testing.TB) audit.Store { return openTest(t).Audit() })
}

func TestCatalogConforms(t *testing.T) {
	storetest.Catalog(t, func(t testing.TB) (storetest.CatalogStore, audit.Store) {
		db := openTest(t)
		return db.Catalog(), db.Audit()
	})
}

func TestWebhooksConform(t *testing.T) {
	storetest.Webhooks(t, func(t testing.TB) storetest.WebhooksStores {
		db := openTest(t)
		return storetest.WebhooksStores{Webhooks: db.Webhooks(), DeadLetters: db.DeadLetters(), Audit: db.Audit()}
	})
}

func TestPlacesConform(t *testing.T) {
	storetest.Places(t, func(t testing.TB) (places.Store, audit.Store) {
		db := openTest(t)
		return db.Places(), db.Audit()
	})
}

func TestInventoryConforms(t *testing.T) {
	storetest.Inventory(t, func(t testing.TB) *storetest.InventoryHarness {
		db := openTest(t)
		return &storetest.InventoryHarness{Store: db.Inventory(), Audit: db.Audit(), Reserve: db.reserve}
	})
}

// reserve changes what is reserved of a level by n.
func (db *DB) reserve(ctx context.Context, tenantID, sku string, n int64) error {
	r, err := db.hot.Exec(ctx, `UPDATE stock SET reserved = reserved + $1, version = version + 1
WHERE tenant_id = $2 AND sku = $3 AND on_hand - reserved >= $1`, n, tenantID, sku)
	if err == nil && r.RowsAffected() == 0 {
		err = fmt.Errorf("%d of %s cannot be reserved", n, sku)
	}
	return err
}

func TestEverySharedStatementIsOneThatPostgreSQLTakes(t *testing.T) {
	db := openTest(t)
	for name, text := range storesql.Statements(storesql.PostgreSQL) {
		stmt, err := db.owner.PrepareContext(t.Context(), text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := stmt.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
