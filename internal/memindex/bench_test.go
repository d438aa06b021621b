package memindex_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/internal/memindex"
)

// The benchmarks' records are products in several languages under a composite key,
// with a slug, two groups and names to search.
type productKey struct {
	ID       int64
	Language string
}

type product struct {
	key      productKey
	version  int64
	position int64
	slug     string
	category int
	name     string
	_        []byte // as large as a record with a body
}

var languages = []string{"en", "de", "fr", "es", "it"}

// Comparisons stop at the first difference, which cmp.Or of calls would not: loading
// makes millions of them.
func byPosition(a, b *product) int {
	if c := cmp.Compare(a.position, b.position); c != 0 {
		return c
	}
	return byKey(a, b)
}

func byKey(a, b *product) int {
	if c := cmp.Compare(a.key.ID, b.key.ID); c != 0 {
		return c
	}
	return strings.Compare(a.key.Language, b.key.Language)
}

// products makes n records in random order, each allocated by itself.
func products(n int) []*product {
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]*product, n)
	for i := range all {
		all[i] = &product{
			key:      productKey{int64(i / len(languages)), languages[i%len(languages)]},
			version:  1,
			position: random.Int64N(int64(n)),
			slug:     fmt.Sprintf("p-%d", i),
			category: random.IntN(200),
			name:     madeUpName(random),
		}
	}
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// madeUpName makes names whose beginnings are about as uneven as those of cities.
func madeUpName(random *rand.Rand) string {
	const first = "san sasaint mabalacamoviponegr"
	const consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
	var b strings.Builder
	at := min(random.IntN(len(first)), random.IntN(len(first)))
	b.WriteString(first[at:min(at+3, len(first))])
	for range 1 + random.IntN(4) {
		b.WriteByte(consonants[random.IntN(len(consonants))])
		b.WriteByte(vowels[random.IntN(len(vowels))])
	}
	return b.String()
}

// index is a table with all kinds of secondary keys.
type index struct {
	*memindex.Table[productKey, product]
	bySlug     *memindex.Unique[string, product]
	all        *memindex.Groups[string, product]
	byCategory *memindex.Groups[int, product]
	byName     *memindex.Prefixes[product]
}

func newIndex() index {
	t := memindex.New(func(p *product) productKey { return p.key }, memindex.Options[product]{
		Supersedes: func(old, next *product) bool { return next.version > old.version },
	})
	return index{
		Table:      t,
		bySlug:     memindex.AddUnique(t, func(p *product) (string, bool) { return p.slug, p.slug != "" }),
		all:        memindex.AddGroups(t, func(_ *product, add func(string)) { add("tenant") }, byKey),
		byCategory: memindex.AddGroups(t, func(p *product, add func(int)) { add(p.category) }, byPosition),
		byName:     memindex.AddPrefixes(t, func(p *product, add func(string)) { add(p.name) }, byPosition),
	}
}

func load[K comparable, R any](tb testing.TB, t *memindex.Table[K, R], records []*R) {
	tb.Helper()
	if err := t.Load(func(add func([]*R)) error {
		for page := range slices.Chunk(records, 5000) {
			add(page)
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
}

// plain is a table with a primary key only, and the map it is compared with.
func plain(tb testing.TB, records []*product) (*memindex.Table[productKey, product], map[productKey]*product) {
	t := memindex.New(func(p *product) productKey { return p.key }, memindex.Options[product]{})
	load(tb, t, records)
	m := map[productKey]*product{}
	for _, p := range records {
		m[p.key] = p
	}
	return t, m
}

// randomKeys are keys of n products, made without a look at them, so that none is in
// the processor's cache for that.
func randomKeys(count, n int) []productKey {
	keys := make([]productKey, count)
	for i := range keys {
		p := rand.IntN(n)
		keys[i] = productKey{int64(p / len(languages)), languages[p%len(languages)]}
	}
	return keys
}

var sink atomic.Int64

// BenchmarkLookupAgainstMap looks random keys up in a table and in a Go map by turns,
// and reports the medians of both, the median of their quotient, and the quotient of the
// best turns, which what else the machine does bears least upon.
func BenchmarkLookupAgainstMap(b *testing.B) {
	const turn = 1 << 14
	for _, n := range []int{1000, 60_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, m := plain(b, products(n))
			var ours, maps, ratio []float64
			var sum int64
			for b.Loop() {
				keys := randomKeys(turn, n)
				start := time.Now()
				for i := range keys {
					sum += table.Get(keys[i]).position
				}
				o := float64(time.Since(start)) / turn
				keys = randomKeys(turn, n)
				start = time.Now()
				for i := range keys {
					sum += m[keys[i]].position
				}
				g := float64(time.Since(start)) / turn
				ours, maps, ratio = append(ours, o), append(maps, g), append(ratio, o/g)
			}
			sink.Add(sum)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(ours), "table-ns")
			b.ReportMetric(median(maps), "map-ns")
			b.ReportMetric(median(ratio), "table/map")
			b.ReportMetric(slices.Min(ours)/slices.Min(maps), "best-table/map")
		})
	}
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[len(s)/2]
}

// BenchmarkThreeWays finds one of 1,000,000 records by (id, language) with a scan, a
// map and a table.
func BenchmarkThreeWays(b *testing.B) {
	records := products(1_000_000)
	table, m := plain(b, records)
	keys := randomKeys(1<<17, len(records))
	ways := []struct {
		name string
		get  func(productKey) *product
	}{
		{"scan", func(k productKey) *product {
			return records[slices.IndexFunc(records, func(p *product) bool { return p.key == k })]
		}},
		{"map", func(k productKey) *product { return m[k] }},
		{"table", table.Get},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			var sum int64
			i := 0
			for b.Loop() {
				sum += way.get(keys[i&(len(keys)-1)]).position
				i++
			}
			sink.Add(sum)
		})
	}
}

// BenchmarkReadersWithWriter reports by how many percent readers are slower while one
// writer puts 1,000 records a second, each under all kinds of keys; every tenth of them
// moves in its groups and changes its name. Turns with and without the writer alternate.
// Besides reads a second it counts reads a second of the process' own processor time, the
// writer's included, which other processes bear less upon.
func BenchmarkReadersWithWriter(b *testing.B) {
	const n, turn = 200_000, 100 * time.Millisecond
	for _, readers := range []int{max(1, runtime.GOMAXPROCS(0)-1), runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			x := newIndex()
			load(b, x.Table, products(n))
			runtime.GC()
			version := int64(1)
			keys := randomKeys(1<<17, n)
			write := func(stop <-chan struct{}) {
				every := time.NewTicker(time.Millisecond)
				defer every.Stop()
				for {
					select {
					case <-stop:
						return
					case <-every.C:
						version++
						x.Put(changed(x.Get(keys[rand.IntN(len(keys))]), version))
					}
				}
			}
			var alone, lost, lostOfCPU []float64
			for b.Loop() {
				without, withoutCPU := readersPerSecond(b, x, keys, readers, turn, nil)
				with, withCPU := readersPerSecond(b, x, keys, readers, turn, write)
				alone = append(alone, without)
				lost = append(lost, 100*(1-with/without))
				lostOfCPU = append(lostOfCPU, 100*(1-withCPU/withoutCPU))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(alone)/1e6, "Mreads/s")
			b.ReportMetric(median(lost), "%lost")
			b.ReportMetric(median(lostOfCPU), "%lost-of-cpu")
		})
	}
}

// changed is a new state of a record.
func changed(p *product, version int64) *product {
	next := *p
	next.version = version
	if version%10 == 0 {
		next.position = rand.Int64N(200_000)
		next.category = rand.IntN(200)
		next.name = madeUpName(rand.New(rand.NewPCG(uint64(version), 0)))
		next.slug = fmt.Sprintf("%s-%d", next.name, version)
	}
	return &next
}

func readersPerSecond(b *testing.B, x index, keys []productKey, readers int, turn time.Duration, write func(stop <-chan struct{})) (perSecond, perCPUSecond float64) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	if write != nil {
		wg.Go(func() { write(stop) })
	}
	var reads atomic.Int64
	for range readers {
		wg.Go(func() {
			i := rand.IntN(len(keys))
			var sum, done int64
			for {
				select {
				case <-stop:
					reads.Add(done)
					sink.Add(sum)
					return
				default:
				}
				for range 1000 {
					p := x.Get(keys[i&(len(keys)-1)])
					sum += p.position + x.bySlug.Get(p.slug).position
					i++
				}
				done += 2000
			}
		})
	}
	start, cpu := time.Now(), cpuTime(b)
	<-time.After(turn)
	close(stop)
	wg.Wait()
	n := float64(reads.Load())
	return n / time.Since(start).Seconds(), n / (cpuTime(b) - cpu).Seconds()
}

// BenchmarkPut puts one record at a time: a new state that stays where it is, one that
// moves within its group of 200,000, and one that moves and is renamed.
func BenchmarkPut(b *testing.B) {
	const n = 200_000
	records := products(n)
	for _, change := range []struct {
		name string
		of   func(p *product, i int64)
	}{
		{"in place", func(*product, int64) {}},
		{"moved", func(p *product, _ int64) { p.position = rand.Int64N(n) }},
		{"renamed", func(p *product, i int64) {
			p.position, p.category, p.name = rand.Int64N(n), rand.IntN(200), "x"+p.name
			p.slug = fmt.Sprint("s-", i)
		}},
	} {
		b.Run(change.name, func(b *testing.B) {
			x := newIndex()
			t := x.Table
			wide := memindex.AddGroups(t, func(_ *product, add func(string)) { add("all") }, byPosition)
			load(b, t, records)
			b.ReportAllocs()
			i := int64(1)
			for b.Loop() {
				i++
				p := *t.Get(records[i%n].key)
				p.version = i
				change.of(&p, i)
				t.Put(&p)
			}
			if wide.Len("all") != n {
				b.Fatalf("%d records are left", wide.Len("all"))
			}
		})
	}
}

// BenchmarkLoad loads 150,000 records under a primary and a unique key, in two groups
// and by the prefixes of a name.
func BenchmarkLoad(b *testing.B) {
	records := products(150_000)
	var cpu time.Duration
	for b.Loop() {
		x := newIndex()
		before := cpuTime(b)
		load(b, x.Table, records)
		cpu += cpuTime(b) - before
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTop asks for the first 10 of 150,000 names, by the length of the prefix and
// with a filter that one record in 50 passes.
func BenchmarkTop(b *testing.B) {
	records := products(150_000)
	x := newIndex()
	load(b, x.Table, records)
	for _, prefix := range []string{"", "s", "sa", "san", "sain", "saina"} {
		b.Run(fmt.Sprintf("%q", prefix), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(x.byName.Top(prefix, 10, nil)) == 0 {
					b.Fatalf("no name begins with %q", prefix)
				}
			}
		})
	}
	b.Run("filtered", func(b *testing.B) {
		for b.Loop() {
			x.byName.Top("s", 10, func(p *product) bool { return p.category < 4 })
		}
	})
}
