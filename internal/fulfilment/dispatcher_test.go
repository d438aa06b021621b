package fulfilment_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
)

// verify checks a signature with the library that receivers use. The clock of a
// test is not the library's.
func verify(t *testing.T, secret string, r received) error {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return wh.VerifyIgnoringTimestamp(r.body, r.header)
}

func TestAWebhookArrivesSigned(t *testing.T) {
	r := newReceiver(t, answering(http.StatusNoContent))
	w := newWorld(t, func(o *fulfilment.Options) { o.Now = time.Now })
	w.clock = newClock(time.Now())
	secret := w.put(t, "shop", r.URL+"/hook?token=x")
	w.run(t)
	n := w.notice(7)
	w.notify(t, 7, 1)
	got := wait(t, r.got, "the webhook")
	s := wait(t, w.store.settled, "its settlement")

	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := wh.Verify(got.body, got.header); err != nil {
		t.Errorf("the standard library of Standard Webhooks: %v", err)
	}
	d := w.delivery(t)
	for name, want := range map[string]string{"Webhook-Id": d.ID, "Content-Type": "application/json", "User-Agent": "Millrace/1.2.3",
		"Traceparent": n.Trace, "Idempotency-Key": "", "Accept-Encoding": ""} {
		if got.header.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      json.RawMessage
	}
	if err := json.Unmarshal(got.body, &body); err != nil || body.Type != n.EventType || !body.Timestamp.Equal(n.At) || string(body.Data) != string(n.Data) {
		t.Errorf("error %v, body %s", err, got.body)
	}
	if s.Outcome != fulfilment.OutcomeDelivered || d.DeliveredAt.IsZero() || !d.NextAttempt.IsZero() || d.Attempts != 1 || d.LastStatus != 204 || d.OrderID != n.OrderID {
		t.Errorf("settled %+v, the delivery is %+v", s, d)
	}
}

func TestARotatedSecretSignsBesideTheNewOneForADay(t *testing.T) {
	r := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	before := w.put(t, "shop", r.URL)
	w.run(t)
	put, err := w.PutEndpoint(t.Context(), "demo", "shop", fulfilment.EndpointRequest{URL: r.URL, RotateSecret: true}, 0, ann)
	if err != nil || put.NewSecret == "" || put.NewSecret == before {
		t.Fatalf("%+v, %v", put, err)
	}
	w.notify(t, 1, 1)
	got := wait(t, r.got, "the webhook")
	if n := len(strings.Fields(got.header.Get("Webhook-Signature"))); n != 2 || verify(t, before, got) != nil || verify(t, put.NewSecret, got) != nil {
		t.Errorf("%d signatures; the old secret: %v, the new one: %v", n, verify(t, before, got), verify(t, put.NewSecret, got))
	}
	w.clock.Advance(24 * time.Hour)
	w.notify(t, 2, 1)
	got = wait(t, r.got, "the webhook a day later")
	if verify(t, before, got) == nil || verify(t, put.NewSecret, got) != nil {
		t.Errorf("a day later; the old secret: %v, the new one: %v", verify(t, before, got), verify(t, put.NewSecret, got))
	}
}

func TestAnEndpointThatIsGoneIsDisabledUntilItIsEnabled(t *testing.T) {
	status := atomic.Int32{}
	status.Store(http.StatusGone)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.run(t)
	w.notify(t, 1, 1)
	first := wait(t, r.got, "the first attempt")
	wait(t, w.store.settled, "its settlement")

	e, err := w.Endpoint(t.Context(), "demo", "shop")
	if err != nil || !e.Disabled() || !strings.Contains(e.DisabledReason, "410") {
		t.Fatalf("the endpoint is %+v, error %v", e, err)
	}
	l := w.onlyLetter(t)
	var rejected *deadletter.RejectedError
	if _, err := w.letters.Redrive(t.Context(), "demo", l.ID, nil, ann); !errors.As(err, &rejected) || !strings.Contains(rejected.Reason, "enable it") {
		t.Errorf("redriving to a disabled endpoint: %v", err)
	}

	on := true
	if _, err := w.PutEndpoint(t.Context(), "demo", "shop", fulfilment.EndpointRequest{URL: r.URL, Enabled: &on}, 0, ann); err != nil {
		t.Fatal(err)
	}
	status.Store(http.StatusOK)
	if _, err := w.letters.Redrive(t.Context(), "demo", l.ID, nil, ann); err != nil {
		t.Fatal(err)
	}
	again := wait(t, r.got, "the redriven webhook")
	if s := wait(t, w.store.settled, "its settlement"); s.Outcome != fulfilment.OutcomeDelivered {
		t.Errorf("settled %+v", s)
	}
	if again.header.Get("Webhook-Id") != first.header.Get("Webhook-Id") || string(again.body) != string(first.body) {
		t.Errorf("another webhook was sent: %v %s", again.header, again.body)
	}
	w.notify(t, 3, 1)
}

func TestARedirectIsAFailureAndIsNotFollowed(t *testing.T) {
	target := newReceiver(t, answering(http.StatusOK))
	r := newReceiver(t, http.RedirectHandler(target.URL, http.StatusTemporaryRedirect).ServeHTTP)
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.run(t)
	w.notify(t, 1, 1)
	s := wait(t, w.store.settled, "the settlement")
	if s.Outcome != fulfilment.OutcomeRetry || s.Status != 307 || !strings.Contains(s.Error, "redirects are not followed") || len(target.got) != 0 {
		t.Errorf("settled %+v, %d requests at the target", s, len(target.got))
	}
}

func TestASlowEndpointHoldsUpNoOther(t *testing.T) {
	const n = 200
	var atOnce, most atomic.Int32
	release := make(chan struct{})
	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) {
		now := atOnce.Add(1)
		defer atOnce.Add(-1)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	fast := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, func(o *fulfilment.Options) { o.Policy.InFlight, o.Policy.PerEndpoint = 32, 4 })
	w.put(t, "slow", slow.URL)
	w.put(t, "fast", fast.URL)
	w.run(t)
	for i := range n {
		w.notify(t, i, 2)
	}
	ids := map[string]bool{}
	for range n {
		ids[wait(t, fast.got, "the fast endpoint's webhooks").header.Get("Webhook-Id")] = true
	}
	if len(ids) != n {
		t.Errorf("%d different webhooks of %d", len(ids), n)
	}
	if m := most.Load(); m > 4 {
		t.Errorf("%d attempts at once to the slow endpoint, want at most 4", m)
	}
	close(release)
	for range n {
		wait(t, slow.got, "the slow endpoint's webhooks")
	}
}

func TestTheScheduleEndsInADeadLetterThatCanBeRedriven(t *testing.T) {
	status := atomic.Int32{}
	status.Store(http.StatusInternalServerError)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.run(t)
	w.notify(t, 1, 1)
	id := ""
	var gaps []time.Duration
	for attempt := 1; ; attempt++ {
		got := wait(t, r.got, "the attempt")
		s := wait(t, w.store.settled, "its settlement")
		if id == "" {
			id = got.header.Get("Webhook-Id")
		}
		if got.header.Get("Webhook-Id") != id || s.Attempt != attempt || s.Status != 500 {
			t.Fatalf("attempt %d has id %s, settled %+v", attempt, got.header.Get("Webhook-Id"), s)
		}
		if s.Outcome == fulfilment.OutcomeGaveUp {
			break
		}
		gaps = append(gaps, s.RetryAt.Sub(s.At))
		w.clock.Advance(gaps[len(gaps)-1])
	}
	if diff := cmp.Diff(fulfilment.DefaultSchedule(), gaps); diff != "" { // the random number is in the middle
		t.Errorf("the time between attempts differs (-want +got):\n%s", diff)
	}
	l := w.onlyLetter(t)
	if l.Kind != deadletter.KindDelivery || l.Attempts != 11 || l.EventID != id || !strings.Contains(l.Reason, "after 11 attempts") || !strings.Contains(l.Reason, "500") {
		t.Errorf("the dead letter is %+v", l)
	}

	status.Store(http.StatusAccepted)
	if _, err := w.letters.Redrive(t.Context(), "demo", l.ID, nil, ann); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, r.got, "the redriven webhook"); got.header.Get("Webhook-Id") != id {
		t.Errorf("redriven as %s, want %s", got.header.Get("Webhook-Id"), id)
	}
	if s := wait(t, w.store.settled, "its settlement"); s.Outcome != fulfilment.OutcomeDelivered || s.Attempt != 1 {
		t.Errorf("settled %+v", s)
	}
}

func TestACrashBetweenSendingAndSettlingSendsAgain(t *testing.T) {
	r := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	stop := w.run(t)
	gone := errors.New("the process is gone")
	w.store.failing.Store(&gone)
	w.notify(t, 1, 1)
	first := wait(t, r.got, "the first attempt")
	wait(t, w.store.failed, "its settlement to fail")
	stop()
	w.store.failing.Store(nil)

	w.run(t)
	w.notify(t, 2, 1) // works, and shows that the first is not sent before its lease ends
	other := wait(t, r.got, "another webhook")
	wait(t, w.store.settled, "its settlement")
	if other.header.Get("Webhook-Id") == first.header.Get("Webhook-Id") {
		t.Error("a claimed delivery was sent before its lease ended")
	}
	w.clock.Advance(time.Minute)
	again := wait(t, r.got, "the second attempt")
	s := wait(t, w.store.settled, "its settlement")
	if again.header.Get("Webhook-Id") != first.header.Get("Webhook-Id") || s.Outcome != fulfilment.OutcomeDelivered || s.Attempt != 2 {
		t.Errorf("sent again as %s, want %s; settled %+v", again.header.Get("Webhook-Id"), first.header.Get("Webhook-Id"), s)
	}
}

func TestStoppingGivesBackWhatWaitsAndFinishesWhatIsUnderWay(t *testing.T) {
	release := make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	w := newWorld(t, func(o *fulfilment.Options) { o.Policy.InFlight, o.Policy.PerEndpoint = 32, 1 })
	w.put(t, "shop", r.URL)
	for i := range 4 {
		w.notify(t, i, 1)
	}
	stop := w.run(t)
	wait(t, r.got, "the attempt")
	var stopped sync.WaitGroup
	stopped.Go(stop)
	var outcomes []fulfilment.Outcome
	for range 2 {
		outcomes = append(outcomes, wait(t, w.store.settled, "what is given back").Outcome)
	}
	close(release)
	outcomes = append(outcomes, wait(t, w.store.settled, "what was under way").Outcome)
	stopped.Wait()
	if diff := cmp.Diff([]fulfilment.Outcome{fulfilment.OutcomeReleased, fulfilment.OutcomeReleased, fulfilment.OutcomeDelivered}, outcomes); diff != "" {
		t.Errorf("outcomes differ (-want +got):\n%s", diff)
	}
	list, _, err := w.Deliveries(t.Context(), "demo", "", 10, "")
	if err != nil {
		t.Fatal(err)
	}
	waiting := slices.DeleteFunc(list, func(d fulfilment.Delivery) bool { return d.Attempts != 0 || d.NextAttempt.After(start) })
	if len(waiting) != 3 {
		t.Errorf("%d deliveries are due at once and have no attempt, want 3: %+v", len(waiting), list)
	}
}

func TestAnAnswerWithoutEndIsNotReadToItsEnd(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	// The timeout is beyond the test's patience: only the bound ends the reading.
	w := newWorld(t, func(o *fulfilment.Options) { o.Policy.Timeout, o.Policy.Lease = 2*patience, 5*patience })
	w.put(t, "shop", r.URL)
	w.run(t)
	w.notify(t, 1, 1)
	if s := wait(t, w.store.settled, "the settlement"); s.Outcome != fulfilment.OutcomeDelivered {
		t.Errorf("settled %+v", s)
	}
}

func TestAnEndpointThatDoesNotAnswerTimesOut(t *testing.T) {
	r := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	w := newWorld(t, func(o *fulfilment.Options) { o.Policy.Timeout = 50 * time.Millisecond })
	w.put(t, "shop", r.URL+"/?token=t0ken")
	w.run(t)
	w.notify(t, 1, 1)
	s := wait(t, w.store.settled, "the settlement")
	if s.Outcome != fulfilment.OutcomeRetry || s.Status != 0 || !strings.Contains(s.Error, "in time") || strings.Contains(s.Error, "t0ken") {
		t.Errorf("settled %+v", s)
	}
}

func TestAClockThatWasWrongStallsNothing(t *testing.T) {
	r := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.clock.Advance(365 * 24 * time.Hour)
	w.notify(t, 1, 1)
	w.clock.Advance(-365 * 24 * time.Hour)
	w.run(t)
	wait(t, r.got, "the webhook that is due in a year")
}

func TestAPrivateTargetIsRefusedWhereItIsNotAllowed(t *testing.T) {
	r := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL) // while it was allowed
	w.options.Policy.AllowPrivate = false
	strict, err := fulfilment.New(w.options)
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	w.Service = strict
	stop := w.run(t)
	defer stop()
	w.notify(t, 1, 1)
	s := wait(t, w.store.settled, "the settlement")
	if s.Outcome != fulfilment.OutcomeRetry || !strings.Contains(s.Error, "not on the public internet") || len(r.got) != 0 {
		t.Errorf("settled %+v, %d were sent", s, len(r.got))
	}
}
