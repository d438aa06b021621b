package app

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/bus"
	"millrace/internal/bus/nats"
	"millrace/internal/config"
)

// orderBody orders one unit of a SKU.
func orderBody(sku, token string) string {
	return fmt.Sprintf(`{"items":[{"sku":%q,"quantity":1}],"paymentToken":%q}`, sku, token)
}

// sell puts a product with stock into the catalogue.
func (s *server) sell(sku string, onHand int) {
	s.t.Helper()
	s.want(201, "PUT", "/products/"+sku, `{"names":{"en":"A thing"},"price":{"amount":999,"currency":"EUR"},"category":"things","active":true}`)
	s.want(201, "PUT", "/stock/"+sku, fmt.Sprintf(`{"onHand":%d}`, onHand))
}

// place orders one unit and returns the order's id.
func (s *server) place(sku, token, key string) string {
	s.t.Helper()
	var placed struct{ ID string }
	s.want(202, "POST", "/orders", orderBody(sku, token), "Idempotency-Key", key).into(s.t, &placed)
	return placed.ID
}

type orderStatus struct {
	Status  string
	Version int
}

// reaches waits until an order has a status.
func (s *server) reaches(id, status string) {
	s.t.Helper()
	s.eventually("order "+id+" is "+status, func() error {
		var got orderStatus
		s.want(200, "GET", "/orders/"+id+"/status", "").into(s.t, &got)
		if got.Status != status {
			return fmt.Errorf("it is %s", got.Status)
		}
		return nil
	})
}

type level struct{ OnHand, Reserved, Available int }

func (s *server) level(sku string) (l level) {
	s.t.Helper()
	s.want(200, "GET", "/stock/"+sku, "").into(s.t, &l)
	return l
}

func TestTheDemosShopBringsAnOrderToItsEnd(t *testing.T) {
	cfg := testConfig(t)
	cfg.Demo.Enabled = true
	s := start(t, cfg)
	id := s.place(demoSKU, "tok_ok", "first")
	before := s.level(demoSKU)
	s.reaches(id, "completed")
	if l := s.level(demoSKU); l.Reserved != 0 || l.OnHand != before.OnHand-1 {
		t.Errorf("stock %+v after %+v", l, before)
	}
	var history struct{ History []struct{ To string } }
	s.want(200, "GET", "/orders/"+id+"/history", "").into(t, &history)
	var course []string
	for _, h := range history.History {
		course = append(course, h.To)
	}
	if got := strings.Join(course, " "); got != "placed charging paid fulfilling shipped completed" {
		t.Errorf("its course is %s", got)
	}
	s.eventually("the statistics show orders and revenue", func() error {
		var stats struct {
			Series []struct {
				Type, Currency string
				Points         []struct{ Count, Amount int }
			}
		}
		s.want(200, "GET", "/events/stats?type=order.paid", "").into(t, &stats)
		if len(stats.Series) != 1 || stats.Series[0].Currency != "EUR" || stats.Series[0].Points[0].Count != 1 || stats.Series[0].Points[0].Amount != 1999 {
			return fmt.Errorf("%+v", stats)
		}
		return nil
	})
	s.halt()
	again := start(t, cfg) // seeds nothing anew
	if l := again.level(demoSKU); l.OnHand != before.OnHand-1 {
		t.Errorf("after a restart %+v", l)
	}
	again.reaches(id, "completed")
}

func TestTenThousandBuyersForAHundredUnits(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("drop", 100)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var next, placed, refused atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > 10_000 {
					return
				}
				r, err := http.NewRequest("POST", s.base+"/orders", strings.NewReader(orderBody("drop", "tok_ok")))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Authorization", "Bearer "+s.token)
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Idempotency-Key", fmt.Sprint("buyer-", n))
				response, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				response.Body.Close()
				switch response.StatusCode {
				case 202:
					placed.Add(1)
				case 409:
					refused.Add(1)
				default:
					t.Errorf("buyer %d: %s", n, response.Status)
				}
			}
		})
	}
	wg.Wait()
	if placed.Load() != 100 || refused.Load() != 9900 {
		t.Errorf("%d placed, %d refused", placed.Load(), refused.Load())
	}
	if l := s.level("drop"); l.OnHand != 100 || l.Reserved != 100 || l.Available != 0 {
		t.Errorf("stock %+v", l)
	}
	var problem struct {
		Type  string
		Items []struct {
			SKU                  string
			Requested, Available int
		}
	}
	s.want(409, "POST", "/orders", orderBody("drop", "tok_ok"), "Idempotency-Key", "late").into(t, &problem)
	if !strings.HasSuffix(problem.Type, "/out-of-stock") || len(problem.Items) != 1 || problem.Items[0].SKU != "drop" || problem.Items[0].Requested != 1 {
		t.Errorf("problem %+v", problem)
	}
}

func TestASubmitThatIsRepeatedIsOneOrder(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 10)
	answers := make(chan answer, 16)
	for range cap(answers) {
		go func() {
			a, err := s.try("POST", "/orders", orderBody("a", "tok_ok"), "Idempotency-Key", "same")
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
	}
	first, fresh := "", 0
	for range cap(answers) {
		a := <-answers
		if a.header.Get("Idempotent-Replayed") == "" {
			fresh++
		}
		if first == "" {
			first = string(a.body)
		}
		if a.code != 202 || string(a.body) != first {
			t.Errorf("%d %s, another got %s", a.code, a.body, first)
		}
	}
	if fresh != 1 {
		t.Errorf("%d of the answers are not marked as replays", fresh)
	}
	if a := s.want(422, "POST", "/orders", orderBody("a", "tok_declined"), "Idempotency-Key", "same"); !strings.Contains(string(a.body), "key-reused") {
		t.Errorf("the key with another request: %s", a.body)
	}
	s.place("a", "tok_ok", "other") // the same request with another key is another order
	if l := s.level("a"); l.Reserved != 2 {
		t.Errorf("stock %+v", l)
	}
}

func TestEveryKindOfPaymentEndsWell(t *testing.T) {
	cfg := testConfig(t)
	cfg.Payments.Timeout = time.Second
	cfg.Orders.Lease = time.Second
	s := start(t, cfg)
	s.sell("a", 100)
	ends := map[string]string{
		"tok_ok": "fulfilling", "tok_declined": "payment_failed", "tok_insufficient_funds": "payment_failed", "tok_slow": "fulfilling",
		"tok_timeout_captured": "fulfilling", "tok_flaky": "fulfilling", "tok_late": "fulfilling", "tok_webhook_first": "fulfilling", "tok_nonsense": "payment_failed",
	}
	ids := map[string]string{}
	for token := range ends {
		ids[token] = s.place("a", token, "pay-"+token)
	}
	timeout := s.place("a", "tok_timeout", "pay-timeout")
	s.want(200, "POST", "/orders/"+timeout+"/cancel", `{"reason":"changed my mind"}`)
	for token, end := range ends {
		s.reaches(ids[token], end)
	}
	s.reaches(timeout, "cancelled")
	reserved := 0
	for _, end := range ends {
		if end == "fulfilling" {
			reserved++
		}
	}
	if l := s.level("a"); l.Reserved != reserved || l.OnHand != 100 {
		t.Errorf("stock %+v, want %d reserved", l, reserved)
	}
	var ledger struct {
		Charges []struct{ OrderID, State string }
	}
	s.want(200, "GET", "/sandbox/charges?limit=100", "").into(t, &ledger)
	captured := 0
	for _, c := range ledger.Charges {
		if c.State == "captured" {
			captured++
		}
	}
	if captured != reserved {
		t.Errorf("the sandbox captured %d times, want %d", captured, reserved)
	}
}

func TestTheSandboxesBooksAreReadPageByPage(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 10)
	for _, key := range []string{"1", "2"} {
		s.reaches(s.place("a", "tok_ok", key), "fulfilling")
	}
	var page struct {
		Charges    []struct{ OrderID string }
		NextCursor string
	}
	s.want(200, "GET", "/sandbox/charges?limit=1", "").into(t, &page)
	if len(page.Charges) != 1 || page.NextCursor == "" {
		t.Errorf("%+v", page)
	}
	s.want(200, "GET", "/sandbox/charges?limit=1&cursor="+page.NextCursor, "")
	s.want(400, "GET", "/sandbox/charges?cursor=AAAA", "")
}

func TestRefundsAndCancelsGiveMoneyAndStockBack(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 10)
	cancelled, shipped := s.place("a", "tok_ok", "1"), s.place("a", "tok_ok", "2")
	s.reaches(cancelled, "fulfilling")
	s.reaches(shipped, "fulfilling")
	s.want(200, "POST", "/orders/"+cancelled+"/cancel", "")
	s.want(201, "POST", "/orders/"+shipped+"/shipments", `{"carrier":"Post","trackingNumber":"1"}`)
	if a := s.do("POST", "/orders/"+shipped+"/cancel", ""); a.code != 409 {
		t.Errorf("a cancel against a shipment: %d %s", a.code, a.body)
	}
	s.reaches(cancelled, "refunded")
	if a := s.do("POST", "/orders/"+cancelled+"/shipments", `{}`); a.code != 409 {
		t.Errorf("a shipment of what was cancelled: %d %s", a.code, a.body)
	}
	part := `{"amount":400,"restock":true}`
	first := s.want(202, "POST", "/orders/"+shipped+"/refunds", part, "Idempotency-Key", "r1")
	s.reaches(shipped, "shipped")
	s.eventually("the part is refunded", func() error {
		a := s.do("GET", "/orders/"+shipped, "")
		if !strings.Contains(string(a.body), `"refunded":{"amount":400`) {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	if books := s.want(200, "GET", "/sandbox/charges", ""); !strings.Contains(string(books.body), `"refunds":[{"key":"`) {
		t.Errorf("the refund is not in the books: %s", books.body)
	}
	if again := s.want(202, "POST", "/orders/"+shipped+"/refunds", part, "Idempotency-Key", "r1"); again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the refund repeated: %s after %s", again.body, first.body)
	}
	s.want(202, "POST", "/orders/"+shipped+"/refunds", `{}`, "Idempotency-Key", "r2")
	s.reaches(shipped, "refunded")
	if a := s.do("POST", "/orders/"+shipped+"/refunds", `{}`, "Idempotency-Key", "r3"); a.code != 409 {
		t.Errorf("a third refund: %d %s", a.code, a.body)
	}
	if l := s.level("a"); l.OnHand != 10 || l.Reserved != 0 {
		t.Errorf("stock %+v", l)
	}
	var log struct {
		Entries []struct{ Action, Object string }
	}
	s.want(200, "GET", "/audit?object=order/"+shipped, "").into(t, &log)
	if len(log.Entries) != 3 {
		t.Errorf("audited: %+v", log.Entries)
	}
}

func TestAnOrderWhoseRefundIsRefusedCanBeSettledByHand(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 10)
	id := s.place("a", "tok_refund_fails", "1")
	s.reaches(id, "fulfilling")
	s.want(200, "POST", "/orders/"+id+"/cancel", "")
	parked := func(what string) {
		t.Helper()
		s.eventually(what, func() error {
			if a := s.do("GET", "/orders/"+id, ""); !strings.Contains(string(a.body), `"parkedAt"`) {
				return fmt.Errorf("%s", a.body)
			}
			return nil
		})
	}
	parked("the order is parked")
	var letters struct{ DeadLetters []struct{ ID, Reason string } }
	s.want(200, "GET", "/dead-letters?kind=order", "").into(t, &letters)
	if len(letters.DeadLetters) != 1 || !strings.Contains(letters.DeadLetters[0].Reason, "refuses") {
		t.Errorf("dead letters: %+v", letters)
	}
	s.want(200, "POST", "/dead-letters/"+letters.DeadLetters[0].ID+"/redrive", "")
	parked("the redriven order is parked again")
	s.want(200, "POST", "/orders/"+id+"/redrive", "")
	parked("and again")
	s.want(200, "POST", "/orders/"+id+"/settle", `{"reason":"paid back in cash"}`)
	s.reaches(id, "refunded")
	if l := s.level("a"); l.Reserved != 0 || l.OnHand != 10 {
		t.Errorf("stock %+v", l)
	}
}

// TestTheBrokerMayGoAndComeBackWithoutItsData stops an external broker while
// orders come in, and starts it empty.
func TestTheBrokerMayGoAndComeBackWithoutItsData(t *testing.T) {
	broker, err := nats.StartServer(nats.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(broker.URL(), "nats://")
	cfg := testConfig(t)
	cfg.Bus.NATS.URL = "nats://" + address
	cfg.Orders.Lease = time.Second
	cfg.Log.Level = "error"
	s := start(t, cfg)
	s.sell("a", 100)
	s.reaches(s.place("a", "tok_ok", "with"), "fulfilling")
	broker.Close()
	gone := s.place("a", "tok_ok", "without")
	s.reaches(gone, "fulfilling") // the sweeper's work
	broker, err = nats.StartServer(nats.ServerOptions{StoreDir: t.TempDir(), Listen: address})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.halt(); broker.Close() }()
	s.eventually("the broker is used again", func() error {
		if a := s.do("GET", "/readyz", ""); a.code != 200 {
			return fmt.Errorf("%s", a.body)
		}
		return nil
	})
	s.reaches(s.place("a", "tok_ok", "again"), "fulfilling")
}

func TestAMessageThatIsPoisonBecomesADeadLetter(t *testing.T) {
	broker, err := nats.StartServer(nats.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cfg := testConfig(t)
	cfg.Bus.NATS.URL = broker.URL()
	s := start(t, cfg)
	defer s.halt()
	other, err := nats.New(nats.Options{URL: broker.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n := 0
	s.eventually("a message that says nothing is a dead letter", func() error {
		n++ // what is published before the workers have joined is nobody's
		if err := other.Publish(t.Context(), []bus.Message{{Subject: "orders.paid", ID: fmt.Sprint("poison", n), Data: []byte("no JSON")}}); err != nil {
			return err
		}
		a := s.do("GET", "/dead-letters?kind=message", "", "Authorization", "Bearer "+mint(t, s.cfg, noTenant, "admin"))
		if !strings.Contains(string(a.body), "orders.paid") {
			return fmt.Errorf("%d %s", a.code, a.body)
		}
		return nil
	})
	s.sell("a", 1)
	s.reaches(s.place("a", "tok_ok", "after"), "fulfilling") // others are not held up
}

func TestTheMerchantSetsStockWhileOrdersComeIn(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 50)
	var wg sync.WaitGroup
	var placed atomic.Int64
	for n := range 8 {
		wg.Go(func() {
			for i := range 20 {
				a, err := s.try("POST", "/orders", orderBody("a", "tok_timeout"), "Idempotency-Key", fmt.Sprint(n, "-", i))
				if err != nil {
					t.Error(err)
				} else if a.code == 202 {
					placed.Add(1)
				}
			}
		})
	}
	sets := 0
	for range 20 {
		current := s.want(200, "GET", "/stock/a", "")
		a := s.do("PUT", "/stock/a", `{"onHand":90}`, "If-Match", current.header.Get("ETag"))
		switch a.code {
		case 200:
			sets++
		case 412: // an order came between
		default:
			t.Errorf("setting stock: %d %s", a.code, a.body)
		}
	}
	wg.Wait()
	if a := s.do("PUT", "/stock/a", `{"onHand":90}`); a.code != 428 {
		t.Errorf("setting stock without If-Match: %d %s", a.code, a.body)
	}
	if a := s.do("PUT", "/stock/a", `{"onHand":1}`, "If-Match", s.do("GET", "/stock/a", "").header.Get("ETag")); a.code != 409 || !strings.Contains(string(a.body), "reserved") {
		t.Errorf("setting less than is reserved: %d %s", a.code, a.body)
	}
	l := s.level("a")
	if want := int(placed.Load()); l.Reserved != want || l.Available != l.OnHand-want || want < 50 {
		t.Errorf("stock %+v after %d orders and %d sets", l, want, sets)
	}
}

func TestAWebhookThatIsNotStripesIsRefused(t *testing.T) {
	cfg := testConfig(t)
	cfg.Payments.Provider = "stripe"
	cfg.Payments.Stripe = config.Stripe{SecretKey: config.NewSecret("sk_test_x"), WebhookSecrets: []config.Secret{config.NewSecret("whsec_x")}, BaseURL: "http://127.0.0.1:1"}
	s := start(t, cfg)
	a := s.do("POST", "/payments/stripe/webhook", `{"type":"payment_intent.succeeded"}`, "Authorization", "", "Stripe-Signature", "t=1,v1=00")
	if a.code != 401 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestAPriceIsTheCataloguesWhenTheOrderIsPlaced(t *testing.T) {
	s := start(t, testConfig(t))
	s.sell("a", 10)
	total := func(id string) string {
		var o struct{ Total struct{ Amount int } }
		s.want(200, "GET", "/orders/"+id, "").into(t, &o)
		return fmt.Sprint(o.Total.Amount)
	}
	first := s.place("a", "tok_ok", "cart-1")
	s.want(200, "PUT", "/products/a", `{"names":{"en":"A thing"},"price":{"amount":1500,"currency":"EUR"},"category":"things","active":true}`)
	second := s.place("a", "tok_ok", "cart-2") // the buyer had seen the old price
	if again := s.place("a", "tok_ok", "cart-1"); again != first {
		t.Errorf("the first order repeated is %s, was %s", again, first)
	}
	if got := total(first) + " " + total(second); got != "999 1500" {
		t.Errorf("totals %s", got)
	}
	s.want(200, "PUT", "/products/a", `{"names":{"en":"A thing"},"price":{"amount":1500,"currency":"EUR"},"category":"things","active":false}`)
	for body, slug := range map[string]string{
		orderBody("a", "tok_ok"):                                                                "inactive-product",
		orderBody("none", "tok_ok"):                                                             "unknown-sku",
		`{"items":[{"sku":"a","quantity":0}],"paymentToken":"tok_ok"}`:                          "invalid-body",
		`{"items":[{"sku":"a","quantity":-1}],"paymentToken":"tok_ok"}`:                         "invalid-body",
		`{"items":[{"sku":"a","quantity":99999999999}],"paymentToken":"tok_ok"}`:                "invalid-body",
		`{"items":[{"sku":"a","quantity":1,"unitPrice":1}],"paymentToken":"tok_ok"}`:            "invalid-body",
		`{"items":[{"sku":"a","quantity":1}],"paymentToken":"tok_ok","note":"\u0000"}`:          "invalid-body",
		`{"items":[{"sku":"a","quantity":1}],"paymentToken":"tok_ok","total":{"amount":"one"}}`: "invalid-body",
	} {
		if a := s.do("POST", "/orders", body, "Idempotency-Key", "bad"); a.code != 422 || !strings.Contains(string(a.body), slug) {
			t.Errorf("%s: %d %s, want 422 %s", body, a.code, a.body, slug)
		}
	}
	s.want(201, "PUT", "/products/usd", `{"names":{"en":"Another"},"price":{"amount":100,"currency":"USD"},"category":"things","active":true}`)
	s.want(200, "PUT", "/products/a", `{"names":{"en":"A thing"},"price":{"amount":1500,"currency":"EUR"},"category":"things","active":true}`)
	a := s.do("POST", "/orders", `{"items":[{"sku":"a","quantity":1},{"sku":"usd","quantity":1}],"paymentToken":"tok_ok"}`, "Idempotency-Key", "mixed")
	if a.code != 422 || !strings.Contains(string(a.body), "currency-mismatch") {
		t.Errorf("two currencies: %d %s", a.code, a.body)
	}
}
