package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// ordersLoad is load that all instances of a fleet get together.
type ordersLoad struct {
	rate     int           // orders/s; 0 is as fast as they answer
	duration time.Duration // or
	count    int           // orders of each instance
	skus     int
	seeded   bool     // products and stock are there
	acked    []string // for each instance, the file to write what was placed to
}

// allBuyers is how many connections order; a number that three instances can share.
const allBuyers = 255

func (l ordersLoad) args(share, i int) []string {
	rate := "max"
	if l.rate > 0 {
		rate = strconv.Itoa(max(l.rate/share, 1))
	}
	args := []string{"--rate", rate, "--connections", strconv.Itoa(allBuyers / share), "--skus", strconv.Itoa(l.skus), "--stock", plenty}
	if l.count > 0 {
		args = append(args, "--count", strconv.Itoa(l.count))
	} else {
		args = append(args, "--duration", l.duration.String())
	}
	if l.seeded {
		args = append(args, "--no-seed")
	}
	if share > 1 {
		args = append(args, "--seed", strconv.Itoa(i+1))
	}
	if l.acked != nil {
		args = append(args, "--acked", l.acked[i])
	}
	return args
}

// order splits the load over the instances and sums up what came of it. Latencies
// are those of the instance with the worst.
func (f *fleet) order(ctx context.Context, r *result, l ordersLoad) (load.OrdersReport, error) {
	reports := make([]load.OrdersReport, len(f.members))
	errs := make([]error, len(f.members))
	var all sync.WaitGroup
	for i, t := range f.members {
		args := l.args(len(f.members), i)
		r.loadCommand("orders", args)
		all.Go(func() { errs[i] = f.b.runLoad(ctx, t, "orders", &reports[i], args) })
	}
	all.Wait()
	sum := reports[0]
	for _, x := range reports[1:] {
		sum.Orders.Sent += x.Orders.Sent
		sum.Orders.Placed += x.Orders.Placed
		sum.Orders.Missed += x.Orders.Missed
		sum.Orders.Retries += x.Orders.Retries
		sum.CPUSeconds += x.CPUSeconds
		sum.Seconds = max(sum.Seconds, x.Seconds)
		sum.Examples = append(sum.Examples, x.Examples...)
		if x.Accept.P99Ms > sum.Accept.P99Ms {
			sum.Accept = x.Accept
		}
	}
	sum.PlacedPerSecond = float64(sum.Orders.Placed) / max(sum.Seconds, 1e-9)
	return sum, errors.Join(errs...)
}

func pgOrdersHot(ctx context.Context, b *bench, r *result) error {
	return pgPlacements(ctx, b, r, 1, 6000, 8)
}

func pgOrders1000(ctx context.Context, b *bench, r *result) error {
	return pgPlacements(ctx, b, r, 1000, 4500, 0)
}

// pgPlacements measures how fast one instance places orders, ours and one by one.
// It must be so many times as fast as one by one, 0 for no such bar.
func pgPlacements(ctx context.Context, b *bench, r *result, skus int, bar, times float64) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	measure := func(name string, repeats int, verify bool, env ...string) (float64, error) {
		var rates []float64
		for i := range min(repeats, b.repeats()) {
			rate, err := b.pgPlaced(ctx, r, s, placing{name: name, size: 1, skus: skus, env: env, verify: verify && i == 0})
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			rates = append(rates, rate)
		}
		return median(rates), nil
	}
	ours, err := measure("workers paused", 3, true, workersPaused)
	if err != nil {
		return err
	}
	r.atLeast(fmt.Sprintf("placed, workers paused, median of %d", b.repeats()), ours, "orders/s", bar)
	base, err := measure("one by one, workers paused", 2, false, workersPaused, oneByOne)
	if err != nil {
		return err
	}
	r.add("one order, one transaction, workers paused", base, "orders/s")
	if times > 0 {
		r.atLeast("ours ÷ one by one, workers paused", ours/base, "×", times)
	} else {
		r.add("ours ÷ one by one, workers paused", ours/base, "×")
	}
	// Working all of them off and checking them takes longer than placing: once is enough.
	if ours, err = measure("workers running", 1, skus == 1); err != nil {
		return err
	}
	r.add("placed, workers running", ours, "orders/s")
	if base, err = measure("one by one, workers running", 1, false, oneByOne); err != nil {
		return err
	}
	r.add("one order, one transaction, workers running", base, "orders/s")
	r.add("ours ÷ one by one, workers running", ours/base, "×")
	return nil
}

// pgOrdersThree compares three instances on one product with one.
func pgOrdersThree(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	rates := map[int][]float64{}
	for i := range min(b.repeats(), 2) {
		for _, size := range []int{1, 3} {
			p := placing{name: fmt.Sprintf("instances: %d", size), size: size, skus: 1, env: []string{workersPaused}, verify: size == 3 && i == 0}
			rate, err := b.pgPlaced(ctx, r, s, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			rates[size] = append(rates[size], rate)
		}
	}
	r.add("one instance", median(rates[1]), "orders/s")
	r.add("three instances", median(rates[3]), "orders/s")
	r.atLeast("three ÷ one", median(rates[3])/median(rates[1]), "×", 0.7)
	return nil
}

// placing is one measurement of how fast orders are placed.
type placing struct {
	name       string
	size, skus int // instances, products
	env        []string
	verify     bool
}

// pgPlaced returns how many orders a second a fleet on an empty database places.
func (b *bench) pgPlaced(ctx context.Context, r *result, s *backing, p placing) (rate float64, err error) {
	f, err := b.fleet(ctx, r, s, p.size, (*blackbox.Server).ReadyForOrders, p.env...)
	if err != nil {
		return 0, err
	}
	defer ended(&err, f.stop, ctx)
	// Products and stock are put in once, before all instances take orders.
	l := ordersLoad{duration: b.seconds(10), skus: p.skus, seeded: p.size > 1}
	var files []string
	if p.verify {
		for i := range p.size {
			file := filepath.Join(b.dir, fmt.Sprintf("acked-orders-%d", i))
			_ = os.Remove(file) // of the run before
			l.acked = append(l.acked, file)
		}
		files = l.acked
	}
	if l.seeded {
		first := filepath.Join(b.dir, "acked-orders-first")
		_ = os.Remove(first)
		args := append(ordersLoad{rate: 1, count: 1, skus: p.skus}.args(1, 0), "--acked", first)
		if _, err := b.order(ctx, r, f.members[0], args...); err != nil {
			return 0, err
		}
		files = append(files, first)
	}
	var report load.OrdersReport
	w, err := f.watch(ctx, func() (err error) {
		report, err = f.order(ctx, r, l)
		return err
	})
	if err != nil {
		return 0, err
	}
	batches := w.histogram("millrace_order_place_orders")
	r.note("%s: %s orders/s placed, p50 %s ms, p99 %s ms, %s transactions/s, resident %s MiB; %s, generator %s", p.name, number(report.PlacedPerSecond),
		number(report.Accept.P50Ms), number(report.Accept.P99Ms), number(batches.Count()/report.Seconds), number(float64(w.maxRSS)/mib), w.cores(), number(report.CPUSeconds/report.Seconds))
	if n := notPlaced(report); n > 0 {
		r.note("%s: %s orders were not placed: %v %q", p.name, number(n), report.Statuses, report.Examples)
	}
	if !p.verify {
		return report.PlacedPerSecond, nil
	}
	return report.PlacedPerSecond, b.pgVerify(ctx, r, f, files, len(p.env) == 0)
}

// pgVerify checks what was placed against what there is, once it is worked off if
// anybody works on it.
func (b *bench) pgVerify(ctx context.Context, r *result, f *fleet, files []string, worked bool) error {
	settle := -time.Second
	if worked {
		settle = 5 * time.Minute
	}
	args, shown := []string{"verify", "orders", "--settle", settle.String()}, []string{"verify", "orders", "--settle", settle.String()}
	for _, file := range files {
		args, shown = append(args, "--acked", file), append(shown, "--acked", "FILE")
	}
	r.command("bin/millrace", shown)
	began := time.Now()
	if err := b.command(ctx, f.members[0], append(args, "--url", f.members[0].url)...); err != nil {
		return err
	}
	r.note("Then `millrace verify orders` found no difference, after %s s.", number(time.Since(began).Seconds()))
	return nil
}
