package order

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what happens to orders.
type Metrics struct {
	placements    *prometheus.CounterVec // by outcome
	placeSeconds  prometheus.Histogram
	placeOrders   prometheus.Histogram
	transitions   *prometheus.CounterVec // by event
	stepSeconds   prometheus.Histogram
	stepBatch     prometheus.Histogram
	paidSeconds   prometheus.Histogram
	parked        prometheus.Counter
	swept         prometheus.Counter
	unfinished    *prometheus.GaugeVec // by status
	statusWaiters prometheus.Gauge
}

// NewMetrics registers the metrics; a nil registerer makes them count for nobody.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 16)
	sizes := prometheus.ExponentialBuckets(1, 2, 11)
	m := &Metrics{
		placements: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_order_placements_total",
			Help: "Placements by outcome: placed, replayed, key-reused, a refusal's code, or invalid-data."}, []string{"outcome"}),
		placeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_order_place_seconds",
			Help: "Time of one placing transaction.", Buckets: seconds}),
		placeOrders: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_order_place_orders",
			Help: "Orders of one placing transaction.", Buckets: sizes}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_order_transitions_total",
			Help: "Transitions of orders, by event."}, []string{"event"}),
		stepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_order_advance_seconds",
			Help: "Time of one transaction of transitions.", Buckets: seconds}),
		stepBatch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_order_advance_steps",
			Help: "Steps of one transaction of transitions.", Buckets: sizes}),
		paidSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_order_paid_seconds",
			Help: "Time from the placement of an order to its payment.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 18)}),
		parked: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_orders_parked_total",
			Help: "Orders that failed too often and became dead letters."}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_orders_swept_total",
			Help: "Orders that the sweeper took up because they were due."}),
		unfinished: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_orders_unfinished",
			Help: "Orders by status, of those that are not at their end."}, []string{"status"}),
		statusWaiters: prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_order_status_waiters",
			Help: "Requests that wait for an order's status to change."}),
	}
	if reg != nil {
		reg.MustRegister(m.placements, m.placeSeconds, m.placeOrders, m.transitions, m.stepSeconds, m.stepBatch,
			m.paidSeconds, m.parked, m.swept, m.unfinished, m.statusWaiters)
	}
	return m
}

func (m *Metrics) placed(p *Placement) {
	outcome := "placed"
	var refused *RefusedError
	switch {
	case errors.As(p.Err, &refused):
		outcome = refused.Code
	case errors.Is(p.Err, ErrKeyReused):
		outcome = "key-reused"
	case p.Err != nil:
		outcome = "invalid-data"
	case p.Replayed:
		outcome = "replayed"
	default:
		m.transitions.WithLabelValues(string(EventPlaced)).Inc()
	}
	m.placements.WithLabelValues(outcome).Inc()
}

func (m *Metrics) stepped(s *Step, out *Outcome) {
	if !out.Applied {
		return
	}
	m.transitions.WithLabelValues(string(s.Event)).Inc()
	if s.Event == EventCaptured && out.Order.Status == Paid {
		m.paidSeconds.Observe(out.Order.UpdatedAt.Sub(out.Order.PlacedAt).Seconds())
	}
	if s.Event == EventAttemptFailed && out.Order.Parked() {
		m.parked.Inc()
	}
}
