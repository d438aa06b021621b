package outbox

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count what relays did. One instance serves the relays of all lanes.
type Metrics struct {
	lagSeconds *prometheus.HistogramVec
	rows       *prometheus.GaugeVec
	oldest     *prometheus.GaugeVec
	handed     *prometheus.CounterVec
	failures   *prometheus.CounterVec
	condemned  *prometheus.CounterVec
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	lane := []string{"lane"}
	return &Metrics{
		lagSeconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_outbox_lag_seconds",
			Help:    "Age of a row when it had been handed over.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}}, lane),
		rows: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_outbox_rows",
			Help: "Rows in the outbox, counted up to 100,000."}, lane),
		oldest: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_outbox_oldest_seconds",
			Help: "Age of the oldest row in the outbox, 0 if there is none."}, lane),
		handed: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_outbox_handed_total",
			Help: "Rows handed over."}, lane),
		failures: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_outbox_failures_total",
			Help: "Attempts to read, hand over or remove rows that failed and are made again."}, lane),
		condemned: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_outbox_condemned_total",
			Help: "Rows that can never be handed over and were set aside."}, lane),
	}
}

// laneMetrics are the metrics of one lane.
type laneMetrics struct {
	lagSeconds                  prometheus.Observer
	rows, oldest                prometheus.Gauge
	handed, failures, condemned prometheus.Counter
}

func (m *Metrics) of(lane Lane) laneMetrics {
	l := string(lane)
	return laneMetrics{
		lagSeconds: m.lagSeconds.WithLabelValues(l),
		rows:       m.rows.WithLabelValues(l),
		oldest:     m.oldest.WithLabelValues(l),
		handed:     m.handed.WithLabelValues(l),
		failures:   m.failures.WithLabelValues(l),
		condemned:  m.condemned.WithLabelValues(l),
	}
}
