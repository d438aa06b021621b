package httpapi

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what the edge counts. Make it once per registry.
type Metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	streams   prometheus.Gauge
	panics    prometheus.Counter
	bodyBytes *prometheus.CounterVec
	certUntil prometheus.Gauge
	certFails prometheus.Counter

	variantBytes prometheus.Gauge
	variantsMade *prometheus.CounterVec
	stale        *prometheus.CounterVec
}

// NewMetrics registers the edge's metrics; with a nil registerer they count for
// nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_http_requests_total",
			Help: "Requests answered, by route, method and status."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_http_request_seconds",
			Help:    "Time from the request's header to the end of its answer, by route.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 10}}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_http_requests_in_flight",
			Help: "Requests that are being answered now, open tails included."}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_http_tails",
			Help: "Live tails that are open now."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_http_panics_total",
			Help: "Requests whose handler panicked."}),
		bodyBytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_http_body_bytes_total",
			Help: "Bytes of event bodies after decompression, by Content-Encoding."}, []string{"encoding"}),
		certUntil: prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_http_tls_certificate_not_after_seconds",
			Help: "When the served certificate ends, in seconds since the Unix epoch; 0 without TLS."}),
		certFails: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_http_tls_reload_failures_total",
			Help: "Times a changed certificate could not be loaded; the old one is served on."}),
		variantBytes: prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_http_variant_bytes",
			Help: "Memory of compressed and translated products and places, when the last one was made."}),
		variantsMade: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_http_variants_made_total",
			Help: "Compressed and translated products and places that were made, by kind. Those in use are made once."}, []string{"kind"}),
		stale: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_http_stale_answers_total",
			Help: "Answers that may be out of date and say so in Cache-Status, by route."}, []string{"route"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.inFlight, m.streams, m.panics, m.bodyBytes, m.certUntil, m.certFails,
			m.variantBytes, m.variantsMade, m.stale)
	}
	return m
}

// route is one entry of the mux and its counters.
type route struct {
	method, path string
	pattern      string // method and path, as the mux knows it
	quiet        bool   // answers that went well are logged at Debug

	seconds prometheus.Observer
	// counters holds the counter of each status that was answered with the
	// route's own method, so that counting takes no look-up by label.
	counters [500]atomic.Pointer[prometheus.Counter]
}

func newRoute(m *Metrics, method, path string) *route {
	pattern := path
	if method != "" {
		pattern = method + " " + path
	}
	return &route{method: method, path: path, pattern: pattern, seconds: m.seconds.WithLabelValues(path)}
}

func (rt *route) observe(m *Metrics, method string, status int, d time.Duration) {
	rt.seconds.Observe(d.Seconds())
	if method != rt.method || status < 100 || status > 599 {
		m.requests.WithLabelValues(rt.path, knownMethod(method), strconv.Itoa(status)).Inc()
		return
	}
	slot := &rt.counters[status-100]
	c := slot.Load()
	if c == nil {
		made := m.requests.WithLabelValues(rt.path, method, strconv.Itoa(status))
		c = &made
		slot.Store(c)
	}
	(*c).Inc()
}

// knownMethod keeps a caller from inventing label values.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

// lineBudget lets a bounded number of log lines a second pass.
type lineBudget struct {
	perSecond int

	mu         sync.Mutex
	second     int64
	used       int
	suppressed int
}

// take says whether a line may be written, and how many were not since the last
// one that was.
func (b *lineBudget) take(now time.Time) (suppressed int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sec := now.Unix(); sec != b.second {
		b.second, b.used = sec, 0
	}
	if b.used >= b.perSecond {
		b.suppressed++
		return 0, false
	}
	b.used++
	suppressed, b.suppressed = b.suppressed, 0
	return suppressed, true
}
