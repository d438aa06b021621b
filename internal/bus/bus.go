// Package bus is the port to a message broker. What travels here is a hint: the
// truth is in the database, every effect is guarded there, and whatever is lost,
// doubled or out of order here costs time at most.
package bus

import (
	"context"
	"errors"
	"time"
)

// Message is one message.
type Message struct {
	// Subject says what it is about, in dotted words: "orders.placed".
	Subject string
	// ID is the same for the same message sent again; brokers that can drop repeats
	// by it.
	ID string
	// Headers are text, their names A-Za-z0-9 and "-"; HeaderTrace carries the W3C
	// trace context. Names that begin with "Nats-" belong to the broker.
	Headers map[string]string
	Data    []byte
}

// Headers that are the same everywhere.
const (
	// HeaderTrace carries the W3C trace context.
	HeaderTrace = "traceparent"
	// HeaderTenant carries the tenant a message is about.
	HeaderTenant = "tenant"
)

// Delivery is a message that arrived.
type Delivery struct {
	Message
	// Attempt is 1 for the first delivery of this message to this group. One that
	// was given back without having been handled counts too.
	Attempt int
}

// Handler processes one delivery. Nil acknowledges it. A *RetryError has it
// delivered again after its delay; any other error, and a panic, after the
// group's backoff. Both count as attempts. ErrPoison, wrapped with the reason,
// hands it to the group's dead-letter function and then acknowledges it. The
// context ends with the subscription's Close deadline or the group's AckWait,
// whichever is first.
type Handler func(ctx context.Context, d *Delivery) error

// RetryError asks for another delivery after a delay.
type RetryError struct {
	After time.Duration
	Cause error
}

func (e *RetryError) Error() string {
	return "to be delivered again in " + e.After.String() + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *RetryError) Unwrap() error { return e.Cause }

// ErrPoison marks a message that can never be processed.
var ErrPoison = errors.New("the message cannot be processed")

// Group is a durable group of consumers: each message goes to one of them, and
// what nobody acknowledged is delivered again.
type Group struct {
	// Name is the durable name, [a-z0-9-]. All instances use the same.
	Name string
	// Subjects are what it takes, exact or with a last word "*" or ">".
	Subjects []string
	// Concurrency is how many messages are handled at once in this process; no more
	// than that, and a small read-ahead, is held in memory.
	Concurrency int
	// AckWait is how long a handler may take; then its context ends, and a message it
	// still does not answer for is delivered again, at most as long again later:
	// a message may also have waited in the read-ahead.
	AckWait time.Duration
	// MaxAttempts is the number of deliveries after which a message that still fails
	// goes to DeadLetter.
	MaxAttempts int
	// Backoff is the delay after a failed attempt (1 for the first), nil means
	// an exponential one from 1 s to 1 min with jitter.
	Backoff func(attempt int) time.Duration
	// DeadLetter gets what is poison or has failed MaxAttempts times, with the
	// reason. An error keeps the message. Required.
	DeadLetter func(ctx context.Context, d *Delivery, reason error) error
}

// Subscription is a running group or listener in this process.
type Subscription interface {
	// Close takes no further messages, waits for handlers under way until ctx ends,
	// and gives back what was not handled. It may be called more than once.
	Close(ctx context.Context) error
}

// Bus is a broker. It is safe for concurrent use.
type Bus interface {
	// Publish sends messages and returns once the broker has all of them. After an
	// error any of them may have been sent: send all again. Of the messages of
	// one call, those on one subject arrive in order where nothing failed. A
	// message that can never be sent is an *InvalidError, and then nothing was
	// sent. ErrUnavailable comes at once while the connection is down, and no
	// later than ctx ends, or 10 s if it has no deadline.
	Publish(ctx context.Context, messages []Message) error
	// Subscribe joins a durable group. Messages that were published before the
	// group was first joined by anyone may or may not be delivered. While the
	// broker is away it returns all the same, and joins when it is back. The
	// subscription lives until its Close; ctx bounds the joining only.
	Subscribe(ctx context.Context, g Group, h Handler) (Subscription, error)
	// Broadcast sends to every listener of every instance that is connected now, at
	// most once.
	Broadcast(ctx context.Context, m Message) error
	// Listen gets broadcasts. The handler must be quick; what it cannot take in
	// time is dropped and counted.
	Listen(ctx context.Context, subject string, h func(Message)) (Subscription, error)
	// Ping says whether the broker can be reached.
	Ping(ctx context.Context) error
	// Close ends the connection. Subscriptions must be closed before.
	Close() error
}

// ErrUnavailable says that the broker cannot be reached now.
var ErrUnavailable = errors.New("the message broker cannot be reached")
