package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"millrace/internal/event"
	"millrace/internal/lease"
)

// Sink brings one partition into the store; *event.Sink is one.
type Sink interface {
	Locate(ctx context.Context) error
	Run(ctx context.Context) error
	Committed() uint64
	Changed() <-chan struct{}
	Err() error
}

// AssignerOptions are what an Assigner is made of. Broker, Leases, Instance and
// NewSink are required.
type AssignerOptions struct {
	Broker Broker
	Leases lease.Store
	// Stream names the stream among others that keep leases in the same store;
	// "events" if empty.
	Stream string
	// Instance names this process among all that live: another after each start.
	Instance string
	// NewSink makes the sink of a partition. It is called with the partition as
	// SinkOptions.Log and SinkOptions.Advice.
	NewSink func(p *Partition) (Sink, error)
	// LeaseTTL is how long a dead instance keeps its partitions, 10 s if zero.
	LeaseTTL time.Duration
	// AcceptLoss goes on where messages are missing, instead of refusing to. It is
	// for one start, after the operator has seen what is lost.
	AcceptLoss bool
	// ReadAheadBytes bounds what is read of one partition before it is stored, before
	// the frames that a batch holds; 8 MiB if zero.
	ReadAheadBytes int64
	// TrimEvery is the least time between two trims of a partition, 2 s if zero.
	TrimEvery time.Duration
	// TrimAfter is how long messages stay in the stream once they are in the store,
	// 110 s if zero. It must be longer than the DecideWithin of every Publisher, or a
	// message that is sent again because its answer was lost can be there twice after
	// the servers were restarted; longer than the servers remember ids is of no use.
	TrimAfter time.Duration
	// MaxRest bounds how long this instance leaves a partition to others after its
	// sink has failed, 30 s if zero.
	MaxRest time.Duration
	Now     func() time.Time // time.Now if nil
	Logger  *slog.Logger
	Metrics *Metrics
}

func (o AssignerOptions) withDefaults() (AssignerOptions, error) {
	o.Stream = orDefault(o.Stream, "events")
	o.LeaseTTL = orDefault(o.LeaseTTL, 10*time.Second)
	o.ReadAheadBytes = orDefault(o.ReadAheadBytes, 8<<20)
	o.TrimEvery = orDefault(o.TrimEvery, 2*time.Second)
	o.TrimAfter = orDefault(o.TrimAfter, defaultDecideWithin+10*time.Second)
	o.MaxRest = orDefault(o.MaxRest, 30*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	switch {
	case o.Broker == nil || o.Leases == nil || o.NewSink == nil:
		return o, errors.New("an assigner of partitions needs a broker, leases and a way to make sinks")
	case o.Instance == "":
		return o, errors.New("an assigner of partitions needs the name of this instance")
	case o.LeaseTTL < 0 || o.ReadAheadBytes < 0 || o.TrimEvery < 0 || o.TrimAfter < 0 || o.MaxRest < 0:
		return o, errors.New("a bound of the assigner of partitions is negative")
	}
	return o, nil
}

// Assigner shares the partitions of a stream among the instances that sink it.
// Each registers itself by a lease, sees by the others' how many live, and takes
// up to its share of the partitions, by a lease each. One that has more than its
// share gives the rest back; one that dies loses all when its leases end.
//
// Run is the goroutine that decides; each owned partition has one more that runs
// its sink and two that watch it.
type Assigner struct {
	o        AssignerOptions
	rotation int           // where this instance begins to look for partitions
	ended    chan struct{} // has room for one: an owner has ended
	self     *lease.Keeper // Run's own: that this instance lives
	// cutOffSince is Run's own: since when the stream cannot be reached, zero if it can.
	cutOffSince time.Time
	failures    map[int]int // Run's own: how often in a row the sink of a partition failed

	mu        sync.Mutex        // guards what follows
	owners    map[int]*owner    // by partition
	changed   chan struct{}     // closed and replaced at every commit
	err       error             // of the last round
	failing   map[int]error     // why the sink of a partition ended here
	restUntil map[int]time.Time // until when a partition is left to others; Run writes it
}

// NewAssigner returns an Assigner; Run starts it.
func NewAssigner(o AssignerOptions) (*Assigner, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(o.Instance)) // never fails
	return &Assigner{
		o: o, rotation: int(h.Sum32() % uint32(max(o.Broker.Partitions(), 1))), ended: make(chan struct{}, 1), changed: make(chan struct{}),
		failures: map[int]int{}, restUntil: map[int]time.Time{}, owners: map[int]*owner{}, failing: map[int]error{},
	}, nil
}

func (a *Assigner) sinkers() string         { return "sink/" + a.o.Stream + "/" }
func (a *Assigner) partitions() string      { return "stream/" + a.o.Stream + "/" }
func (a *Assigner) leaseOf(n int) string    { return a.partitions() + strconv.Itoa(n) }
func (a *Assigner) interval() time.Duration { return a.o.LeaseTTL / 3 }

// Run takes, sinks and gives back partitions until ctx ends, and then gives
// everything back. It returns nil: what fails is tried again, and told by Probe.
func (a *Assigner) Run(ctx context.Context) error {
	defer a.giveBack()
	for {
		err := a.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			a.o.Logger.Warn("the partitions of the stream could not be shared out; it is tried again", "error", err)
		}
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		wait := a.interval()
		timer := time.NewTimer(wait + time.Duration((rand.Float64()-0.5)*0.2*float64(wait)))
		select {
		case <-timer.C:
		case <-a.ended:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// giveBack ends everything that is owned, and says that this instance is gone.
func (a *Assigner) giveBack() {
	a.release(a.Owned())
	a.unregister()
	a.reap()
}

// reachable says why this instance could sink nothing, if that is so: then it must
// not count among those that share the partitions.
func (a *Assigner) reachable(ctx context.Context) error {
	if err := a.o.Broker.Err(); err != nil {
		return err
	}
	if a.self != nil && len(a.failures) == 0 || len(a.Owned()) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.interval())
	defer cancel()
	_, err := a.o.Broker.State(ctx, a.rotation)
	return err
}

// cutOff gives everything back once the stream has been out of reach for as long
// as a dead instance would keep it: others may reach it.
func (a *Assigner) cutOff() {
	now := a.o.Now()
	if a.cutOffSince.IsZero() {
		a.cutOffSince = now
	}
	if now.Sub(a.cutOffSince) >= a.o.LeaseTTL || len(a.Owned()) == 0 {
		a.release(a.Owned())
		a.unregister()
	}
}

// unregister says that this instance shares no partitions.
func (a *Assigner) unregister() {
	if a.self != nil {
		a.self.Close()
		a.self = nil
	}
}

// round looks at who lives and what is free, and takes or gives back.
func (a *Assigner) round(ctx context.Context) error {
	a.reap()
	if err := a.reachable(ctx); err != nil {
		a.cutOff()
		return err
	}
	a.cutOffSince = time.Time{}
	if err := a.register(ctx); err != nil {
		return err
	}
	live, err := a.list(ctx, a.sinkers())
	if err != nil {
		return err
	}
	total := a.o.Broker.Partitions()
	share := (total + max(len(live), 1) - 1) / max(len(live), 1)
	owned := a.Owned()
	if len(owned) > share {
		a.release(owned[share:])
		return nil
	}
	if len(owned) == share {
		return nil
	}
	taken, err := a.list(ctx, a.partitions())
	if err != nil {
		return err
	}
	isTaken := make(map[string]bool, len(taken))
	for _, l := range taken {
		isTaken[l.Name] = true
	}
	missing := share - len(owned)
	for i := range total {
		n := (a.rotation + i) % total
		if missing == 0 || ctx.Err() != nil {
			return nil
		}
		// One whose lease was lost is here until its sink has ended.
		if isTaken[a.leaseOf(n)] || slices.Contains(owned, n) || a.o.Now().Before(a.restUntil[n]) {
			continue
		}
		took, err := a.take(ctx, n)
		if err != nil {
			return err
		}
		if took {
			missing--
		}
	}
	return nil
}

// register says, or says again, that this instance lives.
func (a *Assigner) register(ctx context.Context) error {
	if a.self != nil && a.self.Held() {
		return nil
	}
	a.unregister()
	k, l, err := lease.Take(ctx, a.keeperOptions(a.sinkers()+a.o.Instance))
	if err == nil && k == nil {
		err = fmt.Errorf("the lease %s is %s's", l.Name, l.Holder)
	}
	a.self = k
	return err
}

func (a *Assigner) keeperOptions(name string) lease.KeeperOptions {
	return lease.KeeperOptions{Store: a.o.Leases, Name: name, Holder: a.o.Instance, TTL: a.o.LeaseTTL, Now: a.o.Now, Logger: a.o.Logger}
}

func (a *Assigner) list(ctx context.Context, prefix string) ([]lease.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, a.interval())
	defer cancel()
	return a.o.Leases.Leases(ctx, prefix, a.o.Now())
}

// take takes a partition if it is free, and starts its sink.
func (a *Assigner) take(ctx context.Context, n int) (bool, error) {
	k, _, err := lease.Take(ctx, a.keeperOptions(a.leaseOf(n)))
	if err != nil || k == nil {
		return false, err
	}
	o := a.newOwner(n, k)
	a.mu.Lock()
	a.owners[n] = o
	a.o.Metrics.owned.Set(float64(len(a.owners)))
	a.mu.Unlock()
	a.o.Logger.Info("this instance sinks a partition of the stream", "partition", n, "token", k.Token())
	o.start()
	return true, nil
}

// release ends the sinks of partitions and gives them back.
func (a *Assigner) release(partitions []int) {
	var wg sync.WaitGroup
	for _, n := range partitions {
		a.mu.Lock()
		o := a.owners[n]
		a.mu.Unlock()
		if o != nil {
			wg.Go(o.end)
		}
	}
	wg.Wait()
	a.reap()
}

// reap forgets the owners that have ended. A partition whose sink failed is left
// to others for a while.
func (a *Assigner) reap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, o := range a.owners {
		select {
		case <-o.done:
		default:
			continue
		}
		delete(a.owners, n)
		a.o.Metrics.forget(n)
		if o.err == nil {
			delete(a.failing, n)
			continue
		}
		if o.sank { // it got somewhere
			a.failures[n] = 0
		}
		rest := min(time.Second<<min(a.failures[n], 10), a.o.MaxRest)
		a.failures[n]++
		a.restUntil[n] = a.o.Now().Add(rest)
		a.failing[n] = o.err
	}
	a.o.Metrics.owned.Set(float64(len(a.owners)))
}

// Owned returns the partitions that this instance sinks now, in order.
func (a *Assigner) Owned() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	owned := make([]int, 0, len(a.owners))
	for n := range a.owners {
		owned = append(owned, n)
	}
	slices.Sort(owned)
	return owned
}

// Changed returns a channel that is closed at the next commit of any sink of this
// instance.
func (a *Assigner) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

func (a *Assigner) commit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Probe says why this instance does not sink as it should: it cannot reach the
// store's leases, or the sink of a partition failed or does so now.
func (a *Assigner) Probe() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	errs := []error{a.err}
	for n, err := range a.failing {
		o := a.owners[n]
		if o != nil && o.sink.Load() != nil || a.o.Now().After(a.restUntil[n].Add(a.o.LeaseTTL)) {
			continue // it sinks again, here or elsewhere
		}
		errs = append(errs, fmt.Errorf("partition %d: %w", n, err))
	}
	for n, o := range a.owners {
		if err := o.sinkErr(); err != nil {
			errs = append(errs, fmt.Errorf("partition %d: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

var _ event.CommitSignal = (*Assigner)(nil)
