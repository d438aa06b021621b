package order_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"millrace/internal/bus"
	"millrace/internal/order"
)

// silent is a bus that nobody can reach.
type silent struct{ bus.Bus }

func (silent) Subscribe(context.Context, bus.Group, bus.Handler) (bus.Subscription, error) {
	return nil, bus.ErrUnavailable
}

// crewOf runs a crew without a bus until the test ends.
func crewOf(t *testing.T, w *world, store order.Store) {
	t.Helper()
	crew, err := order.NewCrew(order.CrewOptions{Bus: silent{}, Worker: w.worker, Store: store, Now: w.clock, Sweep: time.Millisecond,
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- crew.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// counted counts calls and signals them.
type counted struct {
	*memory
	seen chan string
}

func (c *counted) Defer(ctx context.Context, d []order.Deferral) error {
	if len(d) > 0 {
		select {
		case c.seen <- fmt.Sprint("defer ", len(d)):
		default:
		}
	}
	return c.memory.Defer(ctx, d)
}

func (c *counted) CountByStatus(ctx context.Context) (map[order.Status]int64, error) {
	select {
	case c.seen <- "chores":
	default:
	}
	return c.memory.CountByStatus(ctx)
}

func TestWhileTheProviderIsDownAllWhoWaitArePutOffByOneWrite(t *testing.T) {
	first := begun(t)
	w := newWorld(first)
	t.Cleanup(w.stepper.Close)
	for i := range 99 {
		o := first
		o.ID = fmt.Sprint("other", i)
		w.store.orders[order.Ref{TenantID: o.TenantID, ID: o.ID}] = o
	}
	w.bank.down = true
	w.pass(time.Minute)
	store := &counted{memory: w.store, seen: make(chan string, 16)}
	w.worker, _ = order.NewWorker(order.WorkerOptions{Store: store, Stepper: w.stepper, Payments: w.bank, Merchant: w.postbox, Now: w.clock})
	crewOf(t, w, store)
	if got := <-store.seen; got != "defer 100" {
		t.Errorf("first: %s", got)
	}
	if got := <-store.seen; got != "chores" {
		t.Errorf("then: %s", got)
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, o := range w.store.orders {
		if o.Status != order.Placed || !o.NextAttempt.After(w.clock()) {
			t.Errorf("order %s is %s, next at %v", o.ID, o.Status, o.NextAttempt)
		}
	}
}

func TestTheSweeperBringsOrdersToTheirEndWithoutTheBus(t *testing.T) {
	w := newWorld(begun(t))
	t.Cleanup(w.stepper.Close)
	told := make(chan struct{}, 1)
	w.postbox.after = func(string) {
		select {
		case told <- struct{}{}:
		default:
		}
	}
	crewOf(t, w, w.store)
	for range 10_000 {
		w.pass(20 * time.Second)
		select {
		case <-told:
			return
		case <-time.After(time.Millisecond):
		}
		if w.clock().After(w.only().Deadline) {
			break
		}
	}
	t.Errorf("it is %s", w.only().Status)
}

func TestAClockThatIsSetBackHoldsUpNoOrder(t *testing.T) {
	w := newWorld(begun(t))
	t.Cleanup(w.stepper.Close)
	told, swept := make(chan struct{}, 1), make(chan struct{}, 1)
	signal := func(ch chan struct{}) {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	w.postbox.after = func(string) { signal(told) }
	w.store.after = func(call string) {
		if call == "due" {
			signal(swept)
		}
	}
	crewOf(t, w, w.store)
	<-swept // the crew has seen the clock as it was
	w.pass(-3 * time.Hour)
	for passed := time.Duration(0); passed < 2*time.Hour; passed += 20 * time.Second {
		select {
		case <-told: // the order was to be looked at three hours and some seconds from the jump
			return
		case <-time.After(20 * time.Millisecond):
		}
		w.pass(20 * time.Second)
	}
	t.Errorf("it is %s, to be looked at in %v", w.only().Status, w.only().NextAttempt.Sub(w.clock()))
}

func TestReadersSeeWhyAnOrderWaits(t *testing.T) {
	for name, work := range map[string]func(t *testing.T, w *world, store *counted){
		"that a worker took up": func(t *testing.T, w *world, _ *counted) {
			if err := w.worker.Work(t.Context(), w.only()); err != nil {
				t.Fatal(err)
			}
		},
		"that the sweeper took up": func(t *testing.T, w *world, store *counted) {
			crewOf(t, w, store)
			for _, want := range []string{"defer 1", "chores"} {
				if got := <-store.seen; got != want {
					t.Fatalf("%s, want %s", got, want)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := begun(t)
			w := newWorld(first)
			w.stepper.Close()
			w.bank.down = true
			w.pass(time.Minute)
			store := &counted{memory: w.store, seen: make(chan string, 16)}
			s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
			w.worker, _ = order.NewWorker(order.WorkerOptions{Store: store, Stepper: s.stepper, Payments: w.bank, Merchant: w.postbox, Now: w.clock})
			viewer := order.Viewer{TenantID: first.TenantID}
			if view, err := s.Cached(t.Context(), viewer, first.ID); err != nil || view.Order.LastError != "" {
				t.Fatalf("before: %q, %v", view.Order.LastError, err)
			}
			work(t, w, store)
			if view, err := s.Cached(t.Context(), viewer, first.ID); err != nil || view.Order.LastError == "" {
				t.Errorf("after: %q, %v; want why it waits", view.Order.LastError, err)
			}
		})
	}
}
