package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/load"
)

const (
	crowdSKUs = 20
	// crowdHotUnits are of the one product that sells out during each stage.
	crowdHotUnits = 150
	// crowdConnections is how many batches a device has under way at most.
	crowdConnections = 8
	// crowdTimeout bounds one attempt of a client, who then sends again: an instance
	// may be paused.
	crowdTimeout = 4 * time.Second
	// settleBound is how long orders may take to come to their end after a stage.
	settleBound = 90 * time.Second
)

// crowd is everyone who comes during one stage: devices, buyers and a merchant, all
// through the front door. It has a tenant of its own, so that after the stage all
// that this tenant has can be accounted for.
type crowd struct {
	c        *cluster
	tenant   string
	admin    string // token of the merchant
	writers  []*writer
	shoppers []*shopper
	seeds    []string // acked files of those who put in the stock
	merchant *clerk
	stop     context.CancelFunc
	wait     func()
}

// newCrowd puts products and stock in and lets everyone begin.
func newCrowd(ctx context.Context, t *testing.T, c *cluster, tenant string) *crowd {
	t.Helper()
	dir := c.in("crowd-" + tenant) // it is looked at after the stage
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w := &crowd{c: c, tenant: tenant, admin: c.token(ctx, t, tenant, "merchant", "admin")}
	w.merchant = newClerk(c.nginx.URL(), w.admin)
	for n, o := range []load.OrdersOptions{{SKUPrefix: "shop-", SKUs: crowdSKUs, Stock: 1_000_000}, {SKUPrefix: "hot-", SKUs: 1, Stock: crowdHotUnits}} {
		o.URL, o.Token, o.Count, o.AckedFile = c.nginx.URL(), w.admin, 1, filepath.Join(dir, fmt.Sprint("seed-", n))
		if _, err := load.Orders(ctx, o); err != nil {
			t.Fatalf("open the shop of %s: %v", tenant, err)
		}
		w.seeds = append(w.seeds, o.AckedFile)
	}
	events := c.token(ctx, t, tenant+"-fleet", "fleet", "events:write events:read")
	for _, x := range []writer{{batch: 1, rate: 100}, {batch: 17, rate: 600}, {batch: 100, rate: 1400}} {
		x.file = filepath.Join(dir, fmt.Sprint("events-", x.batch))
		w.writers = append(w.writers, &x)
	}
	w.prepareShoppers(ctx, t, dir)

	devices := c.nginx.URL()
	if c.windowed {
		devices = c.instances[0].server.URL
	}
	coming, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, x := range w.writers {
		all.Go(func() {
			x.report, x.err = load.Events(coming, load.EventsOptions{
				URL: devices, Token: events, Rate: x.rate, Batch: x.batch, Connections: crowdConnections, Duration: 24 * time.Hour,
				Retry: true, RetryFor: time.Hour, RetryPause: 100 * time.Millisecond, Timeout: crowdTimeout, AckedFile: x.file,
			})
		})
	}
	for _, s := range w.shoppers {
		all.Go(func() { s.report, s.err = load.Orders(coming, s.options) })
	}
	all.Go(func() { w.merchant.work(coming) })
	// They must not outlive the stage, whatever ends it.
	w.stop, w.wait = stop, all.Wait
	t.Cleanup(func() { stop(); all.Wait() })
	return w
}

func (w *crowd) prepareShoppers(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	cards, err := load.ParseMix(allCards)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range []shopper{
		{name: "anna", options: load.OrdersOptions{Rate: 30, Connections: 8, Cancel: 0.05, Duplicate: 0.1}},
		{name: "bela", options: load.OrdersOptions{Rate: 25, Connections: 16, Lines: load.Span{Min: 1, Max: 4}, Quantity: load.Span{Min: 1, Max: 3}, Tokens: cards, Cancel: 0.15, Duplicate: 0.15}},
		{name: "cleo", options: load.OrdersOptions{Rate: 20, Connections: 8, SKUs: 1, SKUPrefix: "hot-", Cancel: 0.1}},
	} {
		o := &s.options
		if o.SKUs == 0 {
			o.SKUs, o.SKUPrefix, o.Zipf = crowdSKUs, "shop-", 1
		}
		s.token = w.c.token(ctx, t, w.tenant, s.name, "orders:write orders:read")
		o.URL, o.Token, o.Seed, o.NoSeed, o.AckedFile = w.c.nginx.URL(), s.token, uint64(i+1), true, filepath.Join(dir, s.name)
		o.Duration, o.Retry, o.RetryFor, o.RetryPause, o.Timeout = 24*time.Hour, true, time.Hour, 100*time.Millisecond, crowdTimeout
		w.shoppers = append(w.shoppers, &s)
	}
}

// files are where devices and buyers note what was acknowledged.
func (w *crowd) files() (events, orders []string) {
	for _, x := range w.writers {
		events = append(events, x.file)
	}
	for _, s := range w.shoppers {
		orders = append(orders, s.options.AckedFile)
	}
	return events, append(orders, w.seeds...)
}

// leave sends everyone home and looks at what they were answered.
func (w *crowd) leave(t *testing.T) {
	t.Helper()
	w.stop()
	w.wait()
	away := map[string]int64{} // answers of those who were not there
	seen := func(statuses map[string]int64) {
		for status, n := range statuses {
			if status >= "500" {
				away[status] += n
			}
		}
	}
	defer func() {
		t.Logf("%s: clients saw %v, and sent again until they were answered otherwise", w.tenant, away)
	}()
	for _, x := range w.writers {
		e := x.report.Events
		seen(x.report.Statuses)
		t.Logf("%s: batches of %d: %d acked (%d again), %d unknown at the end, %d retries, answers %v", w.tenant, x.batch, e.Acked, e.Duplicates, e.Unknown, e.Retries, x.report.Statuses)
		// What is unknown can only be what was under way when all went home.
		if !errors.Is(x.err, context.Canceled) || e.Unknown > int64(crowdConnections*x.batch) || e.Refused+e.Unreached > int64(crowdConnections*x.batch) || e.Rejected != 0 || e.Failed != 0 || e.Acked == 0 {
			t.Errorf("%s: the writer of batches of %d ended with %v: %+v %q", w.tenant, x.batch, x.err, e, x.report.Examples)
		}
	}
	for _, s := range w.shoppers {
		c := s.report.Orders
		seen(s.report.Statuses)
		t.Logf("%s: %s: %d placed, %d out of stock, %d unknown at the end, %d cancelled, %d retries, answers %v", w.tenant, s.name, c.Placed, c.OutOfStock, c.Unknown, c.Cancelled, c.Retries, s.report.Statuses)
		if !errors.Is(s.err, context.Canceled) || c.Unknown+c.Refused+c.Unreached > int64(s.options.Connections) || c.Broken != 0 || c.Invalid != 0 || c.Failed != 0 || c.Placed == 0 {
			t.Errorf("%s: %s ended with %v: %+v %q %q", w.tenant, s.name, s.err, c, s.report.Examples, s.report.Broken)
		}
	}
	if w.merchant.strange != "" || w.merchant.done["shipments"] == 0 {
		t.Errorf("%s: the merchant did %v; strange: %s", w.tenant, w.merchant.done, w.merchant.strange)
	}
}

// checkEvents checks that all events that were acknowledged are there once and
// unchanged, that no others are, and that the statistics add up.
func (w *crowd) checkEvents(ctx context.Context, t *testing.T) {
	t.Helper()
	files, _ := w.files()
	var out strings.Builder
	token := w.c.token(ctx, t, w.tenant+"-fleet", "fleet", "events:read")
	r, err := load.VerifyEvents(ctx, load.VerifyOptions{URL: w.c.nginx.URL(), Token: token, AckedFiles: files, Wait: time.Minute, Out: &out})
	if err != nil || r.Found == 0 || r.Walked != r.Found+r.UnsureFound {
		t.Fatalf("%s: %v\n%s", w.tenant, err, &out)
	}
	t.Logf("%s: %d events acked, all there (%.1f s)", w.tenant, r.Acked, r.Seconds)
}

// checkOrders checks orders, stock and money when all have come to their end.
func (w *crowd) checkOrders(ctx context.Context, t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, settleBound+time.Minute)
	defer cancel()
	_, files := w.files()
	var out strings.Builder
	if err := w.c.replica.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := load.VerifyOrders(ctx, load.VerifyOrdersOptions{URL: w.c.nginx.URL(), Token: w.admin, AckedFiles: files, Settle: settleBound, History: true, Out: &out})
	if err != nil || !r.Ledger || r.Found == 0 || r.Conserved != crowdSKUs+1 || r.Parked != 0 {
		t.Errorf("%s: %v\n%s", w.tenant, err, &out)
		return
	}
	t.Logf("%s: %d orders acked, all there: %v, settled after %.1f s, checked in %.1f s", w.tenant, r.Acked, r.Statuses, r.SettleSeconds, r.Seconds)
	for what, query := range map[string]string{
		"orders without a key, or with several": `SELECT count(*) FROM orders o WHERE tenant_id = $1 AND (SELECT count(*) FROM idempotency_keys k
			WHERE k.tenant_id = o.tenant_id AND k.scope = 'order' AND k.subject = o.customer_id AND k.object_id = o.id) <> 1`,
		"keys without an order": `SELECT count(*) FROM idempotency_keys k WHERE tenant_id = $1 AND k.scope = 'order'
			AND NOT EXISTS (SELECT FROM orders o WHERE o.tenant_id = k.tenant_id AND o.id = k.object_id)`,
		"orders whose history is not as long as their version": `SELECT count(*) FROM orders o WHERE tenant_id = $1 AND o.version <> (SELECT count(*) FROM order_history h
			WHERE h.tenant_id = o.tenant_id AND h.order_id = o.id)`,
		"messages that were never told":                               `SELECT count(*) FROM outbox WHERE tenant_id = $1`,
		"orders that are not among the events as placed exactly once": toldQuery("order.placed", ""),
		"orders that are not among the events as paid exactly once": toldQuery("order.paid",
			`AND EXISTS (SELECT FROM order_history h WHERE h.tenant_id = o.tenant_id AND h.order_id = o.id AND h.event = 'captured' AND h.to_status = 'paid')`),
	} {
		w.c.eventually(ctx, t, 30*time.Second, "no "+what, func(ctx context.Context) error {
			n, err := w.c.count(ctx, query, w.tenant)
			if err == nil && n != 0 {
				err = fmt.Errorf("%d %s", n, what)
			}
			return err
		})
	}
}

// toldQuery counts the tenant's orders for which there is not exactly one event.
func toldQuery(kind, which string) string {
	return `SELECT count(*) FROM orders o LEFT JOIN (SELECT payload::json->>'orderId' AS id, count(*) AS n FROM events
		WHERE tenant_id = $1 AND type = '` + kind + `' GROUP BY 1) e ON e.id = o.id WHERE o.tenant_id = $1 AND e.n IS DISTINCT FROM 1 ` + which
}

// reply is an answer to ask, status 0 if there was none.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error
	took   time.Duration
}

func (r reply) String() string { return fmt.Sprintf("%d %.300s %v", r.status, r.body, r.err) }

// ask makes one request, once.
func ask(ctx context.Context, client *http.Client, method, url, token, key, body string) (r reply) {
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	r.status, r.header = resp.StatusCode, resp.Header
	if r.body, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20)); err != nil {
		return reply{err: err}
	}
	return r
}
