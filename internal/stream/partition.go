package stream

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/internal/event"
)

// partitionOptions are what a Partition is made of; the Assigner fills them in.
type partitionOptions struct {
	broker     Broker
	number     int
	acceptLoss bool
	readAhead  int64
	trimEvery  time.Duration
	trimAfter  time.Duration
	logger     *slog.Logger
	metrics    *Metrics
}

// Partition is one partition of a stream as a log that a Sink reads. It owns one
// goroutine, which trims what is released, and one for each open reader; Close
// ends the first.
type Partition struct {
	o    partitionOptions
	id   event.LogID
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex // guards what follows
	state    State
	released retention
}

var (
	_ event.SinkLog   = (*Partition)(nil)
	_ event.Refresher = (*Partition)(nil)
)

// stateTimeout bounds one question for the state of a partition.
const stateTimeout = 10 * time.Second

func openPartition(ctx context.Context, o partitionOptions) (*Partition, error) {
	p := &Partition{o: o, done: make(chan struct{}), released: retention{keep: o.trimAfter}}
	state, err := p.ask(ctx)
	if err != nil {
		return nil, err
	}
	p.id, p.state = state.ID, state
	run, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.trim(run)
	return p, nil
}

func (p *Partition) ask(ctx context.Context) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	state, err := p.o.broker.State(ctx, p.o.number)
	if err != nil {
		return state, fmt.Errorf("asking for the state of %s: %w", p.o.broker.Advice(p.o.number).Name, err)
	}
	return state, nil
}

// Number is which partition of the stream it is.
func (p *Partition) Number() int { return p.o.number }

// Advice is what to tell an operator about it.
func (p *Partition) Advice() event.Advice { return p.o.broker.Advice(p.o.number) }

// ID names the partition for its whole life.
func (p *Partition) ID() event.LogID { return p.id }

// First is the sequence of the first message that was there at the last Refresh.
// If the operator accepts a loss it is 1: what is missing is not missed.
func (p *Partition) First() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.o.acceptLoss {
		return 1
	}
	return p.state.First
}

// Next is one past the sequence of the last message that was there at the last
// Refresh.
func (p *Partition) Next() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Next
}

// ReplacedError says that a partition is not the log any more that it was: it was
// deleted and made anew.
type ReplacedError struct {
	// Name is how messages call the partition.
	Name string
}

func (e *ReplacedError) Error() string {
	return e.Name + " was deleted and made anew: what was in it and not yet in the store is lost, and it is read as a new log from now on"
}

// Refresh brings what First and Next say up to date. It fails with a
// *ReplacedError once the partition was made anew.
func (p *Partition) Refresh(ctx context.Context) error {
	state, err := p.ask(ctx)
	if err != nil {
		return err
	}
	if state.ID != p.id {
		return &ReplacedError{Name: p.Advice().Name}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state
	return nil
}

// ReadFrames returns the messages from a sequence on.
func (p *Partition) ReadFrames(from uint64) (event.Frames, error) {
	return newReader(p, from), nil
}

// Release notes that everything below upTo is in the store, and nothing else. The partition is
// trimmed behind it once its messages cannot be sent again any more.
func (p *Partition) Release(upTo uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.released.note(upTo, time.Now())
	return nil
}

// backlog returns how many messages are not below committed, and the bytes that
// are not trimmed.
func (p *Partition) backlog(committed uint64) (messages uint64, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.Next > committed {
		messages = p.state.Next - committed
	}
	return messages, p.state.Bytes
}

// trim removes what was released trimAfter ago, at most once in trimEvery: for the
// servers it costs about as much as a message.
func (p *Partition) trim(ctx context.Context) {
	defer close(p.done)
	ticker := time.NewTicker(p.o.trimEvery)
	defer ticker.Stop()
	var trimmed uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		upTo := p.released.settle(time.Now())
		p.mu.Unlock()
		if upTo <= trimmed {
			continue
		}
		if err := p.trimTo(ctx, upTo); err != nil {
			if ctx.Err() == nil {
				p.o.metrics.trimFailures.Inc()
				p.o.logger.Warn("the stream could not be trimmed; it is tried again", "partition", p.o.number, "upTo", upTo, "error", err)
			}
			continue
		}
		trimmed = upTo
	}
}

func (p *Partition) trimTo(ctx context.Context, upTo uint64) error {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	return p.o.broker.Trim(ctx, p.o.number, p.id, upTo)
}

// Close stops the trimming. Readers are closed by who opened them. It may be
// called more than once.
func (p *Partition) Close() {
	p.stop()
	<-p.done
}
