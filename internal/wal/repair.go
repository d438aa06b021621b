package wal

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
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
	v             *logView
	storePosition uint64
	stamp         string // makes names in the quarantine unique
	writeMeta     bool
	segments      []*plannedSegment
	remove        []string // files to be taken out
	report        RepairReport

	// While the plan is made: where it has got to.
	anchored bool   // next is known
	next     uint64 // sequence that comes next
	received int64  // time of receipt of the newest frame
}

// plannedSegment is a segment as it will be: intact frames of a file, and gaps.
type plannedSegment struct {
	generation uint64
	file       string
	exists     bool
	sizeBytes  int64
	frames     []plannedFrame
	following  uint64 // generation its seal names, 0 without a seal
	endsAt     uint64 // where its seal or closing frame says that it ends, or 0
	next       uint64 // sequence that comes after it, as planned
	changed    bool
}

// plannedFrame is a frame to be copied from the old file, or a new gap.
type plannedFrame struct {
	header
	offset int64 // in the old file
	isNew  bool
}

func makePlan(fsys vfs.FS, v *logView, o RepairOptions) (*plan, error) {
	p := &plan{v: v, storePosition: o.StorePosition, stamp: o.Now().UTC().Format("20060102T150405.000000000Z")}
	p.report.Damage = v.damage
	if !v.hasMeta {
		p.writeMeta = true
		p.step("write a new meta file with the log's id %s", hex.EncodeToString(v.id[:]))
	}
	if v.chain != nil {
		for i, s := range v.chain.scans {
			ps, err := salvage(fsys, s, v.id)
			if err != nil {
				return nil, err
			}
			p.addSegment(ps, i == len(v.chain.scans)-1)
		}
	}
	p.planEnd()
	if len(p.report.Steps) > 0 || slices.ContainsFunc(p.segments, func(s *plannedSegment) bool { return s.changed }) {
		// A spare may hold frames of a segment whose name was lost, or of a life of
		// the log after the copy that was brought back.
		for _, n := range numberedNames(v.names, sparePrefix, spareName) {
			p.takeOut(path.Join(v.dir, spareName(n)), "it may hold stray frames")
		}
	}
	for _, s := range p.segments {
		if s.changed && s.exists {
			p.step("copy %s to the quarantine and rebuild it from its intact frames", path.Base(s.file))
		} else if s.changed {
			p.step("make %s", path.Base(s.file))
		}
	}
	return p, nil
}

func (p *plan) step(format string, args ...any) {
	p.report.Steps = append(p.report.Steps, fmt.Sprintf(format, args...))
}

func (p *plan) takeOut(name, reason string) {
	p.remove = append(p.remove, name)
	p.step("move %s to the quarantine, %s", path.Base(name), reason)
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
	ours := func(h header) bool { return h.id == id && h.generation == s.generation }
	for off := int64(0); ps.following == 0; {
		h, payload, err := w.frameAt(off, id, s.generation)
		var bad badFrame
		if errors.As(err, &bad) {
			if off, _, err = w.findHeader(off+1, ours); err == nil && off < 0 {
				return ps, nil
			}
			ps.changed = true // something that is no frame stands before the next frame
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("wal: read %s: %w", s.file, err)
		}
		switch h.kind {
		case frameSeal:
			ps.following = leUint64(payload)
			ps.endsAt = max(ps.endsAt, h.first)
		case frameClose:
			ps.endsAt = max(ps.endsAt, h.first)
		default:
			ps.frames = append(ps.frames, plannedFrame{header: h, offset: off})
		}
		off += h.bytes()
	}
	return ps, nil
}

// addSegment appends a salvaged segment to the plan, with gaps where sequences are
// missing.
func (p *plan) addSegment(ps *plannedSegment, isLast bool) {
	if len(ps.frames) == 0 && ps.endsAt == 0 && !isLast {
		p.takeOut(ps.file, "it has no intact frame")
		return
	}
	salvaged := ps.frames
	ps.frames = nil
	for _, f := range salvaged {
		p.reach(ps, f.first)
		if f.first < p.next { // a copy of what came before
			ps.changed = true
			continue
		}
		ps.frames = append(ps.frames, f)
		p.next, p.received = f.next(), f.received
	}
	if ps.endsAt > 0 {
		p.reach(ps, ps.endsAt)
	}
	ps.next = p.next
	if n := len(p.segments); n > 0 {
		before := p.segments[n-1]
		before.changed = before.changed || before.following != ps.generation
		before.following = ps.generation
	}
	p.segments = append(p.segments, ps)
}

// reach puts a gap at the end of a segment if the sequence that comes next is not
// there yet. The first sequence there is may be later than where the store stands:
// then the log begins with a gap.
func (p *plan) reach(ps *plannedSegment, seq uint64) {
	if !p.anchored {
		p.anchored, p.next = true, seq
		if p.storePosition > 0 {
			p.next = min(seq, p.storePosition)
		}
	}
	if seq > p.next {
		p.addGap(ps, seq, false)
	}
}

// addGap ends a segment with a gap up to a sequence. What the store has is not
// reported as lost.
func (p *plan) addGap(ps *plannedSegment, upTo uint64, open bool) {
	if upTo > p.next {
		ps.frames = append(ps.frames, plannedFrame{isNew: true,
			header: header{kind: frameGap, first: p.next, count: upTo - p.next, received: p.received}})
		ps.changed = true
	}
	if lost := max(p.next, p.storePosition); lost < upTo || open {
		g := Gap{From: lost, UpTo: upTo, Open: open}
		p.report.Lost = append(p.report.Lost, g)
		p.step("note in the log that it has lost %v", g)
	}
	p.next = upTo
}

// planEnd decides where the log goes on.
func (p *plan) planEnd() {
	if len(p.segments) == 0 {
		p.segments = append(p.segments, &plannedSegment{generation: 1, file: path.Join(p.v.dir, segmentName(1)), changed: true})
	}
	tail := p.segments[len(p.segments)-1]
	// The end is missing if the last segment names another one, or if nothing at
	// all tells the next sequence of a log that is not new.
	missing := tail.following != 0 || (!p.anchored && len(p.v.damage) > 0)
	if tail.following != 0 {
		tail.following, tail.changed = 0, true
	}
	if !p.anchored {
		p.anchored, p.next = true, 1
	}
	upTo := max(p.next, p.storePosition)
	if missing && p.storePosition == 0 {
		upTo += unknownLoss
	}
	if missing || upTo > p.next {
		p.addGap(tail, upTo, missing)
	}
	tail.next = p.next
	p.report.First, p.report.Next = p.next, p.next
	for _, s := range p.segments {
		if len(s.frames) > 0 {
			p.report.First = s.frames[0].first
			return
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
	if p.writeMeta {
		if err := p.keepMeta(fsys); err != nil {
			return err
		}
		if err := writeMeta(fsys, p.v.dir, p.v.id, o.Now()); err != nil {
			return err
		}
	}
	// First what is in the way: once the segments are rebuilt, nothing tells any
	// more that a spare is not to be trusted.
	for _, name := range p.remove {
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
	if err == nil && s.sizeBytes > 0 {
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
	received := p.received
	for _, f := range s.frames {
		b := bareFrame(frameGap, p.v.id, s.generation, f.first, f.count, f.received)
		if !f.isNew {
			b = make([]byte, f.bytes())
			// The filling of the very last frame may be cut off.
			if n, err := old.ReadAt(b, f.offset); int64(n) < headerBytes+int64(f.payload) {
				return errors.Join(errors.New("an intact frame cannot be read again"), err)
			}
			if h, err := decodeHeader(b); err != nil || h != f.header {
				return errors.New("a frame has changed while the repair was running")
			}
		}
		if err := put(b); err != nil {
			return err
		}
		received = f.received
	}
	if s.following == 0 { // the log's end; it tells the next sequence even if nothing else does
		return put(bareFrame(frameClose, p.v.id, s.generation, s.next, 0, received))
	}
	return put(sealFrame(p.v.id, s.generation, s.next, s.following, received))
}
