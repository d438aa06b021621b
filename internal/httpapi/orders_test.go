package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/order"
)

// aStoredOrder is an order with everything an order can have.
func aStoredOrder() order.Order {
	return order.Order{
		TenantID: "demo", ID: testOrderID, CustomerID: "customer-17", Status: order.Shipped, Version: 5, Currency: "EUR",
		Lines: []order.Line{{SKU: "a", Quantity: 2, UnitPrice: 1999}}, Total: 3998, Captured: 3998, Refunded: 500,
		Details: order.Details{PaymentToken: "tok_secret", Email: "a@b.c", Note: "ring", Address: &order.Address{City: "Berlin"}},
		Progress: order.Progress{PaymentRef: "pi_secret", Refund: order.Refund{Number: 1, Amount: 500}, Restocked: true, Reason: "one was broken",
			Shipment: &order.Shipment{Carrier: "Post", TrackingNumber: "17", At: testNow}},
		PlacedAt: testNow, UpdatedAt: testNow, Deadline: testNow.Add(time.Hour), Attempts: 2, NextAttempt: testNow, ParkedAt: testNow, LastError: "away",
	}
}

func TestAnOrderIsShownWithoutWhatPaysForIt(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	const shared = `{"id":"` + testOrderID + `","customerId":"customer-17","status":"shipped","version":5,` +
		`"items":[{"sku":"a","quantity":2,"unitPrice":{"amount":1999,"currency":"EUR"}}],` +
		`"total":{"amount":3998,"currency":"EUR"},"captured":{"amount":3998,"currency":"EUR"},"refunded":{"amount":500,"currency":"EUR"},` +
		`"shippingAddress":{"city":"Berlin"},"customer":{"email":"a@b.c"},"note":"ring",` +
		`"shipment":{"carrier":"Post","trackingNumber":"17","shippedAt":"2026-11-22T08:30:00Z"},` +
		`"refund":{"number":1,"amount":{"amount":500,"currency":"EUR"}},"restocked":true,"reason":"one was broken",` +
		`"placedAt":"2026-11-22T08:30:00Z","updatedAt":"2026-11-22T08:30:00Z"`
	for credential, want := range map[string]string{
		"buyer": shared + "}\n",
		"merchant": shared + `,"attempts":2,"nextAttemptAt":"2026-11-22T08:30:00Z","lastError":"away","parkedAt":"2026-11-22T08:30:00Z"}` +
			"\n",
	} {
		w := f.call("GET", "/orders/"+testOrderID, "", "Authorization", "Bearer "+credential)
		if diff := cmp.Diff(want, w.Body.String()); w.Code != 200 || diff != "" {
			t.Errorf("%s: %d %s", credential, w.Code, diff)
		}
	}
	o := aStoredOrder()
	o.Status = order.Placed
	f.orders.set(o)
	if w := f.call("GET", "/orders/"+testOrderID, "", "Authorization", "Bearer buyer"); !strings.Contains(w.Body.String(), `"deadline":"2026-11-22T09:30:00Z"`) {
		t.Errorf("an unpaid order has a deadline: %s", w.Body)
	}
}

func TestBuyersReachOnlyTheirOwnOrders(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	const at = "/orders/" + testOrderID
	for _, c := range []struct{ method, target, credential string }{
		{"GET", at, "buyer 2"}, {"GET", at + "/status", "buyer 2"}, {"GET", at + "/status?wait=1s", "buyer 2"}, {"GET", at + "/history", "buyer 2"},
		{"POST", at + "/cancel", "buyer 2"},
		{"GET", at, "other"}, {"GET", at + "/status", "other"}, {"GET", at + "/history", "other"}, {"POST", at + "/cancel", "other"},
		{"POST", at + "/shipments", "other"}, {"POST", at + "/deliveries", "other"}, {"GET", "/orders/none", "merchant"},
	} {
		wantProblem(t, f.call(c.method, c.target, "", "Authorization", "Bearer "+c.credential), 404, "not-found")
	}
	for _, target := range []string{"/refunds", "/shipments", "/deliveries", "/redrive", "/settle"} {
		wantProblem(t, f.call("POST", at+target, "", "Authorization", "Bearer buyer"), 403, "scope-missing")
	}
}

func TestOrdersAreListedForThoseWhoMaySeeThem(t *testing.T) {
	f := newFixture(t)
	f.orders.page = order.Page{Orders: []order.Order{aStoredOrder()}, Next: "n"}
	w := f.call("GET", "/orders?status=shipped&limit=7&cursor=c", "", "Authorization", "Bearer buyer")
	if w.Code != 200 || !strings.HasSuffix(w.Body.String(), `],"nextCursor":"n"}`+"\n") || strings.Contains(w.Body.String(), "attempts") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(order.Query{TenantID: "demo", Status: order.Shipped, Limit: 7, Cursor: "c"}, f.orders.query); diff != "" {
		t.Error(diff)
	}
	if f.orders.viewer != (order.Viewer{TenantID: "demo", CustomerID: "customer-17"}) {
		t.Errorf("viewer %+v", f.orders.viewer)
	}
	if w := f.call("GET", "/orders?customerId=customer-17", "", "Authorization", "Bearer buyer"); w.Code != 200 {
		t.Errorf("one's own id: %d", w.Code)
	}
	p := wantProblem(t, f.call("GET", "/orders?customerId=customer-18", "", "Authorization", "Bearer buyer"), 403, "scope-missing")
	if !strings.Contains(p.Detail, "orders:admin") {
		t.Errorf("detail %q", p.Detail)
	}
	w = f.call("GET", "/orders?customerId=customer-18", "", "Authorization", "Bearer merchant")
	if w.Code != 200 || f.orders.viewer.CustomerID != "" || f.orders.query.CustomerID != "customer-18" || !strings.Contains(w.Body.String(), `"attempts":2`) {
		t.Errorf("%d %+v %s", w.Code, f.orders.query, w.Body)
	}
	wantProblem(t, f.call("GET", "/orders?cursor=bad", ""), 400, "invalid-parameter")
	if p := wantProblem(t, f.call("GET", "/orders?status=lost", ""), 400, "invalid-parameter"); !strings.Contains(p.Detail, "payment_failed") {
		t.Errorf("detail %q", p.Detail)
	}
	wantProblem(t, f.call("GET", "/orders?limit=0", ""), 400, "invalid-parameter")
}

func TestTheDescriptionNamesEveryStatus(t *testing.T) {
	f := newFixture(t)
	schema := f.server.public.api.OpenAPI().Components.Schemas.Map()["OrderView"]
	if schema == nil {
		t.Fatal("no schema OrderView")
	}
	if diff := cmp.Diff(statusEnum(), schema.Properties["status"].Enum); diff != "" {
		t.Error(diff)
	}
}

func TestTheHistoryOfAnOrderIsShown(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	f.orders.history = []order.HistoryEntry{
		{Version: 1, At: testNow, Event: order.EventPlaced, To: order.Placed, Actor: "customer-17"},
		{Version: 2, At: testNow, Event: order.EventAttemptFailed, From: order.Placed, To: order.Placed, Actor: order.System, Reason: "dial tcp 10.0.0.7: refused"},
		{Version: 3, At: testNow, Event: order.EventCancelAsked, From: order.Placed, To: order.Cancelled, Actor: "ann@shop", Reason: "sold twice"}}
	const first, second, third = `{"history":[{"version":1,"at":"2026-11-22T08:30:00Z","event":"placed","to":"placed","actor":"customer-17"},` +
		`{"version":2,"at":"2026-11-22T08:30:00Z","event":"attempt_failed","from":"placed","to":"placed","actor":"millrace"`, `},` +
		`{"version":3,"at":"2026-11-22T08:30:00Z","event":"cancel_asked","from":"placed","to":"cancelled","actor":"`, `","reason":"sold twice"}]}` + "\n"
	for credential, want := range map[string]string{
		"merchant": first + `,"reason":"dial tcp 10.0.0.7: refused"` + second + "ann@shop" + third,
		// Neither who works for the merchant nor what goes wrong behind the counter.
		"buyer": first + second + "merchant" + third,
	} {
		w := f.call("GET", "/orders/"+testOrderID+"/history", "", "Authorization", "Bearer "+credential)
		if diff := cmp.Diff(want, w.Body.String()); diff != "" {
			t.Errorf("%s: %s", credential, diff)
		}
	}
}

func TestCommandsReachTheDomainWithWhoAsks(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	const at = "/orders/" + testOrderID
	merchant := audit.Actor{Subject: "till", Method: auth.MethodJWT, RequestID: "r-1"}
	for _, c := range []struct {
		name, credential, target, body string
		status                         int
		command                        order.Command
	}{
		{"a buyer cancels without a body", "buyer", "/cancel", "", 200, order.Command{Viewer: order.Viewer{TenantID: "demo", CustomerID: "customer-17"},
			Actor: audit.Actor{Subject: "customer-17", Method: auth.MethodJWT, RequestID: "r-1"}}},
		{"a buyer cancels with a reason", "buyer", "/cancel", `{"reason":"twice"}`, 200, order.Command{Viewer: order.Viewer{TenantID: "demo", CustomerID: "customer-17"},
			Actor: audit.Actor{Subject: "customer-17", Method: auth.MethodJWT, RequestID: "r-1"}, Reason: "twice"}},
		{"the merchant cancels", "merchant", "/cancel", `{}`, 200, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
		{"the merchant ships", "merchant", "/shipments", `{"carrier":"Post","trackingNumber":"17","trackingUrl":"https://post.example/17"}`, 201, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
		{"the merchant ships without saying how", "merchant", "/shipments", "", 201, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
		{"the merchant delivers", "merchant", "/deliveries", `{}`, 200, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
		{"the merchant redrives", "merchant", "/redrive", "", 200, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
		{"the merchant settles by hand", "merchant", "/settle", `{"reason":"cash"}`, 200, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant, Reason: "cash"}},
		{"the merchant delivers without a body", "merchant", "/deliveries", "", 200, order.Command{Viewer: order.Viewer{TenantID: "demo"}, Actor: merchant}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := f.call("POST", at+c.target, c.body, "Authorization", "Bearer "+c.credential, "X-Request-Id", "r-1")
			if w.Code != c.status || !strings.HasPrefix(w.Body.String(), `{"id":"`+testOrderID) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			got := f.orders.command
			if got.Trace != w.Header().Get("Traceparent") || got.OrderID != testOrderID {
				t.Errorf("order %q, trace %q, want %q", got.OrderID, got.Trace, w.Header().Get("Traceparent"))
			}
			got.Trace, got.OrderID = "", ""
			if diff := cmp.Diff(c.command, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	f.call("POST", at+"/shipments", `{"carrier":"Post","trackingNumber":"17","trackingUrl":"https://post.example/17"}`)
	if diff := cmp.Diff(order.Shipment{Carrier: "Post", TrackingNumber: "17", TrackingURL: "https://post.example/17"}, f.orders.shipment); diff != "" {
		t.Error(diff)
	}
	for _, link := range []string{"javascript:alert(1)", "//post.example", "ftp://a/b", "https://", "post.example/17"} {
		p := wantProblem(t, f.call("POST", at+"/shipments", `{"trackingUrl":"`+link+`"}`), 422, "invalid-body")
		if len(p.Errors) != 1 || p.Errors[0].Location != "body.trackingUrl" {
			t.Errorf("%s: %+v", link, p.Errors)
		}
	}
	wantProblem(t, f.call("POST", at+"/cancel", `{"reson":"x"}`), 422, "invalid-body")
	wantProblem(t, f.call("POST", at+"/cancel?x=1", ``), 400, "invalid-parameter")
	wantProblem(t, f.call("POST", at+"/deliveries", `{"x":1}`), 422, "invalid-body")
}

func TestARefundIsAskedForOnce(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	const target = "/orders/" + testOrderID + "/refunds"
	wantProblem(t, f.call("POST", target, `{}`), 400, "idempotency-key-missing")
	wantProblem(t, f.call("POST", target, `{}`, "Idempotency-Key", "two words"), 400, "invalid-parameter")
	w := f.call("POST", target, `{"amount":500,"restock":true,"reason":"broken"}`, "Idempotency-Key", "k")
	const want = `{"orderId":"` + testOrderID + `","refund":{"number":1,"amount":{"amount":500,"currency":"EUR"}},"status":"shipped"}` + "\n"
	if w.Code != 202 || w.Body.String() != want || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if r := f.orders.refund; r.Amount != 500 || !r.Restock || r.Reason != "broken" || r.Key != "k" || r.Actor.Subject != "ops" {
		t.Errorf("request %+v", r)
	}
	if w := f.call("POST", target, ``, "Idempotency-Key", "k"); w.Code != 202 || w.Header().Get("Idempotent-Replayed") != "true" || f.orders.refund.Amount != 0 {
		t.Errorf("%d %v %s, amount %d", w.Code, w.Header(), w.Body, f.orders.refund.Amount)
	}
	for _, body := range []string{`{"amount":0}`, `{"amount":-1}`, `{"amount":1.5}`, `{"amount":"5"}`, `{"amount":99999999999999999999}`, `{"amuont":5}`} {
		if w := f.call("POST", target, body, "Idempotency-Key", "k"); w.Code != 422 && w.Code != 400 {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestACommandThatIsNotAllowedSaysWhy(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		err    error
		status int
		slug   string
		says   string
	}{
		{&order.NotAllowedError{Status: order.Shipped, Event: order.EventCancelAsked, Detail: "it has been shipped; ask for a refund instead"}, 409, "order-state", "the order is shipped: it has been shipped"},
		{&order.InvalidError{Field: "amount", Detail: "give 1 to 500"}, 422, "invalid-body", "body.amount: give 1 to 500"},
		{order.ErrKeyReused, 422, "idempotency-key-reused", "new one"},
		{&order.Unavailable{Reason: "store-unavailable", Detail: "away", RetryAfter: time.Second}, 503, "store-unavailable", "away"},
		{errors.New("secret"), 500, "internal", "log"},
	} {
		f.orders.err = c.err
		for _, target := range []string{"/cancel", "/refunds", "/shipments", "/deliveries"} {
			p := wantProblem(t, f.call("POST", "/orders/"+testOrderID+target, "", "Idempotency-Key", "k"), c.status, c.slug)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("%s: detail %q does not say %q", target, p.Detail, c.says)
			}
		}
	}
}

func TestWithoutAShopThereAreNoShopRoutes(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Orders, o.Catalog, o.Stock, o.Audit, o.Endpoints, o.PaymentNotices, o.Sandbox = nil, nil, nil, nil, nil, nil, nil
	})
	for _, target := range []string{"/orders", "/products", "/stock", "/audit", "/webhook-endpoints", "/sandbox/charges"} {
		wantProblem(t, f.call("GET", target, ""), 404, "not-found")
		wantProblem(t, f.callOn(f.server.ControlHandler(), "GET", target, "", tenantHeader, "demo"), 404, "not-found")
	}
	wantProblem(t, f.call("POST", "/payments/stripe/webhook", "{}"), 404, "not-found")
	doc := openapi(t, f)
	for path := range doc["paths"].(map[string]any) {
		if strings.HasPrefix(path, "/orders") || strings.HasPrefix(path, "/products") {
			t.Errorf("%s is described", path)
		}
	}
	raw, _ := json.Marshal(doc["tags"])
	if strings.Contains(string(raw), "Orders") {
		t.Errorf("tags %s", raw)
	}
}

func TestTheOperatorReadsOrdersAndKeepsTheShop(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	var served []string
	for _, rt := range f.server.control.routes {
		served = append(served, rt.pattern)
	}
	for _, want := range []string{"GET /orders", "GET /orders/{id}", "GET /orders/{id}/history", "GET /orders/{id}/status", "PUT /products/{sku}", "GET /products",
		"PUT /stock/{sku}", "GET /stock", "GET /audit", "POST /control/import/products", "POST /control/import/stock"} {
		if !slices.Contains(served, want) {
			t.Errorf("the operator has no %s", want)
		}
	}
	for _, not := range []string{"POST /orders", "POST /orders/{id}/refunds"} {
		if slices.Contains(served, not) {
			t.Errorf("the operator has %s", not)
		}
	}
	if w := f.callOn(f.server.ControlHandler(), "GET", "/orders/"+testOrderID, "", tenantHeader, "demo"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
