package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoding is a Content-Encoding that can be undone.
type encoding uint8

const (
	encodingIdentity encoding = iota
	encodingGzip
	encodingZstd
)

// String returns the name of the encoding in a Content-Encoding header.
func (e encoding) String() string {
	switch e {
	case encodingGzip:
		return "gzip"
	case encodingZstd:
		return "zstd"
	}
	return "identity"
}

// encodingOf reads a Content-Encoding header, false if it asks for something
// that is not supported, several encodings on top of each other among it.
func encodingOf(values []string) (encoding, bool) {
	if len(values) == 0 {
		return encodingIdentity, true
	}
	if len(values) > 1 {
		return 0, false
	}
	switch lowerASCII(values[0]) {
	case "", "identity":
		return encodingIdentity, true
	case "gzip", "x-gzip":
		return encodingGzip, true
	case "zstd":
		return encodingZstd, true
	}
	return 0, false
}

const (
	// maxWindowBytes is the largest window a zstd frame may ask for. It is what RFC
	// 8878 recommends decoders to support, and what the zstd command declares up to
	// level 19 when it does not know the size. No window is ever allocated: a body
	// is decompressed in one piece, into the buffer that is its window.
	maxWindowBytes = 8 << 20
	// maxBlockBytes is the most that one block of a zstd frame can hold.
	maxBlockBytes = 128 << 10
	// gzipDecoderBytes and zstdDecoderBytes are what a decoder counts against the
	// bound on bytes in flight besides its input and output.
	gzipDecoderBytes = 64 << 10
	zstdDecoderBytes = 384 << 10
)

// decoders keeps decoders for use again: a fresh one costs more than a body.
type decoders struct {
	maxBytes   int // of the largest body of any kind, decompressed
	gzip, zstd sync.Pool
}

// decode returns a packed body decompressed. Both must be released.
func (d *decoders) decode(packed *body, enc encoding) (*body, error) {
	shares, cost := packed.from.shares, int64(gzipDecoderBytes)
	if enc == encodingZstd {
		cost = zstdDecoderBytes
	}
	if err := shares.take(packed.by, cost); err != nil {
		return nil, err
	}
	defer shares.give(packed.by, cost)
	if enc == encodingGzip {
		return d.gunzip(packed)
	}
	return d.unzstd(packed)
}

// expansion is how much larger than its compressed form a body is taken to be.
const expansion = 4

func (d *decoders) gunzip(packed *body) (*body, error) {
	if len(packed.data) == 0 {
		return nil, errors.New("it is empty")
	}
	src := bytes.NewReader(packed.data)
	zr, _ := d.gzip.Get().(*gzip.Reader)
	var err error
	if zr == nil {
		zr, err = gzip.NewReader(src)
	} else {
		err = zr.Reset(src)
	}
	if zr != nil {
		defer func() {
			_ = zr.Reset(eof{}) // let go of the request; its error is expected
			d.gzip.Put(zr)
		}()
	}
	if err != nil {
		return nil, err
	}
	out, err := packed.from.get(packed.by, expansion*len(packed.data))
	if err != nil {
		return nil, err
	}
	if out, err = out.fill(zr, -1); err != nil {
		out.release()
		return nil, err
	}
	return out, nil
}

func (d *decoders) unzstd(packed *body) (*body, error) {
	b := packed.from
	size := max(expansion*len(packed.data), 64<<10) // a second try costs more than room
	var header zstd.Header
	if header.Decode(packed.data) == nil && header.HasFCS {
		if header.FrameContentSize > uint64(b.max) {
			return nil, errTooLarge
		}
		size = int(header.FrameContentSize)
	}
	zr, err := d.zstdDecoder()
	if err != nil {
		return nil, err
	}
	defer d.zstd.Put(zr)
	out, err := b.get(packed.by, size)
	if err != nil {
		return nil, err
	}
	for {
		data, err := zr.DecodeAll(packed.data, out.data)
		switch {
		case err == nil && len(data) > b.max:
			err = errTooLarge
		case err == nil:
			out.data = append(out.data, data...) // onto itself, unless the decoder moved it
			return out, nil
		case errors.Is(err, zstd.ErrWindowSizeExceeded):
			err = fmt.Errorf("a frame asks for a window of more than %d bytes; compress at level 19 or below and without --long, or send gzip", maxWindowBytes)
		case errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, io.ErrUnexpectedEOF):
		case cap(out.data)-len(data) < maxBlockBytes:
			// It may have failed for want of room, which the decoder does not tell
			// from other faults: again, with more.
			if out, err = out.grow(); err == nil {
				continue
			}
		}
		out.release()
		return nil, err
	}
}

// zstdDecoder returns a decoder that decodes in the caller's goroutine and no
// further than its destination has room.
func (d *decoders) zstdDecoder() (*zstd.Decoder, error) {
	if zr, ok := d.zstd.Get().(*zstd.Decoder); ok {
		return zr, nil
	}
	most := max(maxWindowBytes, uint64(d.maxBytes)+1)
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(most), zstd.WithDecoderMaxMemory(most))
}

// eof is an empty source.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
func (eof) ReadByte() (byte, error)  { return 0, io.EOF }

// lowerASCII lowers A-Z; it allocates only if there is one.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for j := range b {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
