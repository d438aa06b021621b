package rabbitmq

import (
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// forgetGroupAfter is how long nobody may take part in a group before the broker
// forgets it; until then it keeps messages for it.
const forgetGroupAfter = 7 * 24 * time.Hour

// Bounds of what is not a group's queue.
const (
	// deliveryLimit is far beyond what a group allows: bus.Group.Lost comes first.
	// Newer brokers have one of 20, which is not.
	deliveryLimit = 10_000

	maxDropsKept   = 100_000
	maxDropsBytes  = 64 << 20
	maxUnheard     = 4096 // broadcasts a listener's queue holds
	unheardSeconds = 60
)

// Delays are kept in one queue for each step, a message in the shortest that is
// not shorter than its delay. A queue lets go of messages at its head only, so one
// may be late, by less than its step.
const (
	firstStep  = 250 * time.Millisecond
	stepFactor = 4
	steps      = 11 // the last is 3 days; longer delays are cut to it
)

// Names on the broker.
func (b *Bus) messagesExchange() string  { return b.options.Prefix + ".messages" }
func (b *Bus) broadcastExchange() string { return b.options.Prefix + ".broadcast" }
func (b *Bus) droppedExchange() string   { return b.options.Prefix + ".dropped" }
func (b *Bus) droppedQueue() string      { return b.options.Prefix + ".dropped" }
func (b *Bus) groupQueue(group string) string {
	return b.options.Prefix + ".group." + group
}

// step returns the step for a delay, and the delay, cut to the longest.
func step(delay time.Duration) (step, cut time.Duration) {
	step = firstStep
	for range steps - 1 {
		if delay <= step {
			return step, delay
		}
		step *= stepFactor
	}
	return step, min(delay, step)
}

func (b *Bus) delayQueue(group string, step time.Duration) string {
	return fmt.Sprintf("%s.delay-%dms", b.groupQueue(group), step.Milliseconds())
}

// bindingKey returns a pattern of the port as the broker's.
func bindingKey(pattern string) string {
	if p, ok := strings.CutSuffix(pattern, ">"); ok {
		return p + "*.#" // "#" alone takes no word as well
	}
	return pattern
}

// taken says whether a subject, or everything a pattern takes, is within the
// bus's subjects.
func (b *Bus) taken(subject string) bool {
	for _, s := range b.options.Subjects {
		if bus.Match(s, subject) {
			return true
		}
	}
	return false
}

func (b *Bus) quorum(more amqp.Table) amqp.Table {
	t := amqp.Table{"x-queue-type": "quorum"}
	if b.options.QueueReplicas > 0 {
		t["x-quorum-initial-group-size"] = int64(b.options.QueueReplicas)
	}
	for k, v := range more {
		t[k] = v
	}
	return t
}

// furnish declares the exchanges and, with them, the queues of this process's
// groups, so that a message published right afterwards finds those who want it.
// It does so once for a session, unless unfurnish was called.
func (b *Bus) furnish(s *session) error {
	s.furnishing.Lock()
	defer s.furnishing.Unlock()
	if s.furnished {
		return nil
	}
	if err := s.with(b.declareExchanges); err != nil {
		return err
	}
	b.mu.Lock()
	groups := make([]*subscription, 0, len(b.groups))
	for g := range b.groups {
		groups = append(groups, g)
	}
	b.mu.Unlock()
	for _, g := range groups {
		if err := b.declareGroup(s, g); err != nil {
			return err
		}
	}
	s.furnished = true
	return nil
}

// unfurnish has the next furnish declare everything again.
func (s *session) unfurnish() {
	s.furnishing.Lock()
	defer s.furnishing.Unlock()
	s.furnished = false
}

func (b *Bus) declareExchanges(ch *amqp.Channel) error {
	for _, e := range []struct{ name, kind string }{
		{b.messagesExchange(), amqp.ExchangeTopic},
		{b.broadcastExchange(), amqp.ExchangeTopic},
		{b.droppedExchange(), amqp.ExchangeFanout},
	} {
		if err := ch.ExchangeDeclare(e.name, e.kind, true, false, false, false, nil); err != nil {
			return fmt.Errorf("declare the exchange %s: %w", e.name, err)
		}
	}
	return nil
}

// declareDropped creates the queue of what the broker dropped.
func (b *Bus) declareDropped(ch *amqp.Channel) error {
	if _, err := ch.QueueDeclare(b.droppedQueue(), true, false, false, false, b.quorum(amqp.Table{
		"x-max-length":       int64(maxDropsKept),
		"x-max-length-bytes": int64(maxDropsBytes),
		"x-overflow":         amqp.QueueOverflowDropHead,
		"x-message-ttl":      (24 * time.Hour).Milliseconds(),
	})); err != nil {
		return fmt.Errorf("declare the queue %s: %w", b.droppedQueue(), err)
	}
	if err := ch.QueueBind(b.droppedQueue(), "", b.droppedExchange(), false, nil); err != nil {
		return fmt.Errorf("bind the queue %s: %w", b.droppedQueue(), err)
	}
	return nil
}

// declareGroup creates a group's queue and binds it to its subjects. A queue that
// is there with other settings is used as it is: they cannot be changed without
// losing its messages.
func (b *Bus) declareGroup(s *session, g *subscription) error {
	queue := b.groupQueue(g.group.Name)
	err := b.declareQueue(s, g, queue, amqp.Table{
		"x-max-length-bytes":     b.options.MaxBytes,
		"x-overflow":             amqp.QueueOverflowDropHead,
		"x-message-ttl":          b.options.MaxAge.Milliseconds(),
		"x-expires":              forgetGroupAfter.Milliseconds(),
		"x-delivery-limit":       int64(deliveryLimit),
		"x-dead-letter-exchange": b.droppedExchange(),
	})
	if err != nil {
		return err
	}
	return s.with(func(ch *amqp.Channel) error {
		for _, subject := range g.group.Subjects {
			if err := ch.QueueBind(queue, bindingKey(subject), b.messagesExchange(), false, nil); err != nil {
				return fmt.Errorf("bind the queue %s to %s: %w", queue, subject, err)
			}
		}
		return nil
	})
}

// declareDelay creates a group's queue for a step of delays. From there messages
// go back to the group's queue, and stay until that has taken them. A full one
// refuses further messages.
func (b *Bus) declareDelay(s *session, g *subscription, step time.Duration) error {
	return b.declareQueue(s, g, b.delayQueue(g.group.Name, step), amqp.Table{
		"x-max-length-bytes":        b.options.MaxBytes,
		"x-overflow":                amqp.QueueOverflowRejectPublish, // needed for at-least-once
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": b.groupQueue(g.group.Name),
		"x-dead-letter-strategy":    "at-least-once",
	})
}

func (b *Bus) declareQueue(s *session, g *subscription, queue string, settings amqp.Table) error {
	err := s.with(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, true, false, false, false, b.quorum(settings))
		return err
	})
	var e *amqp.Error
	if errors.As(err, &e) && e.Code == amqp.PreconditionFailed {
		reason := e.Reason
		err = s.with(func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err
		})
		if err == nil && g.warned.CompareAndSwap(false, true) {
			g.log.Warn("the group's queue has other settings than asked for and is used as it is; set them by a policy, or delete the queue while no instance runs",
				"queue", queue, "reason", reason)
		}
	}
	if err != nil {
		return fmt.Errorf("declare the queue %s: %w", queue, err)
	}
	return nil
}
