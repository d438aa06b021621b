package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/wal/vfs"
)

// request is one record on its way to the disk.
type request struct {
	record []byte
	// finished is set if nobody waits, and own is the record's copy then.
	finished func(err error)
	own      []byte
	pos      Position
	err      error
	done     chan struct{} // has room for one
}

// maxPooledBytes bounds the copies of asynchronous records kept for reuse.
const maxPooledBytes = 1 << 20

// smallRecordBytes is room that a queued copy may take beyond twice its record.
const smallRecordBytes = 4 << 10

// committer is the state of the one goroutine that writes. Its requests pool is
// shared.
type committer struct {
	requests sync.Pool

	batch        []*request // not settled yet
	file         vfs.File   // the active segment
	seg          *segment
	off          int64  // where the next frame goes
	next         uint64 // sequence of the next record
	lastReceived int64  // Unix nanoseconds
	buf          []byte // frame being built
	asked        bool   // the keeper was asked for the next segment

	// born is the next segment while it has its name and the active one is not
	// sealed yet.
	born     *segment
	bornFile vfs.File
}

func (c *committer) recycle(r *request) {
	if cap(r.own) > maxPooledBytes {
		r.own = nil
	}
	r.record, r.err, r.finished, r.pos = nil, nil, nil, Position{}
	c.requests.Put(r)
}

// commit writes one frame and settles its requests. It is the flush function.
func (l *Log) commit(batch []*request) {
	c := &l.c
	c.batch = batch
	if l.hasErr.Load() {
		l.settleAll(l.Err())
		return
	}
	payload := int64(0)
	for _, r := range batch {
		payload += lengthBytes + int64(len(r.record))
	}
	if err := l.makeRoom(frameBytes(payload)); err != nil {
		l.settleAll(err)
		return
	}
	first, received := c.next, max(l.o.Now().UnixNano(), c.lastReceived)
	frame := c.build(l.id, batch, int(payload), received)
	if err := l.writeFrame(frame); err != nil {
		l.settleAll(err)
		return
	}
	c.next += uint64(len(batch))
	c.lastReceived = received
	l.committed(first, int64(len(frame)), true)
	m := l.o.Metrics
	m.appendedBytes.Add(float64(len(frame)))
	m.appendedRecords.Add(float64(len(batch)))
	m.commitRecords.Observe(float64(len(batch)))
	m.commitBytes.Observe(float64(len(frame)))
	pos := Position{Seq: first, ReceivedAt: time.Unix(0, received).UTC()}
	l.giveBack()
	for len(c.batch) > 0 {
		l.settleOne(pos, nil)
		pos.Seq++
	}
}

// build lays the frame out in c.buf. It is the one copy a record gets.
func (c *committer) build(id ID, batch []*request, payload int, received int64) []byte {
	size := int(frameBytes(int64(payload)))
	if cap(c.buf) < size {
		c.buf = make([]byte, size, size+size/4)
	}
	b := c.buf[:size]
	at := headerBytes
	for _, r := range batch {
		binary.LittleEndian.PutUint32(b[at:], uint32(len(r.record)))
		at += lengthBytes
		at += copy(b[at:], r.record)
	}
	clear(b[at:])
	h := header{
		kind: frameData, payload: uint32(payload), id: id, generation: c.seg.generation,
		first: c.next, count: uint64(len(batch)), durable: c.next, received: received,
		payloadCRC: crc32.Checksum(b[headerBytes:at], castagnoli),
	}
	h.encode(b)
	return b
}

// writeFrame writes a frame at the end of the active segment and makes it durable.
// Its errors are ErrDiskFull (definitely not stored) and ErrUnknown.
func (l *Log) writeFrame(frame []byte) error {
	c := &l.c
	if n, err := c.file.WriteAt(frame, c.off); err != nil {
		return l.writeFailed(n, err)
	}
	start := time.Now()
	if err := c.file.Datasync(); err != nil {
		return l.unknown(l.fail("sync "+c.seg.file, err))
	}
	l.o.Metrics.syncSeconds.Observe(time.Since(start).Seconds())
	c.off += int64(len(frame))
	return nil
}

// writeFailed handles a write of which only n bytes, if any, took place. If there
// was no room, the frame's header is made invalid, durably, before anyone is told
// that the frame was not stored: its bytes could otherwise reach the disk and,
// together with the same payload left by an older attempt, make a whole frame.
func (l *Log) writeFailed(n int, cause error) error {
	c := &l.c
	if !vfs.IsNoSpace(cause) && !errors.Is(cause, io.ErrShortWrite) {
		return l.unknown(l.fail("write "+c.seg.file, cause))
	}
	if n > 0 {
		// Only bytes that were just written are written again: this takes no room.
		if _, err := c.file.WriteAt(make([]byte, min(n, headerBytes)), c.off); err != nil {
			return l.unknown(l.fail("take back an incomplete write to "+c.seg.file, errors.Join(cause, err)))
		}
		if err := c.file.Datasync(); err != nil {
			return l.unknown(l.fail("sync "+c.seg.file, errors.Join(cause, err)))
		}
	}
	return l.outOfSpace(cause)
}

// unknown turns the log's failure into the answer for those whose frame was being
// written. It does not match ErrFailed, which promises that nothing was stored.
func (l *Log) unknown(cause error) error { return fmt.Errorf("%w: %v", ErrUnknown, cause) }

// committed makes what was written visible. first is the frame's first sequence.
func (l *Log) committed(first uint64, bytes int64, data bool) {
	c := &l.c
	l.mu.Lock()
	if c.seg.end == 0 {
		c.seg.first = first
	}
	c.seg.end = c.off
	if data {
		l.appended += bytes
		l.marks = addMark(l.marks, l.released, mark{c.next, l.appended})
		l.next.Store(c.next)
	}
	l.publish()
	l.wakeReaders()
	l.mu.Unlock()
	if !c.asked && c.off > c.seg.sizeBytes/4 {
		c.asked = true
		l.keeper.ask()
	}
}

// makeRoom sees to it that a frame of so many bytes fits before the active
// segment's seal, if need be in a new segment.
func (l *Log) makeRoom(bytes int64) error {
	c := &l.c
	for c.off+bytes+sealBytes > c.seg.sizeBytes {
		if err := l.roll(); err != nil {
			return err
		}
	}
	return nil
}

// roll ends the active segment and begins the next. The order is what recovery
// relies on: the new name is durable, then the seal, then the first frame.
func (l *Log) roll() error {
	c := &l.c
	if c.born == nil {
		if err := l.bear(); err != nil {
			return err
		}
	}
	seal := sealFrame(l.id, c.seg.generation, c.next, c.born.generation, c.lastReceived)
	if err := l.writeFrame(seal); err != nil {
		if errors.Is(err, ErrUnknown) {
			return l.Err() // the seal's fate is unknown; the records were not written
		}
		return err
	}
	l.committed(c.next, 0, false)
	_ = c.file.Close() // everything in it is durable
	l.mu.Lock()
	l.segments = append(l.segments, c.born)
	l.publish()
	l.mu.Unlock()
	c.seg, c.file, c.off, c.asked = c.born, c.bornFile, 0, false
	c.born, c.bornFile = nil, nil
	return nil
}

// bear gives a spare segment the next generation's name, durably.
func (l *Log) bear() error {
	c := &l.c
	s := l.keeper.take()
	if s == nil {
		l.o.Metrics.slowRolls.Inc()
		var err error
		if s, err = l.keeper.make(); err != nil {
			if vfs.IsNoSpace(err) {
				l.keeper.starve()
				return l.outOfSpace(err)
			}
			return l.fail("make a segment", err)
		}
	}
	generation := c.seg.generation + 1
	file := l.path(segmentName(generation))
	if err := l.fs.Rename(s.path, file); err != nil {
		if vfs.IsNoSpace(err) {
			l.keeper.putBack(s)
			return l.outOfSpace(err)
		}
		_ = s.file.Close()
		return l.fail("name a segment", err)
	}
	if err := l.fs.SyncDir(l.o.Dir); err != nil {
		_ = s.file.Close()
		return l.fail("sync the directory "+l.o.Dir, err)
	}
	c.born = &segment{generation: generation, file: file, sizeBytes: s.sizeBytes}
	c.bornFile = s.file
	return nil
}

// outOfSpace refuses appends until the keeper finds room again.
func (l *Log) outOfSpace(cause error) error {
	l.setDiskFull(true, cause)
	return fmt.Errorf("%w: %v", ErrDiskFull, cause)
}

func (l *Log) setDiskFull(full bool, cause error) {
	if l.diskFull.Swap(full) == full {
		return
	}
	if full {
		l.o.Metrics.diskFull.Set(1)
		l.log.Warn("the disk is full: appends are refused until there is room", "reserve_bytes", l.o.ReserveBytes, "error", cause)
	} else {
		l.o.Metrics.diskFull.Set(0)
		l.log.Info("the disk has room again: appends are taken")
	}
}

// giveBack takes the batch's bytes off the queue before anybody has an answer, so
// that nobody who appends one record after the other meets their own record there.
func (l *Log) giveBack() {
	l.commits.GiveBack()
	l.o.Metrics.queuedBytes.Set(float64(l.commits.Queued()))
}

// settleOne answers the first unsettled request.
func (l *Log) settleOne(pos Position, err error) {
	c := &l.c
	r := c.batch[0]
	c.batch = c.batch[1:]
	if r.finished != nil {
		l.tell(r.finished, err)
		c.recycle(r)
		return
	}
	r.pos, r.err = pos, err
	r.done <- struct{}{}
}

// tell calls who appended without waiting. If that panics, it is no matter of the
// log or of the records that came in the same commit.
func (l *Log) tell(finished func(error), err error) {
	defer func() {
		if v := recover(); v != nil {
			l.log.Error("the function that takes a record's outcome panicked; the outcome stands",
				"panic", v, "outcome", err, "stack", string(debug.Stack()))
		}
	}()
	finished(err)
}

// settleAll answers every unsettled request with an error.
func (l *Log) settleAll(err error) {
	l.giveBack()
	lost := 0
	for len(l.c.batch) > 0 {
		if l.c.batch[0].finished != nil {
			lost++
		}
		l.settleOne(Position{}, err)
	}
	if lost > 0 {
		l.o.Metrics.lostRecords.Add(float64(lost))
		l.log.Error("records that were acknowledged before the write were lost", "records", lost, "error", err)
	}
}

func (l *Log) commitPanicked(_ []*request, cause *coalesce.PanicError) {
	l.settleAll(l.unknown(l.fail("commit", cause)))
}

// finish writes the closing frame and closes the files. The committer and the
// keeper have ended.
func (l *Log) finish() error {
	c := &l.c
	err := l.Err()
	if err == nil {
		if err = l.makeRoom(frameBytes(0)); err == nil {
			err = l.writeFrame(bareFrame(frameClose, l.id, c.seg.generation, c.next, 0, c.lastReceived))
		}
		switch {
		case err == nil:
			l.committed(c.next, 0, false)
		case errors.Is(err, ErrDiskFull):
			// Every record is durable; only the mark of a clean end is missing.
			l.log.Warn("no room for the closing frame; the next start takes the log as it is", "error", err)
			err = nil
		}
	}
	if closeErr := c.file.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("wal: close %s: %w", c.seg.file, closeErr)
	}
	if c.bornFile != nil {
		_ = c.bornFile.Close()
	}
	l.keeper.closeFiles()
	return err
}
