// Package coalesce lets many callers share one write: while one flush runs, the
// next batch forms. A lone caller waits for nothing but its own flush, and under
// load the batches grow by themselves to what one flush lasts.
//
// Pattern: a Coalescer owns exactly one goroutine, which calls the flush function
// with batch after batch, in the order of Add. Items report their own outcome (a
// channel in the item, for instance); Caller adds that for callers who want an
// answer each. Everything is bounded: beyond MaxQueuedWeight Add refuses at once.
//
// Concurrency: every method is safe for concurrent use. The flush function is
// never called by two goroutines at once.
//
// Lifecycle: New starts the goroutine, Close flushes what is queued and stops it.
// A panic in the flush function is caught and handed to the panic function, so
// that no caller waits for ever, and the coalescer goes on with the next batch.
package coalesce

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Add; test with errors.Is.
var (
	// ErrFull says that the queue holds MaxQueuedWeight already.
	ErrFull = errors.New("coalesce: the queue is full")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("coalesce: closed")
)

// PanicError is a panic of a flush function. Whether the flush took effect is
// not known.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("the flush panicked, its outcome is unknown: %v\n%s", e.Value, e.Stack)
}

// Unwrap returns the value of the panic if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Options bound a Coalescer. The unit of weight is the caller's choice: bytes,
// lines, or 1 for each item. A weight below 1 counts as 1.
type Options struct {
	// MaxBatchWeight is the most one flush gets; an item that weighs more is
	// flushed alone. Required.
	MaxBatchWeight int64
	// MaxQueuedWeight bounds what was added and not yet flushed, the running
	// flush included until it gives its weight back. An item that weighs more than all of it is still taken when
	// nothing else is queued, so that nothing waits for ever. Required.
	MaxQueuedWeight int64
	// MinInterval spaces the beginnings of flushes while they come one after the
	// other, so that batches are larger and what they write to is left to others
	// meanwhile. A full batch does not wait. Zero, the default, begins the next flush as soon as one has ended.
	MinInterval time.Duration
}

// Coalescer gathers items into batches, see the package comment.
type Coalescer[T any] struct {
	options  Options
	flush    func(items []T)
	panicked func(items []T, cause *PanicError)

	queued  atomic.Int64
	wake    chan struct{} // has room for one: "the queue is not empty, or closed"
	closing chan struct{} // closed by the first Close
	done    chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex // guards what follows
	queue  []entry[T] // queue[head:] waits
	head   int
	closed bool

	// The goroutine's own: the batch being flushed, and what it weighs until that
	// is given back.
	batch  []T
	weight int64
}

type entry[T any] struct {
	item   T
	weight int64
}

// New starts a Coalescer. The slice that flush and panicked get is theirs only
// until they return. After a panic in flush, panicked must settle every item of
// that batch; a panic in panicked itself is not caught. Neither may call Close.
func New[T any](o Options, flush func(items []T), panicked func(items []T, cause *PanicError)) *Coalescer[T] {
	if o.MaxBatchWeight < 1 || o.MaxQueuedWeight < 1 || flush == nil || panicked == nil {
		panic("coalesce: New needs MaxBatchWeight and MaxQueuedWeight of at least 1 and both functions")
	}
	c := &Coalescer[T]{
		options:  o,
		flush:    flush,
		panicked: panicked,
		wake:     make(chan struct{}, 1),
		closing:  make(chan struct{}),
		done:     make(chan struct{}),
	}
	go c.run()
	return c
}

// Add queues an item. It never blocks on a flush: the answer is nil, ErrFull or
// ErrClosed, and after an error the item will not be flushed.
func (c *Coalescer[T]) Add(item T, weight int64) error {
	weight = max(weight, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	if queued := c.queued.Load(); queued > 0 && queued > c.options.MaxQueuedWeight-weight {
		c.mu.Unlock()
		return ErrFull
	}
	c.queued.Add(weight)
	c.queue = append(c.queue, entry[T]{item, weight})
	c.mu.Unlock()
	c.signal()
	return nil
}

// Queued returns the weight that was added and is not flushed, the running flush
// included until it gives its weight back.
func (c *Coalescer[T]) Queued() int64 { return c.queued.Load() }

// Close refuses further items, waits until everything queued was flushed and
// ends the goroutine. It may be called more than once, and waits each time.
func (c *Coalescer[T]) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
	}
	c.mu.Unlock()
	c.signal()
	<-c.done
}

// GiveBack takes the running batch's weight off the queue before the flush has
// ended. A flush function calls it before it answers those who wait, so that who
// has an answer finds room for the next item. Only the flush function and the
// panic function may call it; calling it again does nothing.
func (c *Coalescer[T]) GiveBack() {
	c.queued.Add(-c.weight)
	c.weight = 0
}

func (c *Coalescer[T]) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // the signal that is there already serves
	}
}

func (c *Coalescer[T]) run() {
	defer close(c.done)
	var began time.Time
	for {
		c.space(began)
		closed := c.take()
		if len(c.batch) == 0 {
			if closed {
				return
			}
			<-c.wake
			continue
		}
		began = time.Now()
		c.flushBatch()
		clear(c.batch) // so that the items can be collected
		c.GiveBack()
	}
}

// space waits until the next flush may begin: when its time has come, when there is
// a full batch, or when the coalescer is closed.
func (c *Coalescer[T]) space(began time.Time) {
	wait := c.options.MinInterval - time.Since(began)
	if c.options.MinInterval == 0 || wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for c.queued.Load() < c.options.MaxBatchWeight {
		select {
		case <-timer.C:
			return
		case <-c.closing:
			return
		case <-c.wake: // there is more; take looks at the queue in any case
		}
	}
}

// take moves the next batch from the queue to c.batch and its weight to c.weight.
func (c *Coalescer[T]) take() (closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batch = c.batch[:0]
	n := c.head
	for ; n < len(c.queue); n++ {
		e := &c.queue[n]
		if n > c.head && c.weight+e.weight > c.options.MaxBatchWeight {
			break
		}
		c.weight += e.weight
		c.batch = append(c.batch, e.item)
	}
	clear(c.queue[c.head:n])
	c.head = n
	switch waiting := len(c.queue) - c.head; {
	case waiting == 0:
		c.queue, c.head = c.queue[:0], 0
	case c.head >= waiting: // moving less than was taken: constant cost per item
		copy(c.queue, c.queue[c.head:])
		clear(c.queue[waiting:])
		c.queue, c.head = c.queue[:waiting], 0
	}
	return c.closed
}

func (c *Coalescer[T]) flushBatch() {
	defer func() {
		if v := recover(); v != nil {
			c.panicked(c.batch, &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	c.flush(c.batch)
}
