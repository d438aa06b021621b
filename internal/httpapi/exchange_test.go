package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"millrace/internal/event"
)

func TestEveryAnswerCarriesARequestID(t *testing.T) {
	f := newFixture(t)
	made := regexp.MustCompile(`^[0-9a-f]{32}$`)
	for _, target := range []string{"/events", "/nowhere", "/livez", "/events//x", "/keys", "/docs"} {
		if id := f.call("GET", target, "").Header().Get("X-Request-Id"); !made.MatchString(id) {
			t.Errorf("%s: request id %q", target, id)
		}
	}
	for given, kept := range map[string]bool{
		"abc-123_X.y:z=+": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false,
		"a b": false, "a\"b": false, "a/../b": false, "ü": false, "<script>": false,
	} {
		got := f.call("GET", "/nowhere", "", "X-Request-Id", given)
		if (got.Header().Get("X-Request-Id") == given) != kept {
			t.Errorf("%q: the answer carries %q", given, got.Header().Get("X-Request-Id"))
		}
		wantProblem(t, got, 404, "not-found") // its instance is the id
	}
}

func TestTheCallersTraceGoesOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	check := func(t *testing.T, f *fixture) string {
		t.Helper()
		got := f.call("POST", "/events", `[{"type":"a"}]`, "Traceparent", parent).Header().Get("Traceparent")
		if !strings.HasPrefix(got, parent[:36]) || strings.Contains(got, parent[36:52]) || !strings.HasSuffix(got, "-01") {
			t.Errorf("traceparent %q does not go on with %q", got, parent)
		}
		own := f.call("GET", "/livez", "").Header().Get("Traceparent")
		if _, ok := parseTraceparent([]string{own}); !ok {
			t.Errorf("a request without a trace gets %q", own)
		}
		return got
	}
	t.Run("without a tracer", func(t *testing.T) {
		var seen trace.SpanContext
		f := newFixture(t, func(o *Options) {
			o.LogContext = func(ctx context.Context, _ string) context.Context {
				seen = trace.SpanContextFromContext(ctx)
				return ctx
			}
		})
		check(t, f)
		if !seen.IsValid() {
			t.Error("the logger's context has no trace")
		}
	})
	t.Run("with a tracer", func(t *testing.T) {
		recorder := tracetest.NewSpanRecorder()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
		f := newFixture(t, func(o *Options) { o.Tracer = provider.Tracer("test") })
		got := check(t, f)
		span := recorder.Ended()[0]
		if span.Name() != "POST /events" || span.Parent().SpanID().String() != parent[36:52] || got[36:52] != span.SpanContext().SpanID().String() {
			t.Errorf("span %q, parent %s, traceparent %s", span.Name(), span.Parent().SpanID(), got)
		}
		f.events.ingest = errors.New("broken")
		f.call("POST", "/events", `[]`)
		last := recorder.Ended()[len(recorder.Ended())-1]
		if last.Status().Description != "internal" {
			t.Errorf("status of a failed span: %+v", last.Status())
		}
	})
}

func TestAPanicInTheMiddleOfAnAnswerCutsTheConnection(t *testing.T) {
	f := newFixture(t)
	f.server.public.handle("GET", "/half", func(_ context.Context, ex *exchange, _ *http.Request) {
		_, _ = io.WriteString(ex, "half of the ans")
		panic("boom")
	})
	srv := httptest.NewServer(f.server.Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/half")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("the client takes half an answer for a whole one")
	}
	if !strings.Contains(f.logs.String(), "boom") {
		t.Error("the panic is not in the log")
	}
}

func TestAnOperationThatPanicsIsAnswered500(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Reader = (*fakeReader)(nil) })
	wantProblem(t, f.call("GET", "/events", ""), 500, "internal")
}

func TestLogLinesTellWhatMattersAndNoSecret(t *testing.T) {
	f := newFixture(t)
	f.call("GET", "/events?type=secret-type&cursor=x", "", "Authorization", "Bearer reader")
	var line map[string]any
	if err := json.Unmarshal([]byte(f.logs.String()), &line); err != nil {
		t.Fatalf("%q: %v", f.logs, err)
	}
	for k, want := range map[string]any{"level": "INFO", "method": "GET", "route": "/events", "path": "/events", "status": 200.0, "tenant": "demo", "subject": "page"} {
		if line[k] != want {
			t.Errorf("%s is %v, want %v", k, line[k], want)
		}
	}
	if strings.Contains(f.logs.String(), "secret-type") || strings.Contains(f.logs.String(), "Bearer") {
		t.Errorf("the query or the credential is in the log: %s", f.logs)
	}
}

func TestLevelsFollowTheStatus(t *testing.T) {
	for _, c := range []struct {
		name, level string
		do          func(f *fixture)
	}{
		{"an accepted batch", "DEBUG", func(f *fixture) { f.call("POST", "/events", `[{"type":"a"}]`) }},
		{"a query", "INFO", func(f *fixture) { f.call("GET", "/events", "") }},
		{"a refusal", "WARN", func(f *fixture) { f.call("GET", "/events?x=1", "") }},
		{"a full backlog", "WARN", func(f *fixture) {
			f.events.admit = &event.Unavailable{Reason: "backlog-full"}
			f.call("POST", "/events", "[]")
		}},
		{"an unknown outcome", "ERROR", func(f *fixture) { f.events.ingest = &event.Unavailable{Unknown: true}; f.call("POST", "/events", "[]") }},
		{"a failure", "ERROR", func(f *fixture) { f.reader.err = errors.New("broken"); f.call("GET", "/events", "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.do(f)
			if !strings.Contains(f.logs.String(), `"level":"`+c.level+`"`) {
				t.Errorf("want %s: %s", c.level, f.logs)
			}
		})
	}
}

func TestAFloodOfRefusalsIsNoFloodOfTheLog(t *testing.T) {
	b := lineBudget{perSecond: 2}
	at := time.Unix(100, 0)
	var passed, told int
	for i := range 10 {
		n, ok := b.take(at.Add(time.Duration(i) * time.Millisecond))
		if ok {
			passed++
		}
		told += n
	}
	if passed != 2 || told != 0 {
		t.Errorf("%d lines passed, %d told", passed, told)
	}
	if n, ok := b.take(at.Add(time.Second)); !ok || n != 8 {
		t.Errorf("the next second: %v, %d suppressed", ok, n)
	}
}

func TestRequestsAreCountedByRouteAndStatus(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := newFixture(t, func(o *Options) { o.Metrics = NewMetrics(reg) })
	for i := range 3 {
		f.call("GET", fmt.Sprintf("/events/%d", i), "")
		f.call("POST", "/events", `[{"type":"a"}]`)
		f.call("GET", fmt.Sprintf("/made-up/%d", i), "")
		f.call(fmt.Sprintf("MADE%d", i), "/events", "")
		f.call("HEAD", "/livez", "")
	}
	const want = `
# HELP millrace_http_requests_total Requests answered, by route, method and status.
# TYPE millrace_http_requests_total counter
millrace_http_requests_total{method="GET",route="/events/{id}",status="404"} 3
millrace_http_requests_total{method="GET",route="unmatched",status="404"} 3
millrace_http_requests_total{method="HEAD",route="/livez",status="200"} 3
millrace_http_requests_total{method="POST",route="/events",status="202"} 3
millrace_http_requests_total{method="other",route="unmatched",status="405"} 3
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "millrace_http_requests_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(f.server.metrics.inFlight); n != 0 {
		t.Errorf("%v requests in flight", n)
	}
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

func TestTheServersBoundsAreNeverBelowATenants(t *testing.T) {
	o := newFixture(t, func(o *Options) { o.MaxTailsPerTenant, o.MaxReadsPerTenant = 2000, 100 }).server.o
	if o.MaxTails != 2000 || o.MaxReads != 100 {
		t.Errorf("MaxTails %d, MaxReads %d", o.MaxTails, o.MaxReads)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := newFixture(t).server.o
	for _, c := range []struct {
		name   string
		change func(*Options)
		says   string
	}{
		{"no ingester", func(o *Options) { o.Events = nil }, "Events"},
		{"no reader", func(o *Options) { o.Reader = nil }, "Reader"},
		{"a certificate without a key", func(o *Options) { o.CertFile = "cert.pem" }, "key"},
		{"a limit below zero", func(o *Options) { o.MaxBodyBytes = -1 }, "MaxBodyBytes"},
		{"no time to answer", func(o *Options) { o.WriteTimeout = time.Second }, "WriteTimeout"},
		{"a drain that ends before it begins", func(o *Options) { o.DrainDelay = time.Hour }, "DrainTimeout"},
		{"two checks of one name", func(o *Options) {
			c := Check{Name: "a", Probe: func(context.Context) error { return nil }}
			o.Checks = []Check{c, c}
		}, "two readiness checks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v does not say %q", err, c.says)
			}
		})
	}
}
