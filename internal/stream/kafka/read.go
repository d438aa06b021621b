package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/event"
	"millrace/internal/stream"
)

// Read implements stream.Broker.
func (b *Broker) Read(ctx context.Context, partition int, log event.LogID, from uint64, yield func(stream.Message) error) error {
	state, err := b.State(ctx, partition)
	if err != nil {
		return err
	}
	if state.ID != log {
		return &stream.ReplacedError{Name: b.Advice(partition).Name}
	}
	// What is asked for and gone is passed over here, where it can be told by the
	// sequences, and not by the client.
	at := max(from, state.First)
	client, err := kgo.NewClient(append(b.o.connectOptions(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{b.o.Topic: {int32(partition): kgo.NewOffset().At(int64(at) - 1)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(int32(b.o.ReadAheadBytes)),
		kgo.FetchMaxPartitionBytes(int32(b.o.ReadAheadBytes)),
	)...)
	if err != nil {
		return fmt.Errorf("the Kafka client cannot be set up: %w", err)
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			r := iter.Next()
			if err := yield(stream.Message{Seq: uint64(r.Offset) + 1, ReceivedAt: r.Timestamp, Data: r.Value}); err != nil {
				return err
			}
		}
		var errs []error
		fetches.EachError(func(_ string, _ int32, err error) { errs = append(errs, err) })
		if len(errs) > 0 { // the client has tried again what can be
			return fmt.Errorf("reading %s: %w", b.Advice(partition).Name, errors.Join(errs...))
		}
	}
}
