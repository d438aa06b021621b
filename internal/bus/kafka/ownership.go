package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// assigned takes partitions on. The client calls it before it reads them.
func (m *member) assigned(_ context.Context, client *kgo.Client, all map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, numbers := range all {
		for _, n := range numbers {
			p := &partition{topic: topic, number: n, stopped: make(chan struct{}), paused: map[string]bool{}}
			p.owned, p.disown = context.WithCancel(context.Background())
			p.handling, p.release = context.WithCancel(m.s.handling)
			m.partitions[place{topic, n}] = p
			client.ResumeFetchPartitions(map[string][]int32{topic: {n}}) // it may have been ours before
		}
	}
	m.s.metrics.partitions.Set(float64(len(m.partitions)))
}

// revoked hands partitions over to others: handlers under way have a little time
// to end, so that nobody does their work again, and then positions are committed.
func (m *member) revoked(_ context.Context, client *kgo.Client, all map[string][]int32) {
	list := m.leave(all)
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(m.s.group.AckWait, handOverWithin))
	if left := m.settle(ctx, list); left > 0 {
		m.s.log.Info("partitions go to another member while some of their messages are being handled; they are delivered there again", "messages", left)
	}
	cancel()
	m.disown(list)
	m.commit(client)
}

// lost notes that partitions are others' already.
func (m *member) lost(_ context.Context, _ *kgo.Client, all map[string][]int32) {
	list := m.leave(all)
	if len(list) > 0 {
		m.s.log.Warn("the group's partitions were lost to other members, or the broker forgot this one; joining again", "partitions", len(list))
	}
	m.disown(list)
}

// leave ends the handing on of partitions' messages.
func (m *member) leave(all map[string][]int32) (list []*partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, numbers := range all {
		for _, n := range numbers {
			if p := m.partitions[place{topic, n}]; p != nil {
				list = append(list, p)
			}
		}
	}
	m.stopParts(list)
	return list
}

// stopParts ends the handing on of partitions' messages. The mutex is held.
func (m *member) stopParts(list []*partition) {
	for _, p := range list {
		if !p.leaving {
			p.leaving = true
			close(p.stopped)
		}
	}
	m.waiting.drop()
}

// settle waits for handlers under way in partitions, and returns how many are left
// when ctx ends.
func (m *member) settle(ctx context.Context, list []*partition) (left int) {
	for {
		m.mu.Lock()
		left = 0
		for _, p := range list {
			left += p.busy
		}
		settled := m.settled
		m.mu.Unlock()
		if left == 0 {
			return 0
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return left
		}
	}
}

// commit writes the positions.
func (m *member) commit(client *kgo.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	if err := client.CommitMarkedOffsets(ctx); err != nil {
		m.s.log.Debug("the group's position could not be committed; some messages are delivered again", "error", err)
	}
}

// disown forgets partitions, and has handlers under way in them end: what they do
// from here on does not move the position, which is committed after this.
func (m *member) disown(list []*partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range list {
		p.disown()
		p.release()
		delete(m.partitions, place{p.topic, p.number})
	}
	m.s.metrics.partitions.Set(float64(len(m.partitions)))
	m.s.metrics.waiting.Set(float64(m.waiting.Len()))
}

// all returns the partitions of now, and ends the handing on of their messages.
func (m *member) all() (list []*partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.partitions {
		list = append(list, p)
	}
	m.stopParts(list)
	return list
}

// finish ends the membership when the subscription is closed: handlers under way
// are waited for until Close's deadline, and then a little.
func (m *member) finish() {
	list := m.all()
	m.settle(m.s.handling, list)
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	m.settle(ctx, list)
	cancel()
	m.depart(list)
}

// abandon ends a membership that has become wrong.
func (m *member) abandon(cause error) {
	list := m.all()
	if cause == errStuck { //nolint:errorlint // it is ours
		ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
		m.settle(ctx, list) // what was taken from handlers is on its way to the retry topic
		cancel()
	}
	m.depart(list)
}

// depart commits the positions and leaves the group.
func (m *member) depart(list []*partition) {
	last := time.AfterFunc(2*leaveWithin, m.kill) // the client waits for requests of its own besides
	defer last.Stop()
	m.disown(list)
	m.commit(m.client)
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	if err := m.client.LeaveGroupContext(ctx); err != nil {
		m.s.log.Debug("the broker was not told that a member leaves; its partitions go to others after the session timeout", "error", err, "timeout", m.s.bus.options.SessionTimeout.Round(time.Millisecond))
	}
	m.kill() // a broker that is silent is not waited for
	m.client.CloseAllowingRebalance()
}
