package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// Delays after a failure to join.
const (
	firstRejoin   = 100 * time.Millisecond
	longestRejoin = 5 * time.Second
)

// consumerTag names the one consumer of a channel.
const consumerTag = "millrace"

// errStuck says that every handler is overdue.
var errStuck = errors.New("every handler of the group is past its time")

// errEnded says that the broker has ended a consumer.
var errEnded = errors.New("the broker has ended the consumer: was its queue deleted?")

// subscription is this process's part in a group.
type subscription struct {
	bus     *Bus
	group   bus.Group
	handler bus.Handler
	metrics groupMetrics
	log     *slog.Logger
	warned  atomic.Bool // of a queue with other settings

	work    chan *item    // unbuffered: from the receiver to a free worker
	closing chan struct{} // closed by Close: take nothing more
	closed  sync.Once
	drained chan struct{}  // closed when nothing will be received any more
	done    chan struct{}  // closed when every goroutine has ended
	workers sync.WaitGroup // those that handle
	busy    atomic.Int64   // handlers under way
	overdue atomic.Int64   // those of them whose message was given back
	stuck   chan struct{}  // has room for one: "see whether all are overdue"
	freed   chan struct{}  // has room for one: "one that was overdue has ended"

	handling     context.Context // parent of every handler's, ends with Close's deadline
	stopHandling context.CancelFunc
}

// consumer is a subscription's channel on a session.
type consumer struct {
	session    *session
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	closes     chan *amqp.Error
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(ctx context.Context, g bus.Group, h bus.Handler) (bus.Subscription, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("the group %s needs a handler", g.Name)
	}
	for _, s := range g.Subjects {
		if !b.taken(s) {
			return nil, fmt.Errorf("the group %s asks for %s, which is not within the bus's subjects %v", g.Name, s, b.options.Subjects)
		}
	}
	s := &subscription{
		bus: b, group: g, handler: h,
		metrics: b.options.Metrics.of(g.Name),
		log:     b.options.Logger.With("group", g.Name),
		work:    make(chan *item),
		closing: make(chan struct{}),
		drained: make(chan struct{}),
		done:    make(chan struct{}),
		stuck:   make(chan struct{}, 1),
		freed:   make(chan struct{}, 1),
	}
	if err := b.add(s); err != nil {
		return nil, err
	}
	s.handling, s.stopHandling = context.WithCancel(context.Background())
	for range g.Concurrency {
		s.workers.Go(s.handle)
	}
	first := make(chan error, 1)
	go s.run(first)
	return s, b.joined(ctx, s, first, "join the group "+g.Name)
}

// joined waits for the first try to join, so that the group is there when
// Subscribe returns. It closes the subscription if that is refused or given up.
func (b *Bus) joined(ctx context.Context, c closer, first <-chan error, what string) error {
	joining, cancel := b.bounded(ctx)
	defer cancel()
	var err error
	select {
	case err = <-first:
		if err = b.failed(what, err); !refused(err) {
			err = nil
		}
	case <-joining.Done():
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if err != nil {
		over, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		_ = c.Close(over) // it ends by itself
	}
	return err
}

// run keeps the subscription alive until it is closed, and tells what became of
// the first try to join.
func (s *subscription) run(first chan<- error) {
	defer close(s.done)
	tell := func(err error) {
		select {
		case first <- err:
		default: // it was told
		}
	}
	if _, err := s.bus.consuming.current(); err != nil {
		tell(err)
	}
	var c *consumer
	for failures := 0; ; {
		on := s.bus.consuming.await(s.closing)
		if on == nil {
			break
		}
		var err error
		c, err = s.join(on)
		tell(err)
		if err == nil {
			if failures > 0 {
				s.log.Info("joined the group again", "attempts", failures+1)
			}
			failures = 0
			if err = s.consume(c); err == nil {
				break
			}
			_ = c.ch.Close() // gives back everything; it may be closed already
			c = nil
		}
		if errors.Is(err, errStuck) {
			s.log.Error("every handler of the group is past its time; taking no messages until one ends", "handlers", s.group.Concurrency, "time", s.group.AckWait)
			s.unstick()
			continue
		}
		if failures++; failures == 1 {
			s.log.Warn("cannot take part in the group; trying on", "error", err)
		}
		pause(s.closing, bus.Backoff(failures, firstRejoin, longestRejoin))
	}
	tell(errNotConnected)
	close(s.drained)
	s.workers.Wait()
	if c != nil {
		_ = c.ch.Close() // the broker has got the last answers when it confirms; it may be gone
	}
}

// unstick waits until a handler that was overdue has ended.
func (s *subscription) unstick() {
	for s.overdue.Load() >= int64(s.group.Concurrency) {
		select {
		case <-s.freed:
		case <-s.closing:
			return
		}
	}
}

// join declares what the group needs and starts to consume.
func (s *subscription) join(on *session) (*consumer, error) {
	if err := s.bus.furnish(on); err != nil {
		return nil, err
	}
	if err := s.bus.declareGroup(on, s); err != nil {
		return nil, err
	}
	ch, err := on.conn.Channel()
	if err != nil {
		return nil, err
	}
	c := &consumer{session: on, ch: ch, closes: ch.NotifyClose(make(chan *amqp.Error, 1))}
	if err = ch.Qos(2*s.group.Concurrency, 0, false); err == nil {
		c.deliveries, err = ch.Consume(s.bus.groupQueue(s.group.Name), consumerTag, false, false, false, false, nil)
	}
	if err != nil {
		_ = ch.Close() // it may be closed already
		if missing(err) {
			on.unfurnish()
		}
		return nil, fmt.Errorf("consume the queue of the group %s: %w", s.group.Name, err)
	}
	return c, nil
}

// consume receives until the subscription is closed (then it returns nil, with
// what had been received given back and the channel open for the last answers),
// the channel has ended, or every handler is overdue.
func (s *subscription) consume(c *consumer) error {
	for {
		select {
		case <-s.closing:
			return s.leave(c)
		default:
		}
		select {
		case d, open := <-c.deliveries:
			if !open {
				return c.why()
			}
			if err := s.hand(c, &item{subscription: s, delivery: d}); err != nil {
				return err
			}
		case <-s.stuck:
			if s.allOverdue() {
				return errStuck
			}
		case <-s.closing:
		}
	}
}

// hand gives a message to a free worker; meanwhile the broker sends no more than
// the read-ahead.
func (s *subscription) hand(c *consumer, it *item) error {
	for {
		select {
		case s.work <- it:
			return nil
		case <-s.closing:
			it.giveBack()
			return nil
		case e := <-c.closes:
			return closedBy(e) // the message is void
		case <-s.stuck:
			if s.allOverdue() {
				return errStuck
			}
		}
	}
}

func (s *subscription) allOverdue() bool { return s.overdue.Load() >= int64(s.group.Concurrency) }

// leave has the broker send no more, and gives back what is not handled.
func (s *subscription) leave(c *consumer) error {
	if err := c.ch.Cancel(consumerTag, false); err != nil {
		s.log.Debug("the consumer could not be ended; its connection is lost and the broker delivers its messages again", "error", err)
		_ = c.ch.Close() // so that deliveries end
	}
	for d := range c.deliveries {
		(&item{subscription: s, delivery: d}).giveBack()
	}
	return nil
}

// why returns why deliveries have ended.
func (c *consumer) why() error {
	if !c.ch.IsClosed() {
		return errEnded
	}
	select {
	case e := <-c.closes:
		return closedBy(e)
	default:
		return amqp.ErrClosed
	}
}

// closedBy returns why a channel was closed; e is nil if this side did it.
func closedBy(e *amqp.Error) error {
	if e == nil {
		return amqp.ErrClosed
	}
	return e
}

// Close implements bus.Subscription.
func (s *subscription) Close(ctx context.Context) error {
	s.closed.Do(func() {
		close(s.closing)
		s.bus.remove(s)
	})
	select {
	case <-s.done:
		s.stopHandling()
		return nil
	case <-ctx.Done():
	}
	s.stopHandling()
	select {
	case <-s.done: // it was just ready
		return nil
	default:
		return fmt.Errorf("the group %s was closed with %d handlers still busy; what they handle is delivered again: %w", s.group.Name, s.busy.Load(), ctx.Err())
	}
}
