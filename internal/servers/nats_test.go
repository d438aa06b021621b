package servers_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

func streams(t *testing.T, n *servers.NATS) jetstream.JetStream {
	t.Helper()
	c, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	js, err := jetstream.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func kept(t *testing.T, n *servers.NATS) uint64 {
	t.Helper()
	s, err := streams(t, n).Stream(testContext(t), "kept")
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestANATSClusterKeepsWhatWasAcknowledgedWhenNodesAreKilled(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	n := servertest.NATS(t, servers.NATSOptions{Nodes: 3})
	js := streams(t, n)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "kept", Subjects: []string{"kept"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	publish := func(id string) {
		t.Helper()
		// A new leader may have to be elected first, and what was sent to the old one
		// is not answered any more: it is sent again under its id.
		for {
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := js.Publish(attempt, "kept", []byte("one"), jetstream.WithMsgID(id))
			cancel()
			switch {
			case err == nil:
				return
			case ctx.Err() != nil:
				t.Fatal(err)
			}
		}
	}
	publish("first")
	if err := n.Nodes()[1].Kill(); err != nil {
		t.Fatal(err)
	}
	publish("second")
	if err := n.Nodes()[1].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := kept(t, n); got != 2 {
		t.Errorf("%d messages after all nodes were killed, want 2", got)
	}
	if err := n.RestartEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := streams(t, n).Stream(ctx, "kept"); err == nil {
		t.Error("the stream is still there after an empty restart")
	}
}

func TestNATSAsksClientsForACertificate(t *testing.T) {
	t.Parallel()
	n := servertest.NATS(t, servers.NATSOptions{Options: servers.Options{TLS: servertest.Certificate(t, "nats")}, ClientCertificates: true})
	if _, err := streams(t, n).AccountInfo(testContext(t)); err != nil {
		t.Error(err)
	}
}
