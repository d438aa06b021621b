package kafka

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count what a Bus did. One instance serves one Bus. What means the same
// with every broker has the same name.
type Metrics struct {
	published    prometheus.Counter
	delivered    *prometheus.CounterVec
	redelivered  *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	deadLettered *prometheus.CounterVec
	dropped      prometheus.Counter
	connected    prometheus.Gauge
	postponed    *prometheus.CounterVec
	overdue      *prometheus.CounterVec
	waiting      *prometheus.GaugeVec
	partitions   *prometheus.GaugeVec
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
		dropped: f.NewCounter(prometheus.CounterOpts{Name: "millrace_bus_broadcasts_dropped_total",
			Help: "Broadcasts a listener did not take in time, or the broker did not take."}),
		connected: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_bus_connected",
			Help: "1 while there is a connection to the broker."}),
		postponed: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_postponed_total",
			Help: "Messages put into a group's retry topic for another attempt."}, group),
		overdue: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_bus_overdue_total",
			Help: "Messages that a group's handler did not answer for in time."}, group),
		waiting: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_bus_waiting",
			Help: "Messages of a group in this process that wait for the time of their next attempt."}, group),
		partitions: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_bus_partitions",
			Help: "Partitions that a group reads in this process."}, group),
	}
}

// groupMetrics are the metrics of one group.
type groupMetrics struct {
	delivered, redelivered, deadLettered, postponed, overdue prometheus.Counter
	seconds                                                  prometheus.Observer
	waiting, partitions                                      prometheus.Gauge
}

func (m *Metrics) of(group string) groupMetrics {
	return groupMetrics{
		delivered:    m.delivered.WithLabelValues(group),
		redelivered:  m.redelivered.WithLabelValues(group),
		deadLettered: m.deadLettered.WithLabelValues(group),
		postponed:    m.postponed.WithLabelValues(group),
		overdue:      m.overdue.WithLabelValues(group),
		seconds:      m.seconds.WithLabelValues(group),
		waiting:      m.waiting.WithLabelValues(group),
		partitions:   m.partitions.WithLabelValues(group),
	}
}
