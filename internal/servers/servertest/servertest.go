// Package servertest gives tests the private servers of package servers: started
// when a test asks, ended when it is over, with the end of their logs told when it
// fails.
//
// A server that takes long to start is shared by the tests of a package:
//
//	var shared servertest.Shared // package level, in a _test.go file
//
//	func TestX(t *testing.T) {
//		db := servertest.Database(t, shared.Postgres(t))
//		...
//	}
//
// Shared servers end with the test process, however it ends; a test that kills or
// pauses one starts its own instead.
package servertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/servers"
)

// timeout bounds a start, installation by apt-get included, and a stop.
const timeout = 10 * time.Minute

// Postgres starts a PostgreSQL server for one test.
func Postgres(t testing.TB, o servers.PostgresOptions) *servers.Postgres {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.Postgres, error) { return servers.StartPostgres(ctx, o) })
}

// Replica starts a streaming replica for one test.
func Replica(t testing.TB, primary *servers.Postgres, o servers.ReplicaOptions) *servers.PostgresReplica {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.PostgresReplica, error) { return primary.StartReplica(ctx, o) })
}

// Database creates an empty database of a random name for one test and returns its
// URL. It is dropped at the end.
func Database(t testing.TB, p *servers.Postgres) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	name := "test_" + uuid.NewString()
	if err := p.CreateDatabase(ctx, name, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.DropDatabase(ctx, name); err != nil {
			t.Errorf("after the test: %v", err)
		}
	})
	return p.DSNFor(name)
}

// Proxy starts a proxy in front of a server for one test.
func Proxy(t testing.TB, o servers.ProxyOptions) *servers.Proxy {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.Proxy, error) { return servers.StartProxy(ctx, o) })
}

// PostgresProxy starts a proxy that follows PostgreSQL's protocol.
func PostgresProxy(t testing.TB, p *servers.Postgres) *servers.Proxy {
	t.Helper()
	return Proxy(t, servers.ProxyOptions{Target: p.Addr(), Postgres: true})
}

// Redis starts a Redis server for one test.
func Redis(t testing.TB, o servers.RedisOptions) *servers.Redis {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.Redis, error) { return servers.StartRedis(ctx, o) })
}

// RabbitMQ starts a RabbitMQ server for one test.
func RabbitMQ(t testing.TB, o servers.RabbitMQOptions) *servers.RabbitMQ {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.RabbitMQ, error) { return servers.StartRabbitMQ(ctx, o) })
}

// NATS starts a NATS server or cluster for one test.
func NATS(t testing.TB, o servers.NATSOptions) *servers.NATS {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.NATS, error) { return servers.StartNATS(ctx, o) })
}

// Nginx starts nginx for one test.
func Nginx(t testing.TB, o servers.NginxOptions) *servers.Nginx {
	t.Helper()
	return start(t, func(ctx context.Context) (*servers.Nginx, error) { return servers.StartNginx(ctx, o) })
}

// Certificate makes a certificate for servers and clients of one test.
func Certificate(t testing.TB, commonName string) *servers.Certificate {
	t.Helper()
	c, err := servers.NewCertificate(t.TempDir(), commonName)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// server is what all servers have.
type server interface {
	Stop(ctx context.Context) error
	Log() string
}

// start starts a server and sees to its end.
func start[S server](t testing.TB, begin func(context.Context) (S, error)) S {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of %T:\n%s", s, s.Log())
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return s
}

// Shared starts each of its servers when it is first asked for and keeps it until
// the test process ends. The zero value is ready. It is safe for concurrent use.
type Shared struct {
	postgres once[*servers.Postgres]
	redis    once[*servers.Redis]
	rabbitmq once[*servers.RabbitMQ]
	nats     once[*servers.NATS]
}

// Postgres returns the shared PostgreSQL server.
func (s *Shared) Postgres(t testing.TB) *servers.Postgres {
	t.Helper()
	return s.postgres.get(t, func(ctx context.Context) (*servers.Postgres, error) {
		return servers.StartPostgres(ctx, servers.PostgresOptions{})
	})
}

// Redis returns the shared Redis server.
func (s *Shared) Redis(t testing.TB) *servers.Redis {
	t.Helper()
	return s.redis.get(t, func(ctx context.Context) (*servers.Redis, error) {
		return servers.StartRedis(ctx, servers.RedisOptions{})
	})
}

// RabbitMQ returns the shared RabbitMQ server.
func (s *Shared) RabbitMQ(t testing.TB) *servers.RabbitMQ {
	t.Helper()
	return s.rabbitmq.get(t, func(ctx context.Context) (*servers.RabbitMQ, error) {
		return servers.StartRabbitMQ(ctx, servers.RabbitMQOptions{})
	})
}

// NATS returns the shared cluster of three NATS servers.
func (s *Shared) NATS(t testing.TB) *servers.NATS {
	t.Helper()
	return s.nats.get(t, func(ctx context.Context) (*servers.NATS, error) {
		return servers.StartNATS(ctx, servers.NATSOptions{Nodes: 3})
	})
}

// once starts a server once.
type once[S server] struct {
	mu      sync.Mutex
	started bool
	value   S
	err     error
}

func (o *once[S]) get(t testing.TB, begin func(context.Context) (S, error)) S {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.started {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		o.started = true
		o.value, o.err = begin(ctx)
	}
	if o.err != nil {
		t.Fatal(o.err)
	}
	value := o.value
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of the shared %T:\n%s", value, value.Log())
		}
	})
	return value
}
