package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/place"
	"millrace/internal/store/storetest"
)

func TestEventsConform(t *testing.T) {
	storetest.Events(t, func(t testing.TB) *storetest.EventsHarness {
		dir := t.TempDir()
		db := open(t, dir)
		return &storetest.EventsHarness{
			Store: db.Events(),
			Reopen: func(t testing.TB) event.Store {
				if err := db.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				db = open(t, dir)
				return db.Events()
			},
			// A copy of the files, taken while the store has them open, is what a
			// process that died leaves to the next.
			Crash: func(t testing.TB) event.Store {
				left := t.TempDir()
				copyDir(t, dir, left)
				return open(t, left).Events()
			},
			LoseReply: func(t testing.TB) {
				e := db.events
				e.appending <- struct{}{}
				defer e.unlock()
				e.afterCommit = func() error {
					e.afterCommit = nil
					return errors.New("the reply is lost")
				}
			},
			FillDisk: func(t testing.TB) func() {
				setMaxPages(t, db.events, 1)
				return func() { setMaxPages(t, db.events, 1<<30) }
			},
		}
	})
}

func TestDeadLettersConform(t *testing.T) {
	storetest.DeadLetters(t, func(t testing.TB) deadletter.Store { return open(t, t.TempDir()).DeadLetters() })
}

func TestKeysConform(t *testing.T) {
	storetest.Keys(t, func(t testing.TB) (auth.KeyStore, audit.Store) {
		db := open(t, t.TempDir())
		return db.Keys(), db.Audit()
	})
}

func TestAuditConforms(t *testing.T) {
	storetest.Audit(t, func(t testing.TB) audit.Store { return open(t, t.TempDir()).Audit() })
}

func TestCatalogConforms(t *testing.T) {
	storetest.Catalog(t, func(t testing.TB) (storetest.CatalogStore, audit.Store) {
		db := open(t, t.TempDir())
		return db.Catalog(), db.Audit()
	})
}

func TestPlacesConform(t *testing.T) {
	storetest.Places(t, func(t testing.TB) (place.Store, audit.Store) {
		db := open(t, t.TempDir())
		return db.Places(), db.Audit()
	})
}

func TestInventoryConforms(t *testing.T) {
	storetest.Inventory(t, func(t testing.TB) *storetest.InventoryHarness {
		db := open(t, t.TempDir())
		return &storetest.InventoryHarness{Store: db.Inventory(), Audit: db.Audit(), Reserve: db.reserve}
	})
}

// reserve changes what is reserved of a level by n.
func (db *DB) reserve(ctx context.Context, tenantID, sku string, n int64) error {
	r, err := db.write.ExecContext(ctx, `UPDATE stock SET reserved = reserved + $1, version = version + 1
WHERE tenant_id = $2 AND sku = $3 AND on_hand - reserved >= $1`, n, tenantID, sku)
	if err != nil {
		return err
	}
	changed, err := r.RowsAffected()
	if err == nil && changed == 0 {
		err = fmt.Errorf("%d of %s cannot be reserved", n, sku)
	}
	return err
}

// open opens a store that is closed at the end of the test.
func open(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Options{Dir: dir, MaxOpenDays: 2})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

// setMaxPages makes SQLite answer SQLITE_FULL when the writer's file would become
// larger; a number below what it has means what it has.
func setMaxPages(t testing.TB, e *events, pages int) {
	t.Helper()
	e.appending <- struct{}{}
	defer e.unlock()
	if err := e.writer.exec("PRAGMA max_page_count = " + strconv.Itoa(pages)); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if filepath.Ext(path) == ".db-shm" {
			return nil // shared memory dies with the process
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}
