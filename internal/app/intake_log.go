package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/event"
	"millrace/internal/event/dedupe"
	"millrace/internal/wal"
)

// sinkInterval spaces the commits of the sink while there is little to write: a
// commit of a few rows costs nearly what one of hundreds does. It is part of the
// time from receipt to queryable.
const sinkInterval = 25 * time.Millisecond

// windowFill is a dedupe window that is to be filled.
type windowFill struct {
	window *dedupe.Window
	store  event.Store
	since  time.Time
}

// logIntake is the log on this instance's disk, and its sink.
type logIntake struct {
	*wal.Log
	sink *event.Sink
	core *core
}

func openLog(ctx context.Context, c *core) (*logIntake, error) {
	floor, err := c.receiptFloor(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	e := &c.cfg.Events
	l := &logIntake{core: c}
	l.Log, err = wal.Open(ctx, wal.Options{
		Dir: c.dir.file(walName), SegmentBytes: int64(e.SegmentBytes), MaxBacklogBytes: int64(e.BacklogMaxBytes),
		MaxQueuedBytes: int64(e.QueueMaxBytes), ReserveBytes: max(int64(e.DiskReserveBytes), 1), NotBefore: floor,
		Logger: c.logger, Metrics: wal.NewMetrics(c.registry),
	})
	if err != nil {
		return nil, err
	}
	c.onClose(l.Log.Close)
	o := c.sinkOptions(l.Log)
	if e.Ack != string(event.AckStore) {
		o.GiveWay = l.giveWay
	} else {
		o.MinInterval = 0 // callers wait for the commit
	}
	if l.sink, err = event.NewSink(o); err != nil {
		return nil, err
	}
	return l, l.sink.Locate(ctx)
}

// floorSlack is how far the newest event may be ahead of the clock before it is told.
const floorSlack = time.Minute

// receiptFloor returns the time before which nothing is received. In an embedded
// store that is the newest event's, so that a log made anew goes on behind the one
// before. In a database that instances share it is none: the newest event may be
// another's, whose clock is wrong, and a log keeps its own times in order by itself.
func (c *core) receiptFloor(ctx context.Context, now time.Time) (time.Time, error) {
	last, err := c.db.Events().LastReceived(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking the store for its newest event: %w", err)
	}
	shared := c.cfg.Store.Driver == "postgres"
	if ahead := last.Sub(now); ahead > floorSlack {
		c.logger.Warn("the newest event was received later than it is now: the clock of this machine is wrong, or that of the one that received it was",
			"newest", last, "ahead", ahead.Round(time.Second), "timesStandStill", !shared)
	}
	if shared {
		return time.Time{}, nil
	}
	return last, nil
}

// crowd is how many submissions being accepted at once mean that accepting is
// short of something: at 80,000 events a second in batches of a hundred there are
// a handful.
const crowd = 32

// giveWay says whether the sink should leave processor and disk to accepting:
// when there is a crowd, and the backlog is less than half full.
func (l *logIntake) giveWay() bool {
	return l.core.ingester.Pending() >= crowd && l.Backlog() < l.MaxBacklog()/2
}

func (l *logIntake) Changed() <-chan struct{} { return l.sink.Changed() }

func (l *logIntake) WaitCommitted(ctx context.Context, upTo uint64) error {
	return l.sink.WaitCommitted(ctx, upTo)
}

func (l *logIntake) log() event.Log { return l.Log }

func (l *logIntake) Run(ctx context.Context) error {
	if err := l.sink.Run(ctx); err != nil {
		return fmt.Errorf("the sink stopped: %w", err)
	}
	return nil
}

// Drain waits until the store has all of the log. What it leaves goes on after
// the next start.
func (l *logIntake) Drain(ctx context.Context) {
	if l.Err() != nil {
		return
	}
	if err := l.sink.WaitCommitted(ctx, l.Next()); err != nil {
		l.core.logger.Info("some events are in the log and not yet in the store; the next start goes on with them",
			"records", l.Next()-l.sink.Committed())
	}
}

func (l *logIntake) Fill(ctx context.Context, f *windowFill) error {
	return event.RebuildWindow(ctx, f.window, f.store, l.Log, l.sink.Committed(), f.since)
}

// fullPercent is the share of the backlog's bound at which readiness fails, so
// that load balancers look elsewhere before events are refused.
const fullPercent = 90

func (l *logIntake) Probe() error {
	if backlog, bound := l.Backlog(), l.MaxBacklog(); backlog >= bound/100*fullPercent {
		return fmt.Errorf("the backlog of the event log is at %d %% of its bound of %d bytes", backlog*100/bound, bound)
	}
	return nil
}

func (l *logIntake) ProbeSink() error {
	if l.sink.Err() != nil {
		return errors.New("events cannot be written to the database, they wait in the log; see this server's log")
	}
	return nil
}
