package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
)

func TestEventsAreShownAsTheyWereSent(t *testing.T) {
	f := newFixture(t)
	f.reader.next = "n\"1"
	f.reader.events = []event.Event{
		{ID: "2", Type: "b", TenantID: "demo", Timestamp: testNow, ReceivedAt: testNow, Payload: []byte("{ \"a\" : 1.0e2 }"),
			Source: "s", Attributes: []byte(`{"x":1}`)},
		{ID: "1\u2028\n", Type: "a", TenantID: "demo", Timestamp: testNow.In(time.FixedZone("", 3600)), ReceivedAt: testNow},
	}
	w := f.call("GET", "/events", "")
	const want = `{"events":[` +
		`{"id":"2","type":"b","source":"s","tenantId":"demo","timestamp":"2026-11-22T08:30:00Z","receivedAt":"2026-11-22T08:30:00Z","attributes":{"x":1},"payload":{ "a" : 1.0e2 }},` +
		`{"id":"1\u2028\n","type":"a","tenantId":"demo","timestamp":"2026-11-22T08:30:00Z","receivedAt":"2026-11-22T08:30:00Z","payload":null}],"nextCursor":"n\"1"}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	if w := f.call("GET", "/events/2", ""); w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"id":"2"`) || !json.Valid(w.Body.Bytes()) {
		t.Errorf("one event: %d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("GET", "/events/2", "", "Authorization", "Bearer other"), 404, "not-found")
}

func TestALargePageIsWrittenInPieces(t *testing.T) {
	f := newFixture(t)
	for range 200 {
		f.reader.events = append(f.reader.events, event.Event{ID: "1", TenantID: "demo", Payload: []byte(`"` + strings.Repeat("x", 5000) + `"`)})
	}
	w := f.call("GET", "/events?limit=200", "")
	var page struct{ Events []json.RawMessage }
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || len(page.Events) != 200 {
		t.Errorf("%d events, %v", len(page.Events), err)
	}
}

func TestQueryParametersReachTheReader(t *testing.T) {
	f := newFixture(t)
	f.call("GET", "/events?type=a%20b&from=2026-11-22T08:00:00%2B01:00&to=2026-11-22T08:00:00.5Z&limit=1000&cursor=xyz", "")
	want := event.Query{TenantID: "demo", Type: "a b", Limit: 1000, Cursor: "xyz",
		From: time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 22, 8, 0, 0, 5e8, time.UTC)}
	if diff := cmp.Diff(want, f.reader.query); diff != "" {
		t.Error(diff)
	}
	f.call("GET", "/events?type=&from=&cursor=&limit=", "") // an empty value is none
	if diff := cmp.Diff(event.Query{TenantID: "demo", Limit: 50}, f.reader.query); diff != "" {
		t.Error(diff)
	}
	f.call("GET", "/events/stats?step=1h", "")
	if diff := cmp.Diff(event.StatsQuery{TenantID: "demo", From: testNow.Add(-time.Hour), To: testNow, Step: time.Hour, MaxPoints: maxAllPoints}, f.reader.stats); diff != "" {
		t.Error(diff)
	}
}

func TestWrongQueryParametersAreNamedWithTheMend(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ name, target, location, says string }{
		{"a limit that is no number", "/events?limit=many", "query.limit", "from 1 to 1000"},
		{"a limit of nothing", "/events?limit=0", "query.limit", "from 1 to 1000"},
		{"a limit too large", "/events?limit=1001", "query.limit", "from 1 to 1000"},
		{"a parameter twice", "/events?type=a&type=b", "query.type", "once"},
		{"a misspelt parameter", "/events?tpye=a", "query.tpye", "type, from, to, limit, cursor"},
		{"a long type", "/events?type=" + strings.Repeat("x", 300), "query.type", "256"},
		{"a type that is not UTF-8", "/events?type=%ff", "query.type", "UTF-8"},
		{"a time that is none", "/events?from=yesterday", "query.from", "RFC 3339"},
		{"a plus that became a space", "/events?from=2026-11-22T08:00:00+01:00", "query.from", "%2B"},
		{"a time out of range", "/events?to=0001-01-01T00:00:00Z", "query.to", "1970"},
		{"a range upside down", "/events?from=2026-11-22T09:00:00Z&to=2026-11-22T08:00:00Z", "query.from", "before"},
		{"an empty range", "/events?from=2026-11-22T09:00:00Z&to=2026-11-22T09:00:00Z", "query.from", "before"},
		{"half a minute", "/events/stats?step=30s", "query.step", "whole minutes"},
		{"a step of days", "/events/stats?step=25h", "query.step", "24h"},
		{"a step without a unit", "/events/stats?step=5", "query.step", "5m"},
		{"too many points", "/events/stats?from=2026-01-01T00:00:00Z", "query.step", "10000"},
		{"a beginning in the future", "/events/stats?from=2027-01-01T00:00:00Z", "query.from", "future"},
		{"an unknown kind", "/dead-letters?kind=cat", "query.kind", "event, body, webhook, order, delivery, message"},
		{"parameters where there are none", "/events/1?x=1", "query.x", "no query parameters"},
		{"a bulk limit", "/dead-letters/redrive?limit=10001", "query.limit", "10000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			method := "GET"
			if strings.Contains(c.target, "redrive") {
				method = "POST"
			}
			p := wantProblem(t, f.call(method, c.target, ""), 400, "invalid-parameter")
			if len(p.Errors) == 0 || p.Errors[0].Location != c.location || !strings.Contains(p.Errors[0].Message, c.says) {
				t.Errorf("errors %+v; want %s with %q", p.Errors, c.location, c.says)
			}
		})
	}
	p := wantProblem(t, f.call("GET", "/events?type=%zz", ""), 400, "invalid-parameter")
	if !strings.Contains(p.Detail, "percent") {
		t.Errorf("detail %q", p.Detail)
	}
	p = wantProblem(t, f.call("GET", "/events?limit=x&from=y", ""), 400, "invalid-parameter")
	if len(p.Errors) != 2 {
		t.Errorf("both mistakes should be told: %+v", p.Errors)
	}
}

func TestFailuresOfTheStoreAreToldApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		slug   string
	}{
		{"a bad cursor", event.ErrBadCursor, 400, "invalid-parameter"},
		{"a timeout", context.DeadlineExceeded, 503, "query-timeout"},
		{"anything else", errors.New("disk I/O error in /secret/path"), 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.reader.err = c.err
			w := f.call("GET", "/events", "")
			wantProblem(t, w, c.status, c.slug)
			if strings.Contains(w.Body.String(), "/secret") {
				t.Error("the answer shows the cause")
			}
			if c.status == 500 && !strings.Contains(f.logs.String(), "/secret/path") {
				t.Error("the log does not show the cause")
			}
		})
	}
}

func TestStatsAreShownBySeries(t *testing.T) {
	f := newFixture(t)
	f.reader.series = []event.Series{{Type: "a", Points: []event.Point{{Time: testNow, Count: 3, Bytes: 30}}}}
	w := f.call("GET", "/events/stats", "")
	const want = `{"series":[{"type":"a","points":[{"time":"2026-11-22T08:30:00Z","count":3,"bytes":30}]}]}` + "\n"
	if w.Body.String() != want {
		t.Errorf("got %s", w.Body)
	}
}

func TestStatsShowAnAmountWhereThereIsACurrencyOnly(t *testing.T) {
	f := newFixture(t)
	f.reader.series = []event.Series{
		{Type: "order.paid", Points: []event.Point{{Time: testNow, Count: 1, Bytes: 10}}},
		{Type: "order.paid", Currency: "EUR", Points: []event.Point{
			{Time: testNow, Count: 2, Bytes: 20, Amount: 1999}, {Time: testNow.Add(time.Minute), Count: 1, Bytes: 10}}},
	}
	w := f.call("GET", "/events/stats", "")
	const want = `{"series":[{"type":"order.paid","points":[{"time":"2026-11-22T08:30:00Z","count":1,"bytes":10}]},` +
		`{"type":"order.paid","currency":"EUR","points":[{"time":"2026-11-22T08:30:00Z","count":2,"bytes":20,"amount":1999},` +
		`{"time":"2026-11-22T08:31:00Z","count":1,"bytes":10,"amount":0}]}]}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
}

func TestDeadLettersAreShownWithTheirPayload(t *testing.T) {
	f := newFixture(t)
	f.letters.letters = []deadletter.Letter{
		{ID: "1", TenantID: "demo", Kind: deadletter.KindEvent, Reason: "why", ReceivedAt: testNow, Attempts: 2, LastAttemptAt: testNow, Payload: []byte(`{"<a>":1}`)},
		{ID: "2", TenantID: "demo", Kind: deadletter.KindBody, Reason: "why", ReceivedAt: testNow, Attempts: 1, Payload: []byte{0xff, 0}, Truncated: true},
	}
	w := f.call("GET", "/dead-letters?kind=event&limit=7", "")
	const want = `{"deadLetters":[` +
		`{"id":"1","kind":"event","reason":"why","receivedAt":"2026-11-22T08:30:00Z","attempts":2,"lastAttemptAt":"2026-11-22T08:30:00Z","payload":"{\"<a>\":1}","payloadEncoding":"utf-8"},` +
		`{"id":"2","kind":"body","reason":"why","receivedAt":"2026-11-22T08:30:00Z","attempts":1,"payload":"/wA=","payloadEncoding":"base64","truncated":true}],"nextCursor":"more"}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	if f.letters.limit != 7 || f.letters.filter.Kind != deadletter.KindEvent || f.letters.filter.TenantID != "demo" {
		t.Errorf("filter %+v, limit %d", f.letters.filter, f.letters.limit)
	}
	if w := f.call("GET", "/dead-letters/2", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "base64") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("GET", "/dead-letters/1", "", "Authorization", "Bearer other"), 404, "not-found")
	wantProblem(t, f.call("GET", "/dead-letters?cursor=bad", ""), 400, "invalid-parameter")
}

func TestADeadLetterIsRedrivenAsItIsOrReplaced(t *testing.T) {
	f := newFixture(t)
	f.letters.letters = []deadletter.Letter{{ID: "1", TenantID: "demo"}}
	if w := f.call("POST", "/dead-letters/1/redrive", ""); w.Code != 200 || w.Body.String() != `{"id":"1","redriven":true}`+"\n" || len(f.letters.replacement) != 0 {
		t.Errorf("%d %s, replacement %q", w.Code, w.Body, f.letters.replacement)
	}
	const mended = `{"type":"a","payload":1}`
	if w := f.call("POST", "/dead-letters/1/redrive", mended); w.Code != 200 || string(f.letters.replacement) != mended {
		t.Errorf("%d %s, replacement %q", w.Code, w.Body, f.letters.replacement)
	}
	wantProblem(t, f.call("POST", "/dead-letters/2/redrive", ""), 404, "not-found")
	wantProblem(t, f.call("POST", "/dead-letters/1/redrive", "x", "Content-Type", "text/plain"), 415, "unsupported-media-type")
	wantProblem(t, f.call("POST", "/dead-letters/1/redrive", strings.Repeat(" ", 2<<20)), 413, "body-too-large")
	f.letters.err = &deadletter.RejectedError{Reason: `"type" is missing`}
	if p := wantProblem(t, f.call("POST", "/dead-letters/1/redrive", mended), 422, "no-valid-events"); !strings.Contains(p.Detail, `"type" is missing`) {
		t.Errorf("detail %q", p.Detail)
	}
	f.letters.err = deadletter.ErrTruncated
	wantProblem(t, f.call("POST", "/dead-letters/1/redrive", ""), 409, "not-redrivable")
	f.letters.err = &event.Unavailable{Reason: "disk-full", Detail: "full", RetryAfter: time.Second}
	wantProblem(t, f.call("POST", "/dead-letters/1/redrive", ""), 503, "disk-full")
}

func TestDeadLettersAreWorkedOnByFilter(t *testing.T) {
	f := newFixture(t)
	f.letters.sum = deadletter.Summary{Done: 3, Failed: 1, More: true}
	if w := f.call("POST", "/dead-letters/redrive?kind=body&limit=4", ""); w.Code != 200 || w.Body.String() != `{"redriven":3,"failed":1,"more":true}`+"\n" || f.letters.limit != 4 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("DELETE", "/dead-letters?type=a", ""); w.Code != 200 || w.Body.String() != `{"deleted":3,"more":true}`+"\n" || f.letters.filter.Type != "a" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("DELETE", "/dead-letters", ""), 400, "invalid-parameter")
	wantProblem(t, f.call("DELETE", "/dead-letters?limit=5", ""), 400, "invalid-parameter")
	f.letters.err = context.DeadlineExceeded // in the middle of the work
	f.letters.sum.More = false
	if w := f.call("DELETE", "/dead-letters?type=a", ""); w.Code != 200 || w.Body.String() != `{"deleted":3,"more":true}`+"\n" {
		t.Errorf("work that ran out of time: %d %s", w.Code, w.Body)
	}
	f.letters.letters = []deadletter.Letter{{ID: "1", TenantID: "demo"}}
	if w := f.call("DELETE", "/dead-letters/1", ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("DELETE", "/dead-letters/1", ""), 404, "not-found")
}

func TestKeysAreCreatedListedAndRevoked(t *testing.T) {
	f := newFixture(t)
	w := f.call("POST", "/keys", `{"name":"till 4","scopes":["events:write"],"ttl":"720h"}`)
	if w.Code != 201 || w.Header().Get("Cache-Control") != "no-store" ||
		w.Body.String() != `{"id":"abc","name":"till 4","scopes":["events:write"],"createdAt":"2026-11-22T08:30:00Z","createdBy":"ops","secret":"mrk_abc_secret"}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want := auth.CreateKey{TenantID: "demo", Name: "till 4", Scopes: []string{"events:write"}, TTL: 720 * time.Hour, Actor: audit.Actor{Subject: "ops", Method: auth.MethodJWT, RequestID: w.Header().Get("X-Request-Id")}, MayGrant: auth.MakeScopes(auth.ScopeAdmin)}
	if diff := cmp.Diff(want, f.keys.created); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(f.logs.String(), "mrk_abc_secret") {
		t.Error("the secret is in the log")
	}
	f.keys.keys = []auth.Key{{ID: "abc", TenantID: "demo", Name: "n", Scopes: []string{"admin"}, CreatedAt: testNow, ExpiresAt: testNow, RevokedAt: testNow, Hash: [32]byte{1}}}
	if w := f.call("GET", "/keys", ""); w.Code != 200 || strings.Contains(w.Body.String(), "ash") || !strings.Contains(w.Body.String(), `"revokedAt":"2026-11-22T08:30:00Z"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("DELETE", "/keys/abc", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantProblem(t, f.call("DELETE", "/keys/abc", "", "Authorization", "Bearer other"), 404, "not-found")
	wantProblem(t, f.call("GET", "/keys", "", "Authorization", "Bearer writer"), 403, "scope-missing")
}

func TestBadKeyRequestsAreRefusedWithTheField(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		slug, says string
	}{
		{"no JSON", `{"name"`, 400, "malformed-body", "JSON"},
		{"no body", ``, 400, "malformed-body", "body"},
		{"a missing name", `{"scopes":["admin"]}`, 422, "invalid-body", "name"},
		{"a wrong type", `{"name":7,"scopes":["admin"]}`, 422, "invalid-body", "name"},
		{"a member too many", `{"name":"n","scopes":["admin"],"tenantId":"x"}`, 422, "invalid-body", "tenantId"},
		{"no scope", `{"name":"n","scopes":[]}`, 422, "invalid-body", "scopes"},
		{"a ttl in days", `{"name":"n","scopes":["admin"],"ttl":"30d"}`, 422, "invalid-body", "720h"},
		{"a ttl before now", `{"name":"n","scopes":["admin"],"ttl":"-1h"}`, 422, "invalid-body", "above zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			p := wantProblem(t, f.call("POST", "/keys", c.body), c.status, c.slug)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("detail %q does not say %q", p.Detail, c.says)
			}
		})
	}
	f := newFixture(t)
	f.keys.err = &auth.InvalidError{Field: "scopes", Detail: "you may not grant admin"}
	p := wantProblem(t, f.call("POST", "/keys", `{"name":"n","scopes":["admin"]}`), 422, "invalid-body")
	if diff := cmp.Diff([]parameterError{{"body.scopes", "you may not grant admin"}}, p.Errors); diff != "" {
		t.Error(diff)
	}
}

func TestEveryRouteWantsItsScope(t *testing.T) {
	f := newFixture(t)
	tried := map[string]bool{}
	for _, c := range []struct{ method, target, scope string }{
		{"POST", "/events", "events:write"},
		{"GET", "/events", "events:read"}, {"GET", "/events/1", "events:read"}, {"GET", "/events/stats", "events:read"}, {"GET", "/events/tail", "events:read"},
		{"GET", "/dead-letters", "deadletters:read"}, {"GET", "/dead-letters/1", "deadletters:read"},
		{"POST", "/dead-letters/1/redrive", "deadletters:write"}, {"POST", "/dead-letters/redrive", "deadletters:write"},
		{"DELETE", "/dead-letters/1", "deadletters:write"}, {"DELETE", "/dead-letters?kind=body", "deadletters:write"},
		{"POST", "/keys", "keys:write"}, {"GET", "/keys", "keys:write"}, {"DELETE", "/keys/1", "keys:write"},
		{"POST", "/orders", "orders:write"}, {"GET", "/orders", "orders:read or orders:admin"}, {"GET", "/orders/1", "orders:read or orders:admin"},
		{"GET", "/orders/1/status", "orders:read or orders:admin"}, {"GET", "/orders/1/history", "orders:read or orders:admin"},
		{"POST", "/orders/1/cancel", "orders:write or orders:admin"}, {"POST", "/orders/1/refunds", "orders:admin"},
		{"POST", "/orders/1/shipments", "orders:admin"}, {"POST", "/orders/1/deliveries", "orders:admin"}, {"POST", "/orders/1/redrive", "orders:admin"}, {"POST", "/orders/1/settle", "orders:admin"},
		{"PUT", "/products/a", "catalog:write"}, {"DELETE", "/products/a", "catalog:write"}, {"GET", "/products?inactive=true", "catalog:write"},
		{"PUT", "/stock/a", "stock:write"}, {"POST", "/stock/a/adjustments", "stock:write"},
		{"GET", "/stock/a", "stock:write or orders:admin"}, {"GET", "/stock", "stock:write or orders:admin"},
		{"PUT", "/webhook-endpoints/a", "webhooks:write"}, {"GET", "/webhook-endpoints/a", "webhooks:write"}, {"GET", "/webhook-endpoints", "webhooks:write"},
		{"DELETE", "/webhook-endpoints/a", "webhooks:write"}, {"GET", "/webhook-endpoints/a/deliveries", "webhooks:write"},
		{"GET", "/audit", "audit:read"}, {"GET", "/sandbox/charges", "orders:admin"},
		{"GET", "/products", ""}, {"GET", "/products/a", ""}, {"GET", "/products/a/prices", ""}, // any credential
		{"GET", "/places", ""}, {"GET", "/places/276", ""},
	} {
		tried[routeOf(f.server.public, c.method, c.target)] = true
		if c.scope == "" {
			wantProblem(t, f.call(c.method, c.target, "", "Authorization", ""), 401, "token-missing")
			continue
		}
		others := auth.Scopes(0)
		for _, s := range auth.KnownScopes() {
			if s != auth.ScopeAdmin && !slices.Contains(strings.Split(c.scope, " or "), string(s)) {
				others |= auth.MakeScopes(s)
			}
		}
		f.server.o.Auth.(fakeAuth).principals["others"] = &auth.Principal{TenantID: "demo", Subject: "x", Scopes: others}
		p := wantProblem(t, f.call(c.method, c.target, "", "Authorization", "Bearer others"), 403, "scope-missing")
		if !strings.Contains(p.Detail, "scope "+c.scope+";") {
			t.Errorf("%s %s: detail %q, want %s", c.method, c.target, p.Detail, c.scope)
		}
		wantProblem(t, f.call(c.method, c.target, "", "Authorization", ""), 401, "token-missing")
		for _, scope := range strings.Split(c.scope, " or ") {
			f.server.o.Auth.(fakeAuth).principals["just"] = &auth.Principal{TenantID: "demo", Subject: "x", Scopes: auth.MakeScopes(auth.Scope(scope))}
			if strings.HasSuffix(c.target, "/tail") {
				continue // it would go on
			}
			if w := f.call(c.method, c.target, "", "Authorization", "Bearer just"); w.Code == 401 || w.Code == 403 {
				t.Errorf("%s %s with %s: %d %s", c.method, c.target, scope, w.Code, w.Body)
			}
		}
	}
	// Those that ask for no credential, or for another kind.
	open := []string{"GET /livez", "GET /readyz", "GET /readyz/{job}", "GET /openapi.json", "GET /docs", "POST /hooks/{source}", "POST /payments/stripe/webhook"}
	for _, rt := range f.server.public.routes {
		if !tried[rt.pattern] && !slices.Contains(open, rt.pattern) {
			t.Errorf("%s is not in this table", rt.pattern)
		}
	}
}

// routeOf returns the pattern that serves a target.
func routeOf(sf *surface, method, target string) string {
	_, pattern := sf.mux.Handler(httptest.NewRequest(method, target, nil))
	return pattern
}

func TestTheMuxAnswersWithProblemsToo(t *testing.T) {
	f := newFixture(t)
	wantProblem(t, f.call("GET", "/nowhere", ""), 404, "not-found")
	wantProblem(t, f.call("GET", "/", ""), 404, "not-found")
	w := f.call("PUT", "/events", "")
	wantProblem(t, w, 405, "method-not-allowed")
	if got := w.Header().Get("Allow"); got != "GET, HEAD, POST" {
		t.Errorf("Allow %q", got)
	}
	wantProblem(t, f.call("BREW", "/dead-letters/1/redrive", ""), 405, "method-not-allowed")
	wantProblem(t, f.call("OPTIONS", "/events", ""), 405, "method-not-allowed")
	if w := f.call("HEAD", "/livez", ""); w.Code != http.StatusOK {
		t.Errorf("HEAD: %d", w.Code)
	}
}

func TestTheOperatorsSurfaceTrustsItsCallerAndNamesTheTenant(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Version, o.ListenAddresses = "1.2.3", func() []string { return []string{"127.0.0.1:8080"} }
	})
	h := f.server.ControlHandler()
	w := f.callOn(h, "POST", "/keys", `{"name":"n","scopes":["admin"]}`, "Authorization", "", "X-Millrace-Tenant", "acme")
	if w.Code != 201 || f.keys.created.TenantID != "acme" || f.keys.created.Actor.Subject != "operator" || !f.keys.created.MayGrant.Has(auth.ScopeAdmin) {
		t.Errorf("%d %s, %+v", w.Code, w.Body, f.keys.created)
	}
	wantProblem(t, f.callOn(h, "GET", "/keys", "", "X-Millrace-Tenant", ""), 400, "tenant-missing")
	wantProblem(t, f.callOn(h, "GET", "/keys", "", "X-Millrace-Tenant", "No/Such"), 400, "tenant-missing")
	f.callOn(h, "GET", "/dead-letters", "", "X-Millrace-Tenant", "acme")
	if f.letters.filter.TenantID != "acme" {
		t.Errorf("filter %+v", f.letters.filter)
	}
	wantProblem(t, f.callOn(h, "POST", "/events", "[]", "X-Millrace-Tenant", "acme"), 404, "not-found")
	var status controlStatus
	if err := json.Unmarshal(f.callOn(h, "GET", "/control/status", "").Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	if status.Version != "1.2.3" || status.PID == 0 || len(status.Addresses) != 1 {
		t.Errorf("status %+v", status)
	}
	wantProblem(t, f.call("GET", "/keys", "", "Authorization", "", "X-Millrace-Tenant", "acme"), 401, "token-missing")
	wantProblem(t, f.call("GET", "/control/status", ""), 404, "not-found")
}

func TestWhatChangesKeysAndDeadLettersNamesItsActor(t *testing.T) {
	f := newFixture(t)
	f.keys.keys = []auth.Key{{ID: "abc", TenantID: "demo"}}
	f.letters.letters = []deadletter.Letter{{ID: "1", TenantID: "demo"}}
	for _, c := range []struct {
		method, path string
		by           *audit.Actor
	}{
		{"DELETE", "/keys/abc", &f.keys.revokedBy},
		{"POST", "/dead-letters/1/redrive", &f.letters.by},
		{"POST", "/dead-letters/redrive", &f.letters.by},
		{"DELETE", "/dead-letters/1", &f.letters.by},
		{"DELETE", "/dead-letters?type=a", &f.letters.by},
	} {
		*c.by = audit.Actor{}
		w := f.call(c.method, c.path, "", "X-Request-Id", "r-17")
		if want := (audit.Actor{Subject: "ops", Method: auth.MethodJWT, RequestID: "r-17"}); w.Code >= 300 || *c.by != want {
			t.Errorf("%s %s: %d, by %+v, want %+v", c.method, c.path, w.Code, *c.by, want)
		}
	}
}
