package sqlite

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers of the embedded store. Make them with NewMetrics.
type Metrics struct {
	appendSeconds  prometheus.Histogram
	appendFailures *prometheus.CounterVec
	rows           prometheus.Counter
	querySeconds   *prometheus.HistogramVec
	dayFiles       prometheus.Gauge
	walBytes       prometheus.Gauge
	writeSeconds   prometheus.Histogram
	commitSeconds  prometheus.Histogram
	writeParts     prometheus.Histogram
}

// NewMetrics registers the store's metrics. A nil registerer is fine: then
// nothing collects them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_store_append_seconds", Help: "Duration of one append of events, commit included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		appendFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_store_append_failures_total", Help: "Appends of events that failed, by reason."}, []string{"reason"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_store_rows_total", Help: "Events inserted."}),
		querySeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_store_query_seconds", Help: "Duration of a query of events, by query.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10)}, []string{"query"}),
		dayFiles: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_store_event_files", Help: "Day files of events."}),
		walBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_store_sqlite_wal_bytes", Help: "Size of the SQLite WAL of the day file being written."}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_store_write_seconds", Help: "Duration of one transaction of orders and the outbox, commit included.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_store_commit_seconds", Help: "Duration of its commit, which syncs the disk.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		writeParts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_store_write_parts", Help: "Pieces of work that shared one transaction of orders and the outbox.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 7)}),
	}
	if reg != nil {
		reg.MustRegister(m.appendSeconds, m.appendFailures, m.rows, m.querySeconds, m.dayFiles, m.walBytes,
			m.writeSeconds, m.commitSeconds, m.writeParts)
	}
	return m
}

// timed observes the duration of a query: defer m.timed("events")().
func (m *Metrics) timed(query string) func() {
	begin := time.Now()
	return func() { m.querySeconds.WithLabelValues(query).Observe(time.Since(begin).Seconds()) }
}
