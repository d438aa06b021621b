package wal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"millrace/internal/wal/vfs"
)

// Gap is a range of sequences [From, UpTo) that are lost.
type Gap struct {
	From, UpTo uint64
	// Open says that it is not known how many of these records there were, if
	// any: the log goes on at UpTo to be safe. Only Repair sets it.
	Open bool `json:",omitempty"`
}

func (g Gap) String() string {
	if g.Open {
		return fmt.Sprintf("records from %d on, how many is not known (the log goes on with %d)", g.From, g.UpTo)
	}
	return fmt.Sprintf("records %d to %d", g.From, g.UpTo-1)
}

// Report is what Inspect found.
type Report struct {
	// ID is the log's id in hexadecimal; without a readable meta file it is taken
	// from the frames, and empty if there are none.
	ID string
	// First and Next are the first retained sequence and one past the last; both 0
	// if there is no readable frame.
	First, Next uint64
	// Bytes is what the data frames take on disk.
	Bytes int64
	// Segments are in order of generation.
	Segments []SegmentReport
	// SpareFiles are the segment files kept ready for use.
	SpareFiles []string
	// Gaps are sequences lost to earlier, repaired damage.
	Gaps []Gap
	// Closed says that the log was closed cleanly.
	Closed bool
	// Torn says that the log ends in an incomplete frame: one that was being
	// written at a crash, or is being written now. The next start cuts it off.
	Torn bool
	// Damage is what keeps the log from opening.
	Damage []*DamageError
}

// SegmentReport describes one segment file.
type SegmentReport struct {
	File       string
	Generation uint64
	SizeBytes  int64
	// UsedBytes is where the last intact frame ends.
	UsedBytes int64
	Frames    int
	Records   uint64
	// First and Next are sequences: the segment holds [First, Next).
	First, Next uint64
	// FirstReceived and LastReceived are the times of receipt of the first and
	// the last frame.
	FirstReceived, LastReceived time.Time
	// Sealed says that the segment is complete and another one follows.
	Sealed bool
}

// inspectAttempts bounds how often Inspect looks again, when a running server
// changes the log under its eyes.
const inspectAttempts = 20

// errChanging says that a look at the log came to nothing because of a server.
var errChanging = errors.New("the log changes faster than it can be read, try again")

// Inspect reads a log and says what is in it. It changes nothing, and works on a
// damaged log and beside a running server, which it shows as it was at one moment.
// The error is not about damage, which the report lists, but about not being able
// to read.
func Inspect(fsys vfs.FS, dir string) (Report, error) {
	var before string
	for range inspectAttempts {
		v, err := view(context.Background(), fsys, dir)
		if errors.Is(err, errChanging) || errors.Is(err, fs.ErrNotExist) {
			if v == nil { // there is no log at all
				return Report{}, err
			}
			continue
		}
		if err != nil {
			return Report{}, err
		}
		r := v.report()
		// What a server was changing could look like damage. Real damage stays.
		seen := fmt.Sprintf("%q", r.Damage)
		if len(r.Damage) == 0 || seen == before {
			return r, nil
		}
		before = seen
	}
	return Report{}, fmt.Errorf("wal: inspect %s: %w", dir, errChanging)
}

// logView is a log as it was found.
type logView struct {
	dir     string
	names   []string
	id      ID
	hasID   bool
	hasMeta bool
	chain   *chain // nil if there are no segments
	damage  []*DamageError
}

// view looks at a log once. With errChanging or fs.ErrNotExist and a view, a server
// took away what was being read; without a view there is no log.
func view(ctx context.Context, fsys vfs.FS, dir string) (*logView, error) {
	v := &logView{dir: path.Clean(dir)}
	var err error
	if v.names, err = fsys.List(v.dir); err != nil {
		return nil, fmt.Errorf("wal: list the log's directory: %w", err)
	}
	generations := numberedNames(v.names, segmentPrefix, segmentName)
	var damage *DamageError
	v.id, v.hasMeta, err = readMeta(fsys, v.dir)
	switch {
	case errors.As(err, &damage):
		v.damage = append(v.damage, damage)
		v.hasMeta = false
	case err != nil:
		return nil, err
	case !v.hasMeta && len(generations) == 0:
		return nil, fmt.Errorf("wal: there is no log in %s: %w", v.dir, fs.ErrNotExist)
	case !v.hasMeta:
		v.damage = append(v.damage, &DamageError{File: path.Join(v.dir, metaName), Reason: "the file is missing, but segment files exist"})
	case len(generations) == 0:
		v.damage = append(v.damage, &DamageError{File: path.Join(v.dir, segmentPrefix+"*"), Reason: "all segment files are missing"})
	}
	v.hasID = v.hasMeta
	if !v.hasID {
		if v.id, v.hasID, err = idFromFrames(fsys, v.dir, generations); err != nil {
			return v, err
		}
	}
	if len(generations) == 0 {
		return v, nil
	}
	scans, younger, err := v.scanLive(ctx, fsys, generations)
	if err != nil {
		return v, err
	}
	v.chain = checkChain(v.dir, scans, younger)
	v.damage = append(v.damage, v.chain.damage...)
	return v, nil
}

// scanLive scans segments that a server may be changing, and lists the directory
// again: a segment that is not listed any more was given back, and may have been
// overwritten while it was read, so it is left out. Segments that are listed now
// and were not before are younger: the view ends before them.
func (v *logView) scanLive(ctx context.Context, fsys vfs.FS, generations []uint64) (scans []*segmentScan, younger []uint64, err error) {
	found, err := scanSegments(ctx, fsys, v.dir, generations, v.id, true)
	if err != nil {
		return nil, nil, err
	}
	// A segment is sealed before the next one gets its first frame. One that was
	// read before its seal, when the next was read after, is read again.
	for i, s := range found[:len(found)-1] {
		if s != nil && !s.sealed() {
			again, err := scanSegments(ctx, fsys, v.dir, generations[i:i+1], v.id, true)
			if err != nil {
				return nil, nil, err
			}
			found[i] = again[0]
		}
	}
	if v.names, err = fsys.List(v.dir); err != nil {
		return nil, nil, fmt.Errorf("wal: list the log's directory: %w", err)
	}
	listed := numberedNames(v.names, segmentPrefix, segmentName)
	newest := generations[len(generations)-1]
	for _, g := range listed {
		i, ok := slices.BinarySearch(generations, g)
		switch {
		case ok && found[i] != nil:
			scans = append(scans, found[i])
		case g > newest:
			younger = append(younger, g)
		}
	}
	if len(scans) == 0 {
		return nil, nil, errChanging
	}
	return scans, younger, nil
}

// idFromFrames finds the id the frames carry. Two ids are an error: then nobody
// but the operator can say which segments belong together.
func idFromFrames(fsys vfs.FS, dir string, generations []uint64) (id ID, found bool, err error) {
	for _, g := range generations {
		name := path.Join(dir, segmentName(g))
		h, ok, err := firstHeader(fsys, name)
		switch {
		case err != nil:
			return id, false, fmt.Errorf("wal: read %s: %w", name, err)
		case ok && found && h.id != id:
			return id, false, fmt.Errorf("wal: %s belongs to log %x, a segment before it to log %x: move the segments of one of them away", name, h.id, id)
		case ok:
			id, found = h.id, true
		}
	}
	return id, found, nil
}

func firstHeader(fsys vfs.FS, name string) (h header, found bool, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return h, false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return h, false, err
	}
	var w window
	w.reset(f, size)
	at, h, err := w.findHeader(0, func(header) bool { return true })
	return h, at >= 0, err
}

func (v *logView) report() Report {
	r := Report{Damage: v.damage}
	if v.hasID {
		r.ID = hex.EncodeToString(v.id[:])
	}
	for _, n := range numberedNames(v.names, sparePrefix, spareName) {
		r.SpareFiles = append(r.SpareFiles, path.Join(v.dir, spareName(n)))
	}
	if v.chain == nil {
		return r
	}
	for _, s := range v.chain.scans {
		sr := SegmentReport{File: s.file, Generation: s.generation, SizeBytes: s.sizeBytes, UsedBytes: s.end,
			Frames: s.frames, Records: s.records, First: s.first, Next: s.next, Sealed: s.sealed()}
		if s.frames > 0 {
			sr.FirstReceived = time.Unix(0, s.firstReceived).UTC()
			sr.LastReceived = time.Unix(0, s.lastReceived).UTC()
			if r.First == 0 {
				r.First = s.first
			}
			r.Next = s.next
		}
		r.Segments = append(r.Segments, sr)
		r.Bytes += s.dataBytes
		r.Gaps = append(r.Gaps, s.gaps...)
	}
	tail := v.chain.tail()
	r.Closed = tail.frames > 0 && tail.lastKind == frameClose && tail.later < 0
	r.Torn = tail.torn && tail.later < 0
	if tail.frames == 0 && r.Next == 0 && tail.generation == 1 && len(r.Damage) == 0 {
		r.First, r.Next = 1, 1
	}
	return r
}
