package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"millrace/internal/event"
	"millrace/internal/store/sqlite"
)

// StorePosition returns the sequence of the first record of a log that is not
// in the store of a data directory, 0 if the store has never seen that log. The
// caller holds the directory's lock.
func StorePosition(ctx context.Context, dataDir, logID string) (next uint64, err error) {
	var id event.LogID
	raw, err := hex.DecodeString(logID)
	if err != nil || len(raw) != len(id) {
		return 0, fmt.Errorf("%q is no id of a log", logID)
	}
	copy(id[:], raw)
	db, err := sqlite.Open(ctx, sqlite.Options{Dir: dataDir})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	next, _, err = db.Events().Position(ctx, id)
	return next, err
}
