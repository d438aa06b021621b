package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// services checks the store, Redis, the bus, the stream and the roles.
func (v *validator) services(c *Config) {
	v.roles(c)
	v.postgres(&c.Store)
	v.redis(&c.Redis)
	v.bus(c)
	v.stream(c)
	v.reads(c)
	v.quota("events.rate.quota", c.Events.Rate.Quota)
	v.quota("orders.rate.quota", c.Orders.Rate.Quota)
}

var instancePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (v *validator) roles(c *Config) {
	if c.Instance != "" && !instancePattern.MatchString(c.Instance) {
		v.add("instance", strconv.Quote(c.Instance), "it is not a name; write 1 to 63 of letters, digits, '.', '_' and '-'")
	}
	if len(c.Roles) == 0 {
		v.add("roles", "[]", "an instance without a role does nothing; give one or more of api, sink, worker")
	}
	has := func(role string) bool { return slices.Contains(c.Roles, role) }
	if !has(RoleSink) && c.Events.Ack != "stream" {
		v.add("roles", strings.Join(c.Roles, ","), "an instance with a log of its own must bring it into the database too; add sink, or set events.ack to stream")
	}
	if c.Store.Driver == "sqlite" && !(has(RoleAPI) && has(RoleSink) && has(RoleWorker)) {
		v.add("roles", strings.Join(c.Roles, ","), "with store.driver sqlite there is only this one instance; leave roles out, or set store.driver to postgres")
	}
	if c.Demo.Enabled && !(has(RoleAPI) && has(RoleWorker)) {
		v.add("demo.enabled", "true", "the demo shop needs the roles api and worker")
	}
}

func (v *validator) postgres(s *Store) {
	if s.Driver != "postgres" {
		return
	}
	p := &s.Postgres
	if p.DSN.value == "" {
		v.add("store.postgres.dsn", mask, "it is empty; set MILLRACE_STORE__POSTGRES__DSN, or MILLRACE_STORE__POSTGRES__DSN_FILE to a file with it, to a URL such as postgres://millrace@db-1:5432/millrace")
	}
	if !regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`).MatchString(p.ReadRole) {
		v.add("store.postgres.readRole", strconv.Quote(p.ReadRole), "it is not the name of a role; write a-z, 0-9 and _")
	}
}

func (v *validator) redis(r *Redis) {
	for _, a := range r.Addresses {
		v.hostPort("redis.addresses", a, "redis-1:6379")
	}
	if len(r.Addresses) > 1 && r.Database != 0 {
		v.add("redis.database", strconv.Itoa(r.Database), "a cluster has only database 0; give one address, or database 0")
	}
}

func (v *validator) hostPort(key, address, example string) {
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		v.add(key, strconv.Quote(address), "it is not host:port; write one such as %s", example)
	}
}

func (v *validator) bus(c *Config) {
	switch b := &c.Bus; b.Driver {
	case "nats":
		v.nats(&b.NATS)
		if b.NATS.URL == "" && b.NATS.Replicas > 1 {
			v.add("bus.nats.replicas", strconv.Itoa(b.NATS.Replicas), "the embedded broker is one server; set bus.nats.url, or replicas to 1")
		}
		if b.NATS.URL == "" && !slices.Contains(c.Roles, RoleWorker) {
			v.add("bus.nats.url", `""`, "no worker hears the embedded broker of an instance without the role worker; set it to a NATS server of all instances, or choose another bus.driver")
		}
	case "rabbitmq":
		if len(b.RabbitMQ.URLs) == 0 {
			v.add("bus.rabbitmq.urls", "[]", "it is empty; name the nodes, such as amqp://rabbit-1:5672")
		}
		for _, one := range b.RabbitMQ.URLs {
			v.serviceURL("bus.rabbitmq.urls", one, "amqp://rabbit-1:5672", "bus.rabbitmq.user and bus.rabbitmq.password", "amqp", "amqps")
		}
		if n := b.RabbitMQ.Replicas; n > 0 && n%2 == 0 {
			v.add("bus.rabbitmq.replicas", strconv.Itoa(n), "an even number survives no more losses than one less; write an odd one, or 0")
		}
	case "kafka":
		if len(b.Kafka.Brokers) == 0 {
			v.add("bus.kafka.brokers", "[]", "it is empty; name some brokers, such as kafka-1:9092")
		}
		for _, one := range b.Kafka.Brokers {
			v.hostPort("bus.kafka.brokers", one, "kafka-1:9092")
		}
	}
}

// serviceURL checks the URL of a service, which must not carry credentials:
// those are secrets, and URLs are logged.
func (v *validator) serviceURL(key, text, example, credentials string, schemes ...string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme):
		v.add(key, strconv.Quote(redactURL(text)), "it is not such a URL; write one such as %s", example)
	case u.User != nil:
		v.add(key, strconv.Quote(redactURL(text)), "it carries a password; set %s instead, best by their variables", credentials)
	}
}

func (v *validator) stream(c *Config) {
	if c.Events.Ack != "stream" {
		return
	}
	if !instancePattern.MatchString(c.Events.Stream.Name) || strings.Contains(c.Events.Stream.Name, ".") {
		v.add("events.stream.name", strconv.Quote(c.Events.Stream.Name), "it is not a name of a stream; write 1 to 63 of letters, digits, '_' and '-'")
	}
	switch {
	case c.Bus.Driver == "rabbitmq":
		v.add("events.ack", `"stream"`, "RabbitMQ has no stream that can be read from a position; set bus.driver to nats or kafka, or use wal")
	case c.Bus.Driver == "nats" && c.Bus.NATS.URL == "":
		v.add("events.ack", `"stream"`, "the embedded broker replicates nothing; set bus.nats.url to a cluster of NATS servers, or use wal, store or memory")
	}
}

func (v *validator) quota(section string, q Quota) {
	if q.Limit > 0 && q.Window < time.Second {
		v.add(section+".window", q.Window.String(), "a quota needs a window of at least a second")
	}
}
