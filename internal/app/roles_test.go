package app

import (
	"fmt"
	"path/filepath"
	"testing"

	"millrace/internal/config"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// fleet gives the configuration of instances that share a database, a broker and
// an issuer.
func fleet(t *testing.T) func(roles ...string) *config.Config {
	t.Helper()
	dsn := servertest.Database(t, servertest.Postgres(t, servers.PostgresOptions{}))
	broker := servertest.NATS(t, servers.NATSOptions{})
	key := filepath.Join(t.TempDir(), "issuer.key")
	return func(roles ...string) *config.Config {
		cfg := testConfig(t)
		cfg.Roles = roles
		cfg.Store.Driver, cfg.Store.Postgres.DSN = "postgres", config.NewSecret(dsn)
		n := &cfg.Bus.NATS
		n.URL, n.User, n.Password = broker.URL(), broker.User(), config.NewSecret(broker.Password())
		cfg.Auth.KeyFile = key
		cfg.Events.Stream.Replicas, cfg.Events.Stream.Partitions = 1, 2
		cfg.Events.Stream.MaxBytes = 64 * config.MiB
		return cfg
	}
}

func TestRolesPartTheWork(t *testing.T) {
	instance := fleet(t)
	var all []*server
	for _, role := range []string{config.RoleAPI, config.RoleSink, config.RoleWorker} {
		cfg := instance(role)
		cfg.Events.Ack = "stream" // nobody has a log of its own
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		all = append(all, start(t, cfg))
	}
	api, sink, worker := all[0], all[1], all[2]
	token := mint(t, api.cfg, "demo", "admin")
	for _, s := range all {
		s.token = token
		s.want(200, "GET", "/readyz", "")
	}
	for _, s := range []*server{sink, worker} {
		s.want(404, "POST", "/events", `[{"type":"t","payload":1}]`)
	}

	api.want(202, "POST", "/events", `[{"id":"e1","type":"t","payload":1}]`)
	api.eventually("an event that one instance took and another stored can be read", func() error {
		if n := api.countIDs()["e1"]; n != 1 {
			return fmt.Errorf("it is there %d times", n)
		}
		return nil
	})

	api.sell("thing", 1)
	id := api.place("thing", "tok_ok", "first")
	api.reaches(id, "fulfilling")
	api.want(409, "POST", "/orders", orderBody("thing", "tok_ok"), "Idempotency-Key", "second")
	api.eventually("what happened to the order is among the events", func() error {
		if n := api.countIDs()[id+"-3"]; n != 1 {
			return fmt.Errorf("order.paid is there %d times", n)
		}
		return nil
	})
	for _, s := range all {
		s.halt()
	}
}

func TestInstancesShareWhatTheyKeep(t *testing.T) {
	instance := fleet(t)
	roles := []string{config.RoleAPI, config.RoleSink, config.RoleWorker}
	one, two := start(t, instance(roles...)), start(t, instance(roles...))
	two.token = one.token // of the same issuer

	one.want(202, "POST", "/events", `[{"id":"of one","type":"t","payload":1}]`)
	two.want(202, "POST", "/events", `[{"id":"of two","type":"t","payload":2}]`)
	for _, s := range []*server{one, two} {
		s.eventually("each instance has both events", func() error {
			if got := s.countIDs(); got["of one"] != 1 || got["of two"] != 1 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}

	one.sell("thing", 5)
	id := two.place("thing", "tok_ok", "the-key")
	again := one.want(202, "POST", "/orders", orderBody("thing", "tok_ok"), "Idempotency-Key", "the-key")
	var placed struct{ ID string }
	again.into(t, &placed)
	if placed.ID != id || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the key's second use made order %s on the other instance, the first was %s", placed.ID, id)
	}
	one.reaches(id, "fulfilling")
	if l := two.level("thing"); l.Reserved != 1 {
		t.Errorf("one order reserved %d", l.Reserved)
	}
	// The books of the sandbox are one: what one instance captured the other sees.
	var books struct{ Charges []struct{ OrderID string } }
	two.want(200, "GET", "/sandbox/charges", "").into(t, &books)
	if len(books.Charges) != 1 || books.Charges[0].OrderID != id {
		t.Errorf("the sandbox has %+v", books)
	}
}
