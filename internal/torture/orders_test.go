package torture

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// shopper is one buyer that keeps ordering until its order is answered.
type shopper struct {
	name    string
	options load.OrdersOptions
	token   string
	report  load.OrdersReport
	err     error
}

// market is a stage with shoppers.
type market struct {
	*stage
	shoppers []*shopper
	seeds    []string // acked files of those who put in the stock
	admin    string   // token of the merchant
}

// Every way a payment can go wrong, but a provider that is down for good: such an
// order waits for an operator and never comes to its end.
const allCards = "tok_ok=30,tok_declined=3,tok_insufficient_funds=2,tok_flaky=4,tok_timeout_captured=3,tok_timeout=1,tok_late=2,tok_slow=2,tok_webhook_first=3"

const (
	marketSKUs = 20
	hotUnits   = 100 // of the one product that is sold out during the test
)

func newMarket(ctx context.Context, t *testing.T, seed uint64) *market {
	t.Helper()
	m := &market{stage: newStage(ctx, t, seed)}
	m.probe, m.serving = (*blackbox.Server).ReadyForOrders, 1500*time.Millisecond
	// Short times, so that what hangs is resolved within the test.
	m.o.Env = []string{
		"MILLRACE_PAYMENTS__TIMEOUT=500ms", "MILLRACE_ORDERS__LEASE=2s", "MILLRACE_ORDERS__PAYMENT_DEADLINE=15s",
	}
	m.admin = m.tokenOf(ctx, t, "merchant", "admin")
	cards, err := load.ParseMix(allCards)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, s := range []shopper{
		// A closed loop, so that something is always under way when the process is
		// killed; the second with every card; the third for the hot product.
		{name: "anna", options: load.OrdersOptions{Connections: 2, Cancel: 0.05, Duplicate: 0.05}},
		{name: "bela", options: load.OrdersOptions{Rate: 60, Connections: 16, Lines: load.Span{Min: 1, Max: 4}, Quantity: load.Span{Min: 1, Max: 3}, Tokens: cards, Cancel: 0.15, Duplicate: 0.15}},
		{name: "cleo", options: load.OrdersOptions{Rate: 60, Connections: 8, SKUs: 1, SKUPrefix: "hot-", Cancel: 0.1}},
	} {
		o := &s.options
		if o.SKUs == 0 {
			o.SKUs, o.SKUPrefix, o.Zipf = marketSKUs, "shop-", 1
		}
		s.token = m.tokenOf(ctx, t, s.name, "orders:write orders:read")
		o.URL, o.Token, o.Seed, o.NoSeed, o.AckedFile = "http://"+m.o.Listen, s.token, seed+uint64(i), true, filepath.Join(dir, s.name)
		o.Duration, o.Retry, o.RetryFor, o.RetryPause, o.Timeout = 24*time.Hour, true, time.Hour, 20*time.Millisecond, 10*time.Second
		m.shoppers = append(m.shoppers, &s)
	}
	return m
}

func (m *market) tokenOf(ctx context.Context, t *testing.T, subject, scopes string) string {
	t.Helper()
	token, err := blackbox.TokenFor(ctx, m.o.Binary, m.o.Data, subject, scopes)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// open puts in products and stock, while nobody is killed.
func (m *market) open(ctx context.Context, t *testing.T) {
	t.Helper()
	server := m.start(t)
	defer server.Kill()
	m.ready(ctx, t, server)
	for _, o := range []load.OrdersOptions{{SKUPrefix: "shop-", SKUs: marketSKUs, Stock: 1_000_000}, {SKUPrefix: "hot-", SKUs: 1, Stock: hotUnits}} {
		o.URL, o.Token, o.Count, o.AckedFile = server.URL, m.admin, 1, filepath.Join(t.TempDir(), "seed")
		if _, err := load.Orders(ctx, o); err != nil {
			t.Fatal(err)
		}
		m.seeds = append(m.seeds, o.AckedFile)
	}
	m.stop(ctx, t, server)
}

func (m *market) files() (all, shoppers []string) {
	for _, s := range m.shoppers {
		shoppers = append(shoppers, s.options.AckedFile)
	}
	return append(shoppers[:len(shoppers):len(shoppers)], m.seeds...), shoppers
}

func TestNoOrderIsLostChargedTwiceOrOversoldHoweverOftenTheServerIsKilled(t *testing.T) {
	kills := setting(t, "TORTURE_KILLS", 5)
	if kills == 0 {
		t.Skip("TORTURE_KILLS=0")
	}
	seed := setting(t, "TORTURE_SEED", int(time.Now().UnixNano()&0xffffff))
	t.Logf("%d kills, TORTURE_SEED=%d", kills, seed)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(kills)*15*time.Second)
	defer cancel()
	m := newMarket(ctx, t, uint64(seed))
	m.open(ctx, t)

	buying, stopBuying := context.WithCancel(ctx)
	defer stopBuying()
	var shoppers sync.WaitGroup
	for _, s := range m.shoppers {
		shoppers.Go(func() { s.report, s.err = load.Orders(buying, s.options) })
	}
	merchant := newClerk("http://"+m.o.Listen, m.admin)
	shoppers.Go(func() { merchant.work(buying) })
	// They must not outlive the test, whatever ends it.
	defer shoppers.Wait()
	defer stopBuying()

	server := m.killAgainAndAgain(ctx, t, kills)
	defer func() { server.Kill() }()
	all, own := m.files()
	letThrough(ctx, t, server, own[:2]) // the hot product may be sold out
	stopBuying()
	shoppers.Wait()
	m.checkShoppers(t)
	if merchant.strange != "" || merchant.done["shipments"] == 0 {
		t.Errorf("the merchant did %v; strange: %s", merchant.done, merchant.strange)
	}
	t.Logf("the merchant did %v; killed while %v", merchant.done, m.moments)

	m.verify(ctx, t, server, all, "after the last kill")
	m.repeat(ctx, t, server)
	m.drain(ctx, t, server)
	m.stop(ctx, t, server)
	m.checkFiles(ctx, t)
	m.checkOrderFile(ctx, t)
	server = m.start(t)
	m.ready(ctx, t, server)
	m.verify(ctx, t, server, all, "after a clean stop and start")
	m.stop(ctx, t, server)
}

func (m *market) checkShoppers(t *testing.T) {
	t.Helper()
	for _, s := range m.shoppers {
		c := s.report.Orders
		t.Logf("%s: %+v", s.name, c)
		if !errors.Is(s.err, context.Canceled) || c.Broken != 0 {
			t.Errorf("%s ended with: %v %q", s.name, s.err, s.report.Broken)
		}
		if c.Invalid != 0 || c.Failed != 0 || c.Placed == 0 {
			t.Errorf("%s: %d orders were invalid, %d failed, %d placed: %q", s.name, c.Invalid, c.Failed, c.Placed, s.report.Examples)
		}
	}
}

func (m *market) verify(ctx context.Context, t *testing.T, server *blackbox.Server, files []string, when string) {
	t.Helper()
	var out strings.Builder
	r, err := load.VerifyOrders(ctx, load.VerifyOrdersOptions{URL: server.URL, Token: m.admin, AckedFiles: files, Settle: 3 * time.Minute, History: true, Out: &out})
	if err != nil {
		t.Fatalf("%s: %v\n%s\nthe server's last words:\n%s", when, err, &out, server.LastWords())
	}
	if !r.Ledger || r.Found == 0 || r.Conserved != marketSKUs+1 || r.Parked != 0 {
		t.Fatalf("%s: not everything was compared:\n%s", when, &out)
	}
	t.Logf("%s:\n%s", when, &out)
}

// repeat sends acknowledged orders again as their buyers: the keys must still
// stand for them after all the restarts.
func (m *market) repeat(ctx context.Context, t *testing.T, server *blackbox.Server) {
	t.Helper()
	for _, s := range m.shoppers {
		o := load.VerifyOrdersOptions{URL: server.URL, Token: m.tokenOf(ctx, t, s.name, "admin"), AckedFiles: []string{s.options.AckedFile}, Shared: true, Replay: 50}
		if r, err := load.VerifyOrders(ctx, o); err != nil || r.Replays == 0 {
			t.Errorf("%s's orders sent again: %v, %+v", s.name, err, r)
		}
	}
}

// drain waits until everything was told that is to be told of orders, and is
// queryable.
func (m *market) drain(ctx context.Context, t *testing.T, server *blackbox.Server) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		metrics, err := server.Metrics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		waiting, known := metrics.Sum("millrace_outbox_rows")
		backlog, logged := metrics.Sum("millrace_wal_backlog_bytes")
		if !known || !logged {
			t.Fatal("the server has no metric millrace_outbox_rows or millrace_wal_backlog_bytes")
		}
		if waiting == 0 && backlog == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%v outbox rows and %v bytes of log are not worked off", waiting, backlog)
		}
	}
}

// checkOrderFile looks into the database that the server left, past all of its
// code.
func (m *market) checkOrderFile(ctx context.Context, t *testing.T) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(m.o.Data, "millrace.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	one := func(query string) (n int64) {
		t.Helper()
		if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		return n
	}
	var whole string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&whole); err != nil || whole != "ok" {
		t.Errorf("millrace.db: integrity check: %q, %v", whole, err)
	}
	for what, query := range map[string]string{
		"orders without a key, or with several": `SELECT count(*) FROM orders o WHERE (SELECT count(*) FROM idempotency_keys k
			WHERE k.tenant_id = o.tenant_id AND k.scope = 'order' AND k.subject = o.customer_id AND k.object_id = o.id) <> 1`,
		"keys without an order": `SELECT count(*) FROM idempotency_keys k WHERE k.scope = 'order'
			AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = k.tenant_id AND o.id = k.object_id)`,
		"orders whose history is not as long as their version": `SELECT count(*) FROM orders o WHERE o.version <> (SELECT count(*) FROM order_history h
			WHERE h.tenant_id = o.tenant_id AND h.order_id = o.id)`,
		"products whose reservations are not the orders'": `
			WITH held AS (SELECT o.tenant_id AS tenant, json_extract(l.value, '$.sku') AS sku, sum(json_extract(l.value, '$.quantity')) AS units
			  FROM orders o, json_each(o.lines) l WHERE o.status IN ('placed', 'charging', 'cancelling', 'paid', 'fulfilling') GROUP BY 1, 2)
			SELECT count(*) FROM stock s LEFT JOIN held h ON h.tenant = s.tenant_id AND h.sku = s.sku WHERE s.reserved <> coalesce(h.units, 0)`,
		"messages that were never told": `SELECT count(*) FROM outbox`,
	} {
		if n := one(query); n != 0 {
			t.Errorf("millrace.db: %d %s", n, what)
		}
	}
	m.checkOrderEvents(ctx, t, map[string]told{
		"order.placed": {one(`SELECT count(*) FROM orders`), one(`SELECT sum(total) FROM orders`)},
		"order.paid": {one(`SELECT count(*) FROM order_history WHERE event = 'captured' AND to_status = 'paid'`),
			one(`SELECT sum(total) FROM orders o WHERE EXISTS (SELECT 1 FROM order_history h
			  WHERE h.tenant_id = o.tenant_id AND h.order_id = o.id AND h.event = 'captured' AND h.to_status = 'paid')`)},
	})
}

// told is how many events there are of a type, and their amounts in all.
type told struct{ events, amount int64 }

// checkOrderEvents checks that each order stands among the events as placed and
// as paid exactly once, with its amount.
func (m *market) checkOrderEvents(ctx context.Context, t *testing.T, want map[string]told) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.o.Data, "events", "*.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no day files in %s: %v", m.o.Data, err)
	}
	for kind, want := range want {
		var rows int64
		var counted told
		for _, file := range files {
			db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			var c told
			err = errors.Join(
				db.QueryRowContext(ctx, `SELECT count(*) FROM events WHERE type = $1`, kind).Scan(&n),
				db.QueryRowContext(ctx, `SELECT coalesce(sum(count), 0), coalesce(sum(amount), 0) FROM money_rollups WHERE type = $1`, kind).Scan(&c.events, &c.amount),
				db.Close())
			if err != nil {
				t.Fatal(err)
			}
			rows, counted.events, counted.amount = rows+n, counted.events+c.events, counted.amount+c.amount
		}
		if rows != want.events || counted != want {
			t.Errorf("%d events %s are stored, %d with an amount of %d in all are counted; the orders make %d of %d", rows, kind, counted.events, counted.amount, want.events, want.amount)
		}
	}
}
