package servers

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/template"
)

//go:embed nginx.conf.tmpl
var nginxTemplate string

// NginxOptions say how nginx is started.
type NginxOptions struct {
	Options
	// Upstreams are the addresses of Millrace's instances, host:port; at least one.
	Upstreams []string
}

// Nginx is a private nginx that balances HTTP over Millrace's instances.
type Nginx struct {
	*process
	o    NginxOptions
	port int

	mu      sync.Mutex // one change of state at a time
	stopped bool
}

// StartNginx starts nginx.
func StartNginx(ctx context.Context, o NginxOptions) (*Nginx, error) {
	path, err := findOrInstall(ctx, o.Options, "nginx", func() (string, bool) { return lookPath("nginx") })
	if err != nil {
		return nil, err
	}
	h, err := newHome(o.Options, "nginx", "www-data")
	if err != nil {
		return nil, err
	}
	n := &Nginx{o: o}
	n.process = newProcess(h, spec{name: "nginx", path: path, signal: syscall.SIGTERM,
		args: []string{"-p", h.dir, "-e", "stderr", "-c", filepath.Join(h.dir, "nginx.conf"), "-g", "daemon off;"}})
	if err := n.begin(ctx); err != nil {
		return nil, errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
	}
	return n, nil
}

func (n *Nginx) begin(ctx context.Context) (err error) {
	if n.port, err = n.home.reserve(n.o.Port); err != nil {
		return err
	}
	if _, err := n.home.mkdir("temp"); err != nil {
		return err
	}
	if err := errors.Join(n.configure(n.o.Upstreams), n.start()); err != nil {
		return err
	}
	return n.ready(ctx)
}

// ready waits until nginx itself answers.
func (n *Nginx) ready(ctx context.Context) error {
	return n.await(ctx, func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", n.Addr())
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// configure writes the configuration for these upstreams.
func (n *Nginx) configure(upstreams []string) error {
	if len(upstreams) == 0 {
		return errors.New("nginx needs the address of one instance at least")
	}
	for _, u := range upstreams {
		if _, _, err := net.SplitHostPort(u); err != nil {
			return fmt.Errorf("address of an instance behind nginx: %w", err)
		}
	}
	t, err := template.New("nginx.conf").Parse(nginxTemplate)
	if err != nil {
		return err
	}
	values := map[string]any{"Dir": n.home.dir, "Listen": n.Addr(), "Upstreams": upstreams, "Cert": "", "Key": ""}
	if c := n.o.TLS; c != nil {
		cert, err1 := n.home.copyIn(c.CertFile, "server.crt")
		key, err2 := n.home.copyIn(c.KeyFile, "server.key")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		values["Cert"], values["Key"] = cert, key
	}
	var b strings.Builder
	if err := t.Execute(&b, values); err != nil {
		return err
	}
	_, err = n.home.write("nginx.conf", b.String())
	return err
}

// Addr is where nginx listens, host:port.
func (n *Nginx) Addr() string { return loopback(n.port) }

// URL is the front door's.
func (n *Nginx) URL() string {
	if n.o.TLS != nil {
		return "https://" + n.Addr()
	}
	return "http://" + n.Addr()
}

// SetUpstreams balances over other instances from now on. Requests that are under
// way end where they are.
func (n *Nginx) SetUpstreams(upstreams []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.configure(upstreams); err != nil {
		return err
	}
	pid := n.PID()
	if pid == 0 {
		return errors.New("nginx does not run")
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

// Kill ends nginx and its workers with SIGKILL.
func (n *Nginx) Kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kill()
}

// Restart starts nginx on the same port and waits until it listens. One that runs is
// ended first.
func (n *Nginx) Restart(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return errors.New("nginx was stopped; start a new one")
	}
	if err := n.terminate(ctx); err != nil {
		return err
	}
	// A master that was killed left its pid file.
	if err := os.RemoveAll(filepath.Join(n.home.dir, "nginx.pid")); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	return n.ready(ctx)
}

// Stop ends nginx and removes what is temporary. It may be called twice.
func (n *Nginx) Stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return nil
	}
	n.stopped = true
	return errors.Join(n.terminate(ctx), n.home.close())
}
