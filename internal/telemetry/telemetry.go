// Package telemetry sets up what operators look at: structured logs (slog),
// metrics (Prometheus) and traces (OpenTelemetry), and serves the admin pages.
//
// Nothing here is global. The composition root makes one of each and hands them
// to the components: a *slog.Logger, a prometheus.Registerer, a *Tracing. Logs
// and traces meet in the context: WithRequestID and Tracing.Start put ids into
// it, and the logger adds them to every line written with that context.
//
// Concurrency. Everything is safe for concurrent use after its constructor.
//
// Lifecycle. Only Tracing with an endpoint owns a goroutine, which sends spans
// in batches; Shutdown sends the rest and ends it.
package telemetry

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

type requestIDKey struct{}

// WithRequestID returns a context that carries a request id. The logger adds it
// to every line.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the request id of a context, empty if it has none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRegistry returns a Prometheus registry with the metrics of the Go runtime,
// of the process, and millrace_build_info, which carries the version.
func NewRegistry(version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "millrace_build_info",
		Help:        "Always 1; its labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision(), "goversion": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(
		build,
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
			collectors.MetricsGC, collectors.MetricsMemory, collectors.MetricsScheduler,
		)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return reg
}

// revision returns the commit the binary was built from, as far as it is known.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
