package cache

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what caches do, told apart by name. It is safe for concurrent use.
type Metrics struct {
	reg           prometheus.Registerer // nil when nobody looks
	requests      *prometheus.CounterVec
	loads         *prometheus.CounterVec
	loadSeconds   *prometheus.HistogramVec
	evictions     *prometheus.CounterVec
	remoteErrors  *prometheus.CounterVec
	invalidations *prometheus.CounterVec
	broadcasts    *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_cache_" + name, Help: help}, append([]string{"cache"}, labels...))
	}
	m := &Metrics{
		reg:           reg,
		requests:      counter("requests_total", "Reads, by what answered them: ram, remote, load, stale (over its time, because the load failed or is slow), negative (it is known that there is nothing) or error.", "result"),
		loads:         counter("loads_total", "Loads, by how they ended: ok, not_found, outdated, timeout, abandoned (nobody waited any more), panic or error.", "result"),
		evictions:     counter("evictions_total", "Entries that were removed from RAM because its bound was reached."),
		remoteErrors:  counter("remote_errors_total", "Calls of the second level that failed, by operation; decode is an entry that could not be read.", "op"),
		invalidations: counter("invalidations_total", "Keys and tags that were invalidated, by this instance (own) or another (peer).", "source"),
		broadcasts:    counter("broadcasts_total", "Messages to and from the other instances: sent, failed, received, unreadable. Dropped counts changes that were given up for one message that everything has changed.", "result"),
		loadSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "millrace_cache_load_seconds",
			Help:    "Time of one load.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"cache"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.loads, m.loadSeconds, m.evictions, m.remoteErrors, m.invalidations, m.broadcasts)
	}
	return m
}

// cacheMetrics are those of one cache.
type cacheMetrics struct {
	ram, remote, load, stale, negative, failed prometheus.Counter
	own, peer                                  prometheus.Counter
	sent, unsent, dropped, received, garbled   prometheus.Counter
	evictions                                  prometheus.Counter
	loadSeconds                                prometheus.Observer
	loads, remoteErrors                        *prometheus.CounterVec // by result, by op

	reg    prometheus.Registerer
	gauges []prometheus.Collector
}

func (m *Metrics) forCache(name string) *cacheMetrics {
	labels := prometheus.Labels{"cache": name}
	request := func(result string) prometheus.Counter { return m.requests.WithLabelValues(name, result) }
	broadcast := func(result string) prometheus.Counter { return m.broadcasts.WithLabelValues(name, result) }
	return &cacheMetrics{
		ram: request("ram"), remote: request("remote"), load: request("load"), stale: request("stale"), negative: request("negative"), failed: request("error"),
		own: m.invalidations.WithLabelValues(name, "own"), peer: m.invalidations.WithLabelValues(name, "peer"),
		sent: broadcast("sent"), unsent: broadcast("failed"), dropped: broadcast("dropped"), received: broadcast("received"), garbled: broadcast("unreadable"),
		evictions: m.evictions.WithLabelValues(name), loadSeconds: m.loadSeconds.WithLabelValues(name),
		loads: m.loads.MustCurryWith(labels), remoteErrors: m.remoteErrors.MustCurryWith(labels),
		reg: m.reg,
	}
}

// gauge shows a number whenever somebody looks, until close.
func (m *cacheMetrics) gauge(cache, name, help string, labels prometheus.Labels, value func() float64) error {
	if m.reg == nil {
		return nil
	}
	all := prometheus.Labels{"cache": cache}
	for k, v := range labels {
		all[k] = v
	}
	g := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "millrace_cache_" + name, Help: help, ConstLabels: all}, value)
	if err := m.reg.Register(g); err != nil {
		return fmt.Errorf("cache %s: its metrics cannot be registered; is there another cache of that name?: %w", cache, err)
	}
	m.gauges = append(m.gauges, g)
	return nil
}

func (m *cacheMetrics) close() {
	for _, g := range m.gauges {
		m.reg.Unregister(g)
	}
}
