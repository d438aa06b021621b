package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"millrace/internal/bus"
)

// Times of a subscription's upkeep.
const (
	firstRejoin   = 100 * time.Millisecond // delay after a failure to join
	longestRejoin = 5 * time.Second
	leaveWithin   = 3 * time.Second // the last commit, and the goodbye
)

// subscription is this process's part in a group.
type subscription struct {
	bus     *Bus
	group   bus.Group
	handler bus.Handler
	metrics groupMetrics
	log     *slog.Logger

	work    chan *flight  // unbuffered: from whoever has a message to a free worker
	nudges  chan struct{} // has room for one: "see whether all is as it was"
	closing chan struct{} // closed by Close: take nothing more
	closed  sync.Once
	drained chan struct{}  // closed when nothing will be handed on any more
	done    chan struct{}  // closed when every goroutine has ended
	workers sync.WaitGroup // those that handle
	busy    atomic.Int64   // handlers under way
	stuck   atomic.Int64   // of them, those whose message was taken from them

	handling     context.Context // parent of every handler's, ends with Close's deadline
	stopHandling context.CancelFunc
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(ctx context.Context, g bus.Group, h bus.Handler) (bus.Subscription, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("the group %s needs a handler", g.Name)
	}
	for _, s := range g.Subjects {
		if !b.taken(s) {
			return nil, fmt.Errorf("the group %s asks for %s, which is not within the bus's subjects %v", g.Name, s, b.options.Subjects)
		}
	}
	s := &subscription{
		bus: b, group: g, handler: h,
		metrics: b.options.Metrics.of(g.Name),
		log:     b.options.Logger.With("group", g.Name),
		work:    make(chan *flight),
		nudges:  make(chan struct{}, 1),
		closing: make(chan struct{}),
		drained: make(chan struct{}),
		done:    make(chan struct{}),
	}
	b.stock.want(b.names.retry(g.Name), b.ordinary())
	// The first try is the caller's, so that the group has its place when this
	// returns.
	joining, cancel := bounded(ctx)
	defer cancel()
	err := s.prepare(joining)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("join the group %s: %w", g.Name, ctx.Err())
	}
	if err != nil && refused(err) {
		return nil, err
	}
	if err := b.add(s); err != nil {
		return nil, err
	}
	s.handling, s.stopHandling = context.WithCancel(context.Background())
	for range g.Concurrency {
		s.workers.Go(s.handle)
	}
	go s.run(err)
	return s, nil
}

// nudge has the subscription see whether it must begin anew.
func (s *subscription) nudge() {
	select {
	case s.nudges <- struct{}{}:
	default: // it will
	}
}

// topics returns what the group reads.
func (s *subscription) topics() []string {
	seen, list := map[string]bool{}, []string(nil)
	for _, subject := range s.group.Subjects {
		if t := s.bus.names.of(subject); !seen[t] {
			seen[t] = true
			list = append(list, t)
		}
	}
	return append(list, s.bus.names.retry(s.group.Name))
}

// prepare makes the topics, and gives a group that has no place in them yet one at
// their ends: it need not hear of what was before it.
func (s *subscription) prepare(ctx context.Context) error {
	b := s.bus
	if err := b.furnish(ctx, false); err != nil {
		return err
	}
	reaching, done, err := b.health.reach(ctx)
	if err != nil {
		return b.failed("join the group "+s.group.Name, err)
	}
	defer done()
	return b.failed("join the group "+s.group.Name, lost(reaching, s.begin(reaching)))
}

func (s *subscription) begin(ctx context.Context) error {
	b, name := s.bus, s.bus.names.group(s.group.Name)
	places, err := b.admin.FetchOffsets(ctx, name)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return err
	}
	has := false
	places.Each(func(o kadm.OffsetResponse) { has = has || o.At >= 0 })
	if has {
		return nil
	}
	// The retry topic is read from its start: nothing there is from before the group.
	topics := s.topics()
	ends, err := b.admin.ListEndOffsets(ctx, topics[:len(topics)-1]...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	commits, err := b.admin.CommitOffsets(ctx, name, ends.Offsets())
	if err == nil {
		err = commits.Error()
	}
	switch {
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.NonEmptyGroup):
		return nil // others have joined meanwhile, and begun where they are
	default:
		return err
	}
}

// Why a membership ends.
var (
	errReplaced = errors.New("the broker's topics are new")
	errStuck    = errors.New("every handler has exceeded its time")
)

// run keeps the subscription alive until it is closed.
func (s *subscription) run(err error) {
	defer close(s.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with this function at the latest
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	var m *member
	failures, begun := 0, err == nil
	for ctx.Err() == nil {
		if err == nil && !s.idle(ctx) {
			break
		}
		if err == nil && begun {
			err = s.bus.furnish(ctx, false)
		} else if err == nil {
			if err = s.prepare(ctx); err == nil {
				begun = true
			}
		}
		if err == nil {
			if m, err = join(s); err == nil {
				if failures > 0 {
					s.log.Info("taking part in the group again", "attempts", failures+1)
				}
				failures = 0
				err = m.consume(ctx)
				if ctx.Err() != nil {
					break
				}
				m.abandon(err)
				m = nil
				if errors.Is(err, errReplaced) || errors.Is(err, errStuck) {
					s.log.Warn("the group is joined anew", "reason", err)
					err = nil
					continue
				}
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if failures++; failures == 1 {
			s.log.Warn("cannot take part in the group; trying on", "error", err)
		}
		err = nil
		s.pause(ctx, bus.Backoff(failures, firstRejoin, longestRejoin))
	}
	if m != nil {
		m.finish()
	}
	close(s.drained)
	s.workers.Wait()
}

// idle waits while every worker is held by a handler that has exceeded its time:
// this process could only keep messages from others. It is false if ctx ended.
func (s *subscription) idle(ctx context.Context) bool {
	for s.stuck.Load() >= int64(s.group.Concurrency) {
		select {
		case <-s.nudges:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// pause waits, for less if something has changed.
func (s *subscription) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.nudges:
	case <-ctx.Done():
	}
}

// matches says whether the group takes a subject.
func (s *subscription) matches(subject string) bool {
	for _, p := range s.group.Subjects {
		if bus.Match(p, subject) {
			return true
		}
	}
	return false
}

// Close implements bus.Subscription.
func (s *subscription) Close(ctx context.Context) error {
	s.closed.Do(func() {
		close(s.closing)
		s.bus.remove(s)
	})
	select {
	case <-s.done:
		s.stopHandling()
		return nil
	case <-ctx.Done():
	}
	s.stopHandling()
	select {
	case <-s.done: // it was just ready
		return nil
	default:
		return fmt.Errorf("the group %s was closed with %d handlers still busy; what they handle is delivered again: %w", s.group.Name, s.busy.Load(), ctx.Err())
	}
}
