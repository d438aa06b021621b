package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/auth"
	"millrace/internal/catalog"
)

// aFullProduct has what a shop usually knows of a product, in five languages.
func aFullProduct() catalog.Product {
	p := catalog.Product{TenantID: "demo", SKU: "tee-black-m", Price: catalog.Money{Amount: 1999, Currency: "EUR"}, Category: "clothing", Slug: "black-tee", Active: true,
		Names: map[string]string{}, Descriptions: map[string]string{}, Attributes: []byte(`{"size":"M"}`)}
	for _, l := range []string{"en", "de", "fr", "es", "ja"} {
		p.Names[l], p.Descriptions[l] = "T-shirt, black, M", "A shirt that is black, of cotton that was grown without poison, and made to last for ten years."
	}
	return p
}

// requestIDKey is where readingEdge puts the id, as a server does.
type requestIDKey struct{}

// readingEdge is an edge for reads as a server has it: with real credentials, counted
// by a registry, and its log at Info.
func readingEdge(tb testing.TB) (h http.Handler, token string) {
	tb.Helper()
	reg := prometheus.NewRegistry()
	issuer, err := auth.LoadOrCreateIssuer(tb.TempDir()+"/issuer.key", auth.IssuerOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	token, err = issuer.Mint(auth.Claims{TenantID: "demo", Subject: "storefront", Scopes: auth.MakeScopes(auth.ScopeOrdersRead), TTL: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	authenticator, err := auth.New(auth.Options{Issuer: issuer, Metrics: auth.NewMetrics(reg)})
	if err != nil {
		tb.Fatal(err)
	}
	shop := newShop()
	products := &oneProduct{fakeCatalog: shop.catalog}
	f := newFixture(tb, func(o *Options) {
		o.Auth, o.Metrics, o.Catalog, o.Places = authenticator, NewMetrics(reg), products, shop.places
		o.CatalogStale = func() time.Duration { return 0 }
		o.PlacesStale = o.CatalogStale
		o.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil))
		o.LogContext = func(ctx context.Context, id string) context.Context {
			return context.WithValue(ctx, requestIDKey{}, id)
		}
	})
	p := aFullProduct()
	if _, errs, err := shop.catalog.Put(context.Background(), []catalog.Put{{Product: p}}); err != nil || errs[0] != nil {
		tb.Fatal(err, errs)
	}
	products.item, _ = shop.catalog.Get(context.Background(), "demo", "tee-black-m")
	return f.server.Handler(), token
}

// oneProduct has one product, as near as memory can have it.
type oneProduct struct {
	*fakeCatalog
	item *catalog.Item
}

func (o *oneProduct) Get(_ context.Context, tenantID, sku string) (*catalog.Item, error) {
	if tenantID != o.item.TenantID || sku != o.item.SKU {
		return nil, catalog.ErrNotFound
	}
	return o.item, nil
}

// theFullTag is the ETag of aFullProduct as it is stored first.
var theFullTag = productTag(new(asFirstStored(aFullProduct())))

func asFirstStored(p catalog.Product) catalog.Product {
	p = versioned(p, catalog.Product{})
	p.Version = 1
	return p
}

// aRead is a request for something in memory.
type aRead struct{ name, target, header string }

var someReads = []aRead{
	{"product", "/products/tee-black-m", ""},
	{"product, gzip", "/products/tee-black-m", "Accept-Encoding: gzip, deflate, br\r\n"},
	{"product, lang", "/products/tee-black-m?lang=de-AT", "Accept-Language: de-AT,de;q=0.9,en;q=0.8\r\n"},
	{"product, 304", "/products/tee-black-m", "If-None-Match: " + theFullTag + "\r\n"},
	{"place", "/places/2867714", "Accept-Language: de-AT,de;q=0.9,en;q=0.8\r\n"},
}

func (a *aRead) request(token string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: millrace\r\nUser-Agent: storefront/1.0\r\nAuthorization: Bearer %s\r\n%s\r\n", a.target, token, a.header)
}

// BenchmarkReadOverTCP compares reads from memory with a bare net/http handler that
// writes the same bytes, by the same client over real connections, in turns: ratio is
// the share of its requests per second that the edge answers, cpu-ratio the same by the
// CPU time of both sides together, which other work on the machine disturbs less.
func BenchmarkReadOverTCP(b *testing.B) {
	h, token := readingEdge(b)
	for _, c := range someReads {
		b.Run(c.name, func(b *testing.B) {
			status, body := askOnce(b, h, c.request(token))
			bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Type"] = valueJSON
				w.WriteHeader(status)
				_, _ = w.Write(body)
			})
			ours, theirs := newTCPBench(b, h, c.request(token), status), newTCPBench(b, bare, c.request(token), status)
			const turns = 8
			var mine, other, myCPU, otherCPU time.Duration
			b.ResetTimer()
			for range turns {
				n := max(b.N/turns, 1)
				begin := cpuTime(b)
				mine += ours.run(b, n)
				between := cpuTime(b)
				other += theirs.run(b, n)
				myCPU, otherCPU = myCPU+between-begin, otherCPU+cpuTime(b)-between
			}
			n := float64(turns * max(b.N/turns, 1))
			b.ReportMetric(other.Seconds()/mine.Seconds(), "ratio")
			b.ReportMetric(otherCPU.Seconds()/myCPU.Seconds(), "cpu-ratio")
			b.ReportMetric(n/mine.Seconds(), "req/s")
			b.ReportMetric(n/other.Seconds(), "bare-req/s")
		})
	}
}

// askOnce returns the status and body of an answer.
func askOnce(tb testing.TB, h http.Handler, request []byte) (int, []byte) {
	tb.Helper()
	t := newTCPBench(tb, h, request, 0)
	if _, err := t.conns[0].Write(request); err != nil {
		tb.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(t.conns[0]), nil)
	if err != nil {
		tb.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer.StatusCode, body
}

// tcpBench is a server and the connections of a client that costs next to nothing.
type tcpBench struct {
	request, want []byte
	conns         []net.Conn
	readers       []*bufio.Reader
}

const benchConns = 16

func newTCPBench(tb testing.TB, h http.Handler, request []byte, status int) *tcpBench {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	tb.Cleanup(func() { _ = srv.Close() })
	t := &tcpBench{request: request, want: fmt.Appendf(nil, "HTTP/1.1 %d ", status)}
	for range benchConns {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
		t.conns, t.readers = append(t.conns, conn), append(t.readers, bufio.NewReader(conn))
	}
	return t
}

// run sends n requests, some of them at once, and says how long it took.
func (t *tcpBench) run(b *testing.B, n int) time.Duration {
	begin := time.Now()
	var wg sync.WaitGroup
	for i, conn := range t.conns {
		share := n / len(t.conns)
		if i < n%len(t.conns) {
			share++
		}
		wg.Go(func() {
			for range share {
				if _, err := conn.Write(t.request); err != nil {
					b.Error(err)
					return
				}
				if err := skipAnswer(t.readers[i], t.want); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// newReadReplay is a read that can be sent again without building it anew.
func newReadReplay(tb testing.TB, c aRead, token string) *replay {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.request(token))))
	if err != nil {
		tb.Fatal(err)
	}
	return &replay{req: req, body: bytes.NewReader(nil), w: discardWriter{h: http.Header{}}}
}

// sendRead sends the request again.
func (r *replay) sendRead(tb testing.TB, h http.Handler) {
	r.w.h = http.Header{} // as net/http makes one for each answer
	r.w.status = 0
	h.ServeHTTP(&r.w, r.req)
	if r.w.status != http.StatusOK && r.w.status != http.StatusNotModified {
		tb.Fatalf("status %d", r.w.status)
	}
}

// BenchmarkRead measures the edge alone, without a network.
func BenchmarkRead(b *testing.B) {
	h, token := readingEdge(b)
	for _, c := range someReads {
		b.Run(c.name, func(b *testing.B) {
			r := newReadReplay(b, c, token)
			b.ReportAllocs()
			for b.Loop() {
				r.sendRead(b, h)
			}
		})
	}
}
