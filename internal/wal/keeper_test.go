package wal_test

import (
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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

// watchedSpares is a file system that tells before a new spare is written to or
// synced with Datasync.
type watchedSpares struct {
	vfs.FS
	beforeWrite func(b []byte, off int64)
	beforeSync  func()
}

func (s watchedSpares) Create(name string) (vfs.File, error) {
	f, err := s.FS.Create(name)
	if err != nil || !strings.Contains(name, "spare-") {
		return f, err
	}
	return &watchedSpare{f, s}, nil
}

type watchedSpare struct {
	vfs.File
	fs watchedSpares
}

func (f *watchedSpare) WriteAt(b []byte, off int64) (int, error) {
	if f.fs.beforeWrite != nil {
		f.fs.beforeWrite(b, off)
	}
	return f.File.WriteAt(b, off)
}

func (f *watchedSpare) Datasync() error {
	if f.fs.beforeSync != nil {
		f.fs.beforeSync()
	}
	return f.File.Datasync()
}

func TestASlowKeeperDoesNotPoisonTheLog(t *testing.T) {
	reached, wait := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	fs := watchedSpares{FS: vfs.OS{}, beforeSync: func() {
		if once.CompareAndSwap(false, true) {
			close(reached)
			<-wait
		}
	}}
	l := mustOpen(t, wal.Options{Dir: t.TempDir() + "/wal", FS: fs, SegmentBytes: 64 << 10, ReserveBytes: 1})
	rec := strings.Repeat("r", 8000)
	for range 3 {
		mustAppend(t, l, rec)
	}
	<-reached
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
	close(wait)
	<-past
	if err := l.Close(); err != nil { // waits for the keeper
		t.Fatal(err)
	}
}

func TestSparesThatCannotBeOpenedDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := faultfs.New(1)
		o := smallOptions(fs)
		o.SpareSegments = 2
		l := mustOpen(t, o)
		fs.Inject(faultfs.Fault{Kind: faultfs.Open, Path: "spare-", Err: syscall.EMFILE})
		for seq := uint64(1); seq <= 500; seq++ {
			mustAppend(t, l, record(seq))
			if err := l.Release(seq); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := len(inspect(t, fs).SpareFiles); n > o.SpareSegments {
			t.Errorf("%d spare files, the bound is %d", n, o.SpareSegments)
		}
		_ = l.Close()
	})
}

func TestZerosAreNeverWrittenOverASegmentInUse(t *testing.T) {
	const piece = 1 << 20
	fs := faultfs.New(1)
	filling, goOn, written := make(chan struct{}), make(chan struct{}), make(chan struct{})
	o := wal.Options{Dir: logDir, SegmentBytes: 4 * piece, MaxFrameBytes: piece / 2, MaxRecordBytes: piece / 2, ReserveBytes: 1}
	var once atomic.Bool
	o.FS = watchedSpares{FS: fs,
		beforeSync: func() {
			if once.CompareAndSwap(false, true) {
				close(filling)
				<-goOn
			}
		},
		beforeWrite: func(b []byte, off int64) {
			if len(b) == piece && off > 0 { // zeros; if commits go on meanwhile, the spare is theirs
				select {
				case <-written:
				case <-time.After(4 * waitsForTheKeeper):
				}
			}
		},
	}
	l := mustOpen(t, o)
	rec := strings.Repeat("r", 400<<10)
	for range 3 {
		mustAppend(t, l, rec)
	}
	<-filling // the first MiB of zeros is written, three more are to come
	go func() {
		defer close(written)
		for range 16 { // fills most of the next segment, too
			if _, err := l.Append([]byte(rec)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	select {
	case <-written:
	case <-time.After(waitsForTheKeeper):
	}
	close(goOn)
	<-written
	if err := l.Close(); err != nil { // waits for the keeper
		t.Fatal(err)
	}
	o.FS = fs.Kill()
	l, err := wal.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, l)); n != 19 {
		t.Fatalf("%d of 19 records are left", n)
	}
	_ = l.Close()
}

// unmeasured is a file system whose free space cannot be told.
type unmeasured struct{ *faultfs.FS }

func (unmeasured) FreeBytes(string) (int64, error) { return 0, syscall.EIO }

func TestAFullDiskIsTriedAgainEvenIfItsFreeSpaceCannotBeTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := faultfs.New(1)
		o := smallOptions(fs)
		o.FS = unmeasured{fs}
		l := mustOpen(t, o)
		synctest.Wait()
		fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: "segment-", Times: 1, Err: syscall.ENOSPC})
		if _, err := l.Append([]byte("x")); !errors.Is(err, wal.ErrDiskFull) {
			t.Fatalf("want ErrDiskFull, got %v", err)
		}
		time.Sleep(2 * time.Second) // of the bubble's clock
		mustAppend(t, l, "x")
		_ = l.Close()
	})
}

func TestTheDiskIsWatchedWhileASegmentIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const piece = 1 << 20
		fs := faultfs.New(1)
		filling := false
		o := wal.Options{Dir: logDir, SegmentBytes: 64 * piece, MaxFrameBytes: 20 * piece, MaxRecordBytes: 20 * piece, ReserveBytes: 1}
		o.FS = watchedSpares{FS: fs, beforeSync: func() {
			filling = true
			time.Sleep(time.Second) // of the bubble's clock: a very slow disk
		}}
		l := mustOpen(t, o)
		mustAppend(t, l, strings.Repeat("r", 17*piece)) // a quarter of the segment: the next is asked for
		synctest.Wait()
		if !filling {
			t.Fatal("no segment is being filled")
		}
		fs.SetCapacity(fs.Used())
		time.Sleep(5 * time.Second)
		if err := l.Admit(); !errors.Is(err, wal.ErrDiskFull) {
			t.Errorf("the disk is full, Admit says %v", err)
		}
		_ = l.Close()
	})
}

// countedFiles counts the files that are open.
type countedFiles struct {
	vfs.FS
	open *atomic.Int64
}

type countedFile struct {
	vfs.File
	open *atomic.Int64
}

func (c countedFiles) count(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	return countedFile{f, c.open}, nil
}

func (c countedFiles) Open(name string) (vfs.File, error)      { return c.count(c.FS.Open(name)) }
func (c countedFiles) OpenWrite(name string) (vfs.File, error) { return c.count(c.FS.OpenWrite(name)) }
func (c countedFiles) Create(name string) (vfs.File, error)    { return c.count(c.FS.Create(name)) }

func (f countedFile) Close() error {
	f.open.Add(-1)
	return f.File.Close()
}

func TestALogThatCannotBeOpenedLeavesNoFileOpen(t *testing.T) {
	fs := faultfs.New(1)
	o := smallOptions(fs)
	l := mustOpen(t, o)
	for seq := uint64(1); seq <= 200; seq++ {
		mustAppend(t, l, record(seq))
	}
	if err := l.Release(l.Next()); err != nil {
		t.Fatal(err)
	}
	for len(inspect(t, fs).SpareFiles) < 2 {
		runtime.Gosched() // the keeper is giving segments back
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for skip := range 2 {
		counted := countedFiles{fs, new(atomic.Int64)}
		o.FS = counted
		fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "spare-", Skip: skip, Times: 1, Err: syscall.EIO})
		if _, err := wal.Open(ctx, o); !errors.Is(err, syscall.EIO) {
			t.Fatalf("want EIO, got %v", err)
		}
		if n := counted.open.Load(); n != 0 {
			t.Errorf("%d files are open", n)
		}
	}
}
