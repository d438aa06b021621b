// Package app is the composition root: it builds the parts of a process, wires
// them, runs them and takes them down in order. It is the only package that
// knows the concrete types of all of them.
//
//	API listener      control socket     admin listener
//	     │                  │                  │
//	     └──── httpapi ─────┘              telemetry
//	              │
//	  event.Ingester ──▶ wal.Log ──▶ event.Sink ──▶ store/sqlite
//	   ▲          │          (group commit)     │          ▲
//	   │   dedupe.Window                deadletter rows    │
//	   │                                             event.Reader
//	   │
//	   │  order.Placer, order.Stepper ──▶ store/sqlite (orders, stock, outbox)
//	   │            ▲                            │
//	   │            └── order.Crew ◀── bus ◀── outbox.Relay
//	   └────────────────────────────────────── outbox.Relay
//
// The way down is the way of the data: the edge stops taking requests and
// finishes those in flight, the workers finish what they hold, the sink catches
// up as far as a bounded time allows, then the log, the databases and the lock
// are closed. What is left in the outbox goes on at the next start.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"millrace/internal/config"
	"millrace/internal/httpapi"
	"millrace/internal/limit"
	"millrace/internal/telemetry"
)

// version is stamped by the linker.
var version string

// Version returns the version of this program.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// sinkDrain bounds how long a shutdown waits for the sink to catch up. What it
// leaves is in the log and goes on at the next start.
const sinkDrain = 5 * time.Second

// Run runs a server until ctx ends, and prints to out, once it is ready, where
// things are. The error is nil after an orderly end.
func Run(ctx context.Context, cfg *config.Config, out io.Writer) error {
	p, err := newProcess(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	began := time.Now()
	demo, err := newDemoShop(cfg.Demo.Enabled, p.logger)
	if err != nil {
		return err
	}
	defer demo.close() // a listener that is closed already, as a rule
	c, err := openCore(ctx, cfg, p.logger, p.registry, &serving{demo: demo})
	if err != nil {
		return err
	}
	w, err := openWorks(c)
	if err == nil {
		err = p.serve(ctx, c, w, began, out)
		err = errors.Join(err, w.close())
	}
	return errors.Join(err, c.Close())
}

// process is what a server has besides its core.
type process struct {
	logger   *slog.Logger
	registry *prometheus.Registry
	tracing  *telemetry.Tracing
}

func newProcess(ctx context.Context, cfg *config.Config) (*process, error) {
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil {
		return nil, err
	}
	logger, err := telemetry.NewLogger(os.Stderr, level, cfg.Log.Format)
	if err != nil {
		return nil, err
	}
	registry := telemetry.NewRegistry(Version())
	tracing, err := telemetry.NewTracing(ctx, telemetry.TracingOptions{
		Endpoint: cfg.Tracing.Endpoint, SampleRatio: cfg.Tracing.SampleRatio, Version: Version(), Logger: logger, Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	return &process{logger: logger, registry: registry, tracing: tracing}, nil
}

// close sends the traces that are left.
func (p *process) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.tracing.Shutdown(ctx); err != nil {
		p.logger.Warn("the last traces could not be sent", "error", err)
	}
}

// tracer returns nil when nothing is recorded: the edge then only passes ids on.
func (p *process) tracer() trace.Tracer {
	if !p.tracing.Recording() {
		return nil
	}
	return p.tracing.Tracer()
}

// serve runs the listeners on a core until ctx ends or a part fails, and takes
// them down in order.
func (p *process) serve(ctx context.Context, c *core, w *works, began time.Time, out io.Writer) error {
	l, err := p.listenAll(c, w)
	if err != nil {
		return err
	}
	defer l.close()
	if demo := c.demo(); demo != nil {
		if err := demo.open(ctx, c, baseURL(c, l)); err != nil {
			return err
		}
	}
	coreCtx, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	coreEnded := make(chan error, 1)
	go func() { coreEnded <- c.run(coreCtx) }()
	worksCtx, stopWorks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorks()
	worksEnded := make(chan error, 1)
	go func() { worksEnded <- w.run(worksCtx) }()

	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.edge.Serve(groupCtx, l.api) })
	group.Go(func() error { return serveHTTP(groupCtx, l.edge.ControlHandler(), l.control) })
	if l.admin != nil {
		handler := telemetry.NewAdminHandler(telemetry.AdminOptions{Gatherer: p.registry, Logger: p.logger})
		group.Go(func() error { return serveHTTP(groupCtx, handler, l.admin) })
	}
	group.Go(func() error {
		select {
		case <-groupCtx.Done():
			return nil
		case <-c.intake.Failed():
			return fmt.Errorf("the event log failed and this process ends, so that a restart can recover it: %w", c.intake.Err())
		case err := <-coreEnded:
			coreEnded <- err // for the way down
			return err
		case err := <-worksEnded:
			worksEnded <- err
			return err
		}
	})
	p.logger.Info("ready", "version", Version(), "listen", l.api.Addr().String(), "data", c.dir.path, "ack", c.cfg.Events.Ack,
		"instance", c.instance, "roles", c.cfg.Roles, "store", c.cfg.Store.Driver, "bus", c.cfg.Bus.Driver,
		"startup", time.Since(began).Round(time.Millisecond))
	if c.cfg.Events.Ack == "memory" {
		p.logger.Warn("events.ack is memory: events are answered before they are written, and a crash loses the last of them")
	}
	printBanner(out, c, l)

	err = group.Wait()
	stopWorks()
	err = errors.Join(err, <-worksEnded)
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sinkDrain)
	defer cancel()
	c.intake.Drain(drainCtx)
	stopCore()
	err = errors.Join(err, <-coreEnded)
	p.logger.Info("stopped", "error", err)
	return err
}

// listeners are what a server listens on, and the edge behind them.
type listeners struct {
	edge    *httpapi.Server
	api     net.Listener
	control net.Listener
	admin   net.Listener // nil if switched off
}

func (l *listeners) close() {
	for _, x := range []net.Listener{l.api, l.control, l.admin} {
		if x != nil {
			_ = x.Close() // closed already by who served it, as a rule
		}
	}
}

// listenAll opens all listeners, so that a port in use is told before anything
// is served.
func (p *process) listenAll(c *core, w *works) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	connections, err := limit.NewConnections("api", int64(c.cfg.HTTP.MaxConnections), c.limits)
	if err != nil {
		return nil, err
	}
	authenticator, err := c.newAuthenticator()
	if err != nil {
		return nil, err
	}
	if err := c.openLimits(); err != nil {
		return nil, err
	}
	l.edge, err = c.newEdge(w, authenticator, p.tracer(), func() []string { return []string{l.api.Addr().String()} })
	if err != nil {
		return nil, err
	}
	if l.api, err = listen("http.listen", c.cfg.HTTP.Listen); err != nil {
		return nil, err
	}
	l.api = connections.Listen(l.api)
	if c.cfg.Admin.Listen != "" {
		if l.admin, err = listen("admin.listen", c.cfg.Admin.Listen); err != nil {
			return nil, err
		}
	}
	l.control, err = c.dir.listenControl()
	return l, err
}

// serveHTTP serves a handler for operators until ctx ends.
func serveHTTP(ctx context.Context, handler http.Handler, l net.Listener) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(down); err != nil {
		_ = server.Close() // a profile that is being taken must not hold up the end
	}
	<-failed
	return nil
}
