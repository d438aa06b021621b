package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/order"
	"millrace/internal/store/storetest"
)

// buyer returns the n-th placement of one unit of SKU mug.
func buyer(n int) *order.Placement {
	at := time.Date(2026, 11, 22, 12, 0, 0, n, time.UTC)
	return &order.Placement{
		Order: order.Order{TenantID: "demo", ID: fmt.Sprintf("00000000-0000-7000-8000-%012d", n), CustomerID: fmt.Sprint("customer ", n%10),
			Lines: []order.Line{{SKU: "mug", Quantity: 1}}, PlacedAt: at, UpdatedAt: at, Deadline: at.Add(time.Hour)},
		Key: fmt.Sprint("key ", n), KeyNotBefore: at.Add(-24 * time.Hour),
	}
}

func stocked(t testing.TB, dir string) *DB {
	t.Helper()
	db := open(t, dir)
	putProduct(t, db, order.ShelfKey{TenantID: "demo", SKU: "mug"}, storetest.Product{Price: 999, Currency: "EUR"})
	putStock(t, db, order.ShelfKey{TenantID: "demo", SKU: "mug"}, 1_000_000)
	return db
}

func placeRange(t testing.TB, db *DB, from, to, perBatch int) {
	t.Helper()
	for n := from; n < to; n += perBatch {
		batch := make([]*order.Placement, min(perBatch, to-n))
		for i := range batch {
			batch[i] = buyer(n + i)
		}
		if err := db.Orders().Place(t.Context(), batch, benchPolicy); err != nil {
			t.Fatal(err)
		}
		for _, p := range batch {
			if p.Err != nil {
				t.Fatal(p.Err)
			}
		}
	}
}

func TestCloseLeavesNoWAL(t *testing.T) {
	dir := t.TempDir()
	db := stocked(t, dir)
	placeRange(t, db, 0, 100, 50)
	if err := db.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	// A connection that was not closed whole would leave it behind.
	if _, err := os.Stat(filepath.Join(dir, "millrace.db-wal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the WAL after Close: %v, want none", err)
	}
}

func TestOrdersGoOnWhenThePoolReplacesItsConnection(t *testing.T) {
	db := stocked(t, t.TempDir())
	placeRange(t, db, 0, 10, 10)
	err := db.orders.hold(t.Context(), func(*hotConn) error { return driver.ErrBadConn }) // makes the pool close it
	if !errors.Is(err, driver.ErrBadConn) {
		t.Fatalf("hold: %v", err)
	}
	placeRange(t, db, 10, 20, 10)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.orders.hold(cancelled, func(*hotConn) error { return errors.New("held") }); !errors.Is(err, context.Canceled) {
		t.Errorf("hold for one who gave up: %v, want context.Canceled", err)
	}
	placeRange(t, db, 20, 30, 10)
}

func TestATransactionThatPanicsLeavesNothingOpen(t *testing.T) {
	db := stocked(t, t.TempDir())
	if err := db.orders.transact(t.Context(), func(*hotConn) error { panic("a fault of the test") }); err == nil || !strings.Contains(err.Error(), "a fault of the test") {
		t.Errorf("the panic is told as %v", err)
	}
	placeRange(t, db, 0, 10, 10)
}

// TestCheckpointsLetTheWALBeginAnew commits far more than the WAL may hold.
func TestCheckpointsLetTheWALBeginAnew(t *testing.T) {
	db := stocked(t, t.TempDir())
	if err := db.orders.checkpoints.close(); err != nil { // the test does its work
		t.Fatal(err)
	}
	k, err := startCheckpointer(db.orders.checkpoints.path, db.orders.hold, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	var longest int64
	// How many pages an order takes depends on how many share a transaction.
	for n := 0; n < 24_000 || longest < finishPages && n < 100_000; n += 2000 {
		placeRange(t, db, n, n+2000, 10)
		pages, err := k.passive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		longest = max(longest, pages)
		if err := k.checkpoint(t.Context()); err != nil {
			t.Fatalf("checkpoint: %v", err)
		}
	}
	if longest > 2*finishPages {
		t.Errorf("the WAL grew to %d pages; it is to begin anew after %d", longest, finishPages)
	}
	if longest < finishPages {
		t.Errorf("the WAL had at most %d pages: the test proves nothing", longest)
	}
}

func TestACheckpointIsForcedWhenTheWALGrewTooLong(t *testing.T) {
	db := stocked(t, t.TempDir())
	placeRange(t, db, 0, 400, 100)
	k := db.orders.checkpoints
	path := k.path + "-wal"
	before, err := os.Stat(path)
	if err != nil || before.Size() == 0 {
		t.Fatalf("the WAL: %v, %v", before, err)
	}
	if err := db.orders.hold(t.Context(), func(c *hotConn) error { return k.force(t.Context(), c) }); err != nil {
		t.Fatalf("force: %v", err)
	}
	if after, err := os.Stat(path); err != nil || after.Size() != 0 {
		t.Errorf("the WAL after it: %v, %v; want it empty", after.Size(), err)
	}
}

// planOf returns the steps in which SQLite would answer a query.
func planOf(t *testing.T, db *DB, query string, args ...any) string {
	t.Helper()
	var steps []string
	err := readRows(t.Context(), db.read, 4, func(row []driver.Value) error {
		steps = append(steps, textOf(row[3]))
		return nil
	}, "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(steps, "; ")
}

// TestQueriesOfOrdersAreIndexScans asks SQLite how it would go about them.
func TestQueriesOfOrdersAreIndexScans(t *testing.T) {
	db := stocked(t, t.TempDir())
	placeRange(t, db, 0, 100, 100)
	plan := func(query string, args ...any) string {
		t.Helper()
		return planOf(t, db, query, args...)
	}
	for _, c := range []struct {
		q    order.Query
		want string
	}{
		{order.Query{}, "SEARCH o USING INDEX sqlite_autoindex_orders_1 (tenant_id=? AND id<?)"},
		{order.Query{CustomerID: "c"}, "SEARCH o USING INDEX orders_by_customer (tenant_id=? AND customer_id=? AND id<?)"},
		{order.Query{Status: order.Paid}, "SEARCH o USING INDEX orders_by_status (tenant_id=? AND status=? AND id<?)"},
		{order.Query{CustomerID: "c", Status: order.Paid}, "SEARCH o USING INDEX orders_by_customer (tenant_id=? AND customer_id=? AND id<?)"},
	} {
		c.q.TenantID, c.q.Limit = "demo", 10
		query, args := ordersQuery(c.q, "last")
		if diff := cmp.Diff(c.want, plan(query, args...)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.q, diff)
		}
	}
	for query, want := range map[string]string{
		dueWorked.head:  "SEARCH o USING INDEX orders_due (next_attempt_ns>? AND next_attempt_ns<?)",
		dueShipped.head: "SEARCH o USING INDEX orders_due_shipped (next_attempt_ns>? AND next_attempt_ns<?)",
	} {
		if diff := cmp.Diff(want, plan(query, 1, 10)); diff != "" {
			t.Errorf("%.60s (-want +got):\n%s", query, diff)
		}
	}
	if got := plan(pullForward.head, 1, 2); !strings.Contains(got, "orders_due (") {
		t.Errorf("pulling forward: %s", got)
	}
	if got := plan(countOrders, "placed"); !strings.Contains(got, "USING COVERING INDEX orders_by_status (tenant_id=? AND status=?)") || strings.Contains(got, "SCAN orders ") {
		t.Errorf("counting: %s", got)
	}
}
