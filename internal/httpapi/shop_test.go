package httpapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/payment"
)

const aProduct = `{"names":{"en":"Tee"},"price":{"amount":1999,"currency":"EUR"},"category":"clothing","attributes":{"size":"M"}}`

// tagOf is the ETag of a version of a product that shows a body in all its languages.
func tagOf(version int, body string) string {
	return fmt.Sprintf(`"v%d-%08x"`, version, uint32(xxhash.Sum64String(strings.TrimSuffix(body, "\n"))))
}

func TestAProductIsCreatedReplacedAndShown(t *testing.T) {
	f := newFixture(t)
	w := f.call("PUT", "/products/tee", aProduct, "X-Request-Id", "r-1")
	const want = `{"sku":"tee","names":{"en":"Tee"},"price":{"amount":1999,"currency":"EUR"},"category":"clothing","position":0,"attributes":{"size":"M"},` +
		`"active":true,"version":1,"createdAt":"2026-11-22T08:30:00Z","updatedAt":"2026-11-22T08:30:00Z"}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); w.Code != 201 || w.Header().Get("ETag") != tagOf(1, want) || diff != "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), diff)
	}
	if f.catalog.actor != (audit.Actor{Subject: "ops", Method: auth.MethodJWT, RequestID: "r-1"}) {
		t.Errorf("actor %+v", f.catalog.actor)
	}
	if w := f.call("PUT", "/products/tee", aProduct); w.Code != 200 || w.Header().Get("ETag") != tagOf(1, want) {
		t.Errorf("the same again: %d %v", w.Code, w.Header())
	}
	if w := f.call("PUT", "/products/tee", strings.Replace(aProduct, `"category"`, `"active":false,"category"`, 1)); w.Code != 200 || w.Header().Get("ETag") != tagOf(2, w.Body.String()) {
		t.Errorf("another: %d %v", w.Code, w.Header())
	}
	w = f.call("GET", "/products/tee", "", "Authorization", "Bearer no scope")
	if w.Code != 200 || w.Header().Get("ETag") != tagOf(2, w.Body.String()) || w.Header().Get("Cache-Control") != noCache || !strings.Contains(w.Body.String(), `"active":false`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	tag := w.Header().Get("ETag")
	if w := f.call("GET", "/products/tee", "", "If-None-Match", tag); w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	wantProblem(t, f.call("GET", "/products/none", ""), 404, "not-found")
	wantProblem(t, f.call("GET", "/products/tee", "", "Authorization", "Bearer other"), 404, "not-found")
}

func TestAProductIsReplacedOnlyInTheVersionThatIsMeant(t *testing.T) {
	f := newFixture(t)
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", "*"), 412, "precondition-failed")
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", `"v1"`), 412, "precondition-failed")
	if w := f.call("PUT", "/products/tee", aProduct, "If-None-Match", "*"); w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	first := f.call("GET", "/products/tee", "").Header().Get("ETag")
	w := f.call("PUT", "/products/tee", aProduct, "If-None-Match", "*")
	if p := wantProblem(t, w, 412, "precondition-failed"); w.Header().Get("ETag") != first || !strings.Contains(p.Detail, first) {
		t.Errorf("%v %q", w.Header(), p.Detail)
	}
	dearer := strings.Replace(aProduct, "1999", "2999", 1)
	if w := f.call("PUT", "/products/tee", dearer, "If-Match", `"v1"`); w.Code != 200 || w.Header().Get("ETag") != tagOf(2, w.Body.String()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = f.call("PUT", "/products/tee", aProduct, "If-Match", `"v1"`)
	if wantProblem(t, w, 412, "precondition-failed"); w.Header().Get("ETag") != f.call("GET", "/products/tee", "").Header().Get("ETag") {
		t.Errorf("%v", w.Header())
	}
	if w := f.call("PUT", "/products/tee", aProduct, "If-Match", "*"); w.Code != 200 || w.Header().Get("ETag") != tagOf(3, w.Body.String()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for name, value := range map[string]string{"If-Match": "v1", "If-None-Match": `"v1"`} {
		p := wantProblem(t, f.call("PUT", "/products/tee", aProduct, name, value), 400, "invalid-parameter")
		if len(p.Errors) != 1 || p.Errors[0].Location != "header."+name {
			t.Errorf("%s: %+v", name, p.Errors)
		}
	}
	wantProblem(t, f.call("PUT", "/products/tee", aProduct, "If-Match", `"v1"`, "If-None-Match", "*"), 400, "invalid-parameter")
}

func TestABadProductIsRefusedWithTheField(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ body, location string }{
		{`{"price":{"amount":1,"currency":"EUR"}}`, "body"},
		{`{"names":{"en":"x"},"price":{"amount":0,"currency":"EUR"}}`, "body.price.amount"},
		{`{"names":{"en":"x"},"price":{"amount":"1","currency":"EUR"}}`, "body.price.amount"},
		{`{"names":{"en":"x"},"price":{"amount":1,"currency":"EUR"},"sku":"y"}`, "body"},
		{`{"names":{"en":7},"price":{"amount":1,"currency":"EUR"}}`, "body.names.en"},
	} {
		p := wantProblem(t, f.call("PUT", "/products/tee", c.body), 422, "invalid-body")
		if len(p.Errors) == 0 || !strings.HasPrefix(p.Errors[0].Location, c.location) {
			t.Errorf("%s: %+v, want %s", c.body, p.Errors, c.location)
		}
	}
	f.catalog.err = errors.New("disk")
	wantProblem(t, f.call("PUT", "/products/tee", aProduct), 500, "internal")
}

func TestProductsAndPricesAreListed(t *testing.T) {
	f := newFixture(t)
	f.call("PUT", "/products/a", aProduct)
	f.call("PUT", "/products/b", aProduct)
	w := f.call("GET", "/products?category=clothing&limit=2&cursor=c", "", "Authorization", "Bearer no scope")
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"products":[{"sku":"a"`) || !strings.HasSuffix(w.Body.String(), `"nextCursor":"n"}`+"\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(catalog.Query{TenantID: "demo", Category: "clothing", Limit: 2, Cursor: "c"}, f.catalog.query); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, f.call("GET", "/products?inactive=true", "", "Authorization", "Bearer no scope"), 403, "scope-missing")
	if f.call("GET", "/products?inactive=true", ""); !f.catalog.query.Inactive {
		t.Error("inactive products are not asked for")
	}
	wantProblem(t, f.call("GET", "/products?cursor=bad", ""), 400, "invalid-parameter")
	wantProblem(t, f.call("GET", "/products?tenant=demo", ""), 400, "invalid-parameter")

	f.catalog.prices = []catalog.Price{{Money: catalog.Money{Amount: 5, Currency: "EUR"}, From: testNow, ProductVersion: 2, ChangedBy: "ops"}}
	const price = `{"prices":[{"price":{"amount":5,"currency":"EUR"},"from":"2026-11-22T08:30:00Z","version":2`
	if w := f.call("GET", "/products/a/prices", ""); w.Body.String() != price+`,"changedBy":"ops"}]}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("GET", "/products/a/prices", "", "Authorization", "Bearer no scope"); w.Body.String() != price+`}]}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAPublicCatalogueIsReadWithoutACredential(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.CatalogPublic = true })
	f.call("PUT", "/products/on", aProduct)
	f.call("PUT", "/products/off", strings.Replace(aProduct, `"category"`, `"active":false,"category"`, 1))
	for _, target := range []string{"/products/on?tenant=demo", "/products?tenant=demo", "/products/on/prices?tenant=demo"} {
		if w := f.call("GET", target, "", "Authorization", ""); w.Code != 200 {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if w := f.call("GET", "/products/on", "", "Authorization", "", tenantHeader, "demo"); w.Code != 200 {
		t.Errorf("by header: %d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("GET", "/products/on?tenant=other", "", "Authorization", "", tenantHeader, "demo"), 400, "invalid-parameter")
	wantProblem(t, f.call("GET", "/products/on", "", "Authorization", ""), 400, "tenant-missing")
	wantProblem(t, f.call("GET", "/products/on?tenant=No/Such", "", "Authorization", ""), 400, "tenant-missing")
	wantProblem(t, f.call("GET", "/products/off?tenant=demo", "", "Authorization", ""), 404, "not-found")
	wantProblem(t, f.call("GET", "/products/off/prices?tenant=demo", "", "Authorization", ""), 404, "not-found")
	wantProblem(t, f.call("GET", "/products?tenant=demo&inactive=true", "", "Authorization", ""), 403, "scope-missing")
	wantProblem(t, f.call("GET", "/products/on?tenant=other", ""), 400, "invalid-parameter") // a credential's tenant stays
	wantProblem(t, f.call("GET", "/products/on?tenant=demo", "", "Authorization", "Bearer expired"), 401, "token-expired")
	wantProblem(t, f.call("PUT", "/products/on?tenant=demo", aProduct, "Authorization", ""), 401, "token-missing")
	wantProblem(t, f.call("GET", "/stock/on?tenant=demo", "", "Authorization", ""), 401, "token-missing")
	wantProblem(t, newFixture(t).call("GET", "/products/on?tenant=demo", "", "Authorization", ""), 401, "token-missing")
}

func TestVisitorsCannotTakeTheReadsOfATenant(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.CatalogPublic, o.MaxReads, o.MaxReadsPerTenant = true, 2, 1 })
	if refused := f.server.reads.enter(readerOf(&auth.Principal{TenantID: "demo", Method: methodVisitor})); refused != nil {
		t.Fatal(refused)
	}
	for _, tenant := range []string{"demo", "other"} {
		wantProblem(t, f.call("GET", "/products?tenant="+tenant, "", "Authorization", ""), 429, "too-many-reads")
	}
	if w := f.call("GET", "/products", ""); w.Code != 200 {
		t.Errorf("the tenant itself: %d %s", w.Code, w.Body)
	}
}

func TestStockIsSetOnlyInTheVersionThatWasSeen(t *testing.T) {
	f := newFixture(t)
	w := f.call("PUT", "/stock/tee", `{"onHand":100}`, "X-Request-Id", "r-1")
	const want = `{"sku":"tee","onHand":100,"reserved":0,"available":100,"version":1,"updatedAt":"2026-11-22T08:30:00Z"}` + "\n"
	if w.Code != 201 || w.Header().Get("ETag") != tenantTag("demo", 1) || w.Body.String() != want {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if f.stock.actor != (audit.Actor{Subject: "ops", Method: auth.MethodJWT, RequestID: "r-1"}) {
		t.Errorf("actor %+v", f.stock.actor)
	}
	w = f.call("PUT", "/stock/tee", `{"onHand":90}`)
	if p := wantProblem(t, w, 428, "precondition-required"); w.Header().Get("ETag") != tenantTag("demo", 1) || !strings.Contains(p.Detail, tenantTag("demo", 1)) {
		t.Errorf("%v %q", w.Header(), p.Detail)
	}
	w = f.call("PUT", "/stock/tee", `{"onHand":90}`, "If-None-Match", "*")
	if wantProblem(t, w, 412, "precondition-failed"); w.Header().Get("ETag") != tenantTag("demo", 1) {
		t.Errorf("%v", w.Header())
	}
	wantProblem(t, f.call("PUT", "/stock/tee", `{"onHand":90}`, "If-Match", `*`), 400, "invalid-parameter")
	if w := f.call("PUT", "/stock/tee", `{"onHand":90}`, "If-Match", `"v1"`); w.Code != 200 || w.Header().Get("ETag") != tenantTag("demo", 2) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = f.call("PUT", "/stock/tee", `{"onHand":80}`, "If-Match", `"v1"`)
	if wantProblem(t, w, 412, "precondition-failed"); w.Header().Get("ETag") != tenantTag("demo", 2) {
		t.Errorf("%v", w.Header())
	}
	p := wantProblem(t, f.call("PUT", "/stock/none", `{"onHand":80}`, "If-Match", `"v1"`), 412, "precondition-failed")
	if !strings.Contains(p.Detail, "leave If-Match out") {
		t.Errorf("detail %q", p.Detail)
	}
	f.stock.put("tee", 90, 40)
	wantProblem(t, f.call("PUT", "/stock/tee", `{"onHand":39}`, "If-Match", `"v3"`), 409, "stock-reserved")
	for _, body := range []string{`{"onHand":-1}`, `{"onHand":1000000001}`, `{"onHand":1.5}`, `{"onHnad":1}`, `{}`, `{"onHand":99999999999999999999}`} {
		if w := f.call("PUT", "/stock/tee", body); w.Code != 422 && w.Code != 400 {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	f.stock.err = &inventory.InvalidError{Field: "sku", Detail: "is no SKU"}
	wantProblem(t, f.call("PUT", "/stock/a%20b", `{"onHand":1}`), 422, "invalid-body")
}

func TestStockIsAdjustedOnceForAKey(t *testing.T) {
	f := newFixture(t)
	wantProblem(t, f.call("POST", "/stock/tee/adjustments", `{"delta":5,"reason":"in"}`), 400, "idempotency-key-missing")
	w := f.call("POST", "/stock/tee/adjustments", `{"delta":5,"reason":"in"}`, "Idempotency-Key", "k")
	if w.Code != 200 || w.Header().Get("ETag") != tenantTag("demo", 1) || w.Header().Get("Idempotent-Replayed") != "" || !strings.Contains(w.Body.String(), `"onHand":5`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	w = f.call("POST", "/stock/tee/adjustments", `{"delta":5,"reason":"in"}`, "Idempotency-Key", "k")
	if w.Code != 200 || w.Header().Get("Idempotent-Replayed") != "true" || !strings.Contains(w.Body.String(), `"onHand":5`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	wantProblem(t, f.call("POST", "/stock/tee/adjustments", `{"delta":6,"reason":"in"}`, "Idempotency-Key", "k"), 422, "idempotency-key-reused")
	wantProblem(t, f.call("POST", "/stock/tee/adjustments", `{"delta":1000000000,"reason":"in"}`, "Idempotency-Key", "k2"), 409, "stock-out-of-range")
	wantProblem(t, f.call("POST", "/stock/tee/adjustments", `{"delta":1}`, "Idempotency-Key", "k3"), 422, "invalid-body")
}

func TestStockIsShownToThoseWhoKeepIt(t *testing.T) {
	f := newFixture(t)
	f.stock.put("tee", 10, 3)
	w := f.call("GET", "/stock/tee", "", "Authorization", "Bearer merchant")
	if w.Code != 200 || w.Header().Get("ETag") != tenantTag("demo", 1) || !strings.Contains(w.Body.String(), `"onHand":10,"reserved":3,"available":7,"version":1`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("GET", "/stock/tee", "", "If-None-Match", tenantTag("demo", 1)); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("GET", "/stock", "", "Authorization", "Bearer merchant"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"stock":[{"sku":"tee"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("GET", "/stock/tee", "", "Authorization", "Bearer buyer"), 403, "scope-missing")
	wantProblem(t, f.call("GET", "/stock", "", "Authorization", "Bearer buyer"), 403, "scope-missing")
	wantProblem(t, f.call("GET", "/stock/none", ""), 404, "not-found")
	wantProblem(t, f.call("GET", "/stock?cursor=bad", ""), 400, "invalid-parameter")
}

func TestAWebhookEndpointShowsItsSecretOnce(t *testing.T) {
	f := newFixture(t)
	const body = `{"url":"https://a.example/hook"}`
	w := f.call("PUT", "/webhook-endpoints/wh", body, "X-Request-Id", "r-1")
	const want = `{"id":"wh","url":"https://a.example/hook","events":["order.paid","order.cancelled"],"enabled":true,"oldSecretUntil":"2026-11-22T08:30:00Z","version":1,` +
		`"createdAt":"2026-11-22T08:30:00Z","updatedAt":"2026-11-22T08:30:00Z"`
	if w.Code != 201 || w.Header().Get("ETag") != tenantTag("demo", 1) || w.Body.String() != want+`,"secret":"whsec_new"}`+"\n" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if f.endpoints.actor != (audit.Actor{Subject: "ops", Method: auth.MethodJWT, RequestID: "r-1"}) {
		t.Errorf("actor %+v", f.endpoints.actor)
	}
	if strings.Contains(f.logs.String(), "whsec_new") {
		t.Error("the secret is in the log")
	}
	for _, target := range []string{"/webhook-endpoints/wh", "/webhook-endpoints"} {
		if w := f.call("GET", target, ""); w.Code != 200 || strings.Contains(w.Body.String(), "whsec") || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	off := false
	w = f.call("PUT", "/webhook-endpoints/wh", `{"url":"https://b.example","events":["order.paid"],"secret":"whsec_mine","enabled":false}`, "If-Match", `"v1"`)
	if w.Code != 200 || strings.Contains(w.Body.String(), "whsec") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(fulfilment.EndpointRequest{URL: "https://b.example", Events: []string{"order.paid"}, Secret: "whsec_mine", Enabled: &off}, f.endpoints.request); diff != "" {
		t.Error(diff)
	}
	if w := f.call("PUT", "/webhook-endpoints/wh", `{"url":"https://b.example","rotateSecret":true}`, "If-Match", "*"); w.Code != 200 || !strings.Contains(w.Body.String(), "whsec_new") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("PUT", "/webhook-endpoints/wh", body, "If-Match", `"v1"`), 412, "precondition-failed")
	wantProblem(t, f.call("PUT", "/webhook-endpoints/new", body, "If-Match", `*`), 412, "precondition-failed")
	wantProblem(t, f.call("PUT", "/webhook-endpoints/wh", body, "If-None-Match", `*`), 412, "precondition-failed")
	wantProblem(t, f.call("GET", "/webhook-endpoints/wh", "", "Authorization", "Bearer other"), 404, "not-found")
	f.endpoints.err = &fulfilment.InvalidError{Field: "url", Detail: "is a private address"}
	if p := wantProblem(t, f.call("PUT", "/webhook-endpoints/x", body), 422, "invalid-body"); p.Errors[0].Location != "body.url" {
		t.Errorf("%+v", p.Errors)
	}
	f.endpoints.err = fulfilment.ErrTooManyEndpoints
	wantProblem(t, f.call("PUT", "/webhook-endpoints/x", body), 409, "too-many-endpoints")
	if w := f.call("DELETE", "/webhook-endpoints/wh", ""); w.Code != 204 || f.endpoints.actor.Subject != "ops" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("DELETE", "/webhook-endpoints/wh", ""), 404, "not-found")
}

func TestDeliveriesAreShownWithHowTheyWent(t *testing.T) {
	f := newFixture(t)
	wantProblem(t, f.call("GET", "/webhook-endpoints/none/deliveries", ""), 404, "not-found")
	f.endpoints.deliveries = []fulfilment.Delivery{
		{ID: "1", EventType: "order.paid", OrderID: "o", CreatedAt: testNow, Attempts: 1, DeliveredAt: testNow, LastStatus: 204, Payload: []byte(`{"email":"secret"}`)},
		{ID: "2", EventType: "order.paid", OrderID: "o", CreatedAt: testNow, Attempts: 2, NextAttempt: testNow, LastStatus: 503, LastError: "answered 503"},
		{ID: "3", EventType: "order.paid", OrderID: "o", CreatedAt: testNow, Attempts: 11, LastError: "gave up"},
	}
	w := f.call("GET", "/webhook-endpoints/wh/deliveries", "")
	const want = `{"deliveries":[` +
		`{"id":"1","eventType":"order.paid","orderId":"o","state":"delivered","createdAt":"2026-11-22T08:30:00Z","attempts":1,"deliveredAt":"2026-11-22T08:30:00Z","lastStatus":204},` +
		`{"id":"2","eventType":"order.paid","orderId":"o","state":"pending","createdAt":"2026-11-22T08:30:00Z","attempts":2,"nextAttemptAt":"2026-11-22T08:30:00Z","lastStatus":503,"lastError":"answered 503"},` +
		`{"id":"3","eventType":"order.paid","orderId":"o","state":"failed","createdAt":"2026-11-22T08:30:00Z","attempts":11,"lastError":"gave up"}],"nextCursor":""}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, f.call("GET", "/webhook-endpoints/wh/deliveries?cursor=bad", ""), 400, "invalid-parameter")
}

func TestTheAuditLogIsShown(t *testing.T) {
	f := newFixture(t)
	f.shop.audit.entries = []audit.Entry{{ID: "1", At: testNow, Actor: audit.Actor{Subject: "ops", Method: "jwt", RequestID: "r"}, Action: "product.put", Object: "product/a", After: []byte(`{"a":1}`)}}
	w := f.call("GET", "/audit?action=product.put&object=product/a&subject=ops&from=2026-11-22T08:00:00Z&to=2026-11-22T09:00:00Z&limit=7&cursor=c", "")
	if w.Body.String() != `{"entries":[{"id":"1","at":"2026-11-22T08:30:00Z","actor":{"subject":"ops","method":"jwt","requestId":"r"},"action":"product.put","object":"product/a","after":{"a":1}}],"nextCursor":"n"}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want := audit.Query{TenantID: "demo", Action: "product.put", Object: "product/a", Subject: "ops", From: testNow.Add(-30 * time.Minute), To: testNow.Add(30 * time.Minute), Limit: 7, Cursor: "c"}
	if diff := cmp.Diff(want, f.shop.audit.query); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, f.call("GET", "/audit?cursor=bad", ""), 400, "invalid-parameter")
	wantProblem(t, f.call("GET", "/audit?from=2026-11-22T09:00:00Z&to=2026-11-22T08:00:00Z", ""), 400, "invalid-parameter")
}

func TestStripesWebhookIsTakenByItsSignatureAlone(t *testing.T) {
	f := newFixture(t)
	const target, body = "/payments/stripe/webhook", `{"type":"payment_intent.succeeded"}`
	if w := f.call("POST", target, body, "Authorization", "", "Stripe-Signature", "good"); w.Code != 204 || f.notices.payload != body {
		t.Errorf("%d %s, payload %q", w.Code, w.Body, f.notices.payload)
	}
	wantProblem(t, f.call("POST", target, body, "Stripe-Signature", ""), 401, "webhook-unverified")
	wantProblem(t, f.call("POST", target, body, "Stripe-Signature", "bad"), 401, "webhook-unverified")
	f.notices.err = errors.New("store away")
	wantProblem(t, f.call("POST", target, body, "Stripe-Signature", "good"), 500, "internal")
}

func TestTheSandboxShowsItsBooks(t *testing.T) {
	f := newFixture(t)
	f.ledger.charges = []SandboxCharge{{Key: "k", Ref: "ch_1", OrderID: testOrderID, State: payment.StateCaptured, Amount: 10, Refunded: 4, Currency: "EUR",
		Refunds: []SandboxRefund{{Key: "r", Ref: "re_1", Amount: 4}}, At: testNow}}
	w := f.call("GET", "/sandbox/charges", "", "Authorization", "Bearer merchant")
	const want = `{"charges":[{"key":"k","ref":"ch_1","orderId":"` + testOrderID + `","state":"captured","amount":{"amount":10,"currency":"EUR"},"refunded":{"amount":4,"currency":"EUR"},` +
		`"refunds":[{"key":"r","ref":"re_1","amount":{"amount":4,"currency":"EUR"}}],"at":"2026-11-22T08:30:00Z"}],"nextCursor":""}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, f.call("GET", "/sandbox/charges?cursor=bad", ""), 400, "invalid-parameter")
}

func TestAnImportAppliesWhatCanBeAndSaysWhatCannot(t *testing.T) {
	f := newFixture(t)
	control := f.server.ControlHandler()
	post := func(target, body string) string {
		t.Helper()
		w := f.callOn(control, "POST", target, body, tenantHeader, "demo", "Content-Type", "application/x-ndjson", "X-Request-Id", "r-1")
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	line := func(n int, sku string) string {
		return fmt.Sprintf(`{"line":%d,"sku":%q,%s`, n, sku, aProduct[1:]) + "\n"
	}
	got := post("/control/import/products", line(2, "a")+"\n"+`{"line":3,"sku":"b","price":{"amount":0,"currency":"EUR"}}`+"\n"+`{"line":4,"sku":7}`+"\n"+
		`{"line":5,"x":1}`+"\n"+`{"sku":"c"}`+"\n"+`{"line":6`+"\n"+`{"line":8,"sku":"d"} 1`+"\n"+line(9, "e"))
	const want = `{"results":[{"line":2,"applied":true},{"line":3,"applied":false,"error":"price.amount: must be above zero"},` +
		`{"line":4,"applied":false,"error":"sku cannot be number"},{"line":5,"applied":false,"error":"x: is not known here; the members are active, attributes, category, descriptions, line, names, position, price, sku, slug"},` +
		`{"line":0,"applied":false,"error":"\"line\" is missing; give the number of the line in the whole import, from 1"},` +
		`{"line":0,"applied":false,"error":"at byte 9: unexpected end of JSON input"},{"line":8,"applied":false,"error":"at byte 22: invalid character '1' after top-level value"},` +
		`{"line":9,"applied":true}]}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if f.catalog.actor != (audit.Actor{Subject: "operator", Method: auth.MethodOperator, RequestID: "r-1"}) {
		t.Errorf("actor %+v", f.catalog.actor)
	}
	if got := post("/control/import/products", line(2, "a")); got != `{"results":[{"line":2,"applied":true,"repeated":true}]}`+"\n" {
		t.Errorf("again: %s", got)
	}
	if got := post("/control/import/products", "\n"); got != `{"results":[]}`+"\n" {
		t.Errorf("nothing: %s", got)
	}

	f.stock.put("r", 10, 5)
	got = post("/control/import/stock?importId=i1", `{"line":1,"sku":"a","onHand":5}`+"\n"+`{"line":2,"sku":"a","delta":-2}`+"\n"+`{"line":3,"sku":"a"}`+"\n"+
		`{"line":4,"sku":"a","onHand":1,"delta":1}`+"\n"+`{"line":5,"sku":"r","onHand":1}`+"\n")
	const wantStock = `{"results":[{"line":1,"applied":true},{"line":2,"applied":true},{"line":3,"applied":false,"error":"give onHand or delta, one of them"},` +
		`{"line":4,"applied":false,"error":"give onHand or delta, one of them"},` +
		`{"line":5,"applied":false,"error":"r: 5 are reserved by orders, so 1 on hand is too few: cancel orders first"}]}` + "\n"
	if diff := cmp.Diff(wantStock, got); diff != "" {
		t.Error(diff)
	}
	if got := post("/control/import/stock?importId=i1", `{"line":1,"sku":"a","onHand":5}`); got != `{"results":[{"line":1,"applied":true,"repeated":true}]}`+"\n" {
		t.Errorf("again: %s", got)
	}
	if got := post("/control/import/stock?importId=i1", `{"line":9,"sku":"a"}`); !strings.Contains(got, "one of them") {
		t.Errorf("only bad lines: %s", got)
	}
	if f.stock.levels["a"].OnHand != 3 {
		t.Errorf("on hand %d, want 3", f.stock.levels["a"].OnHand)
	}
	wantProblem(t, f.callOn(control, "POST", "/control/import/stock", `{}`, tenantHeader, "demo"), 400, "invalid-parameter")
	wantProblem(t, f.callOn(control, "POST", "/control/import/products", strings.Repeat("{}\n", 1001), tenantHeader, "demo"), 422, "invalid-body")
	wantProblem(t, f.callOn(control, "POST", "/control/import/products", line(1, "a"), tenantHeader, ""), 400, "tenant-missing")
	wantProblem(t, f.call("POST", "/control/import/products", line(1, "a")), 404, "not-found")
	f.catalog.err = errors.New("disk")
	wantProblem(t, f.callOn(control, "POST", "/control/import/products", line(1, "z"), tenantHeader, "demo"), 500, "internal")
}
