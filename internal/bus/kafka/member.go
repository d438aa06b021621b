package kafka

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Bounds of a member.
const (
	fetchBytes          = 4 << 20 // what the client holds besides, for each broker
	fetchPartitionBytes = 1 << 20
	fetchWait           = time.Second
	commitEvery         = time.Second
	rebalanceWithin     = 15 * time.Second // for all members; one that died meanwhile holds up the others that long
	handOverWithin      = 5 * time.Second  // handlers under way when their partition goes to another
	goneWithin          = 3 * time.Second  // handlers whose context has ended
)

// Why a partition is not read.
const (
	pausedOpen    = "too many not done with"
	pausedWaiting = "too much waits"
)

type place struct {
	topic  string
	number int32
}

// member is one membership in a group, from joining to leaving.
type member struct {
	s      *subscription
	client *kgo.Client
	kill   context.CancelFunc      // ends whatever the client still waits for
	ids    map[string]kadm.TopicID // of the topics it reads
	wake   chan struct{}           // has room for one: "something is due sooner"

	mu         sync.Mutex // guards what follows, and partitions
	partitions map[place]*partition
	waiting    waiting
	settled    chan struct{} // closed and made anew whenever a handler has ended
}

// join makes a member. The client connects by itself.
func join(s *subscription) (*member, error) {
	b := s.bus
	m := &member{s: s, wake: make(chan struct{}, 1), ids: map[string]kadm.TopicID{},
		partitions: map[place]*partition{}, settled: make(chan struct{})}
	topics := s.topics()
	for _, t := range topics {
		m.ids[t] = b.stock.id(t)
	}
	o := &b.options
	life, kill := context.WithCancel(context.Background())
	m.kill = kill
	var err error
	m.client, err = kgo.NewClient(append(o.clientOptions(),
		kgo.WithContext(life),
		kgo.ConsumerGroup(b.names.group(s.group.Name)),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), // a partition without a position is new
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.BlockRebalanceOnPoll(), // so that what was polled is noted before a partition goes
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(commitEvery),
		kgo.OnPartitionsAssigned(m.assigned),
		kgo.OnPartitionsRevoked(m.revoked),
		kgo.OnPartitionsLost(m.lost),
		kgo.SessionTimeout(o.SessionTimeout),
		kgo.HeartbeatInterval(o.Heartbeat),
		kgo.RebalanceTimeout(max(rebalanceWithin, o.SessionTimeout)),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.FetchMaxWait(fetchWait),
	)...)
	if err != nil {
		kill()
		return nil, fmt.Errorf("the Kafka client of the group %s cannot be set up: %w", s.group.Name, err)
	}
	return m, nil
}

// consume reads until ctx ends, then it returns nil, or the membership must end.
func (m *member) consume(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { m.attend(ctx, cancel) })
	parts.Go(func() { m.deliverDue(ctx) })
	err := m.poll(ctx)
	cancel(nil)
	parts.Wait()
	return err
}

// attend ends the membership when it has become wrong.
func (m *member) attend(ctx context.Context, end context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.s.nudges:
		}
		if m.s.stuck.Load() >= int64(m.s.group.Concurrency) {
			end(errStuck)
			return
		}
		for topic, id := range m.ids {
			if m.s.bus.stock.id(topic) != id {
				end(errReplaced)
				return
			}
		}
	}
}

func (m *member) poll(ctx context.Context) error {
	for {
		fetched := m.client.PollRecords(ctx, m.s.group.Concurrency)
		flights := m.note(fetched)
		m.client.AllowRebalance()
		if ctx.Err() != nil {
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		}
		if err := m.trouble(fetched); err != nil {
			return err
		}
		for _, f := range flights {
			m.deliver(ctx, f)
		}
	}
}

// trouble logs what went wrong with reading, and returns what ends the membership.
func (m *member) trouble(fetched kgo.Fetches) (ends error) {
	fetched.EachError(func(topic string, number int32, err error) {
		var group *kgo.ErrGroupSession
		var data *kgo.ErrDataLoss
		switch {
		case errors.Is(err, kgo.ErrClientClosed):
			ends = errClosed
		case errors.As(err, &data):
			m.s.log.Warn("the broker has lost messages of the group", "topic", topic, "partition", number, "error", err)
		case errors.As(err, &group):
			// The client joins again by itself. It may be that it cannot.
			m.s.log.Warn("the group's session was interrupted; joining again", "error", err)
			if advice, final := refusal(err); final {
				ends = fmt.Errorf("%w%s", err, advice)
			}
		default:
			m.s.log.Warn("a partition cannot be read; trying on", "topic", topic, "partition", number, "error", err)
		}
	})
	return ends
}

// note takes down what was read, in the order of its offsets, and returns what is
// to be handed on now.
func (m *member) note(fetched kgo.Fetches) []*flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	var flights []*flight
	now := time.Now()
	fetched.EachRecord(func(r *kgo.Record) {
		p := m.partitions[place{r.Topic, r.Partition}]
		if p == nil || p.leaving {
			return // another's by now
		}
		e := &entry{offset: r.Offset, epoch: r.LeaderEpoch}
		p.taken = append(p.taken, e)
		p.open++
		l, ok := read(r)
		if !ok {
			m.s.log.Error("a record that is not a message of ours was dropped; who else writes to the topic?", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
		}
		if !ok || !m.s.matches(l.Subject) {
			m.done(p, e)
			return
		}
		f := &flight{letter: l, member: m, part: p, entry: e}
		if l.due.After(now) {
			heap.Push(&m.waiting, f)
			return
		}
		flights = append(flights, f)
	})
	m.bound()
	m.signal()
	return flights
}

// deliver hands a message to a free worker.
func (m *member) deliver(ctx context.Context, f *flight) {
	select {
	case <-f.part.stopped:
		return
	case <-ctx.Done():
		return
	default:
	}
	select {
	case m.s.work <- f:
	case <-f.part.stopped:
	case <-ctx.Done():
	}
}

// signal has the waiting messages looked at again.
func (m *member) signal() {
	select {
	case m.wake <- struct{}{}:
	default: // they will be
	}
}

// deliverDue hands on what has waited for its time.
func (m *member) deliverDue(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		m.mu.Lock()
		f, wait := m.waiting.next(time.Now())
		m.bound()
		m.mu.Unlock()
		if f != nil {
			m.deliver(ctx, f)
			continue
		}
		if wait == 0 {
			wait = time.Hour // until signalled
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-m.wake:
		case <-ctx.Done():
		}
	}
}

// start says whether a message may be handled still; end must follow.
func (m *member) start(f *flight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.part.leaving {
		return false
	}
	f.part.busy++
	return true
}

// end notes that a message is out of the handler's hands: done with, or else left
// to whoever reads the partition next.
func (m *member) end(f *flight, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.part.busy--
	if done {
		m.done(f.part, f.entry)
		m.bound()
	}
	close(m.settled)
	m.settled = make(chan struct{})
}

// done moves the position on. The mutex is held.
func (m *member) done(p *partition, e *entry) {
	e.done = true
	p.open--
	last := p.advance()
	if last == nil || p.owned.Err() != nil {
		return
	}
	m.client.MarkCommitOffsets(map[string]map[int32]kgo.EpochOffset{p.topic: {p.number: {Epoch: last.epoch, Offset: last.offset + 1}}})
}

// bound stops reading where too much is held, and goes on where it no longer is.
// The mutex is held.
func (m *member) bound() {
	o, retry := &m.s.bus.options, m.s.bus.names.retry(m.s.group.Name)
	m.s.metrics.waiting.Set(float64(m.waiting.Len()))
	full := m.waiting.bytes > o.MaxWaitingBytes
	for _, p := range m.partitions {
		switch taken := len(p.taken); {
		case taken >= o.MaxUnanswered:
			m.hold(p, pausedOpen)
		case taken <= o.MaxUnanswered/2:
			m.resume(p, pausedOpen)
		}
		switch {
		case full && p.topic == retry:
			m.hold(p, pausedWaiting)
		case m.waiting.bytes <= o.MaxWaitingBytes/2:
			m.resume(p, pausedWaiting)
		}
	}
}

func (m *member) hold(p *partition, why string) {
	if len(p.paused) == 0 {
		m.client.PauseFetchPartitions(map[string][]int32{p.topic: {p.number}})
		m.s.log.Debug("a partition is not read for now", "topic", p.topic, "partition", p.number, "reason", why)
	}
	p.paused[why] = true
}

func (m *member) resume(p *partition, why string) {
	if !p.paused[why] {
		return
	}
	if delete(p.paused, why); len(p.paused) == 0 {
		m.client.ResumeFetchPartitions(map[string][]int32{p.topic: {p.number}})
	}
}
