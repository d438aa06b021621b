package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// productServer shows every product and notes what was asked.
type productServer struct {
	mu    sync.Mutex
	asked map[string]int // paths and headers
}

func (s *productServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[strings.Join([]string{r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("X-Millrace-Tenant"), r.Header.Get("Accept-Language")}, "|")]++
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/products" {
		_, _ = io.WriteString(w, `{"products":[{"sku":"tee"}],"nextCursor":""}`)
		return
	}
	w.Header().Set("ETag", `"v1"`)
	_, _ = io.WriteString(w, `{"sku":"`+strings.TrimPrefix(r.URL.Path, "/products/")+`"}`)
}

func TestLoadReadsAsksForWhatTheFlagsSay(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte("hat\n\ncap\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		env  []string
		args []string
		want map[string]int
	}{
		{"what the server has, with the token of the environment", []string{"MILLRACE_TOKEN=secret"}, nil,
			map[string]int{"/products?limit=1000|Bearer secret||": 1, "/products/tee|Bearer secret||": 12}},
		{"given keys in a language", nil, []string{"--token", "t", "--key", "shoe", "--language", "de, en", "--seed", "2", "--zipf", "0.5"},
			map[string]int{"/products/shoe|Bearer t||de, en": 12}},
		{"keys from a file, of a public catalogue", []string{"MILLRACE_TOKEN=not sent"}, []string{"--tenant", "demo", "--keys-file", keys, "--zipf", "10"},
			map[string]int{"/products/hat||demo|": 12}},
	} {
		t.Run(x.name, func(t *testing.T) {
			products := &productServer{asked: map[string]int{}}
			server := httptest.NewServer(products)
			defer server.Close()
			report := filepath.Join(dir, "report.json")
			r := invocation{env: x.env}.run(t, append([]string{"load", "reads", "--url", server.URL, "--rate", "max", "--count", "12", "--connections", "2", "--json", report}, x.args...)...)
			if r.Code != ExitOK || !strings.Contains(r.Out, "latency from the actual send time") {
				t.Fatalf("result: %+v", r)
			}
			if diff := cmp.Diff(x.want, products.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			var written struct {
				Mode  string `json:"mode"`
				Reads struct {
					Served int `json:"served"`
				} `json:"reads"`
			}
			text, err := os.ReadFile(report)
			if err != nil || json.Unmarshal(text, &written) != nil || written.Mode != "closed loop" || written.Reads.Served != 12 {
				t.Errorf("report: %v: %s", err, text)
			}
		})
	}
}

func TestLoadReadsNeedsATokenOrATenant(t *testing.T) {
	r := invocation{}.run(t, "load", "reads")
	if r.Code != ExitUsage || !strings.Contains(r.Err, "missing --token TOKEN") || !strings.Contains(r.Err, "--tenant of a public catalogue") {
		t.Errorf("result: %+v", r)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = invocation{}.run(t, "load", "reads", "--token", "t", "--keys-file", empty)
	if r.Code != ExitFailure || !strings.Contains(r.Err, "is empty; write one value on each line") {
		t.Errorf("result: %+v", r)
	}
}
