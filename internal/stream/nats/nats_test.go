package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/stream"
	"millrace/internal/stream/nats"
	"millrace/internal/stream/streamtest"
)

func harness(c *cluster) func(t testing.TB) *streamtest.Harness {
	return func(t testing.TB) *streamtest.Harness {
		o := c.options(t)
		if len(o.Stream) > 60 {
			o.Stream = o.Stream[:30] + o.Stream[len(o.Stream)-30:]
		}
		js := c.jetStream(t)
		name := func(n int) string { return fmt.Sprintf("%s-%d", o.Stream, n) }
		return &streamtest.Harness{
			Open: func(t testing.TB, s streamtest.Settings) stream.Broker {
				o := o
				o.Partitions = s.Partitions
				if s.MaxBytes > 0 {
					o.MaxBytes = s.MaxBytes
				}
				return c.open(t, o)
			},
			Recreate: func(t testing.TB, n int) {
				if err := js.DeleteStream(t.Context(), name(n)); err != nil {
					t.Fatal(err)
				}
			},
			Remove: func(t testing.TB, n int, seq uint64) {
				s, err := js.Stream(t.Context(), name(n))
				if err == nil {
					err = s.DeleteMsg(t.Context(), seq)
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	}
}

func TestOneServerConforms(t *testing.T) {
	streamtest.Broker(t, harness(startCluster(t, 1, 1<<20)))
}

func TestAClusterConforms(t *testing.T) {
	streamtest.Broker(t, harness(startCluster(t, 3, 1<<20)))
}

func TestAStreamThatIsNotAsItMustBeIsAnErrorThatSaysWhatToChange(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	js := c.jetStream(t)
	good := jetstream.StreamConfig{Subjects: []string{"X-0.word"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxBytes: 256 << 20, Duplicates: 2 * time.Minute, Replicas: 1}
	// A server whose last stream is deleted removes its directory in the background, and
	// may do so under the next one.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep"}, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for i, fault := range []struct {
		name  string
		spoil func(*jetstream.StreamConfig)
		want  string
	}{
		{"nothing", func(*jetstream.StreamConfig) {}, ""},
		{"in memory", func(c *jetstream.StreamConfig) { c.Storage, c.MaxBytes = jetstream.MemoryStorage, 1<<20 }, "kept in memory"},
		{"drops old messages", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, "--discard=new"},
		{"another bound", func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, "--max-bytes=268435456"},
		{"an age", func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour; c.Duplicates = time.Hour }, "--max-age=0"},
		{"a short memory", func(c *jetstream.StreamConfig) { c.Duplicates = time.Second }, "--dupe-window=2m0s"},
		{"bounded in messages", func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }, "--max-msgs=-1"},
		{"of another program", func(c *jetstream.StreamConfig) { c.Subjects = []string{"theirs.>"} }, "another program uses the name"},
		{"acknowledges before it writes", func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }, "before it has written"},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "its retention"},
		{"cannot be trimmed", func(c *jetstream.StreamConfig) { c.DenyPurge = true }, "cannot be trimmed"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			o := c.options(t)
			o.Stream, o.Partitions = fmt.Sprint("X", i), 1
			config := good
			config.Name = o.Stream + "-0"
			config.Subjects = []string{config.Name + ".word"}
			fault.spoil(&config)
			if _, err := js.CreateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = js.DeleteStream(context.Background(), config.Name) }()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			b, err := nats.Open(ctx, o)
			if err == nil {
				_ = b.Close()
			}
			var wrong *nats.ConfigError
			switch {
			case fault.want == "" && err != nil:
				t.Error(err)
			case fault.want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), fault.want)):
				t.Errorf("error %v, want one that says %q", err, fault.want)
			}
		})
	}
}

func TestFewerPartitionsThanHoldEventsAreRefused(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Partitions = 3
	b := c.open(t, o)
	o.Partitions = 2
	_ = c.open(t, o).Close() // empty: nobody misses it
	streamtest.Publish(t, b, 2, "a")
	_, err := nats.Open(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "raise events.stream.partitions") {
		t.Errorf("error %v", err)
	}
	o.Partitions = 4
	_ = c.open(t, o)
}

func TestReplicasAskedOfASingleServerAreRefused(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Replicas = 3
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := nats.Open(ctx, o); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Errorf("error %v", err)
	}
}

func TestServersWhoseMessagesAreTooSmallAreRefusedAtTheStart(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	b := c.open(t, c.options(t))
	_, err := stream.NewPublisher(stream.PublisherOptions{Broker: b, MaxRecordBytes: 1 << 20})
	var size *stream.MessageSizeError
	if !errors.As(err, &size) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("error %v", err)
	}
	p, err := stream.NewPublisher(stream.PublisherOptions{Broker: b, MaxRecordBytes: 1<<20 - 1024})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(make([]byte, 1<<20-1024)); err != nil {
		t.Errorf("the largest record: %v", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServersThatAreAwayAreWaitedForAndThenAnError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := nats.Open(ctx, nats.Options{URL: "nats://127.0.0.1:1", Replicas: 1})
	if err == nil || !strings.Contains(err.Error(), "connection") {
		t.Errorf("error %v", err)
	}
}
