package app

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/store/sqlite"
)

func TestOneWrongClockIsNotCatching(t *testing.T) {
	db, err := sqlite.Open(t.Context(), sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	wrong := now.Add(30 * 24 * time.Hour).UTC()
	row := event.Row{Hash: event.HashOf("demo", "", "1"), TenantID: "demo", ID: "1", Type: "t", Timestamp: 1, ReceivedAt: wrong.UnixNano(), Payload: "{}"}
	if _, err := db.Events().Append(t.Context(), event.Batch{LogID: event.LogID{1}, From: 1, UpTo: 2, Day: wrong.Truncate(24 * time.Hour), Rows: []event.Row{row}}); err != nil {
		t.Fatal(err)
	}
	for driver, want := range map[string]time.Time{"sqlite": wrong, "postgres": {}} {
		var told strings.Builder
		c := &core{cfg: &config.Config{Store: config.Store{Driver: driver}}, db: &storage{database: db}, logger: slog.New(slog.NewTextHandler(&told, nil))}
		floor, err := c.receiptFloor(t.Context(), now)
		if err != nil || !floor.Equal(want) {
			t.Errorf("%s: nothing is received before %s, error %v; want %s", driver, floor, err, want)
		}
		if !strings.Contains(told.String(), "the clock") {
			t.Errorf("%s: it is not told that a clock is wrong: %q", driver, told.String())
		}
	}
}
