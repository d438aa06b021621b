// Package rabbitmq is the bus on RabbitMQ (3.10 or newer): a topic exchange, a
// quorum queue for each group, publisher confirms, and a second topic exchange
// for broadcasts.
//
// Pattern: a group's queue keeps a message until one consumer has acknowledged
// it, within bounds of bytes and age beyond which the oldest go. A full queue
// therefore never refuses a message. What the broker drops by itself goes to a
// dead-letter queue that every Bus with a group reads, counts and logs; what was
// dropped is found again by who reads the database. A message to be tried later
// is published to a queue of delayed messages, whose expiry brings it back, and
// acknowledged after the broker has confirmed that: a crash in between doubles
// it and loses nothing. The number of its attempts travels in a header. Broker
// and client know no time for an answer: the one here gives back a message whose
// handler is overdue, and a process whose handlers are all overdue takes no
// further messages.
//
// The broker does not recognize a repeated message id.
//
// Concurrency: every method is safe for concurrent use. A Bus has two
// connections, so that a broker that stops reading from who publishes still gets
// acknowledgements: one for what is published, with a goroutine and a channel for
// each of Options.Publishers, and one for what is consumed, with a channel for
// each subscription. A subscription has one goroutine that keeps it alive and one
// for each message handled at once. Messages received and not handled are at most
// twice Concurrency.
//
// Lifecycle: New tries to connect once and returns, whether the broker is there or
// not; a lost connection is made again for ever. Exchanges and queues are declared
// with every new connection and whenever they are found missing, so a broker that
// comes back empty is furnished again. Close the subscriptions, then the Bus.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// requestTimeout bounds every question to the broker whose context has no
// deadline.
const requestTimeout = 10 * time.Second

// firstTryWithin is how long New waits for its first try to connect.
const firstTryWithin = 5 * time.Second

// Bus is a connection to a broker; it implements bus.Bus.
type Bus struct {
	options    Options
	publishing *link
	consuming  *link
	jobs       chan *job // for the lanes with confirms
	casts      chan *job // for the lane of broadcasts

	stopping chan struct{} // closed by Close
	stop     context.CancelFunc
	running  sync.WaitGroup // links, lanes and the watcher of drops

	mu            sync.Mutex                 // guards what follows
	subscriptions map[closer]struct{}        // running groups and listeners
	groups        map[*subscription]struct{} // those of them that are groups
	watching      bool                       // the watcher of drops was started
	closed        bool
}

type closer interface {
	Close(ctx context.Context) error
}

var _ bus.Bus = (*Bus)(nil)

// New makes a Bus. It fails for bad options only: while the broker is away it
// goes on trying to connect, and Ping says so. It takes 5 s at most.
func New(o Options) (*Bus, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Bus{options: o, jobs: make(chan *job), casts: make(chan *job), stopping: make(chan struct{}),
		subscriptions: map[closer]struct{}{}, groups: map[*subscription]struct{}{}}
	b.publishing, b.consuming = newLink(b, "publishing"), newLink(b, "consuming")
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.running.Go(func() { b.publishing.run(ctx) })
	b.running.Go(func() { b.consuming.run(ctx) })
	for range o.Publishers {
		b.running.Go(func() { (&lane{bus: b, confirm: true}).run(b.jobs) })
	}
	b.running.Go(func() { (&lane{bus: b}).run(b.casts) })
	// A broker that is there can be used at once.
	waiting := time.NewTimer(firstTryWithin)
	defer waiting.Stop()
	for _, l := range []*link{b.publishing, b.consuming} {
		select {
		case <-l.tried:
		case <-waiting.C:
			return b, nil
		}
	}
	return b, nil
}

// linkChanged brings the metric up to date.
func (b *Bus) linkChanged() {
	_, first := b.publishing.current()
	_, second := b.consuming.current()
	if first == nil && second == nil {
		b.options.Metrics.connected.Set(1)
	} else {
		b.options.Metrics.connected.Set(0)
	}
}

// Ping says whether the broker answers on both connections.
func (b *Bus) Ping(ctx context.Context) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	for _, l := range []*link{b.publishing, b.consuming} {
		err := l.ask(ctx, func(s *session) error {
			return s.with(func(*amqp.Channel) error { return nil })
		})
		if err != nil {
			return b.failed("ping", err)
		}
	}
	return nil
}

// bounded returns ctx with a deadline.
func (b *Bus) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// failed tells an error with what was tried: what passes when the broker is well
// again is ErrUnavailable.
func (b *Bus) failed(tried string, err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-b.stopping:
		return fmt.Errorf("%s: %w: this side has closed the connection", tried, bus.ErrUnavailable)
	default:
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", tried, err)
	}
	var e *amqp.Error
	if errors.As(err, &e) && e.Server {
		switch e.Code {
		case amqp.AccessRefused:
			return fmt.Errorf("the broker refused to %s: the user needs configure, write and read permission on %s\\..* in the virtual host %s: %w",
				tried, b.options.Prefix, b.options.VHost, err)
		case amqp.PreconditionFailed, amqp.NotImplemented:
			return fmt.Errorf("the broker refused to %s: %w", tried, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", tried, bus.ErrUnavailable, err)
}

// refused says whether the broker answered that a request can never succeed.
func refused(err error) bool {
	return !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, context.Canceled)
}

// missing says whether what was asked for is not there.
func missing(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == amqp.NotFound
}

// Close ends the connections, and first whatever subscription is still open,
// without waiting for its handlers.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.running.Wait()
		return nil
	}
	b.closed = true
	open := make([]closer, 0, len(b.subscriptions))
	for s := range b.subscriptions {
		open = append(open, s)
	}
	b.mu.Unlock()
	if len(open) > 0 {
		b.options.Logger.Warn("the bus was closed before its subscriptions; their handlers are not waited for", "subscriptions", len(open))
		over, cancel := context.WithCancel(context.Background())
		cancel()
		for _, s := range open {
			_ = s.Close(over) // the error says that it was not waited for
		}
	}
	close(b.stopping)
	b.stop()
	b.running.Wait()
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
	if s, ok := c.(*subscription); ok {
		b.groups[s] = struct{}{}
		if !b.watching {
			b.watching = true
			b.running.Go(b.watchDrops)
		}
	}
	return nil
}

func (b *Bus) remove(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscriptions, c)
	if s, ok := c.(*subscription); ok {
		delete(b.groups, s)
	}
}
