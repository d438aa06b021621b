package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ProxyOptions say what a proxy stands in front of.
type ProxyOptions struct {
	// Target is the address of the server, host:port.
	Target string
	// Postgres makes the proxy follow PostgreSQL's protocol, which LoseCommitReply
	// and CutCommit need. It cannot look into TLS.
	Postgres bool
}

// Proxy is a TCP proxy in front of a server that injects faults. At first it
// passes everything on. It is safe for concurrent use.
type Proxy struct {
	o    ProxyOptions
	port *port

	mu        sync.Mutex
	target    string
	listener  net.Listener // nil while connections are refused
	links     map[*link]struct{}
	faults    []*Fault
	latency   time.Duration
	blackHole bool
	changed   chan struct{} // closed and replaced when blackHole changes
	accepted  int
	closed    bool
	wg        sync.WaitGroup
}

// StartProxy starts a proxy on a free loopback port.
func StartProxy(_ context.Context, o ProxyOptions) (*Proxy, error) {
	if _, _, err := net.SplitHostPort(o.Target); err != nil {
		return nil, fmt.Errorf("target of the proxy: %w", err)
	}
	port, err := reservePort(0)
	if err != nil {
		return nil, err
	}
	p := &Proxy{o: o, port: port, target: o.Target, links: make(map[*link]struct{}), changed: make(chan struct{})}
	if err := p.Pass(); err != nil {
		port.release()
		return nil, err
	}
	return p, nil
}

// Addr is where the proxy listens, host:port. It stays the same.
func (p *Proxy) Addr() string { return loopback(p.port.number) }

// Pass ends refusing, the black hole and the latency: what was held up goes on.
// Faults that are armed stay so.
func (p *Proxy) Pass() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the proxy was stopped")
	}
	p.latency = 0
	p.setBlackHole(false)
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.Addr())
	if err != nil {
		return err
	}
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	return nil
}

// setBlackHole is called with p.mu held.
func (p *Proxy) setBlackHole(on bool) {
	if p.blackHole == on {
		return
	}
	p.blackHole = on
	close(p.changed)
	p.changed = make(chan struct{})
}

// Refuse refuses new connections until Pass. Those that are open stay so.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse()
}

func (p *Proxy) refuse() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Cut resets all connections now. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Partition refuses new connections and resets those that are open, until Pass.
func (p *Proxy) Partition() {
	p.Refuse()
	p.Cut()
}

// BlackHole accepts connections and forwards nothing, on them and on those that
// are open, until Pass: a partition that nobody is told of. What was sent
// meanwhile arrives then.
func (p *Proxy) BlackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setBlackHole(true)
}

// Latency delays what is sent from now on, by d in each direction, until Pass.
func (p *Proxy) Latency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// SetTarget forwards new connections to another server.
func (p *Proxy) SetTarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Accepted is how many connections were accepted so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open is how many connections are open now.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Stop closes the proxy and all its connections and waits for its goroutines. It
// may be called twice.
func (p *Proxy) Stop(context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.refuse()
		for l := range p.links {
			l.cut()
		}
		defer p.port.release()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// Log is empty: a proxy prints nothing.
func (p *Proxy) Log() string { return "" }

// accept serves one listener until it is closed.
func (p *Proxy) accept(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return // closed by Refuse or Stop
		}
		l := newLink(p, c)
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = c.Close()
			return
		}
		p.accepted++
		p.links[l] = struct{}{}
		p.wg.Go(l.run)
		p.mu.Unlock()
	}
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// dial connects to the server once there is no black hole.
func (p *Proxy) dial(l *link) (net.Conn, error) {
	if !p.gate(l) {
		return nil, net.ErrClosed
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	return net.DialTimeout("tcp", target, 5*time.Second)
}

// gate waits until there is no black hole; false if the link ended meanwhile.
func (p *Proxy) gate(l *link) bool {
	for {
		p.mu.Lock()
		open, changed := !p.blackHole, p.changed
		p.mu.Unlock()
		if open {
			return true
		}
		select {
		case <-changed:
		case <-l.ended:
			return false
		}
	}
}

func (p *Proxy) delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latency
}
