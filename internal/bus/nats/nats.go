// Package nats is the bus on NATS JetStream: one stream with a durable pull
// consumer for each group, and plain NATS for broadcasts. The broker is external,
// by URL, or a Server in this process; the code is the same.
//
// Pattern: the stream keeps a message until every group that takes it has
// acknowledged it (interest retention), within bounds of bytes and age beyond
// which the oldest go. A full stream therefore never refuses a message, and what
// was dropped is found again by who reads the database.
//
// Concurrency: every method is safe for concurrent use. A Bus has one connection;
// each subscription has one goroutine that keeps it alive, the client's own that
// receives, and one for each message handled at once. Messages received and not
// handled are at most twice Concurrency.
//
// Lifecycle: New starts connecting and returns, whether the broker is there or
// not; a lost connection is made again for ever. Stream and consumers are created
// when they are first needed and whenever they are found missing, so a broker
// that comes back empty is furnished again. Close the subscriptions, then the Bus.
package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/bus"
)

// requestTimeout bounds every question to the broker whose context has no
// deadline.
const requestTimeout = 10 * time.Second

// firstPatience is how long the first answer to a question is waited for before it
// is put again.
const firstPatience = 2 * time.Second

// Bus is a connection to a broker; it implements bus.Bus.
type Bus struct {
	options   Options
	nc        *natsgo.Conn
	js        jetstream.JetStream
	publisher *publisher

	furnishing sync.Mutex // one at a time creates the stream and consumers

	mu            sync.Mutex                 // guards what follows
	subscriptions map[closer]struct{}        // running groups and listeners
	groups        map[*subscription]struct{} // those of them that are groups
	outageSince   time.Time                  // zero while connected
	live          context.Context            // ends when the connection of now is lost
	lose          context.CancelFunc         // ends live
	cause         error                      // why there is no connection, if known
	closed        bool
}

type closer interface {
	Close(ctx context.Context) error
}

var _ bus.Bus = (*Bus)(nil)

// New makes a Bus. It fails for bad options only: while the broker is away it
// goes on trying to connect, and Ping says so.
func New(o Options) (*Bus, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Bus{options: o, subscriptions: map[closer]struct{}{}, groups: map[*subscription]struct{}{}, outageSince: time.Now()}
	b.live, b.lose = context.WithCancel(context.Background())
	b.publisher = newPublisher(b)
	options := append(o.connectOptions(),
		natsgo.RetryOnFailedConnect(true),
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(), // a password may be put right while we run
		natsgo.ReconnectWait(o.ReconnectWait),
		natsgo.ReconnectJitter(o.ReconnectWait/2, o.ReconnectWait/2),
		natsgo.ReconnectBufSize(-1), // fail at once rather than queue for a broker that is away
		natsgo.Timeout(5*time.Second),
		natsgo.PingInterval(3*time.Second),
		natsgo.MaxPingsOutstanding(2), // a connection that is silent for 9 s is lost
		natsgo.ConnectHandler(b.onConnect),
		natsgo.ReconnectHandler(b.onConnect),
		natsgo.DisconnectErrHandler(b.onDisconnect),
		natsgo.ReconnectErrHandler(func(_ *natsgo.Conn, err error) { b.noteCause(err) }),
		natsgo.ErrorHandler(b.onError),
	)
	if b.nc, err = natsgo.Connect(o.URL, options...); err != nil {
		return nil, fmt.Errorf("the NATS client cannot be set up, check the credentials and certificates: %w", err)
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		b.nc.Close()
		return nil, fmt.Errorf("the JetStream client cannot be set up: %w", err)
	}
	if err := b.publisher.start(b.nc); err != nil {
		b.nc.Close()
		return nil, fmt.Errorf("the inbox for the broker's answers cannot be opened: %w", err)
	}
	if !b.nc.IsConnected() {
		b.noteCause(b.nc.LastError())
		o.Logger.Warn("the message broker cannot be reached yet; trying on", "broker", b.where(b.nc), "error", b.whyNot())
	}
	return b, nil
}

// where names the broker without its credentials.
func (b *Bus) where(nc *natsgo.Conn) string {
	if b.options.Server != nil {
		return "in this process"
	}
	if u := nc.ConnectedUrlRedacted(); u != "" {
		return u
	}
	return "external"
}

func (b *Bus) onConnect(nc *natsgo.Conn) {
	b.options.Metrics.connected.Set(1)
	b.mu.Lock()
	away := time.Since(b.outageSince)
	b.outageSince, b.cause = time.Time{}, nil
	if b.live.Err() != nil {
		b.live, b.lose = context.WithCancel(context.Background())
	}
	groups := make([]*subscription, 0, len(b.groups))
	for s := range b.groups {
		groups = append(groups, s)
	}
	b.mu.Unlock()
	b.options.Logger.Info("connected to the message broker", "broker", b.where(nc), "after", away.Round(time.Millisecond))
	for _, s := range groups {
		s.look()
	}
}

func (b *Bus) onDisconnect(nc *natsgo.Conn, err error) {
	b.options.Metrics.connected.Set(0)
	b.publisher.disconnected()
	b.mu.Lock()
	b.lose()
	closed, again := b.closed, !b.outageSince.IsZero()
	if !again {
		b.outageSince = time.Now()
	}
	b.mu.Unlock()
	if !closed && !again {
		b.options.Logger.Warn("lost the connection to the message broker; reconnecting", "broker", b.where(nc), "error", err)
	}
}

// onError gets what has no caller. Groups have error handlers of their own.
func (b *Bus) onError(_ *natsgo.Conn, sub *natsgo.Subscription, err error) {
	if sub == nil {
		b.options.Logger.Warn("the message broker reported an error", "error", err)
		return
	}
	b.options.Logger.Warn("the message broker reported an error of a subscription", "subject", sub.Subject, "error", err)
}

// Ping says whether the broker answers and has JetStream.
func (b *Bus) Ping(ctx context.Context) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if !b.nc.IsConnected() {
		return b.unavailable(natsgo.ErrDisconnected)
	}
	err := b.ask(ctx, func(ctx context.Context) error {
		_, err := b.js.Stream(ctx, b.options.Stream)
		return err
	})
	if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // it is created when it is needed
	}
	return b.failed("ask for the stream "+b.options.Stream, err)
}

// ask puts a question to the broker, and gives it up when the connection is lost:
// the answer would not come. A cluster that is choosing a leader loses questions,
// so one that is not answered is put again; all of ours may be.
func (b *Bus) ask(ctx context.Context, question func(context.Context) error) error {
	b.mu.Lock()
	live := b.live
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stop := context.AfterFunc(live, cancel)
	defer stop()
	for patience := firstPatience; ; patience *= 2 {
		try, done := context.WithTimeout(ctx, patience)
		err := question(try)
		done()
		switch {
		case errors.Is(err, context.Canceled) && live.Err() != nil:
			return natsgo.ErrDisconnected
		case !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
			return err
		}
	}
}

// bounded returns ctx with a deadline.
func (b *Bus) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, requestTimeout)
}

// noteCause keeps why the broker cannot be reached.
func (b *Bus) noteCause(err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause = err
}

// whyNot returns why the broker cannot be reached, nil if that is not known or it
// can be.
func (b *Bus) whyNot() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// unavailable says why the broker cannot be reached.
func (b *Bus) unavailable(cause error) error {
	if b.nc.IsClosed() {
		return fmt.Errorf("%w: this side has closed the connection", bus.ErrUnavailable)
	}
	if last := b.whyNot(); last != nil && !errors.Is(cause, last) {
		return fmt.Errorf("%w (%s): %w, last: %w", bus.ErrUnavailable, b.where(b.nc), cause, last)
	}
	return fmt.Errorf("%w (%s): %w", bus.ErrUnavailable, b.where(b.nc), cause)
}

// failed tells an error of the client with what was tried: what passes when the
// broker is well again is ErrUnavailable.
func (b *Bus) failed(tried string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", tried, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: %s: the broker has JetStream switched off for this account: start it with -js, or enable it in its configuration: %w", bus.ErrUnavailable, tried, err)
	}
	var api *jetstream.APIError
	switch {
	case !errors.As(err, &api):
	case api.ErrorCode == codeNoPeers:
		return fmt.Errorf("%w: %s: too few servers of the cluster are there, or have room, for %d replicas: %w", bus.ErrUnavailable, tried, b.options.Replicas, err)
	case api.ErrorCode == codeNoReplicas:
		return fmt.Errorf("the broker refused to %s: it is no cluster, so it cannot keep %d replicas: set them to 1: %w", tried, b.options.Replicas, err)
	case inProcess(err): // it could not decide in time
	case api.Code >= 400 && api.Code < 500 && api.Code != 404:
		return fmt.Errorf("the broker refused to %s: %w", tried, err)
	}
	return fmt.Errorf("%s: %w", tried, b.unavailable(err))
}

// Errors of JetStream's that say more than their class.
const (
	codeNoPeers    = jetstream.ErrorCode(10005)
	codeNoReplicas = jetstream.ErrorCode(10074)
)

func isAPIError(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// refused says whether the broker answered that a request can never succeed.
func refused(err error) bool { return !errors.Is(err, bus.ErrUnavailable) }

// Close ends the connection, and first whatever subscription is still open,
// without waiting for its handlers.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	open := make([]closer, 0, len(b.subscriptions))
	for s := range b.subscriptions {
		open = append(open, s)
	}
	b.mu.Unlock()
	if len(open) > 0 {
		b.options.Logger.Warn("the bus was closed before its subscriptions; their handlers are not waited for", "subscriptions", len(open))
		over, cancel := context.WithCancel(context.Background())
		cancel()
		for _, s := range open {
			_ = s.Close(over) // the error says that it was not waited for
		}
	}
	b.flush(context.Background())
	b.nc.Close()
	b.publisher.disconnected()
	b.mu.Lock()
	b.lose()
	b.mu.Unlock()
	b.options.Metrics.connected.Set(0)
	return nil
}

// flush waits until what was sent has reached the broker, for 2 s at most: late
// acknowledgements are worth no more.
func (b *Bus) flush(ctx context.Context) {
	if !b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = b.nc.FlushWithContext(ctx) // what did not arrive is delivered again
}

// add registers a subscription to be closed with the Bus.
func (b *Bus) add(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("%w: the bus is closed", bus.ErrUnavailable)
	}
	b.subscriptions[c] = struct{}{}
	if s, ok := c.(*subscription); ok {
		b.groups[s] = struct{}{}
	}
	return nil
}

func (b *Bus) remove(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscriptions, c)
	if s, ok := c.(*subscription); ok {
		delete(b.groups, s)
	}
}
