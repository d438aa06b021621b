package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/cli"
	"millrace/internal/config"
)

// server is a whole server in this process, on free ports.
type server struct {
	t     *testing.T
	cfg   *config.Config
	base  string
	admin string
	token string
	stop  context.CancelFunc
	ended chan error
}

func testConfig(t *testing.T) *config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Data = t.TempDir()
	cfg.HTTP.Listen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Log.Level = "error"
	cfg.Events.DiskReserveBytes = 0
	cfg.Events.SegmentBytes = 32 * config.MiB
	cfg.Events.Dedupe.MemoryBytes = 4 * config.MiB
	return cfg
}

// output is what the server prints; ready is closed once it is all there.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) find(pattern string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := regexp.MustCompile(pattern).FindSubmatch(o.text.Bytes())
	if m == nil {
		return ""
	}
	return string(m[1])
}

func start(t *testing.T, cfg *config.Config) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{t: t, cfg: cfg, stop: cancel, ended: make(chan error, 1)}
	var out output
	go func() { s.ended <- Run(ctx, cfg, &out) }()
	t.Cleanup(func() { // before the data directory is removed
		s.stop()
		s.ended <- <-s.ended
	})
	s.eventually("the server prints how to see an event", func() error {
		select {
		case err := <-s.ended:
			s.ended <- err
			t.Fatalf("the server ended: %v", err)
		default:
		}
		if out.find(`See it:\n\n(.+)\n`) == "" && out.find(`health +(\S+)/readyz`) == "" {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	s.base, s.admin = out.find(`(?:API|health) +(http[^\s]*:[0-9]+)`), "http://"+out.find(`admin +http://([^/]+)/`)
	s.token = out.find(`all scopes, 24 hours:\n +(\S+)`)
	return s
}

// halt stops the server in order.
func (s *server) halt() {
	s.t.Helper()
	s.stop()
	select {
	case err := <-s.ended:
		s.ended <- err // for the clean-up
		if err != nil {
			s.t.Fatalf("the server ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		s.t.Fatal("the server did not stop")
	}
}

// eventually polls until check returns nil; it bounds what has no signal.
func (s *server) eventually(what string, check func() error) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// answer is a response with its body read.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
}

func (s *server) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	a, err := s.try(method, path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// try is do for requests that may fail.
func (s *server) try(method, path, body string, header ...string) (answer, error) {
	r, err := http.NewRequest(method, s.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, text}, err
}

// want is do with a status that must come.
func (s *server) want(code int, method, path, body string, header ...string) answer {
	s.t.Helper()
	a := s.do(method, path, body, header...)
	if a.code != code {
		s.t.Fatalf("%s %s: %d %s, want %d", method, path, a.code, a.body, code)
	}
	return a
}

// mint makes a token with the command's code.
func mint(t *testing.T, cfg *config.Config, tenant string, scopes ...string) string {
	t.Helper()
	token, err := Token(cfg, cli.TokenRequest{Tenant: tenant, Subject: "test", Scopes: scopes, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// countIDs walks all events of the tenant and counts each id.
func (s *server) countIDs() map[string]int {
	s.t.Helper()
	counts := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Events     []struct{ ID string }
			NextCursor string
		}
		s.want(200, "GET", "/events?limit=1000&cursor="+cursor, "").into(s.t, &page)
		for _, e := range page.Events {
			counts[e.ID]++
		}
		if cursor = page.NextCursor; cursor == "" {
			return counts
		}
	}
}

// control calls the control API as the commands do.
func control(t *testing.T, cfg *config.Config, method, path, body string) answer {
	t.Helper()
	client, base, release, err := Control(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	}()
	r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Millrace-Tenant", "demo")
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, text}
}
