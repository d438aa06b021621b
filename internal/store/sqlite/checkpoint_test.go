package sqlite

import (
	"bytes"
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/deadletter"
)

// readElsewhere opens a file as another process would, and begins to read it. The
// reader keeps the WAL until end is called.
func readElsewhere(t *testing.T, path, table string) (end func()) {
	t.Helper()
	other, err := stdsql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

func walBytes(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// halfOfBusy is what tells a checkpoint that waits for readers as long as others
// wait for a lock from one that does not.
const halfOfBusy = busyTimeout / 2

func TestAReaderThatHoldsTheWALDoesNotStopOrders(t *testing.T) {
	db := stocked(t, t.TempDir())
	var log bytes.Buffer
	k := &checkpointer{path: db.orders.checkpoints.path, db: db.orders.checkpoints.db, hold: db.orders.hold,
		logger: slog.New(slog.NewTextHandler(&log, nil)), walLimit: 1}
	end := readElsewhere(t, k.path, "orders")
	force := func() {
		t.Helper()
		began := time.Now()
		if err := db.orders.hold(t.Context(), func(c *hotConn) error { return k.force(t.Context(), c) }); err != nil {
			t.Fatalf("force: %v", err)
		}
		if took := time.Since(began); took > halfOfBusy {
			t.Errorf("nobody could write for %v", took)
		}
	}
	placeRange(t, db, 0, 100, 100)
	force()
	size := walBytes(t, k.path)
	if size == 0 || k.forcing.due(size, k.walLimit) || k.forcing.due(2*size-2*mainPageBytes, k.walLimit) || !k.forcing.due(2*size, k.walLimit) {
		t.Errorf("the WAL has %d bytes, the next is forced at %d; want at twice as many", size, k.forcing.next)
	}
	placeRange(t, db, 100, 200, 100)
	force()
	if n := strings.Count(log.String(), "holds the database's WAL"); n != 1 || !strings.Contains(log.String(), k.path) {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
	end()
	force()
	if size := walBytes(t, k.path); size != 0 || !k.forcing.due(1, k.walLimit) {
		t.Errorf("without the reader the WAL has %d bytes, the next is forced at %d", size, k.forcing.next)
	}
	wantBusyTimeout(t, db)
}

// wantBusyTimeout fails the test unless the connection that writes waits for locks
// as long as it did.
func wantBusyTimeout(t *testing.T, db *DB) {
	t.Helper()
	err := db.orders.hold(t.Context(), func(c *hotConn) error {
		rows, err := c.QueryContext(context.Background(), "PRAGMA busy_timeout", nil)
		if err != nil {
			return err
		}
		defer rows.Close()
		row := make([]driver.Value, 1)
		if err := rows.Next(row); err != nil {
			return err
		}
		if row[0] != busyTimeout.Milliseconds() {
			return fmt.Errorf("the busy timeout is %v ms, want %d", row[0], busyTimeout.Milliseconds())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAReaderThatHoldsTheWALDoesNotStopEvents(t *testing.T) {
	db := open(t, t.TempDir())
	appendRows(t, db, "first")
	e := db.events
	var log bytes.Buffer
	e.logger = slog.New(slog.NewTextHandler(&log, nil))
	path := e.writer.file.path
	end := readElsewhere(t, path, "events")
	e.walLimit = 1
	began := time.Now()
	for i := range 20 {
		appendRows(t, db, fmt.Sprint(i))
	}
	if took := time.Since(began); took > halfOfBusy {
		t.Errorf("20 appends took %v", took)
	}
	if n := strings.Count(log.String(), "holds the database's WAL"); n != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
	end()
	for i := 100; walBytes(t, path) > 0; i++ {
		if appendRows(t, db, fmt.Sprint(i)); i == 1000 {
			t.Fatalf("the WAL of %d bytes is never cut, the next time at %d", walBytes(t, path), e.writer.forcing.next)
		}
	}
}

// Imports, dead letters and the like do not tell the checkpointer that they wrote.
func TestWhatIsWrittenBesideTheOrdersIsCheckpointedToo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		db := open(t, dir)
		path := db.orders.checkpoints.path
		time.Sleep(10 * checkpointIdle) // of the bubble's clock
		synctest.Wait()
		size := func() int64 {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		before := size()
		if err := db.DeadLetters().Add(t.Context(), []deadletter.Letter{{ID: "a", TenantID: "demo", Payload: make([]byte, 1<<20)}}); err != nil {
			t.Fatal(err)
		}
		if grown := size() - before; grown >= 1<<20 {
			t.Fatalf("the file has grown by %d bytes before a checkpoint: the test proves nothing", grown)
		}
		time.Sleep(2 * checkpointIdle)
		synctest.Wait()
		if grown := size() - before; grown < 1<<20 {
			t.Errorf("the file has grown by %d bytes; what was written is still in the WAL", grown)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
