package limit

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the package refuses and shows how full its bounds are. One
// Metrics serves any number of limits, told apart by name; a name can be given
// to one Bytes and one Connections only. It is safe for concurrent use.
type Metrics struct {
	reg      prometheus.Registerer // nil when nobody looks
	refused  *prometheus.CounterVec
	degraded *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		reg: reg,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_limit_refusals_total",
			Help: "What a limit refused, by limit and kind (rate, quota, bytes, connections).",
		}, []string{"limit", "kind"}),
		degraded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_limit_degraded_decisions_total",
			Help: "Decisions of a shared limit that this instance made without the others, because their store did not answer.",
		}, []string{"limit"}),
	}
	if reg != nil {
		reg.MustRegister(m.refused, m.degraded)
	}
	return m
}

// limitMetrics are those of one Rates or Windows; degraded is nil if it is not shared.
type limitMetrics struct{ refused, degraded prometheus.Counter }

func (m *Metrics) forLimit(name, kind string, shared bool) *limitMetrics {
	lm := &limitMetrics{refused: m.refused.WithLabelValues(name, kind)}
	if shared {
		lm.degraded = m.degraded.WithLabelValues(name)
	}
	return lm
}

// count counts a decision that was made with what by knows; nil is all.
func (m *limitMetrics) count(allowed bool, by *Syncer) {
	if !allowed {
		m.refused.Inc()
	}
	if by != nil && by.Degraded() {
		m.degraded.Inc()
	}
}

// syncMetrics are those of the Syncer.
type syncMetrics struct {
	state               prometheus.Gauge
	seconds             prometheus.Histogram
	errors, exactErrors prometheus.Counter
}

func (m *Metrics) forSyncer(s *Syncer) *syncMetrics {
	sm := &syncMetrics{
		state: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_limit_shared_state",
			Help: "1 when limits are shared among the instances, 0 when this one applies its part of them alone.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "millrace_limit_sync_seconds",
			Help:    "Time of one exchange of a batch of keys with the store of shared limits.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_limit_sync_errors_total",
			Help: "Exchanges with the store of shared limits that failed.",
		}),
		exactErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_limit_exact_errors_total",
			Help: "Exact decisions that the store of shared limits did not make in time.",
		}),
	}
	if m.reg == nil {
		return sm
	}
	m.reg.MustRegister(sm.state, sm.seconds, sm.errors, sm.exactErrors,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_limit_sync_lag_seconds",
			Help: "Time since the store of shared limits last answered; -1 if it never has.",
		}, func() float64 {
			lag, ever := s.Lag()
			if !ever {
				return -1
			}
			return lag.Seconds()
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_limit_shared_instances",
			Help: "Instances that share the limits, as last heard.",
		}, func() float64 { return float64(s.Instances()) }))
	return sm
}

// forGauge shows a bound and what is used of it, and returns the counter of
// refusals.
func (m *Metrics) forGauge(name, kind string, bound int64, used func() int64) prometheus.Counter {
	if m.reg != nil {
		labels := prometheus.Labels{"limit": name}
		m.reg.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "millrace_limit_" + kind + "_in_use", Help: "What is in use of a limit on " + kind + ".", ConstLabels: labels,
			}, func() float64 { return float64(used()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "millrace_limit_" + kind + "_bound", Help: "The bound of a limit on " + kind + ".", ConstLabels: labels,
			}, func() float64 { return float64(bound) }),
		)
	}
	return m.refused.WithLabelValues(name, kind)
}
