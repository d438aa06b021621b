package wal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"
	"time"

	"millrace/internal/wal/vfs"
)

// recover brings the log to the state that is on disk, or begins a new one. It
// changes nothing if it finds damage.
func (l *Log) recover(ctx context.Context) error {
	start := time.Now()
	if err := makeDir(l.fs, l.o.Dir); err != nil {
		return fmt.Errorf("wal: make the log's directory: %w", err)
	}
	names, err := l.fs.List(l.o.Dir)
	if err != nil {
		return fmt.Errorf("wal: list the log's directory: %w", err)
	}
	generations := numberedNames(names, segmentPrefix, segmentName)
	id, found, err := readMeta(l.fs, l.o.Dir)
	if err != nil {
		return err
	}
	if !found {
		if err := l.begin(ctx, generations); err != nil {
			return err
		}
		generations = []uint64{1}
	} else {
		l.id = id
		if len(generations) == 0 {
			return &DamageError{File: l.path(segmentPrefix + "*"), Reason: "all segment files are missing"}
		}
	}
	scans, err := scanSegments(ctx, l.fs, l.o.Dir, generations, l.id, false)
	if err != nil {
		return err
	}
	c := checkChain(l.o.Dir, scans, nil)
	if len(c.damage) > 0 {
		for _, d := range c.damage {
			l.log.Error("the log is damaged", "file", d.File, "offset", d.Offset, "reason", d.Reason)
		}
		return c.damage[0]
	}
	if err := l.settleTail(c); err != nil {
		return err
	}
	if err := l.adopt(c, names); err != nil {
		_ = l.c.file.Close() // everything in it is durable
		l.keeper.closeFiles()
		return err
	}
	l.log.Info("log recovered", "segments", len(l.segments), "first", l.firstLocked(), "next", l.c.next,
		"bytes", l.appended, "took", time.Since(start))
	return nil
}

// makeDir makes a directory and all names on the way to it durable, also those
// that an earlier start made and did not live to sync.
func makeDir(fsys vfs.FS, dir string) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for d := dir; d != path.Dir(d); {
		d = path.Dir(d)
		err := fsys.SyncDir(d)
		if d != path.Dir(dir) && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EINVAL)) {
			continue // farther up, what is not ours to sync was not made by us either
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin makes a new log: the first segment, then the meta file that says that the
// log exists. What an earlier attempt left, an empty first segment, is replaced.
func (l *Log) begin(ctx context.Context, generations []uint64) error {
	for _, g := range generations {
		blank, err := isBlank(ctx, l.fs, l.path(segmentName(g)))
		if err != nil {
			return err
		}
		if !blank || g != 1 {
			return &DamageError{File: l.path(metaName), Reason: "the file is missing, but segment files exist"}
		}
		if err := l.fs.Remove(l.path(segmentName(g))); err != nil {
			return fmt.Errorf("wal: begin a log: %w", err)
		}
	}
	_, _ = rand.Read(l.id[:]) // never fails
	f, err := createSegment(l.fs, l.o.Dir, l.path(segmentName(1)), l.o.SegmentBytes)
	if err != nil {
		return fmt.Errorf("wal: begin a log: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("wal: begin a log: %w", err)
	}
	return writeMeta(l.fs, l.o.Dir, l.id, l.o.Now())
}

// isBlank reports whether a file holds no frame of any log.
func isBlank(ctx context.Context, fsys vfs.FS, name string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return false, fmt.Errorf("wal: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, fmt.Errorf("wal: %w", err)
	}
	var w window
	w.reset(f, size)
	at, _, err := w.findHeader(0, func(header) bool { return true })
	if err != nil {
		return false, fmt.Errorf("wal: read %s: %w", name, err)
	}
	return at < 0, nil
}

// settleTail makes everything that was found durable and opens the last segment
// for appending.
func (l *Log) settleTail(c *chain) error {
	tail := c.tail()
	if tail.torn {
		l.log.Warn("the log ends in an incomplete frame, which was never acknowledged; it is cut off",
			"file", tail.file, "offset", tail.end, "reason", tail.badReason)
	}
	last := tail
	if n := len(c.scans); tail.frames == 0 && n > 1 {
		last = c.scans[n-2] // its seal is the log's last frame
	}
	if last.frames > 0 {
		if err := rewriteLastFrame(l.fs, last); err != nil {
			return fmt.Errorf("wal: make the end of %s durable: %w", last.file, err)
		}
	}
	if err := l.fs.SyncDir(l.o.Dir); err != nil {
		return fmt.Errorf("wal: sync the directory %s: %w", l.o.Dir, err)
	}
	f, err := l.fs.OpenWrite(tail.file)
	if err != nil {
		return fmt.Errorf("wal: open the last segment: %w", err)
	}
	if tail.sizeBytes < l.o.SegmentBytes {
		if err := f.Allocate(l.o.SegmentBytes); err != nil {
			l.log.Warn("cannot extend the last segment, a new one will be begun", "file", tail.file, "error", err)
		} else if tail.sizeBytes, err = f.Size(); err != nil {
			_ = f.Close()
			return fmt.Errorf("wal: size of %s: %w", tail.file, err)
		}
	}
	l.c.file = f
	l.c.off = tail.end
	l.c.next = 1
	l.c.lastReceived = max(0, l.o.NotBefore.UnixNano())
	if l.o.NotBefore.IsZero() {
		l.c.lastReceived = 0
	}
	for _, s := range c.scans {
		l.segments = append(l.segments, &segment{generation: s.generation, file: s.file, sizeBytes: s.sizeBytes, first: s.first, end: s.end})
		for _, m := range s.marks {
			l.marks = append(l.marks, mark{m.next, l.appended + m.bytes})
		}
		l.appended += s.dataBytes
		if s.frames > 0 {
			l.c.next = s.next
			l.c.lastReceived = max(l.c.lastReceived, s.lastReceived)
		}
	}
	l.c.seg = l.segments[len(l.segments)-1]
	l.next.Store(l.c.next)
	return nil
}

// rewriteLastFrame writes a segment's last frame over itself and syncs it. What was
// read may be in memory only: written but not synced before a kill, or dropped by
// a sync that failed, after which another sync alone would claim success. All
// frames before it were synced successfully, or it would not have been written.
func rewriteLastFrame(fsys vfs.FS, s *segmentScan) error {
	f, err := fsys.OpenWrite(s.file)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, min(s.end, s.sizeBytes)-s.lastOffset)
	if _, err := readFull(f, b, s.lastOffset); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, s.lastOffset); err != nil {
		return err
	}
	return f.Sync()
}

// adopt takes the spare segments that are there, and the one that was never begun.
func (l *Log) adopt(c *chain, names []string) error {
	k := &l.keeper
	numbers := numberedNames(names, sparePrefix, spareName)
	if n := len(numbers); n > 0 {
		k.number = numbers[n-1]
	}
	if c.unborn != nil {
		k.number++
		if err := l.fs.Rename(c.unborn.file, l.path(spareName(k.number))); err != nil {
			return fmt.Errorf("wal: take back an unused segment: %w", err)
		}
		numbers = append(numbers, k.number)
	}
	for _, n := range numbers {
		name := l.path(spareName(n))
		s, err := l.openSpare(name)
		if err != nil {
			return fmt.Errorf("wal: open a spare segment: %w", err)
		}
		if s == nil || len(k.spares) >= l.o.SpareSegments {
			if s != nil {
				_ = s.file.Close()
			}
			if err := l.fs.Remove(name); err != nil {
				return fmt.Errorf("wal: remove a spare segment: %w", err)
			}
			continue
		}
		k.spares = append(k.spares, s)
	}
	if err := l.fs.SyncDir(l.o.Dir); err != nil {
		return fmt.Errorf("wal: sync the directory %s: %w", l.o.Dir, err)
	}
	return nil
}

// openSpare returns nil if the file has not the size of a segment.
func (l *Log) openSpare(name string) (*spare, error) {
	f, err := l.fs.OpenWrite(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size == l.o.SegmentBytes {
		if err = f.Sync(); err == nil {
			return &spare{path: name, file: f, sizeBytes: size}, nil
		}
	}
	_ = f.Close()
	return nil, err
}
