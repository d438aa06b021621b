package servers_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// instance is a backend that counts what it is asked.
type instance struct {
	*httptest.Server
	asked atomic.Int64
	drop  atomic.Bool // breaks the connection after reading the request
}

func startInstance(t *testing.T) *instance {
	i := &instance{}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if i.drop.Load() {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Path == "/events/tail" {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: first\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // a stream that lasts
			return
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *instance) addr() string { return strings.TrimPrefix(i.URL, "http://") }

func ask(t *testing.T, method, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(testContext(t), method, url, strings.NewReader("[]"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestNginxBalancesAndNeverSendsAPostTwice(t *testing.T) {
	one, two := startInstance(t), startInstance(t)
	n := servertest.Nginx(t, servers.NginxOptions{Upstreams: []string{one.addr(), two.addr()}})
	for range 20 {
		if status, body := ask(t, http.MethodPost, n.URL()+"/orders"); status != http.StatusAccepted || body != "127.0.0.1" {
			t.Fatalf("status %d, X-Forwarded-For %q", status, body)
		}
	}
	if one.asked.Load() == 0 || two.asked.Load() == 0 || one.asked.Load()+two.asked.Load() != 20 {
		t.Errorf("asked %d and %d times, want 20 in all", one.asked.Load(), two.asked.Load())
	}

	one.drop.Store(true)
	two.drop.Store(true)
	before := one.asked.Load() + two.asked.Load()
	if status, body := ask(t, http.MethodPost, n.URL()+"/orders"); status != http.StatusServiceUnavailable || !strings.Contains(body, "/outcome-unknown") {
		t.Errorf("status %d of a POST whose answer is lost, want 503 and an unknown outcome; got %s", status, body)
	}
	if sent := one.asked.Load() + two.asked.Load() - before; sent != 1 {
		t.Errorf("the POST was sent %d times, want once", sent)
	}
	one.drop.Store(false)
	two.drop.Store(false)

	// Nobody listens there any more: every request goes to the other one.
	one.Close()
	for range 5 {
		if status, _ := ask(t, http.MethodPost, n.URL()+"/orders"); status != http.StatusAccepted {
			t.Fatalf("status %d with one instance gone", status)
		}
	}
}

func TestNginxForwardsALiveStreamAtOnceAndComesBackAfterAKill(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	i := startInstance(t)
	n := servertest.Nginx(t, servers.NginxOptions{Upstreams: []string{i.addr()}})
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL()+"/events/tail", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	line := make([]byte, len("data: first"))
	if _, err := io.ReadFull(response.Body, line); err != nil || string(line) != "data: first" {
		t.Errorf("got %q, %v from a stream that goes on", line, err)
	}
	cancel()
}
