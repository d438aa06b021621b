package sqlite

import (
	"millrace/internal/inventory"
	"millrace/internal/lease"
	storesql "millrace/internal/store/sql"
)

// Catalog returns the store of products and their feed.
func (db *DB) Catalog() *storesql.Catalog { return storesql.NewCatalog(db.shared()) }

// Places returns the store of places and their feed.
func (db *DB) Places() *storesql.Places { return storesql.NewPlaces(db.shared()) }

// Inventory returns the store of stock.
func (db *DB) Inventory() inventory.Store { return storesql.NewInventory(db.shared()) }

// Leases returns the store of leases.
func (db *DB) Leases() lease.Store { return storesql.NewLeases(db.write) }
