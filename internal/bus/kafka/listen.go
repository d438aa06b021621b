package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// maxWaitingBroadcasts is how many a listener may be behind.
const maxWaitingBroadcasts = 1024

// listener hands broadcasts to a function, one at a time.
type listener struct {
	bus     *Bus
	pattern string
	handle  func(bus.Message)

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
	l := &listener{bus: b, pattern: subject, handle: h, waiting: make(chan bus.Message, maxWaitingBroadcasts),
		closing: make(chan struct{}), done: make(chan struct{})}
	if err := b.add(l); err != nil {
		return nil, err
	}
	go l.run()
	e := b.hear(l)
	if e == nil { // the bus was closed meanwhile
		_ = l.Close(ctx)
		return nil, fmt.Errorf("%w: the bus is closed", bus.ErrUnavailable)
	}
	// So that what is broadcast from now on is heard.
	ctx, cancel := bounded(ctx)
	defer cancel()
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return l, nil //nolint:nilerr // it hears as soon as there is a broker
	}
	defer done()
	select {
	case <-e.ready:
	case <-reaching.Done():
		b.options.Logger.Warn("the broker did not confirm a listener in time; it hears broadcasts as soon as it can", "subject", subject)
	}
	return l, nil
}

// hear has the bus's ear hear for a listener too; nil if the bus is closed.
func (b *Bus) hear(l *listener) *ear {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	if b.ear == nil {
		b.ear = &ear{bus: b, nudges: make(chan struct{}, 1), ready: make(chan struct{}), done: make(chan struct{}), listeners: map[*listener]struct{}{}}
		ctx, cancel := context.WithCancel(context.Background())
		b.ear.stop = cancel
		go b.ear.run(ctx)
	}
	b.ear.add(l)
	return b.ear
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
		close(l.closing)
		l.bus.remove(l)
		l.bus.mu.Lock()
		e := l.bus.ear
		l.bus.mu.Unlock()
		if e != nil {
			e.remove(l)
		}
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
		return fmt.Errorf("the listener to %s is still busy: %w", l.pattern, ctx.Err())
	}
}

// ear reads broadcasts for all listeners of a bus, from when it is made until the
// bus is closed.
type ear struct {
	bus    *Bus
	nudges chan struct{} // has room for one: "see whether the topic is another one"
	ready  chan struct{} // closed when it has its place in the topic
	stop   context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	mu        sync.Mutex // guards what follows
	listeners map[*listener]struct{}
}

func (e *ear) add(l *listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listeners[l] = struct{}{}
}

func (e *ear) remove(l *listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.listeners, l)
}

func (e *ear) nudge() {
	select {
	case e.nudges <- struct{}{}:
	default: // it will look
	}
}

// close ends the ear and waits for it.
func (e *ear) close() {
	e.stop()
	<-e.done
}

func (e *ear) run(ctx context.Context) {
	defer close(e.done)
	failures, from := 0, kgo.NewOffset().AtEnd()
	for ctx.Err() == nil {
		place, err := e.place(ctx, from)
		if err == nil {
			failures = 0
			if err = e.read(ctx, place); errors.Is(err, errReplaced) {
				from = kgo.NewOffset().AtStart() // all that is in the new one was sent since
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if failures++; failures == 1 {
			e.bus.options.Logger.Warn("broadcasts cannot be heard; trying on", "error", err)
		}
		select {
		case <-time.After(bus.Backoff(failures, firstRejoin, longestRejoin)):
		case <-e.nudges:
		case <-ctx.Done():
		}
	}
}

// place returns where to read from, an offset that stays the same.
func (e *ear) place(ctx context.Context, from kgo.Offset) (kgo.Offset, error) {
	b := e.bus
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := b.furnish(ctx, false); err != nil {
		return from, err
	}
	if from == kgo.NewOffset().AtStart() {
		return from, nil
	}
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return from, b.failed("listen to broadcasts", err)
	}
	defer done()
	topic := b.names.broadcast()
	ends, err := b.admin.ListEndOffsets(reaching, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return from, b.failed("listen to broadcasts", lost(reaching, err))
	}
	end, ok := ends.Lookup(topic, 0)
	if !ok {
		return from, fmt.Errorf("listen to broadcasts: the topic %s has no partition", topic)
	}
	return kgo.NewOffset().At(end.Offset), nil
}

// read hands broadcasts on until ctx ends or the topic is another one.
func (e *ear) read(ctx context.Context, from kgo.Offset) error {
	b := e.bus
	topic := b.names.broadcast()
	id := b.stock.id(topic)
	client, err := kgo.NewClient(append(b.options.clientOptions(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: from}}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.FetchMaxWait(fetchWait),
	)...)
	if err != nil {
		return fmt.Errorf("the Kafka client for broadcasts cannot be set up: %w", err)
	}
	defer client.Close()
	select {
	case <-e.ready:
	default:
		close(e.ready)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var attend sync.WaitGroup
	attend.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-e.nudges:
				if b.stock.id(topic) != id {
					cancel(errReplaced)
				}
			case <-ctx.Done():
			}
		}
	})
	defer attend.Wait()
	defer cancel(nil)
	for {
		fetched := client.PollFetches(ctx)
		fetched.EachRecord(e.receive)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fetched.EachError(func(_ string, _ int32, err error) {
			b.options.Logger.Debug("broadcasts cannot be read; trying on", "error", err)
		})
	}
}

func (e *ear) receive(r *kgo.Record) {
	l, ok := read(r)
	if !ok {
		return // not one of ours
	}
	e.mu.Lock()
	hearing := slices.Collect(maps.Keys(e.listeners))
	e.mu.Unlock()
	for _, one := range hearing {
		if !bus.Match(one.pattern, l.Subject) {
			continue
		}
		m := l.Message
		m.Headers = maps.Clone(m.Headers) // each may change its own
		select {
		case one.waiting <- m:
		default:
			e.bus.options.Metrics.dropped.Inc()
		}
	}
}
