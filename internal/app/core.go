package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"millrace/internal/store/sqlite"
	"millrace/internal/wal"
)

// core is what owns the data of a process: the data directory's lock, the
// databases, the event log and the sink between them. A server and a command
// that opens the data itself stand on the same core.
type core struct {
	cfg      *config.Config
	logger   *slog.Logger
	registry prometheus.Registerer
	closers  []func() error

	dir      *dataDir
	db       *sqlite.DB
	log      *wal.Log
	sink     *event.Sink
	window   *dedupe.Window // nil when deduplication is off
	ingester *event.Ingester
	reader   *event.Reader
	letters  *deadletter.Service
	issuer   *auth.Issuer
	keys     *auth.Keys
	shop     shop
	clock    *cautiousClock
	bus      bus.Bus   // nil without a server
	demo     *demoShop // nil without it
}

// openCore takes the data directory's lock and opens everything in it. It fails
// with errHeld when another process has it. The demo is nil unless a server has
// one.
func openCore(ctx context.Context, cfg *config.Config, logger *slog.Logger, registry prometheus.Registerer, demo *demoShop) (_ *core, err error) {
	c := &core{cfg: cfg, logger: logger, registry: registry, demo: demo, clock: newCautiousClock(time.Now, logger)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, open := range []func(context.Context) error{c.openDir, c.openStores, c.openLog, c.openEvents, c.openShop, c.openLetters} {
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
	c.issuer, err = openIssuer(c.cfg, c.dir.file(issuerName))
	return err
}

// openIssuer opens the local issuer's key, which it makes on first use.
func openIssuer(cfg *config.Config, path string) (*auth.Issuer, error) {
	return auth.LoadOrCreateIssuer(path, auth.IssuerOptions{
		Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience, Leeway: zeroIsNone(cfg.Auth.Leeway),
	})
}

// zeroIsNone turns the configuration's "0s" into what auth calls none.
func zeroIsNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

func (c *core) openStores(ctx context.Context) (err error) {
	c.db, err = sqlite.Open(ctx, sqlite.Options{Dir: c.dir.path, Logger: c.logger, Metrics: sqlite.NewMetrics(c.registry)})
	if err != nil {
		return err
	}
	c.onClose(c.db.Close)
	c.keys, err = auth.NewKeys(c.db.Keys(), nil)
	return err
}

func (c *core) openLog(ctx context.Context) error {
	last, err := c.db.Events().LastReceived(ctx)
	if err != nil {
		return fmt.Errorf("asking the store for its newest event: %w", err)
	}
	e := &c.cfg.Events
	c.log, err = wal.Open(ctx, wal.Options{
		Dir: c.dir.file(walName), SegmentBytes: int64(e.SegmentBytes), MaxBacklogBytes: int64(e.BacklogMaxBytes),
		MaxQueuedBytes: int64(e.QueueMaxBytes), ReserveBytes: max(int64(e.DiskReserveBytes), 1), NotBefore: last,
		Logger: c.logger, Metrics: wal.NewMetrics(c.registry),
	})
	if err != nil {
		return err
	}
	c.onClose(c.log.Close)
	return nil
}

// sinkInterval spaces the commits of the sink while there is little to write: a
// commit of a few rows costs nearly what one of hundreds does. It is part of the
// time from receipt to queryable.
const sinkInterval = 25 * time.Millisecond

func (c *core) openEvents(ctx context.Context) (err error) {
	e, store := &c.cfg.Events, c.db.Events()
	o := event.SinkOptions{
		Log: c.log, Store: store, DeadLetters: c.db.DeadLetters(),
		MaxBatchRows: e.Sink.MaxBatchRows, MaxBatchBytes: int64(e.Sink.MaxBatchBytes), MinInterval: sinkInterval,
		GiveWay: c.giveWay,
		Exact:   e.Dedupe.Mode == "exact", ExactDays: e.Dedupe.ExactDays,
		Logger: c.logger, Metrics: event.NewSinkMetrics(c.registry),
	}
	if e.Ack == string(event.AckStore) {
		o.MinInterval, o.GiveWay = 0, nil // callers wait for the commit
	}
	o.Forget = func(h event.Hash) {
		if c.window != nil {
			c.window.Forget(h)
		}
	}
	if c.sink, err = event.NewSink(o); err != nil {
		return err
	}
	if err := c.sink.Locate(ctx); err != nil {
		return err
	}
	if err := c.openWindow(ctx); err != nil {
		return err
	}
	if c.ingester, err = c.newIngester(); err != nil {
		return err
	}
	c.reader = event.NewReader(store, c.sink, nil)
	return nil
}

// crowd is how many submissions being accepted at once mean that accepting is
// short of something: at 80,000 events a second in batches of a hundred there are
// a handful.
const crowd = 32

// giveWay says whether the sink should leave processor and disk to accepting:
// when there is a crowd, and the backlog is less than half full.
func (c *core) giveWay() bool {
	return c.ingester.Pending() >= crowd && c.log.Backlog() < c.log.MaxBacklog()/2
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
	if err := event.RebuildWindow(ctx, c.window, c.db.Events(), c.log, c.sink.Committed(), began.Add(-d.Window)); err != nil {
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
		Log: c.log, Window: c.window, Commits: c.sink, Ack: event.AckMode(e.Ack), StoreAckTimeout: e.StoreAckTimeout,
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
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.retain(ctx)
	}()
	defer func() { cancel(); <-done }()
	if err := c.sink.Run(ctx); err != nil {
		return fmt.Errorf("the sink stopped: %w", err)
	}
	return nil
}

// drain waits until the store has all of the log, or ctx ends: then the rest is
// stored after the next start.
func (c *core) drain(ctx context.Context) {
	if c.log.Err() != nil {
		return
	}
	if err := c.sink.WaitCommitted(ctx, c.log.Next()); err != nil {
		c.logger.Info("some events are in the log and not yet in the store; the next start goes on with them",
			"records", c.log.Next()-c.sink.Committed())
	}
}
