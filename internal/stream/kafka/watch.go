package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// watch asks whether the cluster is there and what the partitions take.
func (b *Broker) watch(ctx context.Context) {
	defer close(b.watched)
	ticker := time.NewTicker(b.o.WatchEvery)
	defer ticker.Stop()
	for {
		err := b.look(ctx)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		before := b.cause
		b.cause = err
		b.mu.Unlock()
		switch {
		case err != nil && before == nil:
			b.o.Logger.Warn("the Kafka cluster cannot be asked; events are refused until it can", "error", err)
		case err == nil && before != nil:
			b.o.Logger.Info("the Kafka cluster answers again")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look notes what each partition takes on the broker that has most of it. It fails
// if no broker answers. Some that are silent are no failure: what they lead has its
// followers, and for what nobody tells of holds what was told last.
func (b *Broker) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wanted kadm.TopicsSet
	for n := range b.o.Partitions {
		wanted.Add(b.o.Topic, int32(n))
	}
	answers, err := b.admin.DescribeAllLogDirs(ctx, wanted)
	var some *kadm.ShardErrors
	if errors.As(err, &some) && !some.AllFailed {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("asking what the partitions take: %w", withoutGuess(err))
	}
	told := make(map[int32]int64, b.o.Partitions)
	answers.Each(func(dir kadm.DescribedLogDir) {
		dir.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == b.o.Topic && !p.IsFuture {
				told[p.Partition] = max(told[p.Partition], p.Size)
			}
		})
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := range b.bytes {
		if bytes, known := told[int32(n)]; known || some == nil {
			b.bytes[n] = bytes
		}
	}
	return nil
}

// withoutGuess replaces the client's guess about a connection that was closed: it asks
// whether SASL is missing when a broker was stopped.
func withoutGuess(err error) error {
	var closed *kgo.ErrFirstReadEOF
	if !errors.As(err, &closed) {
		return err
	}
	return fmt.Errorf("a broker closed the connection, because it stops or starts, or because it wants other TLS or credentials: %w", io.EOF)
}
