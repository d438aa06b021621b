package stripe_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/payment"
	"millrace/internal/payment/stripe"
)

// refusing answers the requests whose method and path begin so with a failure.
func refusing(start string, status int, kind, code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.Method+" "+r.URL.Path, start) {
			return false
		}
		write(w, status, failure(kind, code, "no: "+clientSecret))
		return true
	}
}

func TestAQuestionThatStripeRefusesIsNoDecline(t *testing.T) {
	const missing = "was it made with another account, or in the other mode of test and live?"
	for _, c := range []struct {
		name string
		ref  string
		hook func(http.ResponseWriter, *http.Request) bool
		code string // of the RejectedError of Lookup and Void
		says string
		// charges says that Charge does not come by there.
		charges bool
	}{
		{"the intent is not to be found", "pi_1", refusing("GET /v1/payment_intents/pi_1", 404, "invalid_request_error", "resource_missing"),
			"resource_missing", missing, false},
		{"the intent of a replay is not to be found", "", refusing("GET /v1/payment_intents/pi_1", 404, "invalid_request_error", "resource_missing"),
			"resource_missing", missing, false},
		{"the key was used for another request", "", refusing("POST /v1/payment_intents", 400, "idempotency_error", ""),
			"idempotency_mismatch", "the key was used for another request before, whose outcome is not known here", false},
		{"the search is refused", "", refusing("GET /v1/payment_intents/search", 400, "invalid_request_error", "parameter_invalid"),
			"parameter_invalid", "could not search for payment intents", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, p := fresh(t)
			r := request("pm_processing")
			if _, err := p.Charge(soon(t), r); err != nil {
				t.Fatal(err)
			}
			r.Ref = c.ref
			if c.charges {
				f.forget() // so that it is searched for
			}
			f.on(c.hook)
			for name, ask := range map[string]func(context.Context, payment.Request) (payment.Charge, error){"lookup": p.Lookup, "void": p.Void} {
				charge, err := ask(soon(t), r)
				if err == nil {
					t.Fatalf("%s answered %+v", name, charge)
				}
				wantRejected(t, err, c.code)
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: the error %q does not say %q", name, err, c.says)
				}
			}
			if c.charges {
				return
			}
			_, err := p.Charge(soon(t), r)
			wantUnknown(t, err)
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), clientSecret) {
				t.Errorf("charge: the error is %q", err)
			}
		})
	}
}

func TestARefusalWhileADeclineIsFinishedLeavesTheOutcomeOpen(t *testing.T) {
	for name, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"the note":         refusing("POST /v1/payment_intents/pi_1", 400, "invalid_request_error", "parameter_invalid"),
		"the cancellation": refusing("POST /v1/payment_intents/pi_1/cancel", 404, "invalid_request_error", "resource_missing"),
	} {
		for _, method := range []string{"pm_3ds", "pm_unconfirmable"} {
			f, p := fresh(t)
			f.on(func(w http.ResponseWriter, r *http.Request) bool {
				return !strings.HasSuffix(r.URL.Path, "/confirm") && hook(w, r)
			})
			c, err := p.Charge(soon(t), request(method))
			if err == nil {
				t.Fatalf("%s, %s: %+v", name, method, c)
			}
			wantUnknown(t, err)
			f.on(nil)
			if c, err = p.Charge(soon(t), request(method)); err != nil || c.State != payment.StateDeclined {
				t.Errorf("%s, %s: charged again: %+v, %v", name, method, c, err)
			}
		}
	}
}

func TestARefusedConfirmationIsADeclineThatLeavesNothingToCapture(t *testing.T) {
	f, p := fresh(t)
	want := payment.Charge{State: payment.StateDeclined, Ref: "pi_1", Reason: "parameter_invalid"}
	for range 2 {
		c, err := p.Charge(soon(t), request("pm_unconfirmable"))
		wantCharge(t, "charge", want, c, err)
		c, err = p.Lookup(soon(t), request("pm_unconfirmable"))
		wantCharge(t, "lookup", want, c, err)
	}
	if i := f.intent("pi_1"); i.Status != "canceled" {
		t.Errorf("the intent is %s", i.Status)
	}
}

// The key of a confirmation can outlive that of the creation: then it confirmed an
// older intent than the one that Charge has just made.
func TestAConfirmationUnderAKeyThatConfirmedAnotherIntentIsNoDecline(t *testing.T) {
	f, p := fresh(t)
	if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	delete(f.keys, "k1:create")
	f.mu.Unlock()
	c, err := p.Charge(soon(t), request("pm_ok"))
	if err == nil {
		t.Fatalf("got %+v", c)
	}
	wantUnknown(t, err)
	if i := f.intent("pi_2"); i.Status != "requires_confirmation" || f.captures("k1") != 1 {
		t.Errorf("the new intent is %+v, and there are %d captures", i, f.captures("k1"))
	}
}

func TestAnOldChargeIsFoundThoughItsTokenIsSpent(t *testing.T) {
	for name, ask := range map[string]func(*stripe.Provider, context.Context, payment.Request) (payment.Charge, error){
		"lookup": (*stripe.Provider).Lookup, "void": (*stripe.Provider).Void} {
		f, p := fresh(t)
		if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
			t.Fatal(err)
		}
		f.forget()
		f.on(func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/payment_intents" && refusing("POST", 400, "invalid_request_error", "payment_method_unexpected_state")(w, r)
		})
		c, err := ask(p, soon(t), request("pm_ok"))
		wantCharge(t, name, payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}, c, err)
	}
}

func TestAnOldChargeIsFoundThoughTheFirstSearchFailed(t *testing.T) {
	for name, ask := range map[string]func(*stripe.Provider, context.Context, payment.Request) (payment.Charge, error){
		"lookup": (*stripe.Provider).Lookup, "void": (*stripe.Provider).Void} {
		f, p := fresh(t)
		if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
			t.Fatal(err)
		}
		f.forget()
		f.on(refusing("GET /v1/payment_intents/search", 429, "invalid_request_error", "rate_limit"))
		_, err := ask(p, soon(t), request("pm_ok"))
		wantUnknown(t, err)
		f.on(nil)
		for range 2 {
			c, err := ask(p, soon(t), request("pm_ok"))
			wantCharge(t, name, payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}, c, err)
		}
	}
}

func TestAReferenceOfAnotherChargeIsRefused(t *testing.T) {
	_, p := fresh(t)
	if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*payment.Request){
		"another key":      func(r *payment.Request) { r.Key = "k2" },
		"another tenant":   func(r *payment.Request) { r.TenantID = "other" },
		"another amount":   func(r *payment.Request) { r.Amount = 1 },
		"another currency": func(r *payment.Request) { r.Currency = "USD" },
	} {
		r := request("pm_ok")
		r.Ref = "pi_1"
		change(&r)
		for _, ask := range []func(context.Context, payment.Request) (payment.Charge, error){p.Lookup, p.Void} {
			c, err := ask(soon(t), r)
			if err == nil {
				t.Fatalf("%s: %+v", name, c)
			}
			wantRejected(t, err, "idempotency_mismatch")
		}
		c, err := p.Charge(soon(t), r)
		if err == nil {
			t.Fatalf("%s: %+v", name, c)
		}
		wantUnknown(t, err)
	}
}

func TestCurrenciesThatStripeCountsDifferentlyAreRefusedSoThatNothingCanComeOfThem(t *testing.T) {
	for _, currency := range []string{"ISK", "MGA", "UGX"} {
		f, p := fresh(t)
		r := request("pm_ok")
		r.Currency = currency
		_, err := p.Charge(soon(t), r)
		wantRejected(t, err, "currency_unsupported")
		c, err := p.Lookup(soon(t), r)
		wantCharge(t, "lookup", payment.Charge{State: payment.StateNone}, c, err)
		c, err = p.Void(soon(t), r)
		wantCharge(t, "void", payment.Charge{State: payment.StateVoided}, c, err)
		r.Ref = "pi_1" // it was sent after all
		_, err = p.Lookup(soon(t), r)
		wantRejected(t, err, "currency_unsupported")
		_, err = p.Void(soon(t), r)
		wantRejected(t, err, "currency_unsupported")
		if len(f.requests()) != 0 {
			t.Errorf("requests were sent: %v", f.requests())
		}
	}
}

func TestARefundIsDoneOnceStripeHasAcceptedItAndOnlyThen(t *testing.T) {
	for _, c := range []struct {
		status   string
		rejected string // its code
		unknown  bool
	}{
		{status: "succeeded"},
		{status: "pending"},
		{status: "requires_action", rejected: "refund_requires_action"},
		{status: "failed", rejected: "refund_failed"},
		{status: "canceled", rejected: "refund_failed"},
		{status: "something_new", unknown: true},
	} {
		t.Run(c.status, func(t *testing.T) {
			f, p := fresh(t)
			if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
				t.Fatal(err)
			}
			f.refundStatus = c.status
			for range 2 { // made, and found again
				got, err := p.Refund(soon(t), payment.RefundRequest{TenantID: "demo", OrderID: "o1", ChargeKey: "k1", ChargeRef: "pi_1", Key: "k1-r", Amount: 100, Currency: "EUR"})
				switch {
				case c.rejected != "":
					wantRejected(t, err, c.rejected)
				case c.unknown:
					wantUnknown(t, err)
				default:
					if diff := cmp.Diff(payment.Refund{Ref: "re_1", Amount: 100}, got); err != nil || diff != "" {
						t.Error(err, diff)
					}
				}
			}
			if len(f.refunds) != 1 {
				t.Errorf("%d refunds were made", len(f.refunds))
			}
		})
	}
}
