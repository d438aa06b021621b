package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"millrace/internal/wal/vfs"
)

const (
	segmentPrefix = "segment-"
	sparePrefix   = "spare-"
	quarantineDir = "quarantine"
)

func segmentName(generation uint64) string { return fmt.Sprintf("%s%012d", segmentPrefix, generation) }
func spareName(n uint64) string            { return fmt.Sprintf("%s%012d", sparePrefix, n) }

// numberedNames returns the numbers of the names that are prefix and a number, in
// order. Other names are no part of the log.
func numberedNames(names []string, prefix string, name func(uint64) string) []uint64 {
	var numbers []uint64
	for _, s := range names {
		digits, ok := strings.CutPrefix(s, prefix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err == nil && n > 0 && name(n) == s {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// mark says that the frames up to a sequence took so many bytes. It lets the log
// turn a released sequence into bytes without remembering every frame.
type mark struct {
	next  uint64 // one past the last sequence
	bytes int64  // cumulative
}

// markBytes is how far apart marks are at least; it bounds their number.
const markBytes = 64 << 10

// addMark notes that the frames up to a sequence take so many bytes in all. It
// merges neighbours so that marks are no closer than they need be; start is where
// the first mark begins to count.
func addMark(marks []mark, start int64, m mark) []mark {
	n := len(marks)
	if n > 1 {
		start = marks[n-2].bytes
	}
	if n > 0 && m.bytes-start <= markBytes {
		marks[n-1] = m
		return marks
	}
	return append(marks, m)
}

// segmentScan is what a segment file was found to hold.
type segmentScan struct {
	generation uint64
	file       string // path
	sizeBytes  int64

	frames        int // of any kind
	records       uint64
	first, next   uint64 // sequences [first, next), if frames > 0
	dataBytes     int64
	firstReceived int64
	lastReceived  int64
	marks         []mark
	gaps          []Gap

	lastOffset int64 // of the last intact frame
	end        int64 // offset after the last intact frame
	lastKind   frameKind
	following  uint64 // generation named by the seal, if lastKind is frameSeal

	// What stands at end if the segment is not sealed.
	badReason string
	torn      bool   // a header of this generation is there, or a checksum fails: a frame was begun
	later     int64  // offset of a later frame header, -1 if none
	laterNext uint64 // its first sequence
}

func (s *segmentScan) sealed() bool { return s.frames > 0 && s.lastKind == frameSeal }

// scanSegment reads a segment from its beginning to its seal, or to the first
// place where no frame is, and then on to its end in search of a later frame.
func scanSegment(ctx context.Context, fsys vfs.FS, dir string, generation uint64, id ID) (*segmentScan, error) {
	s := &segmentScan{generation: generation, file: path.Join(dir, segmentName(generation)), later: -1}
	f, err := fsys.Open(s.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s.sizeBytes, err = f.Size(); err != nil {
		return nil, err
	}
	var w window
	w.reset(f, s.sizeBytes)
	for !s.sealed() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, payload, err := w.frameAt(s.end, id, generation)
		if err == nil && s.frames > 0 && h.first != s.next {
			err = badFrame(fmt.Sprintf("the frame begins with record %d instead of %d", h.first, s.next))
		}
		var bad badFrame
		if errors.As(err, &bad) {
			s.badReason = string(bad)
			s.torn = h.id == id && h.generation == generation
			s.later, h, err = w.findHeader(s.end+1, func(h header) bool { return h.id == id && h.generation == generation })
			s.laterNext = h.first
			if err != nil {
				return nil, fmt.Errorf("wal: read %s: %w", s.file, err)
			}
			if s.later >= 0 && w.frameArrived(f, s, id) {
				s.badReason, s.torn, s.later, s.laterNext = "", false, -1, 0
				continue
			}
			break
		}
		if err != nil {
			return nil, fmt.Errorf("wal: read %s at offset %d: %w", s.file, s.end, err)
		}
		s.add(h, payload)
	}
	return s, nil
}

// frameArrived reports whether a frame stands where the scan found none. If a
// server writes meanwhile, one may be there by the time a later one is found: a
// frame is only begun when the one before is durable.
func (w *window) frameArrived(f vfs.File, s *segmentScan, id ID) bool {
	w.reset(f, s.sizeBytes)
	h, _, err := w.frameAt(s.end, id, s.generation)
	return err == nil && (s.frames == 0 || h.first == s.next)
}

func (s *segmentScan) add(h header, payload []byte) {
	if s.frames == 0 {
		s.first, s.firstReceived = h.first, h.received
	}
	s.frames++
	s.next, s.lastReceived = h.next(), h.received
	s.lastOffset, s.lastKind = s.end, h.kind
	s.end += h.bytes()
	switch h.kind {
	case frameData:
		s.records += h.count
		s.dataBytes += h.bytes()
		s.marks = addMark(s.marks, 0, mark{h.next(), s.dataBytes})
	case frameGap:
		s.gaps = append(s.gaps, Gap{From: h.first, UpTo: h.next()})
	case frameSeal:
		s.following = leUint64(payload)
	}
}

// scanSegments scans segments in parallel and returns the results in order. If
// they may vanish, those that did are nil.
func scanSegments(ctx context.Context, fsys vfs.FS, dir string, generations []uint64, id ID, mayVanish bool) ([]*segmentScan, error) {
	scans := make([]*segmentScan, len(generations))
	errs := make([]error, len(generations))
	work := make(chan int, len(generations))
	for i := range generations {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(generations)) {
		wg.Go(func() {
			for i := range work {
				scans[i], errs[i] = scanSegment(ctx, fsys, dir, generations[i], id)
				if mayVanish && errors.Is(errs[i], fs.ErrNotExist) {
					errs[i] = nil
				}
			}
		})
	}
	wg.Wait()
	return scans, errors.Join(errs...)
}

// chain is a log's segments, checked against each other.
type chain struct {
	scans []*segmentScan
	// unborn is the last segment if it got its name and nothing else before a
	// crash; it is not in scans.
	unborn *segmentScan
	// younger are the generations that were named while the scan was running: what
	// is in them is not known.
	younger []uint64
	damage  []*DamageError
}

// tail is the segment appends go to.
func (c *chain) tail() *segmentScan { return c.scans[len(c.scans)-1] }

// checkChain finds what is wrong between and within segments. There is at least
// one; younger are generations that exist and were not scanned, newer than all.
func checkChain(dir string, scans []*segmentScan, younger []uint64) *chain {
	c := &chain{scans: scans, younger: younger}
	if n := len(scans); n > 1 {
		last, before := scans[n-1], scans[n-2]
		if !before.sealed() && before.later < 0 && last.frames == 0 && last.later < 0 {
			// The name was made, the seal before it was not: nothing was written
			// here, and the segment before goes on.
			c.scans, c.unborn = scans[:n-1], last
		}
	}
	for i, s := range c.scans {
		var after *segmentScan
		if i+1 < len(c.scans) {
			after = c.scans[i+1]
		}
		c.checkSegment(dir, s, after)
	}
	if first := c.scans[0]; first.frames == 0 && first.later < 0 && first.generation > 1 && len(c.scans) == 1 {
		c.add(&DamageError{File: first.file, Reason: "the segment is empty and those before it are missing, so the next sequence is not known"})
	}
	return c
}

func (c *chain) add(d *DamageError) { c.damage = append(c.damage, d) }

func (c *chain) checkSegment(dir string, s, after *segmentScan) {
	var firstLost, intact uint64
	if s.frames > 0 {
		firstLost = s.next
	}
	if after != nil && after.frames > 0 {
		intact = after.first
	}
	switch {
	case s.later >= 0:
		c.add(&DamageError{File: s.file, Offset: s.end, FirstLost: firstLost, NextIntact: s.laterNext,
			Reason: fmt.Sprintf("%s, but an intact frame follows at offset %d", s.badReason, s.later)})
	case !s.sealed() && after != nil:
		c.add(&DamageError{File: s.file, Offset: s.end, FirstLost: firstLost, NextIntact: intact,
			Reason: fmt.Sprintf("%s, but a later segment exists", s.badReason)})
	case s.sealed() && after == nil:
		if slices.Contains(c.younger, s.following) {
			return
		}
		c.add(&DamageError{File: path.Join(dir, segmentName(s.following)), FirstLost: firstLost,
			Reason: "the file is missing, the segment before it says that it exists"})
	case s.sealed() && s.following != after.generation:
		c.add(&DamageError{File: path.Join(dir, segmentName(s.following)), FirstLost: firstLost, NextIntact: intact,
			Reason: "the file is missing, the segment before it says that it exists"})
	case s.sealed() && after.frames > 0 && after.first != s.next:
		c.add(&DamageError{File: after.file, FirstLost: firstLost, NextIntact: intact,
			Reason: fmt.Sprintf("the segment begins with record %d instead of %d", after.first, s.next)})
	}
}
