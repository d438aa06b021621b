package bustest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/bus"
)

var errBroken = errors.New("broken")

// attempts returns the attempts of one message in the order of arrival.
func (in *inbox) attempts(id string) []int {
	var out []int
	for _, d := range in.all() {
		if d.ID == id {
			out = append(out, d.Attempt)
		}
	}
	return out
}

func wantAttempts(t *testing.T, in *inbox, id string, want ...int) {
	t.Helper()
	if diff := cmp.Diff(want, in.attempts(id)); diff != "" {
		t.Errorf("attempts of message %s differ (-want +got):\n%s", id, diff)
	}
}

func failing(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	join(t, conn, group(t, "workers"), func(_ context.Context, d *bus.Delivery) error {
		in.put(d)
		if d.ID == "bad" && d.Attempt < 3 {
			return errBroken
		}
		return nil
	})
	publish(t, conn, message("bad"), message("good"))
	in.until(t, "the third attempt", func(seen map[string]int) bool { return seen["bad"] == 3 && seen["good"] == 1 })
	wantAttempts(t, in, "bad", 1, 2, 3)
	wantAttempts(t, in, "good", 1)
}

func panicking(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	join(t, conn, group(t, "workers"), func(_ context.Context, d *bus.Delivery) error {
		in.put(d)
		if d.Attempt == 1 {
			panic("the handler of a test panics on purpose")
		}
		return nil
	})
	publish(t, conn, message("m"))
	in.until(t, "the second attempt", func(seen map[string]int) bool { return seen["m"] == 2 })
	wantAttempts(t, in, "m", 1, 2)
}

// retryAfter gives two messages different delays, both unlike the group's backoff.
func retryAfter(t *testing.T, b Broker, _ Gaps) {
	const long, short = 900 * time.Millisecond, 100 * time.Millisecond
	type arrival struct {
		id      string
		attempt int
		at      time.Time
	}
	arrivals := make(chan arrival, 16)
	conn := open(t, b)
	g := group(t, "workers")
	g.Backoff = func(int) time.Duration { return time.Minute }
	join(t, conn, g, func(_ context.Context, d *bus.Delivery) error {
		arrivals <- arrival{d.ID, d.Attempt, time.Now()}
		if d.Attempt > 1 {
			return nil
		}
		after := short
		if d.ID == "long" {
			after = long
		}
		return fmt.Errorf("as asked: %w", &bus.RetryError{After: after, Cause: errBroken})
	})
	publish(t, conn, message("long"), message("short"))
	first := map[string]time.Time{}
	var again []string
	for len(again) < 2 {
		a := receive(t, "an attempt", arrivals)
		if a.attempt == 1 {
			first[a.id] = a.at
			continue
		}
		again = append(again, a.id)
		want := short
		if a.id == "long" {
			want = long
		}
		// A broker's clock may be a little coarser than ours.
		if passed := a.at.Sub(first[a.id]); passed < want*9/10 {
			t.Errorf("message %s came again after %v, want %v", a.id, passed, want)
		}
	}
	if diff := cmp.Diff([]string{"short", "long"}, again); diff != "" {
		t.Errorf("the order of the second attempts differs (-want +got):\n%s", diff)
	}
}

// unanswered has a handler that hangs in one member; the message comes to the
// other one.
func unanswered(t *testing.T, b Broker, _ Gaps) {
	hung, hang := make(chan struct{}, 16), make(chan struct{})
	g := group(t, "workers")
	g.Concurrency, g.AckWait = 1, 200*time.Millisecond
	in := newInbox()
	conn := open(t, b)
	join(t, conn, g, func(_ context.Context, d *bus.Delivery) error {
		hung <- struct{}{}
		<-hang
		return errBroken
	})
	t.Cleanup(func() { close(hang) }) // before the subscription is closed
	publish(t, conn, message("m"))
	receive(t, "the handler that hangs", hung)
	join(t, open(t, b), g, in.handle)
	in.has(t, 1)
	if d := in.all()[0]; d.Attempt < 2 {
		t.Errorf("it came as attempt %d, want 2 or more", d.Attempt)
	}
}

func handlerDeadline(t *testing.T, b Broker, _ Gaps) {
	const wait = 200 * time.Millisecond
	conn := open(t, b)
	ended := make(chan error, 16)
	g := group(t, "workers")
	g.AckWait = wait
	join(t, conn, g, func(ctx context.Context, d *bus.Delivery) error {
		if d.Attempt > 1 {
			ended <- nil
			return nil
		}
		begun := time.Now()
		<-ctx.Done()
		if passed := time.Since(begun); passed < wait/2 {
			t.Errorf("the context ended after %v, want %v", passed, wait)
		}
		ended <- ctx.Err()
		return ctx.Err()
	})
	publish(t, conn, message("m"))
	if err := receive(t, "the end of the context", ended); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context ended with %v, want DeadlineExceeded", err)
	}
	receive(t, "the next attempt", ended)
}

// letters is a dead-letter function that keeps what it gets.
type letter struct {
	delivery bus.Delivery
	reason   error
}

func deadLetters() (chan letter, func(context.Context, *bus.Delivery, error) error) {
	letters := make(chan letter, 64)
	return letters, func(_ context.Context, d *bus.Delivery, reason error) error {
		letters <- letter{*d, reason}
		return nil
	}
}

func exhausted(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	letters, bury := deadLetters()
	g := group(t, "workers")
	g.MaxAttempts, g.DeadLetter = 3, bury
	handler := func(_ context.Context, d *bus.Delivery) error {
		in.put(d)
		if d.ID == "bad" {
			return errBroken
		}
		return nil
	}
	s := join(t, conn, g, handler)
	publish(t, conn, message("bad"))
	l := receive(t, "the dead letter", letters)
	if l.delivery.ID != "bad" || l.delivery.Attempt != 3 || !errors.Is(l.reason, errBroken) {
		t.Errorf("the dead letter is message %s, attempt %d, for %v; want bad, 3, for %v", l.delivery.ID, l.delivery.Attempt, l.reason, errBroken)
	}
	leave(t, s) // so that the last answer has reached the broker
	join(t, conn, g, handler)
	publish(t, conn, message("good"))
	in.until(t, "the next message", func(seen map[string]int) bool { return seen["good"] == 1 })
	wantAttempts(t, in, "bad", 1, 2, 3)
}

// neverAnswered has handlers that hang until the test ends: no error ever tells
// that the message fails.
func neverAnswered(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	letters, bury := deadLetters()
	hang := make(chan struct{})
	g := group(t, "workers")
	g.Concurrency, g.AckWait, g.MaxAttempts, g.DeadLetter = 4, 100*time.Millisecond, 1, bury
	join(t, conn, g, func(context.Context, *bus.Delivery) error {
		<-hang
		return nil
	})
	t.Cleanup(func() { close(hang) })
	publish(t, conn, message("m"))
	if l := receive(t, "the dead letter", letters); l.delivery.ID != "m" || l.reason == nil {
		t.Errorf("the dead letter is message %s for %v", l.delivery.ID, l.reason)
	}
}

func poison(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	letters, bury := deadLetters()
	g := group(t, "workers")
	g.DeadLetter = bury
	handler := func(_ context.Context, d *bus.Delivery) error {
		in.put(d)
		if d.ID == "poison" {
			return fmt.Errorf("no order of that kind: %w", bus.ErrPoison)
		}
		return nil
	}
	s := join(t, conn, g, handler)
	publish(t, conn, message("poison"))
	l := receive(t, "the dead letter", letters)
	if l.delivery.ID != "poison" || l.delivery.Attempt != 1 || !errors.Is(l.reason, bus.ErrPoison) {
		t.Errorf("the dead letter is message %s, attempt %d, for %v", l.delivery.ID, l.delivery.Attempt, l.reason)
	}
	leave(t, s)
	join(t, conn, g, handler)
	publish(t, conn, message("good"))
	in.until(t, "the next message", func(seen map[string]int) bool { return seen["good"] == 1 })
	wantAttempts(t, in, "poison", 1)
}

// deadLetterFails refuses the dead letter with an error, then with a panic.
func deadLetterFails(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	tries := make(chan int, 64)
	g := group(t, "workers")
	n := 0 // one message, so one call at a time
	g.DeadLetter = func(context.Context, *bus.Delivery, error) error {
		n++
		tries <- n
		switch n {
		case 1:
			return errBroken
		case 2:
			panic("the dead-letter function of a test panics on purpose")
		}
		return nil
	}
	join(t, conn, g, func(context.Context, *bus.Delivery) error { return bus.ErrPoison })
	publish(t, conn, message("poison"))
	for want := 1; want <= 3; want++ {
		if got := receive(t, "a try to write the dead letter", tries); got != want {
			t.Fatalf("try %d, want %d", got, want)
		}
	}
}
