package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"millrace/internal/bus"
)

// window is how many messages of a call are sent before the first is confirmed.
const window = 512

// errRefusedMessage says that a queue does not take a message.
var errRefusedMessage = errors.New("the broker did not take a message: a queue is full, or has lost too many of its nodes")

// errNoQueue says that a message to a queue had none.
var errNoQueue = errors.New("the queue is not there")

// job is messages to be sent in order.
type job struct {
	ctx  context.Context
	out  []outgoing
	done chan error // has room for one
}

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, messages []bus.Message) error {
	if len(messages) == 0 {
		return nil
	}
	if err := b.check(messages); err != nil {
		return err
	}
	for i := range messages {
		if !b.taken(messages[i].Subject) {
			return &bus.InvalidError{Index: i, Reason: fmt.Sprintf("the bus takes %s, not the subject %s: add it to the bus's subjects",
				strings.Join(b.options.Subjects, ", "), messages[i].Subject)}
		}
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.submit(ctx, b.jobs, convert(messages, b.messagesExchange(), amqp.Persistent)); err != nil {
		return b.failed(fmt.Sprintf("publish %d messages", len(messages)), err)
	}
	b.options.Metrics.published.Add(float64(len(messages)))
	return nil
}

// check returns an *bus.InvalidError for a message the broker does not take.
func (b *Bus) check(messages []bus.Message) error {
	if err := bus.CheckMessages(messages, b.options.MaxMessageBytes); err != nil {
		return err
	}
	for i := range messages {
		for name := range messages[i].Headers {
			if len(headerName(name)) > maxHeaderName {
				return &bus.InvalidError{Index: i, Reason: fmt.Sprintf("the header name %.40q… has %d bytes, the broker takes at most %d",
					name, len(name), maxHeaderName-len(escape))}
			}
		}
	}
	return nil
}

// submit hands messages to a lane and waits until it is done with them.
func (b *Bus) submit(ctx context.Context, to chan<- *job, out []outgoing) error {
	s, err := b.publishing.current()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{ctx: ctx, out: out, done: make(chan error, 1)}
	select {
	case to <- j:
	case <-ctx.Done():
		return b.blockedOr(s, ctx.Err())
	case <-s.lost:
		return errNotConnected
	case <-b.stopping:
		return errNotConnected
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
	case <-s.lost: // the lane may have been on an even newer one
	}
	select {
	case err := <-j.done:
		return err
	default:
	}
	if err := ctx.Err(); err != nil {
		return b.blockedOr(s, fmt.Errorf("not confirmed in time (if that persists, a queue has lost its leader or most of its nodes: see rabbitmq-queues quorum_status): %w", err))
	}
	return errNotConnected
}

// blockedOr adds to err that the broker takes no messages, if that is so.
func (b *Bus) blockedOr(s *session, err error) error {
	if reason := s.why(); reason != "" {
		return fmt.Errorf("the broker takes no messages (%s), give it memory or disk: %w", reason, err)
	}
	return err
}

// lane sends one job after the other on a channel of its own.
type lane struct {
	bus     *Bus
	confirm bool

	session *session // that ch is of
	ch      *amqp.Channel
	closes  chan *amqp.Error
	returns chan amqp.Return // of mandatory messages
}

// run takes jobs until the Bus is closed.
func (l *lane) run(jobs <-chan *job) {
	for {
		select {
		case j := <-jobs:
			j.done <- l.do(j)
		case <-l.bus.stopping:
			return // the channel ends with its connection
		}
	}
}

// do sends a job. If an exchange is missing everything is declared, and the job
// sent once more.
func (l *lane) do(j *job) error {
	err := l.attempt(j)
	if missing(err) {
		if s, lost := l.bus.publishing.current(); lost == nil {
			s.unfurnish()
		}
		err = l.attempt(j)
	}
	return err
}

func (l *lane) attempt(j *job) error {
	err := l.open(j.ctx)
	if err == nil {
		err = l.send(j)
	}
	if err != nil && !errors.Is(err, errNoQueue) {
		// Messages may be unconfirmed still: their channel forgets them.
		l.discard()
	}
	return err
}

// open sees to it that there is a channel on the current session.
func (l *lane) open(ctx context.Context) error {
	s, err := l.bus.publishing.current()
	if err != nil {
		return err
	}
	if l.ch != nil && l.session == s && !l.ch.IsClosed() {
		return ctx.Err()
	}
	if l.ch != nil && l.session == s && missing(l.why(nil)) {
		s.unfurnish() // what was not to be confirmed has found no exchange
	}
	l.discard()
	if err := l.bus.furnish(s); err != nil {
		return err
	}
	ch, err := s.conn.Channel()
	if err != nil {
		return err
	}
	l.session, l.ch = s, ch
	l.closes = ch.NotifyClose(make(chan *amqp.Error, 1))
	l.returns = ch.NotifyReturn(make(chan amqp.Return, 1))
	if l.confirm {
		return ch.Confirm(false)
	}
	return nil
}

func (l *lane) discard() {
	if l.ch != nil {
		_ = l.ch.Close() // it may be closed already
	}
	l.session, l.ch = nil, nil
}

func (l *lane) send(j *job) error {
	var unconfirmed []*amqp.DeferredConfirmation
	for i := range j.out {
		if err := l.session.clear(j.ctx); err != nil {
			return err
		}
		if len(unconfirmed) >= window {
			if err := l.confirmed(j.ctx, unconfirmed[0]); err != nil {
				return err
			}
			unconfirmed = unconfirmed[1:]
		}
		m := &j.out[i]
		confirmation, err := l.ch.PublishWithDeferredConfirm(m.exchange, m.key, m.mandatory, false, m.message)
		if err != nil {
			return l.why(err)
		}
		if l.confirm {
			unconfirmed = append(unconfirmed, confirmation)
		}
	}
	for _, c := range unconfirmed {
		if err := l.confirmed(j.ctx, c); err != nil {
			return err
		}
	}
	select {
	case <-l.returns: // it came before the confirmation
		return errNoQueue
	default:
		return nil
	}
}

// confirmed waits until the broker has a message.
func (l *lane) confirmed(ctx context.Context, c *amqp.DeferredConfirmation) error {
	select {
	case <-c.Done():
	case <-ctx.Done():
		return l.bus.blockedOr(l.session, ctx.Err())
	case <-l.session.lost:
		return errNotConnected
	}
	switch {
	case c.Acked():
		return nil
	case l.ch.IsClosed():
		return l.why(amqp.ErrClosed)
	}
	return errRefusedMessage
}

// why returns why the channel is closed, or err if it is not.
func (l *lane) why(err error) error {
	if !l.ch.IsClosed() {
		return err
	}
	select {
	case e, told := <-l.closes: // one of both happens as the channel is closed
		if told {
			return e
		}
	case <-l.session.lost:
	}
	return err
}
