package httpapi

import (
	"context"
	"io"
	"net/http"
	"testing"

	"millrace/internal/auth"
	"millrace/internal/limit"
	"millrace/internal/order"
)

// instantOrders places everything, or refuses everything, without looking, so that
// only the edge is measured.
type instantOrders struct {
	*fakeOrders
	refuse error
}

func (i instantOrders) Admit() error { return nil }

func (i instantOrders) Place(_ context.Context, r order.Request) (order.Receipt, error) {
	return order.Receipt{Order: order.Order{ID: testOrderID, Total: r.Items[0].Quantity, Currency: "EUR"}}, i.refuse
}

// aFullOrder has all that a shop usually sends.
const aFullOrder = `{"items":[{"sku":"tee-black-m","quantity":2},{"sku":"mug-white","quantity":1},{"sku":"poster-a2","quantity":1}],"paymentToken":"pm_1NG8Du2eZvKYlo2CUI79vXWy",` +
	`"shippingAddress":{"name":"Ada Lovelace","line1":"12 Mill Lane","postalCode":"10115","city":"Berlin","country":"DE"},` +
	`"customer":{"email":"ada@example.org","phone":"+49 30 123456"},"note":"Please ring twice."}`

// quietShop is an edge for orders as a server would have it.
func quietShop(tb testing.TB, orders Orders) *fixture {
	rates, err := limit.NewRates(limit.RatesOptions{Name: "orders", Default: limit.Rate{PerSecond: 1e9, Burst: 1e9}})
	if err != nil {
		tb.Fatal(err)
	}
	return newFixture(tb, func(o *Options) {
		o.Orders, o.Bytes, o.OrderRates, o.Logger = orders, bytesBound(tb, 256<<20), rates, nil
		o.Auth.(fakeAuth).principals["writer"].Scopes |= auth.MakeScopes(auth.ScopeOrdersWrite)
	})
}

func newOrderReplay(body string) *replay {
	r := newReplayTo("/orders", []byte(body))
	r.req.Header.Set("Idempotency-Key", "5f0c7d1e-8a52-4f6b-9c51-0d9be1c7a2f4")
	return r
}

func TestPostOrderAllocatesLittleBeyondNetHTTP(t *testing.T) {
	h := quietShop(t, instantOrders{}).server.Handler()
	for _, c := range []struct {
		name, body string
		most       float64
	}{{"a small order", aSmallOrder, 13}, {"a full order", aFullOrder, 14}} {
		r := newOrderReplay(c.body)
		r.send(t, h) // fills the pools
		if raceEnabled {
			c.most = 80 // pools forget at random then
		}
		if got := testing.AllocsPerRun(200, func() { r.send(t, h) }); got > c.most {
			t.Errorf("%s allocates %v times a request beyond net/http; at most %v are wanted", c.name, got, c.most)
		} else {
			t.Logf("%s: %v allocations a request", c.name, got)
		}
	}
}

func BenchmarkDecodeOrder(b *testing.B) {
	for _, c := range []struct{ name, body string }{{"small", aSmallOrder}, {"full", aFullOrder}} {
		b.Run(c.name, func(b *testing.B) {
			body := []byte(c.body)
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, p := decodeOrder(body); p != nil {
					b.Fatal(p)
				}
			}
		})
	}
}

// BenchmarkOrderHandler measures the edge alone, without a network.
func BenchmarkOrderHandler(b *testing.B) {
	for _, c := range []struct{ name, body string }{{"small", aSmallOrder}, {"full", aFullOrder}} {
		b.Run(c.name, func(b *testing.B) {
			h := quietShop(b, instantOrders{}).server.Handler()
			r := newOrderReplay(c.body)
			b.ReportAllocs()
			for b.Loop() {
				r.send(b, h)
			}
		})
	}
}

// BenchmarkPostOrders compares the edge with a bare handler that throws the body
// away, both over real connections.
func BenchmarkPostOrders(b *testing.B) {
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	})
	soldOut := instantOrders{refuse: &order.RefusedError{Code: order.RefusedOutOfStock, Items: []order.RefusedItem{{SKU: "tee-black-m", Requested: 2}}}}
	for _, c := range []struct {
		name    string
		handler http.Handler
		status  int
	}{{"bare net/http", bare, 202}, {"millrace edge", quietShop(b, instantOrders{}).server.Handler(), 202},
		{"millrace edge, sold out", quietShop(b, soldOut).server.Handler(), 409}} {
		b.Run(c.name, func(b *testing.B) {
			benchmarkPathOverTCP(b, c.handler, "/orders", "Idempotency-Key: 5f0c7d1e-8a52-4f6b-9c51-0d9be1c7a2f4\r\n", []byte(aSmallOrder), c.status)
		})
	}
}
