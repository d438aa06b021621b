package nats_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/stream"
)

// TestAMessageSentAgainAfterItWasStoredAndTheServersRestartedIsThereOnce: servers
// learn the ids of messages from those that are there when they start.
func TestAMessageSentAgainAfterItWasStoredAndTheServersRestartedIsThereOnce(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Partitions = 1
	b := &recorder{Broker: c.open(t, o)}
	f := newFleet(t)
	a, err := stream.NewAssigner(stream.AssignerOptions{
		Broker: b, Leases: f.db.Leases(), Instance: "one", TrimEvery: time.Millisecond,
		NewSink: func(p *stream.Partition) (stream.Sink, error) {
			return event.NewSink(event.SinkOptions{Log: p, Advice: p.Advice(), Store: f.db.Events(), DeadLetters: f.db.DeadLetters()})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run) }()
	in := f.ingester(b)
	stored := map[string]bool{}
	for i := range 5 { // each time something is stored what was stored before could be trimmed
		id := fmt.Sprint("e", i)
		body := fmt.Appendf(nil, `[{"id":%q,"type":"t","payload":1}]`, id)
		if _, err := in.Ingest(t.Context(), event.Submission{TenantID: "demo", Body: body}); err != nil {
			t.Fatal(err)
		}
		stored[id] = true
		f.wait(a, stored, nil)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	c.nodes[0].kill(t)
	c.nodes[0].start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		again, err := b.Publish(ctx, 0, b.id, b.message)
		if err == nil {
			if again != b.seq {
				t.Errorf("the first message is there again, as %d; it was %d", again, b.seq)
			}
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// recorder keeps the first message that was published.
type recorder struct {
	stream.Broker
	id      string
	message []byte
	seq     uint64
}

func (r *recorder) Publish(ctx context.Context, partition int, id string, message []byte) (uint64, error) {
	seq, err := r.Broker.Publish(ctx, partition, id, message)
	if r.id == "" && err == nil {
		r.id, r.message, r.seq = id, message, seq
	}
	return seq, err
}
