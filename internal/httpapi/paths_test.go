package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/limit"
)

func TestAnAddressThatIsNotCleanIsNotFoundAndNotRedirected(t *testing.T) {
	s := serve(t)
	conn, r := s.raw("")
	for _, line := range []string{"GET //events", "GET /events//1", "GET /a/../events", "POST /events/.",
		"GET //", "GET /./livez", "CONNECT /events"} {
		if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n", line); err != nil {
			t.Fatal(err)
		}
		resp, body := s.answer(r)
		if resp.StatusCode != 404 {
			t.Errorf("%s: status %d, Location %q", line, resp.StatusCode, resp.Header.Get("Location"))
			continue
		}
		wantProblemIn(t, resp.StatusCode, resp.Header, body, 404, "not-found")
	}
	_, r = s.raw("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
	resp, body := s.answer(r)
	wantProblemIn(t, resp.StatusCode, resp.Header, body, 404, "not-found")
}

func TestAnIDWithReservedCharactersIsStillFound(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"a/b", "a//b", "..", "a b", "ü", "50%"} {
		f.reader.events = []event.Event{{ID: id, TenantID: "demo"}}
		target := "/events/" + strings.NewReplacer("%", "%25", "/", "%2F", ".", "%2E", " ", "%20", "ü", "%C3%BC").Replace(id)
		if w := f.call("GET", target, ""); w.Code != http.StatusOK {
			t.Errorf("%s: status %d: %s", target, w.Code, w.Body)
		}
	}
}

func TestAReplacementForADeadLetterNeedsTheScopeToWriteEvents(t *testing.T) {
	f := newFixture(t)
	f.letters.letters = []deadletter.Letter{{ID: "1", TenantID: "demo"}}
	known := f.server.o.Auth.(fakeAuth).principals
	known["mender"] = &auth.Principal{TenantID: "demo", Subject: "m", Scopes: auth.MakeScopes(auth.ScopeDeadLettersWrite)}
	known["both"] = &auth.Principal{TenantID: "demo", Subject: "b", Scopes: auth.MakeScopes(auth.ScopeDeadLettersWrite, auth.ScopeEventsWrite)}
	const target, mended = "/dead-letters/1/redrive", `{"type":"a"}`
	p := wantProblem(t, f.call("POST", target, mended, "Authorization", "Bearer mender"), 403, "scope-missing")
	if !strings.Contains(p.Detail, "events:write") || f.letters.replacement != nil {
		t.Errorf("detail %q, replacement %q", p.Detail, f.letters.replacement)
	}
	if w := f.call("POST", target, "", "Authorization", "Bearer mender"); w.Code != 200 {
		t.Errorf("as it is: %d %s", w.Code, w.Body)
	}
	if w := f.call("POST", target, mended, "Authorization", "Bearer both"); w.Code != 200 || string(f.letters.replacement) != mended {
		t.Errorf("with both scopes: %d %s", w.Code, w.Body)
	}
	if w := f.callOn(f.server.ControlHandler(), "POST", target, mended, tenantHeader, "demo"); w.Code != 200 {
		t.Errorf("the operator: %d %s", w.Code, w.Body)
	}
}

func TestARedriveCountsAgainstTheTenantsRate(t *testing.T) {
	rates := &fakeRates{decision: limit.Decision{Allowed: true, Limit: 100, Remaining: 40}}
	f := newFixture(t, func(o *Options) { o.Rates = rates })
	f.letters.letters = []deadletter.Letter{{ID: "1", TenantID: "demo"}}
	f.letters.sum = deadletter.Summary{Done: 3, Failed: 2}
	f.call("POST", "/dead-letters/1/redrive", "")
	f.call("POST", "/dead-letters/redrive", "")
	f.call("POST", "/dead-letters/2/redrive", "") // there is none
	if rates.spent != 6 {
		t.Errorf("spent %d, want 6", rates.spent)
	}
	rates.decision = limit.Decision{Limit: 100, RetryAfter: 2 * time.Second}
	for _, target := range []string{"/dead-letters/1/redrive", "/dead-letters/redrive"} {
		if p := wantProblem(t, f.call("POST", target, ""), 429, "rate-limited"); p.RetryAfter != 2 {
			t.Errorf("retryAfter %d", p.RetryAfter)
		}
	}
}
