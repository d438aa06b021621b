package wal

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the log's metrics. One instance serves one log.
type Metrics struct {
	appendedBytes   prometheus.Counter
	appendedRecords prometheus.Counter
	lostRecords     prometheus.Counter
	syncSeconds     prometheus.Histogram
	commitRecords   prometheus.Histogram
	commitBytes     prometheus.Histogram
	backlogBytes    prometheus.Gauge
	backlogMax      prometheus.Gauge
	queuedBytes     prometheus.Gauge
	segments        prometheus.Gauge
	spares          prometheus.Gauge
	diskFull        prometheus.Gauge
	failed          prometheus.Gauge
	slowRolls       prometheus.Counter

	refusedBacklog prometheus.Counter
	refusedDisk    prometheus.Counter
	refusedBusy    prometheus.Counter
	refusedFailed  prometheus.Counter
	refusedClosed  prometheus.Counter
	refusedLarge   prometheus.Counter
}

// NewMetrics makes the metrics and registers them with reg, unless it is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "millrace", Subsystem: "wal", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "millrace", Subsystem: "wal", Name: name, Help: help})
		all = append(all, g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "millrace", Subsystem: "wal", Name: name, Help: help, Buckets: buckets})
		all = append(all, h)
		return h
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "millrace", Subsystem: "wal", Name: "refused_total",
		Help: "Admissions and appends refused, by reason."}, []string{"reason"})
	all = append(all, refused)
	m := &Metrics{
		appendedBytes:   counter("appended_bytes_total", "Bytes made durable in the log, framing included."),
		appendedRecords: counter("appended_records_total", "Records made durable in the log."),
		lostRecords:     counter("unacknowledged_lost_records_total", "Records appended without waiting that did not become durable."),
		syncSeconds:     histogram("sync_seconds", "Time of one fdatasync of a frame.", prometheus.ExponentialBuckets(50e-6, 2, 16)),
		commitRecords:   histogram("commit_records", "Records in one commit.", prometheus.ExponentialBuckets(1, 2, 12)),
		commitBytes:     histogram("commit_bytes", "Bytes in one commit, framing included.", prometheus.ExponentialBuckets(512, 4, 8)),
		backlogBytes:    gauge("backlog_bytes", "Bytes appended and not yet released."),
		backlogMax:      gauge("backlog_max_bytes", "Bound of the backlog."),
		queuedBytes:     gauge("queued_bytes", "Bytes in memory that wait for their commit, as of the last commit."),
		segments:        gauge("segments", "Segment files that hold retained records."),
		spares:          gauge("spare_segments", "Segment files ready for use."),
		diskFull:        gauge("disk_full", "1 while appends are refused for lack of disk space."),
		failed:          gauge("failed", "1 once the log has failed."),
		slowRolls:       counter("unprepared_rolls_total", "Times a new segment had to be made while appends waited."),
		refusedBacklog:  refused.WithLabelValues("backlog-full"),
		refusedDisk:     refused.WithLabelValues("disk-full"),
		refusedBusy:     refused.WithLabelValues("busy"),
		refusedFailed:   refused.WithLabelValues("failed"),
		refusedClosed:   refused.WithLabelValues("closed"),
		refusedLarge:    refused.WithLabelValues("too-large"),
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}
