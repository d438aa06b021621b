package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/bus"
)

// Times of a subscription's upkeep.
const (
	firstRejoin    = 100 * time.Millisecond // delay after a failure to join
	longestRejoin  = 5 * time.Second
	drainingWithin = 3 * time.Second        // what was received is given back
	askAgain       = 250 * time.Millisecond // after the broker was in trouble
)

// subscription is this process's part in a group.
type subscription struct {
	bus     *Bus
	group   bus.Group
	handler bus.Handler
	metrics groupMetrics
	log     *slog.Logger

	work    chan *natsgo.Msg // unbuffered: from the receiver to a free worker
	looks   chan struct{}    // has room for one: "see whether the consumer is still there"
	closing chan struct{}    // closed by Close: take nothing more
	closed  sync.Once
	drained chan struct{}  // closed when nothing will be received any more
	done    chan struct{}  // closed when every goroutine has ended
	workers sync.WaitGroup // those that handle
	busy    atomic.Int64   // handlers under way

	handling     context.Context // parent of every handler's, ends with Close's deadline
	stopHandling context.CancelFunc
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
		work:    make(chan *natsgo.Msg),
		looks:   make(chan struct{}, 1),
		closing: make(chan struct{}),
		drained: make(chan struct{}),
		done:    make(chan struct{}),
	}
	// The first try is the caller's, so that the group is there when this returns.
	joining, cancel := b.bounded(ctx)
	defer cancel()
	consumer, err := b.join(joining, &g)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("join the group %s: %w", g.Name, ctx.Err())
	}
	if err != nil && refused(err) {
		return nil, err
	}
	if err := b.add(s); err != nil {
		return nil, err
	}
	s.handling, s.stopHandling = context.WithCancel(context.Background())
	for range g.Concurrency {
		s.workers.Go(s.handle)
	}
	go s.run(consumer, err)
	return s, nil
}

// look has the subscription see whether its consumer is still there.
func (s *subscription) look() {
	select {
	case s.looks <- struct{}{}:
	default: // it will
	}
}

// run keeps the subscription alive until it is closed.
func (s *subscription) run(consumer jetstream.Consumer, err error) {
	defer close(s.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with this function at the latest
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	failures := 0
	for ctx.Err() == nil {
		if err == nil && consumer == nil {
			consumer, err = s.join(ctx)
		}
		if err == nil {
			if failures > 0 {
				s.log.Info("joined the group again", "attempts", failures+1)
			}
			failures = 0
			err = s.consume(ctx, consumer)
		}
		consumer = nil
		if err == nil || ctx.Err() != nil {
			continue
		}
		if failures++; failures == 1 {
			s.log.Warn("cannot take part in the group; trying on", "error", err)
		}
		err = nil
		s.pause(ctx, bus.Backoff(failures, firstRejoin, longestRejoin))
	}
	close(s.drained)
	s.workers.Wait()
	s.bus.flush(context.Background()) // the last acknowledgements
}

// pause waits, for less if the connection is back.
func (s *subscription) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.looks:
	case <-ctx.Done():
	}
}

func (s *subscription) join(ctx context.Context) (jetstream.Consumer, error) {
	return s.bus.join(ctx, &s.group)
}

// consume receives until ctx ends (then it returns nil after what had been
// received was given back) or the consumer is gone.
func (s *subscription) consume(ctx context.Context, consumer jetstream.Consumer) error {
	p, err := pull(s.bus.nc, s.bus.options.Stream, s.group.Name, s.group.Concurrency, s.receive, func(reason string) {
		s.log.Debug("the broker reported trouble with the group", "reason", reason)
		s.look()
	})
	if err != nil {
		return s.bus.failed("receive messages of the group "+s.group.Name, err)
	}
	heartbeat := time.NewTicker(pullHeartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			s.stop(p)
			return nil
		case <-p.ended:
			return errors.New("the connection to the broker was closed")
		case <-heartbeat.C:
			if p.silent() {
				s.look()
			}
		case <-s.looks:
			there, err := s.there(ctx, consumer)
			if err != nil {
				s.stop(p)
				return err
			}
			if there {
				p.again()
			}
			s.rest(ctx, there)
		}
	}
}

// there says whether the consumer is there, and returns an error if the broker
// answers that it is not.
func (s *subscription) there(ctx context.Context, consumer jetstream.Consumer) (bool, error) {
	err := s.bus.ask(ctx, func(ctx context.Context) error {
		_, err := consumer.Info(ctx)
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, fmt.Errorf("the broker has lost the group: %w", err)
	}
	return err == nil, nil
}

// rest keeps a broker in trouble from being asked all the time, and has it asked
// again if it gave no answer while there was a connection.
func (s *subscription) rest(ctx context.Context, answered bool) {
	timer := time.NewTimer(askAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	if !answered && s.bus.nc.IsConnected() {
		s.look()
	}
}

// stop ends receiving. While there is a connection it gives back what was received
// and not handled; otherwise that is delivered again after its AckWait.
func (s *subscription) stop(p *puller) {
	p.stop(s.bus.nc.IsConnected())
	timer := time.NewTimer(drainingWithin)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		s.log.Warn("the broker did not confirm the end of delivery in time; what it still sends is given back")
	}
}

// receive hands a message to a free worker; meanwhile the client asks for no more
// than the read-ahead.
func (s *subscription) receive(m *natsgo.Msg) {
	select {
	case <-s.closing:
		s.giveBack(m)
		return
	default:
	}
	select {
	case s.work <- m:
	case <-s.closing:
		s.giveBack(m)
	}
}

func (s *subscription) giveBack(m *natsgo.Msg) {
	if err := m.Nak(); err != nil {
		s.log.Debug("a message could not be given back; it is delivered again after its AckWait", "error", err)
	}
}

// handle is a worker.
func (s *subscription) handle() {
	for {
		select {
		case m := <-s.work:
			s.busy.Add(1)
			s.settle(m)
			s.busy.Add(-1)
		case <-s.drained:
			return
		}
	}
}

// settle handles one message and answers for it.
func (s *subscription) settle(m *natsgo.Msg) {
	d, err := s.delivery(m)
	if err != nil {
		s.log.Error("a message without JetStream's metadata was dropped; who else writes to the stream?", "subject", m.Subject, "error", err)
		s.answer(m, m.Ack())
		return
	}
	s.metrics.delivered.Inc()
	if d.Attempt > 1 {
		s.metrics.redelivered.Inc()
	}
	verdict, lost := s.group.Lost(d.Attempt)
	if !lost {
		verdict = s.group.Judge(d.Attempt, s.call(d))
	}
	if verdict.DeadLetter != nil {
		verdict = s.bury(m, d, verdict)
	}
	switch {
	case verdict.Ack:
		s.answer(m, m.Ack())
	case verdict.After == 0:
		s.answer(m, m.Nak())
	default:
		s.answer(m, m.NakWithDelay(verdict.After))
	}
}

func (s *subscription) delivery(m *natsgo.Msg) (*bus.Delivery, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	d := &bus.Delivery{Attempt: int(meta.NumDelivered)}
	d.Message = received(m.Subject, m.Header, m.Data, s.bus.subject(""))
	return d, nil
}

func (s *subscription) call(d *bus.Delivery) error {
	ctx, cancel := context.WithTimeout(s.handling, s.group.AckWait)
	defer cancel()
	start := time.Now()
	err := bus.Call(ctx, s.handler, d)
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	var p *bus.PanicError
	if errors.As(err, &p) {
		s.log.Error("the handler of a message panicked", "subject", d.Subject, "id", d.ID, "attempt", d.Attempt, "panic", p.Value, "stack", string(p.Stack))
	} else if err != nil {
		s.log.Debug("a message was not processed", "subject", d.Subject, "id", d.ID, "attempt", d.Attempt, "error", err)
	}
	return err
}

// bury hands a message to the dead letters. If that fails the message stays.
func (s *subscription) bury(m *natsgo.Msg, d *bus.Delivery, v bus.Verdict) bus.Verdict {
	s.answer(m, m.InProgress()) // the handler may have used up the time
	ctx, cancel := context.WithTimeout(s.handling, s.group.AckWait)
	defer cancel()
	err := bus.Call(ctx, func(ctx context.Context, d *bus.Delivery) error {
		return s.group.DeadLetter(ctx, d, v.DeadLetter)
	}, d)
	if err != nil {
		s.log.Error("a dead letter could not be written; the message is kept and delivered again", "subject", d.Subject, "id", d.ID,
			"attempt", d.Attempt, "after", v.After, "reason", v.DeadLetter, "error", err)
		return bus.Verdict{After: v.After}
	}
	s.metrics.deadLettered.Inc()
	s.log.Warn("a message became a dead letter", "subject", d.Subject, "id", d.ID, "attempt", d.Attempt, "reason", v.DeadLetter)
	return bus.Verdict{Ack: true}
}

// answer notes that an answer to the broker failed: the message comes again.
func (s *subscription) answer(m *natsgo.Msg, err error) {
	if err != nil {
		s.log.Debug("the broker could not be told of a message; it is delivered again", "subject", m.Subject, "error", err)
	}
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
