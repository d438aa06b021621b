package limit

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Connections bounds the open connections of one or more listeners.
//
// A connection above the bound is accepted and closed at once, with a reset
// where the network knows one. The alternative, to leave it in the kernel's
// queue, looks kinder but is not: the client sees a connection that never
// answers, waits for its whole timeout, and cannot go to another instance; and a
// probe of this one hangs along with it. A reset is cheap for us, clear to the
// client, and holds no memory. It is safe for concurrent use.
type Connections struct {
	limit   int64
	open    atomic.Int64
	refused prometheus.Counter
}

// NewConnections returns a bound of limit connections, more than zero. Name
// tells it apart in metrics; m may be nil.
func NewConnections(name string, limit int64, m *Metrics) (*Connections, error) {
	if limit <= 0 {
		return nil, fmt.Errorf("limit: %d connections lets nobody in; give a number above zero", limit)
	}
	if m == nil {
		m = NewMetrics(nil)
	}
	c := &Connections{limit: limit}
	c.refused = m.forGauge(name, "connections", limit, c.open.Load)
	return c, nil
}

// Open returns the connections open now.
func (c *Connections) Open() int64 { return c.open.Load() }

// Limit returns the bound.
func (c *Connections) Limit() int64 { return c.limit }

// Listen wraps a listener so that its connections count. Wrap the raw listener,
// beneath TLS: then a refusal costs no handshake.
func (c *Connections) Listen(l net.Listener) net.Listener {
	return &listener{Listener: l, connections: c}
}

type listener struct {
	net.Listener
	connections *Connections
}

// Accept returns the next connection within the bound.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.connections.open.Add(1) <= l.connections.limit {
			return &connection{Conn: conn, connections: l.connections}, nil
		}
		l.connections.open.Add(-1)
		l.connections.refused.Inc()
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // reset: nothing is left to wait for on either side
		}
		conn.Close()
	}
}

// connection gives its place back when it is closed, however often that is.
type connection struct {
	net.Conn
	connections *Connections
	once        sync.Once
}

func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.connections.open.Add(-1) })
	return err
}
