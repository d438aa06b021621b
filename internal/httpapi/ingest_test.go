package httpapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"millrace/internal/event"
	"millrace/internal/event/scan"
	"millrace/internal/limit"
)

func gzipped(t testing.TB, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstded(t testing.TB, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPostEventsAnswersWithWhatWasAcceptedAndRejected(t *testing.T) {
	f := newFixture(t)
	w := f.call("POST", "/events", `[{"type":"a"},{"id":"x\"1"}]`)
	if w.Code != http.StatusAccepted || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %v", w.Code, w.Header())
	}
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	rejected := got["rejected"].([]any)[0].(map[string]any)
	if got["accepted"] != 1.0 || rejected["index"] != 1.0 || rejected["id"] != `x"1` || !strings.Contains(rejected["reason"].(string), "type") {
		t.Errorf("answer %s", w.Body)
	}
	if _, ok := got["ids"]; ok {
		t.Error("ids are there though the server gave none")
	}
	if _, ok := got["duplicates"]; ok {
		t.Error("duplicates are there though there are none")
	}
}

func TestPostEventsShowsDuplicatesAndGivenIDs(t *testing.T) {
	f := newFixture(t)
	f.events.receipt = &event.Receipt{BatchID: "b", Accepted: 2, Duplicates: 1, IDs: []string{"mine", "given"}}
	w := f.call("POST", "/events", `[]`)
	const want = `{"batchId":"b","accepted":2,"duplicates":1,"rejected":[],"ids":["mine","given"]}` + "\n"
	if w.Body.String() != want {
		t.Errorf("got %s, want %s", w.Body, want)
	}
}

func TestPostEventsReadsEveryFormat(t *testing.T) {
	const cloud = `{"specversion":"1.0","id":"1","source":"s","type":"t"}`
	for _, c := range []struct {
		name, contentType, body string
		format                  scan.Format
	}{
		{"an array", "application/json", `[{"type":"a"}]`, scan.JSON},
		{"an object", "application/json", `{"events":[{"type":"a"}]}`, scan.JSON},
		{"no Content-Type", "", `[{"type":"a"}]`, scan.JSON},
		{"a charset", "application/json;charset=UTF-8", `[{"type":"a"}]`, scan.JSON},
		{"a charset in quotes, upper case", `Application/JSON; charset="utf-8"`, `[{"type":"a"}]`, scan.JSON},
		{"NDJSON", "application/x-ndjson", "{\"type\":\"a\"}\n{\"type\":\"b\"}\n", scan.NDJSON},
		{"NDJSON by its other name", "application/ndjson", `{"type":"a"}`, scan.NDJSON},
		{"JSON lines", "application/jsonl; charset=utf-8", `{"type":"a"}`, scan.NDJSON},
		{"a cloud event", "application/cloudevents+json", cloud, scan.CloudEvent},
		{"cloud events", "application/cloudevents-batch+json; charset=utf-8", "[" + cloud + "]", scan.CloudEventBatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			w := f.call("POST", "/events", c.body, "Content-Type", c.contentType)
			if w.Code != http.StatusAccepted {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if f.events.formats[0] != c.format || string(f.events.bodies[0]) != c.body || f.events.tenants[0] != "demo" {
				t.Errorf("the ingester saw format %v, tenant %q, body %q", f.events.formats[0], f.events.tenants[0], f.events.bodies[0])
			}
		})
	}
}

func TestPostEventsDecompresses(t *testing.T) {
	body := batch(100)
	for name, c := range map[string]struct{ encoding, body string }{
		"gzip":             {"gzip", gzipped(t, body)},
		"zstd":             {"zstd", zstded(t, body)},
		"gzip, upper case": {"GZIP", gzipped(t, body)},
		"identity":         {"identity", string(body)},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for range 3 { // the second and third use pooled decoders
				w := f.call("POST", "/events", c.body, "Content-Encoding", c.encoding)
				if w.Code != http.StatusAccepted {
					t.Fatalf("status %d: %s", w.Code, w.Body)
				}
			}
			for _, got := range f.events.bodies {
				if !bytes.Equal(got, body) {
					t.Fatal("the body is not what was compressed")
				}
			}
		})
	}
}

func TestPostEventsRefusesBadInput(t *testing.T) {
	bomb := bytes.Repeat([]byte{' '}, 64<<20)
	for _, c := range []struct {
		name    string
		body    string
		headers []string
		status  int
		slug    string
		says    string
	}{
		{"no credential", "[]", []string{"Authorization", ""}, 401, "token-missing", "Bearer"},
		{"an unknown credential", "[]", []string{"Authorization", "Bearer nonsense"}, 401, "token-malformed", "neither"},
		{"an expired token", "[]", []string{"Authorization", "Bearer expired"}, 401, "token-expired", "expired"},
		{"another scheme", "[]", []string{"Authorization", "Basic YTpi"}, 401, "token-malformed", "Bearer <token"},
		{"a scheme without a credential", "[]", []string{"Authorization", "Bearer "}, 401, "token-malformed", "Bearer <token"},
		{"an unknown API key", "[]", []string{"Authorization", "", "X-API-Key", "mrk_nope"}, 401, "token-malformed", "neither"},
		{"a missing scope", "[]", []string{"Authorization", "Bearer reader"}, 403, "scope-missing", "events:write"},
		{"an unreachable key store", "[]", []string{"Authorization", "Bearer unreachable"}, 503, "auth-unavailable", "key store"},
		{"a failing authenticator", "[]", []string{"Authorization", "Bearer broken"}, 503, "auth-unavailable", "try again"},
		{"another Content-Type", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported-media-type", "application/x-ndjson"},
		{"a Content-Type that is none", "[]", []string{"Content-Type", "json;;"}, 415, "unsupported-media-type", "application/json"},
		{"another charset", "[]", []string{"Content-Type", "application/json; charset=latin1"}, 415, "unsupported-media-type", "UTF-8"},
		{"an unknown encoding", "[]", []string{"Content-Encoding", "br"}, 415, "unsupported-encoding", "zstd"},
		{"two encodings", "[]", []string{"Content-Encoding", "gzip, zstd"}, 415, "unsupported-encoding", "gzip"},
		{"a gzip bomb", gzipped(t, bomb), []string{"Content-Encoding", "gzip"}, 413, "body-too-large", "1048576"},
		{"a zstd bomb", zstded(t, bomb), []string{"Content-Encoding", "zstd"}, 413, "body-too-large", "1048576"},
		{"no gzip at all", "[]", []string{"Content-Encoding", "gzip"}, 400, "corrupt-encoding", "gzip"},
		{"no zstd at all", "[]", []string{"Content-Encoding", "zstd"}, 400, "corrupt-encoding", "zstd"},
		{"gzip cut short", gzipped(t, batch(50))[:90], []string{"Content-Encoding", "gzip"}, 400, "corrupt-encoding", "gzip"},
		{"zstd cut short", zstded(t, batch(50))[:90], []string{"Content-Encoding", "zstd"}, 400, "corrupt-encoding", "zstd"},
		{"gzip with rubbish behind it", gzipped(t, batch(1)) + "rubbish", []string{"Content-Encoding", "gzip"}, 400, "corrupt-encoding", "gzip"},
		{"an empty gzip body", "", []string{"Content-Encoding", "gzip"}, 400, "corrupt-encoding", "empty"},
		{"an oversize body", strings.Repeat(" ", 1<<20+1), nil, 413, "body-too-large", "1048576"},
		{"no JSON", "hello", nil, 400, "malformed-body", "byte"},
		{"no body", "", nil, 422, "empty-batch", "empty"},
		{"a bare event", `{"type":"a"}`, nil, 400, "wrong-shape", "array"},
		{"an empty batch", "[]", nil, 422, "empty-batch", "event"},
		{"too many events", string(batch(101)), nil, 413, "too-many-events", "100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			p := wantProblem(t, f.call("POST", "/events", c.body, c.headers...), c.status, c.slug)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("detail %q does not say %q", p.Detail, c.says)
			}
		})
	}
}

func TestABatchWithoutAValidEventIsRefusedWithTheReasons(t *testing.T) {
	f := newFixture(t)
	p := wantProblem(t, f.call("POST", "/events", `[{"id":"1"},{"type":7}]`), 422, "no-valid-events")
	if len(p.Rejected) != 2 || p.Rejected[0].ID != "1" || p.Rejected[1].Index != 1 || p.BatchID == "" {
		t.Errorf("rejected %+v, batch %q", p.Rejected, p.BatchID)
	}
}

func TestChallengesSayWhatIsWrong(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct{ credential, want string }{
		"missing": {"", `Bearer realm="millrace"`},
		"expired": {"Bearer expired", `Bearer realm="millrace", error="invalid_token", error_description="the token expired; get a 'new' one"`},
		"scope":   {"Bearer reader", `Bearer realm="millrace", error="insufficient_scope", scope="events:write"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := f.call("POST", "/events", "[]", "Authorization", c.credential)
			if got := w.Header().Get("WWW-Authenticate"); got != c.want {
				t.Errorf("challenge %q, want %q", got, c.want)
			}
		})
	}
}

func TestAnAPIKeyMayComeInItsOwnHeader(t *testing.T) {
	f := newFixture(t)
	if w := f.call("POST", "/events", `[{"type":"a"}]`, "Authorization", "", "X-API-Key", "writer"); w.Code != http.StatusAccepted {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

func TestUnavailableIsAnsweredWithWhatIsKnownOfTheOutcome(t *testing.T) {
	for _, c := range []struct {
		name       string
		err        event.Unavailable
		slug       string
		retryAfter string
	}{
		{"full", event.Unavailable{Reason: "backlog-full", Detail: "the backlog is full", RetryAfter: 2500 * time.Millisecond}, "backlog-full", "3"},
		{"disk", event.Unavailable{Reason: "disk-full", Detail: "the disk is full"}, "disk-full", "1"},
		{"unknown outcome", event.Unavailable{Reason: "log-failed", Detail: "the log failed", Unknown: true, Err: errors.New("fsync /data/wal: EIO")}, "outcome-unknown", "1"},
		{"store timeout", event.Unavailable{Reason: "store-timeout", Detail: "the store is slow", Unknown: true}, "outcome-unknown", "1"},
		{"a reason of tomorrow", event.Unavailable{Reason: "moon-phase", Detail: "not today"}, "overloaded", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.events.ingest = &c.err
			w := f.call("POST", "/events", `[{"type":"a"}]`)
			p := wantProblem(t, w, 503, c.slug)
			if w.Header().Get("Retry-After") != c.retryAfter {
				t.Errorf("Retry-After %q, want %q", w.Header().Get("Retry-After"), c.retryAfter)
			}
			if p.RetryAfter == 0 || p.Detail != c.err.Detail {
				t.Errorf("problem %+v", p)
			}
			if strings.Contains(w.Body.String(), "fsync") {
				t.Error("the answer shows the cause, which is for the log")
			}
			if c.err.Err != nil && !strings.Contains(f.logs.String(), "fsync") {
				t.Error("the log does not show the cause")
			}
		})
	}
}

// untouchable is a body that must not be read.
type untouchable struct{ t *testing.T }

func (u untouchable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, errors.New("no")
}
func (untouchable) Close() error { return nil }

func TestWhatCanBeRefusedWithoutTheBodyIsRefusedBeforeItIsRead(t *testing.T) {
	full, err := limit.NewBytes("bodies", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Options, *fakeEvents)
		req    func(*http.Request)
		status int
		slug   string
	}{
		{"a missing credential", nil, func(r *http.Request) { r.Header.Del("Authorization") }, 401, "token-missing"},
		{"a full backlog", func(_ *Options, e *fakeEvents) {
			e.admit = &event.Unavailable{Reason: "backlog-full", Detail: "full", RetryAfter: time.Second}
		}, nil, 503, "backlog-full"},
		{"a rate that is used up", func(o *Options, _ *fakeEvents) {
			o.Rates = &fakeRates{decision: limit.Decision{Limit: 100, RetryAfter: 1200 * time.Millisecond, Policy: `"events";q=100;w=2`}}
		}, nil, 429, "rate-limited"},
		{"a declared size over the limit", nil, func(r *http.Request) { r.ContentLength = 2 << 20 }, 413, "body-too-large"},
		{"no memory for bodies", func(o *Options, _ *fakeEvents) { o.Bytes = full }, nil, 503, "overloaded"},
		{"an unknown encoding", nil, func(r *http.Request) { r.Header.Set("Content-Encoding", "br") }, 415, "unsupported-encoding"},
		{"an unknown type", nil, func(r *http.Request) { r.Header.Set("Content-Type", "text/csv") }, 415, "unsupported-media-type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events *fakeEvents
			f := newFixture(t, func(o *Options) {
				events = o.Events.(*fakeEvents)
				if c.change != nil {
					c.change(o, events)
				}
			})
			req := httptest.NewRequest("POST", "/events", nil)
			req.Body, req.ContentLength = untouchable{t}, 1000
			req.Header.Set("Authorization", "Bearer writer")
			if c.req != nil {
				c.req(req)
			}
			w := httptest.NewRecorder()
			f.server.Handler().ServeHTTP(w, req)
			wantProblem(t, w, c.status, c.slug)
			if c.status == 429 && (w.Header().Get("Retry-After") != "2" || w.Header().Get("RateLimit-Policy") != `"events";q=100;w=2` || w.Header().Get("RateLimit") == "") {
				t.Errorf("headers %v", w.Header())
			}
			if len(events.bodies) != 0 {
				t.Error("the ingester was called")
			}
		})
	}
}

func TestTheOrderOfChecksIsTheOrderOfTheirCost(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Events.(*fakeEvents).admit = &event.Unavailable{Reason: "backlog-full", Detail: "full"}
		o.Rates = &fakeRates{decision: limit.Decision{Limit: 1, RetryAfter: time.Second}}
	})
	huge := strings.Repeat(" ", 2<<20)
	wantProblem(t, f.call("POST", "/events", huge, "Authorization", "", "Content-Encoding", "br"), 401, "token-missing")
	wantProblem(t, f.call("POST", "/events", huge, "Authorization", "Bearer reader", "Content-Encoding", "br"), 403, "scope-missing")
	wantProblem(t, f.call("POST", "/events", huge, "Content-Encoding", "br"), 503, "backlog-full")
	f.events.admit = nil
	wantProblem(t, f.call("POST", "/events", huge, "Content-Encoding", "br"), 429, "rate-limited")
}

func TestATenantPaysForEveryEventItSent(t *testing.T) {
	rates := &fakeRates{decision: limit.Decision{Allowed: true, Limit: 100, Remaining: 40, Reset: time.Second, Policy: `"events";q=100;w=2`}}
	f := newFixture(t, func(o *Options) { o.Rates = rates })
	w := f.call("POST", "/events", `[{"type":"a"},{"type":"b"},{}]`)
	if rates.spent != 3 {
		t.Errorf("spent %d, want 3", rates.spent)
	}
	if w.Header().Get("RateLimit") == "" || w.Header().Get("RateLimit-Policy") != `"events";q=100;w=2` {
		t.Errorf("headers %v", w.Header())
	}
}

func TestTheMemoryOfBodiesIsGivenBack(t *testing.T) {
	bound, err := limit.NewBytes("bodies", 8<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(o *Options) { o.Bytes = bound })
	body := batch(100)
	for _, c := range []struct{ body, encoding string }{
		{string(body), ""}, {gzipped(t, body), "gzip"}, {zstded(t, body), "zstd"}, {"rubbish", "gzip"}, {"hello", ""},
		{gzipped(t, bytes.Repeat([]byte{' '}, 8<<20)), "gzip"}, {gzipped(t, nil), "gzip"},
	} {
		f.call("POST", "/events", c.body, "Content-Encoding", c.encoding)
		if n := bound.InFlight(); n != 0 {
			t.Fatalf("after a body of %d bytes (%s) %d bytes are still in flight", len(c.body), c.encoding, n)
		}
	}
}

func TestABodyOfUnknownLengthGrowsWithinItsBounds(t *testing.T) {
	for _, size := range []int{0, 1, 4 << 10, 16 << 10, 16<<10 + 1, 300 << 10, 1 << 20, 1<<20 + 1} {
		f := newFixture(t)
		body := []byte(`[{"type":"a"}]`)
		body = append(body, bytes.Repeat([]byte{' '}, max(0, size-len(body)))...)[:size]
		req := httptest.NewRequest("POST", "/events", struct{ *bytes.Reader }{bytes.NewReader(body)})
		req.ContentLength = -1
		req.Header.Set("Authorization", "Bearer writer")
		w := httptest.NewRecorder()
		f.server.Handler().ServeHTTP(w, req)
		if size > 1<<20 {
			wantProblem(t, w, 413, "body-too-large")
			continue
		}
		if len(f.events.bodies) != 1 || !bytes.Equal(f.events.bodies[0], body) {
			t.Errorf("size %d: status %d %s", size, w.Code, w.Body)
		}
	}
}

func TestACompressedBodyThatNeverEndsIsCutByItsOwnSize(t *testing.T) {
	// Empty gzip members add nothing to the output, however many there are.
	f := newFixture(t)
	req := httptest.NewRequest("POST", "/events", struct{ *strings.Reader }{strings.NewReader(strings.Repeat(gzipped(t, nil), 100_000))})
	req.ContentLength = -1
	req.Header.Set("Authorization", "Bearer writer")
	req.Header.Set("Content-Encoding", "gzip")
	w := httptest.NewRecorder()
	f.server.Handler().ServeHTTP(w, req)
	wantProblem(t, w, 413, "body-too-large")
}

func TestPostHookHandsTheRawDeliveryOver(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.HookTenant = func(source string) (string, bool) { return "demo", source != "unknown" }
	})
	const body = `{"action": "opened"}`
	w := f.call("POST", "/hooks/github", body, "Authorization", "", "X-Hub-Signature-256", "good")
	if w.Code != http.StatusAccepted {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	seen := f.events.hookSeen[0]
	if diff := cmp.Diff([]string{"github", body}, []string{seen.Source, string(seen.Body)}); diff != "" {
		t.Error(diff)
	}
	wantProblem(t, f.call("POST", "/hooks/github", body, "X-Hub-Signature-256", "bad"), 401, "webhook-unverified")
	wantProblem(t, f.call("POST", "/hooks/unknown", body, "X-Hub-Signature-256", "good"), 404, "webhook-unknown")
	wantProblem(t, f.call("POST", "/hooks/vanished", body, "X-Hub-Signature-256", "good"), 404, "webhook-unknown")
	wantProblem(t, f.call("POST", "/hooks/github", strings.Repeat(" ", 2<<20)), 413, "body-too-large")
}

func TestWithoutWebhookSourcesEverySourceIsUnknown(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Hooks = nil })
	wantProblem(t, f.call("POST", "/hooks/github", "{}"), 404, "webhook-unknown")
}
