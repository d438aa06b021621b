package httpapi

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/catalog"
)

// shelf makes products with long descriptions, at a version.
func shelf(products, descriptionBytes int, version int64) []*catalog.Item {
	random := rand.New(rand.NewPCG(1, uint64(version)))
	items := make([]*catalog.Item, products)
	for i := range items {
		var b strings.Builder
		for b.Len() < descriptionBytes {
			fmt.Fprintf(&b, "A shirt like number %x. ", random.Uint64())
		}
		items[i] = itemOf(&catalog.Product{TenantID: "t", SKU: fmt.Sprint("s", i), Names: map[string]string{"en": "x"}, Descriptions: map[string]string{"en": b.String()},
			Price: catalog.Money{Amount: 5, Currency: "EUR"}, Version: version, Active: true, CreatedAt: testNow, UpdatedAt: testNow})
	}
	return items
}

func itemOf(p *catalog.Product) *catalog.Item {
	body := RenderProduct(p)
	return &catalog.Item{TenantID: p.TenantID, SKU: p.SKU, Version: p.Version, Active: p.Active, Body: body, Sum: xxhash.Sum64(body), UpdatedAt: p.UpdatedAt}
}

// zip asks for products in zstd, and returns how many of them were made for it.
func (v *variants) zip(t *testing.T, items []*catalog.Item) float64 {
	t.Helper()
	made := v.metrics.variantsMade.WithLabelValues("zstd")
	before := testutil.ToFloat64(made)
	for _, it := range items {
		tag := contentTag(it.Version, it.Sum, "")
		d, err := v.encoded(&document{body: it.Body, tag: tag}, productSource(it), encodingZstd)
		if err != nil || d.tag != suffixed(tag, "zstd") {
			t.Fatalf("%v, %s", err, d.tag)
		}
	}
	return testutil.ToFloat64(made) - before
}

func TestWhatIsAskedForAgainIsNotMadeAgainHoweverOftenProductsChanged(t *testing.T) {
	for _, c := range []struct {
		name                       string
		products, descriptionBytes int
	}{{"many", 600, 3000}, {"few large ones", 5, 400_000}} {
		t.Run(c.name, func(t *testing.T) {
			v, err := newVariants(1<<30, NewMetrics(nil))
			if err != nil {
				t.Fatal(err)
			}
			v.zip(t, shelf(c.products, c.descriptionBytes, 1))
			v.made.CleanUp()                              // what waits to be counted is
			bound := int64(v.made.WeightedSize()) * 3 / 2 // one state of all fits well, two do not
			if v, err = newVariants(bound, NewMetrics(prometheus.NewRegistry())); err != nil {
				t.Fatal(err)
			}
			for version := int64(1); version <= 4; version++ {
				items := shelf(c.products, c.descriptionBytes, version)
				rounds := []float64{v.zip(t, items), v.zip(t, items), v.zip(t, items)}
				v.made.CleanUp()
				if want := []float64{float64(c.products), 0, 0}; !slices.Equal(rounds, want) {
					t.Errorf("version %d is made %v times in turn, want %v: %d entries hold %d bytes of %d", version, rounds, want, v.made.EstimatedSize(), v.made.WeightedSize(), bound)
				}
			}
		})
	}
}

func TestALargeDocumentGetsItsPlaceWhenItIsAskedForAgain(t *testing.T) {
	v, err := newVariants(4<<20, NewMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	v.zip(t, shelf(5000, 3000, 1)) // fill it, with what nobody asks for again
	v.made.CleanUp()
	large := shelf(1, 400_000, 2)
	large[0].SKU = "large"
	made := 0.0
	for range 20 {
		made += v.zip(t, large)
		v.made.CleanUp()
	}
	if made > 5 {
		t.Errorf("it is made %v times for 20 requests", made)
	}
	if n := v.zip(t, large); n != 0 {
		t.Error("it is made still")
	}
}

func TestTheStoreOfVariantsCountsWhatItHolds(t *testing.T) {
	for _, languages := range []int{1, 8, 60} {
		t.Run(fmt.Sprint(languages, " languages"), func(t *testing.T) {
			v, err := newVariants(8<<20, NewMetrics(nil))
			if err != nil {
				t.Fatal(err)
			}
			items := make([]*catalog.Item, 24_000/(languages+4))
			for i := range items {
				texts := map[string]string{}
				for l := range languages {
					texts[fmt.Sprintf("%c%c", 'a'+l/26, 'a'+l%26)] = "x"
				}
				items[i] = itemOf(&catalog.Product{TenantID: "t", SKU: fmt.Sprint("s", i), Names: texts, Descriptions: texts, Price: catalog.Money{Amount: 5, Currency: "EUR"}, Version: 1, CreatedAt: testNow, UpdatedAt: testNow})
			}
			wanted, ok := newLanguages().of("aa", nil)
			if !ok {
				t.Fatal("aa is no language")
			}
			before := heapBytes()
			for _, it := range items {
				if _, _, _, err := v.localized(it, wanted); err != nil {
					t.Fatal(err)
				}
			}
			v.made.CleanUp()
			grown, counted := heapBytes()-before, int64(v.made.WeightedSize())
			if grown > counted*9/8 || grown < counted/2 {
				t.Errorf("%d entries hold %d bytes and are counted as %d", v.made.EstimatedSize(), grown, counted)
			}
			t.Logf("%d entries hold %d bytes and are counted as %d", v.made.EstimatedSize(), grown, counted)
			runtime.KeepAlive(items)
		})
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAProductThatWouldFillTheStoreIsLocalizedWithoutBeingKept(t *testing.T) {
	v, err := newVariants(64<<10, NewMetrics(nil))
	if err != nil {
		t.Fatal(err)
	}
	wanted, _ := newLanguages().of("en", nil)
	v.zip(t, shelf(3, 3000, 1))
	v.made.CleanUp()
	held := v.made.WeightedSize()
	for range 3 {
		d, _, asked, err := v.localized(shelf(1, 60_000, 2)[0], wanted)
		if err != nil || !asked || !strings.HasPrefix(string(d.body), `{"sku":"s0","language":"en","name":"x"`) {
			t.Fatalf("%v %v", err, asked)
		}
		if v.made.CleanUp(); v.made.WeightedSize() != held || v.made.EstimatedSize() != 3 || v.making.Size() != 0 {
			t.Errorf("%d bytes are held in %d entries", v.made.WeightedSize(), v.made.EstimatedSize())
		}
	}
}

func TestVariantsAreMadeOnceAndStayWithinTheirBound(t *testing.T) {
	reg := prometheus.NewRegistry()
	const bound = 64 << 10
	f := newFixture(t, func(o *Options) { o.VariantBytes, o.Metrics = bound, NewMetrics(reg) })
	v := f.server.variants
	f.mustPut("/products/tee", aWorldlyProduct)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if w := f.call("GET", "/products/tee?lang=de", "", "Accept-Encoding", "zstd"); !strings.HasSuffix(w.Header().Get("ETag"), `-de-zstd"`) {
				t.Errorf("%v", w.Header())
			}
		})
	}
	wg.Wait()
	for kind, want := range map[string]float64{"parsed": 1, "language": 1, "zstd": 1, "gzip": 0} {
		if n := testutil.ToFloat64(v.metrics.variantsMade.WithLabelValues(kind)); n != want {
			t.Errorf("%s: made %v times, want %v", kind, n, want)
		}
	}
	for i := range 100 {
		sku := fmt.Sprint("p", i)
		f.mustPut("/products/"+sku, strings.Replace(strings.Replace(aWorldlyProduct, `"black-tee"`, `"s`+sku+`"`, 1), "Tee", sku, 1))
		for _, enc := range []string{"gzip", "zstd", ""} {
			for _, lang := range []string{"", "?lang=de", "?lang=pt-BR", "?lang=fr"} {
				w := f.call("GET", "/products/"+sku+lang, "", "Accept-Encoding", enc)
				if text := unpacked(t, w); !strings.Contains(text, `"sku":"`+sku+`"`) {
					t.Fatalf("%s %s: %s", sku, enc, text)
				}
			}
		}
		v.made.CleanUp() // what waits to be thrown out is
		var held int64
		for k, made := range v.made.All() {
			if made.holds < int64(len(made.body)) || k.sku == "" {
				t.Errorf("%+v holds %d", k, made.holds)
			}
			held += made.holds
		}
		if held > bound || held != int64(v.made.WeightedSize()) {
			t.Fatalf("%d bytes are held after %d products, the store says %d; the bound is %d", held, i+1, v.made.WeightedSize(), bound)
		}
	}
	if testutil.ToFloat64(v.metrics.variantBytes) == 0 {
		t.Error("the metric says that nothing is held")
	}
}

func TestABodyThatWouldFillTheStoreIsNotCompressed(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.VariantBytes = 4 << 10 })
	f.mustPut("/products/tee", strings.Replace(aWorldlyProduct, "A shirt. ", strings.Repeat("A shirt. ", 100), 1))
	if w := f.call("GET", "/products/tee", "", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "" || w.Header().Get("ETag") != tagOf(1, w.Body.String()) || w.Code != 200 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
