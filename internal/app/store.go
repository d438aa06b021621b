package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/config"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/lease"
	"millrace/internal/order"
	"millrace/internal/outbox"
	"millrace/internal/payment/sandbox"
	"millrace/internal/store/postgres"
	storesql "millrace/internal/store/sql"
	"millrace/internal/store/sqlite"
)

// database is the store of everything, whichever it is.
type database interface {
	Events() event.Store
	DeadLetters() deadletter.Store
	Keys() auth.KeyStore
	Orders() order.Store
	Outbox() outbox.Store
	Catalog() *storesql.Catalog
	Places() *storesql.Places
	Inventory() inventory.Store
	Audit() audit.Store
	Webhooks() fulfilment.Store
	Leases() lease.Store
	Ping(ctx context.Context) error
	Close() error
}

// chore is what a store wants done from time to time. Every instance does it, and
// they do not get in each other's way.
type chore struct {
	name  string
	every time.Duration
	do    func(ctx context.Context) error
}

// storage is a database with what only one kind of it has.
type storage struct {
	database
	chores []chore
	// ledger is where the payment sandbox keeps its books, nil for a file of its own.
	ledger sandbox.Ledger
}

// openStorage opens the store that the configuration names.
func openStorage(ctx context.Context, cfg *config.Config, dir, instance string, logger *slog.Logger, registry prometheus.Registerer) (*storage, error) {
	if cfg.Store.Driver == "postgres" {
		return openPostgres(ctx, cfg, instance, logger, registry)
	}
	db, err := sqlite.Open(ctx, sqlite.Options{Dir: dir, Logger: logger, Metrics: sqlite.NewMetrics(registry)})
	if err != nil {
		return nil, err
	}
	return &storage{database: db}, nil
}

// How often the chores on PostgreSQL are done.
const (
	maintainEvery = time.Minute
	adoptEvery    = 3 * time.Second
)

func openPostgres(ctx context.Context, cfg *config.Config, instance string, logger *slog.Logger, registry prometheus.Registerer) (*storage, error) {
	o, err := postgresOptions(cfg, instance, logger)
	if err != nil {
		return nil, err
	}
	o.Metrics = postgres.NewMetrics(registry)
	db, err := waitFor(ctx, cfg.Store.Postgres.StartTimeout, logger, func(ctx context.Context) (*postgres.DB, error) { return postgres.Open(ctx, o) })
	if err != nil {
		return nil, err
	}
	return &storage{database: db, ledger: db.SandboxLedger(), chores: []chore{
		{"maintain the partitions of events", maintainEvery, func(ctx context.Context) error { return db.MaintainEvents(ctx, time.Now()) }},
		{"take over what instances that are gone left in the outbox", adoptEvery, func(ctx context.Context) error {
			_, err := db.AdoptOutbox(ctx)
			return err
		}},
	}}, nil
}

// postgresOptions are what the configuration says of the database.
func postgresOptions(cfg *config.Config, instance string, logger *slog.Logger) (postgres.Options, error) {
	p := &cfg.Store.Postgres
	tls, err := p.TLS.Config()
	if err != nil {
		return postgres.Options{}, fmt.Errorf("store.postgres.%w", err)
	}
	details, err := json.Marshal(map[string]string{"version": Version(), "roles": strings.Join(cfg.Roles, ","), "listen": cfg.HTTP.Listen})
	if err != nil {
		return postgres.Options{}, err
	}
	return postgres.Options{
		DSN: p.DSN.Reveal(), ReplicaDSN: p.ReplicaDSN.Reveal(), ReplicaMaxLag: p.ReplicaMaxLag, TLS: tls,
		Instance: instance, Details: string(details), ReadRole: p.ReadRole, MaxConns: p.MaxConnections,
		StatementTimeout: p.StatementTimeout, ConnectTimeout: p.ConnectTimeout, PartitionsAhead: p.PartitionsAhead, Migrate: p.Migrate, Logger: logger,
	}, nil
}

// Pauses between two tries to reach a service at the start.
const (
	firstStartPause = 200 * time.Millisecond
	longStartPause  = 5 * time.Second
)

// waitFor opens what needs a service that may not be there yet, such as a database
// that starts at the same time, for so long.
func waitFor[T any](ctx context.Context, timeout time.Duration, logger *slog.Logger, open func(context.Context) (T, error)) (T, error) {
	deadline := time.Now().Add(timeout)
	for pause := firstStartPause; ; pause = min(2*pause, longStartPause) {
		x, err := open(ctx)
		if err == nil || !postgres.Unavailable(err) || time.Now().Add(pause).After(deadline) {
			return x, err
		}
		logger.Warn("the database cannot be reached; this instance waits for it", "error", err, "retryIn", pause, "givesUpIn", time.Until(deadline).Round(time.Second))
		select {
		case <-ctx.Done():
			return x, errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// keepHouse does the chores until ctx ends. One that fails is told of once, and
// again when it succeeds.
func (c *core) keepHouse(ctx context.Context, ch chore) {
	failing := false
	tick := time.NewTicker(ch.every)
	defer tick.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, max(ch.every, choreTimeout))
		err := ch.do(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			c.logger.Warn("a chore of the store failed; it is tried again", "chore", ch.name, "error", err, "retryIn", ch.every)
		case err == nil && failing:
			c.logger.Info("a chore of the store succeeds again", "chore", ch.name)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// choreTimeout bounds one run of a chore at the least.
const choreTimeout = 30 * time.Second
