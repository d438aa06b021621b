package follow

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics tell how up to date indexes are. One instance serves all followers of a
// process.
type Metrics struct {
	lagSeconds  *prometheus.HistogramVec
	polls       *prometheus.CounterVec
	healed      *prometheus.CounterVec
	failedRows  *prometheus.GaugeVec
	broadcasts  *prometheus.CounterVec
	loaded      *prometheus.GaugeVec
	loadSeconds *prometheus.GaugeVec
	stale       *staleness
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	index := []string{"index"}
	m := &Metrics{
		lagSeconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_index_lag_seconds",
			Help:    "Time from a write, on any instance, until it was applied to this instance's index, each written row once.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}}, index),
		polls: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_index_polls_total",
			Help: "Polls of the numbers of changes: ok, failed, or back if the database is not the one it was and the index is loaded again."}, []string{"index", "result"}),
		healed: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_index_healed_total",
			Help: "Changed rows that only a poll found, because no broadcast told of them."}, index),
		failedRows: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_index_failed_rows",
			Help: "Rows that the index lacks, because it could not take them, which is tried again, or because they cannot be read until they are put again; the log tells of them."}, index),
		broadcasts: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_index_broadcasts_total",
			Help: "Messages between instances that tell of changes: sent, failed, received from others, ignored because they could not be read."}, []string{"index", "result"}),
		loaded: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_index_loaded",
			Help: "1 once the index is loaded."}, index),
		loadSeconds: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_index_load_seconds",
			Help: "How long the last load of the index took."}, index),
		stale: &staleness{of: map[string]func() time.Duration{},
			desc: prometheus.NewDesc("millrace_index_stale_seconds", "How long ago the index was last known to be complete; 0 while all is well.", index, nil)},
	}
	if reg != nil {
		reg.MustRegister(m.stale)
	}
	return m
}

// staleness is a gauge that is asked for when it is read: it must grow while
// nothing happens.
type staleness struct {
	desc *prometheus.Desc
	mu   sync.Mutex // guards of
	of   map[string]func() time.Duration
}

func (s *staleness) watch(index string, since func() time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[index] = since
}

// Describe is prometheus.Collector's.
func (s *staleness) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

// Collect is prometheus.Collector's.
func (s *staleness) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for index, since := range s.of {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, since().Seconds(), index)
	}
}

// followerMetrics are the metrics of one index.
type followerMetrics struct {
	lagSeconds                      prometheus.Observer
	pollsOK, pollsFailed, pollsBack prometheus.Counter
	healed                          prometheus.Counter
	sent, unsent, received, ignored prometheus.Counter
	failedRows, loaded, loadSeconds prometheus.Gauge
}

func (m *Metrics) of(index string) followerMetrics {
	return followerMetrics{
		lagSeconds:  m.lagSeconds.WithLabelValues(index),
		pollsOK:     m.polls.WithLabelValues(index, "ok"),
		pollsFailed: m.polls.WithLabelValues(index, "failed"),
		pollsBack:   m.polls.WithLabelValues(index, "back"),
		healed:      m.healed.WithLabelValues(index),
		sent:        m.broadcasts.WithLabelValues(index, "sent"),
		unsent:      m.broadcasts.WithLabelValues(index, "failed"),
		received:    m.broadcasts.WithLabelValues(index, "received"),
		ignored:     m.broadcasts.WithLabelValues(index, "ignored"),
		failedRows:  m.failedRows.WithLabelValues(index),
		loaded:      m.loaded.WithLabelValues(index),
		loadSeconds: m.loadSeconds.WithLabelValues(index),
	}
}
