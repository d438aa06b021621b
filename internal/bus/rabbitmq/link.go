package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// Times of a connection.
const (
	handshakeWithin = 10 * time.Second // TCP, TLS and AMQP
	closeWithin     = 2 * time.Second
	maxAsking       = 16 // questions to the broker at a time
)

// errNotConnected is why there is no session.
var errNotConnected = errors.New("not connected")

// link keeps one connection to the broker alive.
type link struct {
	bus    *Bus
	role   string
	asking chan struct{}  // holds one for each question under way
	asks   sync.WaitGroup // questions under way and watchers
	tried  chan struct{}  // closed after the first try to connect

	mu    sync.Mutex    // guards what follows
	now   *session      // nil while there is none
	up    chan struct{} // closed when there is one
	since time.Time     // of the connection or the outage
	cause error         // why there is no connection, if known
	ended bool          // run is over: nothing may be added to asks
	made  bool          // there has been a connection
}

// session is a connection while it lasts.
type session struct {
	conn *amqp.Connection
	addr string
	lost chan struct{} // closed when the connection is

	furnishing sync.Mutex // one at a time declares the topology
	furnished  bool       // guarded by furnishing

	mu      sync.Mutex    // guards what follows
	blocked string        // why the broker takes no messages; "" while it does
	free    chan struct{} // closed while it does
}

func newLink(b *Bus, role string) *link {
	return &link{bus: b, role: role, asking: make(chan struct{}, maxAsking), tried: make(chan struct{}), up: make(chan struct{}), since: time.Now()}
}

// run connects, again and again, until ctx ends. It then ends the connection.
func (l *link) run(ctx context.Context) {
	next := rand.IntN(len(l.bus.options.URLs)) // so that instances spread over the nodes
	wait := l.bus.options.ReconnectWait
	var first sync.Once
	tried := func() { first.Do(func() { close(l.tried) }) }
	for failures := 0; ctx.Err() == nil; {
		raw := l.bus.options.URLs[next%len(l.bus.options.URLs)]
		s, closes, err := l.dial(ctx, raw)
		next++
		if err != nil {
			failures++
			l.failed(raw, err, failures)
			tried()
			pause(ctx.Done(), bus.Backoff(failures, wait, 10*wait))
			continue
		}
		next-- // a node that worked is tried first
		failures = 0
		l.begin(s)
		tried()
		var why error
		select {
		case e := <-closes:
			if why = errNotConnected; e != nil {
				why = e
			}
		case <-ctx.Done():
		}
		l.end(s, why)
		if why != nil {
			pause(ctx.Done(), time.Duration(rand.Int64N(int64(wait)+1))) // all instances lost it together
		}
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.asks.Wait()
}

// start runs f in a goroutine that run waits for, unless run is over.
func (l *link) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.asks.Go(f)
	}
	return !l.ended
}

// pause waits, for less if stop is closed.
func pause(stop <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}

// dial makes a connection. What it returns besides is told its end.
func (l *link) dial(ctx context.Context, where string) (*session, chan *amqp.Error, error) {
	o := &l.bus.options
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin)
	defer cancel()
	var raw net.Conn
	var abort func() bool
	config := amqp.Config{
		Vhost: o.VHost, Heartbeat: o.Heartbeat, Locale: "en_US",
		Properties: amqp.Table{"product": "millrace", "connection_name": o.Name + " " + l.role},
		Dial: func(network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			deadline, _ := ctx.Deadline()
			if err := c.SetDeadline(deadline); err != nil { // the client takes it off after the handshake
				_ = c.Close()
				return nil, err
			}
			raw, abort = c, context.AfterFunc(ctx, func() { _ = c.Close() })
			return &socket{Conn: c}, nil
		},
	}
	if o.Username != "" {
		config.SASL = []amqp.Authentication{&amqp.PlainAuth{Username: o.Username, Password: o.Password}}
	} else {
		config.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	if config.TLSClientConfig = o.TLS.Clone(); o.TLS == nil {
		config.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conn, err := amqp.DialConfig(where, config)
	if abort != nil && !abort() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if raw != nil {
			_ = raw.Close() // the client leaves it open after some errors
		}
		return nil, nil, err
	}
	s := &session{conn: conn, addr: address(where), lost: make(chan struct{}), free: make(chan struct{})}
	close(s.free)
	closes := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	l.start(func() { l.watchBlocked(s, blocks) }) // until the connection ends
	return s, closes, nil
}

// socket is closed by the first error of its reader: when nothing has arrived for
// too long, a writer may be stuck as well, and the client's own end of a
// connection would wait for that one.
type socket struct{ net.Conn }

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		_ = s.Conn.Close() // it is of no more use
	}
	return n, err
}

func (l *link) begin(s *session) {
	l.mu.Lock()
	away := time.Since(l.since)
	again := l.made
	l.now, l.since, l.cause, l.made = s, time.Now(), nil, true
	close(l.up)
	l.mu.Unlock()
	l.bus.linkChanged()
	if again {
		l.bus.options.Metrics.reconnections.Inc()
	}
	l.bus.options.Logger.Info("connected to the message broker", "broker", s.addr, "for", l.role, "after", away.Round(time.Millisecond))
}

// end forgets a session; why is nil if this side ends it.
func (l *link) end(s *session, why error) {
	l.mu.Lock()
	l.now, l.since, l.up, l.cause = nil, time.Now(), make(chan struct{}), why
	if why == nil {
		l.cause = errNotConnected
	}
	l.mu.Unlock()
	close(s.lost)
	l.bus.linkChanged()
	if why != nil {
		l.bus.options.Logger.Warn("lost the connection to the message broker; reconnecting", "broker", s.addr, "for", l.role, "error", why)
	}
	_ = s.conn.CloseDeadline(time.Now().Add(closeWithin)) // it may be closed already
}

// failed notes that a try to connect failed.
func (l *link) failed(raw string, err error, failures int) {
	l.mu.Lock()
	l.cause = fmt.Errorf("%s: %w", address(raw), err)
	l.mu.Unlock()
	if failures == 1 {
		l.bus.options.Logger.Warn("the message broker cannot be reached; trying on", "broker", address(raw), "for", l.role, "error", err)
	}
}

// current returns the session, or why there is none.
func (l *link) current() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return nil, l.whyNot()
	}
	return l.now, nil
}

// whyNot needs the mutex.
func (l *link) whyNot() error {
	if l.cause != nil {
		return l.cause
	}
	return errNotConnected
}

// await waits for a session. Once stop is closed it returns nil.
func (l *link) await(stop <-chan struct{}) *session {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		l.mu.Lock()
		now, up := l.now, l.up
		l.mu.Unlock()
		if now != nil {
			return now
		}
		select {
		case <-up:
		case <-stop:
			return nil
		}
	}
}

// ask puts a question to the broker, for as long as ctx allows. The client's calls
// know no context: one that is given up runs on until the broker answers or the
// connection is lost. The question closes the channels it opens.
func (l *link) ask(ctx context.Context, question func(*session) error) error {
	s, err := l.current()
	if err != nil {
		return err
	}
	select {
	case l.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.lost:
		return errNotConnected
	}
	answer := make(chan error, 1)
	if !l.start(func() {
		defer func() { <-l.asking }()
		answer <- question(s)
	}) {
		<-l.asking
		return errNotConnected
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.lost:
		return errNotConnected
	}
}

// watchBlocked follows whether the broker takes messages.
func (l *link) watchBlocked(s *session, changes <-chan amqp.Blocking) {
	for c := range changes {
		reason := ""
		if c.Active {
			reason = orDefault(c.Reason, "no reason given")
		}
		s.mu.Lock()
		was := s.blocked
		s.blocked = reason
		switch {
		case was == "" && c.Active:
			s.free = make(chan struct{})
		case was != "" && !c.Active:
			close(s.free)
		}
		s.mu.Unlock()
		if was == "" && c.Active {
			l.bus.options.Metrics.blocked.Set(1)
			l.bus.options.Logger.Warn("the message broker takes no messages; give it memory or disk", "broker", s.addr, "reason", reason)
		} else if was != "" && !c.Active {
			l.bus.options.Metrics.blocked.Set(0)
			l.bus.options.Logger.Info("the message broker takes messages again", "broker", s.addr)
		}
	}
	if s.why() != "" {
		l.bus.options.Metrics.blocked.Set(0)
	}
}

// why returns why the broker takes no messages, "" while it does.
func (s *session) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked
}

// clear waits until the broker takes messages.
func (s *session) clear(ctx context.Context) error {
	for {
		s.mu.Lock()
		blocked, free := s.blocked, s.free
		s.mu.Unlock()
		if blocked == "" {
			return ctx.Err()
		}
		select {
		case <-free:
		case <-ctx.Done():
			return fmt.Errorf("the broker takes no messages (%s), give it memory or disk: %w", blocked, ctx.Err())
		case <-s.lost:
			return errNotConnected
		}
	}
}

// with runs f on a channel of its own.
func (s *session) with(f func(*amqp.Channel) error) error {
	ch, err := s.conn.Channel()
	if err != nil {
		return err
	}
	err = f(ch)
	if closing := ch.Close(); err == nil {
		err = closing
	}
	return err
}
