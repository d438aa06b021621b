package postgres

import "context"

// startHeart begins to say that this instance lives.
func (db *DB) startHeart(ctx, background context.Context) error { return nil }
