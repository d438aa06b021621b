// Package bustest is the conformance suite of the bus port: what every driver does
// in the same way, against a real broker that is killed and comes back.
//
// Use: a driver's test calls Run with a factory that starts a broker of its own.
// No test sleeps: each waits for a signal, for as long as patience at most.
package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/internal/bus"
)

// patience bounds every wait. It is long because machines are slow, and only a
// failing test uses it up.
const patience = 30 * time.Second

// Broker is a running broker that a test has for itself. The factory registers its
// end with t.Cleanup, which runs after the suite has closed what it opened.
type Broker interface {
	// Open returns a new Bus on a connection of its own that takes the subjects
	// "orders.>". The suite closes it.
	Open(t testing.TB) bus.Bus
	// Stop ends the broker as a crash does.
	Stop(t testing.TB)
	// Start starts the stopped broker where it was, with what it had on disk or
	// empty.
	Start(t testing.TB, empty bool)
}

// Gaps are what a driver cannot do, each said aloud where it is left out.
type Gaps struct {
	// NoRepeats: the broker does not recognize a message id it had shortly before.
	NoRepeats bool
	// ByPartition: the members of a group share its messages out by partitions, not
	// one by one. What one call publishes is in one partition, and there is no
	// order between calls. What waits in a partition behind a message that is being
	// handled waits until that has ended or its AckWait is over, and when members
	// come or go, what is being handled can be delivered to another one too.
	ByPartition bool
	// ReadAhead is how many messages a group may hold in a process besides those
	// being handled, with a Concurrency of 2; 2 if zero.
	ReadAhead int
	// Unstopped, if set, makes the broker of a test that never stops it: part of one
	// that is slow to start and therefore shared, with names of its own.
	Unstopped func(t testing.TB) Broker
}

// Run runs the suite.
func Run(t *testing.T, fresh func(t testing.TB) Broker, gaps Gaps) {
	if gaps.ReadAhead == 0 {
		gaps.ReadAhead = 2
	}
	if gaps.Unstopped == nil {
		gaps.Unstopped = fresh
	}
	run := func(broker func(testing.TB) Broker, cases []conformance) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(t, broker(t), gaps)
			})
		}
	}
	run(gaps.Unstopped, []conformance{
		{"everything in a message arrives as it was sent", everythingArrives},
		{"every group gets a message, and one member of it", everyGroup},
		{"members on several connections share the work", competing},
		{"a group takes its subjects and no others", subjects},
		{"messages of one subject arrive in order", inOrder},
		{"a group's messages survive all its consumers", durable},
		{"as many messages are handled at once as asked for", concurrency},
		{"a group that is stuck holds back neither publishers nor others", backPressure},
		{"publishing needs no group", nobody},
		{"a message sent again is one", repeats},
		{"a message that was acknowledged does not come back", acknowledged},
		{"what no broker takes is refused before anything is sent", invalidMessages},
		{"a wrong group is refused with what is wrong", invalidGroups},

		{"an error brings the message again", failing},
		{"a panic brings the message again", panicking},
		{"a retry error brings the message again after its delay", retryAfter},
		{"a message nobody answers for comes to another", unanswered},
		{"a handler's context ends with its time", handlerDeadline},
		{"a message that fails too often becomes a dead letter", exhausted},
		{"a message that is never answered for becomes a dead letter", neverAnswered},
		{"poison becomes a dead letter at once", poison},
		{"a dead letter that cannot be written keeps the message", deadLetterFails},

		{"closing waits for handlers and gives the rest back", closing},
		{"closing ends at its deadline, and so do handlers", closingDeadline},
		{"a closed bus says so", closedBus},

		{"a broadcast reaches every listener", broadcast},
		{"a listener that does not keep up harms nobody", slowListener},
	})
	run(fresh, []conformance{
		{"without a broker publishing fails in time", brokerGone},
		{"what starts before the broker works once it is there", startsFirst},
		{"a broker that was killed goes on where it was", killed},
		{"groups heal when the broker comes back empty", emptied},
	})
}

// conformance is one thing every driver does.
type conformance struct {
	name string
	test func(*testing.T, Broker, Gaps)
}

// open returns a bus that is closed with the test.
func open(t testing.TB, b Broker) bus.Bus {
	t.Helper()
	out := b.Open(t)
	t.Cleanup(func() {
		if err := out.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return out
}

// within returns a context for one step of a test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// group returns the settings of a group that has no cause to fail.
func group(t testing.TB, name string) bus.Group {
	return bus.Group{
		Name:        name,
		Subjects:    []string{"orders.>"},
		Concurrency: 4,
		AckWait:     20 * time.Second,
		MaxAttempts: 20,
		Backoff:     func(int) time.Duration { return 20 * time.Millisecond },
		DeadLetter: func(_ context.Context, d *bus.Delivery, reason error) error {
			t.Errorf("message %s became a dead letter: %v", d.ID, reason)
			return nil
		},
	}
}

// join subscribes; the subscription is closed with the test.
func join(t testing.TB, b bus.Bus, g bus.Group, h bus.Handler) bus.Subscription {
	t.Helper()
	s, err := b.Subscribe(within(t, patience), g, h)
	if err != nil {
		t.Fatalf("Subscribe to %s: %v", g.Name, err)
	}
	t.Cleanup(func() { leave(t, s) })
	return s
}

func leave(t testing.TB, s bus.Subscription) {
	t.Helper()
	if err := s.Close(within(t, patience)); err != nil {
		t.Errorf("Close of a subscription: %v", err)
	}
}

func listen(t testing.TB, b bus.Bus, subject string, h func(bus.Message)) bus.Subscription {
	t.Helper()
	s, err := b.Listen(within(t, patience), subject, h)
	if err != nil {
		t.Fatalf("Listen to %s: %v", subject, err)
	}
	t.Cleanup(func() { leave(t, s) })
	return s
}

func publish(t testing.TB, b bus.Bus, messages ...bus.Message) {
	t.Helper()
	if err := b.Publish(within(t, patience), messages); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

// message returns a message told apart by its id.
func message(id string) bus.Message {
	return bus.Message{Subject: "orders.placed", ID: id, Data: []byte(id)}
}

func messages(prefix string, n int) []bus.Message {
	list := make([]bus.Message, n)
	for i := range list {
		list[i] = message(fmt.Sprintf("%s-%d", prefix, i))
	}
	return list
}

// inbox gathers what handlers get. It is safe for concurrent use.
type inbox struct {
	arrived chan struct{} // has room for one: "something has arrived"

	mu   sync.Mutex // guards what follows
	list []bus.Delivery
	seen map[string]int // deliveries by id
}

func newInbox() *inbox { return &inbox{arrived: make(chan struct{}, 1), seen: map[string]int{}} }

func (in *inbox) put(d *bus.Delivery) {
	in.mu.Lock()
	in.list = append(in.list, *d)
	in.seen[d.ID]++
	in.mu.Unlock()
	select {
	case in.arrived <- struct{}{}:
	default:
	}
}

// handle is a handler that takes everything.
func (in *inbox) handle(_ context.Context, d *bus.Delivery) error {
	in.put(d)
	return nil
}

func (in *inbox) all() []bus.Delivery {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.list)
}

func (in *inbox) counts() map[string]int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return maps.Clone(in.seen)
}

// until waits until what has arrived satisfies a condition.
func (in *inbox) until(t testing.TB, what string, met func(seen map[string]int) bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for !met(in.counts()) {
		select {
		case <-in.arrived:
		case <-timer.C:
			t.Fatalf("%s: not within %v; %d messages have arrived", what, patience, len(in.counts()))
		}
	}
}

// has waits for n different messages.
func (in *inbox) has(t testing.TB, n int) {
	t.Helper()
	in.until(t, fmt.Sprintf("%d messages", n), func(seen map[string]int) bool { return len(seen) >= n })
}

// receive waits for a value.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

// eventually repeats try, which waits by itself, until it succeeds.
func eventually(t testing.TB, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx := within(t, patience)
	err := errors.New("not tried")
	for ctx.Err() == nil {
		if err = try(ctx); err == nil {
			return
		}
		pause(ctx)
	}
	t.Fatalf("%s: not within %v: %v", what, patience, err)
}

// pause keeps a repeated try from taking the whole processor.
func pause(ctx context.Context) {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
