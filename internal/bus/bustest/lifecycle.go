package bustest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/bus"
)

// closing closes a member in the middle of its work. The other one gets the rest
// long before an unanswered message would come again; with partitions, once the
// handlers have ended.
func closing(t *testing.T, b Broker, gaps Gaps) {
	const n = 40
	g := group(t, "workers")
	g.Concurrency, g.AckWait = 4, 10*time.Minute
	first, second := newInbox(), newInbox()
	busy, proceed := make(chan struct{}, n), make(chan struct{})
	conn := open(t, b)
	s, err := conn.Subscribe(within(t, patience), g, func(_ context.Context, d *bus.Delivery) error {
		busy <- struct{}{}
		<-proceed
		first.put(d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, conn, messages("m", n)...)
	for range g.Concurrency {
		receive(t, "a handler at work", busy)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close(within(t, patience)) }()
	join(t, open(t, b), g, second.handle)
	if !gaps.ByPartition {
		second.has(t, n-g.Concurrency) // Close is under way: what it does not handle has been given back
	}
	select {
	case err := <-closed:
		t.Fatalf("Close returned before the handlers: %v", err)
	default:
	}
	close(proceed)
	second.has(t, n-g.Concurrency)
	if err := receive(t, "Close", closed); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := s.Close(within(t, patience)); err != nil {
		t.Errorf("Close again: %v", err)
	}
	for id, times := range first.counts() {
		if times += second.counts()[id]; times != 1 && !gaps.ByPartition {
			t.Errorf("message %s was handled %d times, want once", id, times)
		}
	}
	if got := len(first.counts()); got != g.Concurrency {
		t.Errorf("the closed member handled %d messages, want %d", got, g.Concurrency)
	}
}

func closingDeadline(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	busy, ended := make(chan struct{}, 1), make(chan error, 1)
	s, err := conn.Subscribe(within(t, patience), group(t, "workers"), func(ctx context.Context, _ *bus.Delivery) error {
		busy <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, conn, message("m"))
	receive(t, "the handler at work", busy)
	if err := s.Close(within(t, 50*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a busy handler: got %v, want DeadlineExceeded", err)
	}
	receive(t, "the end of the handler's context", ended)
	if err := s.Close(within(t, patience)); err != nil {
		t.Errorf("Close once the handler has ended: %v", err)
	}
	in := newInbox()
	join(t, conn, group(t, "workers"), in.handle)
	in.has(t, 1) // nobody has acknowledged it
}

func closedBus(t *testing.T, b Broker, _ Gaps) {
	conn := b.Open(t)
	forgotten, err := conn.Subscribe(within(t, patience), group(t, "workers"), newInbox().handle)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	leave(t, forgotten)
	ctx := within(t, patience)
	if err := conn.Publish(ctx, messages("m", 1)); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Publish after Close: got %v, want ErrUnavailable", err)
	}
	if err := conn.Broadcast(ctx, bus.Message{Subject: "a"}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Broadcast after Close: got %v, want ErrUnavailable", err)
	}
	if err := conn.Ping(ctx); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Ping after Close: got %v, want ErrUnavailable", err)
	}
	if _, err := conn.Subscribe(ctx, group(t, "workers"), newInbox().handle); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Subscribe after Close: got %v, want ErrUnavailable", err)
	}
	if _, err := conn.Listen(ctx, "a", func(bus.Message) {}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Listen after Close: got %v, want ErrUnavailable", err)
	}
}

func broadcast(t *testing.T, b Broker, _ Gaps) {
	first, second := open(t, b), open(t, b)
	heard := make(chan string, 64)
	hear := func(name string) func(bus.Message) {
		return func(m bus.Message) {
			heard <- fmt.Sprint(name, " ", m.Subject, " ", m.ID, " ", m.Headers["k"], " ", string(m.Data))
		}
	}
	listen(t, first, "catalog.changed", hear("one"))
	listen(t, first, "catalog.*", hear("two"))
	listen(t, second, "catalog.>", hear("three"))
	listen(t, second, "places.changed", hear("four"))
	in := newInbox()
	join(t, first, group(t, "workers"), in.handle)
	if err := first.Broadcast(within(t, patience), bus.Message{Subject: "catalog.changed", ID: "i", Headers: map[string]string{"k": "v"}, Data: []byte("d")}); err != nil {
		t.Fatal(err)
	}
	if err := first.Broadcast(within(t, patience), bus.Message{Subject: "orders.placed"}); err != nil {
		t.Fatal(err)
	}
	if err := first.Broadcast(within(t, patience), bus.Message{Subject: "places.changed", ID: "i", Headers: map[string]string{"k": "v"}, Data: []byte("d")}); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for range 4 {
		got[receive(t, "a broadcast", heard)]++
	}
	for _, want := range []string{"one catalog.changed i v d", "two catalog.changed i v d", "three catalog.changed i v d", "four places.changed i v d"} {
		if got[want] != 1 {
			t.Errorf("heard %q %d times, want once; all: %v", want, got[want], got)
		}
	}
	publish(t, first, message("for the group"))
	in.has(t, 1)
	if in.counts()["for the group"] != 1 || len(in.counts()) != 1 {
		t.Errorf("the group got %v, want its message and no broadcast", in.counts())
	}
	if err := first.Broadcast(within(t, patience), bus.Message{Subject: "no subject"}); err == nil {
		t.Error("a broadcast with a bad subject was sent")
	}
}

// slowListener has one listener stuck, with far more broadcasts than it may hold.
func slowListener(t *testing.T, b Broker, _ Gaps) {
	const n = 5000
	conn := open(t, b)
	stuck, proceed := make(chan struct{}, n), make(chan struct{})
	var slow atomic.Int64
	last := make(chan struct{}, n)
	listen(t, conn, "a", func(bus.Message) {
		slow.Add(1)
		stuck <- struct{}{}
		<-proceed
	})
	listen(t, open(t, b), "a", func(m bus.Message) {
		if m.ID == "last" {
			last <- struct{}{}
		}
	})
	in := newInbox()
	join(t, conn, group(t, "workers"), in.handle)
	for range n {
		if err := conn.Broadcast(within(t, patience), bus.Message{Subject: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, "the slow listener stuck", stuck)
	publish(t, conn, message("m"))
	in.has(t, 1)
	// The quick one may have dropped some too, but it keeps up from here on.
	eventually(t, "a broadcast to the quick listener", func(ctx context.Context) error {
		if err := conn.Broadcast(ctx, bus.Message{Subject: "a", ID: "last"}); err != nil {
			return err
		}
		pause(ctx)
		select {
		case <-last:
			return nil
		default:
			return errors.New("not heard")
		}
	})
	close(proceed)
	if got := slow.Load(); got >= n {
		t.Errorf("the slow listener was handed all %d broadcasts while it was stuck", got)
	}
}
