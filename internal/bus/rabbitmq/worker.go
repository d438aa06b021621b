package rabbitmq

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// Bounds of the way to a later attempt.
const (
	delayWithin = 5 * time.Second // the broker takes a message to be delayed
	longestHold = time.Minute     // a worker waits if it does not
)

// item is a message that was received and is to be answered for once.
type item struct {
	subscription *subscription
	delivery     amqp.Delivery
	answered     atomic.Bool
}

// acknowledge says that the message is done with.
func (it *item) acknowledge() {
	if it.answered.CompareAndSwap(false, true) {
		it.told(it.delivery.Ack(false))
	}
}

// giveBack has the broker deliver the message again.
func (it *item) giveBack() {
	if it.answered.CompareAndSwap(false, true) {
		it.told(it.delivery.Nack(false, true))
	}
}

// refuse hands the message to what the broker dropped.
func (it *item) refuse() {
	if it.answered.CompareAndSwap(false, true) {
		it.told(it.delivery.Nack(false, false))
	}
}

// told notes that an answer failed: its channel is lost, and the message comes
// again.
func (it *item) told(err error) {
	if err != nil {
		it.subscription.log.Debug("the broker could not be told of a message; it is delivered again", "id", it.delivery.MessageId, "error", err)
	}
}

// handle is a worker.
func (s *subscription) handle() {
	for {
		select {
		case it := <-s.work:
			s.busy.Add(1)
			s.settle(it)
			s.busy.Add(-1)
		case <-s.drained:
			return
		}
	}
}

// settle handles one message and answers for it.
func (s *subscription) settle(it *item) {
	d := &bus.Delivery{Message: received(&it.delivery), Attempt: attempt(&it.delivery)}
	if !s.wants(d.Subject) {
		s.log.Warn("a message of a subject the group does not take was refused; an earlier version's binding of its queue is still there",
			"subject", d.Subject, "id", d.ID)
		it.refuse()
		return
	}
	s.metrics.delivered.Inc()
	if d.Attempt > 1 {
		s.metrics.redelivered.Inc()
	}
	verdict, lost := s.group.Lost(d.Attempt)
	if !lost {
		var err error
		if !s.inTime(it, d, func() { err = s.call(d) }) {
			return
		}
		verdict = s.group.Judge(d.Attempt, err)
	}
	if verdict.DeadLetter != nil && !s.inTime(it, d, func() { verdict = s.bury(d, verdict) }) {
		return
	}
	if verdict.Ack {
		it.acknowledge()
	} else {
		s.later(it, d, verdict.After)
	}
}

func (s *subscription) wants(subject string) bool {
	for _, pattern := range s.group.Subjects {
		if bus.Match(pattern, subject) {
			return true
		}
	}
	return false
}

// inTime runs f, and returns false if that took so long that the message was given
// back meanwhile: twice AckWait, as the context of what f calls ends after one.
func (s *subscription) inTime(it *item, d *bus.Delivery, f func()) bool {
	over := make(chan struct{})
	timer := time.AfterFunc(2*s.group.AckWait, func() {
		defer close(over)
		s.giveUp(it)
	})
	f()
	if timer.Stop() {
		return true
	}
	<-over
	s.overdue.Add(-1)
	select {
	case s.freed <- struct{}{}:
	default:
	}
	s.log.Warn("a handler ended long after its time; its message was delivered again meanwhile", "subject", d.Subject, "id", d.ID, "attempt", d.Attempt)
	return false
}

// giveUp gives back the message of an overdue handler. If no other handler is left
// the whole channel is closed instead, or the message would come back at once and
// wait here.
func (s *subscription) giveUp(it *item) {
	if s.overdue.Add(1) < int64(s.group.Concurrency) {
		it.giveBack()
		return
	}
	select {
	case <-s.closing:
		it.giveBack()
		return
	default:
	}
	select {
	case s.stuck <- struct{}{}:
	default:
	}
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
func (s *subscription) bury(d *bus.Delivery, v bus.Verdict) bus.Verdict {
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

// later has a message delivered again after a delay. If the broker does not take
// it for that, the worker waits and gives it back: that holds up the group, but
// keeps a message that fails from going round at full speed.
func (s *subscription) later(it *item, d *bus.Delivery, after time.Duration) {
	if after <= 0 {
		it.giveBack()
		return
	}
	err := s.delay(d, after)
	if err == nil {
		it.acknowledge()
		return
	}
	s.log.Debug("a message could not be put off at the broker; it waits here", "id", d.ID, "after", after, "error", err)
	pause(s.closing, min(after, longestHold))
	it.giveBack()
}

// delay publishes a message to the queue for its delay, which is declared when it
// turns out to be missing.
func (s *subscription) delay(d *bus.Delivery, after time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), delayWithin)
	defer cancel()
	step, after := step(after)
	out := []outgoing{delayed(d, s.bus.delayQueue(s.group.Name, step), after)}
	err := s.bus.submit(ctx, s.bus.jobs, out)
	if !errors.Is(err, errNoQueue) {
		return err
	}
	err = s.bus.publishing.ask(ctx, func(on *session) error { return s.bus.declareDelay(on, s, step) })
	if err != nil {
		return err
	}
	return s.bus.submit(ctx, s.bus.jobs, out)
}
