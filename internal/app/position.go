package app

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"millrace/internal/cli"
	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/wal"
)

// toolInstance is the name under which commands that are no server use a database
// that they share with servers. Those that open it add something of their own: several
// may run at once.
const toolInstance = "millrace-command"

// StorePosition returns the sequence of the first record of a log that is not in
// the store, 0 if the store has never seen that log. The embedded store is that of
// dataDir, whose lock the caller holds.
func StorePosition(ctx context.Context, cfg *config.Config, dataDir, logID string) (next uint64, err error) {
	var id event.LogID
	raw, err := hex.DecodeString(logID)
	if err != nil || len(raw) != len(id) {
		return 0, fmt.Errorf("%q is no id of a log", logID)
	}
	copy(id[:], raw)
	db, err := openStorage(ctx, cfg, dataDir, toolInstance+"-"+uuid.NewString(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	next, _, err = db.Events().Position(ctx, id)
	return next, err
}

// DrainLog brings what a log holds into the store of cfg, and changes nothing in
// the log but what a sink does. It takes the lock of dataDir if there is one.
func DrainLog(ctx context.Context, cfg *config.Config, log, dataDir string, told func(cli.DrainProgress)) (done cli.DrainProgress, err error) {
	if cfg.Store.Driver == "sqlite" {
		return done, errors.New("the embedded database belongs to one log: start a server on the data directory instead, or name a PostgreSQL database with store.driver and MILLRACE_STORE__POSTGRES__DSN")
	}
	if dataDir != "" {
		release, err := LockData(dataDir)
		if err != nil {
			return done, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	logger := slog.New(slog.DiscardHandler)
	db, err := openStorage(ctx, cfg, dataDir, toolInstance+"-"+uuid.NewString(), logger, nil)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	l, err := wal.Open(ctx, wal.Options{Dir: log, SegmentBytes: int64(cfg.Events.SegmentBytes), MaxBacklogBytes: int64(cfg.Events.BacklogMaxBytes),
		MaxQueuedBytes: int64(cfg.Events.QueueMaxBytes), ReserveBytes: 1, Logger: logger})
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return drain(ctx, cfg, l, db, drainPatience, told)
}

const (
	// drainPatience is how long a drain goes on while the database takes nothing.
	drainPatience = 2 * time.Minute
	// drainTellEvery is how often it is told that the database takes nothing.
	drainTellEvery = time.Second
)

// drain sinks until the store has all of a log that gets nothing more, or has taken
// nothing for as long as patience.
func drain(ctx context.Context, cfg *config.Config, l *wal.Log, db *storage, patience time.Duration, told func(cli.DrainProgress)) (done cli.DrainProgress, err error) {
	e := &cfg.Events
	sink, err := event.NewSink(event.SinkOptions{Log: l, Store: db.Events(), DeadLetters: db.DeadLetters(), CommitTimeout: min(patience, time.Minute),
		MaxBatchRows: e.Sink.MaxBatchRows, MaxBatchBytes: int64(e.Sink.MaxBatchBytes), Exact: e.Dedupe.Mode == "exact", ExactDays: e.Dedupe.ExactDays})
	if err != nil {
		return done, err
	}
	if err := sink.Locate(ctx); err != nil {
		return done, err
	}
	first := sink.Committed()
	done.Records = l.Next() - first
	state := func() cli.DrainProgress {
		done.Done, done.DeadLetters, done.Failing = sink.Committed()-first, sink.DeadLetters(), sink.Err()
		return done
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- sink.Run(runCtx) }()
	tell, stuck := time.NewTicker(min(drainTellEvery, patience)), time.NewTimer(patience)
	defer tell.Stop()
	defer stuck.Stop()
	for err == nil && sink.Committed() < l.Next() {
		changed, before := sink.Changed(), done.Done
		told(state())
		if done.Done > before {
			stuck.Reset(patience)
		}
		select {
		case <-changed:
		case <-tell.C:
		case <-stuck.C:
			err = notDrained(state(), patience)
		case err = <-ended:
			ended <- err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stop()
	err = errors.Join(err, <-ended)
	return state(), err
}

// notDrained says why a drain gives up.
func notDrained(p cli.DrainProgress, patience time.Duration) error {
	why := p.Failing
	if why == nil {
		why = errors.New("it has not answered")
	}
	return fmt.Errorf("the database took nothing for %s; it has %d of the log's %d records, and the log still has the others: mend the cause and run it again: %w",
		patience, p.Done, p.Records, why)
}
