package app

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/auth"
	"millrace/internal/bus"
	"millrace/internal/config"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/event/dedupe"
	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
	"millrace/internal/limit"
	"millrace/internal/place"
)

// core is what owns the data of a process: the data directory's lock, the
// databases, the event log or stream and the sinks between them. A server and a command
// that opens the data itself stand on the same core.
type core struct {
	cfg      *config.Config
	logger   *slog.Logger
	registry prometheus.Registerer
	closers  []func() error

	dir         *dataDir
	instance    string // this one's name among others
	db          *storage
	intake      intake
	limits      *limit.Metrics
	syncer      *limit.Syncer  // nil without Redis
	window      *dedupe.Window // nil when deduplication is off
	ingester    *event.Ingester
	sinkMetrics *event.SinkMetrics
	reader      *event.Reader
	letters     *deadletter.Service
	issuer      *auth.Issuer
	keys        *auth.Keys
	shop        shop
	reads       reads
	places      *place.Service
	clock       *cautiousClock
	serving     *serving // nil in a command
	bus         bus.Bus  // nil in a command
}

// serving is what the core of a server has and that of a command does not.
type serving struct {
	demo *demoShop // nil without it
}

// demo returns the demo's shop, nil if there is none.
func (c *core) demo() *demoShop {
	if c.serving == nil {
		return nil
	}
	return c.serving.demo
}

// openCore takes the data directory's lock and opens everything in it. It fails
// with errHeld when another process has it. A command is serving nothing: nil.
func openCore(ctx context.Context, cfg *config.Config, logger *slog.Logger, registry prometheus.Registerer, s *serving) (_ *core, err error) {
	c := &core{cfg: cfg, logger: logger, registry: registry, serving: s, clock: newCautiousClock(time.Now, logger), limits: limit.NewMetrics(registry)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, open := range []func(context.Context) error{c.openDir, c.openStores, c.openEvents, c.openBus, c.openReads, c.openShop, c.openLetters} {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *core) onClose(f func() error) { c.closers = append(c.closers, f) }

// Close closes what was opened, last first.
func (c *core) Close() error {
	var all error
	for i := len(c.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, c.closers[i]())
	}
	c.closers = nil
	return all
}

func (c *core) openDir(context.Context) (err error) {
	if c.dir, err = openDataDir(c.cfg.Data); err != nil {
		return err
	}
	c.onClose(c.dir.Close)
	if c.instance, err = c.dir.instance(c.cfg); err != nil {
		return err
	}
	c.issuer, err = openIssuer(c.cfg, c.dir.path)
	return err
}

// openIssuer opens the local issuer's key, which it makes on first use.
func openIssuer(cfg *config.Config, dataDir string) (*auth.Issuer, error) {
	path := cfg.Auth.KeyFile
	if path == "" {
		path = filepath.Join(dataDir, issuerName)
	}
	return auth.LoadOrCreateIssuer(path, auth.IssuerOptions{
		Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience, Leeway: zeroIsNone(cfg.Auth.Leeway),
	})
}

// has says whether this instance has a role.
func (c *core) has(role string) bool { return slices.Contains(c.cfg.Roles, role) }

// zeroIsNone turns the configuration's "0s" into what auth calls none.
func zeroIsNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (c *core) openStores(ctx context.Context) (err error) {
	c.db, err = openStorage(ctx, c.cfg, c.dir.path, c.instance, c.logger, c.registry)
	if err != nil {
		return err
	}
	c.onClose(c.db.Close)
	return nil
}

func (c *core) openEvents(ctx context.Context) (err error) {
	c.sinkMetrics = event.NewSinkMetrics(c.registry)
	if err := c.openIntake(ctx); err != nil {
		return err
	}
	if err := c.openWindow(ctx); err != nil {
		return err
	}
	if c.ingester, err = c.newIngester(); err != nil {
		return err
	}
	c.reader = event.NewReader(c.db.Events(), c.intake, nil)
	return nil
}

func (c *core) openWindow(ctx context.Context) (err error) {
	d := &c.cfg.Events.Dedupe
	if d.Mode == "off" {
		return nil
	}
	if c.window, err = dedupe.New(dedupe.Options{Window: d.Window, MemoryBytes: int64(d.MemoryBytes)}); err != nil {
		return err
	}
	event.RegisterWindowMetrics(c.registry, c.window)
	began := time.Now()
	if err := c.intake.Fill(ctx, &windowFill{c.window, c.db.Events(), began.Add(-d.Window)}); err != nil {
		return err
	}
	c.logger.Info("dedupe window rebuilt", "events", c.window.Stats().Hashes, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (c *core) newIngester() (*event.Ingester, error) {
	e := &c.cfg.Events
	hooks := make(map[string]*hook.Verifier, len(c.cfg.Hooks))
	for name, h := range c.cfg.Hooks {
		secrets := make([]string, len(h.Secrets))
		for i, s := range h.Secrets {
			secrets[i] = s.Reveal()
		}
		v, err := hook.New(hook.Source{Name: name, TenantID: h.Tenant, Scheme: hook.Scheme(h.Scheme), Secrets: secrets, Tolerance: h.Tolerance})
		if err != nil {
			return nil, err
		}
		hooks[name] = v
	}
	return event.NewIngester(event.IngesterOptions{
		Log: c.intake.log(), Window: c.window, Commits: c.intake, Ack: event.AckMode(e.Ack), StoreAckTimeout: e.StoreAckTimeout, StreamAckTimeout: streamAckTimeout(c.cfg),
		Limits:        scan.Limits{MaxEvents: e.MaxBatchEvents, MaxEventBytes: int(e.MaxEventBytes), MaxDepth: e.MaxDepth},
		KeepBodyBytes: int(e.DeadLetterMaxBytes), Hooks: hooks, Logger: c.logger, Metrics: event.NewIngestMetrics(c.registry),
	})
}

// hookTenant returns the tenant of a configured webhook source.
func (c *core) hookTenant(source string) (tenantID string, known bool) {
	h, ok := c.cfg.Hooks[source]
	return h.Tenant, ok
}

// run sinks events and removes what is too old, until ctx ends. An error means
// that the process should go down.
func (c *core) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var chores sync.WaitGroup
	chores.Go(func() { c.retain(ctx) })
	for _, ch := range c.db.chores {
		chores.Go(func() { c.keepHouse(ctx, ch) })
	}
	if c.syncer != nil {
		chores.Go(func() { c.syncer.Run(ctx) })
	}
	for _, follow := range c.reads.followers {
		chores.Go(func() { c.follow(ctx, follow) })
	}
	defer func() { cancel(); chores.Wait() }()
	return c.intake.Run(ctx)
}
