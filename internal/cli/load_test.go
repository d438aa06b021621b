package cli

import (
	"encoding/json"
	"encoding/pem"
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

// eventServer accepts every batch and notes who sent how many events.
type eventServer struct {
	mu          sync.Mutex
	events      int
	credentials map[string]bool
}

func (s *eventServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var batch []json.RawMessage
	if err == nil {
		err = json.Unmarshal(body, &batch)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/events" || err != nil {
		http.Error(w, "unexpected", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.events += len(batch)
	s.credentials[r.Header.Get("Authorization")] = true
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]any{"batchId": "b", "accepted": len(batch), "rejected": []string{}})
}

func TestLoadEventsSendsWhatTheFlagsSay(t *testing.T) {
	events := &eventServer{credentials: map[string]bool{}}
	server := httptest.NewTLSServer(events)
	defer server.Close()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	report, acked := filepath.Join(dir, "report.json"), filepath.Join(dir, "acked.tsv")

	i := invocation{env: []string{"MILLRACE_TOKEN=from-environment"}}
	r := i.run(t, "load", "events", "--url", server.URL, "--ca-file", ca, "--rate", "max", "--batch", "10", "--count", "95",
		"--connections", "2", "--json", report, "--acked", acked)
	if r.Code != ExitOK || !strings.Contains(r.Out, "acked") {
		t.Fatalf("result: %+v", r)
	}
	if events.events != 95 {
		t.Errorf("the server got %d events, want 95", events.events)
	}
	if diff := cmp.Diff(map[string]bool{"Bearer from-environment": true}, events.credentials); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	var written struct {
		Mode        string `json:"mode"`
		Batch       int    `json:"batch"`
		Connections int    `json:"connections"`
	}
	text, err := os.ReadFile(report)
	if err != nil || json.Unmarshal(text, &written) != nil {
		t.Fatalf("report: %v: %s", err, text)
	}
	if written.Mode != "closed loop" || written.Batch != 10 || written.Connections != 2 {
		t.Errorf("report: %+v", written)
	}
	if text, err := os.ReadFile(acked); err != nil || len(text) == 0 {
		t.Errorf("acked file: %d bytes, %v", len(text), err)
	}
}

func TestLoadEventsRefusesAnAuthorityThatIsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := invocation{}.run(t, "load", "events", "--token", "t", "--ca-file", file)
	want := result{Code: ExitFailure, Err: "millrace: --ca-file " + file + " has no certificate in it; it must be PEM\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestVerifyEventsFailsWhenTheServerLostSomething(t *testing.T) {
	events := &eventServer{credentials: map[string]bool{}}
	server := httptest.NewServer(events)
	defer server.Close()
	acked := filepath.Join(t.TempDir(), "acked.tsv")
	if r := (invocation{}).run(t, "load", "events", "--url", server.URL, "--token", "t", "--rate", "max", "--count", "5", "--acked", acked); r.Code != ExitOK {
		t.Fatalf("load: %+v", r)
	}
	// This server keeps nothing: it answers every question with an empty page.
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/events" || r.URL.Path == "/events/stats" {
			_, _ = io.WriteString(w, `{"events":[],"series":[]}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer empty.Close()
	r := invocation{}.run(t, "verify", "events", "--url", empty.URL, "--token", "t", "--acked", acked, "--wait", "-1s")
	if r.Code != ExitFailure || !strings.Contains(r.Err, "the server did not keep what it acknowledged: 5 missing") {
		t.Errorf("result: %+v", r)
	}
}
