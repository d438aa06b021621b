package nats

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// meddler does something after each look at a stream.
type meddler struct {
	jetstream.JetStream
	after func()
}

func (m *meddler) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := m.JetStream.Stream(ctx, name)
	m.after()
	return s, err
}

func TestAStreamMadeAnewWhileItIsTrimmedIsLeftAlone(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not become ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o := Options{URL: s.ClientURL(), Partitions: 1, Replicas: 1, MaxBytes: 64 << 20}
	b, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	fill := func() {
		for i := range 5 {
			// By the name of the subject now, as another instance would that made the stream.
			subject, err := b.subject(ctx, 0, true)
			if err == nil {
				_, err = b.js.Publish(ctx, subject, fmt.Append(nil, i))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	fill()
	before, err := b.State(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	js := b.js
	b.js = &meddler{js, func() {
		b.js = js
		if err := js.DeleteStream(ctx, b.name(0)); err != nil {
			t.Fatal(err)
		}
		fill()
	}}
	if err := b.Trim(ctx, 0, before.ID, 4); err != nil {
		t.Error(err)
	}
	if after, err := b.State(ctx, 0); err != nil || after.ID == before.ID || after.First != 1 || after.Next != 6 {
		t.Errorf("the new stream: %+v, error %v", after, err)
	}
}
