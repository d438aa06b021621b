package blackbox

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const metricsText = `# HELP x a help text
# TYPE x counter
x_total{route="/events",note="a \"b\", }{"} 3
x_total{route="/other",} 4.5e1 1700000000
plain 7
lag_seconds_bucket{tenant="a",le="0.1"} 10
lag_seconds_bucket{tenant="a",le="1"} 18
lag_seconds_bucket{tenant="a",le="+Inf"} 20
lag_seconds_bucket{tenant="b",le="0.1"} 0
lag_seconds_bucket{tenant="b",le="1"} 2
lag_seconds_bucket{tenant="b",le="+Inf"} 2
`

func TestMetricsAreReadWithTheirLabels(t *testing.T) {
	m, err := ParseMetrics(strings.NewReader(metricsText))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		labels []string
		want   float64
		found  bool
	}{
		{nil, 48, true},
		{[]string{"route=/events"}, 3, true},
		{[]string{`note=a "b", }{`}, 3, true},
		{[]string{"route=/none"}, 0, false},
	} {
		if got, found := m.Sum("x_total", c.labels...); got != c.want || found != c.found {
			t.Errorf("Sum(x_total, %q) = %g, %v; want %g, %v", c.labels, got, found, c.want, c.found)
		}
	}
	if got, _ := m.Sum("plain"); got != 7 {
		t.Errorf("plain is %g", got)
	}
}

func TestAHistogramAddsUpItsLabelsAndGivesQuantiles(t *testing.T) {
	m, err := ParseMetrics(strings.NewReader(metricsText))
	if err != nil {
		t.Fatal(err)
	}
	h := m.Histogram("lag_seconds")
	if d := cmp.Diff(Histogram{Bounds: []float64{0.1, 1, math.Inf(1)}, Counts: []float64{10, 20, 22}}, h); d != "" {
		t.Fatalf("histogram (-want +got):\n%s", d)
	}
	for q, want := range map[float64]float64{0.25: 0.055, 15.0 / 22: 0.55, 0.999: math.Inf(1)} {
		if got := h.Quantile(q); math.Abs(got-want) > 1e-9 && got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	later := h.Minus(m.Histogram("lag_seconds", "tenant=a"))
	if d := cmp.Diff([]float64{0, 2, 2}, later.Counts); d != "" {
		t.Errorf("difference (-want +got):\n%s", d)
	}
	if got := (Histogram{}).Quantile(0.5); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %g", got)
	}
}

func TestTextThatIsNoMetricIsAnError(t *testing.T) {
	for _, text := range []string{"word", `x{a="b} 1`, `x{a} 1`, "x one", `x{a="b"}`} {
		if _, err := ParseMetrics(strings.NewReader(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}
