package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/lease"
)

// memBroker is a Broker in memory that fails as it is told to.
type memBroker struct {
	mu        sync.Mutex
	parts     []memPart
	grew      chan struct{}                             // closed and replaced when a message comes
	onPublish func(partition int, message []byte) error // called first, outside the lock
	away      error
	maxBytes  int
}

type memPart struct {
	id       event.LogID
	first    uint64
	messages []Message
}

func newMemBroker(partitions int) *memBroker {
	b := &memBroker{grew: make(chan struct{}), maxBytes: 8 << 20}
	for n := range partitions {
		b.parts = append(b.parts, memPart{id: event.LogID{byte(n), 1}, first: 1})
	}
	return b
}

func (b *memBroker) Partitions() int      { return len(b.parts) }
func (b *memBroker) MaxMessageBytes() int { return b.maxBytes }
func (b *memBroker) Close() error         { return nil }
func (b *memBroker) Advice(int) event.Advice {
	return event.Advice{Name: "the partition", MissingStart: "accept the loss"}
}

func (b *memBroker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away
}

func (b *memBroker) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func (b *memBroker) Publish(_ context.Context, partition int, _ string, message []byte) (uint64, error) {
	b.mu.Lock()
	hook := b.onPublish
	b.mu.Unlock()
	if hook != nil {
		if err := hook(partition, message); err != nil {
			return 0, err
		}
	}
	return b.add(partition, message), nil
}

func (b *memBroker) add(partition int, message []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &b.parts[partition]
	seq := p.first + uint64(len(p.messages))
	if n := len(p.messages); n > 0 {
		seq = p.messages[n-1].Seq + 1
	}
	p.messages = append(p.messages, Message{Seq: seq, ReceivedAt: noon.Add(time.Duration(seq)), Data: slices.Clone(message)})
	close(b.grew)
	b.grew = make(chan struct{})
	return seq
}

func (b *memBroker) State(_ context.Context, partition int) (State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away != nil {
		return State{}, b.away
	}
	p := &b.parts[partition]
	s := State{ID: p.id, First: p.first, Next: p.first}
	if n := len(p.messages); n > 0 {
		s.First, s.Next = p.messages[0].Seq, p.messages[n-1].Seq+1
	}
	return s, nil
}

func (b *memBroker) Read(ctx context.Context, partition int, _ event.LogID, from uint64, yield func(Message) error) error {
	for {
		b.mu.Lock()
		grew := b.grew
		var next []Message
		for _, m := range b.parts[partition].messages {
			if m.Seq >= from {
				next = append(next, m)
			}
		}
		b.mu.Unlock()
		for _, m := range next {
			if err := yield(m); err != nil {
				return err
			}
			from = m.Seq + 1
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *memBroker) Trim(_ context.Context, partition int, log event.LogID, upTo uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &b.parts[partition]
	if p.id == log {
		for len(p.messages) > 0 && p.messages[0].Seq < upTo {
			p.first = p.messages[0].Seq + 1
			p.messages = p.messages[1:]
		}
	}
	return nil
}

// records returns the records of all messages, in order of partition and sequence.
func (b *memBroker) records(t testing.TB) []string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, p := range b.parts {
		for _, m := range p.messages {
			pack, err := open(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(pack))
		}
	}
	return all
}

// memLeases is a lease.Store in memory.
type memLeases struct {
	mu     sync.Mutex
	leases map[string]lease.Lease
}

func newMemLeases() *memLeases { return &memLeases{leases: map[string]lease.Lease{}} }

func (s *memLeases) Acquire(_ context.Context, name, holder string, now time.Time, ttl time.Duration) (lease.Lease, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[name]
	if l.Holder != holder && l.Holder != "" && l.ExpiresAt.After(now) {
		return l, false, nil
	}
	if l.Holder != holder {
		l.Token++
	}
	l.Name, l.Holder, l.ExpiresAt = name, holder, now.Add(ttl)
	s.leases[name] = l
	return l, true, nil
}

func (s *memLeases) Release(_ context.Context, name, holder string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[name]; l.Holder == holder {
		l.Holder, l.ExpiresAt = "", time.Time{}
		s.leases[name] = l
	}
	return nil
}

func (s *memLeases) Leases(_ context.Context, prefix string, now time.Time) ([]lease.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []lease.Lease
	for name, l := range s.leases {
		if strings.HasPrefix(name, prefix) && l.Holder != "" && l.ExpiresAt.After(now) {
			list = append(list, l)
		}
	}
	return list, nil
}

// memStore is an event.Store in memory.
type memStore struct {
	event.Store
	mu   sync.Mutex
	next map[event.LogID]uint64
	ids  []string
}

func newMemStore() *memStore { return &memStore{next: map[event.LogID]uint64{}} }

func (s *memStore) Position(_ context.Context, log event.LogID) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, known := s.next[log]
	return next, known, nil
}

func (s *memStore) Append(_ context.Context, b event.Batch) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, known := s.next[b.LogID]; known && next != b.From {
		return 0, &event.PositionError{Have: next, From: b.From}
	}
	s.next[b.LogID] = b.UpTo
	for _, r := range b.Rows {
		s.ids = append(s.ids, strings.Clone(r.ID))
	}
	return len(b.Rows), nil
}

func (s *memStore) stored() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.ids))
}

type noLetters struct{}

func (noLetters) Add(context.Context, []deadletter.Letter) error { return nil }

// newSink makes sinks of a store.
func newSink(store event.Store) func(p *Partition) (Sink, error) {
	return func(p *Partition) (Sink, error) {
		return event.NewSink(event.SinkOptions{Log: p, Advice: p.Advice(), Store: store, DeadLetters: noLetters{}})
	}
}

var errAway = errors.New("the servers are away")
