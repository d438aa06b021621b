package httpapi

import (
	"errors"
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
	// maxWindowBytes bounds the memory of one zstd decoder. It is what RFC 8878
	// recommends decoders to support, and what encoders use for streams.
	maxWindowBytes = 8 << 20
	// decoderBytes is what a compressed body counts against the bound on bytes in
	// flight besides its buffer.
	decoderBytes = 128 << 10
)

// decoders keeps decoders for use again: a fresh one costs more than a body.
type decoders struct {
	gzip, zstd sync.Pool
}

// fill decompresses src into a body, which bounds how much comes out.
func (d *decoders) fill(bd *body, enc encoding, src io.Reader) (*body, error) {
	if enc == encodingGzip {
		return d.fillGzip(bd, src)
	}
	return d.fillZstd(bd, src)
}

func (d *decoders) fillGzip(bd *body, src io.Reader) (*body, error) {
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
	if err == io.EOF {
		err = errors.New("it is empty")
	}
	if err != nil {
		return bd, err
	}
	return bd.fill(zr, -1)
}

func (d *decoders) fillZstd(bd *body, src io.Reader) (*body, error) {
	zr, _ := d.zstd.Get().(*zstd.Decoder)
	var err error
	if zr == nil {
		// A concurrency of one decodes in this goroutine and starts none.
		zr, err = zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindowBytes), zstd.WithDecoderMaxMemory(maxWindowBytes))
	} else {
		err = zr.Reset(src)
	}
	if err != nil {
		return bd, err
	}
	defer func() {
		if zr.Reset(nil) == nil {
			d.zstd.Put(zr)
		}
	}()
	bd, err = bd.fill(zr, -1)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = errTooLarge
	}
	return bd, err
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
