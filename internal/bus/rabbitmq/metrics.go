package rabbitmq

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count what a Bus did. One instance serves one Bus. Names that other
// drivers have too mean the same there.
type Metrics struct {
	published     prometheus.Counter
	delivered     *prometheus.CounterVec
	redelivered   *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	deadLettered  *prometheus.CounterVec
	droppedGroup  *prometheus.CounterVec
	dropped       prometheus.Counter
	connected     prometheus.Gauge
	blocked       prometheus.Gauge
	reconnections prometheus.Counter
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	group := []string{"group"}
	return &Metrics{
		published: f.NewCounter(prometheus.CounterOpts{Name: "millrace_bus_published_total",
			Help: "Messages the broker has taken."}),
		delivered: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_delivered_total",
			Help: "Messages handed to a group's handler."}, group),
		redelivered: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_redelivered_total",
			Help: "Messages handed to a group's handler that had been delivered before."}, group),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_bus_handler_seconds",
			Help: "Duration of a group's handler.", Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 13)}, group),
		deadLettered: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_dead_lettered_total",
			Help: "Messages a group gave up and handed to its dead letters."}, group),
		droppedGroup: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_dropped_total",
			Help: "Messages the broker dropped from a group's queue, by its reason: maxlen, expired, delivery_limit or rejected."},
			[]string{"group", "reason"}),
		dropped: f.NewCounter(prometheus.CounterOpts{Name: "millrace_bus_broadcasts_dropped_total",
			Help: "Broadcasts a listener did not take in time."}),
		connected: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_bus_connected",
			Help: "1 while there is a connection to the broker."}),
		blocked: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_bus_blocked",
			Help: "1 while the broker takes no messages because it is low on memory or disk."}),
		reconnections: f.NewCounter(prometheus.CounterOpts{Name: "millrace_bus_reconnections_total",
			Help: "Connections to the broker that were made again after a loss."}),
	}
}

// groupMetrics are the metrics of one group.
type groupMetrics struct {
	delivered, redelivered, deadLettered prometheus.Counter
	seconds                              prometheus.Observer
}

func (m *Metrics) of(group string) groupMetrics {
	return groupMetrics{
		delivered:    m.delivered.WithLabelValues(group),
		redelivered:  m.redelivered.WithLabelValues(group),
		deadLettered: m.deadLettered.WithLabelValues(group),
		seconds:      m.seconds.WithLabelValues(group),
	}
}
