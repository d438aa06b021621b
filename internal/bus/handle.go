package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// The backoff of a group that brings none.
const (
	firstBackoff   = time.Second
	longestBackoff = time.Minute
)

// PanicError is a panic of a handler or a dead-letter function.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("the handler panicked: %v", e.Value) }

// Call runs a handler on a delivery and turns a panic into a *PanicError.
func Call(ctx context.Context, h Handler, d *Delivery) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return h(ctx, d)
}

// Verdict is what is to be done with a delivery.
type Verdict struct {
	// Ack: it is done with.
	Ack bool
	// DeadLetter, if not nil, is why it goes to the group's dead-letter function,
	// and is acknowledged after that has succeeded.
	DeadLetter error
	// After is the delay before the next delivery if it is neither; and if the
	// dead-letter function fails.
	After time.Duration
}

// Judge says what follows from what a handler returned for an attempt, for every
// driver the same.
func (g *Group) Judge(attempt int, err error) Verdict {
	var again *RetryError
	switch {
	case err == nil:
		return Verdict{Ack: true}
	case errors.Is(err, ErrPoison):
		return Verdict{DeadLetter: err, After: g.wait(attempt)}
	case attempt >= g.MaxAttempts:
		return Verdict{DeadLetter: fmt.Errorf("failed %d times, at last: %w", attempt, err), After: g.wait(attempt)}
	case errors.As(err, &again):
		return Verdict{After: max(again.After, 0)}
	default:
		return Verdict{After: g.wait(attempt)}
	}
}

// Lost says whether a message was delivered far more often than it may fail: its
// handler never answers for it, because it hangs or ends the process, or its
// dead letter could not be written all along. It goes to the dead letters
// unhandled, so that it cannot go round for ever. Twice MaxAttempts leaves room
// for messages that were given back unhandled.
func (g *Group) Lost(attempt int) (v Verdict, lost bool) {
	if attempt <= 2*g.MaxAttempts {
		return Verdict{}, false
	}
	return Verdict{After: g.wait(attempt), DeadLetter: fmt.Errorf(
		"delivered %d times before, %d attempts are allowed: its handler does not answer, or its dead letter could not be written",
		attempt-1, g.MaxAttempts)}, true
}

func (g *Group) wait(attempt int) time.Duration {
	if g.Backoff != nil {
		return max(g.Backoff(attempt), 0)
	}
	return Backoff(attempt, firstBackoff, longestBackoff)
}

// Backoff returns a delay after a failed attempt (1 for the first) that doubles
// from first up to longest, of which up to a half is taken off at random, so that
// what failed together does not come back together.
func Backoff(attempt int, first, longest time.Duration) time.Duration {
	d := longest
	if shift := max(attempt, 1) - 1; shift < 32 && first<<shift < longest && first<<shift > 0 {
		d = first << shift
	}
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}
