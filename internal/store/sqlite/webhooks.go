package sqlite

import (
	"millrace/internal/fulfilment"
	storesql "millrace/internal/store/sql"
)

// Webhooks returns the store of webhook endpoints and deliveries.
func (db *DB) Webhooks() fulfilment.Store { return storesql.NewWebhooks(db.shared()) }
