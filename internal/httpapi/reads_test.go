package httpapi

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/auth"
	"millrace/internal/event"
)

// slowReader is a reader whose queries wait until they are released.
type slowReader struct {
	*fakeReader
	begun   chan struct{}
	release chan struct{}
}

func (s *slowReader) Events(ctx context.Context, q event.Query) (event.Page, error) {
	select {
	case s.begun <- struct{}{}:
	case <-time.After(5 * time.Second):
		return event.Page{}, errors.New("a read that should have been refused")
	}
	<-s.release
	return s.fakeReader.Events(ctx, q)
}

func TestReadsAreBoundedByTenantAndInAll(t *testing.T) {
	slow := &slowReader{fakeReader: &fakeReader{}, begun: make(chan struct{}), release: make(chan struct{})}
	f := newFixture(t, func(o *Options) { o.Reader, o.MaxReads, o.MaxReadsPerTenant = slow, 3, 2 })
	codes := make(chan int)
	read := func(credential string) {
		req := httptest.NewRequest("GET", "/events", nil)
		req.Header.Set("Authorization", "Bearer "+credential)
		go func() {
			w := httptest.NewRecorder()
			f.server.Handler().ServeHTTP(w, req)
			codes <- w.Code
		}()
		<-slow.begun
	}
	read("admin")
	read("admin")
	for _, target := range []string{"/events", "/events/stats", "/dead-letters", "/products", "/places?prefix=m"} {
		if p := wantProblem(t, f.call("GET", target, ""), 429, "too-many-reads"); p.RetryAfter == 0 {
			t.Errorf("%s: no retryAfter", target)
		}
	}
	wantProblem(t, f.call("GET", "/events/1", ""), 404, "not-found") // one event is cheap
	read("other")
	if p := wantProblem(t, f.call("GET", "/events", "", "Authorization", "Bearer other"), 503, "overloaded"); p.RetryAfter == 0 {
		t.Error("no retryAfter")
	}
	close(slow.release)
	for range 3 {
		if code := <-codes; code != 200 {
			t.Errorf("status %d", code)
		}
	}
	if w := f.call("GET", "/events/stats", ""); w.Code != 200 || len(f.server.reads.taken) != 0 {
		t.Errorf("status %d after the places became free; taken: %v", w.Code, f.server.reads.taken)
	}
}

func TestAReaderThatStallsIsCutAndGivesItsPlaceBack(t *testing.T) {
	s := serve(t, func(o *Options) {
		o.BodyTimeout, o.QueryTimeout, o.WriteTimeout = time.Second, time.Second, time.Second
		o.MaxReadsPerTenant = 1
	})
	for range 1000 {
		s.reader.events = append(s.reader.events, event.Event{ID: "1", TenantID: "demo", Payload: []byte(`"` + strings.Repeat("x", 32<<10) + `"`)})
	}
	s.raw("GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n") // and never reads
	waitUntil(t, func() bool { return s.server.reads.used() == 1 })
	wantProblem(t, s.call("GET", "/dead-letters", ""), 429, "too-many-reads")
	waitUntil(t, func() bool { return s.server.reads.used() == 0 })
}

func (p *slots) used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// waitUntil asks again and again, for at most ten seconds.
func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 10 s")
		}
	}
}

// changingAuth answers with what it holds now.
type changingAuth struct {
	principal auth.Principal
	err       atomic.Pointer[error]
}

func (c *changingAuth) Authenticate(context.Context, string) (*auth.Principal, error) {
	if err := c.err.Load(); err != nil {
		return nil, *err
	}
	return &c.principal, nil
}

func TestATailEndsSoonAfterItsKeyIsRevoked(t *testing.T) {
	a := &changingAuth{principal: auth.Principal{TenantID: "demo", Scopes: auth.MakeScopes(auth.ScopeEventsRead)}}
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail")
		tl.w.take()
		var err error = &auth.UnavailableError{Detail: "the key store is away"}
		a.err.Store(&err)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := tl.w.take(); got != heartbeat {
			t.Errorf("while the key cannot be checked the stream brings %q", got)
		}
		err = &auth.Error{Code: auth.CodeKeyRevoked, Detail: "the key was revoked"}
		a.err.Store(&err)
		time.Sleep(15 * time.Second)
		select {
		case <-tl.done:
		case <-time.After(time.Minute):
			tl.end()
			t.Fatal("the tail goes on")
		}
		if got := tl.w.take(); !strings.HasPrefix(got, "event: end\ndata: {") || !strings.Contains(got, "key-revoked") {
			t.Errorf("the stream ends with %q", got)
		}
	}, func(o *Options) { o.Auth = a })
}

func TestNoTailsAreOpenedWhereTheyAreTurnedOff(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.MaxTailsPerTenant = -1 })
	wantProblem(t, f.call("GET", "/events/tail", ""), 501, "not-enabled")
}

func TestAHeadOfTheTailOpensNone(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		req := httptest.NewRequest("HEAD", "/events/tail", nil)
		req.Header.Set("Authorization", "Bearer reader")
		w, done := newFlushWriter(), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { defer close(done); f.server.Handler().ServeHTTP(w, req.WithContext(ctx)) }()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Fatal("the answer does not end")
		}
		if w.code() != 200 || w.h.Get("Content-Type") != "text/event-stream" {
			t.Errorf("status %d, %v", w.code(), w.h)
		}
	})
}
