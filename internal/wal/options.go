package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"time"

	"millrace/internal/wal/vfs"
)

// Options configure a Log. Zero values mean the defaults.
type Options struct {
	// Dir is the log's directory; it is made if missing. Required.
	Dir string
	// FS is the file system, vfs.OS by default.
	FS vfs.FS
	// SegmentBytes is the size of a segment file, 64 MiB by default. It must have
	// room for the largest frame. It may differ from one start to the next.
	SegmentBytes int64
	// SpareSegments bounds the segments kept ready for use, 4 by default.
	SpareSegments int
	// MaxBacklogBytes bounds what was appended and not yet released, in bytes on
	// disk, 4 GiB by default. What passed Admit before the bound was reached may
	// go beyond it by MaxQueuedBytes.
	MaxBacklogBytes int64
	// MaxQueuedBytes bounds the records in memory that wait for their commit, 64
	// MiB by default.
	MaxQueuedBytes int64
	// MaxFrameBytes bounds the records of one commit, 4 MiB by default. A larger
	// record has a frame of its own.
	MaxFrameBytes int64
	// MaxRecordBytes bounds one record, 8 MiB by default.
	MaxRecordBytes int64
	// ReserveBytes is the free disk space below which appends are refused, 256 MiB
	// by default; 1 means down to the last byte.
	ReserveBytes int64
	// NotBefore is the floor of the receipt clock: give the newest time of receipt
	// the store has, so that the clock does not go back even if the log is new.
	NotBefore time.Time
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Logger is where the log reports, discarding by default.
	Logger *slog.Logger
	// Metrics is optional.
	Metrics *Metrics
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("wal: Options.Dir is empty, name the log's directory")
	}
	o.Dir = path.Clean(o.Dir)
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	setDefault := func(v *int64, def int64) { // 0 means the default; negative is refused below
		if *v == 0 {
			*v = def
		}
	}
	setDefault(&o.SegmentBytes, 64<<20)
	setDefault(&o.MaxBacklogBytes, 4<<30)
	setDefault(&o.MaxQueuedBytes, 64<<20)
	setDefault(&o.MaxFrameBytes, min(4<<20, o.SegmentBytes/4))
	setDefault(&o.MaxRecordBytes, min(8<<20, o.SegmentBytes/4))
	setDefault(&o.ReserveBytes, 256<<20)
	if o.SpareSegments == 0 {
		o.SpareSegments = 4
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	for _, bound := range []struct {
		name  string
		value int64
	}{
		{"SegmentBytes", o.SegmentBytes}, {"MaxBacklogBytes", o.MaxBacklogBytes}, {"MaxQueuedBytes", o.MaxQueuedBytes},
		{"MaxFrameBytes", o.MaxFrameBytes}, {"MaxRecordBytes", o.MaxRecordBytes}, {"ReserveBytes", o.ReserveBytes},
		{"SpareSegments", int64(o.SpareSegments)},
	} {
		if bound.value < 1 {
			return o, fmt.Errorf("wal: Options.%s is %d, it must be at least 1", bound.name, bound.value)
		}
	}
	if o.SegmentBytes%sectorBytes != 0 {
		return o, fmt.Errorf("wal: Options.SegmentBytes is %d, it must be a multiple of %d", o.SegmentBytes, sectorBytes)
	}
	if o.MaxFrameBytes > math.MaxInt32 || o.MaxRecordBytes > math.MaxInt32 {
		return o, fmt.Errorf("wal: Options.MaxFrameBytes (%d) and MaxRecordBytes (%d) must be below 2 GiB", o.MaxFrameBytes, o.MaxRecordBytes)
	}
	largest := frameBytes(max(o.MaxFrameBytes, lengthBytes+o.MaxRecordBytes)) + sealBytes
	if largest > o.SegmentBytes {
		return o, fmt.Errorf("wal: Options.SegmentBytes is %d, a frame of MaxFrameBytes (%d) or MaxRecordBytes (%d) needs segments of at least %d",
			o.SegmentBytes, o.MaxFrameBytes, o.MaxRecordBytes, largest)
	}
	return o, nil
}

// sealBytes is kept free at the end of a segment. frameBytes is not a constant
// expression; a test compares the two.
const sealBytes = sectorBytes
