package kafka

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// longestGrace bounds how long after its time a handler that does not answer keeps
// its message.
const longestGrace = 10 * time.Second

// flight is a message on its way through a handler.
type flight struct {
	letter
	member *member
	part   *partition
	entry  *entry
	taken  atomic.Bool // the message is someone else's: the handler or the clock
}

// handle is a worker.
func (s *subscription) handle() {
	for {
		select {
		case f := <-s.work:
			if f.member.start(f) {
				s.busy.Add(1)
				s.settle(f)
				s.busy.Add(-1)
			}
		case <-s.drained:
			return
		}
	}
}

// settle handles one message and does what follows. If the handler does not answer
// in time the message is taken from it, and its answer has no effect.
func (s *subscription) settle(f *flight) {
	s.metrics.delivered.Inc()
	if f.Attempt > 1 {
		s.metrics.redelivered.Inc()
	}
	stuck := make(chan struct{}) // closed by the clock when it has noted it
	grace := min(s.group.AckWait, longestGrace)
	clock := time.AfterFunc(s.group.AckWait+grace, func() {
		if f.taken.CompareAndSwap(false, true) {
			s.stuck.Add(1)
			close(stuck)
			s.nudge()
			s.overdue(f)
		}
	})
	verdict, tooOften := s.group.Lost(f.Attempt)
	if !tooOften {
		verdict = s.group.Judge(f.Attempt, s.call(f))
	}
	if f.taken.CompareAndSwap(false, true) {
		clock.Stop()
		s.conclude(f, verdict)
		return
	}
	<-stuck
	s.stuck.Add(-1)
	s.nudge()
}

// conclude does what the verdict on a message says.
func (s *subscription) conclude(f *flight, verdict bus.Verdict) {
	if verdict.DeadLetter != nil {
		verdict = s.bury(f, verdict)
	}
	done := verdict.Ack || s.postpone(f, verdict.After)
	f.member.end(f, done)
}

// overdue takes a message from a handler that does not answer.
func (s *subscription) overdue(f *flight) {
	s.metrics.overdue.Inc()
	s.log.Warn("a handler did not answer for a message in time; it is delivered again", "subject", f.Subject, "id", f.ID, "attempt", f.Attempt, "time", s.group.AckWait)
	f.member.end(f, s.postpone(f, 0))
}

func (s *subscription) call(f *flight) error {
	ctx, cancel := context.WithTimeout(f.part.handling, s.group.AckWait)
	defer cancel()
	start := time.Now()
	err := bus.Call(ctx, s.handler, &f.Delivery)
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	var p *bus.PanicError
	if errors.As(err, &p) {
		s.log.Error("the handler of a message panicked", "subject", f.Subject, "id", f.ID, "attempt", f.Attempt, "panic", p.Value, "stack", string(p.Stack))
	} else if err != nil {
		s.log.Debug("a message was not processed", "subject", f.Subject, "id", f.ID, "attempt", f.Attempt, "error", err)
	}
	return err
}

// bury hands a message to the dead letters. If that fails it is delivered again.
func (s *subscription) bury(f *flight, v bus.Verdict) bus.Verdict {
	ctx, cancel := context.WithTimeout(s.handling, s.group.AckWait)
	defer cancel()
	err := bus.Call(ctx, func(ctx context.Context, d *bus.Delivery) error {
		return s.group.DeadLetter(ctx, d, v.DeadLetter)
	}, &f.Delivery)
	if err != nil {
		s.log.Error("a dead letter could not be written; the message is kept and delivered again", "subject", f.Subject, "id", f.ID,
			"attempt", f.Attempt, "after", v.After, "reason", v.DeadLetter, "error", err)
		return bus.Verdict{After: v.After}
	}
	s.metrics.deadLettered.Inc()
	s.log.Warn("a message became a dead letter", "subject", f.Subject, "id", f.ID, "attempt", f.Attempt, "reason", v.DeadLetter)
	return bus.Verdict{Ack: true}
}

// postpone puts a message into the retry topic, and says whether it is there. It
// goes on trying until the partition is no longer ours: then whoever reads it
// has the message.
func (s *subscription) postpone(f *flight, after time.Duration) bool {
	var due time.Time
	if after > 0 {
		due = time.Now().Add(after)
	}
	topic, turn := s.bus.names.retry(s.group.Name), s.bus.turn.Add(1)
	for failures := 0; ; {
		ctx, cancel := context.WithTimeout(f.part.owned, requestTimeout)
		err := s.bus.send(ctx, func() []*kgo.Record {
			return []*kgo.Record{again(topic, &f.Message, f.Attempt+1, due, turn)}
		})
		cancel()
		if err == nil {
			s.metrics.postponed.Inc()
			return true
		}
		if f.part.owned.Err() != nil {
			return false
		}
		if _, never := tooLarge(err); never {
			// It was taken once, so the topic's bound is at fault.
			s.log.Error("a message is too large for the retry topic, raise its max.message.bytes; it is tried again without delay", "topic", topic, "subject", f.Subject, "id", f.ID)
		}
		if failures++; failures == 1 {
			s.log.Warn("a message cannot be put into the retry topic; trying on", "subject", f.Subject, "id", f.ID, "error", err)
		}
		if !pause(f.part.owned, bus.Backoff(failures, firstRejoin, longestRejoin)) {
			return false
		}
	}
}
