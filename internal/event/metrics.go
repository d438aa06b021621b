package event

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"millrace/internal/event/dedupe"
)

// IngestMetrics count what an Ingester did.
type IngestMetrics struct {
	accepted   prometheus.Counter
	duplicates prometheus.Counter
	rejected   prometheus.Counter
	malformed  prometheus.Counter
	own        prometheus.Counter
	refusals   *prometheus.CounterVec
}

// NewIngestMetrics registers the metrics with reg; nil leaves them unregistered.
func NewIngestMetrics(reg prometheus.Registerer) *IngestMetrics {
	f := promauto.With(reg)
	return &IngestMetrics{
		accepted: f.NewCounter(prometheus.CounterOpts{Name: "millrace_events_accepted_total",
			Help: "Events answered as accepted, without duplicates."}),
		duplicates: f.NewCounter(prometheus.CounterOpts{Name: "millrace_dedupe_duplicates_total",
			Help: "Events answered as accepted because they were there already."}),
		rejected: f.NewCounter(prometheus.CounterOpts{Name: "millrace_events_rejected_total",
			Help: "Events of accepted batches that became dead letters."}),
		malformed: f.NewCounter(prometheus.CounterOpts{Name: "millrace_events_malformed_bodies_total",
			Help: "Bodies in which no events could be found and that became dead letters."}),
		own: f.NewCounter(prometheus.CounterOpts{Name: "millrace_events_own_total",
			Help: "Events of Millrace's own making written to the log, repeats included."}),
		refusals: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_events_refused_total",
			Help: "Submissions refused because they could not be taken then, by reason."}, []string{"reason"}),
	}
}

func (m *IngestMetrics) refused(reason string) { m.refusals.WithLabelValues(reason).Inc() }

// RegisterWindowMetrics exposes the state of a dedupe window.
func RegisterWindowMetrics(reg prometheus.Registerer, w *dedupe.Window) {
	gauge := func(name, help string, value func(dedupe.Stats) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return value(w.Stats()) }))
	}
	gauge("millrace_dedupe_entries", "Hashes in the dedupe window.",
		func(s dedupe.Stats) float64 { return float64(s.Hashes) })
	gauge("millrace_dedupe_capacity", "Hashes the dedupe window has memory for.",
		func(s dedupe.Stats) float64 { return float64(s.Capacity) })
	gauge("millrace_dedupe_bytes", "Memory set aside for the dedupe window.",
		func(s dedupe.Stats) float64 { return float64(s.Bytes) })
	gauge("millrace_dedupe_reach_seconds", "How far back the dedupe window remembers.",
		func(s dedupe.Stats) float64 { return s.Reach.Seconds() })
	gauge("millrace_dedupe_overflowed", "Hashes that found no room in the index and are not remembered.",
		func(s dedupe.Stats) float64 { return float64(s.Overflowed) })
}

// SinkMetrics count what a Sink did.
type SinkMetrics struct {
	rows         prometheus.Counter
	inserted     prometheus.Counter
	flushSeconds prometheus.Histogram
	flushRows    prometheus.Histogram
	lagSeconds   prometheus.Histogram
	failures     prometheus.Counter
	failing      prometheus.Gauge
	deadLetters  *prometheus.CounterVec
	position     prometheus.Gauge
}

// Shared returns metrics for one of several sinks of an instance: the same but for
// the position, which would be told by all of them at once.
func (m *SinkMetrics) Shared() *SinkMetrics {
	shared := *m
	shared.position = prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_sink_position"})
	return &shared
}

// NewSinkMetrics registers the metrics with reg; nil leaves them unregistered.
func NewSinkMetrics(reg prometheus.Registerer) *SinkMetrics {
	f := promauto.With(reg)
	return &SinkMetrics{
		rows: f.NewCounter(prometheus.CounterOpts{Name: "millrace_sink_rows_total",
			Help: "Events brought from the log to the store."}),
		inserted: f.NewCounter(prometheus.CounterOpts{Name: "millrace_sink_inserted_total",
			Help: "Events the store inserted: without those that exact deduplication found there already."}),
		flushSeconds: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_sink_flush_seconds",
			Help: "Duration of one commit of the store.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		flushRows: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_sink_flush_rows",
			Help: "Events in one commit of the store.", Buckets: prometheus.ExponentialBuckets(1, 4, 9)}),
		lagSeconds: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_sink_lag_seconds",
			Help:    "Time from receipt to queryable, one observation per frame of the log.",
			Buckets: []float64{.005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300}}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "millrace_sink_failures_total",
			Help: "Commits of the store that failed and are tried again."}),
		failing: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_sink_failing",
			Help: "Sinks of this instance whose last commit has failed."}),
		deadLetters: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_dead_letters_total",
			Help: "Dead letters written, by kind."}, []string{"kind"}),
		position: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_sink_position",
			Help: "Sequence of the first log record that is not in the store."}),
	}
}
