package wal

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"millrace/internal/wal/vfs"
)

// RepairOptions say how to repair.
type RepairOptions struct {
	// DryRun makes the plan and changes nothing.
	DryRun bool
	// StorePosition is the first sequence the reader's store does not have, 0 if
	// not known. Give it if it can be known: the repaired log then reaches from
	// there on, and goes on no earlier than there.
	StorePosition uint64
	// Now dates the report, time.Now by default.
	Now func() time.Time
}

// RepairReport says what a repair does, or would do.
type RepairReport struct {
	// Damage is what was found.
	Damage []*DamageError
	// Steps are the changes, in words, in order. Empty means that nothing needs
	// to be done.
	Steps []string
	// Lost are the sequences that cannot be read any more.
	Lost []Gap
	// Quarantined are the copies of what was changed or taken out.
	Quarantined []string
	// First and Next are the log's bounds afterwards.
	First, Next uint64
}

// unknownLoss is how far sequences jump if nobody can say how many were lost: more
// records than the missing segments can have held.
const unknownLoss = 1 << 32

// Repair makes a damaged log usable: whatever it changes or takes out is first
// copied to the quarantine folder in the log's directory, damaged segments are
// rebuilt from their intact frames, and each lost range of sequences is recorded
// in the log as a gap. A reader crosses a gap silently: the next Frame's FirstSeq
// is larger than the end of the frame before.
//
// No other process may use the log meanwhile. After a crash, run it again.
func Repair(fsys vfs.FS, dir string, o RepairOptions) (RepairReport, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	v, err := view(context.Background(), fsys, dir)
	if err != nil {
		return RepairReport{}, err
	}
	if !v.hasID {
		return RepairReport{Damage: v.damage}, fmt.Errorf("wal: neither the meta file nor a frame in %s tells the log's id, "+
			"so there is nothing to repair: move the directory away and start with a new log", v.dir)
	}
	p, err := makePlan(fsys, v, o)
	if err != nil {
		return RepairReport{Damage: v.damage}, err
	}
	if o.DryRun || len(p.report.Steps) == 0 {
		return p.report, nil
	}
	return p.report, p.execute(fsys, o)
}

// plan is the log as it will be.
type plan struct {
	v         *logView
	segments  []*plannedSegment
	meta      bool // a meta file is to be written
	spares    []string
	remove    []string // segments without an intact frame
	report    RepairReport
	stamp     string // makes names in the quarantine unique
	lastSeen  int64  // time of receipt of the newest frame so far
	nextKnown bool
	next      uint64
}

// plannedSegment is a segment as it will be: intact frames of a file, and gaps.
type plannedSegment struct {
	generation uint64
	file       string
	exists     bool
	sizeBytes  int64
	frames     []plannedFrame
	following  uint64 // generation its seal will name, 0 for the last segment
	changed    bool
}

// plannedFrame is a frame to be copied from the old file, or a gap.
type plannedFrame struct {
	header
	offset int64 // in the old file; not used for gaps that are new
	isNew  bool
}

func makePlan(fsys vfs.FS, v *logView, o RepairOptions) (*plan, error) {
	p := &plan{v: v, stamp: o.Now().UTC().Format("20060102T150405.000000000Z")}
	p.report.Damage = v.damage
	if !v.hasMeta {
		p.meta = true
		p.step("write a new meta file with the log's id %s", hex.EncodeToString(v.id[:]))
	}
	if o.StorePosition > 0 {
		// Everything from here on must be in the log or in a gap.
		p.next, p.nextKnown = o.StorePosition, true
	}
	first := true
	var last *segmentScan
	if v.chain != nil {
		last = v.chain.tail()
		for _, s := range v.chain.scans {
			ps, err := salvage(fsys, s, v.id)
			if err != nil {
				return nil, err
			}
			if len(ps.frames) > 0 && first {
				first = false
				if !p.nextKnown || p.next >= ps.frames[0].first {
					p.next, p.nextKnown = ps.frames[0].first, true
				}
			}
			p.addSegment(ps, s == last)
		}
	}
	p.endPlan(last, o)
	if len(p.report.Damage) > 0 {
		// A spare may hold frames of a segment whose name was lost.
		for _, n := range numberedNames(v.names, sparePrefix, spareName) {
			p.spares = append(p.spares, path.Join(v.dir, spareName(n)))
			p.step("put the spare segment %s aside", spareName(n))
		}
	}
	return p, nil
}

func (p *plan) step(format string, args ...any) {
	p.report.Steps = append(p.report.Steps, fmt.Sprintf(format, args...))
}

// salvage finds the intact frames of a segment, wherever they are.
func salvage(fsys vfs.FS, s *segmentScan, id ID) (*plannedSegment, error) {
	ps := &plannedSegment{generation: s.generation, file: s.file, exists: true, sizeBytes: s.sizeBytes}
	f, err := fsys.Open(s.file)
	if err != nil {
		return nil, fmt.Errorf("wal: open a segment for repair: %w", err)
	}
	defer f.Close()
	var w window
	w.reset(f, s.sizeBytes)
	for off, next := int64(0), uint64(0); ; {
		h, payload, err := w.frameAt(off, id, s.generation)
		if err == nil && h.first < next {
			err = badFrame("the frame repeats older records")
		}
		var bad badFrame
		if errors.As(err, &bad) {
			off, _, err = w.findHeader(off+1, func(h header) bool { return h.id == id && h.generation == s.generation })
			if err == nil && off < 0 {
				return ps, nil
			}
			ps.changed = true // bytes that are no frame stand before the next frame
		}
		if err != nil {
			return nil, fmt.Errorf("wal: read %s: %w", s.file, err)
		}
		if bad != "" {
			continue
		}
		if h.kind == frameSeal {
			ps.following = leUint64(payload)
			return ps, nil
		}
		if h.kind == frameData || h.kind == frameGap {
			ps.frames = append(ps.frames, plannedFrame{header: h, offset: off})
		}
		next = h.next()
		off += h.bytes()
	}
}

// addSegment appends a salvaged segment to the plan, with gaps where sequences are
// missing.
func (p *plan) addSegment(ps *plannedSegment, isLast bool) {
	if len(ps.frames) == 0 && !isLast {
		p.remove = append(p.remove, ps.file)
		p.step("take %s out, it has no intact record", path.Base(ps.file))
		return
	}
	var frames []plannedFrame
	for _, f := range ps.frames {
		switch {
		case f.first > p.next:
			frames = append(frames, p.gap(p.next, f.first, false))
			ps.changed = true
		case f.first < p.next:
			ps.changed = true // a copy of what came before
			continue
		}
		frames = append(frames, f)
		p.next, p.lastSeen = f.next(), f.received
	}
	ps.frames = frames
	if n := len(p.segments); n > 0 {
		before := p.segments[n-1]
		before.changed = before.changed || before.following != ps.generation
		before.following = ps.generation
	}
	p.segments = append(p.segments, ps)
}

func (p *plan) gap(from, upTo uint64, open bool) plannedFrame {
	p.report.Lost = append(p.report.Lost, Gap{From: from, UpTo: upTo, Open: open})
	return plannedFrame{header: header{kind: frameGap, first: from, count: upTo - from, received: p.lastSeen}, isNew: true}
}

// endPlan sees to the end of the last segment: where the log goes on.
func (p *plan) endPlan(last *segmentScan, o RepairOptions) {
	if len(p.segments) == 0 {
		p.segments = append(p.segments, &plannedSegment{generation: 1, file: path.Join(p.v.dir, segmentName(1)), changed: true})
	}
	tail := p.segments[len(p.segments)-1]
	// Records are missing at the end if the last segment names another, or if not
	// one frame tells the next sequence, other than in a log just born.
	empty := len(p.segments) == 1 && len(tail.frames) == 0 && (last == nil || last.frames == 0)
	missing := tail.following != 0 || (empty && len(p.v.damage) > 0)
	tail.changed = tail.changed || tail.following != 0
	tail.following = 0
	from := max(p.next, 1)
	if empty {
		from = 1
	}
	if last != nil && last.frames > 0 {
		from = max(from, last.next) // a close frame may stand behind lost records
	}
	if !p.nextKnown {
		p.next = from
	}
	upTo := max(from, o.StorePosition)
	if missing && o.StorePosition == 0 {
		upTo = from + unknownLoss
	}
	if start := min(from, max(p.next, 1)); upTo > start && (!empty || missing || o.StorePosition > 1) {
		if empty {
			start = 1
		}
		tail.frames = append(tail.frames, p.gap(start, upTo, missing))
		tail.changed = true
	}
	p.next = max(upTo, p.next)
	for _, s := range p.segments {
		if s.changed {
			p.step("copy %s to the quarantine and rebuild it from its %d intact frames", path.Base(s.file), len(s.frames))
		}
	}
	for _, g := range p.report.Lost {
		p.step("note in the log that it has lost %v", g)
	}
	p.report.Next = p.next
	p.report.First = p.next
	for _, s := range p.segments {
		if len(s.frames) > 0 {
			p.report.First = s.frames[0].first
			break
		}
	}
}

// execute carries the plan out. Every change is atomic and leaves a log that is
// either repaired or can be repaired again without a further loss.
func (p *plan) execute(fsys vfs.FS, o RepairOptions) error {
	quarantine := path.Join(p.v.dir, quarantineDir)
	if err := makeDir(fsys, quarantine); err != nil {
		return fmt.Errorf("wal: make the quarantine: %w", err)
	}
	if p.meta {
		if err := p.keepMeta(fsys); err != nil {
			return err
		}
		if err := writeMeta(fsys, p.v.dir, p.v.id, o.Now()); err != nil {
			return err
		}
	}
	for _, s := range p.segments {
		if !s.changed {
			continue
		}
		if s.exists {
			if err := p.quarantine(fsys, s.file); err != nil {
				return err
			}
		}
		if err := p.rebuild(fsys, s); err != nil {
			return fmt.Errorf("wal: rebuild %s: %w", s.file, err)
		}
	}
	for _, name := range append(p.remove, p.spares...) {
		err := p.quarantine(fsys, name)
		if err == nil {
			err = fsys.Remove(name)
		}
		if err == nil {
			err = fsys.SyncDir(p.v.dir)
		}
		if err != nil {
			return fmt.Errorf("wal: take %s out: %w", name, err)
		}
	}
	b, err := json.MarshalIndent(p.report, "", "  ")
	if err != nil {
		return err
	}
	return writeFileDurably(fsys, quarantine, "report.new", "report-"+p.stamp+".json", append(b, '\n'))
}

func (p *plan) keepMeta(fsys vfs.FS) error {
	err := p.quarantine(fsys, path.Join(p.v.dir, metaName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// quarantine copies a file to the quarantine, durably.
func (p *plan) quarantine(fsys vfs.FS, name string) error {
	from, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("wal: quarantine %s: %w", name, err)
	}
	defer from.Close()
	size, err := from.Size()
	if err != nil {
		return fmt.Errorf("wal: quarantine %s: %w", name, err)
	}
	dir := path.Join(p.v.dir, quarantineDir)
	copyName := path.Join(dir, path.Base(name)+"-"+p.stamp)
	to, err := fsys.Create(copyName)
	if err != nil {
		return fmt.Errorf("wal: quarantine %s: %w", name, err)
	}
	buf := make([]byte, readAheadBytes)
	for off := int64(0); off < size && err == nil; off += int64(len(buf)) {
		piece := buf[:min(int64(len(buf)), size-off)]
		if _, err = readFull(from, piece, off); err == nil {
			_, err = to.WriteAt(piece, off)
		}
	}
	if err == nil {
		err = to.Sync()
	}
	if closeErr := to.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("wal: quarantine %s: %w", name, err)
	}
	p.report.Quarantined = append(p.report.Quarantined, copyName)
	return nil
}

// rebuild writes a segment as planned under a temporary name and puts it in place.
func (p *plan) rebuild(fsys vfs.FS, s *plannedSegment) error {
	var old vfs.File
	if s.exists {
		var err error
		if old, err = fsys.Open(s.file); err != nil {
			return err
		}
		defer old.Close()
	}
	temp := path.Join(p.v.dir, "repair.new")
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	err = p.writeSegment(f, old, s)
	if err == nil {
		err = f.Allocate(s.sizeBytes)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fsys.Rename(temp, s.file)
	}
	if err == nil {
		err = fsys.SyncDir(p.v.dir)
	}
	return err
}

func (p *plan) writeSegment(to, old vfs.File, s *plannedSegment) error {
	var off int64
	put := func(b []byte) error {
		_, err := to.WriteAt(b, off)
		off += int64(len(b))
		return err
	}
	next, received := p.next, p.lastSeen
	for _, f := range s.frames {
		b := bareFrame(frameGap, p.v.id, s.generation, f.first, f.count, f.received)
		if !f.isNew {
			b = make([]byte, f.bytes())
			// The filling of the very last frame may be cut off.
			if n, err := old.ReadAt(b, f.offset); int64(n) < headerBytes+int64(f.payload) {
				return errors.Join(errors.New("an intact frame cannot be read again"), err)
			}
			if h, err := decodeHeader(b); err != nil || h != f.header || !bytes.Equal(b[:8], []byte(magic)) {
				return errors.New("a frame has changed while the repair was running")
			}
		}
		if err := put(b); err != nil {
			return err
		}
		next, received = f.next(), f.received
	}
	if s.following == 0 {
		return nil
	}
	return put(sealFrame(p.v.id, s.generation, next, s.following, received))
}
