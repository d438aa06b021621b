package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/event"
	"millrace/internal/stream"
)

// Error codes of the JetStream API that mean more than "not stored".
const (
	codeInProcess = 10158 // the same message is being stored: its outcome is open
	codeStore     = 10077 // the store refused it, its words say why
	codeResources = 10023 // the servers have no room
	codeMemory    = 10028
	codeStorage   = 10047
	codeTooLarge  = 10054
)

// Publish implements stream.Broker.
func (b *Broker) Publish(ctx context.Context, partition int, id string, message []byte) (uint64, error) {
	if len(message) > b.MaxMessageBytes() {
		return 0, fmt.Errorf("%w: it has %d bytes, the servers take %d", event.ErrLogTooLarge, len(message), b.MaxMessageBytes())
	}
	open := false // an earlier try may have stored it
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		seq, err := b.try(ctx, partition, id, message)
		if err == nil {
			return seq, nil
		}
		err = classify(err)
		open = open || errors.Is(err, event.ErrLogUnknown)
		if !open {
			if errors.Is(err, event.ErrLogAway) {
				b.lookAgain(ctx, partition)
			}
			return 0, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, fmt.Errorf("%w: %w", event.ErrLogUnknown, err)
		}
	}
}

// try sends a message once and waits for the answer.
func (b *Broker) try(ctx context.Context, partition int, id string, message []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.AttemptTimeout)
	defer cancel()
	subject, err := b.subject(ctx, partition, false)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", event.ErrLogAway, err)
	}
	m := &natsgo.Msg{Subject: subject, Data: message, Header: natsgo.Header{jetstream.MsgIDHeader: []string{id}}}
	// The client's own retries would hide what became of the first try.
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(b.name(partition)))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil // of the first, if the message was there already
}

// classify says what an error means for the message.
func classify(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, event.ErrLogAway):
		return err
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, natsgo.ErrNoResponders):
		return fmt.Errorf("%w: the partition has no leader, or its stream is gone", event.ErrLogAway)
	case errors.Is(err, natsgo.ErrReconnectBufExceeded), errors.Is(err, natsgo.ErrConnectionReconnecting):
		return fmt.Errorf("%w: there is no connection to the stream's servers", event.ErrLogAway) // it was not sent
	case errors.Is(err, natsgo.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", event.ErrLogUnknown, err)
	case errors.Is(err, natsgo.ErrMaxPayload):
		return fmt.Errorf("%w: %w", event.ErrLogTooLarge, err)
	case !errors.As(err, &api):
		return fmt.Errorf("%w: %w", event.ErrLogUnknown, err) // no answer
	}
	switch api.ErrorCode {
	case codeInProcess:
		return fmt.Errorf("%w: %w", event.ErrLogUnknown, err)
	case codeStore:
		return storeFailed(api, err)
	case codeResources, codeMemory, codeStorage:
		return fmt.Errorf("%w: %w", event.ErrLogFull, err)
	case codeTooLarge:
		return fmt.Errorf("%w: %w", event.ErrLogTooLarge, err)
	}
	return fmt.Errorf("%w: %w", event.ErrLogAway, err)
}

// storeFailed says what it means that the store failed. Only what it has no room for
// is certainly nowhere: a leader whose store was closed answers the same code for a
// message that the other servers may have.
func storeFailed(api *jetstream.APIError, err error) error {
	switch api.Description {
	case "maximum bytes exceeded", "maximum messages exceeded", "maximum messages per subject exceeded":
		return fmt.Errorf("%w: %w", event.ErrLogFull, err)
	case "message too large":
		return fmt.Errorf("%w: %w", event.ErrLogTooLarge, err)
	}
	return fmt.Errorf("%w: %w", event.ErrLogUnknown, err)
}

// Read implements stream.Broker.
func (b *Broker) Read(ctx context.Context, partition int, log event.LogID, from uint64, yield func(stream.Message) error) error {
	info, err := b.info(ctx, partition)
	if err != nil {
		return err
	}
	if logID(info) != log {
		return b.replaced(partition)
	}
	// The client makes this consumer again, from where it was, whenever it is lost.
	consumer, err := b.js.OrderedConsumer(ctx, b.name(partition), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return fmt.Errorf("reading the stream %s: %w", b.name(partition), err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(b.o.ReadAheadBytes))
	if err != nil {
		return fmt.Errorf("reading the stream %s: %w", b.name(partition), err)
	}
	defer messages.Stop()
	subject := info.Config.Subjects[0]
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("reading the stream %s: %w", b.name(partition), err)
		}
		if m.Subject() != subject {
			return b.replaced(partition)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("reading the stream %s: %w", b.name(partition), err)
		}
		if err := yield(stream.Message{Seq: meta.Sequence.Stream, ReceivedAt: meta.Timestamp, Data: m.Data()}); err != nil {
			return err
		}
	}
}
