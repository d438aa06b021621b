package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// bodies hands out buffers for request bodies. Buffers come in size classes, so
// that a small body never pins a large buffer, and every byte of capacity is
// taken from the bound on bytes in flight before it is used.
type bodies struct {
	classes []int // ascending; the last holds one byte more than the largest body
	pools   []sync.Pool
	bound   Bytes // nil if there is none
	max     int   // bytes of the largest body
}

// body is one request body in memory. It must be released, once.
type body struct {
	data  []byte
	class int
	held  int64
	from  *bodies
}

// newBodies returns buffers for bodies of at most maxBytes.
func newBodies(maxBytes int, bound Bytes) *bodies {
	b := &bodies{bound: bound, max: maxBytes}
	for size := 4 << 10; size <= maxBytes; size *= 4 {
		b.classes = append(b.classes, size)
	}
	b.classes = append(b.classes, maxBytes+1)
	b.pools = make([]sync.Pool, len(b.classes))
	return b
}

// get returns an empty body with room for at least n bytes (or as much as there
// may be), false when the bound is reached. Extra counts against the bound too.
func (b *bodies) get(n, extra int) (*body, bool) {
	class := b.classFor(n)
	held := int64(b.classes[class] + extra)
	if b.bound != nil && !b.bound.TryAcquire(held) {
		return nil, false
	}
	bd, _ := b.pools[class].Get().(*body)
	if bd == nil {
		bd = &body{data: make([]byte, 0, b.classes[class]), class: class, from: b}
	}
	bd.held = held
	return bd, true
}

func (b *bodies) classFor(n int) int {
	for i, size := range b.classes {
		if n <= size {
			return i
		}
	}
	return len(b.classes) - 1
}

// release gives the memory back. The data must not be used any more.
func (bd *body) release() {
	b := bd.from
	if b.bound != nil {
		b.bound.Release(bd.held)
	}
	bd.data, bd.held = bd.data[:0], 0
	b.pools[bd.class].Put(bd)
}

// grow moves the body to the next larger class.
func (bd *body) grow() (*body, bool) {
	larger, ok := bd.from.get(bd.from.classes[bd.class]+1, 0)
	if !ok {
		return bd, false
	}
	larger.data = append(larger.data, bd.data...)
	extra := bd.held - int64(bd.from.classes[bd.class])
	bd.held -= extra // what was taken besides the buffer goes along
	larger.held += extra
	bd.release()
	return larger, true
}

// errTooLarge is what reading ends with when more comes than may.
var errTooLarge = errors.New("body too large")

// errNoMemory is what reading ends with when the bound on bytes is reached.
var errNoMemory = errors.New("too many bytes in flight")

// fill reads src to its end. With a size of zero or more it stops there without
// waiting for the end. It returns the body to release, which may be another one.
func (bd *body) fill(src io.Reader, size int64) (*body, error) {
	for {
		if size >= 0 && int64(len(bd.data)) == size {
			return bd, nil
		}
		if len(bd.data) == cap(bd.data) {
			var ok bool
			if bd, ok = bd.grow(); !ok {
				return bd, errNoMemory
			}
		}
		limit := cap(bd.data)
		if size >= 0 {
			limit = min(limit, int(size))
		}
		n, err := src.Read(bd.data[len(bd.data):limit])
		bd.data = bd.data[:len(bd.data)+n]
		if len(bd.data) > bd.from.max {
			return bd, errTooLarge
		}
		if err == io.EOF {
			if size >= 0 && int64(len(bd.data)) < size {
				err = io.ErrUnexpectedEOF
			} else {
				return bd, nil
			}
		}
		if err != nil {
			return bd, err
		}
	}
}

// receive reads a request's body into memory, decompressed. On success the body
// must be released.
func (s *Server) receive(ex *exchange, r *http.Request) (*body, *problem) {
	enc, ok := encodingOf(r.Header["Content-Encoding"])
	if !ok {
		return nil, newProblem(slugEncoding, fmt.Sprintf("the Content-Encoding %q is not supported; use gzip or zstd, or send the body plain",
			clip(r.Header.Get("Content-Encoding"))))
	}
	if r.ContentLength > int64(s.o.MaxBodyBytes) {
		return nil, hangUp(r, s.tooLarge())
	}
	hint, extra, size := int(r.ContentLength), 0, r.ContentLength
	if size < 0 {
		hint = 16 << 10
	}
	if enc != encodingIdentity {
		hint, extra, size = min(4*hint, s.o.MaxBodyBytes), decoderBytes, -1
	}
	bd, ok := s.bodies.get(hint, extra)
	if !ok {
		return nil, s.overloaded()
	}
	src := wire{r: r.Body, left: int64(s.o.MaxBodyBytes)}
	var err error
	if enc == encodingIdentity {
		bd, err = bd.fill(&src, size)
	} else {
		bd, err = s.decoders.fill(bd, enc, &src)
	}
	if err != nil {
		// The deadline stays: it bounds how long the rest may take to be drained.
		bd.release()
		return nil, s.readProblem(r, enc, &src, err)
	}
	// Nothing more is read: from here on the connection may be quiet for as long
	// as the answer takes.
	ex.setReadDeadline(time.Time{})
	ex.pending = nil
	s.metrics.bodyBytes.WithLabelValues(enc.String()).Add(float64(len(bd.data)))
	return bd, nil
}

// wire is the body as it comes over the network: it bounds it and remembers how
// it ended, so that a broken connection can be told from broken compression.
type wire struct {
	r    io.Reader
	left int64
	err  error
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.left -= int64(n); w.left < 0 {
		err = errTooLarge
	}
	if err != nil {
		w.err = err
	}
	return n, err
}

func (s *Server) tooLarge() *problem {
	return newProblem(slugBodyTooLarge, fmt.Sprintf("a body may have at most %d bytes, decompressed too; send smaller batches", s.o.MaxBodyBytes))
}

func (s *Server) overloaded() *problem {
	return newProblem(slugOverloaded, "the memory for request bodies is in use by other requests; wait for retryAfter seconds and send again").after(time.Second)
}

// readProblem says why a body could not be read.
func (s *Server) readProblem(r *http.Request, enc encoding, src *wire, err error) *problem {
	var netErr net.Error
	broken := src.err != nil && src.err != io.EOF
	switch {
	case errors.Is(err, errNoMemory):
		return s.overloaded()
	case errors.Is(err, errTooLarge) || errors.Is(src.err, errTooLarge):
		return hangUp(r, s.tooLarge())
	case broken && errors.As(src.err, &netErr) && netErr.Timeout():
		return hangUp(r, newProblem(slugSlowBody,
			fmt.Sprintf("the body was not complete %v after the header; send it faster or in smaller batches", s.o.BodyTimeout)))
	case broken || enc == encodingIdentity:
		return hangUp(r, newProblem(slugTruncatedBody, "the body ended before its announced length or its last chunk; send the request again").
			because(err))
	}
	return newProblem(slugCorruptEncoding, fmt.Sprintf("the body is not valid %s: %v", enc, err))
}

// hangUp lets the connection end with the answer where the rest of the body
// would stand in the way of the next request. HTTP/2 ends the stream alone.
func hangUp(r *http.Request, p *problem) *problem {
	if r.ProtoMajor == 1 {
		p.with("Connection", "close")
	}
	return p
}

// clip bounds what is quoted back from a request.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
