package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// maxWaitingBroadcasts is how many a listener may be behind.
const maxWaitingBroadcasts = 1024

// Broadcast implements bus.Bus.
func (b *Bus) Broadcast(ctx context.Context, m bus.Message) error {
	if err := b.check([]bus.Message{m}); err != nil {
		return err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	return b.failed("broadcast "+m.Subject, b.submit(ctx, b.casts, convert([]bus.Message{m}, b.broadcastExchange(), amqp.Transient)))
}

// listener hands broadcasts to a function, one at a time.
type listener struct {
	bus     *Bus
	subject string
	handle  func(bus.Message)

	waiting chan bus.Message
	closing chan struct{}
	closed  sync.Once
	done    sync.WaitGroup
	ended   chan struct{} // closed when both goroutines have ended
}

// Listen implements bus.Bus. Beyond 1,024 broadcasts that wait for the handler,
// further ones are dropped and counted.
func (b *Bus) Listen(ctx context.Context, subject string, h func(bus.Message)) (bus.Subscription, error) {
	if err := bus.CheckPattern(subject); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, errors.New("a listener needs a function")
	}
	l := &listener{bus: b, subject: subject, handle: h, waiting: make(chan bus.Message, maxWaitingBroadcasts),
		closing: make(chan struct{}), ended: make(chan struct{})}
	if err := b.add(l); err != nil {
		return nil, err
	}
	first := make(chan error, 1)
	l.done.Go(func() { l.receive(first) })
	l.done.Go(l.run)
	go func() {
		l.done.Wait()
		close(l.ended)
	}()
	return l, b.joined(ctx, l, first, "listen to "+subject)
}

// receive keeps the listener's queue alive, and tells what became of the first
// try.
func (l *listener) receive(first chan<- error) {
	tell := func(err error) {
		select {
		case first <- err:
		default: // it was told
		}
	}
	if _, err := l.bus.consuming.current(); err != nil {
		tell(err)
	}
	defer tell(errNotConnected)
	for failures := 0; ; {
		on := l.bus.consuming.await(l.closing)
		if on == nil {
			return
		}
		ch, deliveries, err := l.join(on)
		tell(err)
		if err == nil {
			failures = 0
			l.take(deliveries)
			_ = ch.Close() // the queue goes with it; it may be closed already
		}
		if failures++; failures == 2 {
			l.bus.options.Logger.Warn("cannot listen to broadcasts; trying on", "subject", l.subject, "error", err)
		}
		pause(l.closing, bus.Backoff(failures, firstRejoin, longestRejoin))
	}
}

// join makes a queue that goes with its channel's consumer.
func (l *listener) join(on *session) (*amqp.Channel, <-chan amqp.Delivery, error) {
	if err := l.bus.furnish(on); err != nil {
		return nil, nil, err
	}
	ch, err := on.conn.Channel()
	if err != nil {
		return nil, nil, err
	}
	queue := l.bus.options.Prefix + ".listen." + rand.Text()
	if _, err = ch.QueueDeclare(queue, false, true, true, false, amqp.Table{
		"x-max-length":  int64(maxUnheard),
		"x-message-ttl": int64(unheardSeconds * 1000),
	}); err == nil {
		err = ch.QueueBind(queue, bindingKey(l.subject), l.bus.broadcastExchange(), false, nil)
	}
	var deliveries <-chan amqp.Delivery
	if err == nil {
		deliveries, err = ch.Consume(queue, consumerTag, true, true, false, false, nil)
	}
	if err != nil {
		_ = ch.Close() // it may be closed already
		if missing(err) {
			on.unfurnish()
		}
		return nil, nil, fmt.Errorf("listen to %s: %w", l.subject, err)
	}
	return ch, deliveries, nil
}

// take receives until deliveries end or the listener is closed. It never waits for
// the handler: the client would hold what arrives meanwhile.
func (l *listener) take(deliveries <-chan amqp.Delivery) {
	for {
		select {
		case d, open := <-deliveries:
			if !open {
				return
			}
			select {
			case l.waiting <- received(&d):
			default:
				l.bus.options.Metrics.dropped.Inc()
			}
		case <-l.closing:
			return
		}
	}
}

func (l *listener) run() {
	for {
		select {
		case <-l.closing:
			return
		default:
		}
		select {
		case <-l.closing:
			return
		case m := <-l.waiting:
			l.call(m)
		}
	}
}

func (l *listener) call(m bus.Message) {
	defer func() {
		if v := recover(); v != nil {
			l.bus.options.Logger.Error("a listener panicked; it goes on with the next broadcast", "subject", m.Subject, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	l.handle(m)
}

// Close implements bus.Subscription.
func (l *listener) Close(ctx context.Context) error {
	l.closed.Do(func() {
		close(l.closing)
		l.bus.remove(l)
	})
	select {
	case <-l.ended:
		return nil
	default:
	}
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the listener to %s is still busy: %w", l.subject, ctx.Err())
	}
}
