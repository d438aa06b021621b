package fulfilment_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
)

// putFor puts an endpoint of any tenant.
func (w *world) putFor(t *testing.T, tenant, id, url string) {
	t.Helper()
	if _, err := w.PutEndpoint(t.Context(), tenant, id, fulfilment.EndpointRequest{URL: url}, 0, ann); err != nil {
		t.Fatal(err)
	}
}

func (w *world) notifyOf(t *testing.T, tenant string, n, wantDeliveries int) {
	t.Helper()
	notice := w.notice(n)
	notice.TenantID = tenant
	if got, err := w.Notify(t.Context(), notice); err != nil || got != wantDeliveries {
		t.Fatalf("Notify: %d deliveries, error %v; want %d", got, err, wantDeliveries)
	}
}

func (w *world) enable(t *testing.T, id, url string, on bool) {
	t.Helper()
	if _, err := w.PutEndpoint(t.Context(), "demo", id, fulfilment.EndpointRequest{URL: url, Enabled: &on}, 0, ann); err != nil {
		t.Fatal(err)
	}
}

func (w *world) lettersOf(t *testing.T, reason string, want int) {
	t.Helper()
	list, _, err := w.letters.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 1000, "")
	if err != nil || len(list) != want {
		t.Fatalf("%d dead letters, error %v; want %d", len(list), err, want)
	}
	for _, l := range list {
		if !strings.Contains(l.Reason, reason) {
			t.Errorf("a dead letter says %q, want %q in it", l.Reason, reason)
		}
	}
}

func (w *world) redriveAll(t *testing.T, want int) {
	t.Helper()
	sum, err := w.letters.RedriveAll(t.Context(), deadletter.Filter{TenantID: "demo", Kind: deadletter.KindDelivery}, 1000, ann)
	if err != nil || sum.Done != want || sum.Failed != 0 {
		t.Fatalf("redriven: %+v, error %v; want %d", sum, err, want)
	}
}

func TestHungEndpointsOfManyTenantsHoldUpNoOther(t *testing.T) {
	hung := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	well := newReceiver(t, answering(http.StatusOK))
	// The timeout is beyond the test's patience: nothing but the bounds frees a place.
	w := newWorld(t, func(o *fulfilment.Options) {
		o.Policy.InFlight, o.Policy.Timeout, o.Policy.Lease = 16, 3*patience, 10*patience
	})
	const tenants, lanes, each = 5, 12, 4 // 60 lanes for 16 places
	for i := range tenants {
		tenant := fmt.Sprint("hung-", i)
		for j := range lanes {
			w.putFor(t, tenant, fmt.Sprint("e", j), hung.URL)
		}
		for n := range each {
			w.notifyOf(t, tenant, n, lanes)
		}
	}
	w.putFor(t, "well", "shop", well.URL)
	w.run(t)
	for range 2 * tenants { // an eighth of the places each
		wait(t, hung.got, "the hung endpoints' places to be taken")
	}
	for n := range 20 {
		w.notifyOf(t, "well", n, 1)
		wait(t, well.got, "the webhook of a tenant whose endpoint works")
	}
	if len(hung.got) != 0 {
		t.Errorf("%d more places went to tenants that have their part", len(hung.got))
	}
}

func TestAnEndpointThatKeepsFailingIsLeftAloneForAWhile(t *testing.T) {
	const n = 30
	status := atomic.Int32{}
	status.Store(http.StatusInternalServerError)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	other := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.putFor(t, "other", "shop", other.URL)
	for i := range n {
		w.notify(t, i, 1)
	}
	w.run(t)
	others := 0
	attempts := func(want int) { // of shop, once the dispatcher has looked around anew, twice
		t.Helper()
		for range want {
			wait(t, r.got, "an attempt")
		}
		for range 2 {
			w.notifyOf(t, "other", others, 1)
			others++
			wait(t, other.got, "another's webhook")
		}
		if len(r.got) != 0 {
			t.Fatalf("%d attempts too many", len(r.got))
		}
	}
	attempts(3)
	w.clock.Advance(5*time.Second - 1)
	attempts(0)
	w.clock.Advance(1)
	attempts(1)
	w.clock.Advance(10*time.Second - 1)
	attempts(0)
	w.put(t, "shop", r.URL+"/mended") // whoever changes it wants to see what that does
	attempts(1)
	list, _, err := w.Deliveries(t.Context(), "demo", "", 100, "")
	if err != nil {
		t.Fatal(err)
	}
	counted := 0
	for _, d := range list {
		counted += d.Attempts
	}
	if len(list) != n || counted != 5 {
		t.Errorf("%d attempts are counted on %d deliveries, want 5 on %d", counted, len(list), n)
	}

	status.Store(http.StatusOK)
	w.clock.Advance(time.Minute)
	for delivered := 0; delivered < n; {
		if s := wait(t, w.store.settled, "what waited to be delivered"); s.TenantID == "demo" && s.Outcome == fulfilment.OutcomeDelivered {
			delivered++
		}
	}
}

func TestWhatAnEndpointNeverTakesIsGivenUpThoughItWasNotTried(t *testing.T) {
	const n = 20
	status := atomic.Int32{}
	status.Store(http.StatusInternalServerError)
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	w := newWorld(t, func(o *fulfilment.Options) {
		o.Policy.Schedule, o.Policy.MaxRetryAfter = []time.Duration{time.Hour, time.Hour}, time.Second
	})
	w.put(t, "shop", r.URL)
	for i := range n {
		w.notify(t, i, 1)
	}
	w.run(t)
	for range 3 {
		wait(t, r.got, "an attempt")
		wait(t, w.store.settled, "its settlement")
	}
	w.clock.Advance(3 * time.Hour)
	for gaveUp := 0; gaveUp < n; {
		if s := wait(t, w.store.settled, "what is too old to be given up"); s.Outcome == fulfilment.OutcomeGaveUp {
			gaveUp++
		}
	}
	if len(r.got) != 0 {
		t.Errorf("%d were sent though they are too old", len(r.got))
	}
	w.lettersOf(t, "longer than webhooks are tried", n)

	status.Store(http.StatusOK)
	w.redriveAll(t, n)
	for range n {
		wait(t, r.got, "the redriven webhooks")
	}
}

func TestWhatHappensWhileAnEndpointIsDisabledCanBeRedriven(t *testing.T) {
	const n = 7
	r := newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", r.URL)
	w.notify(t, 0, 1) // before it is
	w.enable(t, "shop", r.URL, false)
	if wants, err := w.Wants(t.Context(), "demo", fulfilment.EventOrderPaid); err != nil || !wants {
		t.Errorf("a disabled endpoint wants no more: %v, %v", wants, err)
	}
	for i := 1; i < n; i++ {
		w.notify(t, i, 1)
	}
	w.run(t)
	for range n {
		if s := wait(t, w.store.settled, "a settlement"); s.Outcome != fulfilment.OutcomeGaveUp || !s.Letter {
			t.Errorf("settled %+v", s)
		}
	}
	if len(r.got) != 0 {
		t.Errorf("%d were sent to a disabled endpoint", len(r.got))
	}
	w.lettersOf(t, "enable it and redrive", n)
	w.enable(t, "shop", r.URL, true)
	w.redriveAll(t, n)
	ids := map[string]bool{}
	for range n {
		ids[wait(t, r.got, "the redriven webhooks").header.Get("Webhook-Id")] = true
	}
	if len(ids) != n {
		t.Errorf("%d different webhooks of %d", len(ids), n)
	}
	w.lettersOf(t, "", 0)
}

func TestWhatWasForADeletedEndpointIsNotForTheNextOfItsName(t *testing.T) {
	old, next := newReceiver(t, answering(http.StatusOK)), newReceiver(t, answering(http.StatusOK))
	w := newWorld(t, nil)
	w.put(t, "shop", old.URL)
	w.notify(t, 1, 1)
	late, _, err := w.Deliveries(t.Context(), "demo", "", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteEndpoint(t.Context(), "demo", "shop", ann); err != nil {
		t.Fatal(err)
	}
	w.lettersOf(t, "put it again and redrive", 1)
	// Another process had not heard of it yet.
	late[0].ID = "00000000-0000-8000-8000-000000000001"
	if err := w.store.Enqueue(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(time.Second)
	w.put(t, "shop", next.URL)
	w.run(t)
	if s := wait(t, w.store.settled, "the late one's settlement"); s.Outcome != fulfilment.OutcomeGaveUp || !s.Letter || !strings.Contains(s.Error, "deleted") {
		t.Errorf("settled %+v", s)
	}
	w.lettersOf(t, "put it again and redrive", 2)
	if len(old.got)+len(next.got) != 0 {
		t.Errorf("%d and %d were sent", len(old.got), len(next.got))
	}
	w.redriveAll(t, 2)
	for range 2 {
		wait(t, next.got, "what was redriven on purpose")
	}
}

func TestWhatIsForADeletedEndpointBecomesADeadLetter(t *testing.T) {
	w := newWorld(t, nil)
	w.put(t, "shop", "http://127.0.0.1:1/")
	w.notify(t, 1, 1)
	late, _, err := w.Deliveries(t.Context(), "demo", "", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteEndpoint(t.Context(), "demo", "shop", ann); err != nil {
		t.Fatal(err)
	}
	late[0].ID = "00000000-0000-8000-8000-000000000001"
	if err := w.store.Enqueue(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	w.run(t)
	wait(t, w.store.settled, "the late one's settlement")
	w.lettersOf(t, "put it again and redrive", 2)
	w.notify(t, 2, 0)
}
