package limit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// beatEvery is how often an instance says that it is alive, and beatTTL for how
	// long it is believed.
	beatEvery = time.Second
	beatTTL   = 10 * time.Second
	// failuresToDegrade is after how many failures in a row limits are applied alone.
	failuresToDegrade = 3
	// exactFailures is after how many in a row exact decisions do not ask any more,
	// until an exchange or a beat has worked again.
	exactFailures = 5
	maxBackoff    = 2 * time.Second
	// hurryShare: exchanges that are wanted early are at least this share of Every
	// apart.
	hurryShare = 10
)

// SyncerOptions configures a Syncer. Zero fields take the default.
type SyncerOptions struct {
	// Store is what instances share. Required.
	Store Store
	// Instance names this instance; the Syncer makes it unique.
	Instance string
	// Every is how often what was spent is exchanged; 100 ms.
	Every time.Duration
	// Timeout bounds one call to the store; 250 ms, or twice Every if that is more.
	Timeout time.Duration
	// ExactTimeout bounds how long a decision of an exact limit waits; 50 ms.
	ExactTimeout time.Duration
	// MaxBatch bounds the keys of one call; 4,096.
	MaxBatch int
	// MaxExact bounds the exact decisions that are asked for at once; 256. Further
	// ones are made here.
	MaxExact int
	// Instances is how many instances there are taken to be before the store has told;
	// 1.
	Instances int

	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil. It serves one Syncer.
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// Syncer keeps the limits of this instance in step with those of the others. Any
// number of Rates and Windows may share one.
//
// # Accuracy
//
// Every unit that any instance lets through reaches the shared count, at the latest
// with the exchange after it, so what was too much is a debt that everybody waits
// for, and over time a key gets its limit. In between, an instance does not know
// what the others have let through since the last exchange. With N instances, a
// bucket of rate r and burst B, and L = Every + the time of an exchange, what is let
// through within any time T is
//
//	at most r·T + B + (N-1)·(B + 3·r·L) + r·L + N·q
//
// where q is what may be in flight at once at one instance, since limits are
// post-paid. The term (N-1)·B stands for a whole burst that arrives at every instance
// within one L. An instance that has spent an eighth of a burst does not wait for
// Every but exchanges at once (Every/10 after the last time at the soonest), so what
// one does not know of another is, where less than that arrives, B/8 and what arrives
// there in Every/10 and an exchange. With a window of limit Q the excess is (N-1)
// times the smaller of Q and what arrives at an instance within L, or likewise Q/8
// and what arrives within Every/10. A key whose demand is at least its limit gets all
// of it wherever the demand arrives, all at one instance or spread.
//
// Exact limits let through at most r·T + B, or Q, for units that cost one; what a
// request costs beyond one unit is known after it, and comes on top for requests in
// flight.
//
// # Without the store
//
// A store that is slow, paused or gone holds nobody up: decisions are made from
// memory, what was spent is one number for each key, and each call has a deadline.
// After three failures in a row the instance is degraded: it applies 1/N of every
// limit by itself, N being the instances that were last heard of, so that the sum
// stays what was promised when traffic is spread; a key with all its traffic at one
// instance gets 1/N. Exact limits then are like the others. It tries again with
// growing, jittered pauses of at most 2 s, and comes back by itself. A bucket then
// begins with what the store has: what was spent in the outage is not charged for,
// so at most one more burst passes. Windows are charged for it.
//
// A store that has lost everything (flushed, restarted empty) gives every key one
// full bucket or window more, and goes on.
//
// # Concurrency and lifecycle
//
// All methods may be called at any time from any goroutine, before and after Run
// too. Run owns the one goroutine that exchanges; an exact decision has its own for
// as long as it waits for the store.
type Syncer struct {
	o        SyncerOptions
	store    Store
	instance string
	log      *slog.Logger
	metrics  *syncMetrics

	mu    sync.Mutex
	queue []member // touched since their last exchange began

	hurried    chan struct{}
	priceNow   atomic.Int64 // what a unit costs: 1, or N when degraded
	degraded   atomic.Bool
	instances  atomic.Int64
	heardAt    atomic.Int64 // Unix nanoseconds of the last answer, 0 for never
	exactSlots chan struct{}
	exactBad   atomic.Int64 // failures in a row

	// Run's own:
	spare     []member
	entries   []Entry
	parts     []member // of entries
	failures  int      // in a row
	beatAt    time.Time
	downSince time.Time
	heard     time.Time // end of the last outage
}

// NewSyncer makes a Syncer. Nothing is exchanged before Run.
func NewSyncer(o SyncerOptions) (*Syncer, error) {
	if o.Store == nil {
		return nil, errors.New("limit: a Syncer needs a Store")
	}
	if o.Every < 0 || o.Timeout < 0 || o.ExactTimeout < 0 || o.MaxBatch < 0 || o.MaxExact < 0 || o.Instances < 0 {
		return nil, fmt.Errorf("limit: options of a Syncer are negative: Every %s, Timeout %s, ExactTimeout %s, MaxBatch %d, MaxExact %d, Instances %d",
			o.Every, o.Timeout, o.ExactTimeout, o.MaxBatch, o.MaxExact, o.Instances)
	}
	orElse(&o.Every, 100*time.Millisecond)
	orElse(&o.Timeout, max(250*time.Millisecond, 2*o.Every))
	orElse(&o.ExactTimeout, 50*time.Millisecond)
	orElse(&o.MaxBatch, 4096)
	orElse(&o.MaxExact, 256)
	orElse(&o.Instances, 1)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	// Totals begin anew with each process, so it must not be taken for the one before.
	var unique [6]byte
	_, _ = rand.Read(unique[:]) // never fails
	s := &Syncer{
		o: o, store: o.Store, log: o.Logger, instance: o.Instance + "-" + hex.EncodeToString(unique[:]),
		hurried: make(chan struct{}, 1), exactSlots: make(chan struct{}, o.MaxExact),
	}
	s.priceNow.Store(1)
	s.instances.Store(int64(o.Instances))
	s.metrics = o.Metrics.forSyncer(s)
	return s, nil
}

func orElse[T comparable](v *T, byDefault T) {
	var zero T
	if *v == zero {
		*v = byDefault
	}
}

// Degraded says whether limits are applied by this instance alone.
func (s *Syncer) Degraded() bool { return s.degraded.Load() }

// Instances returns how many instances were alive when the store last told.
func (s *Syncer) Instances() int { return int(s.instances.Load()) }

// Lag returns how long ago the store last answered, and false if it never has.
func (s *Syncer) Lag() (time.Duration, bool) {
	at := s.heardAt.Load()
	if at == 0 {
		return 0, false
	}
	return max(time.Duration(s.o.Now().UnixNano()-at), 0), true
}

// price is what a unit costs here and now.
func (s *Syncer) price() int64 {
	if s == nil {
		return 1
	}
	return s.priceNow.Load()
}

// enqueue puts a key among those of the next exchange. Each key is there once, so
// there are at most as many as the limits tell apart.
func (s *Syncer) enqueue(m member) {
	s.mu.Lock()
	s.queue = append(s.queue, m)
	s.mu.Unlock()
}

// hurry asks for an exchange before its time.
func (s *Syncer) hurry() {
	select {
	case s.hurried <- struct{}{}:
	default:
	}
}

// Run exchanges until ctx ends, tells the store what is left then, and returns nil.
// Nothing else ends it. It may be run again, but not twice at a time.
func (s *Syncer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		began := s.o.Now()
		s.round(ctx)
		s.wait(ctx, began)
	}
	if s.Degraded() || s.failures > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Timeout)
	defer cancel()
	err := s.exchangeAll(ctx)
	if err == nil {
		err = s.store.Leave(ctx, s.instance)
	}
	if err != nil {
		s.log.Info("the other instances were not told what this one spent last of the shared limits, and share with it for a few seconds more", "error", err)
	}
	return nil
}

// wait waits for the time of the next round.
func (s *Syncer) wait(ctx context.Context, began time.Time) {
	spent := s.o.Now().Sub(began)
	pause, hurried := s.o.Every-spent, s.hurried
	if s.failures > 0 {
		pause = min(s.o.Every<<min(s.failures-1, 20), maxBackoff)
		pause = max(pause/2+mathrand.N(pause/2+1), s.o.Every/hurryShare)
		hurried = nil
	}
	// Spared for the store, and for those who have something else to do.
	least := max(s.o.Every/hurryShare-spent, 0)
	if !sleep(ctx, least, nil) {
		return
	}
	sleep(ctx, pause-least, hurried)
}

// sleep returns after d, or when it is woken. It returns false if ctx ended.
func sleep(ctx context.Context, d time.Duration, woken <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-woken:
	}
	return true
}

// round says that the instance is alive and exchanges what there is.
func (s *Syncer) round(ctx context.Context) {
	var err error
	if s.o.Now().Sub(s.beatAt) >= beatEvery || s.failures > 0 {
		err = s.beat(ctx)
	}
	if err == nil {
		if s.Degraded() {
			s.heard = s.o.Now()
		}
		err = s.exchangeAll(ctx)
	}
	switch {
	case err == nil:
		s.recovered()
	case ctx.Err() == nil:
		s.failed(err)
	}
}

func (s *Syncer) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	n, err := s.store.Beat(ctx, s.instance, beatTTL)
	if err != nil {
		return err
	}
	s.instances.Store(int64(max(n, 1)))
	s.beatAt = s.o.Now()
	s.heardFrom()
	return nil
}

// exchangeAll exchanges all keys that were touched, a batch at a time. On an error
// those that are left wait for the next time.
func (s *Syncer) exchangeAll(ctx context.Context) error {
	s.mu.Lock()
	queue := s.queue
	s.queue = s.spare[:0]
	s.mu.Unlock()
	var err error
	for i := 0; i < len(queue) && err == nil; i += s.o.MaxBatch {
		end := min(i+s.o.MaxBatch, len(queue))
		if err = s.exchange(ctx, queue[i:end]); err != nil {
			s.mu.Lock()
			s.queue = append(s.queue, queue[end:]...)
			s.mu.Unlock()
		}
	}
	clear(queue)
	s.spare = queue[:0]
	return err
}

// exchange exchanges one batch.
func (s *Syncer) exchange(ctx context.Context, batch []member) error {
	began := s.o.Now()
	s.entries, s.parts = s.entries[:0], s.parts[:0]
	for _, m := range batch {
		var e Entry
		if m.cut(&e, began, s.heard) {
			s.entries, s.parts = append(s.entries, e), append(s.parts, m)
		}
	}
	if len(s.entries) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	err := s.store.Exchange(ctx, s.instance, s.entries)
	now := s.o.Now()
	s.metrics.seconds.Observe(now.Sub(began).Seconds())
	for i := range s.entries {
		if s.entries[i].Done {
			s.parts[i].apply(&s.entries[i], began, now)
		} else if s.parts[i].shared().queued.CompareAndSwap(false, true) {
			s.enqueue(s.parts[i])
		}
	}
	clear(s.parts)
	if err == nil {
		s.heardFrom()
	}
	return err
}

func (s *Syncer) heardFrom() {
	s.heardAt.Store(s.o.Now().UnixNano())
	s.exactBad.Store(0)
}

// failed notes a failure, and degrades after some in a row.
func (s *Syncer) failed(err error) {
	s.metrics.errors.Inc()
	if s.failures++; s.failures == 1 {
		s.downSince = s.o.Now()
	}
	if s.Degraded() {
		s.drop()
		return
	}
	if s.failures < failuresToDegrade {
		return
	}
	n := max(s.instances.Load(), 1)
	s.degraded.Store(true)
	s.priceNow.Store(n)
	s.metrics.state.Set(0)
	s.log.Warn("limits are no longer shared among the instances: their store does not answer. Until it does, this instance applies its part of every limit by itself, and tries again",
		"error", err, "instances", n, "failures", s.failures)
}

// recovered notes that the store answers.
func (s *Syncer) recovered() {
	if s.failures == 0 {
		s.metrics.state.Set(1)
		return
	}
	s.failures = 0
	if !s.Degraded() {
		return
	}
	s.priceNow.Store(1)
	s.degraded.Store(false)
	s.metrics.state.Set(1)
	s.log.Info("limits are shared among the instances again", "instances", s.instances.Load(), "after", s.o.Now().Sub(s.downSince).Round(time.Millisecond))
}

// drop empties the queue: while nobody is told, keys that come and go would pile up
// there. Those that are used again come again.
func (s *Syncer) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.queue {
		m.shared().queued.Store(false)
	}
	clear(s.queue)
	s.queue = s.queue[:0]
}

// take asks the store to decide about e. It returns false if there is no answer in
// time; then e says nothing.
func (s *Syncer) take(e *Entry) bool {
	if s.Degraded() || s.exactBad.Load() >= exactFailures {
		return false
	}
	select {
	case s.exactSlots <- struct{}{}:
	default:
		return false
	}
	// On a goroutine of its own, since a client may take longer than its context to
	// return, for instance while it connects, and the request must not.
	ctx, cancel := context.WithTimeout(context.Background(), s.o.ExactTimeout)
	defer cancel()
	answer := make(chan Entry, 1)
	asked := *e
	go func() {
		defer func() { <-s.exactSlots }()
		if err := s.store.Take(ctx, &asked); err != nil {
			asked.Done = false
		}
		answer <- asked
	}()
	select {
	case a := <-answer:
		if a.Done {
			*e = a
			s.exactBad.Store(0)
			return true
		}
	case <-ctx.Done():
	}
	s.metrics.exactErrors.Inc()
	if s.exactBad.Add(1) == exactFailures {
		s.hurry()
	}
	return false
}
