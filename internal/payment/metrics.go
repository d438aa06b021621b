package payment

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics say how the provider does, as a Guard sees it.
type Metrics struct {
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	breaker  prometheus.Gauge
	inFlight prometheus.Gauge
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		calls: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_payment_calls_total",
			Help: "Guarded calls to the payment provider, retries within a call not counted, by operation and outcome (ok, declined, rejected, unavailable: nothing was sent, unknown, canceled: the caller left)."},
			[]string{"op", "outcome"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_payment_seconds",
			Help:    "Duration of a guarded call, with waiting and retries.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"op"}),
		retries: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_payment_retries_total",
			Help: "Retries after an error that is safe to retry: sent, or denied because the budget was spent."}, []string{"result"}),
		breaker: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_payment_breaker_state",
			Help: "State of the circuit breaker: 0 closed, 1 half-open, 2 open."}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_payment_bulkhead_in_use",
			Help: "Calls that hold a place of the bulkhead."}),
	}
}

func (m *Metrics) called(op, outcome string, took time.Duration) {
	m.calls.WithLabelValues(op, outcome).Inc()
	m.seconds.WithLabelValues(op).Observe(took.Seconds())
}
