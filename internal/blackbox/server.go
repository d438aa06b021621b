// Package blackbox runs the millrace binary as its users do: built from the
// source, started as a process of its own on private ports, spoken to over HTTP,
// measured through its metrics and /proc, stopped with a signal or killed. It is
// for tests and benchmarks that must not know anything of the inside.
//
// A Server belongs to the goroutine that started it; Kill and Stop may be called
// from any. A process that is not stopped dies with this one (on Linux).
package blackbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Root returns the folder of the module that the current folder is in.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("the current folder is in no module; run this from within the source")
	}
	return filepath.Dir(mod), nil
}

// Build builds the binary into dir and returns its path.
func Build(ctx context.Context, dir string, flags ...string) (string, error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	path, err := filepath.Abs(filepath.Join(dir, "millrace"))
	if err != nil {
		return "", err
	}
	args := append(append([]string{"build"}, flags...), "-o", path, "./cmd/millrace")
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}

// FreeAddress returns a loopback address that nobody listens on right now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Run runs a command of the binary to its end and returns what it printed.
func Run(ctx context.Context, binary string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(binary), strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String(), nil
}

// Token mints a token of tenant "demo" that may write and read events.
func Token(ctx context.Context, binary, data string) (string, error) {
	return TokenFor(ctx, binary, data, "blackbox", "events:write events:read")
}

// TokenFor mints a token of tenant "demo" for a subject, with scopes that are
// separated by spaces.
func TokenFor(ctx context.Context, binary, data, subject, scopes string) (string, error) {
	out, err := Run(ctx, binary, "token", "--data", data, "--tenant", "demo", "--subject", subject, "--scope", scopes, "--ttl", "24h")
	return strings.TrimSpace(out), err
}

// Options says how to start a server. Binary, Data, Listen and Admin are
// required; Listen and Admin are host:port.
type Options struct {
	Binary, Data, Listen, Admin string
	// Args are further arguments, Env further variables (KEY=value).
	Args, Env []string
	// Output is the file that gets what the server prints.
	Output string
}

// Command returns the arguments of the server's process, for a record.
func (o Options) Command() []string {
	return append([]string{"serve", "--data", o.Data, "--listen", o.Listen, "--admin", o.Admin}, o.Args...)
}

// Server is one running process.
type Server struct {
	URL      string // of the API
	AdminURL string // of metrics and probes
	o        Options
	cmd      *exec.Cmd
	done     chan struct{} // closed when the process has ended
	err      error         // how it ended; read after done
}

// Start starts a server and does not wait for it to be ready.
func Start(o Options) (*Server, error) {
	out, err := os.OpenFile(o.Output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	s := &Server{URL: "http://" + o.Listen, AdminURL: "http://" + o.Admin, o: o, done: make(chan struct{})}
	s.cmd = exec.Command(o.Binary, o.Command()...)
	s.cmd.Env = append(os.Environ(), o.Env...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = dieWithParent()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.done)
		s.err = s.cmd.Wait()
	}()
	return s, nil
}

// PID is the number of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Done is closed when the process has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Ready waits until the server accepts events. It fails when the process ends
// first or ctx does.
func (s *Server) Ready(ctx context.Context) error { return s.readyFor(ctx, "events") }

// ReadyForOrders waits until the server accepts orders, as Ready does for events.
func (s *Server) ReadyForOrders(ctx context.Context) error { return s.readyFor(ctx, "orders") }

// readyFor waits until one job's probe says yes.
func (s *Server) readyFor(ctx context.Context, job string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for {
		if resp, err := client.Get(s.URL + "/readyz/" + job); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("the server ended before it was ready: %v; its last words:\n%s", s.err, s.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w; its last words:\n%s", context.Cause(ctx), s.LastWords())
		}
	}
}

// LastWords returns the end of what the server printed.
func (s *Server) LastWords() string {
	const most = 4 << 10
	text, err := os.ReadFile(s.o.Output)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Kill ends the process at once, as kill -9 does, and waits for its end.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // fails only if it has ended
	<-s.done
}

// Stop asks the process to end and waits for it. The error says how it ended if
// that was not with exit code 0. When ctx ends first the process is killed.
func (s *Server) Stop(ctx context.Context) error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-ctx.Done():
		s.Kill()
		return fmt.Errorf("the server did not stop in time: %w; its last words:\n%s", context.Cause(ctx), s.LastWords())
	}
	if s.err != nil {
		return fmt.Errorf("the server ended with %w; its last words:\n%s", s.err, s.LastWords())
	}
	return nil
}
