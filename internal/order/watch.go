package order

import (
	"context"
	"slices"
	"sync"
	"time"
)

// watches wakes those who wait for a change of an order.
type watches struct {
	mu      sync.Mutex
	waiting map[Ref][]chan struct{} // guarded by mu
}

// add returns a channel that is closed at the order's next change, and what must
// be called when nobody waits on it any more.
func (w *watches) add(r Ref) (changed <-chan struct{}, done func()) {
	ch := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[r] = append(w.waiting[r], ch)
	return ch, func() { w.remove(r, ch) }
}

func (w *watches) remove(r Ref, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := slices.DeleteFunc(w.waiting[r], func(c chan struct{}) bool { return c == ch })
	if len(list) == 0 {
		delete(w.waiting, r)
		return
	}
	w.waiting[r] = list
}

func (w *watches) wake(r Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.waiting[r] {
		close(ch)
	}
	delete(w.waiting, r)
}

// pollInterval is how often a waiter asks the store by itself: another instance
// may have changed the order.
const pollInterval = time.Second

// watchReadTimeout bounds each read of the order while someone waits for it.
const watchReadTimeout = 5 * time.Second

// WaitStatus returns the order once its version is not the given one (0: once its
// status is terminal), when wait has passed, or when ctx ends: then it returns
// the order as it stands. Errors as of Order; context.DeadlineExceeded if the store
// does not answer.
func (s *Service) WaitStatus(ctx context.Context, v Viewer, id string, version int64, wait time.Duration) (Order, error) {
	s.o.Metrics.statusWaiters.Inc()
	defer s.o.Metrics.statusWaiters.Dec()
	end := time.NewTimer(wait)
	defer end.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		// Watched before it is read, so that no change falls between.
		changed, done := s.o.Stepper.watches.add(Ref{v.TenantID, id})
		o, err := s.readWatched(ctx, v, id)
		if err != nil || wait <= 0 || version != 0 && o.Version != version || version == 0 && o.Status.Terminal() {
			done()
			return o, err
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-end.C:
			wait = 0
		case <-ctx.Done():
			wait = 0
		}
		done()
	}
}

// readWatched reads an order for someone who waits for it, also when the wait has
// just ended with ctx.
func (s *Service) readWatched(ctx context.Context, v Viewer, id string) (Order, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), watchReadTimeout)
	defer cancel()
	return s.Order(ctx, v, id)
}
