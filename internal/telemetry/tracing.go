package telemetry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const (
	tracerName = "millrace"

	// Bounds of what waits to be sent: beyond them spans are dropped, never
	// requests slowed down.
	maxQueuedSpans = 4096
	maxSpanBatch   = 512
	spanDelay      = 2 * time.Second
	exportTimeout  = 10 * time.Second
)

// TracingOptions configures Tracing. Without an endpoint nothing is recorded.
type TracingOptions struct {
	// Endpoint is the base URL of an OpenTelemetry collector that speaks
	// OTLP/HTTP, such as http://localhost:4318. A URL without a path gets
	// /v1/traces. Empty means that no spans are recorded or sent.
	Endpoint string
	// SampleRatio is the share of traces begun here that is recorded, 0 to 1. A
	// trace begun elsewhere is recorded if its caller records it.
	SampleRatio float64
	// Version is the service version in the traces.
	Version string
	// Logger hears of spans that could not be sent. Nil means silence.
	Logger *slog.Logger
	// Registerer takes the metrics of the sending; nil means none.
	Registerer prometheus.Registerer
}

// Tracing begins spans and carries trace context across HTTP in the W3C format.
//
// With no endpoint it records nothing, yet each request has a trace id: the
// caller's, or a new one that is marked as not sampled. So log lines of a
// request belong together, and a caller's trace goes on beyond us.
type Tracing struct {
	tracer     trace.Tracer
	propagator propagation.TraceContext
	provider   *sdktrace.TracerProvider // nil without an endpoint
}

// NewTracing returns Tracing. It does not wait for the collector: one that is
// down costs spans, nothing else.
func NewTracing(ctx context.Context, o TracingOptions) (*Tracing, error) {
	if o.SampleRatio < 0 || o.SampleRatio > 1 || o.SampleRatio != o.SampleRatio {
		return nil, fmt.Errorf("telemetry: a sample ratio of %v is not possible; give 0 (none) to 1 (all)", o.SampleRatio)
	}
	if o.Endpoint == "" {
		return &Tracing{tracer: noop.NewTracerProvider().Tracer(tracerName)}, nil
	}
	endpoint, err := url.Parse(o.Endpoint)
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return nil, fmt.Errorf("telemetry: %q is not the URL of a collector; give one such as http://localhost:4318", o.Endpoint)
	}
	if strings.Trim(endpoint.Path, "/") == "" {
		endpoint.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(endpoint.String()),
		otlptracehttp.WithTimeout(exportTimeout),
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry: set up sending of spans to %s: %w", endpoint.Redacted(), err)
	}
	return newTracing(o, newReportingExporter(exporter, o, endpoint.Redacted())), nil
}

func newTracing(o TracingOptions, exporter sdktrace.SpanExporter) *Tracing {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.SampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", tracerName),
			attribute.String("service.version", o.Version),
		)),
		sdktrace.WithBatcher(exporter,
			sdktrace.WithMaxQueueSize(maxQueuedSpans),
			sdktrace.WithMaxExportBatchSize(maxSpanBatch),
			sdktrace.WithBatchTimeout(spanDelay),
			sdktrace.WithExportTimeout(exportTimeout),
		),
	)
	return &Tracing{tracer: provider.Tracer(tracerName), provider: provider}
}

// Recording says whether spans are recorded at all, so that a caller can save
// itself the attributes.
func (t *Tracing) Recording() bool { return t.provider != nil }

// Tracer is for parts that begin their spans themselves.
func (t *Tracing) Tracer() trace.Tracer { return t.tracer }

// StartServer begins the span of an incoming request, as a child of the span in
// the request's traceparent header if there is a valid one. The caller ends the
// span. Name is the route pattern, never the path.
func (t *Tracing) StartServer(ctx context.Context, h http.Header, name string) (context.Context, trace.Span) {
	ctx = t.propagator.Extract(ctx, headerCarrier(h))
	if t.provider != nil {
		return t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	}
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		return ctx, span
	}
	ctx = trace.ContextWithSpanContext(ctx, newSpanContext())
	return ctx, trace.SpanFromContext(ctx)
}

// Start begins a span inside the process. The caller ends it.
func (t *Tracing) Start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	if t.provider == nil {
		return ctx, trace.SpanFromContext(ctx)
	}
	return t.tracer.Start(ctx, name, o...)
}

// Inject writes the trace context of ctx into the headers of an outgoing
// request.
func (t *Tracing) Inject(ctx context.Context, h http.Header) {
	t.propagator.Inject(ctx, headerCarrier(h))
}

// Shutdown sends the spans that wait and ends the sending. It takes no longer
// than the context allows; what is not sent by then is lost.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("telemetry: the last spans could not be sent: %w", err)
	}
	return nil
}

// newSpanContext makes ids for a trace that is not recorded. They need not be
// secret, only different.
func newSpanContext() trace.SpanContext {
	var c trace.SpanContextConfig
	binary.NativeEndian.PutUint64(c.TraceID[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(c.TraceID[8:], rand.Uint64()|1) // all zero is no id
	binary.NativeEndian.PutUint64(c.SpanID[:], rand.Uint64()|1)
	return trace.NewSpanContext(c)
}

// headerCarrier reads and writes the two headers of W3C trace context without
// the cost of canonical names.
type headerCarrier http.Header

const (
	traceparentKey = "Traceparent"
	tracestateKey  = "Tracestate"
)

func (h headerCarrier) Get(key string) string {
	switch key {
	case "traceparent":
		// More than one is an error by the standard, and must be ignored.
		if v := h[traceparentKey]; len(v) == 1 {
			return v[0]
		}
		return ""
	case "tracestate":
		return strings.Join(h[tracestateKey], ",")
	}
	return http.Header(h).Get(key)
}

func (h headerCarrier) Set(key, value string) { http.Header(h).Set(key, value) }

func (h headerCarrier) Keys() []string {
	keys := make([]string, 0, len(h))
	for key := range h {
		keys = append(keys, key)
	}
	return keys
}

// reportingExporter tells the log and the metrics how the sending goes, once per
// change for the log: a collector that is down for an hour is one line.
type reportingExporter struct {
	sdktrace.SpanExporter
	endpoint string
	logger   *slog.Logger
	sent     prometheus.Counter
	lost     prometheus.Counter
	failing  atomic.Bool
}

func newReportingExporter(inner sdktrace.SpanExporter, o TracingOptions, endpoint string) *reportingExporter {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "millrace_trace_spans_total",
		Help: "Spans handed to the collector, by result: sent or lost.",
	}, []string{"result"})
	if o.Registerer != nil {
		o.Registerer.MustRegister(spans)
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &reportingExporter{
		SpanExporter: inner,
		endpoint:     endpoint,
		logger:       logger,
		sent:         spans.WithLabelValues("sent"),
		lost:         spans.WithLabelValues("lost"),
	}
}

// ExportSpans sends spans. An error ends here: the SDK would hand it to a global
// handler.
func (e *reportingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.lost.Add(float64(len(spans)))
		if !e.failing.Swap(true) && !errors.Is(err, context.Canceled) {
			e.logger.Warn("spans cannot be sent and are lost; check the collector and tracing.endpoint", "endpoint", e.endpoint, "error", err)
		}
		return nil
	}
	e.sent.Add(float64(len(spans)))
	if e.failing.Swap(false) {
		e.logger.Info("spans are sent again", "endpoint", e.endpoint)
	}
	return nil
}
