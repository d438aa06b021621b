package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"
)

// The generator writes requests it has rendered itself and needs of the answer
// the status, one or two headers and a short body. With a connection of its own
// a round trip of 48 KB takes half the CPU time that it takes with net/http's
// client, both sides together (see BenchmarkClient). On a shared machine the
// difference would be charged to the server.

// Bounds of an answer.
const (
	maxAnswerBytes  = 1 << 20
	maxAnswerHeader = 64 << 10
	// lateAnswerWait is how long to look for an answer after writing failed: a
	// server that refuses early answers and then closes.
	lateAnswerWait = time.Second
)

// answer is what the server said. Its slices are valid until the next round trip.
type answer struct {
	status     int
	retryAfter time.Duration // 0 = not said
	replayed   bool          // Idempotent-Replayed: true
	stale      bool          // Cache-Status says so
	etag       []byte        // as it was sent, quotes included; empty if there is none
	coding     []byte        // Content-Encoding; empty if there is none
	body       []byte
}

// sendError is a round trip without an answer.
type sendError struct {
	// nothingSent: no byte left this process, so nothing can have been stored.
	nothingSent bool
	err         error
}

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// dialer opens connections to one server.
type dialer struct {
	address string
	tls     *tls.Config // nil = plain
	timeout time.Duration
}

func newDialer(u *url.URL, conf *tls.Config, timeout time.Duration) (dialer, error) {
	d := dialer{timeout: timeout}
	port := u.Port()
	switch u.Scheme {
	case "http":
		if port == "" {
			port = "80"
		}
	case "https":
		if port == "" {
			port = "443"
		}
		if conf == nil {
			conf = &tls.Config{}
		}
		d.tls = conf.Clone()
		d.tls.NextProtos = []string{"http/1.1"}
		if d.tls.ServerName == "" {
			d.tls.ServerName = u.Hostname()
		}
	default:
		return d, fmt.Errorf("URL %q: the scheme must be http or https", u.Redacted())
	}
	d.address = net.JoinHostPort(u.Hostname(), port)
	return d, nil
}

func (d dialer) dial(ctx context.Context) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.timeout}
	if d.tls != nil {
		return (&tls.Dialer{NetDialer: &nd, Config: d.tls}).DialContext(ctx, "tcp", d.address)
	}
	return nd.DialContext(ctx, "tcp", d.address)
}

// conn is one keep-alive HTTP/1.1 connection that dials anew when it must. It
// belongs to one goroutine.
type conn struct {
	dialer dialer
	nc     net.Conn
	br     *bufio.Reader
	body   []byte
	etag   []byte
	coding []byte
	stop   func() bool // unregisters the context's watch of nc
}

func newConn(d dialer) *conn {
	return &conn{dialer: d, br: bufio.NewReaderSize(nil, 4<<10)}
}

func (c *conn) close() {
	if c.nc == nil {
		return
	}
	c.stop()
	_ = c.nc.Close()
	c.nc = nil
}

// roundTrip sends one rendered request and reads the answer, all within the
// timeout. When ctx ends, what is under way gets one more second. An error is a
// *sendError.
func (c *conn) roundTrip(ctx context.Context, request []byte, timeout time.Duration) (answer, error) {
	if c.nc == nil {
		nc, err := c.dialer.dial(ctx)
		if err != nil {
			return answer{}, &sendError{nothingSent: true, err: err}
		}
		c.nc = nc
		c.br.Reset(nc)
		c.stop = context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Now().Add(time.Second)) })
	}
	if err := c.nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		c.close()
		return answer{}, &sendError{nothingSent: true, err: err}
	}
	_, writeErr := c.nc.Write(request)
	if writeErr != nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(min(timeout, lateAnswerWait)))
	}
	a, keep, err := c.readAnswer()
	if err != nil {
		c.close()
		if writeErr != nil {
			err = writeErr
		}
		return answer{}, &sendError{err: err}
	}
	if !keep || writeErr != nil {
		c.close()
	}
	return a, nil
}

// readAnswer reads one answer, and says whether the connection can go on.
func (c *conn) readAnswer() (a answer, keep bool, err error) {
	for {
		var length int64
		a, keep, length, err = c.readHead()
		if err != nil {
			return a, false, err
		}
		if a.status < 200 {
			continue // 100 Continue and its like announce the real answer
		}
		if a.status == 204 || a.status == 304 {
			return a, keep, nil // they never have a body, whatever their header says
		}
		a.body, err = c.readBody(length)
		if length == lengthUntilClose {
			keep = false
		}
		return a, keep, err
	}
}

// Lengths of a body that a Content-Length does not give.
const (
	lengthChunked    = -1
	lengthUntilClose = -2
)

func (c *conn) readHead() (a answer, keep bool, length int64, err error) {
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return a, false, 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return a, false, 0, fmt.Errorf("the server does not speak HTTP/1.1: %q", clip(line, 40))
	}
	keep = line[7] == '1'
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, false, 0, fmt.Errorf("bad status line %q", clip(line, 40))
	}
	length = lengthUntilClose
	for read := 0; ; {
		if line, err = c.br.ReadSlice('\n'); err != nil {
			return a, false, 0, err
		}
		if read += len(line); read > maxAnswerHeader {
			return a, false, 0, errors.New("the answer's header is too long")
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return a, keep, length, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch {
		case length != lengthChunked && isHeader(name, "content-length"):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return a, false, 0, fmt.Errorf("bad Content-Length %q", clip(value, 40))
			}
		case isHeader(name, "transfer-encoding"):
			length = lengthChunked
		case isHeader(name, "connection"):
			keep = keep && !bytes.EqualFold(value, []byte("close"))
		case isHeader(name, "retry-after"):
			a.retryAfter = parseRetryAfter(string(value), time.Now())
		case isHeader(name, "idempotent-replayed"):
			a.replayed = bytes.EqualFold(value, []byte("true"))
		case isHeader(name, "etag"):
			c.etag = append(c.etag[:0], value...) // the line goes with the next one
			a.etag = c.etag
		case isHeader(name, "content-encoding"):
			c.coding = append(c.coding[:0], value...)
			a.coding = c.coding
		case isHeader(name, "cache-status"):
			a.stale = a.stale || bytes.Contains(value, []byte("detail=stale"))
		}
	}
}

func isHeader(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

// parseRetryAfter reads delay seconds or an HTTP date; 0 if it is neither.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(value); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	if t, err := time.Parse(time.RFC1123, value); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

func (c *conn) readBody(length int64) ([]byte, error) {
	var in io.Reader
	switch {
	case length == lengthChunked:
		in = httputil.NewChunkedReader(c.br)
	case length == lengthUntilClose:
		in = c.br
	case length > maxAnswerBytes:
		return nil, fmt.Errorf("the answer has %d bytes, more than %d", length, maxAnswerBytes)
	default:
		c.body = grow(c.body, int(length))
		_, err := io.ReadFull(c.br, c.body)
		return c.body, err
	}
	buf := bytes.NewBuffer(c.body[:0])
	n, err := buf.ReadFrom(io.LimitReader(in, maxAnswerBytes+1))
	if err != nil {
		return nil, err
	}
	if n > maxAnswerBytes {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswerBytes)
	}
	c.body = buf.Bytes()
	if length == lengthChunked {
		// What follows the last chunk: trailers, which are of no use, and an empty line.
		for {
			line, err := c.br.ReadSlice('\n')
			if err != nil {
				return nil, err
			}
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				break
			}
		}
	}
	return c.body, nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
