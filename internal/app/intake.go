package app

import (
	"context"
	"fmt"
	"time"

	"millrace/internal/event"
)

// intake is where accepted events go first, and what brings them from there into
// the store: a log on this instance's disk, or a replicated stream.
type intake interface {
	event.CommitSignal
	event.CommitWaiter
	// log is where batches go.
	log() event.Log
	// Run brings what is there into the store until ctx ends. An error means that the
	// process should go down.
	Run(ctx context.Context) error
	// Drain waits until the store has what this instance would lose track of, or ctx
	// ends.
	Drain(ctx context.Context)
	// Fill fills the dedupe window with what was accepted lately.
	Fill(ctx context.Context, b *windowFill) error
	// Failed is closed once nothing can be accepted any more; Err says why.
	Failed() <-chan struct{}
	Err() error
	// Probe says why events should not be sent here, and ProbeSink why what was
	// accepted does not become queryable.
	Probe() error
	ProbeSink() error
}

// openIntake opens what the ack mode names.
func (c *core) openIntake(ctx context.Context) (err error) {
	if c.cfg.Events.Ack == string(event.AckStream) {
		c.intake, err = openStream(ctx, c)
	} else {
		c.intake, err = openLog(ctx, c)
	}
	return err
}

// sinkOptions are what all sinks of this instance have in common.
func (c *core) sinkOptions(log event.SinkLog) event.SinkOptions {
	e := &c.cfg.Events
	return event.SinkOptions{
		Log: log, Store: c.db.Events(), DeadLetters: c.db.DeadLetters(),
		MaxBatchRows: e.Sink.MaxBatchRows, MaxBatchBytes: int64(e.Sink.MaxBatchBytes), MinInterval: sinkInterval,
		Exact: e.Dedupe.Mode == "exact", ExactDays: e.Dedupe.ExactDays,
		Forget: func(h event.Hash) {
			if c.window != nil {
				c.window.Forget(h)
			}
		},
		// A store that comes back has a backlog waiting: it is asked every second.
		MaxBackoff: time.Second,
		Logger:     c.logger, Metrics: c.sinkMetrics,
	}
}

// admit says whether an event would be refused now.
func (c *core) admit() error {
	if err := c.ingester.Admit(); err != nil {
		return err
	}
	if err := c.intake.Probe(); err != nil {
		return fmt.Errorf("events cannot be accepted: %w", err)
	}
	return nil
}
