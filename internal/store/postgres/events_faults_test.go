package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/servers/servertest"
)

// sinkOf appends batches as a sink does: after an error it asks where the log
// stands and goes on from there. It returns how many answers were errors.
func sinkOf(ctx context.Context, db *DB, log byte, batches []event.Batch, progress *atomic.Int64) (failures int, err error) {
	for i := 0; i < len(batches); {
		b := batches[i]
		b.LogID = event.LogID{log}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := db.Events().Append(attempt, b)
		cancel()
		var position *event.PositionError
		switch {
		case err == nil, errors.As(err, &position) && position.Have == b.UpTo:
			i++
			progress.Add(1)
		case position != nil || errors.Is(err, event.ErrData):
			return failures, err
		default:
			failures++
		}
		select {
		case <-ctx.Done():
			return failures, ctx.Err()
		default:
		}
	}
	return failures, nil
}

func TestEventsAreStoredOnceWhateverBecomesOfServerAndConnections(t *testing.T) {
	p, database := killable(t)
	proxy := servertest.PostgresProxy(t, p)
	name := database(t)
	one := openAt(t, Options{DSN: dsnAs(p, proxy.Addr(), owner, name), Instance: "one", StatementTimeout: 5 * time.Second})
	two := openAt(t, Options{DSN: dsnAs(p, proxy.Addr(), owner, name), Instance: "two", StatementTimeout: 5 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()

	const batches, perBatch = 120, 100
	var progress atomic.Int64
	var sinks sync.WaitGroup
	for log, db := range []*DB{one, two} {
		todo := make([]event.Batch, batches)
		for i := range todo {
			todo[i] = oneBatch(0, uint64(1+i), eventRows("demo", fmt.Sprint(log, "/", i, "/"), perBatch, eventDay.Add(time.Duration(i)*time.Second))...)
			todo[i].Exact, todo[i].ExactDays = log == 1, 1
		}
		sinks.Go(func() {
			failures, err := sinkOf(ctx, db, byte(1+log), todo, &progress)
			if err != nil {
				t.Errorf("log %d: %v", 1+log, err)
			}
			t.Logf("log %d had %d failures", 1+log, failures)
		})
	}
	reached := func(n int64) {
		soon(t, fmt.Sprint("batch ", n), func() bool { return progress.Load() >= n })
	}
	for i, fault := range []func() error{
		func() error { proxy.LoseCommitReply(); return nil },
		func() error { proxy.CutCommit(); return nil },
		p.Kill,
		func() error { proxy.CutAfterBytes(20_000); return nil }, // in the midst of a copy
		func() error { proxy.LoseCommitReply(); proxy.LoseCommitReply(); return nil },
		p.Kill,
	} {
		reached(int64(1+i) * 2 * batches / 8)
		if err := fault(); err != nil {
			t.Fatal(err)
		}
		if i%3 == 2 {
			if err := p.Restart(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	sinks.Wait()
	for _, ascending := range []bool{true, false} {
		counts := map[string]int{}
		for _, id := range idsOf(t, one, event.Query{TenantID: "demo", Limit: 1000, Ascending: ascending}) {
			counts[id]++
		}
		for id, n := range counts {
			if n != 1 {
				t.Errorf("ascending %v: event %s is there %d times", ascending, id, n)
			}
		}
		if len(counts) != 2*batches*perBatch {
			t.Errorf("ascending %v: %d events, want %d", ascending, len(counts), 2*batches*perBatch)
		}
	}
	series, err := two.Events().Stats(ctx, event.StatsQuery{TenantID: "demo", Step: 24 * time.Hour})
	if err != nil || len(series) != 1 || series[0].Points[0].Count != 2*batches*perBatch {
		t.Errorf("the rollups say %+v, error %v; want %d", series, err, 2*batches*perBatch)
	}
}
