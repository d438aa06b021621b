package blackbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Metrics is one reading of a server's metrics, each sample under its name with
// labels as written.
type Metrics struct {
	samples []metricSample
}

type metricSample struct {
	name   string
	labels map[string]string
	value  float64
}

// Metrics reads the server's metrics.
func (s *Server) Metrics(parent context.Context) (Metrics, error) {
	ctx, cancel := context.WithTimeout(parent, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.AdminURL+"/metrics", nil)
	if err != nil {
		return Metrics{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Metrics{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Metrics{}, fmt.Errorf("GET %s/metrics: %s", s.AdminURL, resp.Status)
	}
	return ParseMetrics(resp.Body)
}

// ParseMetrics reads the Prometheus text format.
func ParseMetrics(r io.Reader) (Metrics, error) {
	var m Metrics
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseMetric(line)
		if err != nil {
			return m, err
		}
		m.samples = append(m.samples, s)
	}
	return m, lines.Err()
}

func parseMetric(line string) (metricSample, error) {
	bad := fmt.Errorf("not a metric: %q", line)
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return metricSample{}, bad
	}
	s := metricSample{name: line[:end], labels: map[string]string{}}
	rest := line[end:]
	if rest[0] == '{' {
		rest = rest[1:]
		for !strings.HasPrefix(rest, "}") {
			name, after, ok := strings.Cut(rest, "=")
			if !ok {
				return s, bad
			}
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return s, bad
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return s, bad
			}
			s.labels[name] = value
			rest = strings.TrimPrefix(after[len(quoted):], ",")
		}
		rest = rest[1:]
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return s, bad
	}
	var err error
	if s.value, err = strconv.ParseFloat(fields[0], 64); err != nil {
		return s, bad
	}
	return s, nil
}

// Sum adds up the samples of a name that have all of the labels, given as
// name=value, and says whether there was one.
func (m Metrics) Sum(name string, labels ...string) (total float64, found bool) {
	for _, s := range m.samples {
		if s.name == name && s.has(labels) {
			total += s.value
			found = true
		}
	}
	return total, found
}

func (s metricSample) has(labels []string) bool {
	for _, l := range labels {
		name, value, _ := strings.Cut(l, "=")
		if s.labels[name] != value {
			return false
		}
	}
	return true
}

// Histogram is the buckets of a histogram: for each bound how many observations
// were at most it.
type Histogram struct {
	Bounds []float64
	Counts []float64
}

// Histogram adds up the histograms of a name that have all of the labels.
func (m Metrics) Histogram(name string, labels ...string) Histogram {
	byBound := map[float64]float64{}
	for _, s := range m.samples {
		if s.name != name+"_bucket" || !s.has(labels) {
			continue
		}
		if bound, err := strconv.ParseFloat(s.labels["le"], 64); err == nil {
			byBound[bound] += s.value
		}
	}
	var h Histogram
	for bound := range byBound {
		h.Bounds = append(h.Bounds, bound)
	}
	sort.Float64s(h.Bounds)
	for _, bound := range h.Bounds {
		h.Counts = append(h.Counts, byBound[bound])
	}
	return h
}

// Minus returns what was observed after an earlier reading.
func (h Histogram) Minus(earlier Histogram) Histogram {
	before := map[float64]float64{}
	for i, b := range earlier.Bounds {
		before[b] = earlier.Counts[i]
	}
	out := Histogram{Bounds: h.Bounds}
	for i, b := range h.Bounds {
		out.Counts = append(out.Counts, h.Counts[i]-before[b])
	}
	return out
}

// Count is the number of observations.
func (h Histogram) Count() float64 {
	if len(h.Counts) == 0 {
		return 0
	}
	return h.Counts[len(h.Counts)-1]
}

// Quantile estimates the q-quantile (0 to 1), interpolating within a bucket. It
// is +Inf when the quantile is beyond the last bound and NaN without any
// observation.
func (h Histogram) Quantile(q float64) float64 {
	if h.Count() == 0 {
		return math.NaN()
	}
	rank := q * h.Count()
	low, below := 0.0, 0.0
	for i, bound := range h.Bounds {
		if h.Counts[i] >= rank {
			if math.IsInf(bound, 1) || h.Counts[i] == below {
				return bound
			}
			return low + (bound-low)*(rank-below)/(h.Counts[i]-below)
		}
		low, below = bound, h.Counts[i]
	}
	return math.Inf(1)
}
