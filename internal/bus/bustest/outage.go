package bustest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"millrace/internal/bus"
)

func brokerGone(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	join(t, conn, group(t, "workers"), newInbox().handle)
	publish(t, conn, message("before"))
	if err := conn.Ping(within(t, patience)); err != nil {
		t.Fatalf("Ping with a broker: %v", err)
	}
	b.Stop(t)
	const limit = 3 * time.Second
	for what, call := range map[string]func(context.Context) error{
		"Publish": func(ctx context.Context) error { return conn.Publish(ctx, messages("m", 700)) },
		"Ping":    conn.Ping,
		"Broadcast, once the loss is known": func(ctx context.Context) error {
			for { // at most once: what is sent into a dead connection is lost
				if err := conn.Broadcast(ctx, bus.Message{Subject: "a"}); err != nil {
					return err
				}
				pause(ctx)
			}
		},
	} {
		begun := time.Now()
		err := call(within(t, limit))
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("%s without a broker: got %v, want ErrUnavailable", what, err)
		}
		if passed := time.Since(begun); passed > limit+2*time.Second {
			t.Errorf("%s took %v, its context had %v", what, passed, limit)
		}
	}
}

// startsFirst makes everything while the broker is away.
func startsFirst(t *testing.T, b Broker, _ Gaps) {
	b.Stop(t)
	conn, in, heard := open(t, b), newInbox(), make(chan bus.Message, 64)
	if err := conn.Ping(within(t, 2*time.Second)); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Ping: got %v, want ErrUnavailable", err)
	}
	join(t, conn, group(t, "workers"), in.handle)
	listen(t, conn, "a", func(m bus.Message) { heard <- m })
	b.Start(t, true)
	eventually(t, "Ping", conn.Ping)
	flows(t, conn, in, "late")
	hears(t, conn, heard)
}

// flows publishes until a message arrives: those sent while the group is not
// joined again may be lost.
func flows(t *testing.T, conn bus.Bus, in *inbox, prefix string) {
	t.Helper()
	n := 0
	eventually(t, "a message "+prefix, func(ctx context.Context) error {
		n++
		if err := conn.Publish(ctx, []bus.Message{message(fmt.Sprintf("%s-%d", prefix, n))}); err != nil {
			return err
		}
		pause(ctx)
		for i := 1; i <= n; i++ {
			if in.counts()[fmt.Sprintf("%s-%d", prefix, i)] > 0 {
				return nil
			}
		}
		return errors.New("nothing has arrived")
	})
}

func hears(t *testing.T, conn bus.Bus, heard <-chan bus.Message) {
	t.Helper()
	eventually(t, "a broadcast", func(ctx context.Context) error {
		if err := conn.Broadcast(ctx, bus.Message{Subject: "a"}); err != nil {
			return err
		}
		pause(ctx)
		select {
		case <-heard:
			return nil
		default:
			return errors.New("not heard")
		}
	})
}

// killed kills the broker with messages in every state: handled, being handled,
// read ahead and waiting. None is lost.
func killed(t *testing.T, b Broker, _ Gaps) {
	const n = 60
	publisher, worker := open(t, b), open(t, b)
	in, heard := newInbox(), make(chan bus.Message, 64)
	busy, proceed := make(chan struct{}, 4*n), make(chan struct{})
	g := group(t, "workers")
	g.Concurrency, g.AckWait = 4, 2*time.Second
	join(t, worker, g, func(_ context.Context, d *bus.Delivery) error {
		if d.ID != "early" {
			busy <- struct{}{}
			<-proceed
		}
		in.put(d)
		return nil
	})
	listen(t, worker, "a", func(m bus.Message) { heard <- m })
	publish(t, publisher, message("early"))
	in.has(t, 1)
	publish(t, publisher, messages("m", n)...)
	receive(t, "a handler at work", busy)
	b.Stop(t)
	if err := publisher.Publish(within(t, time.Second), messages("away", 1)); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Publish without a broker: got %v, want ErrUnavailable", err)
	}
	close(proceed)
	b.Start(t, false)
	eventually(t, "publishing again", func(ctx context.Context) error { return publisher.Publish(ctx, messages("after", n)) })
	in.until(t, "every message from before and after", func(seen map[string]int) bool {
		for i := range n {
			if seen[fmt.Sprintf("m-%d", i)] == 0 || seen[fmt.Sprintf("after-%d", i)] == 0 {
				return false
			}
		}
		return true
	})
	hears(t, publisher, heard)
}

// emptied has two groups on connections of their own, one of them at work.
func emptied(t *testing.T, b Broker, _ Gaps) {
	publisher, worker := open(t, b), open(t, b)
	first, second, heard := newInbox(), newInbox(), make(chan bus.Message, 64)
	busy, proceed := make(chan struct{}, 16), make(chan struct{})
	join(t, worker, group(t, "payment"), func(_ context.Context, d *bus.Delivery) error {
		if d.ID == "before" {
			busy <- struct{}{}
			<-proceed
		}
		first.put(d)
		return nil
	})
	join(t, publisher, group(t, "fulfilment"), second.handle)
	listen(t, worker, "a", func(m bus.Message) { heard <- m })
	publish(t, publisher, message("before"))
	receive(t, "the handler at work", busy)
	b.Stop(t)
	b.Start(t, true)
	close(proceed) // what it answers for, the new broker has never heard of
	for round := range 2 {
		flows(t, publisher, first, fmt.Sprint("first ", round))
		flows(t, publisher, second, fmt.Sprint("second ", round))
		hears(t, publisher, heard)
		if round == 0 {
			b.Stop(t)
			b.Start(t, true)
		}
	}
}
