package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
)

var merchantAdmin = audit.Actor{Subject: "ann", Method: "jwt", RequestID: "r-1"}

func endpoint(tenant, id string) fulfilment.Endpoint {
	return fulfilment.Endpoint{TenantID: tenant, ID: id, URL: "https://shop.example/hooks/" + id + "?token=t0ken",
		Events:  []string{fulfilment.EventOrderCancelled, fulfilment.EventOrderPaid},
		Secrets: []fulfilment.Secret{{Key: "whsec_current"}, {Key: "whsec_before", ExpiresAt: monday.Add(24 * time.Hour)}}}
}

// showKeys lets cmp see what a Secret hides.
var showKeys = cmp.Transformer("secret", func(s fulfilment.Secret) [2]string { return [2]string{s.Key, s.ExpiresAt.String()} })

func putEndpoint(t testing.TB, s fulfilment.Store, e fulfilment.Endpoint) fulfilment.Endpoint {
	t.Helper()
	put, _, err := s.PutEndpoint(t.Context(), e, 0, monday, merchantAdmin)
	if err != nil {
		t.Fatalf("PutEndpoint(%s): %v", e.ID, err)
	}
	return put
}

func endpointFields(t *testing.T, s WebhooksStores) {
	off := endpoint("demo", "off")
	off.DisabledAt, off.DisabledReason = monday.Add(time.Second), "switched off"
	for _, e := range []fulfilment.Endpoint{off, endpoint("demo", "b"), endpoint("other", "a")} {
		want := e
		want.Version, want.CreatedAt, want.UpdatedAt = 1, monday, monday
		put := putEndpoint(t, s.Webhooks, e)
		got, err := s.Webhooks.Endpoint(t.Context(), e.TenantID, e.ID)
		if diff := cmp.Diff(want, got, showKeys); diff != "" || err != nil {
			t.Errorf("endpoint %s: error %v, differs (-want +got):\n%s", e.ID, err, diff)
		}
		if diff := cmp.Diff(want, put, showKeys); diff != "" {
			t.Errorf("what PutEndpoint returns of %s differs (-want +got):\n%s", e.ID, diff)
		}
	}
	list, err := s.Webhooks.Endpoints(t.Context(), "demo")
	if err != nil || len(list) != 2 || list[0].ID != "b" || list[1].ID != "off" {
		t.Errorf("error %v, the tenant's endpoints are %v", err, list)
	}
	if _, err := s.Webhooks.Endpoint(t.Context(), "other", "b"); !errors.Is(err, fulfilment.ErrNotFound) {
		t.Errorf("another tenant's endpoint: %v, want ErrNotFound", err)
	}
}

func endpointVersions(t *testing.T, s WebhooksStores) {
	put := func(e fulfilment.Endpoint, ifVersion int64, at time.Time) (fulfilment.Endpoint, bool, error) {
		return s.Webhooks.PutEndpoint(t.Context(), e, ifVersion, at, merchantAdmin)
	}
	e := endpoint("demo", "a")
	if _, _, err := put(e, 1, monday); !errors.Is(err, fulfilment.ErrVersion) {
		t.Errorf("version 1 of nothing: %v, want ErrVersion", err)
	}
	if got, created, err := put(e, -1, monday); err != nil || !created || got.Version != 1 {
		t.Fatalf("the first put: %+v, created %v, %v", got, created, err)
	}
	if _, _, err := put(e, -1, monday); !errors.Is(err, fulfilment.ErrVersion) {
		t.Errorf("must not exist, and does: %v, want ErrVersion", err)
	}
	e.URL = "https://shop.example/second"
	got, created, err := put(e, 1, monday.Add(time.Hour))
	if err != nil || created || got.Version != 2 || !got.CreatedAt.Equal(monday) || !got.UpdatedAt.Equal(monday.Add(time.Hour)) {
		t.Errorf("the second put: %+v, created %v, %v", got, created, err)
	}
	if _, _, err := put(e, 1, monday); !errors.Is(err, fulfilment.ErrVersion) {
		t.Errorf("a version of before: %v, want ErrVersion", err)
	}
	if got, _, err := put(e, 0, monday); err != nil || got.Version != 3 {
		t.Errorf("any version: %+v, %v", got, err)
	}
}

func endpointBound(t *testing.T, s WebhooksStores) {
	for n := range fulfilment.MaxEndpoints {
		putEndpoint(t, s.Webhooks, endpoint("demo", fmt.Sprint("e", n)))
	}
	if _, _, err := s.Webhooks.PutEndpoint(t.Context(), endpoint("demo", "more"), 0, monday, merchantAdmin); !errors.Is(err, fulfilment.ErrTooManyEndpoints) {
		t.Errorf("one more: %v, want ErrTooManyEndpoints", err)
	}
	putEndpoint(t, s.Webhooks, endpoint("demo", "e7"))
	putEndpoint(t, s.Webhooks, endpoint("other", "more"))
}

func endpointDelete(t *testing.T, s WebhooksStores) {
	putEndpoint(t, s.Webhooks, endpoint("demo", "a"))
	for _, c := range []struct {
		tenant string
		want   error
	}{{"other", fulfilment.ErrNotFound}, {"demo", nil}, {"demo", fulfilment.ErrNotFound}} {
		if err := s.Webhooks.DeleteEndpoint(t.Context(), c.tenant, "a", monday, merchantAdmin); !errors.Is(err, c.want) {
			t.Errorf("deleting %s's endpoint: %v, want %v", c.tenant, err, c.want)
		}
	}
}

func endpointAudit(t *testing.T, s WebhooksStores) {
	putEndpoint(t, s.Webhooks, endpoint("demo", "a"))
	if _, _, err := s.Webhooks.PutEndpoint(t.Context(), endpoint("demo", "a"), 7, monday, merchantAdmin); err == nil {
		t.Fatal("a put under another version went through")
	}
	if _, _, err := s.Webhooks.PutEndpoint(t.Context(), endpoint("demo", "a"), 1, monday.Add(time.Second), merchantAdmin); err != nil {
		t.Fatal(err)
	}
	if err := s.Webhooks.DeleteEndpoint(t.Context(), "demo", "a", monday.Add(2*time.Second), merchantAdmin); err != nil {
		t.Fatal(err)
	}
	page, err := s.Audit.Entries(t.Context(), audit.Query{TenantID: "demo", Object: "webhook-endpoint/a", Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range page.Entries {
		got = append(got, fmt.Sprintf("%s before=%v after=%v", e.Action, e.Before != nil, e.After != nil))
		if diff := cmp.Diff(merchantAdmin, e.Actor); diff != "" {
			t.Errorf("the actor differs (-want +got):\n%s", diff)
		}
		for _, secret := range []string{"whsec", "current", "t0ken"} {
			if strings.Contains(string(e.Before)+string(e.After), secret) {
				t.Errorf("%s shows %q: before %s, after %s", e.Action, secret, e.Before, e.After)
			}
		}
	}
	want := []string{"webhook-endpoint.delete before=true after=false", "webhook-endpoint.put before=true after=true", "webhook-endpoint.put before=false after=true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
}

func endpointDeleteLetters(t *testing.T, s WebhooksStores) {
	now := monday.Add(time.Minute)
	putEndpoint(t, s.Webhooks, endpoint("demo", "a"))
	for i := range 4 {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "a", i))
	}
	enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", "b", 10), webhookDelivery("other", "a", 1))
	claimed := claimDeliveries(t, s.Webhooks, now, now.Add(time.Minute), shareOf("demo", "a", 2))
	settle := func(n int, outcome fulfilment.Outcome) {
		t.Helper()
		if err := s.Webhooks.Settle(t.Context(), []fulfilment.Settlement{{TenantID: "demo", DeliveryID: claimed[n].ID, Attempt: 1, At: now, Outcome: outcome, Status: 200}}); err != nil {
			t.Fatal(err)
		}
	}
	settle(0, fulfilment.OutcomeDelivered)
	if err := s.Webhooks.DeleteEndpoint(t.Context(), "demo", "a", now, merchantAdmin); err != nil {
		t.Fatal(err)
	}
	settle(1, fulfilment.OutcomeDelivered) // it was under way, and is settled
	letters := allLetters(t, s.DeadLetters, deadletter.Filter{TenantID: "demo", Kind: deadletter.KindDelivery}, 10)
	got := map[string]deadletter.Letter{}
	for _, l := range letters {
		got[l.EventID] = l
	}
	if len(letters) != 3 || len(got) != 3 {
		t.Fatalf("dead letters %+v, want one of each of 3", letters)
	}
	for i := 1; i < 4; i++ {
		d := webhookDelivery("demo", "a", i)
		want := deadletter.Letter{TenantID: "demo", Kind: deadletter.KindDelivery, Reason: fulfilment.DeletedReason("a"), Source: "webhook-endpoint/a",
			Type: d.EventType, EventID: d.ID, ReceivedAt: now, Attempts: 1, ContentType: "application/json", Payload: d.Payload}
		if diff := cmp.Diff(want, got[d.ID], cmpopts.IgnoreFields(deadletter.Letter{}, "ID")); diff != "" {
			t.Errorf("dead letter %d differs (-want +got):\n%s", i, diff)
		}
		if d := oneDelivery(t, s.Webhooks, "demo", d.ID); !d.NextAttempt.IsZero() || !d.DeliveredAt.IsZero() || d.LastError != fulfilment.DeletedReason("a") {
			t.Errorf("delivery %d is %+v", i, d)
		}
	}
	for _, tenant := range []string{"demo", "other"} {
		if d := allDeliveries(t, s.Webhooks, tenant, "", 10)[0]; d.NextAttempt.IsZero() {
			t.Errorf("another endpoint's delivery is %+v", d)
		}
	}
}

func endpointDeleteMany(t *testing.T, s WebhooksStores) {
	const more = 7
	putEndpoint(t, s.Webhooks, endpoint("demo", "a"))
	var list []fulfilment.Delivery
	for i := range fulfilment.MaxGivenUpAtOnce + more {
		list = append(list, webhookDelivery("demo", "a", i))
	}
	enqueueDeliveries(t, s.Webhooks, list...)
	if err := s.Webhooks.DeleteEndpoint(t.Context(), "demo", "a", monday, merchantAdmin); err != nil {
		t.Fatal(err)
	}
	if n := len(allLetters(t, s.DeadLetters, deadletter.Filter{TenantID: "demo"}, 1000)); n != fulfilment.MaxGivenUpAtOnce {
		t.Errorf("%d dead letters, want %d", n, fulfilment.MaxGivenUpAtOnce)
	}
	left := claimDeliveries(t, s.Webhooks, monday.Add(24*time.Hour), monday.Add(25*time.Hour), shareOf("demo", "a", 100))
	if len(left) != more || left[0].OrderID != list[fulfilment.MaxGivenUpAtOnce].OrderID {
		t.Errorf("%d are left, want the newest %d", len(left), more)
	}
}
