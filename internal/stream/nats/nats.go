// Package nats is the stream of events on NATS JetStream: one stream for each
// partition, on files, kept by several servers, that refuses what it has no room
// for and is trimmed behind the store.
//
// A message is published under an id that the servers remember for a while, so
// that one whose answer was lost can be sent again without being there twice. A
// stream's subject ends in a random word that is drawn when the stream is made:
// who still publishes to one that was deleted and made anew is told that nobody
// listens, and who reads cannot take the messages of the one for the other's.
//
// Concurrency: a Broker has one connection and is safe for concurrent use.
//
// Lifecycle: Open waits until the servers are there and the streams are as they
// must be; later interruptions are waited out. Close ends the connection.
package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/event"
	"millrace/internal/stream"
)

// furnishTimeout bounds one round of making and checking the streams.
const furnishTimeout = 5 * time.Second

// headerBytes is what a message's header takes of the largest message.
const headerBytes = 512

// Broker is the stream on NATS servers.
type Broker struct {
	o  Options
	nc *natsgo.Conn
	js jetstream.JetStream

	furnishing sync.Mutex // one at a time makes streams

	mu       sync.Mutex // guards what follows
	subjects []string   // of each partition, empty while not known
	askedAt  []time.Time
	cause    error // why there is no connection, if known
}

var _ stream.Broker = (*Broker)(nil)

// Open connects, makes the streams that are missing and checks those that are
// there. It waits for the servers until ctx ends; a stream that is not as it must
// be is an error that says what to change.
func Open(ctx context.Context, o Options) (*Broker, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{o: o, subjects: make([]string, o.Partitions), askedAt: make([]time.Time, o.Partitions)}
	options := append(o.connectOptions(),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) { b.interrupted(err) }),
		natsgo.ReconnectErrHandler(func(_ *natsgo.Conn, err error) { b.note(err) }),
		natsgo.ConnectHandler(func(*natsgo.Conn) { b.note(nil) }),
		natsgo.ReconnectHandler(func(nc *natsgo.Conn) {
			b.note(nil)
			b.o.Logger.Info("connected to the stream's servers again", "server", nc.ConnectedServerName())
		}),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { b.note(err) }),
	)
	if b.nc, err = natsgo.Connect(o.URL, options...); err != nil {
		return nil, fmt.Errorf("the NATS client cannot be set up, check the credentials and certificates: %w", err)
	}
	if b.js, err = jetstream.New(b.nc); err == nil {
		err = b.start(ctx)
	}
	if err != nil {
		b.nc.Close()
		return nil, err
	}
	return b, nil
}

// start waits for the servers and furnishes all partitions.
func (b *Broker) start(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		// A cluster without a leader answers nothing: what was asked then is asked again.
		try, cancel := context.WithTimeout(ctx, furnishTimeout)
		err := b.furnish(try)
		cancel()
		var wrong *ConfigError
		if err == nil || errors.As(err, &wrong) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the stream's servers did not become ready: %w", errors.Join(err, b.Err()))
		}
	}
}

func (b *Broker) furnish(ctx context.Context) error {
	for n := range b.o.Partitions {
		if _, err := b.subject(ctx, n, true); err != nil {
			return err
		}
	}
	info, err := b.lookAt(ctx, b.o.Partitions)
	if err != nil {
		return fmt.Errorf("looking for partitions beyond the last: %w", err)
	}
	return b.beyond(info)
}

// beyond says what is wrong if there is a partition beyond the last.
func (b *Broker) beyond(info *jetstream.StreamInfo) error {
	if info == nil || info.State.Msgs == 0 {
		return nil
	}
	return &ConfigError{Stream: b.name(b.o.Partitions), Faults: []string{fmt.Sprintf(
		"it holds events, and only %d partitions are configured: nobody would bring them into the database; raise events.stream.partitions, or delete it if its events may be lost", b.o.Partitions)}}
}

func (b *Broker) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause = err
}

func (b *Broker) interrupted(err error) {
	b.note(err)
	if !b.nc.IsClosed() {
		b.o.Logger.Warn("the connection to the stream's servers was lost; it is made again", "error", err)
	}
}

// Partitions implements stream.Broker.
func (b *Broker) Partitions() int { return b.o.Partitions }

// MaxMessageBytes implements stream.Broker: what the servers' max_payload leaves.
func (b *Broker) MaxMessageBytes() int { return max(int(b.nc.MaxPayload())-headerBytes, 0) }

// Err implements stream.Broker.
func (b *Broker) Err() error {
	if b.nc.IsConnected() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil {
		return fmt.Errorf("there is no connection to the stream's servers: %w", b.cause)
	}
	return errors.New("there is no connection to the stream's servers")
}

// State implements stream.Broker.
func (b *Broker) State(ctx context.Context, partition int) (stream.State, error) {
	info, err := b.info(ctx, partition)
	if err != nil {
		return stream.State{}, err
	}
	s := &info.State
	return stream.State{ID: logID(info), First: max(s.FirstSeq, 1), Next: s.LastSeq + 1, Bytes: int64(s.Bytes)}, nil
}

// info asks for a partition, which is made if it is not there.
func (b *Broker) info(ctx context.Context, partition int) (*jetstream.StreamInfo, error) {
	s, err := b.js.Stream(ctx, b.name(partition))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = b.subject(ctx, partition, true); err == nil {
			s, err = b.js.Stream(ctx, b.name(partition))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the stream %s: %w", b.name(partition), err)
	}
	return s.CachedInfo(), nil
}

// Trim implements stream.Broker.
func (b *Broker) Trim(ctx context.Context, partition int, log event.LogID, upTo uint64) error {
	s, err := b.js.Stream(ctx, b.name(partition))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil && logID(s.CachedInfo()) == log {
		// The subject is of this log alone: one that was made anew just now has another.
		err = s.Purge(ctx, jetstream.WithPurgeSubject(s.CachedInfo().Config.Subjects[0]), jetstream.WithPurgeSequence(upTo))
	}
	if err != nil {
		return fmt.Errorf("trimming the stream %s: %w", b.name(partition), err)
	}
	return nil
}

// Advice implements stream.Broker.
func (b *Broker) Advice(partition int) event.Advice {
	name := b.name(partition)
	return event.Advice{
		Name:         "the stream " + name,
		MissingStart: "restore the stream from a backup; or, if they are lost for good, set events.stream.acceptLoss for one start, which goes on behind them",
		MissingEnd: "restore the newest state of the stream; or, if that is lost for good, stop all instances, delete it with `nats stream rm " + name +
			"`, and it is made anew as another log",
		Unreadable: "look at it with `nats stream get " + name + "`; a message that is not Millrace's can be removed with `nats stream rmm " + name +
			"` and passed over with events.stream.acceptLoss for one start",
	}
}

// Close implements stream.Broker.
func (b *Broker) Close() error {
	b.nc.Close()
	return nil
}

func (b *Broker) name(partition int) string { return fmt.Sprintf("%s-%d", b.o.Stream, partition) }

// replaced says that a stream is not the one it was.
func (b *Broker) replaced(partition int) error {
	return &stream.ReplacedError{Name: "the stream " + b.name(partition)}
}

// isOurs says whether a subject is of a partition, whatever its last word.
func (b *Broker) isOurs(partition int, subject string) bool {
	return strings.HasPrefix(subject, b.name(partition)+".")
}
