package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
)

// WebhooksStores are the stores of one fresh database that webhooks write to.
type WebhooksStores struct {
	Webhooks    fulfilment.Store
	DeadLetters deadletter.Store
	Audit       audit.Store
}

// Webhooks runs the conformance suite of fulfilment.Store. The factory gives fresh
// stores and registers its own clean-up.
func Webhooks(t *testing.T, fresh func(t testing.TB) WebhooksStores) {
	for _, c := range []struct {
		name string
		test func(*testing.T, WebhooksStores)
	}{
		{"an endpoint comes back as it was put", endpointFields},
		{"an endpoint is put under its version only", endpointVersions},
		{"a tenant has a bounded number of endpoints", endpointBound},
		{"an endpoint is deleted once", endpointDelete},
		{"what is on its way to a deleted endpoint becomes dead letters", endpointDeleteLetters},
		{"of a long backlog a bounded part is given up with its endpoint", endpointDeleteMany},
		{"changes of endpoints are audited, without secrets", endpointAudit},
		{"a delivery comes back as it was enqueued, and once", deliveryFields},
		{"deliveries of more than a statement are all there", deliveryMany},
		{"the backlog names endpoints with something due, by page", deliveryBacklog},
		{"claims take what is due longest, each delivery once", deliveryClaims},
		{"a claim that ends is claimed again", deliveryClaimEnds},
		{"of many that claim at once none claims what another has", deliveryClaimRace},
		{"outcomes are written, and stale ones are not", deliverySettle},
		{"a delivery given up leaves a dead letter", deliveryLetter},
		{"410 disables the endpoint that was tried", deliveryGone},
		{"a late 410 does not disable the next endpoint of the name", deliveryGoneLate},
		{"deliveries are listed by id, by page", deliveryPages},
		{"due ones are counted, and those beyond the horizon recalled", deliveryRecall},
		{"a delivery is revived once", deliveryRevive},
		{"old settled deliveries are dropped, a bounded number at a time", deliveryDrop},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// webhookDelivery returns a delivery that is told apart by n, due n seconds after monday.
func webhookDelivery(tenant, endpoint string, n int) fulfilment.Delivery {
	return fulfilment.Delivery{TenantID: tenant, ID: fmt.Sprintf("00000000-0000-8000-8000-%012d", n), EndpointID: endpoint,
		EventType: fulfilment.EventOrderPaid, OrderID: fmt.Sprint("order-", n), Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		CreatedAt: monday.Add(time.Duration(n) * time.Second), NextAttempt: monday.Add(time.Duration(n) * time.Second),
		Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
}

func enqueueDeliveries(t testing.TB, s fulfilment.Store, deliveries ...fulfilment.Delivery) {
	t.Helper()
	if err := s.Enqueue(t.Context(), deliveries); err != nil {
		t.Fatalf("Enqueue: %v", err)
	}
}

func shareOf(tenant, endpoint string, limit int) fulfilment.Share {
	return fulfilment.Share{EndpointRef: fulfilment.EndpointRef{TenantID: tenant, EndpointID: endpoint}, Limit: limit}
}

func claimDeliveries(t testing.TB, s fulfilment.Store, now, until time.Time, shares ...fulfilment.Share) []fulfilment.Delivery {
	t.Helper()
	got, err := s.Claim(t.Context(), now, until, shares)
	if err != nil {
		t.Fatalf("Claim: %v", err)
	}
	return got
}

func allDeliveries(t testing.TB, s fulfilment.Store, tenant, endpoint string, limit int) []fulfilment.Delivery {
	t.Helper()
	var out []fulfilment.Delivery
	cursor := ""
	for range 10_000 {
		page, next, err := s.Deliveries(t.Context(), tenant, endpoint, limit, cursor)
		if err != nil || len(page) > limit {
			t.Fatalf("Deliveries: error %v, %d on a page of %d", err, len(page), limit)
		}
		out = append(out, page...)
		if cursor = next; cursor == "" {
			return out
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

func oneDelivery(t testing.TB, s fulfilment.Store, tenant, id string) fulfilment.Delivery {
	t.Helper()
	for _, d := range allDeliveries(t, s, tenant, "", 100) {
		if d.ID == id {
			return d
		}
	}
	t.Fatalf("delivery %s is not there", id)
	return fulfilment.Delivery{}
}

func orderIDsOf(list []fulfilment.Delivery) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.OrderID)
	}
	return out
}

func deliveryFields(t *testing.T, s WebhooksStores) {
	want := webhookDelivery("demo", "a", 1)
	want.Payload = []byte(`{"data":{"name":"Grüße \u0000 😀"}}`)
	enqueueDeliveries(t, s.Webhooks)
	enqueueDeliveries(t, s.Webhooks, want, webhookDelivery("other", "a", 1))
	again := want
	again.Payload, again.NextAttempt = []byte(`{}`), monday.Add(time.Hour)
	enqueueDeliveries(t, s.Webhooks, again, again)
	if diff := cmp.Diff([]fulfilment.Delivery{want}, allDeliveries(t, s.Webhooks, "demo", "", 10)); diff != "" {
		t.Errorf("deliveries differ (-want +got):\n%s", diff)
	}
}

func deliveryMany(t *testing.T, s WebhooksStores) {
	const n = 700
	var list []fulfilment.Delivery
	for i := range n {
		list = append(list, webhookDelivery("demo", "a", i))
	}
	enqueueDeliveries(t, s.Webhooks, list...)
	claimed := claimDeliveries(t, s.Webhooks, monday.Add(time.Hour), monday.Add(2*time.Hour), shareOf("demo", "a", n))
	if len(claimed) != n {
		t.Fatalf("%d claimed of %d", len(claimed), n)
	}
	var settlements []fulfilment.Settlement
	for _, d := range claimed {
		settlements = append(settlements, fulfilment.Settlement{TenantID: d.TenantID, DeliveryID: d.ID, Attempt: d.Attempts,
			At: monday.Add(time.Hour), Outcome: fulfilment.OutcomeDelivered, Status: 204})
	}
	if err := s.Webhooks.Settle(t.Context(), settlements); err != nil {
		t.Fatal(err)
	}
	for _, d := range allDeliveries(t, s.Webhooks, "demo", "", 500) {
		if !d.DeliveredAt.Equal(monday.Add(time.Hour)) || !d.NextAttempt.IsZero() || d.LastStatus != 204 {
			t.Fatalf("not settled: %+v", d)
		}
	}
}

func deliveryBacklog(t *testing.T, s WebhooksStores) {
	for i := range 7 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", fmt.Sprint("e", i), i), webhookDelivery("demo", fmt.Sprint("e", i), 100+i), webhookDelivery("other", "e3", 4+i))
	}
	ref := func(tenant string, n int) fulfilment.EndpointRef {
		return fulfilment.EndpointRef{TenantID: tenant, EndpointID: fmt.Sprint("e", n)}
	}
	want := []fulfilment.EndpointRef{ref("demo", 0), ref("demo", 1), ref("demo", 2), ref("demo", 3), ref("demo", 4), ref("other", 3)}
	for _, limit := range []int{1, 2, 3, 8, 100} {
		var got []fulfilment.EndpointRef
		var after fulfilment.EndpointRef
		for pages := 0; ; pages++ {
			due, next, err := s.Webhooks.Backlog(t.Context(), monday.Add(4*time.Second), after, limit)
			if err != nil || pages > 20 {
				t.Fatalf("page %d: %v", pages, err)
			}
			got = append(got, due...)
			if after = next; after == (fulfilment.EndpointRef{}) {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages of %d: endpoints differ (-want +got):\n%s", limit, diff)
		}
	}
}

func deliveryClaims(t *testing.T, s WebhooksStores) {
	for i := range 10 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i), webhookDelivery("demo", "b", 20+i), webhookDelivery("other", "a", i))
	}
	until := monday.Add(time.Minute)
	got := claimDeliveries(t, s.Webhooks, monday.Add(24*time.Second), until, shareOf("demo", "a", 3), shareOf("demo", "b", 99), shareOf("demo", "none", 9))
	want := []string{"order-0", "order-1", "order-2", "order-20", "order-21", "order-22", "order-23", "order-24"}
	if diff := cmp.Diff(want, orderIDsOf(got)); diff != "" {
		t.Errorf("claimed orders differ (-want +got):\n%s", diff)
	}
	for _, d := range got {
		if d.Attempts != 1 || !d.NextAttempt.Equal(until) {
			t.Errorf("claimed: %+v", d)
		}
	}
	got = claimDeliveries(t, s.Webhooks, monday.Add(24*time.Second), until, shareOf("demo", "a", 99), shareOf("demo", "b", 99))
	if diff := cmp.Diff([]string{"order-3", "order-4", "order-5", "order-6", "order-7", "order-8", "order-9"}, orderIDsOf(got)); diff != "" {
		t.Errorf("orders claimed then differ (-want +got):\n%s", diff)
	}
	if got := claimDeliveries(t, s.Webhooks, monday, until); got != nil {
		t.Errorf("no shares: %v", got)
	}
}

func deliveryClaimEnds(t *testing.T, s WebhooksStores) {
	enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", 0))
	lease := func(n int) time.Time { return monday.Add(time.Duration(n) * time.Minute) }
	for n := 1; n <= 3; n++ {
		got := claimDeliveries(t, s.Webhooks, lease(n-1), lease(n), shareOf("demo", "a", 9))
		if len(got) != 1 || got[0].Attempts != n {
			t.Fatalf("claim %d: %+v", n, got)
		}
		if got := claimDeliveries(t, s.Webhooks, lease(n).Add(-1), lease(9), shareOf("demo", "a", 9)); len(got) != 0 {
			t.Fatalf("claimed before its end: %+v", got)
		}
	}
}

func deliverySettle(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	for i := range 5 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i))
	}
	claimed := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 9))
	outcome := func(n int, o fulfilment.Outcome) fulfilment.Settlement {
		return fulfilment.Settlement{TenantID: "demo", DeliveryID: claimed[n].ID, Attempt: 1, At: now, Outcome: o}
	}
	delivered, retry, released, gaveUp, stale := outcome(0, fulfilment.OutcomeDelivered), outcome(1, fulfilment.OutcomeRetry),
		outcome(2, fulfilment.OutcomeReleased), outcome(3, fulfilment.OutcomeGaveUp), outcome(4, fulfilment.OutcomeDelivered)
	delivered.Status = 204
	retry.Status, retry.Error, retry.RetryAt = 500, "answered 500 \x00", now.Add(time.Hour)
	released.RetryAt = now.Add(time.Second)
	gaveUp.Error = "deleted"
	stale.Attempt = 7
	batch := []fulfilment.Settlement{delivered, retry, released, gaveUp, stale}
	if err := s.Webhooks.Settle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(claimed)
	want[0].NextAttempt, want[0].DeliveredAt, want[0].LastStatus = time.Time{}, now, 204
	want[1].NextAttempt, want[1].LastStatus, want[1].LastError = now.Add(time.Hour), 500, "answered 500 \uFFFD"
	want[2].NextAttempt, want[2].Attempts = now.Add(time.Second), 0
	want[3].NextAttempt, want[3].LastError = time.Time{}, "deleted"
	slices.Reverse(want)
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, allDeliveries(t, s.Webhooks, "demo", "a", 10)); diff != "" {
			t.Errorf("%s deliveries differ (-want +got):\n%s", when, diff)
		}
	}
	check("settled")
	// The same again, as after a commit whose reply was lost: only what is due
	// again under the same number of attempts may take it, to the same end.
	if err := s.Webhooks.Settle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	check("settled twice")
	// What is settled stays settled, whatever an older attempt has to say.
	late := gaveUp
	late.DeliveryID, late.Letter = claimed[0].ID, true
	lateRetry := retry
	lateRetry.DeliveryID = claimed[3].ID
	if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{late, lateRetry}); err != nil {
		t.Fatal(err)
	}
	check("settled late")
	if got := allLetters(t, s.DeadLetters, deadletter.Filter{TenantID: "demo"}, 10); len(got) != 0 {
		t.Errorf("dead letters nobody asked for: %+v", got)
	}
	if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{{TenantID: "demo", DeliveryID: claimed[4].ID, Attempt: 1}}); err == nil {
		t.Error("a settlement without an outcome was taken")
	}
}

func deliveryLetter(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", 1))
	d := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 9))[0]
	gaveUp := fulfilment.Settlement{TenantID: "demo", DeliveryID: d.ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeGaveUp, Status: 404, Error: "answered 404", Letter: true}
	for range 2 {
		if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{gaveUp}); err != nil {
			t.Fatal(err)
		}
	}
	want := deadletter.Letter{TenantID: "demo", Kind: deadletter.KindDelivery, Reason: "answered 404", Source: "webhook-endpoint/a",
		Type: fulfilment.EventOrderPaid, EventID: d.ID, ReceivedAt: now, Attempts: 1, ContentType: "application/json", Payload: d.Payload}
	got := allLetters(t, s.DeadLetters, deadletter.Filter{TenantID: "demo", Kind: deadletter.KindDelivery}, 10)
	if diff := cmp.Diff([]deadletter.Letter{want}, got, cmpopts.IgnoreFields(deadletter.Letter{}, "ID")); diff != "" {
		t.Errorf("dead letters differ (-want +got):\n%s", diff)
	}
	if d := oneDelivery(t, s.Webhooks, "demo", d.ID); !d.NextAttempt.IsZero() || d.LastStatus != 404 || !d.DeliveredAt.IsZero() {
		t.Errorf("the delivery is %+v", d)
	}
}

func deliveryGone(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	kept := putEndpoint(t, s.Webhooks, endpoint("demo", "changed"))
	kept = putEndpoint(t, s.Webhooks, kept)
	gone := putEndpoint(t, s.Webhooks, endpoint("demo", "gone"))
	var batch []fulfilment.Settlement
	for i, id := range []string{"changed", "gone", "gone", "deleted"} {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", id, i))
		d := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", id, 9))[0]
		batch = append(batch, fulfilment.Settlement{TenantID: "demo", DeliveryID: d.ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeGaveUp,
			Disable: &fulfilment.Disable{EndpointRef: fulfilment.EndpointRef{TenantID: "demo", EndpointID: id}, Version: 1, CreatedAt: monday, Reason: "it answered 410 Gone"}})
	}
	if err := s.Webhooks.Settle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	gone.Version, gone.UpdatedAt, gone.DisabledAt, gone.DisabledReason = 2, now, now, "it answered 410 Gone"
	list, err := s.Webhooks.Endpoints(t.Context(), "demo")
	if diff := cmp.Diff([]fulfilment.Endpoint{kept, gone}, list, showKeys); diff != "" || err != nil {
		t.Errorf("error %v, endpoints differ (-want +got):\n%s", err, diff)
	}
	page, err := s.Audit.Entries(t.Context(), audit.Query{TenantID: "demo", Action: "webhook-endpoint.disable", Limit: 10})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Object != "webhook-endpoint/gone" || page.Entries[0].Actor.Method != "system" {
		t.Errorf("error %v, audited: %+v", err, page.Entries)
	}
}

func deliveryGoneLate(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	old := putEndpoint(t, s.Webhooks, endpoint("demo", "a"))
	enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", 1))
	d := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 9))[0]
	if err := s.Webhooks.DeleteEndpoint(t.Context(), "demo", "a", now, merchantAdmin); err != nil {
		t.Fatal(err)
	}
	next, _, err := s.Webhooks.PutEndpoint(t.Context(), endpoint("demo", "a"), -1, now, merchantAdmin)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{{TenantID: "demo", DeliveryID: d.ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeGaveUp, Letter: true,
		Disable: &fulfilment.Disable{EndpointRef: shareOf("demo", "a", 0).EndpointRef, Version: old.Version, CreatedAt: old.CreatedAt, Reason: "it answered 410 Gone"}}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Webhooks.Endpoint(t.Context(), "demo", "a")
	if diff := cmp.Diff(next, got, showKeys); diff != "" || err != nil {
		t.Errorf("error %v, the next endpoint differs (-want +got):\n%s", err, diff)
	}
	if letters := allLetters(t, s.DeadLetters, deadletter.Filter{TenantID: "demo"}, 10); len(letters) != 1 {
		t.Errorf("dead letters %+v, want one", letters)
	}
}

func deliveryPages(t *testing.T, s WebhooksStores) {
	var all, ofB []fulfilment.Delivery
	for i := range 25 {
		d := webhookDelivery("demo", []string{"a", "b"}[i%2], i)
		enqueueDeliveries(t, s.Webhooks, d, webhookDelivery("other", "a", i))
		if all = append(all, d); i%2 == 1 {
			ofB = append(ofB, d)
		}
	}
	slices.Reverse(all)
	slices.Reverse(ofB)
	for _, limit := range []int{1, 2, 12, 24, 25, 26} {
		if diff := cmp.Diff(all, allDeliveries(t, s.Webhooks, "demo", "", limit)); diff != "" {
			t.Errorf("pages of %d: all differ (-want +got):\n%s", limit, diff)
		}
		if diff := cmp.Diff(ofB, allDeliveries(t, s.Webhooks, "demo", "b", limit)); diff != "" {
			t.Errorf("pages of %d: those of b differ (-want +got):\n%s", limit, diff)
		}
	}
	if _, _, err := s.Webhooks.Deliveries(t.Context(), "demo", "", 5, "guess"); !errors.Is(err, fulfilment.ErrBadCursor) {
		t.Errorf("a guessed cursor: %v, want ErrBadCursor", err)
	}
	if _, _, err := s.Webhooks.Deliveries(t.Context(), "demo", "", 0, ""); err == nil {
		t.Error("a limit of 0 was taken")
	}
}

func deliveryRecall(t *testing.T, s WebhooksStores) {
	now, horizon := monday.Add(10*time.Second), monday.Add(20*time.Second)
	for i := range 30 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i))
	}
	count := func(wantDue, wantBeyond int) {
		t.Helper()
		if due, beyond, err := s.Webhooks.Due(t.Context(), now, horizon); err != nil || due != wantDue || beyond != wantBeyond {
			t.Errorf("due %d, beyond %d, error %v; want %d and %d", due, beyond, err, wantDue, wantBeyond)
		}
	}
	count(11, 9)
	for _, want := range []int{5, 4, 0} {
		if n, err := s.Webhooks.Recall(t.Context(), now, horizon, 5); err != nil || n != want {
			t.Errorf("recalled %d, error %v, want %d", n, err, want)
		}
	}
	count(20, 0)
}

func deliveryRevive(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	for i := range 3 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i))
	}
	claimed := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 2))
	if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{
		{TenantID: "demo", DeliveryID: claimed[0].ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeGaveUp, Error: "no"},
		{TenantID: "demo", DeliveryID: claimed[1].ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeDelivered, Status: 200},
	}); err != nil {
		t.Fatal(err)
	}
	delivered, waiting := oneDelivery(t, s.Webhooks, "demo", claimed[1].ID), webhookDelivery("demo", "a", 2)
	givenUp := oneDelivery(t, s.Webhooks, "demo", claimed[0].ID)
	dropped := webhookDelivery("demo", "a", 9)
	for _, d := range []fulfilment.Delivery{delivered, waiting, givenUp, dropped} {
		d.Payload, d.CreatedAt, d.NextAttempt, d.Attempts = []byte(`{"mended":true}`), now, now, 0
		for range 2 {
			if err := s.Webhooks.Revive(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
	}
	givenUp.Payload, givenUp.CreatedAt, givenUp.NextAttempt, givenUp.Attempts = []byte(`{"mended":true}`), now, now, 0
	dropped.CreatedAt = now
	dropped.Payload, dropped.NextAttempt = []byte(`{"mended":true}`), now
	want := []fulfilment.Delivery{dropped, waiting, delivered, givenUp}
	if diff := cmp.Diff(want, allDeliveries(t, s.Webhooks, "demo", "", 10)); diff != "" {
		t.Errorf("deliveries differ (-want +got):\n%s", diff)
	}
}

func deliveryDrop(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	for i := range 10 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i))
	}
	var batch []fulfilment.Settlement
	for _, d := range claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 8)) {
		batch = append(batch, fulfilment.Settlement{TenantID: "demo", DeliveryID: d.ID, Attempt: 1, At: now, Outcome: fulfilment.OutcomeDelivered})
	}
	if err := s.Webhooks.Settle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before time.Duration
		want   int
	}{{5 * time.Second, 3}, {5 * time.Second, 2}, {time.Hour, 3}, {time.Hour, 0}} {
		if n, err := s.Webhooks.DropSettled(t.Context(), monday.Add(c.before), 3); err != nil || n != c.want {
			t.Errorf("dropped %d, error %v, want %d", n, err, c.want)
		}
	}
	if diff := cmp.Diff([]string{"order-9", "order-8"}, orderIDsOf(allDeliveries(t, s.Webhooks, "demo", "", 10))); diff != "" {
		t.Errorf("what is left differs (-want +got):\n%s", diff)
	}
	if _, err := s.Webhooks.DropSettled(t.Context(), monday, 0); err == nil {
		t.Error("a limit of 0 was taken")
	}
}
