package order_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/audit"
	"millrace/internal/order"
)

func TestWhoWaitsForAStatusIsWokenByTheChange(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	placer, err := order.NewPlacer(order.PlacerOptions{Store: w.store, Policy: policy, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	defer placer.Close()
	s, err := order.NewService(order.ServiceOptions{Store: w.store, Placer: placer, Stepper: w.stepper, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	viewer := order.Viewer{TenantID: "demo", CustomerID: "ann"}
	got := make(chan string)
	wait := func(version int64) {
		o, err := s.WaitStatus(t.Context(), viewer, "o1", version, time.Minute)
		got <- fmt.Sprint(o.Status, o.Version, err)
	}
	go wait(1)
	if err := asked(order.EventChargeIntended)(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != "charging2 <nil>" {
		t.Errorf("woken with %s", g)
	}
	go wait(0) // until it is at its end
	for _, e := range []order.Event{order.EventCancelAsked, order.EventChargeResolved} {
		if err := asked(e)(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	if g := <-got; g != "cancelled4 <nil>" {
		t.Errorf("woken with %s", g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o, err := s.WaitStatus(ctx, viewer, "o1", 4, time.Minute); err != nil || o.Version != 4 {
		t.Errorf("a caller that left: %v", err)
	}
}

// deaf is a store that answers no read before the caller gives up.
type deaf struct{ *memory }

func (d deaf) Order(ctx context.Context, _, _ string) (order.Order, error) {
	<-ctx.Done()
	return order.Order{}, ctx.Err()
}

func TestAWaitEndsWhenTheStoreDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, deaf{newMemory()})
		began := time.Now()
		if _, err := s.WaitStatus(t.Context(), order.Viewer{TenantID: "demo"}, "o1", 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// newService returns a Service over a store, until the test's end.
func newService(t *testing.T, store order.Store) *order.Service {
	t.Helper()
	placer, err := order.NewPlacer(order.PlacerOptions{Store: store, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(placer.Close)
	stepper, err := order.NewStepper(order.StepperOptions{Store: store, Policy: policy, MinInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stepper.Close)
	s, err := order.NewService(order.ServiceOptions{Store: store, Placer: placer, Stepper: stepper})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unsure is a store that does not know what became of a step.
type unsure struct{ *memory }

func (unsure) Advance(context.Context, []*order.Step, order.Policy) ([]order.Outcome, error) {
	return nil, order.ErrUnknownOutcome
}

func TestWhoDoesNotKnowWhatBecameOfACommandIsToldHowToFindOut(t *testing.T) {
	store := newMemory()
	shipped := order.Order{TenantID: "demo", ID: "o1", CustomerID: "ann", Status: order.Shipped, Version: 1}
	store.orders[order.Ref{TenantID: "demo", ID: "o1"}] = shipped
	s := newService(t, unsure{store})
	c := order.Command{Viewer: order.Viewer{TenantID: "demo"}, OrderID: "o1", Actor: audit.Actor{Subject: "ops"}}
	_, cancelErr := s.Cancel(t.Context(), c)
	_, refundErr := s.Refund(t.Context(), order.RefundRequest{Command: c, Key: "k"})
	for _, told := range []struct {
		err  error
		want string
	}{
		{cancelErr, "whether this took effect is not known; send the same request again: if it did, nothing more is done"},
		{refundErr, "whether this took effect is not known; send the same request again with the same Idempotency-Key to find out"},
	} {
		var u *order.Unavailable
		if !errors.As(told.err, &u) || !u.Unknown || u.Detail != told.want {
			t.Errorf("told %v, want %q", told.err, told.want)
		}
	}
}
