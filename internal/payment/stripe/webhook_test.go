package stripe_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stripe/stripe-go/v85/webhook"

	"millrace/internal/payment"
	"millrace/internal/payment/stripe"
)

func signed(payload, secret string, at time.Time) string {
	return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: []byte(payload), Secret: secret, Timestamp: at}).Header
}

func event(kind, object string) string {
	return fmt.Sprintf(`{"object":"event","id":"evt_1","api_version":"2019-01-01","type":%q,"data":{"object":%s}}`, kind, object)
}

const ours = `"metadata":{"tenant_id":"demo","order_id":"o1","key":"k1"}`

func withSecrets(t testing.TB, secrets ...string) *stripe.Provider {
	return newProvider(t, stripe.Options{Key: secretKey, WebhookSecrets: secrets})
}

func TestAWebhookBecomesANotice(t *testing.T) {
	notice := func(c payment.Charge) *payment.Notice {
		return &payment.Notice{TenantID: "demo", OrderID: "o1", Key: "k1", Charge: c}
	}
	failed := func(reason string) *payment.Notice {
		n := notice(payment.Charge{State: payment.StatePending, Ref: "pi_1"})
		n.Key, n.RefundFailed = "k1-r", &payment.FailedRefund{Ref: "re_1", Amount: 400, Currency: "EUR", Reason: reason}
		return n
	}
	refund := func(rest string) string {
		return `{"object":"refund","id":"re_1","payment_intent":"pi_1","amount":400,"currency":"eur",` + rest + `}`
	}
	const refundOfOurs = `,"metadata":{"tenant_id":"demo","order_id":"o1","key":"k1-r"}`
	for _, c := range []struct {
		name, kind, object string
		want               *payment.Notice
	}{
		{"captured", "payment_intent.succeeded",
			`{"object":"payment_intent","id":"pi_1","status":"succeeded","amount":999,"amount_received":999,` + ours + `}`,
			notice(payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999})},
		{"an attempt failed, which is not final", "payment_intent.payment_failed",
			`{"object":"payment_intent","id":"pi_1","status":"requires_payment_method","last_payment_error":{"type":"card_error","code":"card_declined","decline_code":"generic_decline"},` + ours + `}`,
			notice(payment.Charge{State: payment.StatePending, Ref: "pi_1", Reason: "card_declined"})},
		{"voided", "payment_intent.canceled",
			`{"object":"payment_intent","id":"pi_1","status":"canceled","cancellation_reason":"requested_by_customer",` + ours + `}`,
			notice(payment.Charge{State: payment.StateVoided, Ref: "pi_1"})},
		{"declined", "payment_intent.canceled",
			`{"object":"payment_intent","id":"pi_1","status":"canceled","cancellation_reason":"abandoned","last_payment_error":{"type":"card_error","code":"expired_card"},` + ours + `}`,
			notice(payment.Charge{State: payment.StateDeclined, Ref: "pi_1", Reason: "expired_card"})},
		{"refunded", "charge.refunded",
			`{"object":"charge","id":"ch_1","payment_intent":"pi_1","amount_captured":999,"amount_refunded":400,` + ours + `}`,
			notice(payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999, Refunded: 400})},
		{"a refund failed at the bank", "refund.failed", refund(`"status":"failed","failure_reason":"lost_or_stolen_card"` + refundOfOurs), failed("lost_or_stolen_card")},
		{"a refund failed, as older endpoints are told", "charge.refund.updated", refund(`"status":"failed"` + refundOfOurs), failed("failed")},
		{"a refund was cancelled", "refund.updated", refund(`"status":"canceled"` + refundOfOurs), failed("canceled")},
		{"a refund went on", "refund.updated", refund(`"status":"succeeded"` + refundOfOurs), nil},
		{"a refund that someone else made failed", "refund.failed", refund(`"status":"failed","metadata":{}`), nil},
		{"an intent that someone else made", "payment_intent.succeeded",
			`{"object":"payment_intent","id":"pi_1","status":"succeeded","metadata":{"order_id":"7"}}`, nil},
		{"a charge without an intent", "charge.refunded", `{"object":"charge","id":"ch_1",` + ours + `}`, nil},
		{"something else", "customer.created", `{"object":"customer","id":"cus_1",` + ours + `}`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			payload := event(c.kind, c.object)
			got, ok, err := withSecrets(t, "whsec_1").ParseWebhook([]byte(payload), signed(payload, "whsec_1", time.Now()))
			if err != nil || ok != (c.want != nil) {
				t.Fatalf("ok %v, %v", ok, err)
			}
			want := payment.Notice{}
			if c.want != nil {
				want = *c.want
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAWebhookThatIsNotProvenIsRefused(t *testing.T) {
	good := event("payment_intent.succeeded", `{"object":"payment_intent","id":"pi_1","status":"succeeded",`+ours+`}`)
	now := time.Now()
	for _, c := range []struct {
		name, payload, header string
		secrets               []string
		want                  error
	}{
		{"signed with the current secret", good, signed(good, "whsec_new", now), []string{"whsec_new", "whsec_old"}, nil},
		{"signed with the secret before", good, signed(good, "whsec_old", now), []string{"whsec_new", "whsec_old"}, nil},
		{"signed four minutes ago", good, signed(good, "whsec_new", now.Add(-4*time.Minute)), []string{"whsec_new"}, nil},
		{"signed six minutes ago", good, signed(good, "whsec_new", now.Add(-6*time.Minute)), []string{"whsec_new"}, stripe.ErrSignature},
		{"signed with another secret", good, signed(good, "whsec_wrong", now), []string{"whsec_new", "whsec_old"}, stripe.ErrSignature},
		{"changed on the way", strings.Replace(good, "pi_1", "pi_2", 1), signed(good, "whsec_new", now), []string{"whsec_new"}, stripe.ErrSignature},
		{"not signed", good, "", []string{"whsec_new"}, stripe.ErrSignature},
		{"a header that is none", good, "t=now,v1=zz", []string{"whsec_new"}, stripe.ErrSignature},
		{"no secret configured", good, signed(good, "", now), nil, stripe.ErrSignature},
		{"not JSON", "hello", signed("hello", "whsec_new", now), []string{"whsec_new"}, stripe.ErrPayload},
		{"not an event", `{"object":"list"}`, signed(`{"object":"list"}`, "whsec_new", now), []string{"whsec_new"}, stripe.ErrPayload},
		{"an event without data", `{"object":"event"}`, signed(`{"object":"event"}`, "whsec_new", now), []string{"whsec_new"}, nil},
		{"an object of another form", event("charge.refunded", `"x"`), signed(event("charge.refunded", `[1]`), "whsec_new", now), []string{"whsec_new"}, stripe.ErrSignature},
		{"a refund that cannot be read", event("refund.failed", `[1]`), signed(event("refund.failed", `[1]`), "whsec_new", now), []string{"whsec_new"}, stripe.ErrPayload},
		{"an object that cannot be read", event("charge.refunded", `[1]`), signed(event("charge.refunded", `[1]`), "whsec_new", now), []string{"whsec_new"}, stripe.ErrPayload},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := withSecrets(t, c.secrets...).ParseWebhook([]byte(c.payload), c.header)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "whsec") || strings.Contains(err.Error(), "hello")) {
				t.Errorf("the error %q says too much", err)
			}
		})
	}
}
