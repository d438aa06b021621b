package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"millrace/internal/servers"
)

// databaseUser owns the database and has no other rights.
const databaseUser = "millrace"

// backing are the servers that the instances stand on.
type backing struct {
	postgres *servers.Postgres
	replica  *servers.PostgresReplica
	redis    *servers.Redis
	nats     *servers.NATS
}

// startBacking starts all of them side by side. What was started is in b also when
// there is an error.
func (b *backing) start(ctx context.Context, data string, p ports, logger *slog.Logger) error {
	options := func(name string, port int) servers.Options {
		return servers.Options{Dir: filepath.Join(data, name), Port: port, Logger: logger}
	}
	var wg sync.WaitGroup
	var errs [3]error
	wg.Go(func() {
		b.postgres, errs[0] = servers.StartPostgres(ctx, servers.PostgresOptions{Options: options("postgres", p.Postgres), Tuned: true})
		if errs[0] == nil {
			b.replica, errs[0] = b.postgres.StartReplica(ctx, servers.ReplicaOptions{Options: options("postgres-replica", p.Replica)})
		}
	})
	wg.Go(func() {
		b.redis, errs[1] = servers.StartRedis(ctx, servers.RedisOptions{Options: options("redis", 0)})
	})
	wg.Go(func() {
		b.nats, errs[2] = servers.StartNATS(ctx, servers.NATSOptions{Options: options("nats", 0), Nodes: 3})
	})
	wg.Wait()
	return errors.Join(errs[:]...)
}

// stop ends what was started.
func (b *backing) stop(ctx context.Context) error {
	var errs []error
	if b.nats != nil {
		errs = append(errs, b.nats.Stop(ctx))
	}
	if b.redis != nil {
		errs = append(errs, b.redis.Stop(ctx))
	}
	if b.postgres != nil { // and its replica
		errs = append(errs, b.postgres.Stop(ctx))
	}
	return errors.Join(errs...)
}

// environment is the configuration that all instances share. Secrets are in files
// that their variables name.
func (b *backing) environment(ctx context.Context, c *cluster) ([]string, error) {
	password, err := c.secret("database-password")
	if err != nil {
		return nil, err
	}
	if err := b.postgres.CreateOwner(ctx, databaseUser, password, "millrace"); err != nil {
		return nil, err
	}
	var monitors []string
	for _, n := range b.nats.Nodes() {
		monitors = append(monitors, n.MonitorURL())
	}
	env := []string{
		"MILLRACE_AUTH__KEY_FILE=" + c.issuerKey(),
		"MILLRACE_STORE__DRIVER=postgres",
		"MILLRACE_REDIS__ADDRESSES=" + b.redis.Addr(),
		"MILLRACE_BUS__DRIVER=nats",
		"MILLRACE_BUS__NATS__URL=" + b.nats.URL(),
		"MILLRACE_BUS__NATS__USER=" + b.nats.User(),
		"MILLRACE_BUS__NATS__REPLICAS=3",
		"MILLRACE_BUS__NATS__MONITOR_URLS=" + strings.Join(monitors, ","),
		// The demo's merchant is in one instance; all of them deliver to it.
		// A client that repeats a batch may reach another instance.
		"MILLRACE_EVENTS__DEDUPE__MODE=exact",
		"MILLRACE_WEBHOOKS__ALLOWED_NETS=127.0.0.1/32",
	}
	for variable, secret := range map[string]string{
		"MILLRACE_STORE__POSTGRES__DSN":         b.postgres.DSNAs(b.postgres.Addr(), "millrace", databaseUser, password),
		"MILLRACE_STORE__POSTGRES__REPLICA_DSN": b.postgres.DSNAs(b.replica.Addr(), "millrace", databaseUser, password),
		"MILLRACE_REDIS__PASSWORD":              b.redis.Password(),
		"MILLRACE_BUS__NATS__PASSWORD":          b.nats.Password(),
	} {
		path := c.in("secrets", strings.ToLower(variable))
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			return nil, err
		}
		env = append(env, variable+"_FILE="+path)
	}
	return env, nil
}
