package memindex

import "github.com/prometheus/client_golang/prometheus"

// Metrics shows how large tables are. One Metrics serves any number of tables. It is
// safe for concurrent use.
type Metrics struct {
	reg prometheus.Registerer // nil when nobody looks
}

// NewMetrics makes the metrics; nothing is registered before Watch.
func NewMetrics(reg prometheus.Registerer) *Metrics { return &Metrics{reg: reg} }

// Watch shows a table's size under a name, which can be given once.
func (m *Metrics) Watch(name string, stats func() Stats) {
	if m == nil || m.reg == nil {
		return
	}
	gauge := func(metric, help string, value func(Stats) float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        metric,
			Help:        help,
			ConstLabels: prometheus.Labels{"index": name},
		}, func() float64 { return value(stats()) }))
	}
	gauge("millrace_index_records", "Records in the index in memory, deleted ones included.",
		func(s Stats) float64 { return float64(s.Records) })
	gauge("millrace_index_bytes", "Memory that the records and the index take, bytes.",
		func(s Stats) float64 { return float64(s.RecordBytes + s.IndexBytes) })
	gauge("millrace_index_bytes_per_record", "Memory that one record takes on average, the index included, bytes.",
		Stats.BytesPerRecord)
}
