package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// orderScenarios lists what is measured of orders, in the order of the record.
func orderScenarios() []scenario {
	const vs = ", as fast as the server answers for 10 s, workers paused and running, against one transaction for each order on the same HTTP path"
	return []scenario{
		{"orders", "orders-hot", "Orders for one product" + vs, ordersHot},
		{"orders", "orders-1000", "Orders for 1,000 products" + vs, orders1000},
		{"orders", "orders-2000", "2,000 orders a second, 1,000 products of a shop's popularity, 1 to 3 lines: 30 s with the workers paused, 60 s with them running", orders2000},
		{"orders", "orders-paid", "From placed to paid with the instant sandbox: 2,000 orders a second for 60 s, then 1,000 a second for 30 s, and reading the orders", ordersPaid},
		{"orders", "orders-soldout", "Orders for a product that is sold out, as fast as the server answers for 10 s", ordersSoldOut},
		{"orders", "orders-beside-events", "50,000 events and 500 orders a second for 30 s each: alone and beside each other", ordersBesideEvents},
	}
}

// Variables of the server.
const (
	workersPaused = "MILLRACE_ORDERS__WORKERS__ENABLED=false"
	oneByOne      = "MILLRACE_ORDERS__MAX_BATCH=1"
)

// plenty is stock that no run sells out.
const plenty = "500000000"

// serveOrders starts the real server on a fresh data directory, with further
// variables.
func (b *bench) serveOrders(ctx context.Context, r *result, env ...string) (*target, error) {
	return b.launch(ctx, r, b.freshDir(), (*blackbox.Server).ReadyForOrders, env)
}

// order runs `millrace load orders` against a target and returns its report.
func (b *bench) order(ctx context.Context, r *result, t *target, args ...string) (load.OrdersReport, error) {
	var report load.OrdersReport
	return report, b.load(ctx, r, t, "orders", &report, args)
}

// verifyOrders runs `millrace verify orders` and fails if it does.
func (b *bench) verifyOrders(ctx context.Context, r *result, t *target, acked string, settle time.Duration) error {
	args := []string{"verify", "orders", "--acked", acked, "--settle", settle.String()}
	r.command("bin/millrace", append(slices.Clone(args[:3]), "FILE", "--settle", settle.String()))
	return b.command(ctx, t, append(args, "--url", t.url)...)
}

func notPlaced(x load.OrdersReport) float64 {
	c := x.Orders
	return float64(c.Sent - c.Placed + c.Missed)
}

func ordersHot(ctx context.Context, b *bench, r *result) error {
	return b.placements(ctx, r, 1, 8000)
}

func orders1000(ctx context.Context, b *bench, r *result) error {
	return b.placements(ctx, r, 1000, 7000)
}

// placements measures how fast orders are placed, with the workers paused and
// running, ours and one by one.
func (b *bench) placements(ctx context.Context, r *result, skus int, bar float64) error {
	ours, err := b.placed(ctx, r, skus, "workers paused", workersPaused)
	if err != nil {
		return err
	}
	r.atLeast(fmt.Sprintf("placed, workers paused, median of %d", b.repeats()), ours, "orders/s", bar)
	base, err := b.placed(ctx, r, skus, "one by one, workers paused", workersPaused, oneByOne)
	if err != nil {
		return err
	}
	r.add("one order, one transaction, workers paused", base, "orders/s")
	r.atLeast("ours ÷ one by one, workers paused", ours/base, "×", 3)
	if ours, err = b.placed(ctx, r, skus, "workers running"); err != nil {
		return err
	}
	r.add(fmt.Sprintf("placed, workers running, median of %d", b.repeats()), ours, "orders/s")
	if base, err = b.placed(ctx, r, skus, "one by one, workers running", oneByOne); err != nil {
		return err
	}
	r.add("one order, one transaction, workers running", base, "orders/s")
	r.add("ours ÷ one by one, workers running", ours/base, "×")
	return nil
}

// placed measures how many orders a second one kind of server places: the median
// of some runs, each on a fresh directory. The first is verified.
func (b *bench) placed(ctx context.Context, r *result, skus int, name string, env ...string) (float64, error) {
	var rates []float64
	for i := range b.repeats() {
		rate, err := b.placedOnce(ctx, r, skus, name, env, i == 0)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		rates = append(rates, rate)
	}
	return median(rates), nil
}

func (b *bench) placedOnce(ctx context.Context, r *result, skus int, name string, env []string, verify bool) (float64, error) {
	t, err := b.serveOrders(ctx, r, env...)
	if err != nil {
		return 0, err
	}
	defer t.stop(ctx)
	args := []string{"--rate", "max", "--duration", b.seconds(10).String(), "--connections", "256", "--skus", strconv.Itoa(skus), "--stock", plenty}
	acked := filepath.Join(b.dir, "acked")
	if verify {
		args = append(args, "--acked", acked)
	}
	var report load.OrdersReport
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.order(ctx, r, t, args...)
		return err
	})
	if err != nil {
		return 0, err
	}
	batch := w.histogram("millrace_order_place_orders")
	r.note("%s: %s orders/s placed, p50 %s ms, p99 %s ms, %s transactions/s, generator %s cores, resident %s MiB", name, number(report.PlacedPerSecond),
		number(report.Accept.P50Ms), number(report.Accept.P99Ms), number(batch.Count()/report.Seconds), number(report.CPUSeconds/report.Seconds), number(float64(w.maxRSS)/mib))
	if n := notPlaced(report); n > 0 {
		r.note("%s: %s orders were not placed: %v %q", name, number(n), report.Statuses, report.Examples)
	}
	if !verify {
		return report.PlacedPerSecond, nil
	}
	settle := 5 * time.Minute
	if slices.Contains(env, workersPaused) {
		settle = -time.Second
	}
	return report.PlacedPerSecond, b.verifyOrders(ctx, r, t, acked, settle)
}

func orders2000(ctx context.Context, b *bench, r *result) error {
	if err := b.openLoop(ctx, r, "workers paused: ", 30, workersPaused); err != nil {
		return err
	}
	return b.openLoop(ctx, r, "workers running: ", 60)
}

// openLoop offers 2,000 orders a second for a time and notes how they were taken.
func (b *bench) openLoop(ctx context.Context, r *result, name string, seconds int, env ...string) error {
	t, err := b.serveOrders(ctx, r, env...)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	var report load.OrdersReport
	acked := filepath.Join(b.dir, "acked")
	_ = os.Remove(acked) // of the run before
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.order(ctx, r, t, "--rate", "2000", "--duration", b.seconds(seconds).String(), "--connections", "256", "--skus", "1000", "--zipf", "1", "--lines", "1-3", "--stock", plenty, "--acked", acked)
		return err
	})
	if err != nil {
		return err
	}
	noteOrders(r, w, report, name)
	if len(env) > 0 {
		return nil // nobody works on these
	}
	return b.verifyOrders(ctx, r, t, acked, 5*time.Minute)
}

// noteOrders notes what an open loop of orders gave.
func noteOrders(r *result, w watched, report load.OrdersReport, name string) {
	r.atLeast(name+"placed", report.PlacedPerSecond, "orders/s", 1980)
	r.atMost(name+"accept p99, from the intended send time", report.Accept.P99Ms, "ms", 20)
	r.add(name+"accept p50", report.Accept.P50Ms, "ms")
	r.add(name+"accept p99.9", report.Accept.P999Ms, "ms")
	r.atMost(name+"refused, failed, unknown or missed", notPlaced(report), "orders", 0)
	r.add(name+"server CPU", w.cpu.Seconds()/w.seconds, "cores")
	r.add(name+"generator CPU", report.CPUSeconds/report.Seconds, "cores")
	r.add(name+"resident memory, highest", float64(w.maxRSS)/mib, "MiB")
}

// ordersPaid measures how fast orders come from placed to paid, how late the
// outbox is, and how long reading takes meanwhile.
func ordersPaid(ctx context.Context, b *bench, r *result) error {
	t, err := b.serveOrders(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	args := func(rate string, d time.Duration) []string {
		return []string{"--rate", rate, "--duration", d.String(), "--connections", "256", "--skus", "1000", "--stock", "100000000", "--watch"}
	}
	var report load.OrdersReport
	w, err := watch(ctx, t.server, func() (err error) {
		report, err = b.order(ctx, r, t, args("2000", b.seconds(60))...)
		return err
	})
	if err != nil {
		return err
	}
	// The first quarter is the start of the run, the end is that of the generator.
	from, to := len(w.at)/4, slices.IndexFunc(w.at, func(at float64) bool { return at > report.SeedSeconds+report.Seconds })
	if to < 0 {
		to = len(w.at)
	}
	r.atLeast("paid while 2,000/s were placed", slope(w.at[from:to], w.paid[from:to]), "orders/s", 2000*0.99)
	r.add("placed", report.PlacedPerSecond, "orders/s")
	r.atMost("unpaid orders were gone after the last answer in", report.DrainSeconds, "s", 5)
	r.add("placed to paid p50, as a buyer sees it", report.Paid.P50Ms, "ms")
	r.add("placed to paid p99", report.Paid.P99Ms, "ms")
	r.add("accept p99 at 2,000/s", report.Accept.P99Ms, "ms")
	r.add("server CPU", w.cpu.Seconds()/w.seconds, "cores")
	if !report.Drained {
		r.note("**orders still waited for their payment after %.0f s**", report.DrainSeconds)
	}
	var pages load.Latency
	w, err = watch(ctx, t.server, func() (err error) {
		reading, stop := context.WithCancel(ctx)
		var reads sync.WaitGroup
		reads.Go(func() { pages = readOrders(reading, t) })
		report, err = b.order(ctx, r, t, args("1000", b.seconds(30))...)
		stop()
		reads.Wait()
		return err
	})
	if err != nil {
		return err
	}
	for _, lane := range []string{"bus", "events"} {
		lag := w.histogram("millrace_outbox_lag_seconds", "lane="+lane)
		r.atMost("outbox lag p99 at 1,000/s, to the "+lane, lag.Quantile(0.99), "s", 1)
	}
	r.add("placed to paid p99 at 1,000/s", report.Paid.P99Ms, "ms")
	r.add("accept p99 at 1,000/s", report.Accept.P99Ms, "ms")
	r.add("GET /orders p50 meanwhile, pages of 50", pages.P50Ms, "ms")
	r.add("GET /orders p99 meanwhile, pages of 50", pages.P99Ms, "ms")
	r.note("%d pages were read", pages.Count)
	return nil
}

// readOrders reads the first page of orders again and again until ctx ends, and
// returns how long that took.
func readOrders(ctx context.Context, t *target) load.Latency {
	var took []float64 // ms
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+"/orders?limit=50", nil)
		if err != nil {
			break
		}
		req.Header.Set("Authorization", "Bearer "+t.token)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				took = append(took, float64(time.Since(began).Microseconds())/1000)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		return load.Latency{}
	}
	return load.Latency{Count: int64(len(took)), P50Ms: took[len(took)/2], P99Ms: took[len(took)*99/100], MaxMs: took[len(took)-1]}
}

func ordersSoldOut(ctx context.Context, b *bench, r *result) error {
	t, err := b.serveOrders(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	var refused, p99 []float64
	for i := range b.repeats() {
		args := []string{"--rate", "max", "--duration", b.seconds(10).String(), "--connections", "64", "--skus", "1", "--stock", "100"}
		if i > 0 {
			args = append(args, "--no-seed")
		}
		report, err := b.order(ctx, r, t, args...)
		if err != nil {
			return err
		}
		refused, p99 = append(refused, report.OutOfStockPerSecond), append(p99, report.OutOfStock.P99Ms)
		r.note("run %d: %s placed, %s refused a second, generator %s cores; %v", i+1, number(float64(report.Orders.Placed)), number(report.OutOfStockPerSecond),
			number(report.CPUSeconds/report.Seconds), report.Statuses)
		if i == 0 {
			r.bar("sold of 100 units", float64(report.Orders.Placed), "orders", "100", report.Orders.Placed == 100)
		}
	}
	r.atLeast(fmt.Sprintf("refused as out of stock, median of %d", len(refused)), median(refused), "orders/s", 15_000)
	r.add("refusal p99 (closed loop)", median(p99), "ms")
	return nil
}

// ordersBesideEvents measures both jobs alone and beside each other.
func ordersBesideEvents(ctx context.Context, b *bench, r *result) error {
	t, err := b.serveOrders(ctx, r)
	if err != nil {
		return err
	}
	defer t.stop(ctx)
	events := func() (load.Report, error) {
		return b.offer(ctx, r, t, "--rate", "50000", "--batch", "100", "--duration", b.seconds(30).String())
	}
	orders := func() (load.OrdersReport, error) {
		return b.order(ctx, r, t, "--rate", "500", "--duration", b.seconds(30).String(), "--connections", "256", "--skus", "1000", "--stock", "100000000")
	}
	eventsAlone, err := events()
	if err != nil {
		return fmt.Errorf("events alone: %w", err)
	}
	if _, err := settle(ctx, t.server); err != nil {
		return err
	}
	ordersAlone, err := orders()
	if err != nil {
		return fmt.Errorf("orders alone: %w", err)
	}
	var eventsBeside load.Report
	var ordersBeside load.OrdersReport
	w, err := watch(ctx, t.server, func() error {
		var failed error
		var other sync.WaitGroup
		other.Go(func() { eventsBeside, failed = events() })
		var err error
		ordersBeside, err = orders()
		other.Wait()
		if failed != nil {
			err = failed
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("both: %w", err)
	}
	r.add("events alone, accept p99", eventsAlone.Accept.P99Ms, "ms")
	r.atMost("events beside orders, accept p99", eventsBeside.Accept.P99Ms, "ms", 10)
	r.atLeast("events acknowledged beside orders", eventsBeside.AckedPerSecond, "events/s", 50_000*0.999)
	r.atMost("receipt to queryable p99 beside orders", w.lag().Quantile(0.99), "s", 1)
	r.add("orders alone, accept p99", ordersAlone.Accept.P99Ms, "ms")
	r.atMost("orders beside events, accept p99", ordersBeside.Accept.P99Ms, "ms", 20)
	r.atLeast("orders placed beside events", ordersBeside.PlacedPerSecond, "orders/s", 500*0.99)
	r.atMost("not acknowledged or placed", notAcked(eventsBeside)+notPlaced(ordersBeside), "", 0)
	r.add("server CPU, both", w.cpu.Seconds()/w.seconds, "cores")
	r.add("generator CPU, both", (eventsBeside.CPUSeconds+ordersBeside.CPUSeconds)/eventsBeside.Seconds, "cores")
	return nil
}
