package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/order"
	"millrace/internal/servers"
	"millrace/internal/store/storetest"
)

var benchPolicy = order.Policy{Lease: time.Minute, CompleteAfter: 72 * time.Hour, MaxAttempts: 10}

// shoppers makes placements of one line.
type shoppers struct {
	rng  *rand.Rand
	skus []string
}

func newShoppers(seed uint64, skus int) *shoppers {
	s := &shoppers{rng: rand.New(rand.NewPCG(seed, 2))}
	for i := range skus {
		s.skus = append(s.skus, fmt.Sprintf("sku-%04d", i))
	}
	return s
}

// syncingServer starts a server for benchmarks, which syncs its disk, and returns
// what makes fresh databases there.
func syncingServer(b *testing.B) (database func() string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := servers.StartPostgres(ctx, servers.PostgresOptions{Tuned: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			b.Error(err)
		}
	})
	if err := prepareServer(ctx, p); err != nil {
		b.Fatal(err)
	}
	n := 0
	return func() string {
		n++
		name := fmt.Sprint("bench", n)
		if err := execOn(b.Context(), p.DSNFor("postgres"), `CREATE DATABASE `+name+` OWNER `+owner+` TEMPLATE `+template); err != nil {
			b.Fatal(err)
		}
		return ownerDSN(p, name)
	}
}

// openShops opens instances of one shop.
func openShops(b testing.TB, dsn string, instances, skus int) []*DB {
	var dbs []*DB
	for i := range instances {
		dbs = append(dbs, openAt(b, Options{DSN: dsn, Instance: fmt.Sprint("shop-", i)}))
	}
	stockShop(b, dbs[0], skus)
	return dbs
}

// stockShop fills the shelves.
func stockShop(b testing.TB, db *DB, skus int) {
	for _, sku := range newShoppers(0, skus).skus {
		putProduct(b, db, order.ShelfKey{TenantID: "demo", SKU: sku}, storetest.Product{Price: 1999, Currency: "EUR"})
		putStock(b, db, order.ShelfKey{TenantID: "demo", SKU: sku}, 1_000_000_000)
	}
}

func (s *shoppers) batch(n int) []*order.Placement {
	batch := make([]*order.Placement, n)
	for i := range batch {
		now := time.Now()
		id, err := uuid.NewV7()
		if err != nil {
			panic(err)
		}
		key := fmt.Sprintf("%016x%016x", s.rng.Uint64(), s.rng.Uint64())
		batch[i] = &order.Placement{
			Order: order.Order{TenantID: "demo", ID: id.String(), CustomerID: fmt.Sprintf("customer-%08x", s.rng.Uint32()),
				Lines: []order.Line{{SKU: s.skus[s.rng.IntN(len(s.skus))], Quantity: 1}},
				Details: order.Details{PaymentToken: "tok_ok", Email: "buyer@example.com", Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
					Address: &order.Address{Name: "A Buyer", Line1: "1 High Street", PostalCode: "12345", City: "Town", Country: "DE"}},
				PlacedAt: now, UpdatedAt: now, Deadline: now.Add(time.Hour)},
			Key: key, Fingerprint: sha256.Sum256([]byte(key)), KeyNotBefore: now.Add(-24 * time.Hour),
		}
	}
	return batch
}

// cpu is what this process has used so far; the server's is not in it.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is what the processes of the server that live have used so far.
func serverCPU(b *testing.B, db *DB) time.Duration {
	var backend int
	if err := db.hot.QueryRow(b.Context(), `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		b.Fatal(err)
	}
	stat := func(path string) (parent string, used time.Duration) {
		line, err := os.ReadFile(path)
		_, after, _ := strings.Cut(string(line), ") ")
		f := strings.Fields(after)
		if err != nil || len(f) < 13 {
			return "", 0 // it has ended
		}
		for _, field := range f[11:13] { // hundredths of a second
			n, _ := strconv.ParseInt(field, 10, 64)
			used += time.Duration(n) * 10 * time.Millisecond
		}
		return f[1], used
	}
	postmaster, _ := stat(fmt.Sprintf("/proc/%d/stat", backend))
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, path := range paths {
		if parent, used := stat(path); parent == postmaster {
			sum += used
		}
	}
	return sum
}

// BenchmarkPlace measures whole placements by one instance and by three at once.
// The baseline is one order per transaction, which is a batch of 1, by as many
// callers as one server has connections for. b.N counts orders.
func BenchmarkPlace(b *testing.B) {
	database := syncingServer(b)
	for _, skus := range []int{1, 1000} {
		for _, c := range []struct{ placers, size int }{{1, 1}, {8, 1}, {1, 32}, {1, 256}, {3, 256}} {
			b.Run(fmt.Sprintf("skus=%d/placers=%d/batch=%d", skus, c.placers, c.size), func(b *testing.B) {
				dbs := openShops(b, database(), c.placers, skus)
				for _, db := range dbs { // connections, statements
					mustPlace(b, db, newShoppers(7, skus).batch(1))
				}
				var left atomic.Int64
				left.Store(int64(b.N))
				batches := make([][][]*order.Placement, c.placers)
				for i := range batches {
					s := newShoppers(uint64(i+1), skus)
					for range b.N/c.size/c.placers + 2 {
						batches[i] = append(batches[i], s.batch(c.size))
					}
				}
				begin, server := cpu(), serverCPU(b, dbs[0])
				b.ResetTimer()
				var wg sync.WaitGroup
				for i, db := range dbs {
					wg.Go(func() {
						for k := 0; left.Add(-int64(c.size)) > -int64(c.size) && k < len(batches[i]); k++ {
							mustPlace(b, db, batches[i][k])
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
				b.ReportMetric(float64((serverCPU(b, dbs[0])-server).Nanoseconds())/float64(b.N)/1000, "server-µs/op")
				b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
			})
		}
	}
}

// BenchmarkAdvance measures the two steps from placed to paid. b.N counts steps.
func BenchmarkAdvance(b *testing.B) {
	database := syncingServer(b)
	for _, size := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			db := openShops(b, database(), 1, 1000)[0]
			s := newShoppers(1, 1000)
			var placed []order.Order
			for len(placed) < b.N/2+size {
				batch := s.batch(400)
				mustPlace(b, db, batch)
				for _, p := range batch {
					placed = append(placed, p.Placed)
				}
			}
			begin, server := cpu(), serverCPU(b, db)
			b.ResetTimer()
			for done := 0; done < b.N; done += 2 * size {
				orders := placed[:size]
				placed = placed[size:]
				mustAdvance(b, db, orders, order.EventChargeIntended)
				mustAdvance(b, db, orders, order.EventCaptured)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
			b.ReportMetric(float64((serverCPU(b, db)-server).Nanoseconds())/float64(b.N)/1000, "server-µs/op")
			b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
		})
	}
}

func mustPlace(b testing.TB, db *DB, batch []*order.Placement) {
	b.Helper()
	if err := db.Orders().Place(b.Context(), batch, benchPolicy); err != nil {
		b.Error(err)
		return
	}
	for _, p := range batch {
		if p.Err != nil {
			b.Error(p.Err)
		}
	}
}

func mustAdvance(b testing.TB, db *DB, orders []order.Order, e order.Event) {
	b.Helper()
	steps := make([]*order.Step, len(orders))
	for i := range orders {
		o := &orders[i]
		steps[i] = &order.Step{TenantID: o.TenantID, OrderID: o.ID, Event: e, At: time.Now(), Actor: order.System, Amount: o.Total, PaymentRef: "ch_" + o.ID}
	}
	outcomes, err := db.Orders().Advance(b.Context(), steps, benchPolicy)
	if err != nil {
		b.Fatal(err)
	}
	for i, out := range outcomes {
		if !out.Applied {
			b.Fatal(out.Err)
		}
		orders[i] = out.Order
	}
}
