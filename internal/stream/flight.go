package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/event"
)

// flight is one message on its way.
type flight struct {
	id       string
	message  []byte
	requests []*request
	began    time.Time
}

// fly publishes a message and tells those who wait for it. While it is certain
// that the message is nowhere, it may go to another partition: one without a
// leader, or one that is full, holds up nobody.
func (p *Publisher) fly(f *flight, partition int) {
	defer p.flights.Done()
	ctx, cancel := context.WithTimeout(p.ctx, p.o.DecideWithin)
	defer cancel()
	giveUp := time.NewTimer(p.o.AckTimeout / 2)
	defer giveUp.Stop()
	rounds := 2 * p.o.Broker.Partitions()
	for {
		seq, err := p.publish(ctx, partition, f)
		if err == nil {
			p.free <- partition
			p.o.Metrics.publishSeconds.Observe(time.Since(f.began).Seconds())
			p.refusal.Store(nil)
			p.settle(f, outcome{seq: seq})
			return
		}
		p.o.Metrics.failures.WithLabelValues(reason(err)).Inc()
		p.rest(partition)
		if errors.Is(err, event.ErrLogUnknown) {
			p.o.Logger.Error("what became of a message to the stream could not be found out; its senders were told so, and may make it twice by sending it again",
				"partition", partition, "submissions", len(f.requests), "error", err)
			p.settle(f, outcome{err: err})
			return
		}
		rounds--
		var ok bool
		if rounds > 0 && !errors.Is(err, event.ErrLogTooLarge) {
			if partition, ok = p.slot(giveUp.C); ok {
				continue
			}
		}
		p.refuse(err)
		p.settle(f, outcome{err: err})
		return
	}
}

// publish is the broker's, which is not to take the process down.
func (p *Publisher) publish(ctx context.Context, partition int, f *flight) (seq uint64, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: the client of the stream panicked: %v", event.ErrLogUnknown, v)
		}
	}()
	return p.o.Broker.Publish(ctx, partition, f.id, f.message)
}

// rest gives a partition back a little later.
func (p *Publisher) rest(partition int) {
	time.AfterFunc(coolDown, func() { p.free <- partition }) // has room: it was taken from there
}

// refuse makes Admit refuse for a while: no partition takes anything.
func (p *Publisher) refuse(err error) {
	if !errors.Is(err, event.ErrLogFull) && !errors.Is(err, event.ErrLogAway) {
		return
	}
	p.refusal.Store(&refusal{err: err, until: time.Now().Add(refuseFor)})
	p.o.Logger.Warn("no partition of the stream takes events; they are refused", "error", err)
}

func (p *Publisher) settle(f *flight, o outcome) {
	for _, r := range f.requests {
		p.finish(r, o)
	}
}

// reason is the label of an error.
func reason(err error) string {
	for _, r := range []struct {
		cause error
		label string
	}{
		{event.ErrLogFull, "full"}, {event.ErrLogAway, "away"}, {event.ErrLogBusy, "busy"},
		{event.ErrLogUnknown, "unknown"}, {event.ErrLogTooLarge, "too-large"}, {event.ErrLogClosed, "closed"},
	} {
		if errors.Is(err, r.cause) {
			return r.label
		}
	}
	return "other"
}
