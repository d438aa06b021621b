package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/limit"
	"millrace/internal/order"
)

// aSmallOrder is the body of a usual order.
const aSmallOrder = `{"items":[{"sku":"tee-black-m","quantity":2}],"paymentToken":"tok_ok"}`

// place sends an order of the buyer's.
func (f *fixture) place(body string, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	return f.call("POST", "/orders", body, append([]string{"Authorization", "Bearer buyer", "Idempotency-Key", "k-1", "Content-Type", "application/json"}, headers...)...)
}

func TestAnOrderIsPlacedForTheSubjectWithAllThatItSays(t *testing.T) {
	f := newFixture(t)
	w := f.place(`
	{ "note" : "Ring \"twice\" \u00fc \ud83d\ude00\n", "customer":{"phone":"+49 30","email":"a@b.c"}, "paymentToken":"tok_ok",
	  "shippingAddress":{"name":"Ada","line1":"12","line2":null,"postalCode":"10115","city":"Berlin","region":"BE","country":"DE"},
	  "items":[ {"quantity":2,"sku":"a"} , {"sku":"b","quantity":1000000000} ] }
	`, "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	const want = `{"id":"` + testOrderID + `","status":"placed","statusUrl":"/orders/` + testOrderID + `/status","total":{"amount":3998,"currency":"EUR"}}` + "\n"
	if w.Code != 202 || w.Body.String() != want || w.Header().Get("Location") != "/orders/"+testOrderID || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	got := f.orders.requests[0]
	if !strings.HasPrefix(got.Trace, "00-0af7651916cd43dd8448eb211c80319c-") || got.Trace != w.Header().Get("Traceparent") {
		t.Errorf("trace %q", got.Trace)
	}
	got.Trace = ""
	wantRequest := order.Request{TenantID: "demo", CustomerID: "customer-17", Key: "k-1", Items: []order.Item{{SKU: "a", Quantity: 2}, {SKU: "b", Quantity: 1e9}},
		PaymentToken: "tok_ok", Email: "a@b.c", Phone: "+49 30", Note: "Ring \"twice\" ü 😀\n",
		Address: &order.Address{Name: "Ada", Line1: "12", PostalCode: "10115", City: "Berlin", Region: "BE", Country: "DE"}}
	if diff := cmp.Diff(wantRequest, got); diff != "" {
		t.Error(diff)
	}
}

func TestARepeatedOrderGetsTheSameBytesWhereverTheOrderIs(t *testing.T) {
	f := newFixture(t)
	first := f.place(aSmallOrder)
	o := f.orders.orders[testOrderID]
	o.Status, o.Version = order.Completed, 7
	f.orders.set(o)
	again := f.place(aSmallOrder)
	if again.Code != 202 || again.Body.String() != first.Body.String() || again.Header().Get("Location") != first.Header().Get("Location") ||
		again.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("%d %v %s", again.Code, again.Header(), again.Body)
	}
}

func TestTheRequestKeepsNothingOfThePooledBody(t *testing.T) {
	f := newFixture(t)
	f.place(`{"items":[{"sku":"aaaa","quantity":1}],"paymentToken":"tok_aaaa"}`)
	for range 10 {
		f.place(`{"items":[{"sku":"bbbb","quantity":1}],"paymentToken":"tok_bbbb"}`)
	}
	if r := f.orders.requests[0]; r.Items[0].SKU != "aaaa" || r.PaymentToken != "tok_aaaa" {
		t.Errorf("the first request now reads %+v", r)
	}
}

func TestAMalformedOrderIsRefusedWithWhereAndWhat(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(`{"sku":"a","quantity":1},`, 101), ",")
	for _, c := range []struct {
		name, body     string
		status         int
		slug, location string
		says           string
	}{
		{"nothing", "", 400, "malformed-body", "", "empty"},
		{"white space", " \n", 400, "malformed-body", "", "empty"},
		{"half an object", `{"items":[`, 400, "malformed-body", "", "at byte"},
		{"something after the object", aSmallOrder + `{}`, 400, "malformed-body", "", "after top-level value"},
		{"not UTF-8", `{"note":"` + "\xff" + `"}`, 400, "malformed-body", "", "UTF-8"},
		{"a number with a leading zero", `{"items":[{"sku":"a","quantity":01}]}`, 400, "malformed-body", "", "at byte"},
		{"a list", `[]`, 422, "invalid-body", "body", "is a list; give an object"},
		{"null", `null`, 422, "invalid-body", "body", "is null; give an object"},
		{"an unknown member", `{"itmes":[]}`, 422, "invalid-body", "body.itmes", "items, paymentToken, shippingAddress, customer, note"},
		{"an unknown member of an item", `{"items":[{"sku":"a","quantity":1},{"sku":"a","qty":1}]}`, 422, "invalid-body", "body.items[1].qty", "sku, quantity"},
		{"an unknown member of the address", `{"shippingAddress":{"street":"x"}}`, 422, "invalid-body", "body.shippingAddress.street", "line1"},
		{"a price", `{"items":[{"sku":"a","quantity":1,"unitPrice":1}]}`, 422, "invalid-body", "body.items[0].unitPrice", "not known"},
		{"a customer id", `{"customerId":"me"}`, 422, "invalid-body", "body.customerId", "not known"},
		{"a member in other letters", `{"Items":[]}`, 422, "invalid-body", "body.Items", "not known"},
		{"a member twice", `{"note":"a","note":"b"}`, 422, "invalid-body", "body.note", "twice"},
		{"a member twice, once in escapes", `{"note":"a","\u006eote":"b"}`, 422, "invalid-body", "body.note", "twice"},
		{"an item's member twice", `{"items":[{"sku":"a","quantity":1,"quantity":2}]}`, 422, "invalid-body", "body.items[0].quantity", "twice"},
		{"items that are one item", `{"items":{"sku":"a","quantity":1}}`, 422, "invalid-body", "body.items", "is an object; give a list"},
		{"an item that is text", `{"items":["a"]}`, 422, "invalid-body", "body.items[0]", "is text; give an object"},
		{"a SKU that is a number", `{"items":[{"sku":17,"quantity":1}]}`, 422, "invalid-body", "body.items[0].sku", "is a number; give text"},
		{"an item without a SKU", `{"items":[{"quantity":1}]}`, 422, "invalid-body", "body.items[0].sku", "missing"},
		{"an item without a quantity", `{"items":[{"sku":"a"}]}`, 422, "invalid-body", "body.items[0].quantity", "missing"},
		{"a quantity in quotes", `{"items":[{"sku":"a","quantity":"1"}]}`, 422, "invalid-body", "body.items[0].quantity", "is text; give a whole number"},
		{"a quantity of null", `{"items":[{"sku":"a","quantity":null}]}`, 422, "invalid-body", "body.items[0].quantity", "is null"},
		{"a quantity of true", `{"items":[{"sku":"a","quantity":true}]}`, 422, "invalid-body", "body.items[0].quantity", "true or false"},
		{"a fraction", `{"items":[{"sku":"a","quantity":1.5}]}`, 422, "invalid-body", "body.items[0].quantity", "is 1.5; give a whole number"},
		{"a whole number as a fraction", `{"items":[{"sku":"a","quantity":1.0}]}`, 422, "invalid-body", "body.items[0].quantity", "without a fraction"},
		{"an exponent", `{"items":[{"sku":"a","quantity":1e3}]}`, 422, "invalid-body", "body.items[0].quantity", "without an exponent"},
		{"a huge number", `{"items":[{"sku":"a","quantity":99999999999999999999}]}`, 422, "invalid-body", "body.items[0].quantity", "out of range"},
		{"a huge number below zero", `{"items":[{"sku":"a","quantity":-99999999999999999999}]}`, 422, "invalid-body", "body.items[0].quantity", "out of range"},
		{"a number of a thousand digits", `{"items":[{"sku":"a","quantity":` + strings.Repeat("9", 1000) + `}]}`, 422, "invalid-body", "body.items[0].quantity", "out of range"},
		{"a hundred and one lines", `{"items":[` + many + `]}`, 422, "invalid-body", "body.items", "at most 100"},
		{"an address that is text", `{"shippingAddress":"Berlin"}`, 422, "invalid-body", "body.shippingAddress", "is text; give an object"},
		{"half a surrogate pair", `{"note":"\ud83d"}`, 422, "invalid-body", "body.note", "surrogate"},
		{"the wrong half first", `{"note":"\ude00\ud83d"}`, 422, "invalid-body", "body.note", "surrogate"},
		{"half a surrogate pair and another character", `{"note":"\ud83d\u0041"}`, 422, "invalid-body", "body.note", "surrogate"},
		{"half a surrogate pair as a name", `{"\ud83d":1}`, 422, "invalid-body", "body.\ufffd", "not known"},
		{"deep nesting", `{"note":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, 422, "invalid-body", "body.note", "is a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			p := wantProblem(t, f.place(c.body), c.status, c.slug)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("detail %q does not say %q", p.Detail, c.says)
			}
			if c.location != "" && (len(p.Errors) != 1 || p.Errors[0].Location != c.location) {
				t.Errorf("errors %+v, want one at %s", p.Errors, c.location)
			}
			if len(f.orders.requests) > 0 {
				t.Error("the order reached the domain")
			}
		})
	}
	f := newFixture(t)
	p := wantProblem(t, f.place(`{"items":[{"sku":1,"quantity":"x"}],"note":7,"extra":{"a":["]}"]}}`), 422, "invalid-body")
	var places []string
	for _, e := range p.Errors {
		places = append(places, e.Location)
	}
	if diff := cmp.Diff([]string{"body.items[0].sku", "body.items[0].quantity", "body.note", "body.extra"}, places); diff != "" {
		t.Errorf("every mistake should be told:\n%s", diff)
	}
	p = wantProblem(t, f.place(`{"items":[`+strings.TrimSuffix(strings.Repeat(`{},`, 90), ",")+`]}`), 422, "invalid-body")
	if len(p.Errors) != maxBodyErrors {
		t.Errorf("%d mistakes are told, want %d at most", len(p.Errors), maxBodyErrors)
	}
}

func TestAnOrderIsRefusedForWhatItsHeadersSay(t *testing.T) {
	f := newFixture(t)
	wantProblem(t, f.place(aSmallOrder, "Authorization", ""), 401, "token-missing")
	wantProblem(t, f.place(aSmallOrder, "Authorization", "Bearer no scope"), 403, "scope-missing")
	wantProblem(t, f.place(aSmallOrder, "Idempotency-Key", ""), 400, "idempotency-key-missing")
	for _, key := range []string{"two words", strings.Repeat("k", 256), "ümlaut", "a\x7f"} {
		p := wantProblem(t, f.place(aSmallOrder, "Idempotency-Key", key), 400, "invalid-parameter")
		if len(p.Errors) != 1 || p.Errors[0].Location != "header.Idempotency-Key" {
			t.Errorf("key %q: errors %+v", key, p.Errors)
		}
	}
	if w := f.place(aSmallOrder, "Idempotency-Key", strings.Repeat("k", 255)); w.Code != 202 {
		t.Errorf("a key of 255 characters: %d", w.Code)
	}
	wantProblem(t, f.place(aSmallOrder, "Content-Type", "text/plain"), 415, "unsupported-media-type")
	if w := f.place(aSmallOrder, "Content-Type", "Application/JSON; charset=utf-8"); w.Code != 202 {
		t.Errorf("another way to write JSON's media type: %d", w.Code)
	}
	if w := f.place(aSmallOrder, "Content-Type", ""); w.Code != 202 {
		t.Errorf("no media type: %d", w.Code)
	}
	p := wantProblem(t, f.place(`{"note":"`+strings.Repeat("x", 64<<10)+`"}`), 413, "body-too-large")
	if !strings.Contains(p.Detail, "65536") {
		t.Errorf("detail %q", p.Detail)
	}
	req := httptest.NewRequest("POST", "/orders", strings.NewReader(aSmallOrder))
	req.Header.Set("Authorization", "Bearer buyer")
	req.Header["Idempotency-Key"] = []string{"a", "b"}
	w := httptest.NewRecorder()
	f.server.Handler().ServeHTTP(w, req)
	wantProblem(t, w, 400, "invalid-parameter")
}

func TestAnOrderMayBeCompressed(t *testing.T) {
	f := newFixture(t)
	if w := f.place(gzipped(t, []byte(aSmallOrder)), "Content-Encoding", "gzip"); w.Code != 202 || len(f.orders.requests) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	bomb := gzipped(t, []byte(`{"note":"`+strings.Repeat("x", 10<<20)+`"}`))
	wantProblem(t, f.place(bomb, "Content-Encoding", "gzip"), 413, "body-too-large")
}

func TestARefusedOrderSaysWhy(t *testing.T) {
	available := int64(1)
	none := int64(0)
	for _, c := range []struct {
		name   string
		err    error
		status int
		slug   string
		says   string
		items  []refusedItem
	}{
		{"out of stock", &order.RefusedError{Code: order.RefusedOutOfStock, Items: []order.RefusedItem{{SKU: "a", Requested: 3, Available: 1}, {SKU: "b", Requested: 1}}},
			409, "out-of-stock", "a, b", []refusedItem{{"a", 3, &available}, {"b", 1, &none}}},
		{"an unknown SKU", &order.RefusedError{Code: order.RefusedUnknownSKU, Items: []order.RefusedItem{{SKU: "a", Requested: 3}}}, 422, "unknown-sku", "a", []refusedItem{{"a", 3, nil}}},
		{"an inactive product", &order.RefusedError{Code: order.RefusedInactive, Items: []order.RefusedItem{{SKU: "a", Requested: 3}}}, 422, "inactive-product", "a", []refusedItem{{"a", 3, nil}}},
		{"two currencies", &order.RefusedError{Code: order.RefusedCurrency, Items: []order.RefusedItem{{SKU: "a", Requested: 3}}}, 422, "currency-mismatch", "a", []refusedItem{{"a", 3, nil}}},
		{"a total too large", &order.RefusedError{Code: order.RefusedTotal, Items: []order.RefusedItem{{SKU: "a", Requested: 3}}}, 422, "total-too-large", "a", []refusedItem{{"a", 3, nil}}},
		{"a key that was used", order.ErrKeyReused, 422, "idempotency-key-reused", "new one", nil},
		{"an invalid member", &order.InvalidError{Field: "items[0].quantity", Detail: "is 0"}, 422, "invalid-body", "body.items[0].quantity: is 0", nil},
		{"text that a database refuses", &order.InvalidError{Field: "body", Detail: "holds something that cannot be stored"}, 422, "invalid-body", "body: holds", nil},
		{"a full queue", &order.Unavailable{Reason: "overloaded", Detail: "full", RetryAfter: time.Second}, 503, "overloaded", "full", nil},
		{"a store that is away", &order.Unavailable{Reason: "store-unavailable", Detail: "away", RetryAfter: 2 * time.Second}, 503, "store-unavailable", "away", nil},
		{"an unknown outcome", &order.Unavailable{Reason: "store-unavailable", Detail: "not known", Unknown: true}, 503, "outcome-unknown", "not known", nil},
		{"a shutdown", &order.Unavailable{Reason: "shutting-down", Detail: "down"}, 503, "shutting-down", "down", nil},
		{"a failure", errors.New("disk on fire"), 500, "internal", "log", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.orders.err = c.err
			w := f.place(aSmallOrder)
			p := wantProblem(t, w, c.status, c.slug)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("detail %q does not say %q", p.Detail, c.says)
			}
			if diff := cmp.Diff(c.items, p.Items); diff != "" {
				t.Error(diff)
			}
			if c.status == 503 && w.Header().Get("Retry-After") == "" {
				t.Error("Retry-After is missing")
			}
			if strings.Contains(w.Body.String(), "fire") {
				t.Error("the answer shows the cause")
			}
		})
	}
	for _, code := range []string{order.RefusedOutOfStock, order.RefusedUnknownSKU, order.RefusedInactive, order.RefusedCurrency, order.RefusedTotal} {
		if _, ok := lookupKind(code); !ok {
			t.Errorf("%s is no problem type", code)
		}
	}
}

func TestOrdersAreRefusedBeforeTheirBodyIsRead(t *testing.T) {
	rates := &fakeRates{decision: limit.Decision{Limit: 10, RetryAfter: 3 * time.Second, Policy: `"orders";q=10`}}
	f := newFixture(t, func(o *Options) { o.OrderRates = rates })
	p := wantProblem(t, f.place("not read"), 429, "rate-limited")
	if p.RetryAfter != 3 || rates.spent != 0 {
		t.Errorf("retryAfter %d, spent %d", p.RetryAfter, rates.spent)
	}
	f.orders.admit = &order.Unavailable{Reason: "overloaded", Detail: "full", RetryAfter: time.Second}
	wantProblem(t, f.place("not read"), 503, "overloaded")

	f.orders.admit = nil
	rates.decision = limit.Decision{Allowed: true, Limit: 10, Remaining: 9, Policy: `"orders";q=10`}
	if w := f.place(aSmallOrder); w.Code != 202 || rates.spent != 1 || w.Header().Get("RateLimit-Policy") != `"orders";q=10` {
		t.Errorf("%d %v, spent %d", w.Code, w.Header(), rates.spent)
	}
	f.orders.err = &order.RefusedError{Code: order.RefusedOutOfStock}
	f.place(aSmallOrder)
	f.place(`{`)
	if rates.spent != 3 {
		t.Errorf("spent %d; refused orders cost as much as placed ones, want 3", rates.spent)
	}
}

func TestAClientThatWentAwayIsNoFailure(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequest("POST", "/orders", strings.NewReader(aSmallOrder)).WithContext(ctx)
	req.Header.Set("Authorization", "Bearer buyer")
	req.Header.Set("Idempotency-Key", "k")
	w := httptest.NewRecorder()
	f.server.Handler().ServeHTTP(w, req)
	if w.Code != statusClientGone {
		t.Errorf("status %d", w.Code)
	}
	if strings.Contains(f.logs.String(), `"level":"ERROR"`) {
		t.Errorf("it was logged as a failure: %s", f.logs)
	}
}

// oracleOrder is what encoding/json makes of an order.
type oracleOrder struct {
	Items []struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
	} `json:"items"`
	PaymentToken    string         `json:"paymentToken"`
	ShippingAddress *order.Address `json:"shippingAddress"`
	Customer        struct{ Email, Phone string }
	Note            string `json:"note"`
}

// FuzzDecodeOrder holds the decoder against encoding/json: what the one takes the
// other takes, and both read the same.
func FuzzDecodeOrder(f *testing.F) {
	for _, seed := range []string{aSmallOrder, `{"items":[{"sku":"a","quantity":-0}],"note":"\u0041\n\"","shippingAddress":{"city":"x"},"customer":{"email":null}}`,
		`{"note":"\ud83d\ude00"}`, `{"x":{"a":[1,"]",{}]}}`, ` { "items" : [ ] } `, `{"note":"\\"}`, `[`, `""`, `{"items":[{"sku":"\"","quantity":1e3}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, refused := decodeOrder(body)
		var want oracleOrder
		err := json.Unmarshal(body, &want)
		if refused != nil {
			if refused.Status == 400 && json.Valid(body) && strings.ToValidUTF8(string(body), "") == string(body) && len(body) < 10_000 {
				t.Fatalf("%q is valid JSON but was refused: %s", body, refused.Detail)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q was taken, but encoding/json says %v", body, err)
		}
		if got.Note != want.Note || got.PaymentToken != want.PaymentToken || got.Email != want.Customer.Email || got.Phone != want.Customer.Phone || len(got.Items) != len(want.Items) {
			t.Fatalf("%q reads %+v, want %+v", body, got, want)
		}
		for i, item := range got.Items {
			if item != order.Item(want.Items[i]) {
				t.Fatalf("%q: item %d reads %+v, want %+v", body, i, item, want.Items[i])
			}
		}
		if diff := cmp.Diff(want.ShippingAddress, got.Address); diff != "" {
			t.Fatalf("%q: %s", body, diff)
		}
	})
}
