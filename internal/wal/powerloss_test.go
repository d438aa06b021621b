package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

// world is a log on a file system that crashes, and what was promised about it.
type world struct {
	rng      *rand.Rand
	fs       *faultfs.FS
	o        wal.Options
	acked    map[uint64]string    // records whose Append returned nil
	received map[uint64]time.Time // their times of receipt
	asked    map[string]bool      // all records ever handed to Append
	refused  map[string]bool      // records whose Append said "definitely not stored"
	released uint64
	unique   int
}

func newWorld(seed uint64) *world {
	w := &world{
		rng:      rand.New(rand.NewPCG(seed, 2)),
		fs:       faultfs.New(seed),
		acked:    map[uint64]string{},
		received: map[uint64]time.Time{},
		asked:    map[string]bool{},
		refused:  map[string]bool{},
	}
	w.o = wal.Options{Dir: "data/wal", FS: w.fs, SegmentBytes: 16 << 10, MaxFrameBytes: 4 << 10, MaxRecordBytes: 6 << 10, ReserveBytes: 1, SpareSegments: 2}
	return w
}

// life opens the log, checks it, and uses it until the machine stops. It returns
// what is wrong, if anything.
func (w *world) life() error {
	w.o.FS = w.fs
	w.fs.CrashAfter(w.rng.IntN(60) * (1 + w.rng.IntN(6)))
	l, err := wal.Open(ctx, w.o)
	if errors.Is(err, faultfs.ErrCrashed) {
		w.crash()
		return nil
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = w.check(l)
	if errors.Is(err, faultfs.ErrCrashed) || errors.Is(err, wal.ErrFailed) {
		err = nil
	}
	if err == nil {
		w.injectFault()
		err = w.use(l)
	}
	_ = l.Close() // the machine may be down
	w.crash()
	return err
}

// injectFault now and then lets one operation on a file fail.
func (w *world) injectFault() {
	skip := w.rng.IntN(20)
	file := []string{"segment-", "spare-", ""}[w.rng.IntN(3)]
	switch w.rng.IntN(8) {
	case 0:
		w.fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: file, Skip: skip, Times: 1, Err: syscall.EIO})
	case 1:
		w.fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: file, Skip: skip, Times: 1, Err: syscall.EIO, Keep: w.rng.IntN(2000)})
	case 2: // passes: the log goes on a second later, or dies before
		w.fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: file, Skip: skip, Times: 1, Err: syscall.ENOSPC, Keep: w.rng.IntN(2000)})
	case 3:
		w.fs.Inject(faultfs.Fault{Kind: faultfs.SyncDir, Skip: skip, Times: 1, Err: syscall.EIO})
	}
}

func (w *world) crash() {
	if w.rng.IntN(4) == 0 {
		w.fs = w.fs.Kill()
	} else {
		w.fs = w.fs.Reboot()
	}
}

// check compares a freshly opened log with what was promised.
func (w *world) check(l *wal.Log) error {
	if l.First() > max(w.released, 1) {
		return fmt.Errorf("the log begins at %d, released was up to %d", l.First(), w.released)
	}
	r, err := l.NewReader(l.First())
	if err != nil {
		return err
	}
	defer r.Close()
	next, last := l.First(), time.Time{}
	seen := map[string]uint64{}
	for {
		f, ok, err := r.TryNext()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if f.FirstSeq != next {
			return fmt.Errorf("a frame begins at %d instead of %d", f.FirstSeq, next)
		}
		if f.ReceivedAt.Before(last) {
			return fmt.Errorf("time of receipt went back from %v to %v", last, f.ReceivedAt)
		}
		last = f.ReceivedAt
		for _, b := range f.Records {
			rec := string(b)
			if at, twice := seen[rec]; twice {
				return fmt.Errorf("record %d is there again as %d", at, next)
			}
			seen[rec] = next
			if !w.asked[rec] {
				return fmt.Errorf("record %d was never appended", next)
			}
			if w.refused[rec] {
				return fmt.Errorf("record %d was refused as definitely not stored", next)
			}
			if want, ok := w.acked[next]; ok && (want != rec || !w.received[next].Equal(f.ReceivedAt)) {
				return fmt.Errorf("record %d is not the one that was acknowledged", next)
			}
			next++
		}
	}
	if next != l.Next() {
		return fmt.Errorf("the reader ends at %d, the log at %d", next, l.Next())
	}
	for seq := range w.acked {
		if seq >= next {
			return fmt.Errorf("acknowledged record %d is lost, the log ends at %d", seq, next)
		}
	}
	return nil
}

// use appends from several goroutines, reads and releases, until the log fails.
func (w *world) use(l *wal.Log) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	cleanEnd := w.rng.IntN(5) == 0
	for range 1 + w.rng.IntN(4) {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), 3))
		wg.Go(func() {
			for i := 0; !cleanEnd || i < 5; i++ {
				mu.Lock()
				w.unique++
				rec := fmt.Sprintf("%d:%s", w.unique, strings.Repeat("r", rng.IntN(1<<rng.IntN(12))))
				w.asked[rec] = true
				mu.Unlock()
				pos, err := l.Append([]byte(rec))
				mu.Lock()
				switch {
				case err == nil:
					w.acked[pos.Seq], w.received[pos.Seq] = rec, pos.ReceivedAt
				case !errors.Is(err, wal.ErrUnknown):
					w.refused[rec] = true
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	readerDone := make(chan error, 1)
	go func() { readerDone <- w.consume(l, stop, rand.New(rand.NewPCG(w.rng.Uint64(), 4))) }()
	wg.Wait()
	close(stop)
	if err := <-readerDone; err != nil {
		return err
	}
	if cleanEnd {
		_ = l.Close() // an injected fault may hit it
	}
	return nil
}

// consume reads durable frames and now and then releases what it has read.
func (w *world) consume(l *wal.Log, stop <-chan struct{}, rng *rand.Rand) error {
	r, err := l.NewReader(l.First())
	if err != nil {
		if errors.Is(err, faultfs.ErrCrashed) {
			return nil
		}
		return err
	}
	defer r.Close()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		f, ok, err := r.TryNext()
		switch {
		case errors.Is(err, wal.ErrFailed), errors.Is(err, faultfs.ErrCrashed):
			return nil
		case err != nil:
			return err
		case ok && rng.IntN(8) == 0:
			if err := l.Release(f.Next()); err != nil {
				return err
			}
			w.released = f.Next()
		}
	}
}

func TestNoPowerLossLosesAnAcknowledgedRecord(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 100
	}
	records, released := 0, uint64(0)
	for seed := range seeds {
		w := newWorld(uint64(seed))
		for life := range 8 {
			if err := w.life(); err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
		}
		records += len(w.acked)
		released += w.released
	}
	t.Logf("%d power losses, %d records acknowledged, %d released", seeds*8, records, released)
	if records < seeds*20 || released < uint64(seeds) {
		t.Fatalf("the test tests too little: %d records acknowledged, %d released", records, released)
	}
}

func TestThePowerLossTestNoticesWhenFilesAreNotSynced(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		w := newWorld(seed)
		w.fs.IgnoreFileSync = true
		lost += w.livesUntilLoss(4)
	}
	t.Logf("40 worlds, losses noticed in %d", lost)
	if lost < 20 {
		t.Fatalf("without fdatasync only %d of 40 worlds lost something: the power loss test cannot fail", lost)
	}
}

func TestThePowerLossTestNoticesWhenDirectoriesAreNotSynced(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		w := newWorld(seed)
		w.fs.IgnoreDirSync = true
		lost += w.livesUntilLoss(4)
	}
	t.Logf("40 worlds, losses noticed in %d", lost)
	if lost < 20 {
		t.Fatalf("without directory syncs only %d of 40 worlds lost something: the power loss test cannot fail", lost)
	}
}

func (w *world) livesUntilLoss(lives int) int {
	for range lives {
		if w.life() != nil {
			return 1
		}
	}
	return 0
}

func TestWhatWasRefusedStaysSoOverATornFrameOfTheSameContent(t *testing.T) {
	refused := 0
	for seed := range uint64(400) {
		fs := faultfs.New(seed)
		l := mustOpen(t, smallOptions(fs))
		mustAppend(t, l, "first")
		fs.Inject(faultfs.Fault{Kind: faultfs.Sync, Path: "segment-", Times: 1, Err: syscall.EIO})
		rec := []byte(record(33))
		if _, err := l.Append(rec); !errors.Is(err, wal.ErrUnknown) {
			t.Fatal(err)
		}
		fs = fs.Reboot()
		_ = l.Close()
		l = mustOpen(t, smallOptions(fs))
		if l.Next() != 2 { // it was stored
			_ = l.Close()
			continue
		}
		fs.Inject(faultfs.Fault{Kind: faultfs.Write, Path: "segment-", Times: 1, Err: syscall.ENOSPC, Keep: 512})
		if _, err := l.Append(rec); !errors.Is(err, wal.ErrDiskFull) {
			t.Fatal(err)
		}
		refused++
		fs = fs.Reboot()
		_ = l.Close()
		l = mustOpen(t, smallOptions(fs))
		if l.Next() != 2 {
			t.Fatalf("seed %d: a refused record is stored", seed)
		}
		_ = l.Close()
	}
	if refused < 50 {
		t.Fatalf("the test tests too little: %d refused", refused)
	}
}
