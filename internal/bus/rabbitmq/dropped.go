package rabbitmq

import (
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// Bounds of reading what was dropped.
const (
	dropsPrefetch = 256
	dropsReported = time.Second // how often, at most
)

// drop is a group and why the broker dropped a message of it.
type drop struct{ group, reason string }

// drops are those since the last report.
type drops struct {
	count   map[drop]int
	example map[drop]string // the subject and id of one of them
}

// watchDrops reads what the broker dropped from the groups' queues, counts it and
// logs it, until the Bus is closed. All instances share the work.
func (b *Bus) watchDrops() {
	for failures := 0; ; {
		on := b.consuming.await(b.stopping)
		if on == nil {
			return
		}
		began := time.Now()
		if err := b.readDrops(on); err != nil {
			b.options.Logger.Debug("what the broker dropped cannot be read; trying on", "queue", b.droppedQueue(), "error", err)
			if missing(err) {
				on.unfurnish()
			}
		}
		if failures++; time.Since(began) > longestRejoin {
			failures = 1
		}
		pause(b.stopping, bus.Backoff(failures, firstRejoin, longestRejoin))
	}
}

// readDrops returns when its channel ends or the Bus is closed.
func (b *Bus) readDrops(on *session) error {
	if err := b.furnish(on); err != nil {
		return err
	}
	if err := on.with(b.declareDropped); err != nil {
		return err
	}
	ch, err := on.conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close() }() // what was read and not acknowledged is read again
	if err := ch.Qos(dropsPrefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(b.droppedQueue(), consumerTag, false, false, false, false, nil)
	if err != nil {
		return err
	}
	report := time.NewTicker(dropsReported)
	defer report.Stop()
	d := drops{count: map[drop]int{}, example: map[drop]string{}}
	var last amqp.Delivery
	unanswered := 0
	answer := func() {
		if unanswered > 0 {
			_ = last.Ack(true) // or it is counted again
			unanswered = 0
		}
	}
	for {
		select {
		case delivery, open := <-deliveries:
			if !open {
				d.log(b)
				return errEnded
			}
			d.add(b, &delivery)
			last = delivery
			if unanswered++; unanswered >= dropsPrefetch/2 {
				answer()
			}
		case <-report.C:
			answer()
			d.log(b)
		case <-b.stopping:
			answer()
			d.log(b)
			return nil
		}
	}
}

func (d *drops) add(b *Bus, delivery *amqp.Delivery) {
	queue, reason := death(delivery.Headers)
	group := strings.TrimPrefix(queue, b.groupQueue(""))
	if group == queue || strings.Contains(group, ".") {
		group = "unknown" // somebody else's, whose name is not for a metric
	}
	of := drop{group, reason}
	b.options.Metrics.droppedGroup.WithLabelValues(of.group, of.reason).Inc()
	m := received(delivery)
	d.count[of]++
	d.example[of] = m.Subject + " " + m.ID
}

func (d *drops) log(b *Bus) {
	for of, n := range d.count {
		b.options.Logger.Warn("the broker dropped messages of a group; what they told is found again from the database, later",
			"group", of.group, "reason", of.reason, "messages", n, "example", d.example[of])
	}
	clear(d.count)
	clear(d.example)
}

// death reads from the broker's header which queue dropped a message at last, and
// why.
func death(headers amqp.Table) (queue, reason string) {
	list, _ := headers["x-death"].([]any)
	reason = "unknown"
	if len(list) == 0 {
		return "", reason
	}
	latest, _ := list[0].(amqp.Table)
	queue, _ = latest["queue"].(string)
	switch r, _ := latest["reason"].(string); r {
	case "maxlen", "expired", "delivery_limit", "rejected":
		reason = r
	}
	return queue, reason
}
