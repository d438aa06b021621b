package sqlite

import (
	"millrace/internal/catalog"
	"millrace/internal/inventory"
	"millrace/internal/lease"
	storesql "millrace/internal/store/sql"
)

// Catalog returns the store of products.
func (db *DB) Catalog() catalog.Store { return storesql.NewCatalog(db.shared()) }

// Inventory returns the store of stock.
func (db *DB) Inventory() inventory.Store { return storesql.NewInventory(db.shared()) }

// Leases returns the store of leases.
func (db *DB) Leases() lease.Store { return storesql.NewLeases(db.write) }
