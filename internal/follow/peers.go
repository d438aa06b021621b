package follow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

const (
	sendEvery     = 5 * time.Millisecond // at most
	goodbyeWithin = time.Second          // for the last message when Run ends
)

// listen hears the others until ctx ends. Until it can, polls find what they write.
func (f *Follower[R]) listen(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		stop, err := f.subscribe(ctx)
		if err == nil {
			if failures > 0 {
				f.log.Info("changes of other instances are heard again")
			}
			f.heard.spill() // what was told before is found by a poll now
			<-ctx.Done()
			stop()
			return
		}
		if failures == 0 && ctx.Err() == nil {
			f.log.Warn("changes of other instances cannot be heard; until then polls find them", "error", err, "every", f.o.PollEvery)
		}
		rest(ctx, backoff(failures))
	}
}

func (f *Follower[R]) subscribe(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.CallTimeout)
	defer cancel()
	err = safely(func() error {
		stop, err = f.o.Peers.Listen(ctx, f.hear)
		return err
	})
	return stop, err
}

// hear takes a message of another instance.
func (f *Follower[R]) hear(data []byte) {
	m, err := readMessage(data)
	if err != nil {
		f.metrics.ignored.Inc()
		f.log.Debug("a message of another instance cannot be read; polls find what it told", "error", err)
		return
	}
	if m.Index != f.o.Name || m.From == f.o.Instance {
		return
	}
	f.metrics.received.Inc()
	for scope, change := range m.Changes {
		f.heard.put(scope, change)
	}
	if m.More {
		f.heard.spill()
	}
}

// send tells the others what was written here, until ctx ends. What cannot be sent
// is left to their polls.
func (f *Follower[R]) send(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.told.wake:
		}
		failing = f.flush(ctx, failing)
		rest(ctx, sendEvery)
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeWithin)
	defer cancel()
	f.flush(bye, failing)
}

// flush sends what there is to tell and says whether that failed; failing is
// whether it did the last time, which is told of in the log once.
func (f *Follower[R]) flush(ctx context.Context, failing bool) bool {
	if ctx.Err() != nil {
		return failing
	}
	changes, more := f.told.take()
	for _, data := range messages(f.o.Name, f.o.Instance, changes, more) {
		err := f.sendOne(ctx, data)
		switch {
		case err != nil && ctx.Err() != nil: // it was not let; what comes twice does no harm
			f.told.putBack(changes, more)
			return failing
		case err == nil:
			f.metrics.sent.Inc()
			if failing {
				f.log.Info("other instances are told of changes again")
			}
			failing = false
		default:
			f.metrics.unsent.Inc()
			if !failing {
				f.log.Warn("other instances could not be told of changes; their polls find them", "error", err)
			}
			failing = true
		}
	}
	return failing
}

func (f *Follower[R]) sendOne(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, f.o.CallTimeout)
	defer cancel()
	return safely(func() error { return f.o.Peers.Send(ctx, data) })
}

// panicError is a panic of what the follower was given to call.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

const stackBytes = 4096

// safely calls fn and returns a panic as an error: one that nobody catches would
// end the whole process, which does more than this.
func safely(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			err = &panicError{v, stack[:min(len(stack), stackBytes)]}
		}
	}()
	return fn()
}

// backoff is how long to wait after that many failures before this one.
func backoff(failures int) time.Duration {
	d := min(maxBackoff, minBackoff<<min(failures, 20))
	return d/2 + rand.N(d/2)
}

// rest waits, at most until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
