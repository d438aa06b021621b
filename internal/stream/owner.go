package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/lease"
)

// owner is the ownership of one partition: its lease, its sink and those who
// watch both.
type owner struct {
	a      *Assigner
	n      int
	keeper *lease.Keeper
	ctx    context.Context // of the sink; ends with the lease, or by end
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when everything has ended
	sink   atomic.Pointer[Sink]

	// What follows is set before done is closed.
	err  error // why the sink failed, nil if it was ended
	sank bool  // it committed at least once
}

// errEnded and errLeaseLost say why a sink was told to end.
var (
	errEnded     = errors.New("the partition is given back")
	errLeaseLost = errors.New("the lease of the partition was lost")
)

// watchEvery is how often an owner asks for the state of its partition.
const watchEvery = 5 * time.Second

func (a *Assigner) newOwner(n int, k *lease.Keeper) *owner {
	o := &owner{a: a, n: n, keeper: k, done: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancelCause(context.Background())
	return o
}

func (o *owner) start() {
	go func() {
		defer signal(o.a.ended)
		defer close(o.done)
		err := o.own()
		o.cancel(errEnded)
		o.keeper.Close()
		switch cause := context.Cause(o.ctx); {
		case err == nil || cause == errLeaseLost:
			o.a.o.Logger.Info("this instance sinks a partition of the stream no more", "partition", o.n, "why", cause)
		default:
			o.err = err
			o.a.o.Metrics.stopped.Inc()
			o.a.o.Logger.Error("the sink of a partition of the stream failed; the partition is left to other instances for a while, and then tried again",
				"partition", o.n, "error", err)
		}
	}()
}

// end ends the sink, gives the lease back and waits for both.
func (o *owner) end() {
	o.cancel(errEnded)
	<-o.done
}

// own runs the sink. It returns nil if it was told to end.
func (o *owner) own() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the sink panicked: %v", v)
		}
	}()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer o.cancel(errEnded)
	watchers.Go(o.watchLease)
	a := o.a
	p, err := openPartition(o.ctx, partitionOptions{
		broker: a.o.Broker, number: o.n, acceptLoss: a.o.AcceptLoss, readAhead: a.o.ReadAheadBytes,
		trimEvery: a.o.TrimEvery, trimAfter: a.o.TrimAfter, logger: a.o.Logger, metrics: a.o.Metrics,
	})
	if err != nil {
		return o.unlessEnded(err)
	}
	defer p.Close()
	sink, err := a.o.NewSink(p)
	if err != nil {
		return err
	}
	if err := sink.Locate(o.ctx); err != nil {
		return o.unlessEnded(err)
	}
	o.sink.Store(&sink)
	started := sink.Committed()
	replaced := make(chan error, 1)
	watchers.Go(func() { o.watchCommits(sink) })
	watchers.Go(func() { o.watchState(p, sink, replaced) })
	err = o.unlessEnded(sink.Run(o.ctx))
	o.sank = sink.Committed() > started
	select {
	case err = <-replaced:
	default:
	}
	return err
}

// unlessEnded is err, or nil if it came because the owner was told to end.
func (o *owner) unlessEnded(err error) error {
	if o.ctx.Err() != nil {
		return nil
	}
	return err
}

func (o *owner) watchLease() {
	select {
	case <-o.keeper.Lost():
		o.cancel(errLeaseLost)
	case <-o.ctx.Done():
	}
}

// watchCommits tells the assigner's listeners of the sink's commits.
func (o *owner) watchCommits(sink Sink) {
	for {
		changed := sink.Changed()
		o.a.commit() // of all before
		select {
		case <-changed:
		case <-o.ctx.Done():
			return
		}
	}
}

// watchState tells how far behind the sink is, and ends it when the partition is
// not the same any more: what is read from the new one has nothing to do with
// the store's position in the old.
func (o *owner) watchState(p *Partition, sink Sink, replaced chan<- error) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		err := p.Refresh(o.ctx)
		var gone *ReplacedError
		if errors.As(err, &gone) {
			replaced <- gone
			o.cancel(gone)
			return
		}
		if o.ctx.Err() != nil {
			return
		}
		messages, bytes := p.backlog(sink.Committed())
		o.a.o.Metrics.backlog(o.n, messages, bytes)
		select {
		case <-ticker.C:
		case <-o.ctx.Done():
			return
		}
	}
}

// sinkErr is why the sink's last commit failed.
func (o *owner) sinkErr() error {
	if s := o.sink.Load(); s != nil {
		return (*s).Err()
	}
	return nil
}
