package wal_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

func TestAFailedSyncPoisonsTheLogAndTheOutcomeIsUnknown(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	mustAppend(t, l, record(1))
	reached, wait := make(chan struct{}), make(chan struct{})
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Err: syscall.EIO, Reached: reached, Wait: wait})

	written, queued := make(chan error, 1), make(chan error, 1)
	go func() { _, err := l.Append([]byte("in the frame")); written <- err }()
	<-reached
	go func() { _, err := l.Append([]byte("behind it")); queued <- err }()
	close(wait)
	if err := <-written; !errors.Is(err, wal.ErrUnknown) || errors.Is(err, wal.ErrFailed) {
		t.Errorf("the record being written: want ErrUnknown alone, got %v", err)
	}
	// It was in the queue or came after: either way it was not stored.
	if err := <-queued; !errors.Is(err, wal.ErrFailed) || errors.Is(err, wal.ErrUnknown) {
		t.Errorf("the record behind it: want ErrFailed alone, got %v", err)
	}
	<-l.Failed()
	if err := l.Err(); !errors.Is(err, wal.ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("Err is %v", err)
	}
	if err := l.Admit(); !errors.Is(err, wal.ErrFailed) {
		t.Errorf("Admit says %v", err)
	}
	if diff := cmp.Diff(wantRecords(1, 2), readAll(t, l)); diff != "" {
		t.Errorf("a reader sees what is not durable: %s", diff)
	}
	if err := l.Close(); !errors.Is(err, wal.ErrFailed) {
		t.Errorf("Close says %v", err)
	}
}

func TestAnUnexpectedWriteErrorPoisonsTheLog(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: "segment-", Times: 1, Err: syscall.EIO, Keep: 200})
	if _, err := l.Append([]byte(record(3))); !errors.Is(err, wal.ErrUnknown) {
		t.Errorf("want ErrUnknown, got %v", err)
	}
	<-l.Failed()
}

func TestAShortWriteIsNotStoredAndTheLogGoesOn(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, io.ErrShortWrite} {
		for _, keep := range []int{0, 1, 79, 80, 600, 1 << 20} {
			synctest.Test(t, func(t *testing.T) {
				fs := faultfs.New(1)
				l := mustOpen(t, smallOptions(fs))
				mustAppend(t, l, record(1))
				synctest.Wait() // the keeper has had its first look
				fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: "segment-", Times: 1, Err: cause, Keep: keep})
				if _, err := l.Append([]byte("refused " + record(33))); !errors.Is(err, wal.ErrDiskFull) {
					t.Fatalf("%v after %d bytes: want ErrDiskFull, got %v", cause, keep, err)
				}
				if err := l.Admit(); !errors.Is(err, wal.ErrDiskFull) {
					t.Fatalf("%v after %d bytes: Admit says %v", cause, keep, err)
				}
				time.Sleep(2 * time.Second) // of the bubble's clock: the keeper looks again
				if pos := mustAppend(t, l, record(2)); pos.Seq != 2 {
					t.Fatalf("the next record got %d", pos.Seq)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = mustOpen(t, smallOptions(fs.Reboot()))
				if diff := cmp.Diff(wantRecords(1, 3), readAll(t, l)); diff != "" {
					t.Fatalf("%v after %d bytes: %s", cause, keep, diff)
				}
				_ = l.Close()
			})
		}
	}
}

func TestAFullDiskRefusesAndServiceResumesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := faultfs.New(1)
		o := smallOptions(fs)
		l := mustOpen(t, o)
		fs.SetCapacity(fs.Used() + 100) // no room for another segment
		seq := uint64(0)
		var err error
		for err == nil && seq < 100 {
			if _, err = l.Append([]byte(record(seq + 1))); err == nil {
				seq++
			}
		}
		if !errors.Is(err, wal.ErrDiskFull) || seq < 10 {
			t.Fatalf("after %d records: %v", seq, err)
		}
		time.Sleep(5 * time.Second)
		if err := l.Admit(); !errors.Is(err, wal.ErrDiskFull) {
			t.Fatalf("without room Admit says %v", err)
		}
		fs.SetCapacity(1 << 30)
		time.Sleep(2 * time.Second)
		if err := l.Admit(); err != nil {
			t.Fatalf("with room again Admit says %v", err)
		}
		for range 50 {
			seq++
			mustAppend(t, l, record(seq))
		}
		if l.Err() != nil {
			t.Fatal(l.Err())
		}
		fs = fs.Reboot()
		_ = l.Close()
		l = mustOpen(t, smallOptions(fs))
		if diff := cmp.Diff(wantRecords(1, seq+1), readAll(t, l)); diff != "" {
			t.Fatal(diff)
		}
		_ = l.Close()
	})
}

func TestTheReserveIsKeptFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := faultfs.New(1)
		o := smallOptions(fs)
		o.ReserveBytes = 1 << 20
		l := mustOpen(t, o)
		mustAppend(t, l, "while there is room")
		fs.SetCapacity(fs.Used() + o.ReserveBytes - 1)
		time.Sleep(2 * time.Second)
		if _, err := l.Append([]byte("x")); !errors.Is(err, wal.ErrDiskFull) {
			t.Errorf("below the reserve: want ErrDiskFull, got %v", err)
		}
		fs.SetCapacity(1 << 30)
		time.Sleep(2 * time.Second)
		mustAppend(t, l, "and again")
		_ = l.Close()
	})
}

func TestReceiptTimeNeverGoesBack(t *testing.T) {
	fs := faultfs.New(1)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	o := smallOptions(fs)
	o.Now = func() time.Time { return now }
	o.NotBefore = now.Add(time.Hour)
	l := mustOpen(t, o)
	if at := mustAppend(t, l, "1").ReceivedAt; !at.Equal(now.Add(time.Hour)) {
		t.Errorf("before the floor: %v", at)
	}
	now = now.Add(2 * time.Hour)
	if at := mustAppend(t, l, "2").ReceivedAt; !at.Equal(now) {
		t.Errorf("after the floor: %v, the clock says %v", at, now)
	}
	late := now
	now = now.Add(-24 * time.Hour)
	if at := mustAppend(t, l, "3").ReceivedAt; !at.Equal(late) {
		t.Errorf("the clock jumped back, and so did the time of receipt: %v", at)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o.NotBefore = time.Time{}
	l = mustOpen(t, o)
	if at := mustAppend(t, l, "4").ReceivedAt; !at.Equal(late) {
		t.Errorf("after a restart the time of receipt went back to %v", at)
	}
}

func TestTheBacklogIsBoundedReleasedAndSurvivesARestart(t *testing.T) {
	fs := faultfs.New(1)
	o := smallOptions(fs)
	o.MaxBacklogBytes = 100 << 10
	l := mustOpen(t, o)
	var err error
	n := uint64(0)
	for ; err == nil && n < 1000; n++ {
		_, err = l.Append([]byte(record(n + 1)))
	}
	n--
	if !errors.Is(err, wal.ErrBacklogFull) || !errors.Is(l.Admit(), wal.ErrBacklogFull) {
		t.Fatalf("after %d records: %v, Admit says %v", n, err, l.Admit())
	}
	full := l.Backlog()
	if full < o.MaxBacklogBytes || full > o.MaxBacklogBytes+8192 {
		t.Errorf("the backlog is %d with a bound of %d", full, o.MaxBacklogBytes)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o)
	if l.Backlog() != full {
		t.Errorf("after a restart the backlog is %d, it was %d", l.Backlog(), full)
	}
	if err := l.Release(n + 2); !errors.Is(err, wal.ErrPosition) {
		t.Errorf("a release beyond the end: %v", err)
	}
	if err := l.Release(n); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(2); err != nil || l.First() == 1 {
		t.Errorf("releasing an older position: %v, the log begins at %d", err, l.First())
	}
	if b := l.Backlog(); b >= full || b < 512 {
		t.Errorf("one record is left, the backlog is %d", b)
	}
	if err := l.Release(n + 1); err != nil || l.Backlog() != 0 {
		t.Errorf("all is released (%v), the backlog is %d", err, l.Backlog())
	}
	mustAppend(t, l, record(n+1))
	if diff := cmp.Diff(record(n+1), readAll(t, l)[n+1]); diff != "" {
		t.Error(diff)
	}
}

func TestReleasedSegmentsAreRecycledWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := faultfs.New(1)
		o := smallOptions(fs)
		o.SpareSegments = 2
		l := mustOpen(t, o)
		for seq := uint64(1); seq <= 2000; seq++ {
			mustAppend(t, l, record(seq))
			if seq%100 == 0 {
				if err := l.Release(seq - 5); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
		}
		if used := fs.Used(); used > 16*o.SegmentBytes {
			t.Errorf("2000 records later the log takes %d bytes", used)
		}
		r := inspect(t, fs)
		if len(r.SpareFiles) > o.SpareSegments || len(r.Damage) > 0 {
			t.Errorf("spares %v, damage %v", r.SpareFiles, r.Damage)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, o) // stale frames in recycled segments must not confuse it
		if diff := cmp.Diff(wantRecords(l.First(), 2001), readAll(t, l)); diff != "" || l.First() > 1995 {
			t.Errorf("first %d: %s", l.First(), diff)
		}
		_ = l.Close()
	})
}

func TestAReaderFollowsAppendsAcrossSegments(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	const n = 3000
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				if _, err := l.Append([]byte(strings.Repeat("z", 300))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := uint64(1)
	for next <= n {
		f, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if f.FirstSeq != next || f.Next() > l.Next() {
			t.Fatalf("frame [%d, %d) after %d, the log ends at %d", f.FirstSeq, f.Next(), next, l.Next())
		}
		next = f.Next()
		if err := l.Release(next); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(t.Context()); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("at the end of a closed log: want ErrClosed, got %v", err)
	}
}

func TestAReaderThatStoodStillIsNeverShownOtherRecords(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	mustAppend(t, l, record(1))
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for seq := uint64(2); seq <= 300; seq++ {
		mustAppend(t, l, record(seq))
		if err := l.Release(seq); err != nil {
			t.Fatal(err)
		}
	}
	next := uint64(1)
	for {
		f, ok, err := r.TryNext()
		if errors.Is(err, wal.ErrReleased) {
			break
		}
		if err != nil || !ok {
			t.Fatalf("at %d: %v", next, err)
		}
		if f.FirstSeq != next || string(f.Records[0]) != record(next) {
			t.Fatalf("frame %d came instead of %d", f.FirstSeq, next)
		}
		next = f.Next()
	}
	if next == 1 || next > 300 {
		t.Errorf("the reader got to %d", next)
	}
}

func TestAReaderMayBeginAnywhereInTheLog(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	reached, wait := make(chan struct{}), make(chan struct{})
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Reached: reached, Wait: wait})
	if err := l.AppendAsync([]byte(record(1)), func(error) {}); err != nil {
		t.Fatal(err)
	}
	<-reached
	for seq := uint64(2); seq <= 40; seq++ { // these share frames
		if err := l.AppendAsync([]byte(record(seq)), func(error) {}); err != nil {
			t.Fatal(err)
		}
	}
	close(wait)
	mustAppend(t, l, record(41))
	for from := uint64(1); from <= 42; from++ {
		r, err := l.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		got := map[uint64]string{}
		frames := 0
		for {
			f, ok, err := r.TryNext()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			frames++
			for i, rec := range f.Records {
				got[f.FirstSeq+uint64(i)] = string(rec)
			}
		}
		if diff := cmp.Diff(wantRecords(from, 42), got); diff != "" || (from == 1 && frames > 30) {
			t.Fatalf("from %d, %d frames: %s", from, frames, diff)
		}
		_ = r.Close()
	}
	for _, from := range []uint64{0, 43} {
		if _, err := l.NewReader(from); !errors.Is(err, wal.ErrPosition) {
			t.Errorf("from %d: want ErrPosition, got %v", from, err)
		}
	}
}

func TestTheQueueIsBoundedAndLargeRecordsAreRefused(t *testing.T) {
	fs := faultfs.New(1)
	o := smallOptions(fs)
	o.MaxQueuedBytes = 10 << 10
	reg := prometheus.NewRegistry()
	o.Metrics = wal.NewMetrics(reg)
	l := mustOpen(t, o)
	if _, err := l.Append(make([]byte, o.MaxRecordBytes+1)); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("want ErrTooLarge, got %v", err)
	}
	mustAppend(t, l, strings.Repeat("x", int(o.MaxRecordBytes)))
	reached, wait := make(chan struct{}), make(chan struct{})
	fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Err: syscall.EIO, Reached: reached, Wait: wait})
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		if err = l.AppendAsync(make([]byte, 1000), func(error) {}); n == 0 {
			<-reached
		}
	}
	if !errors.Is(err, wal.ErrBusy) || n != 11 {
		t.Errorf("after %d records in the queue: %v", n, err)
	}
	close(wait)
	<-l.Failed()
	_ = l.Close()
	if lost := metric(t, reg, "millrace_wal_unacknowledged_lost_records_total"); lost != 10 {
		t.Errorf("%v records were counted as lost, 10 were", lost)
	}
	if failed := metric(t, reg, "millrace_wal_failed"); failed != 1 {
		t.Errorf("the failed gauge is %v", failed)
	}
}

func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func TestBadOptionsAreRefusedWithTheReason(t *testing.T) {
	for _, test := range []struct {
		o    wal.Options
		want string
	}{
		{wal.Options{}, "Options.Dir"},
		{wal.Options{Dir: "d", MaxQueuedBytes: -1}, "MaxQueuedBytes"},
		{wal.Options{Dir: "d", SegmentBytes: 1000}, "multiple of 512"},
		{wal.Options{Dir: "d", SegmentBytes: 1 << 20, MaxRecordBytes: 1 << 20}, "needs segments of at least"},
	} {
		test.o.FS = faultfs.New(1)
		if _, err := wal.Open(ctx, test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("want an error that mentions %q, got %v", test.want, err)
		}
	}
}
