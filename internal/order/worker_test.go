package order_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"millrace/internal/audit"
	"millrace/internal/order"
)

// deed is something that happens to the one order of a world.
type deed struct {
	name string
	do   func(context.Context, *world) error
}

func begin(ctx context.Context, w *world) error {
	return w.worker.Begin(ctx, order.Ref{TenantID: "demo", ID: "o1"})
}

func sweepNow(ctx context.Context, w *world) error { return w.sweep(ctx) }

// asked is what people ask, which is refused where it comes too late.
func asked(e order.Event) func(context.Context, *world) error {
	return func(ctx context.Context, w *world) error {
		_, err := w.stepper.Do(ctx, order.Step{TenantID: "demo", OrderID: "o1", Event: e, At: w.clock(), Actor: "ann"})
		return err
	}
}

// story is a course of deeds, and where it must lead whatever happens on the way.
type story struct {
	name   string
	behave func() (order.ChargeState, error)
	deeds  []deed
	end    map[order.Status]bool
}

func lost(state order.ChargeState) func() (order.ChargeState, error) {
	return func() (order.ChargeState, error) { return state, errors.New("no answer") }
}

func says(state order.ChargeState) func() (order.ChargeState, error) {
	return func() (order.ChargeState, error) { return state, nil }
}

func stories() []story {
	cancel := deed{"cancel", asked(order.EventCancelAsked)}
	work := deed{"begin", begin}
	sweep := deed{"sweep", sweepNow}
	late := deed{"late", func(ctx context.Context, w *world) error { w.pass(time.Hour); return w.sweep(ctx) }}
	ship := deed{"ship", asked(order.EventShipped)}
	refund := deed{"refund", asked(order.EventRefundAsked)}
	ends := func(s ...order.Status) map[order.Status]bool {
		m := map[order.Status]bool{}
		for _, x := range s {
			m[x] = true
		}
		return m
	}
	return []story{
		{"paid", says(order.ChargeCaptured), []deed{work}, ends(order.Fulfilling)},
		{"declined", says(order.ChargeDeclined), []deed{work}, ends(order.PaymentFailed)},
		{"captured but the answer is lost", lost(order.ChargeCaptured), []deed{work}, ends(order.Fulfilling)},
		{"declined but the answer is lost", lost(order.ChargeDeclined), []deed{work}, ends(order.PaymentFailed)},
		{"cancelled after the charge", says(order.ChargeCaptured), []deed{work, cancel}, ends(order.Refunded, order.Cancelled)},
		{"cancelled after a lost answer", lost(order.ChargeCaptured), []deed{work, cancel}, ends(order.Cancelled, order.Refunded)},
		{"cancelled before the charge", says(order.ChargeCaptured), []deed{cancel, work}, ends(order.Cancelled)},
		{"out of time after a lost answer", lost(order.ChargeCaptured), []deed{work, late}, ends(order.Expired, order.Fulfilling)},
		{"out of time before the charge", says(order.ChargeCaptured), []deed{late, work}, ends(order.Expired)},
		{"shipped, then refunded", says(order.ChargeCaptured), []deed{work, sweep, ship, refund},
			ends(order.Refunded, order.Completed, order.Fulfilling, order.Shipped)},
		{"shipped against a cancel", says(order.ChargeCaptured), []deed{work, ship, cancel}, ends(order.Completed, order.Shipped, order.Refunded, order.Cancelled)},
	}
}

// settle lets time pass and the sweeper work until nothing happens any more.
func settleWorld(t *testing.T, w *world) {
	t.Helper()
	for range 60 {
		w.pass(20 * time.Second)
		if err := w.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStoriesEndAsTheyMust(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(begun(t))
			defer func() { w.stepper.Close() }()
			w.bank.behave = s.behave
			for _, d := range s.deeds {
				if err := d.do(t.Context(), w); err != nil {
					t.Fatal(err)
				}
			}
			settleWorld(t, w)
			if o := w.only(); !s.end[o.Status] {
				t.Errorf("it ends %s", o.Status)
			}
			if err := w.books(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestACrashBetweenAnyTwoStepsLosesAndDoublesNothing tells every story again and
// again, and each time ends the process one step later: before or after each call
// to the store, the bank or the merchant. Then it starts anew.
func TestACrashBetweenAnyTwoStepsLosesAndDoublesNothing(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			crashes := 0
			for point := 1; ; point++ {
				if !crashAt(t, &s, point) {
					break
				}
				crashes++
			}
			if crashes < 2 {
				t.Errorf("only %d points to crash at were found", crashes)
			}
		})
	}
}

// crashAt tells a story up to a point, and says whether the point was reached.
func crashAt(t *testing.T, s *story, point int) (reached bool) {
	t.Helper()
	w := newWorld(begun(t))
	w.bank.behave = s.behave
	where, calls, dead := "", 0, false
	// Once dead, nothing the old process does takes effect: before answers with an
	// error. A call after which it dies has had its effect.
	before := func(call string) error {
		if calls++; calls == point {
			where, dead = "before "+call, true
		}
		if dead {
			return errors.New("the process is dead")
		}
		return nil
	}
	after := func(call string) {
		if calls++; calls == point {
			where, dead = "after "+call, true
		}
	}
	w.store.before, w.store.after = before, after
	w.bank.before, w.bank.after = before, after
	w.postbox.before, w.postbox.after = before, after
	for i, d := range s.deeds {
		_ = d.do(t.Context(), w)
		if dead {
			// The rest of the story is told to the new process.
			w.stepper.Close()
			w.store.before, w.store.after, w.bank.before, w.bank.after, w.postbox.before, w.postbox.after = nil, nil, nil, nil, nil, nil
			w.boot()
			for _, d := range s.deeds[i+1:] {
				if err := d.do(t.Context(), w); err != nil {
					t.Fatalf("crash %s in %s: %s: %v", where, s.deeds[i].name, d.name, err)
				}
			}
			break
		}
	}
	w.store.before, w.store.after, w.bank.before, w.bank.after, w.postbox.before, w.postbox.after = nil, nil, nil, nil, nil, nil
	settleWorld(t, w)
	defer w.stepper.Close()
	o := w.only()
	if err := w.books(); err != nil {
		t.Errorf("crash %s: %v", where, err)
	}
	// A crash may eat a deed of a person, who asks again or not; it must never leave
	// the order under way.
	if o.Status.Working() || o.Parked() {
		t.Errorf("crash %s: it is still %s, parked %v: %s", where, o.Status, o.Parked(), o.LastError)
	}
	if paid := o.Captured > 0 && o.Refunded == 0; paid && w.postbox.count("order.paid") != 1 && o.Progress.Shipment == nil {
		t.Errorf("crash %s: it is %s and the merchant was told %d times", where, o.Status, w.postbox.count("order.paid"))
	}
	return where != ""
}

// TestMessagesInAnyOrderTenTimesOverChangeNothing replays everything that was ever
// told, shuffled, while the order is at its end.
func TestMessagesInAnyOrderTenTimesOverChangeNothing(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(begun(t))
			defer func() { w.stepper.Close() }()
			w.bank.behave = s.behave
			rng := rand.New(rand.NewPCG(1, 2))
			replay := func() {
				for range 10 {
					version := w.only().Version
					for _, i := range rng.Perm(int(version)) {
						if err := begin(t.Context(), w); err != nil {
							t.Fatal(err)
						}
						for _, e := range []order.Event{order.EventPlaced, order.EventCaptured, order.EventRefunded} {
							if err := w.worker.Tell(t.Context(), order.Statuses()[rng.IntN(12)], order.Told{TenantID: "demo", OrderID: "o1", Version: int64(i), Event: e}); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
			}
			for _, d := range s.deeds {
				if err := d.do(t.Context(), w); err != nil {
					t.Fatal(err)
				}
				replay()
			}
			settleWorld(t, w)
			end := w.only()
			replay()
			if o := w.only(); o.Version != end.Version || o.Status != end.Status {
				t.Errorf("it was %s at version %d, and is %s at %d", end.Status, end.Version, o.Status, o.Version)
			}
			if err := w.books(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhileTheProviderIsDownOrdersWaitAndThenGoOn(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	w.bank.down = true
	for range 10 {
		if err := errors.Join(begin(t.Context(), w), w.sweep(t.Context())); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
	}
	if o := w.only(); o.Status != order.Placed || o.Attempts != 0 || o.Parked() {
		t.Fatalf("while the provider is down it is %s after %d attempts, parked %v", o.Status, o.Attempts, o.Parked())
	}
	w.bank.down = false
	settleWorld(t, w)
	if o := w.only(); o.Status != order.Fulfilling || w.bank.captures != 1 {
		t.Errorf("then it is %s, %d captures", o.Status, w.bank.captures)
	}
}

func TestAnOrderThatIsRetriedIsLookedAtWhenItsTimeIsUp(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	w.bank.behave = says(order.ChargePending)
	if err := begin(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	deadline := w.only().Deadline
	w.pass(deadline.Sub(w.clock()) - time.Second)
	if err := w.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := w.only(); o.Attempts != 2 || o.NextAttempt.After(deadline.Add(time.Second)) {
		t.Errorf("after %d attempts it is looked at %v after its deadline", o.Attempts, o.NextAttempt.Sub(deadline))
	}
}

func TestTheProvidersWebhookMayComeBeforeItsAnswer(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	w.bank.after = func(call string) {
		if call == "charge" {
			if err := w.worker.Noticed(t.Context(), order.Ref{TenantID: "demo", ID: "o1"}, order.Charge{State: order.ChargeCaptured, Ref: "ch_o1", Captured: 2000}); err != nil {
				t.Error(err)
			}
			if o := w.only(); o.Status != order.Paid {
				t.Errorf("after the webhook it is %s", o.Status)
			}
		}
	}
	if err := begin(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	settleWorld(t, w)
	if o := w.only(); o.Status != order.Fulfilling {
		t.Errorf("it ends %s", o.Status)
	}
	if err := w.books(); err != nil {
		t.Error(err)
	}
}

func TestACancelWhileTheChargeIsInFlightGivesTheMoneyBack(t *testing.T) {
	for _, when := range []string{"before charge", "after charge"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(begun(t))
			defer w.stepper.Close()
			cancel := func() {
				if err := asked(order.EventCancelAsked)(t.Context(), w); err != nil {
					t.Error(err)
				}
			}
			w.bank.before = func(call string) error {
				if when == "before "+call {
					cancel()
				}
				return nil
			}
			w.bank.after = func(call string) {
				if when == "after "+call {
					cancel()
				}
			}
			if err := begin(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			settleWorld(t, w)
			if o := w.only(); o.Status != order.Cancelled || o.Captured != 2000 || o.Refunded != 2000 {
				t.Errorf("it ends %s, captured %d, refunded %d", o.Status, o.Captured, o.Refunded)
			}
			if err := w.books(); err != nil {
				t.Error(err)
			}
		})
	}
}

// refusing is a bank that refuses questions.
type refusing struct{ *bank }

func (refusing) Lookup(context.Context, *order.Order) (order.Charge, error) {
	return order.Charge{}, &order.PaymentRejectedError{Code: "resource_missing"}
}

func TestAQuestionThatIsRefusedIsNoDecline(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	w.bank.behave = lost(order.ChargeCaptured)
	if err := begin(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	worker, err := order.NewWorker(order.WorkerOptions{Store: w.store, Stepper: w.stepper, Payments: refusing{w.bank}, Merchant: w.postbox, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Work(t.Context(), w.only()); err != nil {
		t.Fatal(err)
	}
	if o := w.only(); o.Status != order.Charging || !o.Parked() {
		t.Errorf("it is %s, parked %v", o.Status, o.Parked())
	}
	if err := w.books(); err != nil {
		t.Error(err)
	}
}

func TestEveryRefundIsToldThoughTheNextIsAskedForAlready(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	refund := func(amount int64) {
		out, err := w.stepper.Do(t.Context(), order.Step{TenantID: "demo", OrderID: "o1", Event: order.EventRefundAsked, At: w.clock(), Actor: "ann", Amount: amount})
		if err := errors.Join(err, out.Err); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(begin(t.Context(), w), w.worker.Work(t.Context(), w.only()), asked(order.EventShipped)(t.Context(), w)); err != nil {
		t.Fatal(err)
	}
	refund(100)
	if err := w.worker.Work(t.Context(), w.only()); err != nil {
		t.Fatal(err)
	}
	refund(200)
	for range 2 { // the first refund is told after the second was asked for
		for _, m := range w.store.told {
			var told order.Told
			if m.Lane == order.LaneBus && json.Unmarshal(m.Data, &told) == nil && told.Event == order.EventRefunded {
				if err := w.worker.Tell(t.Context(), order.Status(strings.TrimPrefix(m.Subject, "orders.")), told); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.worker.Work(t.Context(), w.only()); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.postbox.count("order.refunded"); n != 2 {
		t.Errorf("the merchant was told of %d refunds of 2", n)
	}
}

func TestTheMerchantIsNotToldToShipWhatIsCancelled(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	if err := begin(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	stale := w.only()
	if err := errors.Join(asked(order.EventCancelAsked)(t.Context(), w), w.worker.Work(t.Context(), w.only()), w.worker.Work(t.Context(), stale)); err != nil {
		t.Fatal(err)
	}
	if n := w.postbox.count("order.paid"); n != 0 || w.postbox.count("order.cancelled") != 1 {
		t.Errorf("told: %v", w.postbox.told)
	}
}

func TestAnOrderWhoseChargeWasNeverSentExpiresWithoutTheProvider(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	w.bank.before = func(call string) error {
		w.bank.down = true // between the question and the call
		return nil
	}
	if err := begin(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if o := w.only(); o.Status != order.Placed || o.Version != 3 || !o.NextAttempt.After(w.clock()) {
		t.Fatalf("it is %s at version %d, next attempt %v", o.Status, o.Version, o.NextAttempt)
	}
	w.pass(time.Hour)
	if err := w.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := w.only(); o.Status != order.Expired {
		t.Errorf("after its deadline it is %s", o.Status)
	}
	if err := w.books(); err != nil {
		t.Error(err)
	}
}

func TestMoneyThatWentBackByHandEndsAParkedOrder(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	if err := errors.Join(begin(t.Context(), w), asked(order.EventCancelAsked)(t.Context(), w)); err != nil {
		t.Fatal(err)
	}
	step := order.Step{TenantID: "demo", OrderID: "o1", Event: order.EventSettledByHand, At: w.clock(), Actor: "ops", Reason: "bank transfer"}
	var refused *order.NotAllowedError
	if out, err := w.stepper.Do(t.Context(), step); err != nil || !errors.As(out.Err, &refused) {
		t.Errorf("while it is worked on: %v, %v", out.Err, err)
	}
	w.bank.refunds["other"] = 1500 // so that the whole can not be given back
	settleWorld(t, w)
	if o := w.only(); !o.Parked() {
		t.Fatalf("it is %s", o.Status)
	}
	if out, err := w.stepper.Do(t.Context(), step); err != nil || out.Err != nil || out.Order.Status != order.Refunded || out.Order.Refunded != 2000 {
		t.Errorf("it is %s, refunded %d: %v, %v", out.Order.Status, out.Order.Refunded, out.Err, err)
	}
	if s := w.store.stock["a"]; s.Reserved != 0 {
		t.Errorf("stock %+v", s)
	}
}

func TestARefundThatIsRefusedForGoodParksTheOrder(t *testing.T) {
	w := newWorld(begun(t))
	defer w.stepper.Close()
	if err := errors.Join(begin(t.Context(), w), asked(order.EventCancelAsked)(t.Context(), w)); err != nil {
		t.Fatal(err)
	}
	w.bank.refunds["other"] = 1500 // so that the whole can not be given back
	settleWorld(t, w)
	o := w.only()
	if o.Status != order.Refunding || !o.Parked() || w.store.letters != 1 {
		t.Fatalf("it is %s, parked %v, %d letters", o.Status, o.Parked(), w.store.letters)
	}
	delete(w.bank.refunds, "other")
	delete(w.bank.refunds, o.RefundKey(1))
	if err := asked(order.EventRedriven)(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	settleWorld(t, w)
	if o := w.only(); o.Status != order.Refunded {
		t.Errorf("after the redrive it is %s: %s", o.Status, o.LastError)
	}
}

func TestABuyerSeesAndCancelsOnlyOwnOrders(t *testing.T) {
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
	ann, bob, shop, rival := order.Viewer{TenantID: "demo", CustomerID: "ann"}, order.Viewer{TenantID: "demo", CustomerID: "bob"}, order.Viewer{TenantID: "demo"}, order.Viewer{TenantID: "rival"}
	for viewer, sees := range map[order.Viewer]bool{ann: true, bob: false, shop: true, rival: false} {
		_, err := s.Order(t.Context(), viewer, "o1")
		_, errHistory := s.History(t.Context(), viewer, "o1")
		_, errWait := s.WaitStatus(t.Context(), viewer, "o1", 99, 0)
		for _, err := range []error{err, errHistory, errWait} {
			if (err == nil) != sees || !sees && !errors.Is(err, order.ErrNotFound) {
				t.Errorf("%+v: error %v", viewer, err)
			}
		}
		page, err := s.List(t.Context(), viewer, order.Query{CustomerID: "ann", Limit: 10})
		if err != nil || (len(page.Orders) == 1) != sees {
			t.Errorf("%+v lists %d orders, error %v", viewer, len(page.Orders), err)
		}
	}
	c := order.Command{Viewer: bob, OrderID: "o1", Actor: audit.Actor{Subject: "bob"}}
	if _, err := s.Cancel(t.Context(), c); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("bob cancels ann's order: %v", err)
	}
	c.Viewer, c.Actor.Subject = ann, "ann"
	for range 2 { // the second time it is cancelled already
		if o, err := s.Cancel(t.Context(), c); err != nil || o.Status != order.Cancelled {
			t.Errorf("ann cancels: %s, %v", o.Status, err)
		}
	}
	if _, err := s.Ship(t.Context(), order.ShipRequest{Command: c}); err == nil {
		t.Error("a cancelled order was shipped")
	}
	for _, key := range []string{"", "with space", string(make([]byte, 300))} {
		var invalid *order.InvalidError
		if _, err := s.Refund(t.Context(), order.RefundRequest{Command: c, Key: key}); !errors.As(err, &invalid) {
			t.Errorf("a refund with the key %q: %v", key, err)
		}
	}
}
