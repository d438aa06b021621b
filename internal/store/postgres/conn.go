package postgres

import (
	"context"
	"net"
	"sync"
	"time"
)

// stalledConn bounds how long a connection waits for the server, or for room to write,
// when nothing else does: a server ends every statement by its own timeout, so one
// that says nothing for longer is gone, or the way to it is, and TCP alone may not
// notice for hours.
type stalledConn struct {
	net.Conn
	limit time.Duration

	mu          sync.Mutex
	read, write time.Time // deadlines that pgx has set, zero if none
}

// Read gives up after the limit, or at the deadline that was set if that is sooner.
func (c *stalledConn) Read(p []byte) (int, error) {
	if err := c.arm(c.Conn.SetReadDeadline, &c.read); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write gives up after the limit, or at the deadline that was set if that is sooner.
func (c *stalledConn) Write(p []byte) (int, error) {
	if err := c.arm(c.Conn.SetWriteDeadline, &c.write); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// arm sets a deadline under the lock, so that it never replaces a sooner one that
// is being set.
func (c *stalledConn) arm(set func(time.Time) error, asked *time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now().Add(c.limit)
	if !asked.IsZero() && asked.Before(at) {
		at = *asked
	}
	return set(at)
}

func (c *stalledConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.write = t, t
	return c.Conn.SetDeadline(t)
}

func (c *stalledConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.Conn.SetReadDeadline(t)
}

func (c *stalledConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.Conn.SetWriteDeadline(t)
}

// Keep-alives notice a peer that is gone within about ten seconds, whether or not
// anything is asked of it.
const (
	keepAliveIdle     = 5 * time.Second
	keepAliveInterval = 2 * time.Second
	keepAliveCount    = 3
	// tcpUserTimeout bounds how long sent data may go without acknowledgement.
	tcpUserTimeout = 10 * time.Second
)

// dialer returns how connections are made: each try within timeout, and the reads
// and writes of the connection bounded by limit.
func dialer(timeout, limit time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{
		Timeout: timeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
		},
		Control: setUserTimeout,
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &stalledConn{Conn: conn, limit: limit}, nil
	}
}
