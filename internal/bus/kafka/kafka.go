// Package kafka is the bus on Kafka, or what speaks its protocol.
//
// Pattern: the first word of a subject names a topic, the subject itself is a
// header. All messages of one Publish call go to one partition, the next call's to
// the next one: what is published together stays in order and is one batch, and
// the work of a tenant or an order that everyone wants is spread over all
// partitions. A group is a consumer group that takes what its subjects match.
// Within a partition messages are handled side by side; the group's position moves
// behind the oldest that is not done with. A message that failed is put into the
// group's retry topic with the number and the time of its next attempt, and those
// that wait there are held in memory, within bounds, so that a long delay holds up
// no short one. Broadcasts have a topic that every instance reads from its end.
//
// What Kafka cannot do, and bustest declares: a repeated message id is not
// recognized; there is no order between calls; what waits in a partition behind a
// member that is stuck waits until AckWait is over, and a change of members can
// bring what is being handled to another one too. A message whose handler ends
// the process comes again with the same attempt.
//
// Concurrency: every method is safe for concurrent use. A Bus has one client for
// publishing, one for listeners and one for each subscription, a goroutine that
// watches over the cluster, and for each subscription one that keeps it alive, one
// for what waits, and one for each message handled at once.
//
// Lifecycle: New returns at once, whether the brokers are there or not; they are
// sought for ever. Topics are created when they are first needed and whenever they
// are found missing. Close the subscriptions, then the Bus.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// requestTimeout bounds every question to the brokers whose context has no
// deadline.
const requestTimeout = 10 * time.Second

// Bus is a connection to a cluster; it implements bus.Bus.
type Bus struct {
	options Options
	names   topics
	health  *health
	client  *kgo.Client // publishes and asks
	admin   *kadm.Client
	room    chan struct{} // holds one for each message being published
	turn    atomic.Int32
	stop    context.CancelFunc // of the watch
	watched chan struct{}      // closed when the watch has ended

	furnishing chan struct{} // has room for one: who creates topics
	stock      *stock

	mu            sync.Mutex          // guards what follows
	subscriptions map[closer]struct{} // running groups and listeners
	ear           *ear                // hears broadcasts for all listeners, nil if there is none
	closed        bool
}

type closer interface {
	Close(ctx context.Context) error
}

var _ bus.Bus = (*Bus)(nil)

// New makes a Bus. It fails for bad options only: while the cluster is away it is
// sought, and Ping says so.
func New(o Options) (*Bus, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Bus{options: o, names: topics{o.Prefix}, health: newHealth(o.Metrics), room: make(chan struct{}, o.MaxPublishing),
		furnishing: make(chan struct{}, 1),
		watched:    make(chan struct{}), subscriptions: map[closer]struct{}{}}
	b.stock = newStock(b)
	b.client, err = kgo.NewClient(append(o.clientOptions(),
		kgo.WithHooks(b.health),
		kgo.RecordPartitioner(inTurn{}),
		kgo.RequiredAcks(kgo.AllISRAcks()), // with the idempotent producer, which is the default
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(int32(o.MaxMessageBytes)),
		kgo.ProduceRequestTimeout(produceTimeout),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
		kgo.MaxBufferedRecords(o.MaxPublishing+maxBroadcasting),
		kgo.UnknownTopicRetries(1), // it is created, and the call repeated
	)...)
	if err != nil {
		return nil, fmt.Errorf("the Kafka client cannot be set up: %w", err)
	}
	b.admin = kadm.NewClient(b.client)
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go b.watch(ctx)
	return b, nil
}

// Ping says whether a broker answers.
func (b *Bus) Ping(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return b.failed("ping", err)
	}
	defer done()
	return b.failed("ping", lost(reaching, b.client.Ping(reaching)))
}

// bounded returns ctx with a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// lost returns err, or that the cluster went away if that is why ctx ended.
func lost(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}

// failed tells an error of the client with what was tried: what passes when the
// cluster is well again is ErrUnavailable.
func (b *Bus) failed(tried string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errClosed), errors.Is(err, kgo.ErrClientClosed):
		return fmt.Errorf("%s: %w: %w", tried, bus.ErrUnavailable, errClosed)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", tried, err)
	}
	if advice, final := refusal(err); final {
		return fmt.Errorf("the broker refused to %s: %w%s", tried, err, advice)
	} else if advice != "" {
		return fmt.Errorf("%s: %w (%s): %w%s", tried, bus.ErrUnavailable, b.where(), err, advice)
	}
	if errors.Is(err, io.EOF) && b.options.Username != "" {
		return fmt.Errorf("%s: %w (%s): the brokers end the connection: check the user, the password, the mechanism and TLS: %w", tried, bus.ErrUnavailable, b.where(), err)
	}
	if cause := b.health.why(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w (%s): %w, last: %w", tried, bus.ErrUnavailable, b.where(), err, cause)
	}
	return fmt.Errorf("%s: %w (%s): %w", tried, bus.ErrUnavailable, b.where(), err)
}

func (b *Bus) where() string { return strings.Join(b.options.Brokers, ",") }

// refusal says what to do about an error that does not pass by itself; final, if
// nothing but another configuration helps.
func refusal(err error) (advice string, final bool) {
	for _, r := range []struct {
		err    error
		advice string
		final  bool
	}{
		{kerr.SaslAuthenticationFailed, ": check the user, the password and the mechanism", false}, // they may be put right while we run
		{kerr.UnsupportedSaslMechanism, ": the brokers do not take this SASL mechanism", false},
		{kerr.TopicAuthorizationFailed, ": the user needs Create, Describe, DescribeConfigs, Read and Write on topics with our prefix", true},
		{kerr.GroupAuthorizationFailed, ": the user needs Read on groups with our prefix", true},
		{kerr.ClusterAuthorizationFailed, ": the user needs IdempotentWrite on the cluster, and Create if the topics are not there", true},
		{kerr.InvalidReplicationFactor, ": there are fewer brokers than the replication factor", true},
		{kerr.PolicyViolation, ": the cluster's policy forbids such a topic; create it by hand", true},
		{kerr.InvalidConfig, "", true},
	} {
		if errors.Is(err, r.err) {
			return r.advice, r.final
		}
	}
	return "", false
}

// refused says whether the broker answered that a request can never succeed.
func refused(err error) bool { return !errors.Is(err, bus.ErrUnavailable) }

// Close ends the connections, and first whatever subscription is still open,
// without waiting for its handlers.
func (b *Bus) Close() error {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	open := make([]closer, 0, len(b.subscriptions))
	for s := range b.subscriptions {
		open = append(open, s)
	}
	b.mu.Unlock()
	if again {
		<-b.watched
		return nil
	}
	if len(open) > 0 {
		b.options.Logger.Warn("the bus was closed before its subscriptions; their handlers are not waited for", "subscriptions", len(open))
		over, cancel := context.WithCancel(context.Background())
		cancel()
		for _, s := range open {
			_ = s.Close(over) // the error says that it was not waited for
		}
	}
	b.mu.Lock()
	e := b.ear
	b.mu.Unlock()
	if e != nil {
		e.close()
	}
	b.stop()
	b.health.close()
	<-b.watched
	b.client.Close()
	return nil
}

// add registers a subscription to be closed with the Bus.
func (b *Bus) add(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("%w: the bus is closed", bus.ErrUnavailable)
	}
	b.subscriptions[c] = struct{}{}
	return nil
}

func (b *Bus) remove(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscriptions, c)
}

// groups returns the subscriptions that are groups.
func (b *Bus) groups() []*subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*subscription
	for c := range b.subscriptions {
		if s, ok := c.(*subscription); ok {
			list = append(list, s)
		}
	}
	return list
}
