package wal

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"
)

// Frame is one commit: records that became durable together.
type Frame struct {
	// FirstSeq is the sequence of the first record. It is larger than the end of
	// the frame before only where a repaired log has lost records.
	FirstSeq uint64
	// ReceivedAt is the records' time of receipt, in UTC.
	ReceivedAt time.Time
	// Records alias the reader's buffer: they are valid until its next call.
	Records [][]byte
	// Bytes is the frame's size on disk.
	Bytes int64
}

// Next returns one past the sequence of the last record.
func (f Frame) Next() uint64 { return f.FirstSeq + uint64(len(f.Records)) }

// Frames is what a Reader does, for logs of other kinds to do as well.
type Frames interface {
	// Next returns the next frame and waits for it if need be.
	Next(ctx context.Context) (Frame, error)
	// TryNext returns the next frame if there is one.
	TryNext() (Frame, bool, error)
	Close() error
}

var _ Frames = (*Reader)(nil)

// ReadFrames is NewReader, for those who read logs of several kinds.
func (l *Log) ReadFrames(from uint64) (Frames, error) {
	r, err := l.NewReader(from)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Reader reads durable frames in order. It belongs to one goroutine.
type Reader struct {
	l       *Log
	wake    chan struct{}
	seg     *segment
	w       window
	off     int64  // of the next frame
	next    uint64 // sequence of the next record to return
	records [][]byte
	closed  bool
}

// NewReader returns a reader whose first frame begins with the record from, or
// later if that one was lost to a repaired damage. The error is ErrPosition if
// from is not between First and Next.
func (l *Log) NewReader(from uint64) (*Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first, next := l.firstLocked(), l.next.Load(); from < first || from > next {
		return nil, fmt.Errorf("%w: %d is not between the first retained record %d and the log's end %d", ErrPosition, from, first, next)
	}
	// The last segment that has a frame and begins at or before from.
	i := sort.Search(len(l.segments), func(i int) bool {
		return l.segments[i].end == 0 || l.segments[i].first > from
	})
	r := &Reader{l: l, wake: make(chan struct{}, 1), next: from}
	if err := r.enter(l.segments[max(i-1, 0)]); err != nil {
		return nil, err
	}
	l.readers[r] = struct{}{}
	return r, nil
}

// enter opens a segment and leaves the one before. The caller holds l.mu.
func (r *Reader) enter(s *segment) error {
	f, err := r.l.fs.Open(s.file)
	if err != nil {
		return fmt.Errorf("wal: open a segment for reading: %w", err)
	}
	r.leave()
	s.readers++
	r.seg, r.off = s, 0
	r.w.reset(f, 0)
	return nil
}

// leave closes the segment the reader is in. The caller holds l.mu.
func (r *Reader) leave() {
	if r.seg == nil {
		return
	}
	r.seg.readers--
	r.seg = nil
	_ = r.w.file.Close() // opened for reading only
}

// Next returns the next frame and waits for it if need be. It ends with ctx's
// error, with ErrClosed at the end of a closed log, with the log's error at the
// end of a failed one, and with a *DamageError where the log cannot be read.
func (r *Reader) Next(ctx context.Context) (Frame, error) {
	for {
		f, ok, err := r.TryNext()
		if ok || err != nil {
			return f, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Frame{}, context.Cause(ctx)
		}
	}
}

// TryNext returns the next frame if there is one. Its errors are those of Next.
func (r *Reader) TryNext() (Frame, bool, error) {
	if r.closed {
		return Frame{}, false, fmt.Errorf("%w: the reader was closed", ErrClosed)
	}
	for {
		more, err := r.advance()
		if err != nil || !more {
			return Frame{}, false, err
		}
		h, payload, err := r.w.frameAt(r.off, r.l.id, r.seg.generation)
		if err != nil {
			return Frame{}, false, r.readError(err)
		}
		offset := r.off
		r.off += h.bytes()
		if h.kind == frameGap { // what is lost need not come from a segment before
			r.next = max(r.next, h.next())
		}
		if h.kind != frameData || h.next() <= r.next {
			continue
		}
		r.records, err = splitRecords(r.records[:0], payload, h.count)
		if err != nil {
			r.off = offset
			return Frame{}, false, r.readError(badFrame(err.Error()))
		}
		f := Frame{FirstSeq: h.first, ReceivedAt: h.receivedAt(), Records: r.records, Bytes: h.bytes()}
		if r.next > h.first { // the reader began within this frame
			f.Records = f.Records[r.next-h.first:]
			f.FirstSeq = r.next
		}
		r.next = h.next()
		return f, true, nil
	}
}

// advance moves to the next segment where one ends, and reports whether a durable
// frame is ahead.
func (r *Reader) advance() (more bool, err error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		r.w.limit = r.seg.end
		if r.off < r.seg.end {
			return true, nil
		}
		after := l.segmentAfterLocked(r.seg.generation)
		if after == nil || after.end == 0 {
			switch {
			case l.err != nil:
				return false, l.err
			case l.closed:
				return false, ErrClosed
			}
			return false, nil
		}
		if after.first > r.next && after == l.segments[0] {
			return false, fmt.Errorf("%w: the reader stands at %d, the log begins at %d", ErrReleased, r.next, after.first)
		}
		if err := r.enter(after); err != nil {
			return false, err
		}
	}
}

// segmentAfterLocked returns the first retained segment after a generation.
func (l *Log) segmentAfterLocked(generation uint64) *segment {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].generation > generation })
	if i == len(l.segments) {
		return nil
	}
	return l.segments[i]
}

func (r *Reader) readError(err error) error {
	var bad badFrame
	if errors.As(err, &bad) {
		return &DamageError{File: r.seg.file, Offset: r.off, Reason: string(bad), FirstLost: r.next}
	}
	return fmt.Errorf("wal: read %s at offset %d: %w", r.seg.file, r.off, err)
}

// Close gives the reader's resources back. It may be called more than once.
func (r *Reader) Close() error {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.closed = true
	delete(r.l.readers, r)
	r.leave()
	return nil
}
