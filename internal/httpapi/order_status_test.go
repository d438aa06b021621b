package httpapi

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"millrace/internal/auth"
	"millrace/internal/order"
)

const statusPath = "/orders/" + testOrderID + "/status"

// ask sends a request for the status and returns the channel that gets the answer.
func (f *fixture) ask(target string, headers ...string) <-chan *httptest.ResponseRecorder {
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- f.call("GET", target, "", headers...) }()
	return answer
}

// within receives what must come soon.
func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestTheStatusOfAnOrderHasAnETag(t *testing.T) {
	f := newFixture(t)
	o := aStoredOrder()
	f.orders.set(o)
	w := f.call("GET", statusPath, "")
	if w.Code != 200 || w.Header().Get("ETag") != `"v5"` || w.Header().Get("Cache-Control") != "private, no-cache" ||
		w.Body.String() != `{"id":"`+testOrderID+`","status":"shipped","version":5,"updatedAt":"2026-11-22T08:30:00Z","parked":true}`+"\n" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	o.ParkedAt = time.Time{}
	f.orders.set(o)
	for _, c := range []struct {
		ifNoneMatch string
		status      int
	}{{`"v5"`, 304}, {`W/"v5"`, 304}, {`"v4", "v5"`, 304}, {"*", 304}, {`"v4"`, 200}, {`"v55"`, 200}, {"v5", 200}, {`"x"`, 200}, {`"v05"`, 200}} {
		w := f.call("GET", statusPath, "", "If-None-Match", c.ifNoneMatch)
		if w.Code != c.status || w.Header().Get("ETag") != `"v5"` || (c.status == 304) != (w.Body.Len() == 0) {
			t.Errorf("If-None-Match %s: %d %v %s", c.ifNoneMatch, w.Code, w.Header(), w.Body)
		}
		if strings.Contains(w.Body.String(), "parked") {
			t.Errorf("it is not parked: %s", w.Body)
		}
	}
	for _, wait := range []string{"61s", "-1s", "soon", "30"} {
		p := wantProblem(t, f.call("GET", statusPath+"?wait="+wait, ""), 400, "invalid-parameter")
		if !strings.Contains(p.Detail, "30s") {
			t.Errorf("detail %q", p.Detail)
		}
	}
	wantProblem(t, f.call("GET", statusPath+"?weit=1s", ""), 400, "invalid-parameter")
}

func TestAWaitEndsWithTheNextChange(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		version int64
	}{
		{"of the version that is known", []string{"If-None-Match", `"v5"`}, 5},
		{"of any of the versions that are known", []string{"If-None-Match", `"v4", "v5"`}, 5},
		{"of whatever stands", []string{"If-None-Match", "*"}, 5},
		{"to the end", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			o := aStoredOrder()
			f.orders.set(o)
			answer := f.ask(statusPath+"?wait=60s", c.headers...)
			if got := within(t, f.orders.waits); got != c.version {
				t.Fatalf("it waits on version %d, want %d", got, c.version)
			}
			o.Status, o.Version = order.Completed, 6
			f.orders.set(o)
			w := within(t, answer)
			if c.name == "of whatever stands" {
				if w.Code != 304 { // * matches every version
					t.Errorf("%d %s", w.Code, w.Body)
				}
				return
			}
			if w.Code != 200 || w.Header().Get("ETag") != `"v6"` || !strings.Contains(w.Body.String(), "completed") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestAWaitThatIsOverAnswersAsItStands(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	if w := f.call("GET", statusPath+"?wait=1ms", "", "If-None-Match", `"v5"`); w.Code != 304 || w.Header().Get("ETag") != `"v5"` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.call("GET", statusPath+"?wait=1ms", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestNobodyWaitsForWhatThereIsAlready(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	if w := f.call("GET", statusPath+"?wait=60s", "", "If-None-Match", `"v4"`); w.Code != 200 {
		t.Errorf("another version: %d", w.Code)
	}
	if w := f.call("HEAD", statusPath+"?wait=60s", "", "If-None-Match", `"v5"`); w.Code != 304 {
		t.Errorf("HEAD: %d", w.Code)
	}
	o := aStoredOrder()
	o.Status = order.Cancelled
	f.orders.set(o)
	if w := f.call("GET", statusPath+"?wait=60s", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "cancelled") {
		t.Errorf("a final status: %d %s", w.Code, w.Body)
	}
	if len(f.orders.waits) > 0 {
		t.Error("something waited")
	}
}

func TestWaitsAreBoundedByTenantAndInAll(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.MaxWaits, o.MaxWaitsPerTenant = 2, 1 })
	f.orders.set(aStoredOrder())
	first := f.ask(statusPath + "?wait=60s")
	within(t, f.orders.waits)
	p := wantProblem(t, f.call("GET", statusPath+"?wait=60s", ""), 429, "too-many-waits")
	if p.RetryAfter == 0 || !strings.Contains(p.Detail, "without wait") {
		t.Errorf("%+v", p)
	}
	if w := f.call("GET", statusPath, ""); w.Code != 200 {
		t.Errorf("without wait: %d", w.Code)
	}
	// Other tenants have places of their own, up to what there is in all.
	for _, tenant := range []string{"t1", "t2"} {
		f.server.o.Auth.(fakeAuth).principals[tenant] = &auth.Principal{TenantID: tenant, Subject: "s", Scopes: auth.MakeScopes(auth.ScopeAdmin)}
	}
	f.orders.mu.Lock()
	o := aStoredOrder()
	o.TenantID, o.ID = "t1", "o1"
	f.orders.orders[o.ID] = o
	f.orders.mu.Unlock()
	second := f.ask("/orders/o1/status?wait=60s", "Authorization", "Bearer t1")
	within(t, f.orders.waits)
	wantProblem(t, f.call("GET", "/orders/o2/status?wait=60s", "", "Authorization", "Bearer t2"), 429, "too-many-waits")

	f.orders.set(aStoredOrder()) // wakes both
	within(t, first)
	within(t, second)
	again := f.ask(statusPath + "?wait=60s") // the places are free again
	within(t, f.orders.waits)
	f.orders.set(aStoredOrder())
	if w := within(t, again); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestOneBuyerCannotTakeAllTheWaitsOfItsTenant(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.MaxWaitsPerBuyer = 2 })
	f.orders.set(aStoredOrder())
	as := func(who string) []string { return []string{"Authorization", "Bearer " + who} }
	var answers []<-chan *httptest.ResponseRecorder
	for range 2 {
		answers = append(answers, f.ask(statusPath+"?wait=60s", as("buyer")...))
		within(t, f.orders.waits)
	}
	p := wantProblem(t, f.call("GET", statusPath+"?wait=60s", "", as("buyer")...), 429, "too-many-waits")
	if p.RetryAfter == 0 || !strings.Contains(p.Detail, "2 requests of yours wait") {
		t.Errorf("%+v", p)
	}
	for range 3 { // the merchant waits for many buyers
		answers = append(answers, f.ask(statusPath+"?wait=60s", as("merchant")...))
		within(t, f.orders.waits)
	}
	f.orders.set(aStoredOrder())
	for _, a := range answers {
		if w := within(t, a); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	again := f.ask(statusPath+"?wait=60s", as("buyer")...) // the places are free again
	within(t, f.orders.waits)
	f.orders.set(aStoredOrder())
	if w := within(t, again); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestWaitsEndWhenTheServerDrains(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	answer := f.ask(statusPath+"?wait=60s", "If-None-Match", `"v5"`)
	within(t, f.orders.waits)
	if err := f.server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if w := within(t, answer); w.Code != 304 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAWaitEndsWithTheCredential(t *testing.T) {
	f := newFixture(t)
	f.orders.set(aStoredOrder())
	f.server.o.Auth.(fakeAuth).principals["short"] = &auth.Principal{TenantID: "demo", Subject: "customer-17", Scopes: auth.MakeScopes(auth.ScopeOrdersRead),
		ExpiresAt: time.Now().Add(20 * time.Millisecond)}
	if w := within(t, f.ask(statusPath+"?wait=60s", "Authorization", "Bearer short")); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAWaitMayBeLongerThanAnAnswerMayTake(t *testing.T) {
	s := serve(t, func(o *Options) {
		o.BodyTimeout, o.QueryTimeout, o.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	})
	s.orders.set(aStoredOrder())
	_, r := s.raw("GET %s?wait=400ms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n", statusPath)
	resp, body := s.answer(r)
	if resp.StatusCode != 200 || !strings.Contains(string(body), "shipped") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
