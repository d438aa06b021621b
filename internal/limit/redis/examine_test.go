package redis

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

func TestWhatAServerSaysIsGraded(t *testing.T) {
	info := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name string
		got  Check
		want Grade
	}{
		{"an old version", version(info("redis_version", "6.0.16")), Failure},
		{"the oldest that does", version(info("redis_version", "6.2.0")), OK},
		{"a version with two digits", version(info("redis_version", "10.0.1")), OK},
		{"a version that is none", version(info()), Unknown},
		{"Valkey", version(info("redis_version", "7.2.4", "valkey_version", "8.1.0")), OK},
		{"memory that is never freed", memory(info("maxmemory_policy", "noeviction", "maxmemory", "1000", "used_memory", "100")), OK},
		{"memory that is almost full", memory(info("maxmemory_policy", "noeviction", "maxmemory", "1000", "used_memory", "950")), Warning},
		{"memory that is freed of what expires", memory(info("maxmemory_policy", "volatile-lru", "maxmemory", "1000", "used_memory", "100")), OK},
		{"and is almost full", memory(info("maxmemory_policy", "volatile-lru", "maxmemory", "1000", "used_memory", "950")), Warning},
		{"memory that is freed of anything", memory(info("maxmemory_policy", "allkeys-lfu", "maxmemory", "0", "used_memory", "100")), Warning},
		{"memory of which nothing is said", memory(info()), Unknown},
		{"a replica", role(info("role", "slave", "redis_mode", "standalone")), Failure},
		{"a replica in a cluster", role(info("role", "slave", "redis_mode", "cluster")), OK},
		{"a server that is loading", role(info("role", "master", "loading", "1")), Warning},
	} {
		if c.got.Grade != c.want || c.want != OK && c.want != Unknown && c.got.Advice == "" {
			t.Errorf("%s: got %+v, want %q", c.name, c.got, c.want)
		}
	}
}

func TestExamineSaysHowTheServerIs(t *testing.T) {
	server := servertest.Redis(t, servers.RedisOptions{})
	r := connectTo(t, server, nil)
	graded := func() map[string]Grade {
		grades := map[string]Grade{}
		for _, c := range r.Examine(testContext(t)) {
			grades[c.Name] = c.Grade
			if c.Found == "" {
				t.Errorf("%s says nothing", c.Name)
			}
		}
		return grades
	}
	good := map[string]Grade{"TLS": OK, "reachable": OK, "clock": OK, "version": OK, "memory": OK, "role": OK}
	got := graded()
	if got["reachable"] == Warning {
		got["reachable"] = OK // how fast it answers depends on what else this machine does
	}
	if diff := cmp.Diff(good, got); diff != "" {
		t.Errorf("a server as it comes (-want +got):\n%s", diff)
	}
	if _, err := server.Do(testContext(t), "CONFIG", "SET", "maxmemory-policy", "allkeys-lru"); err != nil {
		t.Fatal(err)
	}
	if got := graded()["memory"]; got != Warning {
		t.Errorf("a server that removes any key is graded %q, want a warning", got)
	}
	if _, err := server.Do(testContext(t), "REPLICAOF", "127.0.0.1", "1"); err != nil {
		t.Fatal(err)
	}
	if got := graded()["role"]; got != Failure {
		t.Errorf("a replica is graded %q, want a failure", got)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	checks := r.Examine(ctx)
	if last := checks[len(checks)-1]; last.Name != "reachable" || last.Grade != Failure || last.Advice == "" {
		t.Errorf("a server that is gone: %+v", checks)
	}
}
