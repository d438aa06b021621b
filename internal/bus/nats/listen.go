package nats

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"

	natsgo "github.com/nats-io/nats.go"

	"millrace/internal/bus"
)

// maxWaitingBroadcasts is how many a listener may be behind.
const maxWaitingBroadcasts = 1024

// Broadcast implements bus.Bus.
func (b *Bus) Broadcast(ctx context.Context, m bus.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := bus.CheckMessages([]bus.Message{m}, max(b.nc.MaxPayload(), 1<<20)-8<<10); err != nil {
		return err
	}
	out := b.message(&m)
	out.Subject = b.broadcastSubject(m.Subject)
	return b.failed("broadcast "+m.Subject, b.nc.PublishMsg(out))
}

// listener hands broadcasts to a function, one at a time.
type listener struct {
	bus    *Bus
	sub    *natsgo.Subscription
	handle func(bus.Message)

	waiting chan bus.Message
	closing chan struct{}
	closed  sync.Once
	done    chan struct{} // closed when the goroutine has ended
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
	l := &listener{bus: b, handle: h, waiting: make(chan bus.Message, maxWaitingBroadcasts),
		closing: make(chan struct{}), done: make(chan struct{})}
	var err error
	if l.sub, err = b.nc.Subscribe(b.broadcastSubject(subject), l.receive); err != nil {
		return nil, b.failed("listen to "+subject, err)
	}
	if err := b.add(l); err != nil {
		_ = l.sub.Unsubscribe() // the connection is closed
		return nil, err
	}
	go l.run()
	if b.nc.IsConnected() {
		// So that what is broadcast from now on is heard.
		ctx, cancel := b.bounded(ctx)
		defer cancel()
		if err := b.nc.FlushWithContext(ctx); err != nil && ctx.Err() != nil {
			b.options.Logger.Warn("the broker did not confirm a listener in time; it hears broadcasts as soon as it can", "subject", subject, "error", err)
		}
	}
	return l, nil
}

func (l *listener) receive(m *natsgo.Msg) {
	select {
	case l.waiting <- received(m.Subject, m.Header, m.Data, l.bus.broadcastSubject("")):
	default:
		l.bus.options.Metrics.dropped.Inc()
	}
}

// received returns the client's message as the bus's.
func received(subject string, header natsgo.Header, data []byte, prefix string) bus.Message {
	out := bus.Message{Subject: strings.TrimPrefix(subject, prefix), Data: data}
	for name, values := range header {
		switch {
		case len(values) == 0:
		case name == headerID:
			out.ID = values[0]
		case strings.HasPrefix(name, "Nats-"): // the broker's own
		default:
			if out.Headers == nil {
				out.Headers = make(map[string]string, len(header))
			}
			out.Headers[name] = values[0]
		}
	}
	return out
}

func (l *listener) run() {
	defer close(l.done)
	for {
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
		_ = l.sub.Unsubscribe() // fails only if the connection is closed
		close(l.closing)
		l.bus.remove(l)
	})
	select {
	case <-l.done:
		return nil
	default:
	}
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the listener to %s is still busy: %w", l.sub.Subject, ctx.Err())
	}
}
