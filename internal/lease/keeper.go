package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// KeeperOptions are what a Keeper is made of. Store, Name and Holder are required.
type KeeperOptions struct {
	Store Store
	// Name is the lease's, Holder this instance's.
	Name, Holder string
	// TTL is how long the lease lasts if it is not prolonged, 10 s if zero. It is
	// prolonged three times as often.
	TTL time.Duration
	// CallTimeout bounds one call of the store; a third of TTL if zero.
	CallTimeout time.Duration
	Now         func() time.Time // time.Now if nil; must carry the monotonic clock
	Logger      *slog.Logger
}

func (o KeeperOptions) withDefaults() (KeeperOptions, error) {
	if o.TTL == 0 {
		o.TTL = 10 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = o.TTL / 3
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Store == nil {
		return o, errors.New("a keeper of a lease needs a store")
	}
	if o.CallTimeout < 0 || o.CallTimeout >= o.TTL {
		return o, fmt.Errorf("a call of the store may take %v, it must be more than nothing and less than the lease's life of %v", o.CallTimeout, o.TTL)
	}
	return o, Check(o.Name, o.Holder, o.TTL)
}

// Keeper holds one lease for as long as it can.
//
// It owns one goroutine, which prolongs the lease every third of its life, a
// little earlier or later each time so that many keepers do not come together, and
// after a failure tries again every tenth of it: a store that is away for less than
// half of a lease's life costs no lease.
// The lease counts as lost when another has it, or when it could not be prolonged
// in time by this process's own clock: before anybody else may take it, if the
// clocks agree. Lost is final; who wants the lease again makes another Keeper.
// Close stops the goroutine and gives the lease back. All methods are safe for
// concurrent use.
type Keeper struct {
	o     KeeperOptions
	token int64
	lost  chan struct{} // closed when the lease is lost
	stop  context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex // guards what follows
	until time.Time  // when the lease ends if nothing is done
	over  bool       // lost is closed
}

// Take tries once to take a lease. If another has it, the Keeper is nil and the
// lease says who.
func Take(ctx context.Context, o KeeperOptions) (*Keeper, Lease, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, Lease{}, err
	}
	k := &Keeper{o: o, lost: make(chan struct{}), done: make(chan struct{})}
	l, held, err := k.acquire(ctx)
	if err != nil || !held {
		return nil, l, err
	}
	k.token = l.Token
	var run context.Context
	run, k.stop = context.WithCancel(context.Background())
	go k.run(run)
	return k, l, nil
}

// acquire takes or prolongs the lease, and notes until when it is safe.
func (k *Keeper) acquire(ctx context.Context) (Lease, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, k.o.CallTimeout)
	defer cancel()
	began := k.o.Now() // the store counts from here, however long it takes
	l, held, err := k.o.Store.Acquire(ctx, k.o.Name, k.o.Holder, began, k.o.TTL)
	if err == nil && held {
		k.mu.Lock()
		k.until = began.Add(k.o.TTL)
		k.mu.Unlock()
	}
	return l, held, err
}

func (k *Keeper) run(ctx context.Context) {
	defer close(k.done)
	wait := k.o.TTL / 3
	for {
		wait += time.Duration((rand.Float64() - 0.5) * 0.2 * float64(wait))
		if !k.rest(ctx, wait) {
			return
		}
		l, held, err := k.acquire(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && held && l.Token == k.token:
			wait = k.o.TTL / 3
			continue
		case err == nil:
			k.lose("another instance has it", "holder", l.Holder)
			return
		}
		k.o.Logger.Warn("a lease could not be prolonged; it is tried again while it lasts", "lease", k.o.Name, "error", err)
		wait = k.o.TTL / 10
	}
}

// rest waits and says whether the lease lasted that long and ctx allowed it.
func (k *Keeper) rest(ctx context.Context, wait time.Duration) bool {
	k.mu.Lock()
	left := k.until.Sub(k.o.Now())
	k.mu.Unlock()
	timer := time.NewTimer(min(wait, max(left, 0)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	if k.Held() {
		return true
	}
	k.lose("it could not be prolonged in time")
	return false
}

func (k *Keeper) lose(why string, more ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	k.over = true
	close(k.lost)
	k.o.Logger.Warn("a lease was lost: "+why, append([]any{"lease", k.o.Name}, more...)...)
}

// Held says whether the lease is held at this moment, as far as can be known
// without asking: a process that was paused for longer than its lease learns so
// from its own clock.
func (k *Keeper) Held() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.over && k.o.Now().Before(k.until)
}

// Lost is closed when the lease is lost. It stays open after Close.
func (k *Keeper) Lost() <-chan struct{} { return k.lost }

// Token is the lease's.
func (k *Keeper) Token() int64 { return k.token }

// Close stops prolonging and gives the lease back, so that others need not wait
// for its end. It may be called more than once.
func (k *Keeper) Close() {
	k.stop()
	<-k.done
	k.mu.Lock()
	mine := !k.over
	k.over = true
	k.mu.Unlock()
	if !mine {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), k.o.CallTimeout)
	defer cancel()
	if err := k.o.Store.Release(ctx, k.o.Name, k.o.Holder); err != nil {
		k.o.Logger.Warn("a lease could not be given back; others wait until it ends", "lease", k.o.Name, "error", err)
	}
}
