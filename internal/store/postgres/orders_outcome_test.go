package postgres

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/internal/order"
	"millrace/internal/servers"
	"millrace/internal/store/storetest"
)

// throughProxy opens a shop whose connections all go through a proxy.
func throughProxy(t testing.TB) (*DB, *servers.Proxy) {
	t.Helper()
	direct, err := url.Parse(freshDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := servers.StartProxy(t.Context(), servers.ProxyOptions{Target: direct.Host, Postgres: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	direct.Host = proxy.Addr()
	return openShops(t, direct.String(), 1, 1)[0], proxy
}

// happened waits for a fault.
func happened(t testing.TB, f *servers.Fault) {
	t.Helper()
	select {
	case <-f.Done():
	case <-time.After(time.Minute):
		t.Fatal("the fault did not happen: the test proves nothing")
	}
}

func TestWhenTheReplyToACommitIsLostTheServerIsAsked(t *testing.T) {
	db, proxy := throughProxy(t)
	s := newShoppers(1, 1)
	mustPlace(t, db, s.batch(1)) // so that connections are ready
	reserved := stockOf(t, db, demo(s.skus[0])).Reserved

	lost := proxy.LoseCommitReply()
	batch := s.batch(3)
	mustPlace(t, db, batch)
	happened(t, lost)
	if got := stockOf(t, db, demo(s.skus[0])).Reserved; got != reserved+3 {
		t.Errorf("%d units are reserved, want %d", got, reserved+3)
	}
	again := s.batch(1)[0]
	again.Key, again.Order.CustomerID, again.Fingerprint = batch[0].Key, batch[0].Order.CustomerID, batch[0].Fingerprint
	if mustPlace(t, db, []*order.Placement{again}); !again.Replayed || again.Placed.ID != batch[0].Order.ID {
		t.Errorf("the same key again: replayed %v, %v", again.Replayed, again.Err)
	}

	lost = proxy.LoseCommitReply()
	mustAdvance(t, db, []order.Order{batch[0].Placed}, order.EventChargeIntended)
	happened(t, lost)
	// The relay was told, too.
	select {
	case <-db.Outbox().Written("bus"):
	default:
		t.Error("the lane was not signalled")
	}
}

func TestWhenTheCommitDoesNotArriveNothingWasDone(t *testing.T) {
	db, proxy := throughProxy(t)
	s := newShoppers(1, 1)
	first := s.batch(1)
	mustPlace(t, db, first)

	cut := proxy.CutCommit()
	batch := s.batch(3)
	err := db.Orders().Place(t.Context(), batch, benchPolicy)
	happened(t, cut)
	if err == nil || errors.Is(err, order.ErrUnknownOutcome) || errors.Is(err, order.ErrData) {
		t.Errorf("Place: %v, want an error that says that nothing was placed", err)
	}
	if got := stockOf(t, db, demo(s.skus[0])).Reserved; got != 1 {
		t.Errorf("%d units are reserved, want 1", got)
	}
	mustPlace(t, db, batch)

	cut = proxy.CutCommit()
	_, err = db.Orders().Advance(t.Context(), []*order.Step{{TenantID: "demo", OrderID: first[0].Placed.ID, Event: order.EventCancelAsked, At: time.Now()}}, benchPolicy)
	happened(t, cut)
	if err == nil || errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Advance: %v, want an error that says that nothing was done", err)
	}
	if o, err := db.Orders().Order(t.Context(), "demo", first[0].Placed.ID); err != nil || o.Status != order.Placed {
		t.Errorf("the order is %s, %v", o.Status, err)
	}
}

func TestAConnectionThatEndsInTheMiddleOfTheStatementsHasDoneNothing(t *testing.T) {
	db, proxy := throughProxy(t)
	s := newShoppers(1, 1)
	mustPlace(t, db, s.batch(1))
	for _, bytes := range []int{1, 2000, 20_000, 60_000} {
		cut := proxy.CutAfterBytes(bytes)
		err := db.Orders().Place(t.Context(), s.batch(200), benchPolicy)
		happened(t, cut)
		if err == nil || errors.Is(err, order.ErrUnknownOutcome) || errors.Is(err, order.ErrData) {
			t.Errorf("cut after %d bytes: %v, want an error that says that nothing was placed", bytes, err)
		}
		if n := tally(t, db, `SELECT count(*) FROM orders`); n != 1 {
			t.Errorf("cut after %d bytes: %d orders, want 1", bytes, n)
		}
	}
}

func TestWhenNobodyCanBeAskedTheOutcomeIsUnknown(t *testing.T) {
	db, proxy := throughProxy(t)
	db.orders.patience = 300 * time.Millisecond
	mustPlace(t, db, newShoppers(1, 1).batch(1))
	db.vital.Close()
	lost := proxy.LoseCommitReply()
	err := db.Orders().Place(t.Context(), newShoppers(2, 1).batch(1), benchPolicy)
	happened(t, lost)
	if !errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Place: %v, want ErrUnknownOutcome", err)
	}
	if n := tally(t, db, `SELECT count(*) FROM orders`); n != 2 {
		t.Errorf("there are %d orders, want 2", n)
	}
}

// What pg_xact_status says is not all: see outcome.
func TestTheOutcomeOfATransaction(t *testing.T) {
	db := openShops(t, freshDatabase(t), 1, 1)[0]
	db.orders.patience = 100 * time.Millisecond
	s := newShoppers(1, 1)
	batch, others := s.batch(1), s.batch(1)
	mustPlace(t, db, batch)
	written := evidenceOf(t, db, batch[0].Placed.ID)
	var xid string
	if err := db.hot.QueryRow(t.Context(), `SELECT xmin::text FROM order_history`).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	mustPlace(t, db, others)
	tx, err := db.hot.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	var running string
	if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&running); err != nil {
		t.Fatal(err)
	}
	future, _ := strconv.ParseUint(running, 10, 64)
	unwritten := evidenceOf(t, db, others[0].Placed.ID)
	unwritten.atNs++
	for _, c := range []struct {
		name  string
		xid   string
		proof evidence
		want  bool
		fails string
	}{
		{"committed, and its row is there", xid, written, true, ""},
		{"committed, but its row is not there: the id was given out twice", xid, unwritten, false, ""},
		{"never heard of", strconv.FormatUint(future+1_000_000, 10), written, false, ""},
		{"still running", running, written, false, "in progress"},
	} {
		done, err := db.orders.resolve(t.Context(), c.xid, c.proof)
		if done != c.want || (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v, %v", c.name, done, err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if done, err := db.orders.resolve(t.Context(), running, written); done || err != nil {
		t.Errorf("rolled back: %v, %v", done, err)
	}
}

func TestACallerThatGivesUpDuringTheStatementsHasDoneNothing(t *testing.T) {
	db := openShops(t, freshDatabase(t), 1, 1)[0]
	s := newShoppers(1, 1)
	putStock(t, db, demo(s.skus[0]), 10)
	mustPlace(t, db, s.batch(1))
	// Somebody holds the stock, so that the statements do not end.
	tx, err := db.hot.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `SELECT FROM stock FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = db.Orders().Place(ctx, s.batch(8), benchPolicy) // nearly all there is: under locks
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Place: %v, want an error that says that nothing was placed", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := stockOf(t, db, demo(s.skus[0])); got != (storetest.Stock{OnHand: 10, Reserved: 1, Version: got.Version}) {
		t.Errorf("the stock: %+v", got)
	}
	mustPlace(t, db, s.batch(9))
}

// evidenceOf is what proves that an order was placed.
func evidenceOf(t testing.TB, db *DB, orderID string) evidence {
	t.Helper()
	e := evidence{tenantID: "demo", orderID: orderID, version: 1}
	err := db.hot.QueryRow(t.Context(), `SELECT event, at_ns FROM order_history WHERE order_id = $1 AND version = 1`, orderID).Scan(&e.event, &e.atNs)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestACallerThatGivesUpBeforeTheCommitHasDoneNothing(t *testing.T) {
	db := openShops(t, freshDatabase(t), 1, 1)[0]
	s := newShoppers(1, 1)
	mustPlace(t, db, s.batch(1))
	ctx, cancel := context.WithCancel(t.Context())
	db.orders.faults.beforeCommit = func() error { cancel(); return nil }
	if err := db.Orders().Place(ctx, s.batch(1), benchPolicy); !errors.Is(err, context.Canceled) || errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Place: %v, want an error that says that nothing was placed", err)
	}
	if n := tally(t, db, `SELECT count(*) FROM orders`); n != 1 {
		t.Errorf("there are %d orders, want 1", n)
	}
}

// The commit was sent, and nobody knows whether it has arrived.
func TestACallerThatGivesUpOnAServerThatIsCutOffIsToldSoSoon(t *testing.T) {
	db, proxy := throughProxy(t)
	db.orders.patience = 300 * time.Millisecond
	s := newShoppers(1, 1)
	mustPlace(t, db, s.batch(1))
	db.orders.faults.beforeCommit = func() error { proxy.BlackHole(); return nil }
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := db.Orders().Place(ctx, s.batch(1), benchPolicy); !errors.Is(err, order.ErrUnknownOutcome) {
		t.Errorf("Place: %v, want ErrUnknownOutcome", err)
	}
	if took := time.Since(began); took > commitTime/2 {
		t.Errorf("it took %v to give up", took)
	}
	if err := proxy.Pass(); err != nil {
		t.Fatal(err)
	}
}

func TestWhenTheReplyToACommitOfPartsIsLostTheServerIsAsked(t *testing.T) {
	db, proxy := throughProxy(t)
	s := newShoppers(1, 1)
	first := s.batch(1)
	mustPlace(t, db, first)
	batch := s.batch(4)
	batch[2].Order.ID = first[0].Order.ID // which is refused
	commits := 0
	lost := (*servers.Fault)(nil)
	db.orders.faults.beforeCommit = func() error {
		if commits++; commits == 2 { // the first is refused
			lost = proxy.LoseCommitReply()
		}
		return nil
	}
	if err := db.Orders().Place(t.Context(), batch, benchPolicy); err != nil {
		t.Errorf("Place: %v", err)
	}
	happened(t, lost)
	for i, p := range batch {
		if (p.Err != nil) != (i == 2) {
			t.Errorf("placement %d: %v", i, p.Err)
		}
	}
	if n := tally(t, db, `SELECT count(*) FROM orders`); n != 4 {
		t.Errorf("there are %d orders, want 4", n)
	}
}
