package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/bus"
)

// maxBatch is how many messages are sent before their answers are waited for.
const maxBatch = 512

// Pauses before what the broker is still deciding on is sent again.
const (
	firstResend   = 5 * time.Millisecond
	longestResend = 200 * time.Millisecond
)

// headerID is the header by which JetStream recognizes a repeated message.
const headerID = jetstream.MsgIDHeader

// errNoStream says that no stream listens on a message's subject.
var errNoStream = errors.New("no stream takes the subject")

// publisher sends batches and waits for the broker's answer to each message. The
// answers come to one inbox; their subject tells the batch.
type publisher struct {
	bus    *Bus
	prefix string        // of the inbox, with its last dot
	room   chan struct{} // holds one for each batch under way

	mu      sync.Mutex // guards what follows
	next    uint64
	batches map[uint64]*batch
}

// batch is messages that wait for their answers. The publisher's mutex guards it.
type batch struct {
	left       int
	duplicates int
	err        error
	done       chan struct{} // closed when nothing is left or err is set
}

func newPublisher(b *Bus) *publisher {
	return &publisher{
		bus:     b,
		room:    make(chan struct{}, max(b.options.MaxPublishing/maxBatch, 1)),
		batches: map[uint64]*batch{},
	}
}

func (p *publisher) start(nc *natsgo.Conn) error {
	p.prefix = nc.NewInbox() + "."
	sub, err := nc.Subscribe(p.prefix+"*", p.answered)
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, -1) // what is under way is bounded already
}

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, messages []bus.Message) error {
	if len(messages) == 0 {
		return nil
	}
	if err := b.check(messages); err != nil {
		return err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	size := min(maxBatch, b.options.MaxPublishing)
	for rest := messages; len(rest) > 0; {
		n := min(size, len(rest))
		if err := b.publishBatch(ctx, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (b *Bus) check(messages []bus.Message) error {
	limit := int64(1 << 20)
	if m := b.nc.MaxPayload(); m > 0 {
		limit = m - 8<<10 // the broker counts the headers too
	}
	if err := bus.CheckMessages(messages, limit); err != nil {
		return err
	}
	for i := range messages {
		if !b.taken(messages[i].Subject) {
			return &bus.InvalidError{Index: i, Reason: fmt.Sprintf("the stream keeps %s, not the subject %s: add it to the bus's subjects",
				strings.Join(b.options.Subjects, ", "), messages[i].Subject)}
		}
	}
	return nil
}

// publishBatch sends at most maxBatch messages. If the stream is missing it is
// created, and everything sent once more.
func (b *Bus) publishBatch(ctx context.Context, messages []bus.Message) error {
	p := b.publisher
	select {
	case p.room <- struct{}{}:
		defer func() { <-p.room }()
	case <-ctx.Done():
		return b.failed("publish: wait for earlier messages", ctx.Err())
	}
	err := p.send(ctx, messages)
	if errors.Is(err, errNoStream) {
		if err = b.furnish(ctx); err == nil {
			err = p.send(ctx, messages)
		}
	}
	for failures := 1; inProcess(err) && wait(ctx, bus.Backoff(failures, firstResend, longestResend)); failures++ {
		err = p.send(ctx, messages)
	}
	if err != nil {
		return b.failed(fmt.Sprintf("publish %d messages", len(messages)), err)
	}
	b.options.Metrics.published.Add(float64(len(messages)))
	return nil
}

// inProcess says whether a cluster has a message of the same id, from this call or
// one before it, and cannot say yet whether it is kept.
func inProcess(err error) bool { return isAPIError(err, 10158) }

// wait waits, and says whether ctx has not ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *publisher) send(ctx context.Context, messages []bus.Message) error {
	ba := &batch{left: len(messages), done: make(chan struct{})}
	p.mu.Lock()
	p.next++
	id := p.next
	p.batches[id] = ba
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.batches, id)
		p.mu.Unlock()
	}()
	reply := p.prefix + strconv.FormatUint(id, 36)
	for i := range messages {
		m := p.bus.message(&messages[i])
		m.Reply = reply
		if err := p.bus.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	select {
	case <-ba.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bus.options.Metrics.duplicates.Add(float64(ba.duplicates))
	return ba.err
}

// message returns m as the client's.
func (b *Bus) message(m *bus.Message) *natsgo.Msg {
	out := &natsgo.Msg{Subject: b.subject(m.Subject), Data: m.Data}
	if m.ID != "" || len(m.Headers) > 0 {
		out.Header = make(natsgo.Header, len(m.Headers)+1)
		for name, value := range m.Headers {
			out.Header[name] = []string{value}
		}
		if m.ID != "" {
			out.Header[headerID] = []string{m.ID}
		}
	}
	return out
}

// answered takes the broker's answer to one message.
func (p *publisher) answered(m *natsgo.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return // not ours: nobody else knows the inbox
	}
	duplicate, err := answer(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	ba := p.batches[id]
	if ba == nil || ba.err != nil {
		return // given up
	}
	if duplicate {
		ba.duplicates++
	}
	ba.left--
	ba.err = err
	if ba.left == 0 || err != nil {
		close(ba.done)
	}
}

// answer reads an acknowledgement.
func answer(m *natsgo.Msg) (duplicate bool, err error) {
	if len(m.Data) == 0 {
		if m.Header.Get("Status") == "503" {
			return false, errNoStream // nobody listens
		}
		return false, fmt.Errorf("the broker answered a message with status %q", m.Header.Get("Status"))
	}
	// Nearly all are {"stream":…,"seq":…}: spare them the decoder. A stream's name
	// has no quotes.
	if !bytes.Contains(m.Data, []byte(`"error"`)) {
		return bytes.Contains(m.Data, []byte(`"duplicate"`)), nil // left out if false
	}
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return false, fmt.Errorf("the broker's answer to a message cannot be read: %w", err)
	}
	if a.Error != nil {
		return false, a.Error
	}
	return false, nil
}

// disconnected ends every batch that waits: its answers will not come.
func (p *publisher) disconnected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ba := range p.batches {
		if ba.left > 0 && ba.err == nil {
			ba.err = natsgo.ErrDisconnected
			close(ba.done)
		}
	}
}
