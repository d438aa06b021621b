package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// maxBroadcasting is how many broadcasts may be on their way to the brokers.
const maxBroadcasting = 1024

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, messages []bus.Message) error {
	if len(messages) == 0 {
		return nil
	}
	if err := b.check(messages); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	turn := b.turn.Add(1)
	records := func() []*kgo.Record { // anew for each try: the client keeps what it was given
		list := make([]*kgo.Record, len(messages))
		for i := range messages {
			list[i] = record(b.names.of(messages[i].Subject), &messages[i], turn)
		}
		return list
	}
	if err := b.send(ctx, records); err != nil {
		if i, ok := tooLarge(err); ok {
			return &bus.InvalidError{Index: i, Reason: fmt.Sprintf("its data have %d bytes, more than the topic takes: raise the topic's max.message.bytes, or send a reference instead",
				len(messages[i].Data))}
		}
		return b.failed(fmt.Sprintf("publish %d messages", len(messages)), err)
	}
	b.options.Metrics.published.Add(float64(len(messages)))
	return nil
}

func (b *Bus) check(messages []bus.Message) error {
	if err := bus.CheckMessages(messages, int64(b.options.MaxMessageBytes-envelopeBytes)); err != nil {
		return err
	}
	for i := range messages {
		if !b.taken(messages[i].Subject) {
			return &bus.InvalidError{Index: i, Reason: fmt.Sprintf("there are topics for %s, not for the subject %s: add it to the bus's subjects",
				strings.Join(b.options.Subjects, ", "), messages[i].Subject)}
		}
	}
	return nil
}

// taken says whether a subject, or everything a pattern takes, can be published.
func (b *Bus) taken(subject string) bool {
	for _, s := range b.options.Subjects {
		if bus.Match(s, subject) {
			return true
		}
	}
	return false
}

// send produces records and waits until the brokers have all of them. If their
// topics are missing they are created, and everything is sent once more.
func (b *Bus) send(ctx context.Context, records func() []*kgo.Record) error {
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err = b.furnish(reaching, false); err == nil {
		err = b.produce(reaching, records())
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
		if err = b.furnish(reaching, true); err == nil {
			err = b.produce(reaching, records())
		}
	}
	return lost(reaching, err)
}

// recordError is one record's of several.
type recordError struct {
	index int
	err   error
}

func (e *recordError) Error() string { return e.err.Error() }
func (e *recordError) Unwrap() error { return e.err }

func tooLarge(err error) (index int, ok bool) {
	var r *recordError
	if errors.As(err, &r) && (errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)) {
		return r.index, true
	}
	return 0, false
}

// produce hands records to the client and waits for the answer to each, or the
// first that failed.
func (b *Bus) produce(ctx context.Context, records []*kgo.Record) error {
	// What nobody waits for any more is not sent, if it has not been.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(records)))
	outcome := make(chan error, 1) // the first
	for i, r := range records {
		select {
		case b.room <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			<-b.room
			if err == nil && left.Add(-1) > 0 {
				return
			}
			if err != nil {
				err = &recordError{i, err}
			}
			select {
			case outcome <- err:
			default: // it was not the first
			}
		})
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Broadcast implements bus.Bus. It does not wait for the brokers.
func (b *Bus) Broadcast(ctx context.Context, m bus.Message) error {
	if err := bus.CheckMessages([]bus.Message{m}, int64(b.options.MaxMessageBytes-envelopeBytes)); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	reaching, done, err := b.health.reach(ctx)
	if err == nil {
		defer done()
		err = lost(reaching, b.furnish(reaching, false))
	}
	if err != nil {
		return b.failed("broadcast "+m.Subject, err)
	}
	refused := make(chan error, 1) // the client's own, at once
	b.client.TryProduce(context.Background(), record(b.names.broadcast(), &m, 0), func(_ *kgo.Record, err error) {
		if err == nil {
			return
		}
		b.options.Metrics.dropped.Inc()
		b.options.Logger.Debug("a broadcast was not sent", "subject", m.Subject, "error", err)
		select {
		case refused <- err:
		default:
		}
	})
	select {
	case err := <-refused:
		return b.failed("broadcast "+m.Subject, err)
	default:
		return nil
	}
}
