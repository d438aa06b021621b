package coalesce

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// Errors of Caller.Do when the caller's context ends; test with errors.Is. Both
// come together with the context's own error.
var (
	// ErrWithdrawn says that the call had not begun: it never will.
	ErrWithdrawn = errors.New("withdrawn before its flush began, nothing was done")
	// ErrAbandoned says that the call's flush had begun: it goes on, and this
	// caller does not learn its outcome.
	ErrAbandoned = errors.New("abandoned while its flush was running, its outcome is unknown")
)

// Call is one caller's question, and the place for its answer.
type Call[In, Out any] struct {
	// In is the question.
	In In
	// Out and Err are the answer. The flush function sets them.
	Out Out
	Err error

	state atomic.Int32
	done  chan struct{}
}

const (
	callWaiting int32 = iota
	callTaken
	callWithdrawn
)

// Caller is a Coalescer whose callers wait for an answer each. A caller whose
// context ends leaves alone: the rest of its batch is not disturbed.
type Caller[In, Out any] struct {
	coalescer *Coalescer[*Call[In, Out]]
	live      []*Call[In, Out] // the flushing goroutine's own
}

// NewCaller starts a Caller. The flush function sets Out or Err of every call it
// gets; the callers are woken when it returns. If it panics, every call of the
// batch ends with a *PanicError.
func NewCaller[In, Out any](o Options, flush func(calls []*Call[In, Out])) *Caller[In, Out] {
	c := &Caller[In, Out]{}
	settle := func(calls []*Call[In, Out]) {
		c.coalescer.GiveBack()
		for _, call := range calls {
			close(call.done)
		}
		clear(calls)
	}
	c.coalescer = New(o, func(calls []*Call[In, Out]) {
		c.live = c.live[:0]
		for _, call := range calls {
			if call.state.CompareAndSwap(callWaiting, callTaken) {
				c.live = append(c.live, call)
			}
		}
		if len(c.live) == 0 {
			return
		}
		flush(c.live)
		settle(c.live)
	}, func(_ []*Call[In, Out], cause *PanicError) {
		for _, call := range c.live {
			call.Err = cause
		}
		settle(c.live)
	})
	return c
}

// Do asks and waits for the answer. Errors of its own are ErrFull and ErrClosed
// (nothing was done), ErrWithdrawn and ErrAbandoned when the context ends, and
// *PanicError.
func (c *Caller[In, Out]) Do(ctx context.Context, in In, weight int64) (Out, error) {
	call := &Call[In, Out]{In: in, done: make(chan struct{})}
	var none Out
	if err := c.coalescer.Add(call, weight); err != nil {
		return none, err
	}
	select {
	case <-call.done:
		return call.Out, call.Err
	case <-ctx.Done():
	}
	if call.state.CompareAndSwap(callWaiting, callWithdrawn) {
		return none, fmt.Errorf("%w: %w", ErrWithdrawn, context.Cause(ctx))
	}
	select {
	case <-call.done: // the answer came at the same moment
		return call.Out, call.Err
	default:
		return none, fmt.Errorf("%w: %w", ErrAbandoned, context.Cause(ctx))
	}
}

// DoToEnd is Do, but once the flush has begun it waits for its end, however long
// that takes, so that nobody works on what the caller has taken back. It answers
// ErrWithdrawn, but never ErrAbandoned.
func (c *Caller[In, Out]) DoToEnd(ctx context.Context, in In, weight int64) (Out, error) {
	call := &Call[In, Out]{In: in, done: make(chan struct{})}
	if err := c.coalescer.Add(call, weight); err != nil {
		var none Out
		return none, err
	}
	select {
	case <-call.done:
	case <-ctx.Done():
		if call.state.CompareAndSwap(callWaiting, callWithdrawn) {
			var none Out
			return none, fmt.Errorf("%w: %w", ErrWithdrawn, context.Cause(ctx))
		}
		<-call.done
	}
	return call.Out, call.Err
}

// Queued returns the weight that was added and whose flush has not ended.
func (c *Caller[In, Out]) Queued() int64 { return c.coalescer.Queued() }

// Close answers everything queued, then stops. It may be called more than once.
func (c *Caller[In, Out]) Close() { c.coalescer.Close() }
