package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/internal/wal/vfs"
)

const (
	keeperInterval = time.Second
	// fillBytes is how much of a new segment is written and synced at once. A
	// commit that needs the segment waits for one such piece at most.
	fillBytes = 1 << 20
)

// keeper recycles and prepares segments and watches the disk, in a goroutine of
// its own. Writing into blocks that were written before is several times faster
// to sync than writing into fresh ones, so segments are reused, and new ones are
// filled with zeros ahead of need.
type keeper struct {
	l       *Log
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	tick    *time.Ticker
	short   bool        // free space was below the reserve when it could last be told
	wanted  atomic.Bool // the active segment is filling up
	starved atomic.Bool // a commit needed a segment and there was no room for one

	mu      sync.Mutex // guards what follows; Log.mu may be held around it
	spares  []*spare
	retired []*segment // in order of generation
	number  uint64     // of the newest spare
}

// spare is a segment to be. It is usable from the moment it exists.
type spare struct {
	path      string
	file      vfs.File
	sizeBytes int64

	mu     sync.Mutex // held while zeros are written and synced
	taken  bool
	failed bool // it cannot be written; whoever fills it drops it
}

func (k *keeper) start(l *Log) {
	k.l = l
	k.wake = make(chan struct{}, 1)
	k.quit = make(chan struct{})
	k.done = make(chan struct{})
	go k.run()
}

func (k *keeper) stop() {
	close(k.quit)
	<-k.done
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// ask says that the next segment will be needed soon.
func (k *keeper) ask() {
	k.wanted.Store(true)
	k.poke()
}

// starve says that the next segment is needed and could not be made.
func (k *keeper) starve() { k.starved.Store(true) }

// retire takes a segment that is not needed any more. Log.mu is held.
func (k *keeper) retire(s *segment) {
	k.mu.Lock()
	k.retired = append(k.retired, s)
	k.mu.Unlock()
	k.poke()
}

func (k *keeper) run() {
	defer close(k.done)
	k.tick = time.NewTicker(keeperInterval)
	defer k.tick.Stop()
	k.checkDisk()
	for {
		select {
		case <-k.quit:
			return
		case <-k.l.failed: // nothing is certain any more: leave the files to the next start
			return
		case <-k.tick.C:
			k.checkDisk()
		case <-k.wake:
		}
		k.recycle()
		k.prepare()
		k.mu.Lock()
		k.l.o.Metrics.spares.Set(float64(len(k.spares)))
		k.mu.Unlock()
	}
}

// checkDisk refuses appends when space runs out and takes them again when there
// is some.
func (k *keeper) checkDisk() {
	l := k.l
	free, err := l.fs.FreeBytes(l.o.Dir)
	if err != nil {
		l.log.Warn("cannot tell the disk's free space", "error", err)
		if k.short {
			return
		}
		free = l.o.ReserveBytes // perhaps: what stopped a commit is tried again
	}
	if k.short = free < l.o.ReserveBytes; k.short {
		l.setDiskFull(true, fmt.Errorf("%d bytes are free: %w", free, syscall.ENOSPC))
		return
	}
	if k.starved.Load() {
		k.recycle()
		if err := k.ensureSpare(); err != nil {
			return // still no room; the flag stays
		}
		k.starved.Store(false)
	}
	l.setDiskFull(false, nil)
}

// recycle turns retired segments into spares, or removes them. Oldest first, and
// each durably before the next, so that no crash leaves a hole in the row.
func (k *keeper) recycle() {
	l := k.l
	for {
		k.mu.Lock()
		if len(k.retired) == 0 {
			k.mu.Unlock()
			return
		}
		s := k.retired[0]
		reuse := len(k.spares) < l.o.SpareSegments && s.sizeBytes == l.o.SegmentBytes
		k.mu.Unlock()
		l.mu.Lock()
		reuse = reuse && s.readers == 0 // who reads it still must not see it overwritten
		l.mu.Unlock()

		if err := k.dispose(s, reuse); err != nil {
			l.log.Warn("cannot give a released segment back, trying again shortly", "file", s.file, "error", err)
			return
		}
		k.mu.Lock()
		k.retired = k.retired[1:]
		k.mu.Unlock()
	}
}

func (k *keeper) dispose(s *segment, reuse bool) error {
	l := k.l
	if reuse {
		sp := k.newSpare()
		err := l.fs.Rename(s.file, sp.path)
		if err == nil {
			if sp.file, err = l.fs.OpenWrite(sp.path); err != nil {
				l.log.Warn("cannot reuse a released segment, it is removed", "file", sp.path, "error", err)
				_ = l.fs.Remove(sp.path) // a leftover is adopted or removed at the next start
			}
			if err := k.syncDir(); err != nil {
				if sp.file != nil {
					_ = sp.file.Close()
				}
				return err
			}
			if sp.file != nil {
				k.putBack(sp)
			}
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := l.fs.Remove(s.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return k.syncDir()
}

// syncDir makes removed and renamed names durable. A sync that failed may never
// be made good by another, so the log fails with it.
func (k *keeper) syncDir() error {
	if err := k.l.fs.SyncDir(k.l.o.Dir); err != nil {
		return k.l.fail("sync the directory "+k.l.o.Dir, err)
	}
	return nil
}

// prepare makes the next segment ahead of need and fills it with zeros.
func (k *keeper) prepare() {
	if !k.wanted.Swap(false) {
		return
	}
	k.mu.Lock()
	have := len(k.spares)
	k.mu.Unlock()
	if have > 0 {
		return
	}
	s, err := k.make()
	if err != nil {
		k.l.log.Warn("cannot prepare the next segment", "error", err)
		return
	}
	k.putBack(s)
	k.fill(s)
}

func (k *keeper) ensureSpare() error {
	k.mu.Lock()
	have := len(k.spares)
	k.mu.Unlock()
	if have > 0 {
		return nil
	}
	s, err := k.make()
	if err == nil {
		k.putBack(s)
	}
	return err
}

func (k *keeper) newSpare() *spare {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.number++
	return &spare{path: k.l.path(spareName(k.number)), sizeBytes: k.l.o.SegmentBytes}
}

// make creates a new spare, durably. Either goroutine may call it.
func (k *keeper) make() (*spare, error) {
	l := k.l
	free, err := l.fs.FreeBytes(l.o.Dir)
	if err == nil && free-l.o.SegmentBytes < l.o.ReserveBytes {
		return nil, fmt.Errorf("%d bytes are free, a segment needs %d and a reserve of %d: %w", free, l.o.SegmentBytes, l.o.ReserveBytes, syscall.ENOSPC)
	}
	s := k.newSpare()
	s.file, err = createSegment(l.fs, l.o.Dir, s.path, l.o.SegmentBytes)
	return s, err
}

// createSegment makes a file with its blocks reserved, durably, or none.
func createSegment(fsys vfs.FS, dir, name string, bytes int64) (vfs.File, error) {
	f, err := fsys.Create(name)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(bytes); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		_ = f.Close()
		_ = fsys.Remove(name) // a leftover is removed at the next start
		return nil, err
	}
	return f, nil
}

// fill writes zeros over a new spare until it is full, taken or the log closes.
func (k *keeper) fill(s *spare) {
	zeros := make([]byte, min(fillBytes, s.sizeBytes))
	for off := int64(0); off < s.sizeBytes; off += int64(len(zeros)) {
		select {
		case <-k.quit:
			return
		case <-k.l.failed:
			return
		case <-k.tick.C:
			k.checkDisk()
		default:
		}
		k.recycle() // on a slow disk a segment takes long
		s.mu.Lock()
		if s.taken {
			s.mu.Unlock()
			return
		}
		_, err := s.file.WriteAt(zeros[:min(int64(len(zeros)), s.sizeBytes-off)], off)
		if err == nil {
			// Synced piece by piece, so that no flood of dirty pages stands before
			// a commit's sync. Synced under the lock, because the operating system
			// reports a failed write to one sync only: no commit may have bytes in
			// this file while another than its own sync could take the error.
			err = s.file.Datasync()
		}
		s.failed = err != nil
		s.mu.Unlock()
		if err != nil {
			k.discard(s, err)
			return
		}
	}
}

// discard drops a spare that cannot be written. A commit that had picked it
// meanwhile sees that it failed and leaves it.
func (k *keeper) discard(s *spare, cause error) {
	k.mu.Lock()
	if i := slices.Index(k.spares, s); i >= 0 {
		k.spares = slices.Delete(k.spares, i, i+1)
	}
	k.mu.Unlock()
	k.l.log.Warn("cannot fill a new segment, it is dropped", "file", s.path, "error", cause)
	_ = s.file.Close()
	_ = k.l.fs.Remove(s.path) // a leftover is adopted or removed at the next start
}

// take returns a spare nobody writes to any more, nil if there is none.
func (k *keeper) take() *spare {
	for {
		k.mu.Lock()
		if len(k.spares) == 0 {
			k.mu.Unlock()
			return nil
		}
		s := k.spares[0]
		k.spares = k.spares[1:]
		k.mu.Unlock()
		s.mu.Lock()
		s.taken = true
		failed := s.failed
		s.mu.Unlock()
		if !failed {
			return s
		}
	}
}

func (k *keeper) putBack(s *spare) {
	k.mu.Lock()
	k.spares = append(k.spares, s)
	k.mu.Unlock()
}

func (k *keeper) closeFiles() {
	for _, s := range k.spares {
		_ = s.file.Close()
	}
	k.spares = nil
}
