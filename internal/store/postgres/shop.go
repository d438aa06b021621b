package postgres

import (
	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	storesql "millrace/internal/store/sql"
)

// shared returns the pools as the shared stores take them. What a replica may be
// asked is what lists.
func (db *DB) shared() storesql.Pools {
	return storesql.Pools{
		Dialect: storesql.PostgreSQL, Write: db.owner, Read: db.read, Lists: db.lists, AllRead: db.owner, AllLists: db.owner,
	}
}

// upToDate is shared for stores whose lists are read by who has just changed them.
func (db *DB) upToDate() storesql.Pools {
	p := db.shared()
	p.Lists = db.read
	return p
}

// DeadLetters returns the store of dead letters.
func (db *DB) DeadLetters() deadletter.Store { return storesql.NewDeadLetters(db.upToDate()) }

// Keys returns the store of API keys.
func (db *DB) Keys() auth.KeyStore { return storesql.NewKeys(db.upToDate()) }

// Audit returns the store of the audit log.
func (db *DB) Audit() audit.Store { return storesql.NewAudit(db.shared()) }

// Catalog returns the store of products and their feed.
func (db *DB) Catalog() *storesql.Catalog { return storesql.NewCatalog(db.shared()) }

// Places returns the store of places and their feed.
func (db *DB) Places() *storesql.Places { return storesql.NewPlaces(db.shared()) }

// Inventory returns the store of stock.
func (db *DB) Inventory() inventory.Store { return storesql.NewInventory(db.upToDate()) }

// Webhooks returns the store of webhook endpoints and deliveries.
func (db *DB) Webhooks() fulfilment.Store { return storesql.NewWebhooks(db.upToDate()) }
