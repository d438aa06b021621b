package servers_test

import (
	"context"
	"testing"
	"time"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

func TestRedisIsKilledRestartedPausedAndFlushed(t *testing.T) {
	ctx := testContext(t)
	r := servertest.Redis(t, servers.RedisOptions{Durable: true})
	must := func(want string, args ...string) {
		t.Helper()
		if got, err := r.Do(ctx, args...); err != nil || got != want {
			t.Errorf("%v: got %q, %v; want %q", args, got, err, want)
		}
	}
	must("OK", "SET", "k", "v")
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Do(ctx, "PING"); err == nil {
		t.Error("a killed server answers")
	}
	if err := r.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	must("v", "GET", "k")
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	if _, err := r.Do(short, "PING"); err == nil {
		t.Error("a paused server answers")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	must("PONG", "PING")
	if err := r.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	must("", "GET", "k")
}

func TestRedisSpeaksTLSAndRunsAsAClusterOfOne(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := servertest.Redis(t, servers.RedisOptions{Options: servers.Options{TLS: servertest.Certificate(t, "redis")}, Cluster: true})
	if got, err := r.Do(ctx, "SET", "k", "v"); err != nil || got != "OK" {
		t.Errorf("got %q, %v", got, err)
	}
}
