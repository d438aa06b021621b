package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/blackbox"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

const (
	instanceCount = 3
	// databaseUser owns the database and may do little else, as in production.
	databaseUser, databasePassword = "millrace", "torture"
	// replicaMaxLag is how old a read from the replica may be.
	replicaMaxLag = 2 * time.Second
	// outboxSilence is how long an instance must be silent before others take over what
	// it left in the outbox.
	outboxSilence = 10 * time.Second
	// limitedTenant may send no more than limitedRate events a second, and as many at
	// once.
	limitedTenant = "limited"
	limitedRate   = 300
)

// cluster is Millrace as it runs at scale: instances of the real binary on
// PostgreSQL with a replica, Redis and a broker, behind nginx. Each instance talks
// to the primary through a proxy of its own that injects faults.
type cluster struct {
	t           *testing.T // whose end is the cluster's
	dir, binary string
	postgres    *servers.Postgres
	replica     *servers.PostgresReplica
	redis       *servers.Redis
	nats        *servers.NATS // nil if the broker is another one
	nginx       *servers.Nginx
	direct      *pgxpool.Pool // past the proxies, as the superuser
	env         []string      // what all instances share
	windowed    bool          // events are not recognised by other instances: devices stay with the first
	redisApart  bool          // each instance has a proxy between it and Redis
	instances   []*instance
	watched     map[string]int64 // how far each log file was read
	probes      *prober
}

// instance is one process of Millrace, and the next one at the same place.
type instance struct {
	name   string
	proxy  *servers.Proxy // between it and the primary
	redis  *servers.Proxy // between it and Redis; nil unless redisApart
	o      blackbox.Options
	server *blackbox.Server
}

// newCluster starts all servers but the broker, and no instance yet.
func newCluster(ctx context.Context, t *testing.T) *cluster {
	t.Helper()
	// Not t.TempDir: the servers' users must be able to come there.
	dir, err := os.MkdirTemp("", "millrace-torture-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, watched: map[string]int64{}}
	if c.binary, err = builtBinary(ctx); err != nil {
		t.Fatal(err)
	}
	c.postgres = servertest.Postgres(t, servers.PostgresOptions{Options: servers.Options{Dir: c.in("postgres")}})
	if err := c.postgres.CreateOwner(ctx, databaseUser, databasePassword, "millrace"); err != nil {
		t.Fatal(err)
	}
	c.replica = servertest.Replica(t, c.postgres, servers.ReplicaOptions{})
	c.redis = servertest.Redis(t, servers.RedisOptions{})
	if c.direct, err = pgxpool.New(ctx, c.postgres.DSN()+"&pool_max_conns=2"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.direct.Close)
	if err := os.WriteFile(c.in("millrace.yaml"), fmt.Appendf(nil,
		"events:\n  rate:\n    tenants:\n      %s: {perSecond: %d, burst: %d}\n", limitedTenant, limitedRate, limitedRate), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = []string{
		"MILLRACE_CONFIG=" + c.in("millrace.yaml"),
		"MILLRACE_AUTH__KEY_FILE=" + c.in("issuer.key"),
		"MILLRACE_STORE__DRIVER=postgres",
		"MILLRACE_STORE__POSTGRES__REPLICA_DSN=" + c.postgres.DSNAs(c.replica.Addr(), "millrace", databaseUser, databasePassword),
		"MILLRACE_STORE__POSTGRES__REPLICA_MAX_LAG=" + replicaMaxLag.String(),
		"MILLRACE_REDIS__ADDRESSES=" + c.redis.Addr(),
		"MILLRACE_REDIS__PASSWORD=" + c.redis.Password(),
		"MILLRACE_WEBHOOKS__ALLOWED_NETS=127.0.0.1/32",
		// Clients come to another instance when they send again.
		"MILLRACE_EVENTS__DEDUPE__MODE=exact",
		// Short times, so that what hangs is resolved within the test.
		"MILLRACE_PAYMENTS__TIMEOUT=500ms", "MILLRACE_ORDERS__LEASE=2s", "MILLRACE_ORDERS__PAYMENT_DEADLINE=15s",
	}
	return c
}

// withNATS adds a broker of three servers.
func (c *cluster) withNATS(t *testing.T) *cluster {
	t.Helper()
	c.nats = servertest.NATS(t, servers.NATSOptions{Nodes: 3})
	c.env = append(c.env, "MILLRACE_BUS__DRIVER=nats", "MILLRACE_BUS__NATS__URL="+c.nats.URL(), "MILLRACE_BUS__NATS__USER="+c.nats.User(),
		"MILLRACE_BUS__NATS__PASSWORD="+c.nats.Password(), "MILLRACE_BUS__NATS__REPLICAS=3")
	return c
}

// built is the server's binary for all tests on clusters.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// builtBinary builds the server once.
func builtBinary(ctx context.Context) (string, error) {
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "millrace-torture-bin-"); built.err == nil {
			built.path, built.err = blackbox.Build(ctx, built.dir)
		}
	})
	return built.path, built.err
}

func (c *cluster) in(name ...string) string {
	return filepath.Join(append([]string{c.dir}, name...)...)
}

// start starts instances and nginx in front of them.
func (c *cluster) start(ctx context.Context, t *testing.T, count int) {
	t.Helper()
	c.token(ctx, t, "probe", "nobody", "admin") // makes the issuer's key, which all share
	var upstreams []string
	for n := range count {
		i := c.newInstance(fmt.Sprintf("millrace-%d", n+1))
		c.instances = append(c.instances, i)
		upstreams = append(upstreams, i.o.Listen)
		c.run(t, i)
		if n == 0 {
			c.ready(ctx, t, i) // it brings the schema
		}
	}
	t.Cleanup(func() { c.killAll() })
	for _, i := range c.instances {
		c.ready(ctx, t, i)
	}
	c.nginx = servertest.Nginx(t, servers.NginxOptions{Upstreams: upstreams})
	c.probes = newProber(ctx, t, c)
}

// newInstance prepares an instance that keeps its addresses for good, as
// long as the cluster is there.
func (c *cluster) newInstance(name string) *instance {
	c.t.Helper()
	i := &instance{name: name, proxy: servertest.PostgresProxy(c.t, c.postgres)}
	i.o = blackbox.Options{Binary: c.binary, Data: c.in(name), Output: c.in(name + ".log"), Args: []string{"--log-level", "warn"},
		Env: append(slices.Clone(c.env), "MILLRACE_INSTANCE="+name, "MILLRACE_LOG__FORMAT=json",
			"MILLRACE_STORE__POSTGRES__DSN="+c.postgres.DSNAs(i.proxy.Addr(), "millrace", databaseUser, databasePassword))}
	if c.redisApart {
		i.redis = servertest.Proxy(c.t, servers.ProxyOptions{Target: c.redis.Addr()})
		i.o.Env = append(i.o.Env, "MILLRACE_REDIS__ADDRESSES="+i.redis.Addr()) // the last one counts
	}
	for _, address := range []*string{&i.o.Listen, &i.o.Admin} {
		port, release, err := servers.FreePort()
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(release)
		*address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return i
}

// run starts an instance's process.
func (c *cluster) run(t *testing.T, i *instance) {
	t.Helper()
	var err error
	if i.server, err = blackbox.Start(i.o); err != nil {
		t.Fatal(err)
	}
}

// ready waits until an instance takes events and orders.
func (c *cluster) ready(ctx context.Context, t *testing.T, i *instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := errors.Join(i.server.Ready(ctx), i.server.ReadyForOrders(ctx)); err != nil {
		t.Fatalf("%s: %v", i.name, err)
	}
}

// killAll ends all processes. It is for the end of a test.
func (c *cluster) killAll() {
	for _, i := range c.instances {
		if i.server != nil {
			i.signal(syscall.SIGCONT)
			i.server.Kill()
		}
	}
}

// stopAll ends all instances in order, and expects them to end well.
func (c *cluster) stopAll(ctx context.Context, t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(c.instances))
	for n, i := range c.instances {
		wg.Go(func() { errs[n] = i.server.Stop(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// signal sends a signal to the instance's process.
func (i *instance) signal(sig syscall.Signal) { _ = syscall.Kill(i.server.PID(), sig) }

// token mints a token of a tenant.
func (c *cluster) token(ctx context.Context, t *testing.T, tenant, subject, scopes string) string {
	t.Helper()
	out, err := blackbox.Run(ctx, c.binary, "token", "--data", c.in("tokens"), "--set", "auth.keyFile="+c.in("issuer.key"),
		"--tenant", tenant, "--subject", subject, "--scope", scopes, "--ttl", "24h")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// count asks the database for one number, past proxies and instances.
func (c *cluster) count(ctx context.Context, query string, args ...any) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return n, c.direct.QueryRow(ctx, query, args...).Scan(&n)
}
