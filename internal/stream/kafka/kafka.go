// Package kafka is the stream of events on Kafka: one topic, acknowledged by all
// replicas in sync, whose partitions are read from the store's position without a
// consumer group and trimmed behind the store.
//
// The producer is idempotent: the client sends a message again by itself until it
// knows what became of it, and the brokers recognise it. It gives up only messages
// that no broker has seen. Sequences are Kafka's offsets plus one.
//
// Concurrency: a Broker is safe for concurrent use. It has one client for
// producing and asking, one for each Read, and a goroutine that watches the
// cluster.
//
// Lifecycle: Open waits until the cluster is there and the topic is as it must be;
// later interruptions are waited out. Close ends client and goroutine.
package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/event"
	"millrace/internal/stream"
)

const (
	// askTimeout bounds one question to the cluster.
	askTimeout = 10 * time.Second
	// batchOverhead is what a batch of one message has beyond the message, at most.
	batchOverhead = 4 << 10
)

// Broker is the stream on a Kafka cluster.
type Broker struct {
	o       Options
	client  *kgo.Client
	admin   *kadm.Client
	stop    context.CancelFunc
	watched chan struct{} // closed when the watching goroutine has ended

	furnishing sync.Mutex // one at a time makes the topic

	mu    sync.Mutex   // guards what follows
	topic kadm.TopicID // as it was last
	cause error        // why the cluster cannot be reached, nil if it can
	bytes []int64      // what each partition takes, as it was last
}

var _ stream.Broker = (*Broker)(nil)

// Open connects, makes the topic if it is missing and checks it if it is there. It
// waits for the cluster until ctx ends; a topic that is not as it must be is an
// error that says what to change.
func Open(ctx context.Context, o Options) (*Broker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(o.connectOptions(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), // messages are compressed
		kgo.ProducerBatchMaxBytes(int32(o.MaxMessageBytes+batchOverhead)),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(o.SendTimeout), // of what no broker has seen
		kgo.ProduceRequestTimeout(10*time.Second),
		kgo.MaxBufferedRecords(10_000),
		kgo.MaxBufferedBytes(o.BufferBytes),
		kgo.MetadataMinAge(250*time.Millisecond),
		kgo.UnknownTopicRetries(2),
	)...)
	if err != nil {
		return nil, fmt.Errorf("the Kafka client cannot be set up: %w", err)
	}
	b := &Broker{o: o, client: client, admin: kadm.NewClient(client), watched: make(chan struct{}), bytes: make([]int64, o.Partitions)}
	if err := b.start(ctx); err != nil {
		client.Close()
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	b.stop = stop
	go b.watch(run)
	return b, nil
}

// start waits for the cluster and furnishes the topic.
func (b *Broker) start(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := b.furnish(ctx)
		var wrong *ConfigError
		if err == nil || errors.As(err, &wrong) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the Kafka cluster did not become ready: %w", err)
		}
	}
}

// Partitions implements stream.Broker.
func (b *Broker) Partitions() int { return b.o.Partitions }

// MaxMessageBytes implements stream.Broker.
func (b *Broker) MaxMessageBytes() int { return b.o.MaxMessageBytes }

// Err implements stream.Broker.
func (b *Broker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

func (b *Broker) size(partition int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes[partition]
}

// Publish implements stream.Broker. Kafka knows its client's repeats and not the
// id's: it must be called once for a message, until it is certain that it is not
// there.
func (b *Broker) Publish(ctx context.Context, partition int, _ string, message []byte) (uint64, error) {
	if len(message) > b.o.MaxMessageBytes {
		return 0, fmt.Errorf("%w: it has %d bytes, the topic takes %d", event.ErrLogTooLarge, len(message), b.o.MaxMessageBytes)
	}
	if bytes := b.size(partition); bytes >= b.o.MaxBytes {
		return 0, fmt.Errorf("%w: partition %d takes %d bytes", event.ErrLogFull, partition, bytes)
	}
	type result struct {
		offset int64
		err    error
	}
	done := make(chan result, 1)
	record := &kgo.Record{Topic: b.o.Topic, Partition: int32(partition), Value: message}
	// The client's own limits end it, not ctx: it knows whether a broker has seen it.
	// If the client is full of messages, it refuses this one at once.
	b.client.TryProduce(context.WithoutCancel(ctx), record, func(r *kgo.Record, err error) { done <- result{r.Offset, err} })
	select {
	case r := <-done:
		if r.err != nil {
			return 0, b.failed(ctx, r.err)
		}
		return uint64(r.offset) + 1, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", event.ErrLogUnknown, ctx.Err())
	}
}

// failed says what the client's error means for the message.
func (b *Broker) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w: %w; raise max.message.bytes of the topic %s", event.ErrLogTooLarge, err, b.o.Topic)
	case errors.Is(err, kgo.ErrMaxBuffered):
		return fmt.Errorf("%w: the messages that the brokers do not answer fill the client's buffer of %d bytes", event.ErrLogAway, b.o.BufferBytes)
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InconsistentTopicID):
		again, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if err := b.furnish(again); err != nil {
			b.o.Logger.Warn("the topic of events is gone and cannot be made anew", "topic", b.o.Topic, "error", err)
		}
		return fmt.Errorf("%w: %w", event.ErrLogAway, err)
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries),
		errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("%w: %w", event.ErrLogAway, err)
	}
	return fmt.Errorf("%w: %w", event.ErrLogUnknown, err)
}

// State implements stream.Broker.
func (b *Broker) State(ctx context.Context, partition int) (stream.State, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		state, err := b.state(ctx, partition)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return state, err
		}
		// The topic was just made, and not all brokers or the client know it yet.
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return state, err
		}
	}
}

func (b *Broker) state(ctx context.Context, partition int) (stream.State, error) {
	id, err := b.topicID(ctx)
	if err != nil {
		return stream.State{}, err
	}
	start, err := b.admin.ListStartOffsets(ctx, b.o.Topic)
	if err != nil {
		return stream.State{}, fmt.Errorf("asking where the topic %s begins: %w", b.o.Topic, err)
	}
	end, err := b.admin.ListEndOffsets(ctx, b.o.Topic)
	if err != nil {
		return stream.State{}, fmt.Errorf("asking where the topic %s ends: %w", b.o.Topic, err)
	}
	first, ok := start.Lookup(b.o.Topic, int32(partition))
	next, also := end.Lookup(b.o.Topic, int32(partition))
	if err := errors.Join(first.Err, next.Err); err != nil || !ok || !also {
		return stream.State{}, fmt.Errorf("asking for partition %d of the topic %s: %w", partition, b.o.Topic, errors.Join(err, errIfMissing(ok && also)))
	}
	return stream.State{ID: logID(id, partition), First: uint64(first.Offset) + 1, Next: uint64(next.Offset) + 1, Bytes: b.size(partition)}, nil
}

func errIfMissing(there bool) error {
	if there {
		return nil
	}
	return errors.New("the cluster does not know it")
}

// Trim implements stream.Broker.
func (b *Broker) Trim(ctx context.Context, partition int, log event.LogID, upTo uint64) error {
	state, err := b.State(ctx, partition)
	if err != nil || state.ID != log || upTo <= state.First {
		return err
	}
	// The cluster deletes by the topic's name: whose that is is asked last.
	id, err := b.topicID(ctx)
	if err != nil || logID(id, partition) != log {
		return err
	}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: b.o.Topic, Partition: int32(partition), At: int64(min(upTo, state.Next)) - 1})
	answers, err := b.admin.DeleteRecords(ctx, offsets)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		return fmt.Errorf("trimming partition %d of the topic %s: %w", partition, b.o.Topic, err)
	}
	return nil
}

// logID names a partition for the life of its topic.
func logID(topic kadm.TopicID, partition int) event.LogID {
	h := sha256.New()
	h.Write([]byte("kafka"))
	h.Write(topic[:])
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(partition))
	h.Write(n[:])
	return event.LogID(h.Sum(nil)[:16])
}

// Advice implements stream.Broker.
func (b *Broker) Advice(partition int) event.Advice {
	return event.Advice{
		Name:         fmt.Sprintf("partition %d of the topic %s", partition, b.o.Topic),
		MissingStart: "look for who deletes records (retention.ms and retention.bytes must be -1); if they are lost for good, set events.stream.acceptLoss for one start, which goes on behind them",
		MissingEnd:   "a broker that was not in sync was elected and lost its end, or the topic was restored; if that is lost for good, stop all instances and delete the topic, which is made anew as another log",
		Unreadable:   "look at it with kafka-console-consumer; behind a message that is not Millrace's, trim with kafka-delete-records and set events.stream.acceptLoss for one start",
	}
}

// Close implements stream.Broker.
func (b *Broker) Close() error {
	b.stop()
	<-b.watched
	b.client.Close()
	return nil
}
