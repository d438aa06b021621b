package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/bus"
)

// forgetGroupAfter is how long nobody may take part in a group before the broker
// forgets it; until then it keeps messages for it.
const forgetGroupAfter = 7 * 24 * time.Hour

// subject returns a subject's or pattern's name on the broker.
func (b *Bus) subject(s string) string { return b.options.Stream + "." + s }

// broadcastSubject is outside the stream, so that nothing is kept.
func (b *Bus) broadcastSubject(s string) string { return b.options.Stream + "-broadcast." + s }

// taken says whether the stream keeps what is published on a subject, or on
// everything a pattern takes.
func (b *Bus) taken(subject string) bool {
	for _, s := range b.options.Subjects {
		if bus.Match(s, subject) {
			return true
		}
	}
	return false
}

// furnish creates or updates the stream and then the consumers of this process's
// groups, so that a message published right afterwards finds those who want it.
func (b *Bus) furnish(ctx context.Context) error {
	b.furnishing.Lock()
	defer b.furnishing.Unlock()
	if err := b.createStream(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	groups := make([]*subscription, 0, len(b.groups))
	for s := range b.groups {
		groups = append(groups, s)
	}
	b.mu.Unlock()
	for _, s := range groups {
		if _, err := b.createConsumer(ctx, &s.group); err != nil {
			return err
		}
	}
	return nil
}

// join creates the stream and one group's consumer if they are not there, and
// returns the consumer.
func (b *Bus) join(ctx context.Context, g *bus.Group) (jetstream.Consumer, error) {
	b.furnishing.Lock()
	defer b.furnishing.Unlock()
	if err := b.createStream(ctx); err != nil {
		return nil, err
	}
	return b.createConsumer(ctx, g)
}

func (b *Bus) createStream(ctx context.Context) error {
	o := &b.options
	subjects := make([]string, len(o.Subjects))
	for i, s := range o.Subjects {
		subjects[i] = b.subject(s)
	}
	want := jetstream.StreamConfig{
		Name:        o.Stream,
		Description: "Hints of what changed in the database; losing them costs time only.",
		Subjects:    subjects,
		Retention:   jetstream.InterestPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    o.MaxBytes,
		MaxAge:      o.MaxAge,
		Duplicates:  o.Duplicates,
		Replicas:    o.Replicas,
	}
	err := b.ask(ctx, func(ctx context.Context) error {
		// Every instance comes by here: change only what is different.
		stream, err := b.js.Stream(ctx, o.Stream)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		if err == nil {
			is := stream.CachedInfo().Config
			// Another instance, or an operator, may want more replicas.
			if want.Replicas = max(o.Replicas, is.Replicas); same(is, want) {
				return nil
			}
		}
		_, err = b.js.CreateOrUpdateStream(ctx, want)
		return err
	})
	if err != nil {
		return b.failed(fmt.Sprintf("create or update the stream %s", o.Stream), err)
	}
	return nil
}

// same says whether a stream has all that we want of it.
func same(is, want jetstream.StreamConfig) bool {
	return slices.Equal(is.Subjects, want.Subjects) && is.Description == want.Description && is.Retention == want.Retention &&
		is.Storage == want.Storage && is.Discard == want.Discard && is.MaxBytes == want.MaxBytes && is.MaxAge == want.MaxAge &&
		is.Duplicates == want.Duplicates && is.Replicas == want.Replicas
}

func (b *Bus) createConsumer(ctx context.Context, g *bus.Group) (jetstream.Consumer, error) {
	filters := make([]string, len(g.Subjects))
	for i, s := range g.Subjects {
		filters[i] = b.subject(s)
	}
	config := jetstream.ConsumerConfig{
		Durable:        g.Name,
		FilterSubjects: filters,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		// A message may wait in the read-ahead for as long as the handlers before it
		// take, and then be handled for as long again.
		AckWait: 2 * g.AckWait,
		// The attempts are counted here, not there: the broker would drop a message
		// whose dead letter could not be written.
		MaxDeliver:        -1,
		MaxAckPending:     b.options.MaxAckPending,
		InactiveThreshold: max(forgetGroupAfter, b.options.MaxAge),
	}
	var c jetstream.Consumer
	err := b.ask(ctx, func(ctx context.Context) (err error) {
		c, err = b.js.CreateOrUpdateConsumer(ctx, b.options.Stream, config)
		return err
	})
	if err != nil {
		return nil, b.failed("create or update the consumer of the group "+g.Name, err)
	}
	return c, nil
}
