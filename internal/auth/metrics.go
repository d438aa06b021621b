package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the package does. It is safe for concurrent use.
type Metrics struct {
	hits, misses          prometheus.Counter
	refusals              *prometheus.CounterVec
	unavailable           prometheus.Counter
	fetchesOK, fetchesBad prometheus.Counter
	lastFetch             prometheus.Gauge
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "millrace_auth_lookups_total",
		Help: "Credentials that were looked up in the cache of verdicts, by result: hit or miss.",
	}, []string{"result"})
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "millrace_auth_keyset_fetches_total",
		Help: "Fetches of the outside issuer's key set, by result: ok or error.",
	}, []string{"result"})
	m := &Metrics{
		hits:   lookups.WithLabelValues("hit"),
		misses: lookups.WithLabelValues("miss"),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_auth_refusals_total",
			Help: "Credentials that were refused, by error code.",
		}, []string{"code"}),
		unavailable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_auth_unavailable_total",
			Help: "Credentials that could not be judged because the key store or the issuer did not answer.",
		}),
		fetchesOK:  fetches.WithLabelValues("ok"),
		fetchesBad: fetches.WithLabelValues("error"),
		lastFetch: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_auth_keyset_last_success_timestamp_seconds",
			Help: "When the outside issuer's key set was last fetched, in Unix seconds; 0 if never.",
		}),
	}
	if reg != nil {
		reg.MustRegister(lookups, fetches, m.refusals, m.unavailable, m.lastFetch)
	}
	return m
}

func (m *Metrics) fetched(err error) {
	if err != nil {
		m.fetchesBad.Inc()
		return
	}
	m.fetchesOK.Inc()
	m.lastFetch.SetToCurrentTime()
}

// refused counts an answer that is not a principal.
func (m *Metrics) refused(err error) {
	var e *Error
	if errors.As(err, &e) {
		m.refusals.WithLabelValues(e.Code).Inc()
		return
	}
	m.unavailable.Inc()
}
