package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/servers"
	"millrace/internal/store/storetest"
)

func TestEventsConform(t *testing.T) {
	storetest.Events(t, func(t testing.TB) *storetest.EventsHarness {
		o := Options{DSN: freshDatabase(t)}
		db := openAt(t, o)
		reopen := func(t testing.TB) event.Store {
			if err := db.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			db = openAt(t, o)
			return db.Events()
		}
		return &storetest.EventsHarness{
			Store:          db.Events(),
			PositionsApart: true,
			Reopen:         reopen,
			LoseReply: func(t testing.TB) {
				db.events.mu.Lock()
				defer db.events.mu.Unlock()
				db.events.afterCommit = func() error { return errors.New("the reply is lost") }
			},
			Gaps: map[string]string{"Crash": "", "FillDisk": ""},
		}
	})
}

var _ = context.Background
var _ = time.Now
var _ servers.PostgresOptions
