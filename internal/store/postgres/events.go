package postgres

// events is the event.Store of the database.
type events struct{ db *DB }

func newEvents(db *DB) (*events, error) { return &events{db: db}, nil }
