package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/coalesce"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

// gather has the works run in one flush: they wait while the test has the
// connection, and begin together when it lets go.
func gather(t *testing.T, db *DB, works ...func(context.Context) error) []error {
	t.Helper()
	errs := make([]chan error, len(works))
	err := db.orders.hold(t.Context(), func(*hotConn) error {
		first := make(chan error, 1) // its flush begins alone, and waits for the connection
		go func() { first <- db.orders.transact(context.Background(), func(*hotConn) error { return nil }) }()
		for db.orders.group.Queued() < 1 {
			runtime.Gosched()
		}
		for i, work := range works {
			errs[i] = make(chan error, 1)
			go func() { errs[i] <- work(context.Background()) }()
		}
		for db.orders.group.Queued() < int64(1+len(works)) {
			runtime.Gosched()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]error, len(works))
	for i := range errs {
		got[i] = <-errs[i]
	}
	return got
}

// countCommits counts the commits that write.
func countCommits(t *testing.T, db *DB) *int {
	t.Helper()
	n := new(int)
	setFaults(t, db, func(f *faults) { f.beforeCommit = func() error { *n++; return nil } })
	return n
}

func setFaults(t *testing.T, db *DB, set func(*faults)) {
	t.Helper()
	if err := db.orders.hold(t.Context(), func(*hotConn) error { set(&db.orders.faults); return nil }); err != nil {
		t.Fatal(err)
	}
}

func placing1(db *DB, p *order.Placement) func(context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(db.Orders().Place(ctx, []*order.Placement{p}, benchPolicy), p.Err)
	}
}

func stepping(db *DB, n int, e order.Event, out *order.Outcome) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := db.Orders().Advance(ctx, []*order.Step{{TenantID: "demo", OrderID: buyer(n).Order.ID, Event: e, At: buyer(n).Order.PlacedAt}}, benchPolicy)
		if err == nil {
			*out = got[0]
		}
		return err
	}
}

func TestWhatIsWrittenAtOneMomentSharesOneCommit(t *testing.T) {
	db := stocked(t, t.TempDir())
	placeRange(t, db, 0, 2, 2)
	commits := countCommits(t, db)
	var intended, cancelled order.Outcome
	p := buyer(5)
	errs := gather(t, db, placing1(db, p), stepping(db, 0, order.EventChargeIntended, &intended), stepping(db, 1, order.EventCancelAsked, &cancelled),
		func(ctx context.Context) error { return db.Outbox().Remove(ctx, outbox.LaneBus, []int64{1}) })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if *commits != 1 {
		t.Errorf("%d commits", *commits)
	}
	if p.Placed.Status != order.Placed || intended.Order.Status != order.Charging || cancelled.Order.Status != order.Cancelled {
		t.Errorf("placed %s, %s, %s", p.Placed.Status, intended.Order.Status, cancelled.Order.Status)
	}
	rows, err := db.Outbox().Pending(t.Context(), outbox.LaneBus, 0, 10)
	if err != nil || len(rows) != 3 { // of three placed and one cancelled one was removed
		t.Errorf("%d rows in the outbox, error %v", len(rows), err)
	}
}

func TestNobodyPaysForAnothersFailure(t *testing.T) {
	fault := errors.New("a fault of the test")
	for name, bad := range map[string]func(*hotConn) error{
		"an error": func(c *hotConn) error {
			return errors.Join(c.exec("UPDATE stock SET reserved = 7"), fault) // to be rolled back
		},
		"a refusal of the database": func(c *hotConn) error {
			return refusedData(c.exec("UPDATE stock SET reserved = -1"))
		},
		"a transaction that ended under it": func(c *hotConn) error { return errors.Join(c.exec("ROLLBACK"), fault) },
	} {
		t.Run(name, func(t *testing.T) {
			db := stocked(t, t.TempDir())
			placeRange(t, db, 0, 1, 1)
			var out order.Outcome
			p, good := buyer(5), buyer(6)
			// A placement that the database refuses is set aside within its part.
			p.Order.Lines = []order.Line{{SKU: "mug", Quantity: -1}}
			errs := gather(t, db, func(ctx context.Context) error { return db.orders.transact(ctx, bad) },
				stepping(db, 0, order.EventChargeIntended, &out), placing1(db, p), placing1(db, good))
			if errs[0] == nil || errs[1] != nil || !errors.Is(errs[2], order.ErrData) || errs[3] != nil {
				t.Fatalf("errors: %v", errs)
			}
			if !out.Applied || good.Placed.Status != order.Placed {
				t.Errorf("applied %v, placed %q", out.Applied, good.Placed.Status)
			}
			var reserved int
			if err := db.read.QueryRow("SELECT reserved FROM stock").Scan(&reserved); err != nil || reserved != 2 {
				t.Errorf("reserved %d, error %v; want 2", reserved, err)
			}
		})
	}
}

func TestAPanicOfOneEndsTheTransactionAndNothingIsWritten(t *testing.T) {
	db := stocked(t, t.TempDir())
	placeRange(t, db, 0, 1, 1)
	p := buyer(5)
	errs := gather(t, db, placing1(db, p), func(ctx context.Context) error {
		return db.orders.transact(ctx, func(*hotConn) error { panic("a fault of the test") })
	})
	if errs[1] == nil {
		t.Error("the panic was swallowed")
	}
	var orders int
	if err := db.read.QueryRow("SELECT count(*) FROM orders").Scan(&orders); err != nil {
		t.Fatal(err)
	}
	if want := map[bool]int{true: 1, false: 2}[errs[0] != nil]; orders != want {
		t.Errorf("the other was told %v and there are %d orders", errs[0], orders)
	}
	placeRange(t, db, 10, 20, 10)
}

func TestACommitThatFailsIsToldToAllWhoShareIt(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     func(*faults, error)
		unknown bool
		orders  int
	}{
		{"it did not take place", func(f *faults, err error) { f.beforeCommit = func() error { return err } }, false, 1},
		{"nobody knows", func(f *faults, err error) { f.afterCommit = func() error { return err } }, true, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := stocked(t, t.TempDir())
			placeRange(t, db, 0, 1, 1)
			fault := errors.New("a fault of the test")
			setFaults(t, db, func(f *faults) { c.set(f, fault) })
			errs := gather(t, db, placing1(db, buyer(5)), placing1(db, buyer(6)))
			for i, err := range errs {
				if !errors.Is(err, fault) || errors.Is(err, order.ErrUnknownOutcome) != c.unknown {
					t.Errorf("%d is told %v", i, err)
				}
			}
			setFaults(t, db, func(f *faults) { *f = faults{} })
			var orders int
			if err := db.read.QueryRow("SELECT count(*) FROM orders").Scan(&orders); err != nil || orders != c.orders {
				t.Errorf("%d orders, error %v; want %d", orders, err, c.orders)
			}
		})
	}
}

// writeSomething is a part's work.
func writeSomething(c *hotConn) error {
	c.wrote = true
	return c.exec("UPDATE stock SET version = version + 1")
}

func transacting(db *DB, work func(*hotConn) error) func(context.Context) error {
	return func(ctx context.Context) error { return db.orders.transact(ctx, work) }
}

// callsOf are what a flush gets for the works, in their order.
func callsOf(works ...func(*hotConn) error) []*coalesce.Call[part, struct{}] {
	calls := make([]*coalesce.Call[part, struct{}], len(works))
	for i, work := range works {
		calls[i] = &coalesce.Call[part, struct{}]{In: part{together: work,
			run: func(o *orders, c *hotConn) error { return o.transaction(c, work) }}}
	}
	return calls
}

func TestWhatIsNoPartsDoingIsTriedOnce(t *testing.T) {
	fault := errors.New("a fault of the test")
	for _, c := range []struct {
		name  string
		set   func(f *faults, hook func() error)
		first error // what the first part answers where others' work is
		tries int
	}{
		{"a transaction that cannot begin", func(f *faults, hook func() error) { f.beforeBegin = hook }, nil, 1},
		{"one that cannot be committed", func(f *faults, hook func() error) { f.beforeCommit = hook }, nil, 1},
		{"one of a single part that cannot begin", func(f *faults, hook func() error) {
			together := true
			f.beforeBegin = func() error {
				if together {
					together = false
					return nil
				}
				return hook()
			}
		}, errors.New("ends it for all"), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := stocked(t, t.TempDir())
			tries, alone := 0, true
			first := func(hc *hotConn) error {
				if c.first != nil && alone {
					alone = false
					return c.first
				}
				return writeSomething(hc)
			}
			opening := true // gather begins with a flush that has nothing to write
			setFaults(t, db, func(f *faults) {
				c.set(f, func() error { tries++; return fault })
				hook := f.beforeBegin
				f.beforeBegin = func() error {
					if opening {
						opening = false
						return nil
					}
					if hook == nil {
						return nil
					}
					return hook()
				}
			})
			errs := gather(t, db, transacting(db, first), transacting(db, writeSomething), transacting(db, writeSomething))
			for i, err := range errs {
				if !errors.Is(err, fault) || errors.Is(err, order.ErrUnknownOutcome) {
					t.Errorf("%d is told %v", i, err)
				}
			}
			if tries != c.tries {
				t.Errorf("tried %d times, want %d", tries, c.tries)
			}
			setFaults(t, db, func(f *faults) { *f = faults{} })
			placeRange(t, db, 0, 10, 10)
		})
	}
}

func TestWhatNeverBeganHasNoUnknownOutcome(t *testing.T) {
	db := stocked(t, t.TempDir())
	var conn *hotConn
	setFaults(t, db, func(f *faults) {
		f.beforeCommit = func() error { // the transaction is gone, and nobody knows how it ended
			return errors.Join(conn.exec("ROLLBACK"), errors.New("a fault of the test"))
		}
	})
	ran := 0
	calls := callsOf(func(c *hotConn) error { conn = c; return writeSomething(c) },
		func(*hotConn) error { ran++; return errors.New("ends it for all") })
	err := db.orders.hold(t.Context(), func(c *hotConn) error { return db.orders.flushOn(t.Context(), c, calls) })
	if !errors.Is(err, driver.ErrBadConn) || !errors.Is(calls[0].Err, order.ErrUnknownOutcome) {
		t.Errorf("error %v; the one whose commit broke is told %v", err, calls[0].Err)
	}
	if err := calls[1].Err; err == nil || errors.Is(err, order.ErrUnknownOutcome) || ran != 1 {
		t.Errorf("the one that had not begun, after %d runs, is told %v", ran, err)
	}
	setFaults(t, db, func(f *faults) { *f = faults{} })
	placeRange(t, db, 0, 10, 10)
}

func TestAFlushEndsInTime(t *testing.T) {
	db := stocked(t, t.TempDir())
	ctx, over := context.WithCancel(t.Context())
	defer over()
	runs := make([]int, 3)
	work := func(i int) func(*hotConn) error {
		return func(c *hotConn) error {
			if runs[i]++; runs[0] == 2 {
				over() // alone now
			} else if i == 2 {
				return errors.New("ends it for all")
			}
			return writeSomething(c)
		}
	}
	calls := callsOf(work(0), work(1), work(2))
	if err := db.orders.hold(t.Context(), func(c *hotConn) error { return db.orders.flushOn(ctx, c, calls) }); err != nil {
		t.Fatal(err)
	}
	if calls[0].Err != nil || !errors.Is(calls[1].Err, context.Canceled) || !errors.Is(calls[2].Err, context.Canceled) {
		t.Errorf("errors %v, %v, %v; want none and two that never began", calls[0].Err, calls[1].Err, calls[2].Err)
	}
	if diff := cmp.Diff([]int{2, 1, 1}, runs); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func TestWhoGivesUpWaitingHasWrittenNothing(t *testing.T) {
	db := stocked(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	err := db.orders.hold(t.Context(), func(*hotConn) error {
		first := make(chan error, 1)
		go func() { first <- db.orders.transact(context.Background(), func(*hotConn) error { return nil }) }()
		for db.orders.group.Queued() < 1 {
			runtime.Gosched()
		}
		go func() { done <- placing1(db, buyer(5))(ctx) }()
		for db.orders.group.Queued() < 2 {
			runtime.Gosched()
		}
		cancel()
		return <-done
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("error %v", err)
	}
	var orders int
	if err := db.read.QueryRow("SELECT count(*) FROM orders").Scan(&orders); err != nil || orders != 0 {
		t.Errorf("%d orders, error %v", orders, err)
	}
}
