package postgres

import (
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers of the store on PostgreSQL. Make them with NewMetrics.
type Metrics struct {
	seconds    *prometheus.HistogramVec
	failures   *prometheus.CounterVec
	reads      *prometheus.CounterVec
	replicaLag prometheus.Gauge
	pools      *poolCollector
}

// NewMetrics registers the store's metrics. A nil registerer is fine: then nothing
// collects them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_store_postgres_seconds", Help: "Duration of one operation of the store, by operation.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18)}, []string{"operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_store_postgres_failures_total", Help: "Operations of the store that failed, by operation and reason."},
			[]string{"operation", "reason"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_store_reads_total", Help: "Reads that a replica may answer, by what answered them."}, []string{"target"}),
		replicaLag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_replica_lag_seconds", Help: "How old the replica was when it was looked at last, -1 if that is not known."}),
		pools: newPoolCollector(),
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.failures, m.reads, m.replicaLag, m.pools)
	}
	return m
}

// timed observes an operation from now to the call of what it returns, and counts
// it as failed if err then points to an error: defer m.timed("place", &err)().
func (m *Metrics) timed(operation string, err *error) func() {
	begin := time.Now()
	return func() {
		m.seconds.WithLabelValues(operation).Observe(time.Since(begin).Seconds())
		if err != nil && *err != nil {
			m.failures.WithLabelValues(operation, reason(*err)).Inc()
		}
	}
}

// poolCollector reads the pools' own numbers whenever they are asked for.
type poolCollector struct {
	pools atomic.Pointer[map[string]*pgxpool.Pool] // by name; nil before the store is open

	acquired, idle, max, waits, waitSeconds, opened *prometheus.Desc
}

func newPoolCollector() *poolCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("millrace_postgres_pool_"+name, help, []string{"pool"}, nil)
	}
	return &poolCollector{
		acquired:    desc("acquired_connections", "Connections in use."),
		idle:        desc("idle_connections", "Connections that wait to be used."),
		max:         desc("max_connections", "Connections the pool may have."),
		waits:       desc("waits_total", "Times a connection had to be waited for."),
		waitSeconds: desc("wait_seconds_total", "Time spent on waiting for connections."),
		opened:      desc("opened_connections_total", "Connections opened."),
	}
}

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.acquired, c.idle, c.max, c.waits, c.waitSeconds, c.opened} {
		ch <- d
	}
}

// watch names the pools whose numbers are shown.
func (c *poolCollector) watch(pools map[string]*pgxpool.Pool) { c.pools.Store(&pools) }

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	pools := c.pools.Load()
	if pools == nil {
		return
	}
	for name, p := range *pools {
		s := p.Stat()
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
		}
		counter := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, name)
		}
		gauge(c.acquired, float64(s.AcquiredConns()))
		gauge(c.idle, float64(s.IdleConns()))
		gauge(c.max, float64(s.MaxConns()))
		counter(c.waits, float64(s.EmptyAcquireCount()))
		counter(c.waitSeconds, s.EmptyAcquireWaitTime().Seconds())
		counter(c.opened, float64(s.NewConnsCount()))
	}
}
