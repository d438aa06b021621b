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
// that a small body never pins a large buffer. A body begins in the smallest and
// moves up with the bytes that arrive: what is announced takes nothing from the
// bound on bytes in flight, only what was sent does.
type bodies struct {
	classes []int // ascending; the last holds one byte more than the largest body
	pools   []sync.Pool
	shares  *shares
	max     int    // bytes of the largest body
	advice  string // what to do when a body is larger
}

// body is one request body in memory. It must be released, once. It belongs to
// one goroutine.
type body struct {
	data  []byte
	class int
	held  int64
	by    holder
	from  *bodies
}

// newBodies returns buffers for bodies of at most maxBytes.
func newBodies(maxBytes int, bound Bytes) *bodies {
	return newBodiesOf(maxBytes, newShares(bound, 2*int64(maxBytes+1)+zstdDecoderBytes), "send smaller batches")
}

// newBodiesOf returns buffers for bodies of one kind, which share the bound on
// bytes in flight with others. The shares must have room for the largest.
func newBodiesOf(maxBytes int, s *shares, advice string) *bodies {
	b := &bodies{max: maxBytes, shares: s, advice: advice}
	for size := 4 << 10; size < maxBytes; size *= 4 {
		b.classes = append(b.classes, size)
	}
	b.classes = append(b.classes, maxBytes+1)
	b.pools = make([]sync.Pool, len(b.classes))
	return b
}

// get returns an empty body with room for at least n bytes, or as much as there
// may be. The error is errNoMemory or errShareUsed.
func (b *bodies) get(by holder, n int) (*body, error) {
	class := b.classFor(n)
	held := int64(b.classes[class])
	if err := b.shares.take(by, held); err != nil {
		return nil, err
	}
	bd := b.buffer(class)
	bd.held, bd.by = held, by
	return bd, nil
}

// buffer returns a buffer of a class that is accounted for.
func (b *bodies) buffer(class int) *body {
	bd, _ := b.pools[class].Get().(*body)
	if bd == nil {
		bd = &body{data: make([]byte, 0, b.classes[class]), class: class, from: b}
	}
	return bd
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
	b.shares.give(bd.by, bd.held)
	bd.data, bd.held, bd.by = bd.data[:0], 0, holder{}
	b.pools[bd.class].Put(bd)
}

// grow moves the body to the next larger class.
func (bd *body) grow() (*body, error) {
	b := bd.from
	if bd.class == len(b.classes)-1 {
		return bd, errTooLarge
	}
	// Both buffers exist only for the time of the copy, so the difference is all
	// that is taken.
	more := int64(b.classes[bd.class+1] - b.classes[bd.class])
	if err := b.shares.take(bd.by, more); err != nil {
		return bd, err
	}
	larger := b.buffer(bd.class + 1)
	larger.data = append(larger.data, bd.data...)
	larger.held, larger.by = bd.held+more, bd.by
	bd.held = 0
	bd.release()
	return larger, nil
}

// errTooLarge is what reading ends with when more comes than may.
var errTooLarge = errors.New("body too large")

// fill reads src to its end. With a size of zero or more it stops there without
// waiting for the end. It returns the body to release, which may be another one.
func (bd *body) fill(src io.Reader, size int64) (*body, error) {
	for {
		if size >= 0 && int64(len(bd.data)) == size {
			return bd, nil
		}
		if len(bd.data) == cap(bd.data) {
			var err error
			if bd, err = bd.grow(); err != nil {
				return bd, err
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

// receive reads a request's body into memory, decompressed, as large as those of
// the given kind may be. On success the body must be released.
func (s *Server) receive(ex *exchange, r *http.Request, kind *bodies, by holder) (*body, *problem) {
	enc, ok := encodingOf(r.Header["Content-Encoding"])
	if !ok {
		return nil, newProblem(slugEncoding, fmt.Sprintf("the Content-Encoding %q is not supported; use gzip or zstd, or send the body plain",
			clip(r.Header.Get("Content-Encoding"))))
	}
	if r.ContentLength > int64(kind.max) {
		return nil, hangUp(r, kind.tooLarge())
	}
	bd, err := kind.get(by, 0)
	if err != nil {
		return nil, kind.memoryProblem(err)
	}
	if bd, err = bd.fill(r.Body, r.ContentLength); err != nil {
		// The deadline stays: it bounds how long the rest may take to be drained.
		bd.release()
		return nil, s.readProblem(r, kind, err)
	}
	// Nothing more is read: from here on the connection may be quiet for as long
	// as the answer takes.
	ex.setReadDeadline(time.Time{})
	ex.pending = nil
	if enc != encodingIdentity {
		// A compressed body is decompressed when it is whole: what waits for a
		// client holds no decoder.
		packed := bd
		bd, err = s.decoders.decode(packed, enc)
		packed.release()
		if err != nil {
			return nil, kind.decodeProblem(enc, err)
		}
	}
	s.metrics.bodyBytes.WithLabelValues(enc.String()).Add(float64(len(bd.data)))
	return bd, nil
}

func (b *bodies) tooLarge() *problem {
	return newProblem(slugBodyTooLarge, fmt.Sprintf("a body may have at most %d bytes, decompressed too; %s", b.max, b.advice))
}

// memoryProblem says why there is no memory for a body.
func (b *bodies) memoryProblem(err error) *problem {
	detail := "the memory for request bodies is in use by other requests; wait for retryAfter seconds and send again"
	if errors.Is(err, errShareUsed) {
		detail = fmt.Sprintf("the requests under way for this tenant or webhook source hold their share of the memory for request bodies (%d bytes); "+
			"wait for retryAfter seconds, and send fewer or smaller batches at once", b.shares.most)
	}
	return newProblem(slugOverloaded, detail).after(time.Second)
}

// readProblem says why a body could not be read.
func (s *Server) readProblem(r *http.Request, kind *bodies, err error) *problem {
	var netErr net.Error
	switch {
	case errors.Is(err, errNoMemory), errors.Is(err, errShareUsed):
		return kind.memoryProblem(err)
	case errors.Is(err, errTooLarge):
		return hangUp(r, kind.tooLarge())
	case errors.As(err, &netErr) && netErr.Timeout():
		return hangUp(r, newProblem(slugSlowBody,
			fmt.Sprintf("the body was not complete %v after the header; send it faster or in smaller batches", s.o.BodyTimeout)))
	}
	return hangUp(r, newProblem(slugTruncatedBody, "the body ended before its announced length or its last chunk; send the request again").
		because(err))
}

// decodeProblem says why a body could not be decompressed.
func (b *bodies) decodeProblem(enc encoding, err error) *problem {
	switch {
	case errors.Is(err, errNoMemory), errors.Is(err, errShareUsed):
		return b.memoryProblem(err)
	case errors.Is(err, errTooLarge):
		return b.tooLarge()
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
