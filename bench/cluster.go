package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/blackbox"
	"millrace/internal/servers"
)

// clusterScenarios lists what is measured of the same binary on PostgreSQL, Redis
// and NATS, which share the cores with it.
func clusterScenarios() []scenario {
	return []scenario{
		{"cluster", "pg-events-sustained", "PostgreSQL: the highest rate at which the backlog stays level, each for 15 s, against one INSERT per request into the same tables", pgSustained},
		{"cluster", "pg-events-50k", "PostgreSQL: 50,000 events a second in batches of 100 of 480 B for 60 s, after 15 s at that rate, and embedded", pg50k},
		{"cluster", "pg-events-three", "PostgreSQL: events sent as fast as they are answered, until all are queryable: one instance, and the same load and settings split over three", pgThree},
		{"cluster", "pg-stream", "events.ack stream on three NATS servers that sync always: events sent as fast as they are answered, until all are queryable, against ack wal, and 50,000 a second", pgStream},
		{"cluster", "pg-outage", "PostgreSQL killed for 60 s at 20,000 events a second", pgOutage},
		{"cluster", "pg-orders-hot", "PostgreSQL: orders for one product, as fast as the server answers for 10 s, workers paused and running, against one transaction for each order on the same HTTP path", pgOrdersHot},
		{"cluster", "pg-orders-1000", "PostgreSQL: the same for 1,000 products", pgOrders1000},
		{"cluster", "pg-orders-three", "PostgreSQL: orders for one product, workers paused: one instance, and the same load and settings split over three", pgOrdersThree},
		{"cluster", "pg-cost", "What one event and one order cost in each part, with three NATS servers: CPU beyond that of the idle parts, bytes of WAL and on disk", pgCost},
	}
}

// backing are the servers that instances share, private to one scenario.
type backing struct {
	postgres *servers.Postgres
	redis    *servers.Redis
	nats     *servers.NATS
	dir      string // everything of them and of the issuer
	password string // of the databases' owner
	token    string // of the issuer that all instances share
	made     int    // databases so far
}

// databaseUser owns the databases: a user with no more rights than the server needs.
const databaseUser = "millrace"

// backing starts PostgreSQL, Redis and NATS and notes how they are set.
func (b *bench) backing(ctx context.Context, r *result, natsNodes int) (s *backing, err error) {
	b.started++
	s = &backing{dir: filepath.Join(b.dir, "servers-"+strconv.Itoa(b.started)), password: "bench"}
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		return nil, err
	}
	// PostgreSQL's user, if that is another, must come to its files.
	if err := os.Chmod(b.dir, 0o711); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	place := func(name string) servers.Options {
		if _, ok := servers.Reachable(b.dir); !ok {
			return servers.Options{} // the system's directory for temporary files
		}
		return servers.Options{Dir: filepath.Join(s.dir, name)}
	}
	if s.postgres, err = servers.StartPostgres(ctx, servers.PostgresOptions{Options: place("postgres"), Tuned: true}); err != nil {
		return s, err
	}
	if s.redis, err = servers.StartRedis(ctx, servers.RedisOptions{Options: place("redis")}); err != nil {
		return s, err
	}
	if s.nats, err = servers.StartNATS(ctx, servers.NATSOptions{Options: place("nats"), Nodes: natsNodes}); err != nil {
		return s, err
	}
	if s.token, err = blackbox.TokenFor(ctx, b.binary, s.issuer(), "bench", "admin"); err != nil {
		return s, err
	}
	return s, s.note(ctx, r, natsNodes)
}

func (s *backing) issuer() string { return filepath.Join(s.dir, "issuer") }

// note notes the settings that decide what a commit costs and keeps.
func (s *backing) note(ctx context.Context, r *result, natsNodes int) error {
	c, err := pgx.Connect(ctx, s.postgres.DSN())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, `SELECT name || '=' || current_setting(name) FROM pg_settings WHERE name IN
('fsync', 'synchronous_commit', 'full_page_writes', 'wal_compression', 'shared_buffers', 'max_wal_size', 'wal_buffers', 'checkpoint_timeout', 'server_version') ORDER BY name`)
	if err != nil {
		return err
	}
	settings, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	r.note("PostgreSQL: %s. NATS servers: %d, sync_interval=always. Redis: nothing kept. All of them on the same cores and disk.", strings.Join(settings, ", "), natsNodes)
	r.note("`shared.env` names them to each instance: the store's driver and DSN, Redis' and NATS' addresses and passwords, the issuer's key; and rates that are never reached, so that they are counted in Redis.")
	r.command("set -a; . ./shared.env", nil)
	return nil
}

// stop ends all servers and removes their files.
func (s *backing) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	var errs []error
	if s.nats != nil {
		errs = append(errs, s.nats.Stop(ctx))
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Stop(ctx))
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Stop(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// database makes an empty database that is the owner's.
func (s *backing) database(ctx context.Context) (name string, err error) {
	s.made++
	name = "bench" + strconv.Itoa(s.made)
	if err := s.postgres.CreateDatabase(ctx, name, ""); err != nil {
		return "", err
	}
	return name, s.postgres.CreateOwner(ctx, databaseUser, s.password, name)
}

// dsn is the owner's URL of a database.
func (s *backing) dsn(database string) string {
	return s.postgres.DSNAs(s.postgres.Addr(), database, databaseUser, s.password)
}

// environment is what the instances on one database share.
func (s *backing) environment(database string) []string {
	return []string{
		"MILLRACE_AUTH__KEY_FILE=" + filepath.Join(s.issuer(), "issuer.key"),
		"MILLRACE_STORE__DRIVER=postgres",
		"MILLRACE_STORE__POSTGRES__DSN=" + s.dsn(database),
		"MILLRACE_REDIS__ADDRESSES=" + s.redis.Addr(),
		"MILLRACE_REDIS__PASSWORD=" + s.redis.Password(),
		"MILLRACE_BUS__DRIVER=nats",
		"MILLRACE_BUS__NATS__URL=" + s.nats.URL(),
		"MILLRACE_BUS__NATS__USER=" + s.nats.User(),
		"MILLRACE_BUS__NATS__PASSWORD=" + s.nats.Password(),
		"MILLRACE_BUS__NATS__REPLICAS=" + strconv.Itoa(min(len(s.nats.Nodes()), 3)),
		"MILLRACE_EVENTS__RATE__PER_SECOND=100000000",
		"MILLRACE_ORDERS__RATE__PER_SECOND=100000000",
	}
}

// fleet is some instances on one database of their own.
type fleet struct {
	b        *bench
	backing  *backing
	database string
	members  []*target
}

// allConnections is how many connections to PostgreSQL the instances of a fleet may
// have together, as many as one has by default.
const allConnections = 42

// fleet starts instances, beside each other, on an empty database and an empty NATS.
func (b *bench) fleet(ctx context.Context, r *result, s *backing, size int, isReady func(*blackbox.Server, context.Context) error, env ...string) (f *fleet, err error) {
	f = &fleet{b: b, backing: s}
	if s.made > 0 { // streams and consumers are of the database before
		if err := s.nats.RestartEmpty(ctx); err != nil {
			return nil, err
		}
	}
	if f.database, err = s.database(ctx); err != nil {
		return nil, err
	}
	env = append(env, "MILLRACE_STORE__POSTGRES__MAX_CONNECTIONS="+strconv.Itoa(allConnections/size))
	for range size {
		t, err := b.launchWith(ctx, r, launch{dir: b.freshDir(), token: s.token, isReady: isReady, env: env, hidden: s.environment(f.database)})
		if err != nil {
			return nil, errors.Join(err, f.stop(ctx))
		}
		f.members = append(f.members, t)
	}
	return f, nil
}

// stop ends the instances and drops their database.
func (f *fleet) stop(ctx context.Context) error {
	var errs []error
	for _, t := range f.members {
		errs = append(errs, t.stop(ctx))
	}
	f.members = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(append(errs, f.backing.postgres.DropDatabase(ctx, f.database))...)
}

// query asks the fleet's database for one number, as the superuser.
func (f *fleet) query(ctx context.Context, statement string, args ...any) (v float64, err error) {
	c, err := pgx.Connect(ctx, f.backing.postgres.DSNFor(f.database))
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	if err := c.QueryRow(ctx, statement, args...).Scan(&v); err != nil {
		return 0, fmt.Errorf("%s: %w", statement, err)
	}
	return v, nil
}

// ended hands on the error of a scenario, or that of clearing up behind it.
func ended(err *error, stop func(context.Context) error, ctx context.Context) {
	*err = cmp.Or(*err, stop(ctx))
}
