package telemetry

import (
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	metricsTimeout     = 10 * time.Second
	maxMetricsInFlight = 4
	adminIndex         = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Millrace admin</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}</style></head>
<body><h1>Millrace admin</h1><ul>
<li><a href="/metrics">/metrics</a>: Prometheus metrics</li>
<li><a href="/debug/pprof/">/debug/pprof/</a>: profiles</li>
<li><a href="/livez">/livez</a>: whether the process answers</li>
</ul></body></html>
`
)

// AdminOptions configures the admin pages.
type AdminOptions struct {
	// Gatherer has the metrics to show. Required.
	Gatherer prometheus.Gatherer
	// Logger hears of metrics that cannot be gathered. Nil means silence.
	Logger *slog.Logger
}

// NewAdminHandler returns the pages of the admin listener: /metrics,
// /debug/pprof/ and /livez. They ask nobody who he is and show what only
// operators should see, so the listener belongs on a private address. A profile
// takes as long as its "seconds" parameter says: the server must not cut writes
// short.
func NewAdminHandler(o AdminOptions) http.Handler {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError, // one bad collector must not hide the others
		MaxRequestsInFlight: maxMetricsInFlight,
		Timeout:             metricsTimeout,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write([]byte(adminIndex))
	})
	return mux
}
