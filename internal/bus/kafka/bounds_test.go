//go:build unix

package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/bus"
	"millrace/internal/bus/kafka"
)

func numbered(n, size int) []bus.Message {
	list := make([]bus.Message, n)
	for i := range list {
		list[i] = bus.Message{Subject: "orders.placed", ID: strconv.Itoa(i), Data: make([]byte, size)}
	}
	return list
}

// TestAPartitionIsNotReadFarAheadOfAStuckMessage has the first of a thousand stuck.
func TestAPartitionIsNotReadFarAheadOfAStuckMessage(t *testing.T) {
	t.Parallel()
	const n, bound = 1000, 50
	c := fake(t)
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs(), MaxUnanswered: bound})
	proceed := make(chan struct{})
	var handled atomic.Int64
	others := make(chan string, 10)
	g := workers(t)
	join(t, b, g, func(_ context.Context, d *bus.Delivery) error {
		switch d.ID {
		case "0":
			<-proceed
		case "other":
			others <- d.ID
			return nil
		}
		handled.Add(1)
		return nil
	})
	t.Cleanup(sync(proceed))
	publish(t, b, numbered(n, 0)...)
	eventually(t, "the messages up to the bound", func() bool { return handled.Load() >= bound-1 })
	for range 6 { // in every other partition
		publish(t, b, message("other"))
	}
	for range 5 { // one of them waits behind the stuck one
		receive(t, "a message of another partition", others)
	}
	if got := handled.Load(); got > bound+int64(g.Concurrency) {
		t.Errorf("%d messages were handled past a stuck one, the bound is %d", got, bound)
	}
	sync(proceed)()
	eventually(t, "all messages", func() bool { return handled.Load() == n })
	receive(t, "the one behind them", others)
}

// TestWhatWaitsInMemoryIsBounded has everything ask for another attempt in an hour.
func TestWhatWaitsInMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const n, size = 60, 100 << 10
	c := fake(t)
	reg := prometheus.NewPedanticRegistry()
	b := openFor(t, kafka.Options{Brokers: c.ListenAddrs(), MaxWaitingBytes: 1 << 20, Metrics: kafka.NewMetrics(reg)})
	done := make(chan string, n)
	join(t, b, workers(t), func(_ context.Context, d *bus.Delivery) error {
		if d.ID == "good" {
			done <- d.ID
			return nil
		}
		return &bus.RetryError{After: time.Hour, Cause: errors.New("closed")}
	})
	for _, m := range numbered(n, size) {
		publish(t, b, m)
	}
	eventually(t, "all postponed", func() bool { return gathered(t, reg, "millrace_bus_postponed_total") == n })
	eventually(t, "messages up to the bound", func() bool { return gathered(t, reg, "millrace_bus_waiting") > 10 })
	publish(t, b, message("good"))
	receive(t, "a message while others wait", done)
	// The bound, and what one look at the broker brings more.
	if got := gathered(t, reg, "millrace_bus_waiting"); got > 1<<20/size+2*4+1 {
		t.Errorf("%v messages of 100 KiB wait in memory, the bound is 1 MiB", got)
	}
}

func gathered(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

// TestASilentBrokerIsFoundOut stops it in the middle of everything, with
// connections open.
func TestASilentBrokerIsFoundOut(t *testing.T) {
	t.Parallel()
	e := newExternal(t)
	b := openFor(t, kafka.Options{Brokers: []string{e.addr}})
	got := make(chan string, 1000)
	join(t, b, workers(t), func(_ context.Context, d *bus.Delivery) error { got <- d.ID; return nil })
	second := join(t, openFor(t, kafka.Options{Brokers: []string{e.addr}}), workers(t), func(_ context.Context, d *bus.Delivery) error { got <- d.ID; return nil })
	publish(t, b, message("before"))
	receive(t, "a message before", got)
	if err := e.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		asked := time.Now()
		err := b.Publish(ctx, []bus.Message{message("into silence")})
		cancel()
		passed := time.Since(asked)
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Fatalf("Publish to a silent broker: got %v, want ErrUnavailable", err)
		}
		if passed > 3*time.Second {
			t.Errorf("Publish took %v, its context had 2 s", passed)
		}
		if passed < 50*time.Millisecond {
			break // known to be down
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatal("Publish still waits for a broker that is silent")
		}
	}
	t.Logf("found after %v", time.Since(begun).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := second.Close(ctx); err != nil {
		t.Errorf("Close while the broker is silent: %v", err)
	}
	if err := e.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "publishing again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		n++
		return b.Publish(ctx, []bus.Message{message(fmt.Sprint("after-", n))}) == nil
	})
	// The broker may have been stopped in the middle of a rebalance.
	want := fmt.Sprint("after-", n)
	for receive(t, "a message after", got) != want {
		continue
	}
}

// TestAnInstanceThatDiesLeavesItsMessagesToOthers kills one process of a group in
// the middle of its work: the broker gives its partitions to the other.
func TestAnInstanceThatDiesLeavesItsMessagesToOthers(t *testing.T) {
	t.Parallel()
	e := newExternal(t)
	b := openFor(t, kafka.Options{Brokers: []string{e.addr}})
	// The place of the group, so that nothing published from here on is missed.
	first := join(t, b, workers(t), func(context.Context, *bus.Delivery) error { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	victim := startVictim(t, e.addr)
	const n = 100
	for i := range n {
		publish(t, b, message(strconv.Itoa(i)))
	}
	victim.stuck(t)
	got := make(chan string, 2*n)
	join(t, b, workers(t), func(_ context.Context, d *bus.Delivery) error { got <- d.ID; return nil })
	victim.kill(t)
	seen := map[string]bool{}
	for len(seen) < n {
		seen[receive(t, fmt.Sprintf("message %d of %d", len(seen)+1, n), got)] = true
	}
}
