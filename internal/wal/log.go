package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/wal/vfs"
)

// Position is where a record went.
type Position struct {
	// Seq is the record's sequence; the first record of a log has 1.
	Seq uint64
	// ReceivedAt is the time of receipt in UTC, the same for all records of a
	// frame. It never goes back within a log.
	ReceivedAt time.Time
}

// Log is an open log, see the package comment.
type Log struct {
	o   Options
	id  ID
	fs  vfs.FS
	log *slog.Logger

	commits *coalesce.Coalescer[*request]
	c       committer // belongs to the committing goroutine
	keeper  keeper

	next     atomic.Uint64 // one past the last durable record
	backlog  atomic.Int64
	diskFull atomic.Bool
	closing  atomic.Bool
	failed   chan struct{} // closed when err is set
	hasErr   atomic.Bool

	closeOnce sync.Once
	closeErr  error

	mu       sync.Mutex // guards what follows
	err      error      // why the log failed
	closed   bool       // nothing more will become durable
	segments []*segment // retained, the last is the active one
	marks    []mark     // of frames not yet released
	appended int64      // cumulative bytes of data frames
	released int64      // of these, released
	relSeq   uint64     // everything below is released
	readers  map[*Reader]struct{}
}

// segment is one retained segment. Log.mu guards its fields.
type segment struct {
	generation uint64
	file       string
	sizeBytes  int64
	first      uint64 // valid if end > 0
	end        int64  // offset after the last durable frame
	readers    int    // that have it open
}

// Open opens the log in o.Dir or begins a new one. Damage is reported as a
// *DamageError; the directory is then unchanged. ctx bounds the recovery only.
func Open(ctx context.Context, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Log{
		o: o, fs: o.FS,
		log:     o.Logger.With("log_dir", o.Dir),
		failed:  make(chan struct{}),
		readers: make(map[*Reader]struct{}),
	}
	l.c.requests.New = func() any { return &request{done: make(chan struct{}, 1)} }
	if err := l.recover(ctx); err != nil {
		return nil, err
	}
	l.o.Metrics.backlogMax.Set(float64(o.MaxBacklogBytes))
	l.o.Metrics.failed.Set(0)
	l.publish()
	l.keeper.start(l)
	l.commits = coalesce.New(coalesce.Options{MaxBatchWeight: o.MaxFrameBytes, MaxQueuedWeight: o.MaxQueuedBytes}, l.commit, l.commitPanicked)
	return l, nil
}

// ID returns the log's id.
func (l *Log) ID() ID { return l.id }

// First returns the sequence of the first retained record, or of the next record
// if none is retained.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.firstLocked()
}

func (l *Log) firstLocked() uint64 {
	if s := l.segments[0]; s.end > 0 {
		return s.first
	}
	return l.next.Load()
}

// Next returns one past the sequence of the last durable record.
func (l *Log) Next() uint64 { return l.next.Load() }

// Backlog returns the bytes that were appended and not released, as they lie on
// disk. While it is above zero it may be up to 64 KiB too high.
func (l *Log) Backlog() int64 { return l.backlog.Load() }

// MaxBacklog returns the bound of Backlog.
func (l *Log) MaxBacklog() int64 { return l.o.MaxBacklogBytes }

// Failed is closed when the log has failed; Err says why. The process should then
// exit: what a restart finds on disk is the truth.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err returns why the log failed, nil if it did not. It wraps ErrFailed.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Admit says whether an append would be taken now. It is cheap enough to be asked
// before a request's body is read.
func (l *Log) Admit() error {
	m := l.o.Metrics
	switch {
	case l.closing.Load():
		m.refusedClosed.Inc()
		return ErrClosed
	case l.hasErr.Load():
		m.refusedFailed.Inc()
		return ErrFailed
	case l.diskFull.Load():
		m.refusedDisk.Inc()
		return ErrDiskFull
	case l.backlog.Load() >= l.o.MaxBacklogBytes:
		m.refusedBacklog.Inc()
		return ErrBacklogFull
	case l.commits.Queued() >= l.o.MaxQueuedBytes:
		m.refusedBusy.Inc()
		return ErrBusy
	}
	return nil
}

// Append makes a record durable and returns where it is. It cannot be cancelled:
// a commit takes milliseconds. If the error is ErrUnknown (errors.Is), the record
// may be there after a restart; after any other error it was definitely not
// stored. The record is not kept after the return.
func (l *Log) Append(record []byte) (Position, error) {
	if err := l.admitRecord(record); err != nil {
		return Position{}, err
	}
	r := l.c.requests.Get().(*request)
	r.record = record
	if err := l.enqueue(r); err != nil {
		return Position{}, err
	}
	<-r.done
	pos, err := r.pos, r.err
	l.c.recycle(r)
	return pos, err
}

// AppendAsync copies a record, queues it and returns. If it returned nil,
// finished is called once with the outcome, by the goroutine that writes: it must
// not wait for anything. A failure is counted and logged as well, and finished may
// be nil if that is enough.
func (l *Log) AppendAsync(record []byte, finished func(err error)) error {
	if err := l.admitRecord(record); err != nil {
		return err
	}
	r := l.c.requests.Get().(*request)
	r.finished = finished
	if finished == nil {
		r.finished = func(error) {}
	}
	if cap(r.own) > 2*len(record)+smallRecordBytes {
		r.own = nil // the queue counts the record, not the room that it takes
	}
	r.own = append(r.own[:0], record...)
	r.record = r.own
	return l.enqueue(r)
}

func (l *Log) admitRecord(record []byte) error {
	if int64(len(record)) > l.o.MaxRecordBytes {
		l.o.Metrics.refusedLarge.Inc()
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrTooLarge, len(record), l.o.MaxRecordBytes)
	}
	return l.Admit()
}

func (l *Log) enqueue(r *request) error {
	err := l.commits.Add(r, lengthBytes+int64(len(r.record)))
	if err == nil {
		return nil
	}
	l.c.recycle(r)
	if errors.Is(err, coalesce.ErrFull) {
		l.o.Metrics.refusedBusy.Inc()
		return ErrBusy
	}
	l.o.Metrics.refusedClosed.Inc()
	return ErrClosed
}

// Release says that every record below upTo is safely stored elsewhere: segments
// that hold nothing else are given back. It only ever moves forward; an older
// position changes nothing.
func (l *Log) Release(upTo uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next := l.next.Load(); upTo > next {
		return fmt.Errorf("%w: cannot release up to %d, the log ends at %d", ErrPosition, upTo, next)
	}
	if upTo <= l.relSeq {
		return nil
	}
	l.relSeq = upTo
	n := 0
	for n < len(l.marks) && l.marks[n].next <= upTo {
		l.released = l.marks[n].bytes
		n++
	}
	l.marks = l.marks[n:]
	if upTo == l.next.Load() {
		l.released = l.appended
	}
	// A segment goes when the next one begins at or below upTo. That one has a
	// frame, so the log always keeps one that tells the next sequence.
	for len(l.segments) > 1 && l.segments[1].end > 0 && l.segments[1].first <= upTo {
		l.keeper.retire(l.segments[0])
		l.segments = l.segments[1:]
	}
	l.publish()
	return nil
}

// publish renews the backlog and the gauges. The caller holds l.mu, or is Open.
func (l *Log) publish() {
	backlog := l.appended - l.released
	l.backlog.Store(backlog)
	l.o.Metrics.backlogBytes.Set(float64(backlog))
	l.o.Metrics.segments.Set(float64(len(l.segments)))
}

// fail poisons the log and returns the error that says so.
func (l *Log) fail(doing string, cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.err = fmt.Errorf("%w: %s: %w", ErrFailed, doing, cause)
	l.hasErr.Store(true)
	close(l.failed)
	l.o.Metrics.failed.Set(1)
	l.log.Error("the log failed and takes no more records; restart the process, which recovers what is on disk",
		"doing", doing, "error", cause)
	l.wakeReaders()
	return l.err
}

// Close writes what is queued, then a frame that says that the log ends here, and
// stops. It may be called more than once. Readers may go on to the end.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.closing.Store(true)
		l.commits.Close()
		l.keeper.stop()
		l.closeErr = l.finish()
		l.mu.Lock()
		l.closed = true
		l.wakeReaders()
		l.mu.Unlock()
	})
	return l.closeErr
}

// wakeReaders tells waiting readers to look again. The caller holds l.mu.
func (l *Log) wakeReaders() {
	for r := range l.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (l *Log) path(name string) string { return path.Join(l.o.Dir, name) }

func leUint64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
