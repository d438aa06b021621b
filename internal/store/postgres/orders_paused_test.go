package postgres

import (
	"context"
	"errors"
	"testing"

	"millrace/internal/order"
)

// paused places an order on an instance that stands still just before it sends
// what locks and commits, or, of a SKU that is nearly gone, just before it
// commits what it has locked. resume lets it go on, and answers how it ended.
func paused(t testing.TB, db *DB, placements []*order.Placement) (resume func() error) {
	t.Helper()
	stopped, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	first := true
	db.orders.faults.beforeCommit = func() error {
		if first {
			first = false
			close(stopped)
			<-goOn
		}
		return nil
	}
	go func() { ended <- db.Orders().Place(context.Background(), placements, benchPolicy) }()
	select {
	case <-stopped:
	case err := <-ended:
		t.Fatalf("it did not come to its commit: %v", err)
	}
	return func() error {
		close(goOn)
		return <-ended
	}
}

// wantToPlace places within a time that is well below what a lock is waited for.
func wantToPlace(t testing.TB, db *DB, batch []*order.Placement) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*ownerIdleTime)
	defer cancel()
	err := db.Orders().Place(ctx, batch, benchPolicy)
	for _, p := range batch {
		err = errors.Join(err, p.Err)
	}
	if err != nil {
		t.Errorf("another instance's placement while one is paused: %v", err)
	}
}

func TestAnInstanceThatIsPausedBeforeItsCommitHasLockedNothing(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 2, 1)
	s := newShoppers(1, 1)
	mustPlace(t, dbs[1], s.batch(1))
	resume := paused(t, dbs[1], s.batch(1))
	writing := tally(t, dbs[0], `SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE application_name = 'millrace/shop-1' AND mode IN ('RowShareLock', 'RowExclusiveLock') AND query NOT LIKE '%instances%'`)
	if writing > 0 {
		t.Errorf("the paused instance has %d locks for writing", writing)
	}
	wantToPlace(t, dbs[0], s.batch(1))
	if err := resume(); err != nil {
		t.Errorf("the paused instance's Place: %v", err)
	}
	if n := tally(t, dbs[0], `SELECT count(*) FROM orders`); n != 3 {
		t.Errorf("there are %d orders, want 3", n)
	}
}

// The locks of a SKU that is nearly gone are taken a round trip before the commit.
func TestTheLocksOfAnInstanceThatIsPausedAreTakenFromIt(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 2, 1)
	s := newShoppers(1, 1)
	putStock(t, dbs[0], demo(s.skus[0]), 3)
	mustPlace(t, dbs[1], s.batch(1))
	resume := paused(t, dbs[1], s.batch(1))
	wantToPlace(t, dbs[0], s.batch(1))
	if err := resume(); err != nil { // it begins again
		t.Errorf("the paused instance's Place: %v", err)
	}
	if n := tally(t, dbs[0], `SELECT count(*) FROM orders`); n != 3 {
		t.Errorf("there are %d orders, want 3", n)
	}
}
