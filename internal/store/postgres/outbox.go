package postgres

// outboxRows is the outbox.Store of the database.
type outboxRows struct{ db *DB }

func newOutbox(db *DB) (*outboxRows, error) { return &outboxRows{db: db}, nil }
