package load

import (
	"context"
	"math/rand/v2"
	"time"
)

// buyer places orders one after the other. It belongs to one goroutine.
type buyer struct {
	*buyers
	conn    *conn
	second  *conn // for the twin of an order; nil until there is one
	draw    *drawer
	buf     []byte
	command []byte
}

func (w *buyer) close() {
	w.conn.close()
	if w.second != nil {
		w.second.close()
	}
}

// order places order number k and does what else is planned for it.
func (w *buyer) order(ctx context.Context, k int, intended time.Time) orderOutcome {
	n := w.draw.draw(k, intended)
	w.buf = w.draw.render(w.buf[:0], n)
	w.tally.sent(len(w.draw.body), w.o.Rate > 0 && time.Since(intended) > time.Millisecond)
	var x, twin orderResult
	if n.twice == atOnce {
		x, twin = w.placeBoth(ctx, w.buf)
	} else {
		x = w.place(ctx, w.conn, w.buf)
	}
	now := time.Now()
	x.latency = now.Sub(intended)
	w.tally.done(x, now)
	w.note(n, x)
	if n.twice == afterwards && x.outcome == orderPlaced {
		twin = w.place(ctx, w.conn, w.buf)
	}
	if n.twice != once {
		w.compare(n, x, twin)
	}
	if x.outcome != orderPlaced {
		return x.outcome
	}
	if w.watcher != nil {
		w.watcher.offer(x.receipt.id, now)
	}
	if n.cancel {
		w.cancel(ctx, x.receipt.id)
	}
	return x.outcome
}

// note writes the order to the acked file. An order of which an earlier attempt
// got no answer may be there although the last attempt was refused.
func (w *buyer) note(n *plannedOrder, x orderResult) {
	switch {
	case w.acked == nil:
	case x.outcome == orderPlaced:
		w.acked.placed(n, x.receipt.id, x.receipt.total)
	case x.outcome == orderUnknown || x.doubtful:
		w.acked.doubtful(n)
	}
}

// placeBoth sends an order twice at once, over two connections.
func (w *buyer) placeBoth(ctx context.Context, request []byte) (x, twin orderResult) {
	if w.second == nil {
		w.second = newConn(w.dialer)
	}
	done := make(chan orderResult, 1)
	go func() { done <- w.place(ctx, w.second, request) }()
	x = w.place(ctx, w.conn, request)
	twin = <-done
	if x.outcome != orderPlaced && twin.outcome == orderPlaced {
		x, twin = twin, x
	}
	x.doubtful = x.doubtful || twin.doubtful || twin.outcome == orderUnknown
	return x, twin
}

// compare checks the answers to an order that was sent twice.
func (w *buyer) compare(n *plannedOrder, x, twin orderResult) {
	if n.twice == afterwards && x.outcome != orderPlaced {
		return // it was not sent twice
	}
	w.tally.update(func(c *OrderCounts) { c.Duplicates++ })
	switch {
	case x.outcome != orderPlaced:
	case twin.outcome == orderPlaced && twin.receipt == x.receipt:
		w.tally.update(func(c *OrderCounts) { c.DuplicatesAgreed++ })
		if n.twice == afterwards && !twin.replayed {
			w.tally.promiseBroken("key %s: the second answer for order %s does not say that it is a replay", n.key, x.receipt.id)
		}
	case twin.outcome == orderPlaced:
		w.tally.promiseBroken("key %s gave order %s of %d and then %s of %d", n.key, x.receipt.id, x.receipt.total, twin.receipt.id, twin.receipt.total)
		if w.acked != nil {
			w.acked.placed(n, twin.receipt.id, twin.receipt.total)
		}
	case n.twice == afterwards && (twin.outcome == orderOutOfStock || twin.outcome == orderInvalid || twin.outcome == orderFailed):
		w.tally.promiseBroken("key %s was placed as order %s; sent again it was refused", n.key, x.receipt.id)
	}
}

// place sends one order, with the same key again until its outcome stands.
func (w *buyer) place(ctx context.Context, c *conn, request []byte) orderResult {
	x := orderResult{}
	w.persist(ctx, c, request, func(a answer, err error) bool {
		x.attempts++
		x.outcome, x.replayed = judgeOrder(a, err), a.replayed
		if x.outcome == orderPlaced {
			if x.receipt, err = parseReceipt(a.body); err != nil {
				x.outcome = orderUnknown
			}
		}
		w.tally.answered(a, err, x.outcome)
		w.turnedAway(a, x.outcome)
		again := x.outcome.again(w.o.Retry, x.doubtful)
		x.doubtful = x.doubtful || x.outcome == orderUnknown
		return again
	})
	if x.doubtful && (x.outcome == orderRefused || x.outcome == orderUnreached) {
		x.outcome = orderUnknown
	}
	return x
}

// cancel cancels an order that has just been placed.
func (w *buyer) cancel(ctx context.Context, id idBytes) {
	w.command = w.plan.renderCancel(w.command[:0], id)
	last := orderUnknown
	var said answer
	w.persist(ctx, w.conn, w.command, func(a answer, err error) bool {
		last, said = judgeOrder(a, err), a
		return last.again(true, true)
	})
	switch {
	case last == orderPlaced: // 2xx
		w.tally.update(func(c *OrderCounts) { c.Cancelled++ })
		if w.acked != nil {
			w.acked.cancelled(id)
		}
	case last == orderFailed && said.status == 409:
		w.tally.update(func(c *OrderCounts) { c.CancelsRefused++ })
	default:
		w.tally.update(func(c *OrderCounts) { c.CancelsFailed++ })
		if last == orderFailed || last == orderInvalid {
			w.tally.promiseBroken("order %s was placed; its cancellation was answered %s", id, explain(said))
		}
	}
}

// persist sends a request, again and again while judge says so, until the time
// for it is over.
func (w *buyer) persist(ctx context.Context, c *conn, request []byte, judge func(answer, error) (again bool)) {
	began := time.Now()
	pause := min(50*time.Millisecond, w.o.RetryPause)
	for {
		a, err := c.roundTrip(ctx, request, w.o.Timeout)
		if !judge(a, err) {
			return
		}
		delay := pause/2 + rand.N(pause/2+1)
		if a.retryAfter > 0 && err == nil {
			delay = a.retryAfter
		}
		pause = min(2*pause, w.o.RetryPause)
		if time.Since(began)+delay >= w.o.RetryFor || !wait(ctx, delay) {
			return
		}
	}
}
