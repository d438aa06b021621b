package telemetry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestTheAdminPages(t *testing.T) {
	server := httptest.NewServer(NewAdminHandler(AdminOptions{Gatherer: NewRegistry("1.2.3")}))
	defer server.Close()
	tests := []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/", 200, "/debug/pprof/"},
		{"GET", "/livez", 200, "ok"},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/metrics", 200, `version="1.2.3"`},
		{"GET", "/metrics", 200, "go_goroutines"},
		{"GET", "/metrics", 200, "process_open_fds"},
		{"GET", "/metrics", 200, "go_sched_latencies_seconds"},
		{"GET", "/debug/pprof/", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"GET", "/debug/pprof/heap", 200, ""},
		{"GET", "/debug/pprof/cmdline", 200, ""},
		{"GET", "/debug/pprof/symbol", 200, "num_symbols"},
		{"GET", "/debug/pprof/nothing", 404, ""},
		{"GET", "/nothing", 404, ""},
		{"POST", "/metrics", 405, ""},
		{"POST", "/livez", 405, ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path+" "+tt.want, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("got status %d, want %d with %q in:\n%.2000s", resp.StatusCode, tt.status, tt.want, body)
			}
		})
	}
}

func TestOneBadCollectorDoesNotHideTheOthers(t *testing.T) {
	reg := NewRegistry("dev")
	reg.MustRegister(broken{})
	rec := httptest.NewRecorder()
	NewAdminHandler(AdminOptions{Gatherer: reg}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), "millrace_build_info") {
		t.Errorf("got status %d and\n%.500s", rec.Code, rec.Body)
	}
}

// broken is a collector that fails.
type broken struct{}

var brokenDesc = prometheus.NewDesc("millrace_broken", "Always fails.", nil, nil)

func (broken) Describe(ch chan<- *prometheus.Desc) { ch <- brokenDesc }
func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(brokenDesc, io.ErrUnexpectedEOF)
}
