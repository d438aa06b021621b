package stream

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics tell what Publisher and Assigner do. One instance serves both.
type Metrics struct {
	publishSeconds  prometheus.Histogram
	packRecords     prometheus.Histogram
	packBytes       prometheus.Histogram
	messageBytes    prometheus.Counter
	inflightBytes   prometheus.Gauge
	refused         *prometheus.CounterVec
	failures        *prometheus.CounterVec
	owned           prometheus.Gauge
	stopped         prometheus.Counter
	backlogMessages *prometheus.GaugeVec
	backlogBytes    *prometheus.GaugeVec
	trimFailures    prometheus.Counter
	lostMessages    prometheus.Counter
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		publishSeconds: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_stream_publish_seconds",
			Help: "Time from a message's first sending to the stream's acknowledgement.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}),
		packRecords: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_stream_pack_records",
			Help: "Submissions that shared one message.", Buckets: prometheus.ExponentialBuckets(1, 2, 12)}),
		packBytes: f.NewHistogram(prometheus.HistogramOpts{Name: "millrace_stream_pack_bytes",
			Help: "Bytes of the submissions in one message, before compression.", Buckets: prometheus.ExponentialBuckets(512, 4, 9)}),
		messageBytes: f.NewCounter(prometheus.CounterOpts{Name: "millrace_stream_message_bytes_total",
			Help: "Bytes of the messages sent to the stream, repeats not counted."}),
		inflightBytes: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_stream_inflight_bytes",
			Help: "Bytes of submissions that the stream has not acknowledged."}),
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_stream_refused_total",
			Help: "Admissions and appends refused, by reason."}, []string{"reason"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{Name: "millrace_stream_publish_failures_total",
			Help: "Tries of a message that failed, by reason; unknown is of a message that was given up undecided."}, []string{"reason"}),
		owned: f.NewGauge(prometheus.GaugeOpts{Name: "millrace_stream_partitions_owned",
			Help: "Partitions that this instance brings into the store."}),
		stopped: f.NewCounter(prometheus.CounterOpts{Name: "millrace_stream_partition_failures_total",
			Help: "Times a partition's sink ended by a failure and was given up."}),
		backlogMessages: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_stream_backlog_messages",
			Help: "Messages of a partition that are not in the store, told by its owner."}, []string{"partition"}),
		backlogBytes: f.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_stream_backlog_bytes",
			Help: "Bytes of a partition that are not trimmed, told by its owner; what is in the store stays for about two minutes."}, []string{"partition"}),
		trimFailures: f.NewCounter(prometheus.CounterOpts{Name: "millrace_stream_trim_failures_total",
			Help: "Times a partition could not be trimmed; it is tried again."}),
		lostMessages: f.NewCounter(prometheus.CounterOpts{Name: "millrace_stream_lost_messages_total",
			Help: "Messages that were missing in a partition and passed over because the operator allowed it."}),
	}
}

// backlog tells how far the sink of a partition is behind.
func (m *Metrics) backlog(partition int, messages uint64, bytes int64) {
	label := strconv.Itoa(partition)
	m.backlogMessages.WithLabelValues(label).Set(float64(messages))
	m.backlogBytes.WithLabelValues(label).Set(float64(bytes))
}

// forget leaves it to the next owner to tell.
func (m *Metrics) forget(partition int) {
	label := strconv.Itoa(partition)
	m.backlogMessages.DeleteLabelValues(label)
	m.backlogBytes.DeleteLabelValues(label)
}
