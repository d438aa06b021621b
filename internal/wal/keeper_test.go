package wal_test

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs"
	"millrace/internal/wal/vfs/faultfs"
)

// waitsForTheKeeper is how long a test gives a commit to do what it must not do
// while the keeper is at work.
const waitsForTheKeeper = 25 * time.Millisecond

func TestAnErrorThatTheKeepersSyncIsToldIsNeverMissedByACommit(t *testing.T) {
	for seed := range uint64(20) {
		fs := faultfs.New(seed)
		l := mustOpen(t, smallOptions(fs))
		filling, fail := make(chan struct{}), make(chan struct{})
		committing, commit := make(chan struct{}, 1), make(chan struct{})
		// The first sync of a spare is that of its making, the second that of its zeros.
		fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "spare-", Skip: 1, Times: 1, Err: syscall.EIO, Reached: filling, Wait: fail})
		last := uint64(0)
		rec := strings.Repeat("r", 1500)
		for range 4 {
			last = mustAppend(t, l, rec).Seq
		}
		<-filling
		fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "spare-", Times: 1, Reached: committing, Wait: commit})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 20 {
				pos, err := l.Append([]byte(rec))
				if err != nil {
					return // the log failed: nothing was promised
				}
				last = pos.Seq
			}
		}()
		inUse := false
		select {
		case <-committing: // a frame is in the new segment, and about to be synced
			inUse = true
		case <-time.After(waitsForTheKeeper):
		}
		close(fail)
		if inUse {
			select {
			case <-l.Failed():
			case <-time.After(waitsForTheKeeper):
			}
		}
		close(commit)
		<-ended
		if l.Err() != nil {
			t.Errorf("seed %d: a segment that was not in use could not be filled, and the log failed: %v", seed, l.Err())
		}
		_ = l.Close()
		l, err := wal.Open(ctx, smallOptions(fs.Reboot()))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if l.Next() < last+1 {
			t.Errorf("seed %d: acknowledged up to %d, the log has up to %d", seed, last, l.Next()-1)
		}
		_ = l.Close()
	}
}

// slowSpares is a file system that waits in the first Datasync of a new spare.
type slowSpares struct {
	vfs.OS
	reached, wait chan struct{}
	once          *atomic.Bool
}

func (s slowSpares) Create(name string) (vfs.File, error) {
	f, err := s.OS.Create(name)
	if err != nil || !strings.Contains(name, "spare-") {
		return f, err
	}
	return &slowSpare{f, s}, nil
}

type slowSpare struct {
	vfs.File
	fs slowSpares
}

func (f *slowSpare) Datasync() error {
	if f.fs.once.CompareAndSwap(false, true) {
		close(f.fs.reached)
		<-f.fs.wait
	}
	return f.File.Datasync()
}

func TestASlowKeeperDoesNotPoisonTheLog(t *testing.T) {
	s := slowSpares{reached: make(chan struct{}), wait: make(chan struct{}), once: new(atomic.Bool)}
	l := mustOpen(t, wal.Options{Dir: t.TempDir() + "/wal", FS: s, SegmentBytes: 64 << 10, ReserveBytes: 1})
	rec := strings.Repeat("r", 8000)
	for range 3 {
		mustAppend(t, l, rec)
	}
	<-s.reached
	past := make(chan struct{})
	go func() {
		defer close(past)
		for range 30 { // rolls past the spare
			if _, err := l.Append([]byte(rec)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	select {
	case <-past:
	case <-time.After(4 * waitsForTheKeeper):
	}
	close(s.wait)
	<-past
	if err := l.Close(); err != nil { // waits for the keeper
		t.Fatal(err)
	}
}
