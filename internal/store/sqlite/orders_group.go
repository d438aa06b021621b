package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/order"
)

// Bounds of the transactions that methods share.
const (
	// maxParts is how many methods' work one transaction takes.
	maxParts = 64
	// maxWaiting is how many may wait for a transaction; it is above the number of
	// those who work on orders at once.
	maxWaiting = 4096
	// flushTime bounds a flush: the waiting for the connection that writes, and the
	// time after which no part of it begins any more.
	flushTime = 10 * time.Second
)

// part is one method's work in a transaction. It must be fit to be run again from
// the start: what a first run wrote was rolled back then.
type part struct {
	// run does the work when nobody else's is in the transaction, together does it
	// when it may be; an error that together returns ends the transaction for all.
	run      func(o *orders, c *hotConn) error
	together func(c *hotConn) error
}

// transact runs work in one durable transaction, together with whatever other
// methods want to write at the moment: they share its commit. ctx bounds the
// waiting for it only. Nothing is committed if nobody has written anything.
func (o *orders) transact(ctx context.Context, work func(*hotConn) error) error {
	return o.join(ctx, part{
		run:      func(o *orders, c *hotConn) error { return o.transaction(c, work) },
		together: work,
	})
}

// transactParts runs attempt for the batch [0, n) in one transaction, as transact
// does. If the database refuses it for its data, the batch is done again in halves,
// one after the other and each seeing what the earlier ones wrote, down to the rows
// that are refused, which are handed to refuse. attempt must be fit to be called
// again.
func (o *orders) transactParts(ctx context.Context, n int, attempt func(c *hotConn, lo, hi int) error, refuse func(i int, err error)) error {
	return o.join(ctx, part{
		run: func(o *orders, c *hotConn) error {
			err := o.transaction(c, func(c *hotConn) error { return attempt(c, 0, n) })
			switch {
			case !errors.Is(err, order.ErrData):
				return err
			case n == 1:
				refuse(0, err)
				return nil
			}
			return o.transaction(c, func(c *hotConn) error {
				if err := halve(c, 0, n/2, attempt, refuse); err != nil {
					return err
				}
				return halve(c, n/2, n, attempt, refuse)
			})
		},
		together: func(c *hotConn) error { return halve(c, 0, n, attempt, refuse) },
	})
}

// join waits until the part was run and committed.
func (o *orders) join(ctx context.Context, p part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := o.group.DoToEnd(ctx, p, 1)
	return err
}

// newGroup starts what runs the parts.
func (o *orders) newGroup() *coalesce.Caller[part, struct{}] {
	return coalesce.NewCaller(coalesce.Options{MaxBatchWeight: maxParts, MaxQueuedWeight: maxWaiting}, o.flush)
}

// flush runs the parts that wait, and gives each its outcome.
func (o *orders) flush(calls []*coalesce.Call[part, struct{}]) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	held := false
	err := o.hold(ctx, func(c *hotConn) error {
		held = true
		began := time.Now()
		defer func() { o.metrics.writeSeconds.Observe(time.Since(began).Seconds()) }()
		o.metrics.writeParts.Observe(float64(len(calls)))
		return o.flushOn(ctx, c, calls)
	})
	if !held {
		settle(calls, err)
	}
}

// flushOn runs the parts in one transaction, or, when any of them fails there,
// one after the other in transactions of their own, so that none pays for another.
// What is no part's doing, a transaction that cannot begin or be committed, is told
// to all who share it at once: each would only wait as long for the same. The error
// is driver.ErrBadConn when the connection must not be used again.
func (o *orders) flushOn(ctx context.Context, c *hotConn, calls []*coalesce.Call[part, struct{}]) error {
	if len(calls) > 1 {
		done := false // all but the commit
		err := guarded(func() error {
			return o.transaction(c, func(c *hotConn) error {
				err := together(c, calls)
				done = err == nil
				return err
			})
		})
		switch {
		case done || errors.Is(err, errBegin):
			settle(calls, err)
			return badConn(err)
		case badConn(err) != nil: // a part's own error is not another's
			settle(calls, fmt.Errorf("the connection failed, nothing was written: %v: %w", err, driver.ErrBadConn))
			return driver.ErrBadConn
		}
	}
	for i, call := range calls {
		if err := ctx.Err(); err != nil {
			settle(calls[i:], fmt.Errorf("those before it took longer than %v, it did not begin: %w", flushTime, err))
			return nil
		}
		call.Err = guarded(func() error { return call.In.run(o, c) })
		switch {
		case badConn(call.Err) != nil:
			settle(calls[i+1:], fmt.Errorf("the connection failed before this began: %v: %w", call.Err, driver.ErrBadConn))
			return driver.ErrBadConn
		case errors.Is(call.Err, errBegin):
			settle(calls[i+1:], call.Err)
			return nil
		}
	}
	return nil
}

func together(c *hotConn, calls []*coalesce.Call[part, struct{}]) error {
	for _, call := range calls {
		if err := call.In.together(c); err != nil {
			return err
		}
	}
	return nil
}

func settle(calls []*coalesce.Call[part, struct{}], err error) {
	for _, call := range calls {
		call.Err = err
	}
}

// badConn returns driver.ErrBadConn if that is among what err wraps.
func badConn(err error) error {
	if errors.Is(err, driver.ErrBadConn) {
		return driver.ErrBadConn
	}
	return nil
}

// guarded turns a panic into an error. The transaction was rolled back then, and
// the connection is not trusted any more.
func guarded(run func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the work in a transaction panicked, nothing of it was committed: %v\n%s: %w", v, debug.Stack(), driver.ErrBadConn)
		}
	}()
	return run()
}
