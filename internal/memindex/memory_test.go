package memindex_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/memindex"
)

func TestReadsByPrimaryAndUniqueKeyAllocateNothing(t *testing.T) {
	x := newIndex()
	records := products(5000)
	load(t, x.Table, records)
	ids := memindex.New(func(p *product) int64 { return p.key.ID*10 + int64(len(p.key.Language)) }, memindex.Options[product]{})
	ids.Put(records...)
	names := memindex.New(func(p *product) string { return p.slug }, memindex.Options[product]{})
	names.Put(records...)
	i := 0
	var found int
	allocations := testing.AllocsPerRun(1000, func() {
		i++
		p := records[i%len(records)]
		for _, got := range []*product{
			x.Get(p.key), x.Get(productKey{ID: -1}), x.bySlug.Get(p.slug), x.bySlug.Get("none"),
			ids.Get(p.key.ID*10 + int64(len(p.key.Language))), names.Get(p.slug),
		} {
			if got != nil {
				found++
			}
		}
		found += x.byCategory.Len(p.category)
	})
	if allocations != 0 {
		t.Errorf("the reads make %v allocations", allocations)
	}
	if found < 4000 {
		t.Errorf("the reads found %d records only", found)
	}
}

// heap is what is allocated, without garbage.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// loadProducts puts n products, five of each id, into a table. The records are
// made and left by the function, so that nothing but the table holds them.
func loadProducts(t *testing.T, table *memindex.Table[productKey, product], n int) {
	random := rand.New(rand.NewPCG(1, 1))
	load(t, table, func() []*product {
		all := make([]*product, n)
		for i := range all {
			all[i] = &product{
				key:      productKey{int64(i / len(languages)), languages[i%len(languages)]},
				version:  1,
				position: random.Int64N(int64(n)),
				category: random.IntN(2000),
				slug:     fmt.Sprintf("product-%08d", i), // 16 bytes
				name:     fmt.Sprintf("%.3s%013d", madeUpName(random), i),
			}
		}
		return all
	}())
}

const productBytes = int(unsafe.Sizeof(product{})) + 16 + 16

// The bounds are those that the package comment promises.
func TestManyRecordsTakeNoMoreThanPromised(t *testing.T) {
	for _, test := range []struct {
		name  string
		n     int64
		bound int64 // of the index, bytes a record
		add   func(*memindex.Table[productKey, product])
	}{
		{"a primary key", 200_000, 20, func(*memindex.Table[productKey, product]) {}},
		{"a primary, a unique key and two groups", manyRecords, 20 + 20 + 2*12, func(table *memindex.Table[productKey, product]) {
			memindex.AddUnique(table, func(p *product) (string, bool) { return p.slug, true })
			memindex.AddGroups(table, func(_ *product, add func(int)) { add(0) }, byKey)
			memindex.AddGroups(table, func(p *product, add func(int)) { add(p.category) }, byPosition)
		}},
		{"a primary key and a name each", 200_000, 20 + 80, func(table *memindex.Table[productKey, product]) {
			memindex.AddPrefixes(table, func(p *product, add func(string)) { add(p.name) }, byPosition)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := test.n
			before := heap()
			table := memindex.New(func(p *product) productKey { return p.key }, memindex.Options[product]{
				Bytes: func(*product) int { return productBytes },
			})
			test.add(table)
			loadProducts(t, table, int(n))
			took := heap() - before
			stats := table.Stats()
			if stats.Records != int(n) || stats.Live != int(n) || stats.RecordBytes != n*int64(productBytes) {
				t.Fatalf("Stats() = %+v, want %d records of %d bytes", stats, n, productBytes)
			}
			t.Logf("%.1f bytes a record besides its own %d", float64(stats.IndexBytes)/float64(n), productBytes)
			if stats.IndexBytes > n*test.bound {
				t.Errorf("the index takes %d bytes a record, want %d at most", stats.IndexBytes/n, test.bound)
			}
			checkTrue(t, stats, took)
			runtime.KeepAlive(table)
		})
	}
}

// checkTrue compares what a table says it takes with what the heap has grown by.
func checkTrue(t *testing.T, stats memindex.Stats, took int64) {
	t.Helper()
	says := stats.RecordBytes + stats.IndexBytes
	if off := float64(says)/float64(took) - 1; off < -0.1 || off > 0.1 {
		t.Errorf("the table says that it takes %d bytes, the heap has grown by %d: %+.1f %%", says, took, 100*off)
	}
}

func TestWhatATableSaysItTakesStaysTrueWhileRecordsChange(t *testing.T) {
	const n = 8_000
	before := heap()
	x := newIndex()
	t.Run("put one by one", func(t *testing.T) {
		random := rand.New(rand.NewPCG(2, 2))
		for i := range 4 * n { // every record in four states
			p := &product{
				key:      productKey{int64(i % n), "de"},
				version:  int64(i + 1),
				position: random.Int64N(n),
				category: random.IntN(100),
				slug:     fmt.Sprintf("product-%08d", i),
				name:     fmt.Sprintf("%.3s%013d", madeUpName(random), i),
			}
			x.Put(p)
		}
		stats := x.Stats()
		stats.RecordBytes = int64(n * productBytes)
		checkTrue(t, stats, heap()-before)
	})
	runtime.KeepAlive(x)
}

func TestMetricsShowHowLargeATableIs(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := memindex.NewMetrics(reg)
	x := newEntries()
	m.Watch("places", x.Stats)
	m.Watch("products", func() memindex.Stats { return memindex.Stats{Records: 4, RecordBytes: 300, IndexBytes: 100} })
	memindex.NewMetrics(nil).Watch("nobody looks", x.Stats)
	x.Put(&entry{key: entryKey{1, "de"}}, &entry{key: entryKey{2, "de"}, deleted: true})

	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.Metric {
			got[family.GetName()+" "+metric.GetLabel()[0].GetName()+"="+metric.GetLabel()[0].GetValue()] = metric.GetGauge().GetValue()
		}
	}
	s := x.Stats()
	want := map[string]float64{
		"millrace_index_records index=places":            2,
		"millrace_index_records index=products":          4,
		"millrace_index_bytes index=places":              float64(200 + s.IndexBytes),
		"millrace_index_bytes index=products":            400,
		"millrace_index_bytes_per_record index=places":   float64(200+s.IndexBytes) / 2,
		"millrace_index_bytes_per_record index=products": 100,
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
	if empty := newEntries().Stats().BytesPerRecord(); empty != 0 {
		t.Errorf("an empty table has %v bytes per record", empty)
	}
}
