package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"millrace/internal/event"
)

// reader reads a partition ahead: a goroutine of its own receives messages and
// opens them while the sink commits, up to a bound of bytes.
type reader struct {
	p      *Partition
	next   uint64 // the receiving goroutine's: the sequence it expects
	cancel context.CancelFunc
	done   chan struct{} // closed when the receiving goroutine has ended

	mu    sync.Mutex // guards what follows
	queue []event.Frame
	bytes int64         // of the queue
	err   error         // why nothing more comes
	wake  chan struct{} // has room for one: the queue grew, or err is set
	room  chan struct{} // has room for one: the queue shrank
}

var _ event.Frames = (*reader)(nil)

// errReaderClosed says that a reader was closed.
var errReaderClosed = errors.New("the reader of the partition was closed")

func newReader(p *Partition, from uint64) *reader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{p: p, next: from, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	go r.receive(ctx, from)
	return r
}

// GapError says that messages are missing within a partition.
type GapError struct {
	// Name is how messages call the partition.
	Name string
	// From and To bound what is missing: [From, To).
	From, To uint64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("the messages %d to %d of %s are missing: somebody deleted them, or the servers lost them", e.From, e.To-1, e.Name)
}

// Unwrap returns event.ErrFramesMissing: if another instance sinks the partition,
// it may have stored and trimmed them.
func (e *GapError) Unwrap() error { return event.ErrFramesMissing }

func (r *reader) receive(ctx context.Context, from uint64) {
	defer close(r.done)
	o := &r.p.o
	err := o.broker.Read(ctx, o.number, r.p.id, from, func(m Message) error { return r.take(ctx, m) })
	switch {
	case ctx.Err() != nil:
		err = errReaderClosed
	case err == nil:
		err = errors.New("the stream ended")
	}
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	signal(r.wake)
}

// take opens a message and queues it as a frame of one record, which is a pack.
func (r *reader) take(ctx context.Context, m Message) error {
	if m.Seq < r.next {
		return nil // of before; it was asked for what follows
	}
	if m.Seq > r.next {
		gap := &GapError{Name: r.p.Advice().Name, From: r.next, To: m.Seq}
		if !r.p.o.acceptLoss {
			return gap
		}
		r.p.o.metrics.lostMessages.Add(float64(gap.To - gap.From))
		r.p.o.logger.Error("messages are lost; going on behind them, as the configuration asks", "partition", r.p.o.number, "error", gap)
	}
	pack, err := open(m.Data)
	if err != nil {
		return fmt.Errorf("message %d: %w", m.Seq, err)
	}
	frame := event.Frame{FirstSeq: m.Seq, ReceivedAt: m.ReceivedAt.UTC(), Records: [][]byte{pack}, Bytes: int64(len(pack))}
	if err := r.waitForRoom(ctx); err != nil {
		return err
	}
	r.next = m.Seq + 1
	r.mu.Lock()
	r.queue = append(r.queue, frame)
	r.bytes += frame.Bytes
	r.mu.Unlock()
	signal(r.wake)
	return nil
}

// waitForRoom waits until the queue is below its bound: it exceeds it by one
// message at the most.
func (r *reader) waitForRoom(ctx context.Context) error {
	for {
		r.mu.Lock()
		full := r.bytes >= r.p.o.readAhead
		r.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-r.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next returns the next frame and waits for it if need be.
func (r *reader) Next(ctx context.Context) (event.Frame, error) {
	for {
		f, ok, err := r.TryNext()
		if ok || err != nil {
			return f, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return event.Frame{}, context.Cause(ctx)
		}
	}
}

// TryNext returns the next frame if it was received.
func (r *reader) TryNext() (event.Frame, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return event.Frame{}, false, r.err
	}
	f := r.queue[0]
	r.queue[0] = event.Frame{}
	r.queue = r.queue[1:]
	r.bytes -= f.Bytes
	signal(r.room)
	return f, true, nil
}

// Close ends the receiving goroutine. It may be called more than once.
func (r *reader) Close() error {
	r.cancel()
	<-r.done
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the signal that is there already serves
	}
}
