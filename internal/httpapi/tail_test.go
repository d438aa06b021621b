package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/auth"
	"millrace/internal/event"
)

// flushWriter is a response that shows what was flushed, and can be told to fail.
type flushWriter struct {
	mu       sync.Mutex
	h        http.Header
	status   int
	pending  bytes.Buffer
	flushed  bytes.Buffer
	flushes  int
	fail     error
	gate     chan struct{} // a flush waits for it, if not nil
	deadline time.Time
}

func newFlushWriter() *flushWriter { return &flushWriter{h: http.Header{}} }

func (w *flushWriter) Header() http.Header { return w.h }

func (w *flushWriter) WriteHeader(status int) { w.mu.Lock(); defer w.mu.Unlock(); w.status = status }

func (w *flushWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return 0, w.fail
	}
	return w.pending.Write(p)
}

func (w *flushWriter) FlushError() error {
	if w.gate != nil {
		<-w.gate
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushes++
	_, _ = w.pending.WriteTo(&w.flushed)
	return w.fail
}

func (w *flushWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}

// code returns the status that was written, 0 if none was.
func (w *flushWriter) code() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// take returns what was flushed since the last call.
func (w *flushWriter) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.flushed.Reset()
	return w.flushed.String()
}

// tailing is a tail that runs in a synctest bubble.
type tailing struct {
	*fixture
	w      *flushWriter
	cancel context.CancelFunc
	done   chan struct{}
}

func tail(f *fixture, target string, headers ...string) *tailing {
	ctx, cancel := context.WithCancel(context.Background())
	req := httptest.NewRequestWithContext(ctx, "GET", target, nil)
	req.Header.Set("Authorization", "Bearer reader")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	tl := &tailing{fixture: f, w: newFlushWriter(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(tl.done)
		f.server.Handler().ServeHTTP(tl.w, req)
	}()
	synctest.Wait()
	return tl
}

func (tl *tailing) end() {
	tl.cancel()
	<-tl.done
}

func inBubble(t *testing.T, do func(t *testing.T, f *fixture), change ...func(*Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { do(t, newFixture(t, change...)) })
}

func stored(id, payload string) event.Event {
	return event.Event{ID: id, Type: "a", TenantID: "demo", Timestamp: testNow, ReceivedAt: testNow.Add(41 * time.Millisecond),
		Payload: []byte(payload), Cursor: "c-" + id}
}

func TestATailSendsEachEventAtOnceWithItsCursor(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail?type=a")
		defer tl.end()
		if got := tl.w.take(); got != "retry: 2000\n\n" || tl.w.code() != 200 || tl.w.h.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("the stream begins with status %d, %v, %q", tl.w.code(), tl.w.h, got)
		}
		f.reader.feed <- stored("1", "{\n\"a\":\r\n1}")
		synctest.Wait()
		const want = "id: c-1\nevent: event\ndata: " + `{"id":"1","type":"a","tenantId":"demo","timestamp":"2026-11-22T08:30:00Z",` +
			`"receivedAt":"2026-11-22T08:30:00.041Z","payload":{ "a":  1}}` + "\n\n"
		if got := tl.w.take(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if q := f.reader.tailed(); q.TenantID != "demo" || q.Type != "a" || q.Cursor != "" {
			t.Errorf("query %+v", q)
		}
	})
}

func TestAQuietTailShowsThatItIsAlive(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail")
		defer tl.end()
		tl.w.take()
		time.Sleep(46 * time.Second) // the bubble's clock
		synctest.Wait()
		if got := tl.w.take(); got != strings.Repeat(": still here\n\n", 3) {
			t.Errorf("after 46 s: %q", got)
		}
		if !tl.w.deadline.IsZero() {
			t.Errorf("the time to write ends at %v with nothing to write", tl.w.deadline)
		}
	})
}

func TestATailResumesAfterTheLastIDItSent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail?cursor=old", "Last-Event-ID", "c-9")
		defer tl.end()
		if f.reader.tailed().Cursor != "c-9" {
			t.Errorf("cursor %q", f.reader.tailed().Cursor)
		}
		if tl.w.code() != 0 {
			t.Error("the answer began before the cursor was known to be good")
		}
		time.Sleep(resumeGrace)
		synctest.Wait()
		if tl.w.code() != 200 {
			t.Error("the stream did not open")
		}
	})
}

func TestATailWithABadCursorIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail?cursor=bad")
		<-tl.done
		wantProblemIn(t, tl.w.code(), tl.w.h, tl.w.pending.Bytes(), 400, "invalid-parameter")
	})
}

func TestATailEndsWhenItsReaderGoesAway(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.reader.ended = make(chan error, 1)
		tl := tail(f, "/events/tail")
		tl.w.mu.Lock()
		tl.w.fail = errors.New("broken pipe")
		tl.w.mu.Unlock()
		f.reader.feed <- stored("1", "{}")
		<-tl.done
		if len(f.server.tails.taken) != 0 {
			t.Error("the tail still holds its place")
		}
	})
}

func TestATailEndsWithItsCredential(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail", "Authorization", "Bearer short")
		tl.w.take()
		time.Sleep(5 * time.Second)
		<-tl.done
		if got := tl.w.take(); !strings.HasPrefix(got, "event: end\ndata: {") || !strings.Contains(got, "token-expired") || !strings.HasSuffix(got, "\n\n") {
			t.Errorf("the stream ends with %q", got)
		}
	}, func(o *Options) {
		o.Auth = fakeAuth{map[string]*auth.Principal{"short": {TenantID: "demo", Scopes: auth.MakeScopes(auth.ScopeEventsRead),
			ExpiresAt: time.Now().Add(5 * time.Second)}}}
	})
}

func TestTailsAreBoundedByTenantAndInAll(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		a, b := tail(f, "/events/tail"), tail(f, "/events/tail")
		third := tail(f, "/events/tail")
		<-third.done
		wantProblemIn(t, third.w.code(), third.w.h, third.w.pending.Bytes(), 429, "too-many-streams")
		other := tail(f, "/events/tail", "Authorization", "Bearer other")
		full := tail(f, "/events/tail", "Authorization", "Bearer other")
		<-full.done
		wantProblemIn(t, full.w.code(), full.w.h, full.w.pending.Bytes(), 429, "too-many-streams")
		a.end()
		again := tail(f, "/events/tail")
		if again.w.code() != 200 {
			t.Errorf("status %d after a place became free", again.w.code())
		}
		for _, tl := range []*tailing{b, other, again} {
			tl.end()
		}
	}, func(o *Options) { o.MaxTails, o.MaxTailsPerTenant = 3, 2 })
}

func TestEventsThatComeDuringAFlushShareTheNextOne(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail")
		defer tl.end()
		tl.w.take()
		tl.w.gate = make(chan struct{})
		f.reader.feed <- stored("0", "{}")
		synctest.Wait() // its flush is under way and does not return
		for range 100 {
			f.reader.feed <- stored("1", "{}")
		}
		synctest.Wait()
		close(tl.w.gate)
		synctest.Wait()
		if got := strings.Count(tl.w.take(), "id: c-1\n"); got != 100 {
			t.Errorf("%d events came through, want 100", got)
		}
		if tl.w.flushes != 3 { // the opening, the first event, the hundred
			t.Errorf("%d flushes, want 3", tl.w.flushes)
		}
	})
}

func TestATailWhoseReaderIsSlowHoldsBoundedMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		tl := tail(f, "/events/tail")
		tl.w.gate = make(chan struct{})
		payload := `"` + strings.Repeat("x", 10<<10) + `"`
		sent := 0
		for blocked := false; !blocked; {
			select {
			case f.reader.feed <- stored("1", payload):
				sent++
			default:
				blocked = true
			}
			synctest.Wait()
		}
		// One in the flush, seven in the buffer, one that waits for room.
		if sent < 5 || sent > 12 {
			t.Errorf("the tail took %d events of 10 KiB before it waited", sent)
		}
		tl.cancel() // and it can be ended while it waits
		close(tl.w.gate)
		<-tl.done
	})
}

func TestTailParametersAreChecked(t *testing.T) {
	f := newFixture(t)
	p := wantProblem(t, f.call("GET", "/events/tail?limit=3", ""), 400, "invalid-parameter")
	if !strings.Contains(p.Detail, "limit") || !strings.Contains(p.Detail, "type, cursor") {
		t.Errorf("detail %q", p.Detail)
	}
	wantProblem(t, f.call("GET", "/events/tail", "", "Last-Event-ID", strings.Repeat("x", 600)), 400, "invalid-parameter")
	wantProblem(t, f.call("GET", "/events/tail", "", "Authorization", "Bearer writer"), 403, "scope-missing")
}
