package servers

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkBytes = 32 << 10
	// chunksQueued bounds what waits in one direction of a connection for the
	// latency to pass.
	chunksQueued = 64
)

// chunk is what was read at once. An empty one is the end of the stream.
type chunk struct {
	bytes []byte
	due   time.Time
}

// link is one connection through a proxy. Each direction has a goroutine that
// reads and one that forwards.
type link struct {
	p      *Proxy
	client net.Conn

	mu     sync.Mutex
	server net.Conn // nil until connected
	closed bool
	ended  chan struct{} // closed when the link was cut or is over

	wire *postgresWire // nil unless the proxy follows PostgreSQL's protocol

	faultMu sync.Mutex
	losing  *Fault // whose reply is being dropped
}

func newLink(p *Proxy, client net.Conn) *link {
	l := &link{p: p, client: client, ended: make(chan struct{})}
	if p.o.Postgres {
		l.wire = newPostgresWire()
	}
	return l
}

// run forwards in both directions until the connection is over.
func (l *link) run() {
	defer l.p.remove(l)
	defer l.cut()
	server, err := l.p.dial(l)
	if err != nil || !l.adopt(server) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.forward(l.client, server, l.fromClient) })
	wg.Go(func() { l.forward(server, l.client, l.fromServer) })
	wg.Wait()
}

// adopt takes the connection to the server over; false if the link was cut.
func (l *link) adopt(server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = server.Close()
		return false
	}
	l.server = server
	return true
}

// cut resets both sides.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.ended)
	for _, c := range []net.Conn{l.client, l.server} {
		if tcp, ok := c.(*net.TCPConn); ok && tcp != nil {
			_ = tcp.SetLinger(0) // a reset, which both sides notice at once
			_ = tcp.Close()
		}
	}
}

// forward copies one direction. inspect returns what to forward of a chunk, and
// whether the connection goes on.
func (l *link) forward(from, to net.Conn, inspect func([]byte) ([]byte, bool)) {
	queue := make(chan chunk, chunksQueued)
	var reader sync.WaitGroup
	reader.Go(func() { l.read(from, queue) })
	defer reader.Wait()
	for c := range queue {
		if !l.wait(c.due) || !l.p.gate(l) {
			return
		}
		if len(c.bytes) == 0 { // the end: the other direction may go on
			if tcp, ok := to.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			return
		}
		pass, on := inspect(c.bytes)
		if len(pass) > 0 {
			if _, err := to.Write(pass); err != nil {
				l.cut()
				return
			}
		}
		if !on {
			l.cut()
			return
		}
	}
}

// read reads until the stream ends and then closes the queue.
func (l *link) read(from net.Conn, queue chan<- chunk) {
	defer close(queue)
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		due := time.Now().Add(l.p.delay())
		if n > 0 && !l.push(queue, chunk{bytes: buf[:n], due: due}) {
			return
		}
		if err != nil {
			l.push(queue, chunk{due: due})
			if !errors.Is(err, io.EOF) {
				l.cut() // a reset is passed on as one
			}
			return
		}
	}
}

func (l *link) push(queue chan<- chunk, c chunk) bool {
	select {
	case queue <- c:
		return true
	case <-l.ended:
		return false
	}
}

// wait waits until a time; false if the link ended meanwhile.
func (l *link) wait(due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ended:
		return false
	}
}
