package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const parentHeader = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// memoryExporter keeps spans, or fails.
type memoryExporter struct {
	mu    sync.Mutex
	spans []sdktrace.ReadOnlySpan
	err   error
}

func (e *memoryExporter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.spans = append(e.spans, spans...)
	}
	return e.err
}

func (e *memoryExporter) Shutdown(context.Context) error { return nil }

func off(t testing.TB) *Tracing {
	t.Helper()
	tracing, err := NewTracing(t.Context(), TracingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tracing
}

func TestWithoutAnEndpointEveryRequestStillHasATraceID(t *testing.T) {
	tracing := off(t)
	seen := map[trace.TraceID]bool{}
	for range 100 {
		ctx, span := tracing.StartServer(t.Context(), http.Header{}, "POST /events")
		sc := trace.SpanContextFromContext(ctx)
		if !sc.IsValid() || sc.IsSampled() || span.IsRecording() || seen[sc.TraceID()] {
			t.Fatalf("got span context %v, want a new one that is not sampled", sc)
		}
		seen[sc.TraceID()] = true
		inner, child := tracing.Start(ctx, "append")
		if !trace.SpanContextFromContext(inner).Equal(sc) {
			t.Fatal("a span inside the request has another trace")
		}
		child.End()
		span.End()
	}
	if tracing.Recording() {
		t.Error("it says that it records")
	}
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTraceContextOfACallerGoesOn(t *testing.T) {
	tests := []struct {
		name       string
		header     http.Header
		wantParent bool
	}{
		{"a valid parent", http.Header{"Traceparent": {parentHeader}, "Tracestate": {"a=1", "b=2"}}, true},
		{"no parent", http.Header{}, false},
		{"a nil header", nil, false},
		{"two parents", http.Header{"Traceparent": {parentHeader, parentHeader}}, false},
		{"a parent that is cut off", http.Header{"Traceparent": {parentHeader[:40]}}, false},
		{"a trace id of zeros", http.Header{"Traceparent": {"00-00000000000000000000000000000000-b7ad6b7169203331-01"}}, false},
		{"garbage", http.Header{"Traceparent": {strings.Repeat("x", 55)}}, false},
	}
	recording := newTracing(TracingOptions{SampleRatio: 1}, &memoryExporter{})
	defer recording.Shutdown(context.Background())
	for _, tt := range tests {
		for name, tracing := range map[string]*Tracing{"off": off(t), "recording": recording} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				ctx, span := tracing.StartServer(t.Context(), tt.header, "POST /events")
				defer span.End()
				sc := trace.SpanContextFromContext(ctx)
				if !sc.IsValid() {
					t.Fatal("no trace at all")
				}
				if got := sc.TraceID().String() == "0af7651916cd43dd8448eb211c80319c"; got != tt.wantParent {
					t.Errorf("the trace goes on: %v, want %v", got, tt.wantParent)
				}
				out := http.Header{}
				tracing.Inject(ctx, out)
				if got := out.Get("traceparent"); !strings.Contains(got, sc.TraceID().String()) {
					t.Errorf("the outgoing request carries %q", got)
				}
				if tt.wantParent && out.Get("tracestate") != "a=1,b=2" {
					t.Errorf("the outgoing request carries tracestate %q", out.Get("tracestate"))
				}
			})
		}
	}
}

func TestTheRatioDecidesForTracesThatBeginHere(t *testing.T) {
	for _, tt := range []struct {
		ratio    float64
		min, max int
	}{{0, 0, 0}, {0.5, 300, 700}, {1, 1000, 1000}} {
		exporter := &memoryExporter{}
		tracing := newTracing(TracingOptions{SampleRatio: tt.ratio}, exporter)
		for range 1000 {
			_, span := tracing.StartServer(t.Context(), http.Header{}, "GET /events")
			span.End()
		}
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(exporter.spans); n < tt.min || n > tt.max {
			t.Errorf("ratio %v: %d of 1000 spans are sent, want %d to %d", tt.ratio, n, tt.min, tt.max)
		}
	}
}

func TestShutdownSendsWhatWaits(t *testing.T) {
	bodies := make(chan int64, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" && r.Header.Get("Content-Type") == "application/x-protobuf" {
			bodies <- r.ContentLength
		}
	}))
	defer collector.Close()
	reg := prometheus.NewRegistry()
	tracing, err := NewTracing(t.Context(), TracingOptions{Endpoint: collector.URL, SampleRatio: 1, Version: "1", Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tracing.StartServer(t.Context(), http.Header{}, "POST /events")
	_, child := tracing.Start(ctx, "append")
	child.End()
	span.End()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-bodies:
		if n == 0 {
			t.Error("the collector got an empty body")
		}
	default:
		t.Error("the collector got nothing at /v1/traces by the end of Shutdown")
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP millrace_trace_spans_total Spans handed to the collector, by result: sent or lost.
# TYPE millrace_trace_spans_total counter
millrace_trace_spans_total{result="lost"} 0
millrace_trace_spans_total{result="sent"} 2
`)); err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsInTimeWhenTheCollectorHangs(t *testing.T) {
	release := make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	defer collector.Close()
	defer close(release)
	tracing, err := NewTracing(t.Context(), TracingOptions{Endpoint: collector.URL + "/", SampleRatio: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.StartServer(t.Context(), http.Header{}, "POST /events")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := tracing.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want one that says that the time was up", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s with 50 ms allowed", d)
	}
}

func TestACollectorThatIsDownIsLoggedOncePerOutage(t *testing.T) {
	var buf bytes.Buffer
	inner := &memoryExporter{}
	e := newReportingExporter(inner, TracingOptions{Logger: slog.New(slog.NewTextHandler(&buf, nil))}, "http://collector")
	spans := make([]sdktrace.ReadOnlySpan, 3)
	for _, down := range []bool{false, true, true, true, false, false, true} {
		inner.err = nil
		if down {
			inner.err = errors.New("connection refused")
		}
		if err := e.ExportSpans(t.Context(), spans); err != nil {
			t.Errorf("the error goes on to the SDK: %v", err)
		}
	}
	if lost, again := strings.Count(buf.String(), "are lost"), strings.Count(buf.String(), "sent again"); lost != 2 || again != 1 {
		t.Errorf("%d lines of loss and %d of recovery for two outages, of which one ended:\n%s", lost, again, &buf)
	}
	if got := testutil.ToFloat64(e.lost); got != 12 {
		t.Errorf("%v spans are counted as lost, want 12", got)
	}
}

func TestTracingOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, o := range []TracingOptions{
		{SampleRatio: -0.1}, {SampleRatio: 1.1}, {Endpoint: "localhost:4318"}, {Endpoint: "ftp://x"}, {Endpoint: "http://"}, {Endpoint: "http://a b"},
	} {
		if _, err := NewTracing(t.Context(), o); err == nil || !strings.Contains(err.Error(), "give") {
			t.Errorf("%+v: got error %v, want one that says what to give", o, err)
		}
	}
}

func BenchmarkStartServer(b *testing.B) {
	header := http.Header{"Traceparent": {parentHeader}}
	on := newTracing(TracingOptions{SampleRatio: 0.01}, &memoryExporter{err: errors.New("thrown away")})
	defer on.Shutdown(context.Background())
	for _, bb := range []struct {
		name    string
		tracing *Tracing
		header  http.Header
	}{
		{"off, no parent", off(b), http.Header{}},
		{"off, parent", off(b), header},
		{"baseline: SDK at 1 %, no parent", on, http.Header{}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				_, span := bb.tracing.StartServer(ctx, bb.header, "POST /events")
				span.End()
			}
		})
	}
}
