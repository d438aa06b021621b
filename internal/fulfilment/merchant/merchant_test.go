package merchant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	patience = 20 * time.Second
	secret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjU"
)

// api is the public API as the merchant sees it.
type api struct {
	*httptest.Server
	calls chan string // "METHOD path body"

	mu      sync.Mutex
	answers map[string][]int // statuses by "METHOD path", in turn; then success
	pages   map[string]string
}

func newAPI(t *testing.T) *api {
	a := &api{calls: make(chan string, 1000), answers: map[string][]int{}, pages: map[string]string{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			t.Errorf("%s %s without the token", r.Method, r.URL)
		}
		key := r.Method + " " + r.URL.RequestURI()
		a.mu.Lock()
		defer a.mu.Unlock()
		if left := a.answers[key]; len(left) > 0 {
			a.answers[key] = left[1:]
			a.calls <- fmt.Sprintf("%s %d", key, left[0])
			w.WriteHeader(left[0])
			return
		}
		if r.Method == http.MethodGet {
			page := a.pages[r.URL.RawQuery]
			if page == "" {
				page = `{"orders":[],"nextCursor":""}`
			}
			io.WriteString(w, page)
			return
		}
		a.calls <- key + " " + string(body)
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) answer(key string, statuses ...int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[key] = statuses
}

func (a *api) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-a.calls:
		if got != want {
			t.Errorf("the call is %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("waited %v for %q", patience, want)
	}
}

// newMerchant runs a merchant that does not wait.
func newMerchant(t *testing.T, a *api, change func(*Options)) *Merchant {
	t.Helper()
	o := Options{API: func() string { return a.URL }, Secret: secret, ShipAfter: -1, DeliverAfter: -1, Token: func(context.Context) (string, error) { return "t0ken", nil }}
	if change != nil {
		change(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	return m
}

// send posts a webhook and returns the status of the answer.
func send(t *testing.T, m *Merchant, id, eventType, orderID string, spoil func(*http.Request)) int {
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": eventType, "timestamp": time.Now(), "data": map[string]string{"orderId": orderID}})
	if err != nil {
		t.Fatal(err)
	}
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signature, err := wh.Sign(id, now, body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL(), strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	r.Header.Set("webhook-signature", signature)
	if spoil != nil {
		spoil(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

const (
	ship1    = `POST /orders/order-1/shipments {"carrier":"Demo Post","trackingNumber":"DPORDER1"}`
	deliver1 = `POST /orders/order-1/deliveries {}`
)

func TestAPaidOrderIsShippedAndDeliveredOnce(t *testing.T) {
	a := newAPI(t)
	m := newMerchant(t, a, nil)
	for range 3 { // the same webhook again
		if status := send(t, m, "msg_1", "order.paid", "order-1", nil); status != 204 {
			t.Fatalf("the webhook is answered %d", status)
		}
	}
	a.expect(t, ship1)
	a.expect(t, deliver1)
	send(t, m, "msg_1", "order.paid", "order-1", nil)
	send(t, m, "msg_2", "order.paid", "order-2", nil)
	a.expect(t, `POST /orders/order-2/shipments {"carrier":"Demo Post","trackingNumber":"DPORDER2"}`)
}

func TestOnlySignedWebhooksAreTaken(t *testing.T) {
	a := newAPI(t)
	m := newMerchant(t, a, nil)
	for name, c := range map[string]struct {
		want  int
		spoil func(*http.Request)
	}{
		"another body": {401, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"type":"order.paid"}`))
			r.ContentLength = -1
		}},
		"another id":       {401, func(r *http.Request) { r.Header.Set("webhook-id", "msg_9") }},
		"no signature":     {401, func(r *http.Request) { r.Header.Del("webhook-signature") }},
		"an old timestamp": {401, func(r *http.Request) { r.Header.Set("webhook-timestamp", "1600000000") }},
		"another path":     {404, func(r *http.Request) { r.URL.Path = "/" }},
		"another method":   {404, func(r *http.Request) { r.Method = http.MethodPut }},
		"more than it reads": {400, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", maxBodyBytes+1))), -1
		}},
	} {
		if status := send(t, m, "msg_1", "order.paid", "order-1", c.spoil); status != c.want {
			t.Errorf("%s is answered %d, want %d", name, status, c.want)
		}
	}
	if status := send(t, m, "msg_2", "order.eaten", "order-1", nil); status != 204 {
		t.Errorf("a type nobody knows is answered %d", status)
	}
	if len(a.calls) != 0 {
		t.Errorf("calls of the API: %q", <-a.calls)
	}
}

func TestTheMerchantTriesAgainUntilTheAPITakesIt(t *testing.T) {
	a := newAPI(t)
	a.answer("POST /orders/order-1/shipments", 503, 429)
	a.answer("POST /orders/order-1/deliveries", 500)
	m := newMerchant(t, a, nil)
	send(t, m, "msg_1", "order.paid", "order-1", nil)
	for _, want := range []string{"POST /orders/order-1/shipments 503", "POST /orders/order-1/shipments 429", ship1, "POST /orders/order-1/deliveries 500", deliver1} {
		a.expect(t, want)
	}
}

func TestAConflictIsAsGoodAsDoneAndARefusalEndsIt(t *testing.T) {
	a := newAPI(t)
	a.answer("POST /orders/order-1/shipments", 409)
	a.answer("POST /orders/order-2/shipments", 404)
	m := newMerchant(t, a, func(o *Options) { o.MaxOrders = 1 })
	send(t, m, "msg_1", "order.paid", "order-1", nil)
	a.expect(t, "POST /orders/order-1/shipments 409")
	a.expect(t, deliver1)
	sendUntilTaken(t, m, "msg_2", "order-2")
	a.expect(t, "POST /orders/order-2/shipments 404")
	sendUntilTaken(t, m, "msg_3", "order-3") // there is room: order-2 was left
	a.expect(t, `POST /orders/order-3/shipments {"carrier":"Demo Post","trackingNumber":"DPORDER3"}`)
}

// sendUntilTaken sends a webhook until there is room for its order.
func sendUntilTaken(t *testing.T, m *Merchant, id, orderID string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		switch status := send(t, m, id, "order.paid", orderID, nil); {
		case status == 204:
			return
		case status != 503 || time.Now().After(deadline):
			t.Fatalf("the webhook is answered %d", status)
		}
	}
}

func TestACancelledOrderIsNotShipped(t *testing.T) {
	a := newAPI(t)
	m := newMerchant(t, a, func(o *Options) { o.ShipAfter, o.MaxOrders = time.Hour, 1 })
	send(t, m, "msg_1", "order.paid", "order-1", nil)
	if status := send(t, m, "msg_2", "order.paid", "order-2", nil); status != 503 {
		t.Errorf("a webhook without room is answered %d, want 503", status)
	}
	send(t, m, "msg_3", "order.cancelled", "order-1", nil)
	if status := send(t, m, "msg_2", "order.paid", "order-2", nil); status != 204 {
		t.Errorf("with room again it is answered %d, want 204", status)
	}
	if status := send(t, m, "msg_4", "order.paid", "order-1", nil); status != 204 {
		t.Errorf("told to ship after the cancel it answers %d, want 204 and to do nothing", status)
	}
	m.parcels.mu.Lock()
	defer m.parcels.mu.Unlock()
	if m.parcels.byOrder["order-1"] != nil || len(m.parcels.byTime) != 1 || m.parcels.byTime[0].orderID != "order-2" {
		t.Errorf("waiting: %v", m.parcels.byOrder)
	}
}

func TestOrdersOfBeforeTheStartAreTakenUp(t *testing.T) {
	a := newAPI(t)
	a.answer("GET /orders?status=fulfilling", 503) // not ready yet
	a.pages["status=fulfilling"] = `{"orders":[{"id":"order-1"}],"nextCursor":"n/1"}`
	a.pages["cursor=n%2F1&status=fulfilling"] = `{"orders":[{"id":"order-2"}],"nextCursor":""}`
	a.pages["status=shipped"] = `{"orders":[{"id":"order-3"}],"nextCursor":""}`
	newMerchant(t, a, func(o *Options) { o.MaxOrders = 1 }) // each waits for room
	for _, want := range []string{"GET /orders?status=fulfilling 503", ship1, deliver1,
		`POST /orders/order-2/shipments {"carrier":"Demo Post","trackingNumber":"DPORDER2"}`, `POST /orders/order-2/deliveries {}`, `POST /orders/order-3/deliveries {}`} {
		a.expect(t, want)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for name, o := range map[string]Options{
		"no API":       {Token: token, Secret: secret},
		"no token":     {API: func() string { return "http://x" }, Secret: secret},
		"no secret":    {API: func() string { return "http://x" }, Token: token},
		"a bad secret": {API: func() string { return "http://x" }, Token: token, Secret: "whsec_dontshowme"},
		"no orders":    {API: func() string { return "http://x" }, Token: token, Secret: secret, MaxOrders: -1},
	} {
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "dontshowme") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestTheBackoffDoublesWithinItsBound(t *testing.T) {
	for n := 1; n < 60; n++ {
		full := min(250*time.Millisecond<<min(n, 10), maxBackoff)
		if got := backoff(n, errors.New("x")); got < full/2 || got > full {
			t.Errorf("after %d failures it is %v, want %v to %v", n, got, full/2, full)
		}
	}
	for after, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, time.Hour: maxBackoff} {
		if got := backoff(1, &laterError{errors.New("x"), after}); got != want {
			t.Errorf("asked for %v it is %v, want %v", after, got, want)
		}
	}
}

func TestOnlyTheLastIdsAreRemembered(t *testing.T) {
	r := newRecent(3)
	for i := range 10 {
		r.add(fmt.Sprint(i))
	}
	got := map[string]bool{}
	for _, id := range []string{"6", "7", "8", "9"} {
		got[id] = r.has(id)
	}
	if diff := cmp.Diff(map[string]bool{"6": false, "7": true, "8": true, "9": true}, got); diff != "" || len(r.ids) != 3 {
		t.Errorf("%d are remembered, differs (-want +got):\n%s", len(r.ids), diff)
	}
}
