package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// tally is a handler that notes which messages came.
type tally struct {
	mu      sync.Mutex
	seen    map[string]int
	changed chan struct{} // has room for one
}

func newTally() *tally { return &tally{seen: map[string]int{}, changed: make(chan struct{}, 1)} }

func (y *tally) handle(_ context.Context, d *bus.Delivery) error {
	y.mu.Lock()
	y.seen[d.ID]++
	y.mu.Unlock()
	select {
	case y.changed <- struct{}{}:
	default:
	}
	return nil
}

// lacks returns how many of the ids have not come.
func (y *tally) lacks(ids []string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	n := 0
	for _, id := range ids {
		if y.seen[id] == 0 {
			n++
		}
	}
	return n
}

// has waits for all ids.
func (y *tally) has(t testing.TB, ids []string) {
	t.Helper()
	giveUp := time.After(patience)
	for y.lacks(ids) > 0 {
		select {
		case <-y.changed:
		case <-giveUp:
			t.Fatalf("%d of %d messages that were confirmed have not come", y.lacks(ids), len(ids))
		}
	}
}

// sender publishes batches until it is stopped, each again until it is confirmed.
type sender struct {
	stop, done chan struct{}
	failures   chan error // the first after each success, as far as there is room
	confirmed  []string   // ids, once done is closed
}

func send(b bus.Bus, batch int) *sender {
	s := &sender{stop: make(chan struct{}), done: make(chan struct{}), failures: make(chan error, 64)}
	go func() {
		defer close(s.done)
		for n := 0; ; n++ {
			list := make([]bus.Message, batch)
			for i := range list {
				list[i] = bus.Message{Subject: "orders.placed", ID: fmt.Sprintf("%d-%d", n, i), Data: make([]byte, 100)}
			}
			if !s.batch(b, list) {
				return
			}
		}
	}()
	return s
}

// batch returns false when the sender is stopped.
func (s *sender) batch(b bus.Bus, list []bus.Message) bool {
	told := false
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := b.Publish(ctx, list)
		cancel()
		if err == nil {
			for _, m := range list {
				s.confirmed = append(s.confirmed, m.ID)
			}
		} else if !told {
			told = true
			select {
			case s.failures <- err:
			default:
			}
		}
		pause := time.NewTimer(10 * time.Millisecond) // ErrUnavailable comes at once
		if err == nil {
			pause.Reset(0)
		}
		select {
		case <-s.stop:
			return false
		case <-pause.C:
		}
		if err == nil {
			return true
		}
	}
}

// ids stops the sender and returns what was confirmed.
func (s *sender) ids() []string {
	close(s.stop)
	<-s.done
	return s.confirmed
}

// failed waits for the next failure, which must be that the broker is away.
func (s *sender) failed(t testing.TB) {
	t.Helper()
	select {
	case err := <-s.failures:
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("Publish failed with %v, want ErrUnavailable", err)
		}
	case <-time.After(patience):
		t.Fatal("publishing never failed")
	}
}

// until waits for a condition that has no signal of its own.
func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	again, giveUp := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer again.Stop()
	for !met() {
		select {
		case <-again.C:
		case <-giveUp:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func workers(subjects ...string) bus.Group {
	if len(subjects) == 0 {
		subjects = []string{"orders.>"}
	}
	return bus.Group{Name: "workers", Subjects: subjects, Concurrency: 8, AckWait: time.Minute, MaxAttempts: 10,
		Backoff:    func(int) time.Duration { return 20 * time.Millisecond },
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil }}
}

func subscribe(t testing.TB, b bus.Bus, g bus.Group, h bus.Handler) bus.Subscription {
	t.Helper()
	s, err := b.Subscribe(within(t), g, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(within(t)); err != nil {
			t.Errorf("Close of the group: %v", err)
		}
	})
	return s
}

// TestWhatWasConfirmedSurvivesAKilledBroker kills it in the middle of publishing,
// while nobody consumes.
func TestWhatWasConfirmedSurvivesAKilledBroker(t *testing.T) {
	p := newPlace(servertest.RabbitMQ(t, servers.RabbitMQOptions{}))
	b := openFor(t, p.options())
	s, err := b.Subscribe(within(t), workers(), newTally().handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(within(t)); err != nil { // the queue stays
		t.Fatal(err)
	}
	if err := p.server.QueueOnDisk(within(t), p.prefix+".group.workers"); err != nil {
		t.Fatal(err)
	}
	out := send(b, 50)
	ch := p.dial(t)
	until(t, "a thousand messages on the broker", func() bool { return depth(t, p, ch) > 1000 })
	p.Stop(t)
	out.failed(t)
	p.Start(t, false)
	got := newTally()
	subscribe(t, b, workers(), got.handle)
	until(t, "a connection", func() bool { return b.Ping(within(t)) == nil })
	ids := out.ids()
	got.has(t, ids)
	t.Logf("%d messages were confirmed", len(ids))
}

// depth is how many messages are ready in the queue of the group workers.
func depth(t testing.TB, p *place, ch *amqp.Channel) int {
	t.Helper()
	q, err := ch.QueueDeclarePassive(p.prefix+".group.workers", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// TestConnectionsThatAreCutWhilePublishingLoseNothing cuts them again and again in
// the middle of a batch.
func TestConnectionsThatAreCutWhilePublishingLoseNothing(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: p.server.Addr()})
	o := p.options()
	o.URLs = []string{"amqp://" + proxy.Addr()}
	publisher, got := openFor(t, o), newTally()
	subscribe(t, openFor(t, p.options()), workers(), got.handle)
	out := send(publisher, 300)
	for range 5 {
		fault := proxy.CutAfterBytes(100_000)
		select {
		case <-fault.Done():
		case <-time.After(patience):
			t.Fatal("the connection was never cut")
		}
		out.failed(t)
	}
	got.has(t, out.ids())
}

// TestAPartitionIsNoticedAndHeals has a proxy that forwards nothing while the
// sockets stay open.
func TestAPartitionIsNoticedAndHeals(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: p.server.Addr()})
	o := p.options()
	o.URLs, o.Publishers, o.Heartbeat = []string{"amqp://" + proxy.Addr()}, 1, 4*time.Second // given up after 6 s
	b, got := openFor(t, o), newTally()
	subscribe(t, b, workers(), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "before"}}); err != nil {
		t.Fatal(err)
	}
	got.has(t, []string{"before"})
	proxy.BlackHole()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// More than the sockets hold: the writer is stuck.
	if err := b.Publish(ctx, large(64)); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Publish in a partition: got %v, want ErrUnavailable", err)
	}
	if passed := time.Since(begun); passed > 3*time.Second {
		t.Errorf("Publish in a partition took %v, its context had 1 s", passed)
	}
	at := time.Now()
	until(t, "that the loss is noticed", func() bool {
		at = time.Now()
		return errors.Is(b.Publish(within(t), []bus.Message{{Subject: "orders.placed"}}), bus.ErrUnavailable) && time.Since(at) < 500*time.Millisecond
	})
	if passed := time.Since(begun); passed > 20*time.Second {
		t.Errorf("the loss was noticed after %v", passed)
	}
	if err := proxy.Pass(); err != nil {
		t.Fatal(err)
	}
	until(t, "publishing again", func() bool {
		return b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "after"}}) == nil
	})
	got.has(t, []string{"after"})
}

// TestWhatWasNotConfirmedIsNotTakenForSent cuts connections whose messages have
// not reached the broker.
func TestWhatWasNotConfirmedIsNotTakenForSent(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: p.server.Addr()})
	o := p.options()
	o.URLs = []string{"amqp://" + proxy.Addr()}
	b := openFor(t, o)
	for range 3 {
		until(t, "publishing", func() bool { return b.Publish(within(t), []bus.Message{{Subject: "orders.placed"}}) == nil })
		proxy.BlackHole()
		result := make(chan error, 1)
		go func() { result <- b.Publish(within(t), []bus.Message{{Subject: "orders.placed"}}) }()
		select {
		case err := <-result:
			t.Fatalf("Publish returned %v while the broker did not answer", err)
		case <-time.After(100 * time.Millisecond): // it has been written
		}
		proxy.Cut()
		if err := <-result; !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		if err := proxy.Pass(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAPublisherStuckInAPartitionGoesOnAtAnotherNode has two ways to the broker,
// of which the one in use forwards nothing any more.
func TestAPublisherStuckInAPartitionGoesOnAtAnotherNode(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	first := newWire(t, p.server.Addr())
	second := servertest.Proxy(t, servers.ProxyOptions{Target: p.server.Addr()})
	second.Refuse()
	o := p.options()
	o.URLs = []string{"amqp://" + first.addr(), "amqp://" + second.Addr()}
	o.Publishers, o.Heartbeat = 1, 4*time.Second
	b, got := openFor(t, o), newTally()
	until(t, "a connection", func() bool { return b.Ping(within(t)) == nil })
	subscribe(t, b, workers(), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "before"}}); err != nil {
		t.Fatal(err)
	}
	got.has(t, []string{"before"})
	first.freeze()
	if err := second.Pass(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// More than the sockets hold: the only writer is stuck.
	if err := b.Publish(ctx, large(64)); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Publish in a partition: got %v, want ErrUnavailable", err)
	}
	until(t, "publishing at the other node", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return b.Publish(ctx, []bus.Message{{Subject: "orders.placed", ID: "after"}}) == nil
	})
	got.has(t, []string{"after"})
}

func large(n int) []bus.Message {
	list := make([]bus.Message, n)
	for i := range list {
		list[i] = bus.Message{Subject: "orders.large", ID: fmt.Sprint("large ", i), Data: make([]byte, 900<<10)}
	}
	return list
}

// TestABrokerThatTakesNoMessagesIsToldAsSuch has one that says it is low on
// memory, as it does by a frame of its own.
func TestABrokerThatTakesNoMessagesIsToldAsSuch(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	wire := newWire(t, p.server.Addr())
	o := p.options()
	o.URLs = []string{"amqp://" + wire.addr()}
	b, got := openFor(t, o), newTally()
	subscribe(t, b, workers(), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "before"}}); err != nil {
		t.Fatal(err)
	}
	wire.block(true)
	until(t, "that the alarm is known", func() bool { return b.Examine(within(t)).Blocked != "" })
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := b.Publish(ctx, []bus.Message{{Subject: "orders.placed", ID: "held"}})
	if !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "low on memory") {
		t.Errorf("Publish: got %v, want ErrUnavailable because the broker is low on memory", err)
	}
	if passed := time.Since(begun); passed > 3*time.Second {
		t.Errorf("Publish took %v, its context had 300 ms", passed)
	}
	wire.block(false)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "after"}}); err != nil {
		t.Errorf("Publish after the alarm: %v", err)
	}
	got.has(t, []string{"before", "after"})
	if got.lacks([]string{"held"}) == 0 {
		t.Error("a message was sent to a broker that takes none")
	}
}
