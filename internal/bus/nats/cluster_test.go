//go:build unix

package nats_test

import (
	"context"
	"testing"
	"time"

	"millrace/internal/bus"
	"millrace/internal/bus/bustest"
	"millrace/internal/bus/nats"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// cluster is three brokers in processes of their own, with streams on all of them.
type cluster struct{ *servers.NATS }

func newCluster(t testing.TB) *cluster {
	return &cluster{servertest.NATS(t, servers.NATSOptions{Nodes: 3})}
}

func (c *cluster) options() nats.Options {
	return nats.Options{URL: c.URL(), User: c.User(), Password: c.Password(), Replicas: 3}
}

func (c *cluster) Open(t testing.TB) bus.Bus { return open(t, c.options()) }

func (c *cluster) Stop(t testing.TB) {
	t.Helper()
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) Start(t testing.TB, empty bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := c.Restart
	if empty {
		start = c.RestartEmpty
	}
	if err := start(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestConformanceOfAClusterOfThree(t *testing.T) {
	bustest.Run(t, func(t testing.TB) bustest.Broker { return newCluster(t) }, bustest.Gaps{})
}
