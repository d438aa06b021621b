package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"millrace/internal/wal/vfs"
)

// readAheadBytes is how much a window reads at once when asked for less.
const readAheadBytes = 1 << 20

// window reads a file forward through a buffer that grows to the largest frame.
type window struct {
	file  vfs.File
	limit int64 // nothing at or beyond this offset is read
	off   int64 // file offset of buf[0]
	buf   []byte
}

// reset turns the window to another file.
func (w *window) reset(file vfs.File, limit int64) {
	w.file, w.limit, w.off, w.buf = file, limit, 0, w.buf[:0]
}

// at returns the n bytes at off, fewer at the limit or the file's end. They are
// valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	n = min(n, w.limit-off)
	if n <= 0 {
		return nil, nil
	}
	if have := w.off + int64(len(w.buf)); off < w.off || off+n > have {
		if err := w.load(off, min(max(n, readAheadBytes), w.limit-off)); err != nil {
			return nil, err
		}
	}
	b := w.buf[off-w.off:]
	return b[:min(n, int64(len(b)))], nil
}

func (w *window) load(off, n int64) error {
	if int64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf = w.buf[:n]
	w.off = off
	got, err := w.file.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return err
	}
	return nil
}

// frameAt reads and verifies the frame at off. An error that is a badFrame is
// about the bytes; any other comes from reading. The payload is valid until the
// window is used again.
func (w *window) frameAt(off int64, id ID, generation uint64) (h header, payload []byte, err error) {
	b, err := w.at(off, headerBytes)
	if err != nil {
		return h, nil, err
	}
	h, err = decodeHeader(b)
	switch {
	case err != nil:
		return h, nil, badFrame(err.Error())
	case h.id != id:
		return h, nil, badFrame(fmt.Sprintf("the frame belongs to another log (%x, not %x)", h.id, id))
	case h.generation != generation:
		return h, nil, badFrame(fmt.Sprintf("the frame belongs to generation %d, not %d", h.generation, generation))
	case off+headerBytes+int64(h.payload) > w.limit:
		return h, nil, badFrame("the frame is cut off by the end of the file")
	}
	b, err = w.at(off, headerBytes+int64(h.payload))
	if err != nil {
		return h, nil, err
	}
	if int64(len(b)) < headerBytes+int64(h.payload) {
		return h, nil, badFrame("the frame is cut off by the end of the file")
	}
	payload = b[headerBytes:]
	if err := h.checkPayload(payload); err != nil {
		return h, nil, badFrame(err.Error())
	}
	return h, payload, nil
}

// badFrame says what is wrong with the bytes where a frame should be.
type badFrame string

func (b badFrame) Error() string { return string(b) }

// findHeader looks, at every offset from off on, for a valid frame header that the
// caller wants and returns where it is, or -1. The payload may be bad.
func (w *window) findHeader(off int64, wanted func(header) bool) (int64, header, error) {
	for off < w.limit {
		b, err := w.at(off, readAheadBytes)
		if err != nil {
			return -1, header{}, err
		}
		if len(b) < headerBytes {
			break
		}
		last := len(b) - headerBytes // a header that begins later is not whole in b
		for i := 0; i <= last; {
			j := bytes.Index(b[i:], []byte(magic))
			if j < 0 || i+j > last {
				break
			}
			i += j
			if h, err := decodeHeader(b[i:]); err == nil && wanted(h) {
				return off + int64(i), h, nil
			}
			i++
		}
		off += int64(last) + 1
	}
	return -1, header{}, nil
}
