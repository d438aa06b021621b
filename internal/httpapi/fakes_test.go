package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
	"millrace/internal/limit"
)

// fakeEvents scans for real and keeps what was accepted in memory.
type fakeEvents struct {
	mu       sync.Mutex
	admit    error
	ingest   error
	receipt  *event.Receipt // instead of what the scanner finds
	bodies   [][]byte
	formats  []scan.Format
	tenants  []string
	begun    chan struct{} // receives one for each Ingest, if not nil
	release  chan struct{} // Ingest waits for it, if not nil
	panics   bool
	hookSeen []event.HookSubmission
}

func (f *fakeEvents) Admit() error { return f.admit }

func (f *fakeEvents) Ingest(ctx context.Context, s event.Submission) (event.Receipt, error) {
	if f.begun != nil {
		f.begun <- struct{}{}
	}
	if f.release != nil {
		<-f.release
		if ctx.Err() != nil {
			return event.Receipt{}, ctx.Err()
		}
	}
	if f.panics {
		panic("boom")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bodies = append(f.bodies, bytes.Clone(s.Body))
	f.formats = append(f.formats, s.Format)
	f.tenants = append(f.tenants, s.TenantID)
	if f.ingest != nil {
		return event.Receipt{}, f.ingest
	}
	if f.receipt != nil {
		return *f.receipt, nil
	}
	events, err := scan.NewScanner().Scan(s.Body, s.Format, scan.Limits{})
	if err != nil {
		return event.Receipt{}, err
	}
	r := event.Receipt{BatchID: "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"}
	for i, e := range events {
		if e.Reason != "" {
			r.Rejected = append(r.Rejected, event.Rejection{Index: i, ID: string(e.ID), Reason: e.Reason})
			continue
		}
		r.Accepted++
	}
	return r, nil
}

func (f *fakeEvents) IngestHook(_ context.Context, s event.HookSubmission) (event.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.Source == "vanished" {
		return event.Receipt{}, event.ErrUnknownHook
	}
	if s.Header("X-Hub-Signature-256") != "good" {
		return event.Receipt{}, &hook.Error{Code: hook.Mismatch, Source: s.Source, Reason: "no secret makes this signature"}
	}
	s.Body = bytes.Clone(s.Body)
	f.hookSeen = append(f.hookSeen, s)
	return event.Receipt{BatchID: "b", Accepted: 1}, nil
}

// fakeReader answers from a list.
type fakeReader struct {
	events []event.Event
	next   string
	series []event.Series
	err    error

	mu    sync.Mutex
	query event.Query
	stats event.StatsQuery
	tail  event.TailQuery
	feed  chan event.Event // what Tail yields
	ended chan error       // receives how Tail ended
}

func (f *fakeReader) Events(_ context.Context, q event.Query) (event.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = q
	return event.Page{Events: f.events, Next: f.next}, f.err
}

func (f *fakeReader) Event(_ context.Context, tenantID, id string) (event.Event, error) {
	for _, e := range f.events {
		if e.TenantID == tenantID && e.ID == id {
			return e, f.err
		}
	}
	return event.Event{}, errors.Join(f.err, event.ErrNotFound)
}

func (f *fakeReader) Stats(ctx context.Context, q event.StatsQuery) ([]event.Series, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats = q
	return f.series, f.err
}

func (f *fakeReader) tailed() event.TailQuery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tail
}

func (f *fakeReader) Tail(ctx context.Context, q event.TailQuery, yield func(event.Event, string) error) (err error) {
	f.mu.Lock()
	f.tail = q
	f.mu.Unlock()
	defer func() {
		if f.ended != nil {
			f.ended <- err
		}
	}()
	if q.Cursor == "bad" {
		return event.ErrBadCursor
	}
	for {
		select {
		case e := <-f.feed:
			if err := yield(e, e.Cursor); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// fakeLetters keeps dead letters in memory.
type fakeLetters struct {
	mu          sync.Mutex
	letters     []deadletter.Letter
	filter      deadletter.Filter
	limit       int
	replacement []byte
	err         error
	sum         deadletter.Summary
	by          audit.Actor
}

func (f *fakeLetters) List(_ context.Context, q deadletter.Filter, limit int, cursor string) ([]deadletter.Letter, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter, f.limit = q, limit
	if cursor == "bad" {
		return nil, "", deadletter.ErrBadCursor
	}
	return f.letters, "more", f.err
}

func (f *fakeLetters) find(tenantID, id string) (int, error) {
	for i, l := range f.letters {
		if l.TenantID == tenantID && l.ID == id {
			return i, nil
		}
	}
	return 0, deadletter.ErrNotFound
}

func (f *fakeLetters) Get(_ context.Context, tenantID, id string) (deadletter.Letter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, err := f.find(tenantID, id)
	if err != nil {
		return deadletter.Letter{}, err
	}
	return f.letters[i], nil
}

func (f *fakeLetters) Delete(_ context.Context, tenantID, id string, by audit.Actor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by = by
	i, err := f.find(tenantID, id)
	if err == nil {
		f.letters = append(f.letters[:i], f.letters[i+1:]...)
	}
	return err
}

func (f *fakeLetters) Redrive(_ context.Context, tenantID, id string, replacement []byte, by audit.Actor) (deadletter.Letter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by = by
	i, err := f.find(tenantID, id)
	if err != nil {
		return deadletter.Letter{}, err
	}
	f.replacement = bytes.Clone(replacement)
	return f.letters[i], f.err
}

func (f *fakeLetters) RedriveAll(_ context.Context, q deadletter.Filter, limit int, by audit.Actor) (deadletter.Summary, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter, f.limit, f.by = q, limit, by
	return f.sum, f.err
}

func (f *fakeLetters) DeleteAll(ctx context.Context, q deadletter.Filter, limit int, by audit.Actor) (deadletter.Summary, error) {
	return f.RedriveAll(ctx, q, limit, by)
}

// fakeAuth knows credentials by heart.
type fakeAuth struct{ principals map[string]*auth.Principal }

func (f fakeAuth) Authenticate(_ context.Context, credential string) (*auth.Principal, error) {
	if p, ok := f.principals[credential]; ok {
		return p, nil
	}
	switch credential {
	case "expired":
		return nil, &auth.Error{Code: auth.CodeTokenExpired, Detail: `the token expired; get a "new" one`}
	case "unreachable":
		return nil, &auth.UnavailableError{Detail: "the key store is away", RetryAfter: 3 * time.Second, Err: errors.New("dial tcp 10.0.0.9: refused")}
	case "broken":
		return nil, errors.New("secret detail")
	}
	return nil, &auth.Error{Code: auth.CodeTokenMalformed, Detail: "this is neither a token nor an API key"}
}

type fakeKeys struct {
	created   auth.CreateKey
	revokedBy audit.Actor
	keys      []auth.Key
	err       error
}

func (f *fakeKeys) Create(_ context.Context, k auth.CreateKey) (auth.Key, string, error) {
	f.created = k
	if f.err != nil {
		return auth.Key{}, "", f.err
	}
	return auth.Key{ID: "abc", TenantID: k.TenantID, Name: k.Name, Scopes: k.Scopes, CreatedAt: testNow, CreatedBy: k.Actor.Subject}, "mrk_abc_secret", nil
}

func (f *fakeKeys) List(context.Context, string) ([]auth.Key, error) { return f.keys, f.err }

func (f *fakeKeys) Revoke(_ context.Context, tenantID, id string, by audit.Actor) error {
	f.revokedBy = by
	for _, k := range f.keys {
		if k.TenantID == tenantID && k.ID == id {
			return nil
		}
	}
	return auth.ErrKeyNotFound
}

// fakeRates says what it is told to.
type fakeRates struct {
	mu       sync.Mutex
	decision limit.Decision
	spent    int64
}

func (f *fakeRates) Allow(string) limit.Decision { return f.decision }

func (f *fakeRates) Spend(_ string, n int64) limit.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spent += n
	return f.decision
}

var testNow = time.Date(2026, 11, 22, 8, 30, 0, 0, time.UTC)

// fixture is a server over fakes.
type fixture struct {
	t       testing.TB
	events  *fakeEvents
	reader  *fakeReader
	letters *fakeLetters
	keys    *fakeKeys
	logs    *syncBuffer
	server  *Server
	shop
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, events: &fakeEvents{}, reader: &fakeReader{feed: make(chan event.Event)}, letters: &fakeLetters{},
		keys: &fakeKeys{}, logs: &syncBuffer{}, shop: newShop()}
	o := Options{
		Events: f.events, Reader: f.reader, Hooks: f.events, DeadLetters: f.letters, Keys: f.keys,
		Auth: fakeAuth{map[string]*auth.Principal{
			"admin":  {TenantID: "demo", Subject: "ops", Method: auth.MethodJWT, Scopes: auth.MakeScopes(auth.ScopeAdmin)},
			"writer": {TenantID: "demo", Subject: "till", Scopes: auth.MakeScopes(auth.ScopeEventsWrite)},
			"reader": {TenantID: "demo", Subject: "page", Scopes: auth.MakeScopes(auth.ScopeEventsRead)},
			"other":  {TenantID: "other", Subject: "them", Scopes: auth.MakeScopes(auth.ScopeAdmin)},
		}},
		Logger: slog.New(slog.NewJSONHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    func() time.Time { return testNow },
	}
	f.shop.open(&o)
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	f.server = s
	return f
}

// call sends a request to the handler, as admin unless a header says otherwise.
// Headers are pairs; a pair with an empty value removes the header.
func (f *fixture) call(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	return f.callOn(f.server.Handler(), method, target, body, headers...)
}

func (f *fixture) callOn(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, r)
	req.Header.Set("Authorization", "Bearer admin")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header[http.CanonicalHeaderKey(headers[i])] = strings.Split(headers[i+1], "\n") // its lines
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// wantProblem checks that an answer is a complete problem of a kind.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int, slug string) problem {
	t.Helper()
	return wantProblemIn(t, w.Code, w.Header(), w.Body.Bytes(), status, slug)
}

func wantProblemIn(t testing.TB, gotStatus int, h http.Header, body []byte, status int, slug string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("status %d, body %q is not JSON: %v", gotStatus, body, err)
	}
	if gotStatus != status || p.Status != status || p.Type != problemBase+slug {
		t.Errorf("got status %d, problem %s (%d) %q; want %d %s", gotStatus, p.Type, p.Status, p.Detail, status, slug)
	}
	if ct := h.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type is %q", ct)
	}
	if p.Title == "" || p.Detail == "" {
		t.Errorf("title %q and detail %q must both say something", p.Title, p.Detail)
	}
	if id := h.Get("X-Request-Id"); id == "" || p.Instance != id {
		t.Errorf("instance %q is not the request id %q", p.Instance, id)
	}
	return p
}
