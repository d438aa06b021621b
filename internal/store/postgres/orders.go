package postgres

// orders is the order.Store of the database.
type orders struct{ db *DB }

func newOrders(db *DB) (*orders, error) { return &orders{db: db}, nil }
