package stream

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/lease"
)

// cutLeases are leases that cannot be reached while they are cut off.
type cutLeases struct {
	*memLeases
	cut atomic.Bool
}

func (c *cutLeases) Acquire(ctx context.Context, name, holder string, now time.Time, ttl time.Duration) (lease.Lease, bool, error) {
	if c.cut.Load() {
		return lease.Lease{}, false, errAway
	}
	return c.memLeases.Acquire(ctx, name, holder, now, ttl)
}

func (c *cutLeases) Leases(ctx context.Context, prefix string, now time.Time) ([]lease.Lease, error) {
	if c.cut.Load() {
		return nil, errAway
	}
	return c.memLeases.Leases(ctx, prefix, now)
}

// slowSink takes a while to end, as one does whose call of the database is under way.
type slowSink struct{ running *atomic.Int64 }

func (s *slowSink) Locate(context.Context) error { return nil }
func (s *slowSink) Run(ctx context.Context) error {
	s.running.Add(1)
	defer s.running.Add(-1)
	<-ctx.Done()
	time.Sleep(35 * time.Second)
	return nil
}
func (s *slowSink) Committed() uint64        { return 1 }
func (s *slowSink) Changed() <-chan struct{} { return nil }
func (s *slowSink) Err() error               { return nil }

func TestAPartitionIsNotTakenAgainBeforeItsSinkHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases := &cutLeases{memLeases: newMemLeases()}
		// Another instance, which dies: the share grows while sinks end.
		if _, held, err := leases.Acquire(t.Context(), "sink/events/two", "two", time.Now(), 24*time.Second); !held || err != nil {
			t.Fatal(err)
		}
		var running atomic.Int64
		i := startInstance(t, AssignerOptions{Broker: newMemBroker(4), Leases: leases, Instance: "one", NewSink: func(*Partition) (Sink, error) {
			return &slowSink{&running}, nil
		}})
		time.Sleep(12 * time.Second)
		if n := running.Load(); n != 2 {
			t.Fatalf("%d sinks run, want 2 of 4", n)
		}
		leases.cut.Store(true) // for longer than leases last
		time.Sleep(13 * time.Second)
		leases.cut.Store(false)
		time.Sleep(12 * time.Second)
		if n := running.Load(); n != 4 {
			t.Errorf("%d sinks run for 4 partitions while two of them end", n)
		}
		time.Sleep(40 * time.Second)
		if n := len(i.Owned()); n != 4 || running.Load() != 4 {
			t.Errorf("later %d are owned and %d sinks run", n, running.Load())
		}
		i.stop(t)
		if n := running.Load(); n != 0 {
			t.Errorf("%d sinks run after the end", n)
		}
	})
}
