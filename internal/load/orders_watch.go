package load

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// payWatcher follows some of the placed orders until they are paid. It long-polls
// a few at a time, so that watching costs the server little; the orders that are
// placed while all watchers are busy are not watched.
type payWatcher struct {
	b       *buyers
	offered chan watchedOrder
	workers sync.WaitGroup
}

type watchedOrder struct {
	id     idBytes
	placed time.Time // when the answer came
}

const (
	payWatchers = 16
	// payWatchEvery is the least time between two orders of one watcher.
	payWatchEvery = 100 * time.Millisecond
	// payPoll is how long the server is asked to wait for a change.
	payPoll = 10 * time.Second
)

func newPayWatcher(b *buyers) *payWatcher {
	return &payWatcher{b: b, offered: make(chan watchedOrder)}
}

// start starts the watchers; they end with ctx or finish.
func (p *payWatcher) start(ctx context.Context) {
	for range payWatchers {
		p.workers.Go(func() { p.work(ctx) })
	}
}

// offer has an order watched if a watcher is free.
func (p *payWatcher) offer(id idBytes, placed time.Time) {
	select {
	case p.offered <- watchedOrder{id, placed}:
	default:
	}
}

func (p *payWatcher) work(ctx context.Context) {
	c := newConn(p.b.dialer)
	defer c.close()
	for o := range p.offered {
		if took, ok := p.follow(ctx, c, o); ok {
			p.b.tally.paidAfter(took)
		}
		wait(ctx, payWatchEvery)
	}
}

// unpaid says whether an order of a status waits for its payment, or for what
// becomes of it.
func unpaid(status string) bool {
	switch status {
	case "placed", "charging", "cancelling":
		return true
	}
	return false
}

// follow polls until an order is paid or settled otherwise. It gives up when the
// time for watching is over.
func (p *payWatcher) follow(ctx context.Context, c *conn, o watchedOrder) (time.Duration, bool) {
	path := p.b.base.JoinPath("orders", o.id.String(), "status").RequestURI() + "?wait=" + payPoll.String()
	version := 1
	for time.Since(o.placed) < p.b.o.WatchFor && ctx.Err() == nil {
		request := "GET " + path + " HTTP/1.1\r\n" + headers(p.b.base, p.b.o.Token) + `If-None-Match: "v` + strconv.Itoa(version) + "\"\r\n\r\n"
		a, err := c.roundTrip(ctx, []byte(request), payPoll+p.b.o.Timeout)
		var answer struct {
			Status  string `json:"status"`
			Version int    `json:"version"`
		}
		switch {
		case err == nil && a.status == 304:
			continue
		case err != nil || a.status != 200 || json.Unmarshal(a.body, &answer) != nil || answer.Version < 1:
			wait(ctx, payWatchEvery)
			continue
		case !unpaid(answer.Status):
			return time.Since(o.placed), true
		}
		version = answer.Version
	}
	return 0, false
}

// finish waits until no order waits for its payment any more and reports.
func (p *payWatcher) finish(ctx context.Context, r *OrdersReport) error {
	last := time.Time{}
	p.b.tally.update(func(*OrderCounts) { last = p.b.tally.last })
	close(p.offered)
	reader := newOrderReader(p.b.base, p.b.o.Token, p.b.o.Timeout, 1, p.b.o.TLS)
	defer reader.close()
	for {
		waiting, err := reader.anyOf(ctx, "placed", "charging", "cancelling")
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("watching: %w", err)
		}
		r.DrainSeconds = time.Since(last).Seconds()
		r.Drained = err == nil && !waiting
		if r.Drained || time.Since(last) > p.b.o.WatchFor || !wait(ctx, 20*time.Millisecond) {
			break
		}
	}
	p.workers.Wait()
	return nil
}
