package fulfilment

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count what became of webhooks.
type Metrics struct {
	attempts *prometheus.CounterVec
	seconds  prometheus.Histogram
	lag      prometheus.Histogram
	due      prometheus.Gauge
}

// The results of attempts, as the label "outcome" shows them.
const (
	resultDelivered   = "delivered"   // 2xx
	resultRefused     = "refused"     // another answer
	resultTimeout     = "timeout"     // no answer in time
	resultUnreachable = "unreachable" // no connection, or a broken one
	resultForbidden   = "forbidden"   // an address that must not be called
	resultGone        = "gone"        // 410
	resultOff         = "off"         // not tried: the endpoint is disabled or deleted
)

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		attempts: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_webhook_attempts_total",
			Help: "Attempts to deliver a webhook, by outcome."}, []string{"outcome"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_webhook_seconds",
			Help: "Duration of an attempt, from dialling to the end of the answer.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11)}),
		lag: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_webhook_lag_seconds",
			Help: "Time from the creation of a delivery to the begin of its first attempt.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 13)}),
		due: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_webhook_due",
			Help: "Deliveries that are due and not claimed, as of the last count."}),
	}
	for _, r := range []string{resultDelivered, resultRefused, resultTimeout, resultUnreachable, resultForbidden, resultGone, resultOff} {
		m.attempts.WithLabelValues(r)
	}
	return m
}
