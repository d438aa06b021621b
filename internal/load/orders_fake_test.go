package load

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeShop takes orders behind the routes that the generator and the verifier
// use. Payment and shipment happen when somebody looks. Its knobs make it break
// promises.
type fakeShop struct {
	*httptest.Server

	mu      sync.Mutex
	prices  map[string]int64
	stock   map[string]*storedLevel
	orders  []*fakeOrder // in order of placement
	keys    map[string]*fakeOrder
	charges []storedCharge
	posts   int
	bodies  []string // of POST /orders, with their keys
	adjusts map[string]bool

	paused   bool // nothing is paid or shipped
	noLedger bool
	// before runs ahead of each POST /orders; true means that it answered itself.
	before func(post int, w http.ResponseWriter, r *http.Request, body []byte) bool
	// forget makes each key good for any number of orders.
	forget bool
}

type fakeOrder struct {
	storedOrder
	token   string
	history []storedChange
}

func newFakeShop(t *testing.T) *fakeShop {
	t.Helper()
	f := &fakeShop{prices: map[string]int64{}, stock: map[string]*storedLevel{}, keys: map[string]*fakeOrder{}, adjusts: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /products/{sku}", f.putProduct)
	mux.HandleFunc("POST /stock/{sku}/adjustments", f.adjust)
	mux.HandleFunc("GET /stock", f.listStock)
	mux.HandleFunc("POST /orders", f.post)
	mux.HandleFunc("GET /orders", f.list)
	mux.HandleFunc("GET /orders/{id}/status", f.status)
	mux.HandleFunc("GET /orders/{id}/history", f.historyOf)
	mux.HandleFunc("POST /orders/{id}/cancel", f.cancel)
	mux.HandleFunc("GET /sandbox/charges", f.ledger)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func answerProblem(w http.ResponseWriter, status int, slug string) {
	answerJSON(w, status, map[string]any{"type": "https://millrace.dev/problems/" + slug, "title": slug, "detail": "because of " + slug})
}

func (f *fakeShop) putProduct(w http.ResponseWriter, r *http.Request) {
	var p struct{ Price storedMoney }
	if json.NewDecoder(r.Body).Decode(&p) != nil || p.Price.Amount < 1 {
		answerProblem(w, 422, "invalid-body")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prices[r.PathValue("sku")] = p.Price.Amount
	answerJSON(w, 201, map[string]any{})
}

func (f *fakeShop) adjust(w http.ResponseWriter, r *http.Request) {
	var a struct{ Delta int64 }
	key := r.Header.Get("Idempotency-Key")
	if json.NewDecoder(r.Body).Decode(&a) != nil || key == "" {
		answerProblem(w, 422, "invalid-body")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.stock[r.PathValue("sku")]
	if l == nil {
		l = &storedLevel{SKU: r.PathValue("sku")}
		f.stock[l.SKU] = l
	}
	if !f.adjusts[key] {
		f.adjusts[key] = true
		f.change(l.SKU, a.Delta, 0)
	}
	answerJSON(w, 200, l)
}

// change changes a level. The caller holds mu.
func (f *fakeShop) change(sku string, onHand, reserved int64) {
	l := f.stock[sku]
	l.OnHand += onHand
	l.Reserved += reserved
	l.Available = l.OnHand - l.Reserved
	l.Version++
}

func (f *fakeShop) listStock(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []storedLevel
	for _, l := range f.stock {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b storedLevel) int { return strings.Compare(a.SKU, b.SKU) })
	page, next := pageOf(all, r.URL.Query())
	answerJSON(w, 200, map[string]any{"stock": page, "nextCursor": next})
}

// pageOf cuts pages of 100, so that several are needed.
func pageOf[T any](all []T, q url.Values) ([]T, string) {
	from, _ := strconv.Atoi(q.Get("cursor"))
	from = min(from, len(all))
	to := min(from+100, len(all))
	if to == len(all) {
		return all[from:to], ""
	}
	return all[from:to], strconv.Itoa(to)
}

func (f *fakeShop) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request struct {
		Items []struct {
			SKU      string
			Quantity int64
		}
		PaymentToken string
	}
	key := r.Header.Get("Idempotency-Key")
	if err != nil || json.Unmarshal(body, &request) != nil || key == "" || len(request.Items) == 0 {
		answerProblem(w, 400, "malformed-body")
		return
	}
	f.mu.Lock()
	f.posts++
	post := f.posts
	f.bodies = append(f.bodies, key+" "+string(body))
	f.mu.Unlock()
	if f.before != nil && f.before(post, w, r, body) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.keys[key]; o != nil && !f.forget {
		w.Header().Set("Idempotent-Replayed", "true")
		f.answerPlaced(w, o)
		return
	}
	units := map[string]int64{}
	for _, i := range request.Items {
		units[i.SKU] += i.Quantity
	}
	o := &fakeOrder{token: request.PaymentToken}
	o.ID = idMaker{run: uint64(post)}.at(time.Now(), uint32(post)).String()
	o.PlacedAt = time.Now().UTC()
	o.CustomerID = "load"
	for sku, n := range units {
		switch l := f.stock[sku]; {
		case f.prices[sku] == 0:
			answerProblem(w, 422, "unknown-sku")
			return
		case l == nil || l.Available < n:
			answerProblem(w, 409, "out-of-stock")
			return
		}
	}
	for sku, n := range units {
		f.change(sku, 0, n)
		item := struct {
			SKU       string      `json:"sku"`
			Quantity  int64       `json:"quantity"`
			UnitPrice storedMoney `json:"unitPrice"`
		}{sku, n, storedMoney{f.prices[sku], "EUR"}}
		o.Items = append(o.Items, item)
		o.Total.Amount += n * f.prices[sku]
	}
	o.Total.Currency, o.Captured.Currency, o.Refunded.Currency = "EUR", "EUR", "EUR"
	o.step("placed", "placed")
	f.orders = append(f.orders, o)
	f.keys[key] = o
	f.answerPlaced(w, o)
}

func (f *fakeShop) answerPlaced(w http.ResponseWriter, o *fakeOrder) {
	w.WriteHeader(202)
	fmt.Fprintf(w, `{"id":%q,"status":"placed","statusUrl":"/orders/%s/status","total":{"amount":%d,"currency":"EUR"}}`, o.ID, o.ID, o.Total.Amount)
}

// step makes a transition without any effect.
func (o *fakeOrder) step(event, to string) {
	o.Version++
	o.history = append(o.history, storedChange{Version: o.Version, At: time.Now().UTC(), Event: event, From: o.Status, To: to})
	o.Status = to
}

// work brings every order as far as it goes. The caller holds mu.
func (f *fakeShop) work() {
	for _, o := range f.orders {
		if f.paused || o.Status != "placed" {
			continue
		}
		o.step("charge_intended", "charging")
		if o.token == "tok_declined" {
			f.charges = append(f.charges, storedCharge{OrderID: o.ID, Key: o.ID + ":charge", State: "declined", Amount: o.Total})
			o.step("declined", "payment_failed")
			f.release(o)
			continue
		}
		f.charges = append(f.charges, storedCharge{OrderID: o.ID, Key: o.ID + ":charge", State: "captured", Amount: o.Total})
		o.Captured.Amount = o.Total.Amount
		o.step("captured", "paid")
		o.step("sent", "fulfilling")
		if o.token == "tok_shipped" {
			f.ship(o)
		}
	}
}

func (f *fakeShop) ship(o *fakeOrder) {
	for _, i := range o.Items {
		f.change(i.SKU, -i.Quantity, -i.Quantity)
	}
	o.Shipment = &struct {
		ShippedAt time.Time `json:"shippedAt"`
	}{time.Now().UTC()}
	o.step("shipment_reported", "shipped")
}

func (f *fakeShop) release(o *fakeOrder) {
	for _, i := range o.Items {
		f.change(i.SKU, 0, -i.Quantity)
	}
}

func (f *fakeShop) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.work()
	var all []storedOrder
	for _, o := range slices.Backward(f.orders) {
		if s := r.FormValue("status"); s == "" || s == o.Status {
			all = append(all, o.storedOrder)
		}
	}
	page, next := pageOf(all, r.URL.Query())
	answerJSON(w, 200, map[string]any{"orders": page, "nextCursor": next})
}

// find returns the order of a request. The caller holds mu.
func (f *fakeShop) find(w http.ResponseWriter, r *http.Request) *fakeOrder {
	for _, o := range f.orders {
		if o.ID == r.PathValue("id") {
			return o
		}
	}
	answerProblem(w, 404, "not-found")
	return nil
}

func (f *fakeShop) status(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.work()
	if o := f.find(w, r); o != nil {
		answerJSON(w, 200, map[string]any{"id": o.ID, "status": o.Status, "version": o.Version})
	}
}

func (f *fakeShop) historyOf(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.find(w, r); o != nil {
		answerJSON(w, 200, map[string]any{"history": o.history})
	}
}

func (f *fakeShop) cancel(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.find(w, r)
	switch {
	case o == nil:
	case o.Status == "placed":
		o.step("cancel_asked", "cancelled")
		f.release(o)
		answerJSON(w, 200, o.storedOrder)
	case o.Status == "cancelled":
		answerJSON(w, 200, o.storedOrder)
	default:
		answerProblem(w, 409, "order-state")
	}
}

func (f *fakeShop) ledger(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noLedger {
		answerProblem(w, 404, "not-found")
		return
	}
	page, next := pageOf(f.charges, r.URL.Query())
	answerJSON(w, 200, map[string]any{"charges": page, "nextCursor": next})
}
