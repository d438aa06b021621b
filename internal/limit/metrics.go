package limit

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the package refuses and shows how full its bounds are. One
// Metrics serves any number of limits, told apart by name; a name can be given
// to one Bytes and one Connections only. It is safe for concurrent use.
type Metrics struct {
	reg     prometheus.Registerer // nil when nobody looks
	refused *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		reg: reg,
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_limit_refusals_total",
			Help: "What a limit refused, by limit and kind (rate, bytes, connections).",
		}, []string{"limit", "kind"}),
	}
	if reg != nil {
		reg.MustRegister(m.refused)
	}
	return m
}

type rateMetrics struct{ refused prometheus.Counter }

func (m *Metrics) forRates(name string) *rateMetrics {
	return &rateMetrics{refused: m.refused.WithLabelValues(name, "rate")}
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
