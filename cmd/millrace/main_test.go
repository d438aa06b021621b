package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace-main")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "millrace")
	build := exec.Command("go", "build", "-ldflags", "-X millrace/internal/app.version=v9.9.9-test", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// millrace runs a command to its end and returns what it wrote and its exit code.
func millrace(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &o, &e, environment()
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// environment is this process's without what would configure the program.
func environment() []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "MILLRACE_") {
			env = append(env, entry)
		}
	}
	return env
}

func TestTheVersionIsStampedByTheLinker(t *testing.T) {
	out, _, code := millrace(t, "version")
	if code != 0 || !strings.HasPrefix(out, "millrace v9.9.9-test (go1.") {
		t.Errorf("code %d: %q", code, out)
	}
}

func TestExitCodesTellUsageFromFailure(t *testing.T) {
	if _, errOut, code := millrace(t, "serve", "--prot"); code != 2 || strings.Count(errOut, "\n") != 1 {
		t.Errorf("a wrong flag: code %d, %q", code, errOut)
	}
	if _, errOut, code := millrace(t, "keys", "list", "--tenant", "demo", "--data", filepath.Join(t.TempDir(), "none")); code != 1 || strings.Count(errOut, "\n") != 1 {
		t.Errorf("no data: code %d, %q", code, errOut)
	}
}

// TestServeAndTheCommandsBesideIt starts the real server and uses it as its first
// user would: token before the first start, a request, commands beside it, a
// second server, an orderly end, and the commands again without it.
func TestServeAndTheCommandsBesideIt(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	token, errOut, code := millrace(t, "token", "--data", data, "--tenant", "demo", "--subject", "me", "--scope", "events:write")
	if code != 0 || strings.Count(token, "\n") != 1 || strings.Count(token, ".") != 2 {
		t.Fatalf("token before the first start: code %d, %q, %q", code, token, errOut)
	}

	server, url := startServer(t, data)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/events", strings.NewReader(`[{"type":"a"},{"tipe":"b"}]`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Errorf("an event with the token: %s, want 202", response.Status)
	}

	key, _, code := millrace(t, "keys", "create", "--data", data, "--tenant", "demo", "--name", "k", "--scope", "events:write")
	if code != 0 || !strings.HasPrefix(key, "mrk_") {
		t.Errorf("keys create beside the server: code %d, %q", code, key)
	}
	if _, errOut, code := millrace(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin", ""); code != 1 || !strings.Contains(errOut, "held by another millrace process") {
		t.Errorf("a second server: code %d, %q", code, errOut)
	}
	if _, errOut, code := millrace(t, "wal", "repair", data, "--yes"); code != 1 || !strings.Contains(errOut, "held by another millrace process") {
		t.Errorf("wal repair beside the server: code %d, %q", code, errOut)
	}
	if out, errOut, code := millrace(t, "wal", "inspect", data); code != 0 || !strings.Contains(out, "SEGMENT") {
		t.Errorf("wal inspect beside the server: code %d, %q, %q", code, out, errOut)
	}

	server.stop(t)
	if out, errOut, code := millrace(t, "keys", "list", "--data", data, "--tenant", "demo"); code != 0 || strings.Count(out, "active") != 1 {
		t.Errorf("keys list without the server: code %d, %q, %q", code, out, errOut)
	}
	// The event that was refused came through the log before the server ended.
	letters, errOut, code := millrace(t, "dead-letters", "list", "--data", data, "--tenant", "demo", "--json")
	if code != 0 || strings.Count(letters, "\n") != 1 || !strings.Contains(letters, `tipe`) {
		t.Errorf("dead-letters list without the server: code %d, %q, %q", code, letters, errOut)
	}
}

// serverProcess is a server that runs.
type serverProcess struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan error
}

var apiAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// startServer starts a server on free ports and returns it with its address once
// it has printed that.
func startServer(t *testing.T, data string) (*serverProcess, string) {
	t.Helper()
	p := &serverProcess{ended: make(chan error, 1)}
	p.cmd = exec.Command(binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	p.cmd.Env, p.cmd.Stderr = environment(), &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	address := make(chan string, 1)
	go func() {
		defer close(address)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := apiAddress.FindString(lines.Text()); m != "" && strings.Contains(lines.Text(), "API") {
				address <- m
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	select {
	case url, ok := <-address:
		if !ok {
			t.Fatalf("the server ended: %v\n%s", <-p.ended, p.stderr.String())
		}
		return p, url
	case <-time.After(time.Minute):
		t.Fatal("the server printed no address within a minute")
	}
	return nil, ""
}

// stop asks the server to end and waits until it has.
func (p *serverProcess) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("the server ended with %v\n%s", err, p.stderr.String())
		}
	case <-time.After(time.Minute):
		t.Error("the server did not end within a minute of SIGTERM")
	}
}
