package stripe_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/payment"
	"millrace/internal/payment/paymenttest"
	"millrace/internal/payment/stripe"
)

// Values that must never show up in an error.
const (
	secretKey    = "sk_test_verysecret"
	clientSecret = "pi_client_secret_hidden"
)

func newProvider(t testing.TB, o stripe.Options) *stripe.Provider {
	t.Helper()
	p, err := stripe.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func fresh(t testing.TB) (*fakeStripe, *stripe.Provider) {
	f := newFake(t)
	return f, newProvider(t, stripe.Options{Key: secretKey, BaseURL: f.server.URL})
}

func TestConformance(t *testing.T) {
	paymenttest.Run(t, func(t testing.TB) paymenttest.Subject {
		f, p := fresh(t)
		return paymenttest.Subject{Provider: p, OK: "pm_ok", Declined: "pm_declined", DeclineReason: "insufficient_funds",
			TimeoutCaptured: "pm_timeout_captured", Timeout: "pm_timeout", Captures: f.captures, Refunded: f.refunded}
	})
}

func request(token string) payment.Request {
	return payment.Request{TenantID: "demo", OrderID: "o1", Key: "k1", Token: token, Amount: 999, Currency: "EUR"}
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func wantCharge(t testing.TB, what string, want, got payment.Charge, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s:\n%s", what, diff)
	}
}

func TestADeclineCancelsTheIntentSoThatItCanNeverCapture(t *testing.T) {
	for _, c := range []struct{ method, reason string }{
		{"pm_declined", "insufficient_funds"},
		{"pm_3ds", "authentication_required"},
	} {
		f, p := fresh(t)
		want := payment.Charge{State: payment.StateDeclined, Ref: "pi_1", Reason: c.reason}
		for range 2 {
			got, err := p.Charge(soon(t), request(c.method))
			wantCharge(t, c.method, want, got, err)
			got, err = p.Lookup(soon(t), request(c.method))
			wantCharge(t, c.method+" looked up", want, got, err)
		}
		if i := f.intent("pi_1"); i.Status != "canceled" || i.Captures != 0 {
			t.Errorf("%s: the intent is %+v", c.method, i)
		}
	}
}

func TestACardThatIsRefusedAtCreationIsADecline(t *testing.T) {
	_, p := fresh(t)
	c, err := p.Charge(soon(t), request("pm_blocked"))
	wantCharge(t, "charge", payment.Charge{State: payment.StateDeclined, Reason: "stolen_card"}, c, err)
}

func TestADeclineThatCouldNotBeCancelledIsFinishedByTheNextCall(t *testing.T) {
	f, p := fresh(t)
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/cancel") {
			return false
		}
		write(w, 503, []byte("upstream went away"))
		return true
	})
	_, err := p.Charge(soon(t), request("pm_declined"))
	wantUnknown(t, err)
	f.on(nil)
	c, err := p.Lookup(soon(t), request("pm_declined"))
	wantCharge(t, "looked up before it is final", payment.Charge{State: payment.StateNone, Ref: "pi_1"}, c, err)
	c, err = p.Charge(soon(t), request("pm_declined"))
	wantCharge(t, "charged again", payment.Charge{State: payment.StateDeclined, Ref: "pi_1", Reason: "insufficient_funds"}, c, err)
}

func wantUnknown(t testing.TB, err error) {
	t.Helper()
	var rejected *payment.RejectedError
	if err == nil || errors.As(err, &rejected) || errors.Is(err, payment.ErrUnavailable) {
		t.Fatalf("got %v, want an error that leaves the outcome open", err)
	}
}

func TestAVoidThatMeetsAConfirmationEndsAsWhateverCameFirst(t *testing.T) {
	for _, c := range []struct {
		name  string
		first string // what happens at Stripe between the void's look and its cancellation
		want  payment.Charge
	}{
		{"the capture was first", "succeeded", payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}},
		{"the capture is running", "processing", payment.Charge{State: payment.StatePending, Ref: "pi_1"}},
		{"another void was first", "canceled", payment.Charge{State: payment.StateVoided, Ref: "pi_1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, p := fresh(t)
			f.on(func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/cancel") {
					f.change("pi_1", func(i *fakeIntent) { i.Status = c.first })
				}
				return false
			})
			got, err := p.Void(soon(t), request("pm_ok"))
			wantCharge(t, "void", c.want, got, err)
		})
	}
}

func TestAConfirmationOnItsWayDoesNothingAfterAVoid(t *testing.T) {
	f, p := fresh(t)
	reached, proceed := make(chan struct{}), make(chan struct{})
	f.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/confirm") {
			close(reached)
			<-proceed
		}
		return false
	})
	type result struct {
		c   payment.Charge
		err error
	}
	charged := make(chan result, 1)
	ctx := soon(t)
	go func() {
		c, err := p.Charge(ctx, request("pm_ok"))
		charged <- result{c, err}
	}()
	<-reached
	c, err := p.Void(ctx, request("pm_ok"))
	wantCharge(t, "void", payment.Charge{State: payment.StateVoided, Ref: "pi_1"}, c, err)
	close(proceed)
	r := <-charged
	wantCharge(t, "charge", payment.Charge{State: payment.StateVoided, Ref: "pi_1"}, r.c, r.err)
	if n := f.captures("k1"); n != 0 {
		t.Errorf("%d captures", n)
	}
}

func TestAChargeThatIsStillProcessingIsPending(t *testing.T) {
	f, p := fresh(t)
	pending := payment.Charge{State: payment.StatePending, Ref: "pi_1"}
	c, err := p.Charge(soon(t), request("pm_processing"))
	wantCharge(t, "charge", pending, c, err)
	c, err = p.Void(soon(t), request("pm_processing"))
	wantCharge(t, "void", pending, c, err)
	f.change("pi_1", func(i *fakeIntent) { i.Status = "succeeded" })
	c, err = p.Charge(soon(t), request("pm_processing")) // its confirmation would be replayed as processing
	wantCharge(t, "charge again", payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}, c, err)
}

func TestARequestThatIsInProgressIsPending(t *testing.T) {
	f, p := fresh(t)
	f.on(func(w http.ResponseWriter, _ *http.Request) bool {
		write(w, 409, failure("invalid_request_error", "idempotency_key_in_use", "another in-progress request"))
		return true
	})
	for name, call := range map[string]func(context.Context, payment.Request) (payment.Charge, error){"charge": p.Charge, "lookup": p.Lookup, "void": p.Void} {
		c, err := call(soon(t), request("pm_ok"))
		wantCharge(t, name, payment.Charge{State: payment.StatePending}, c, err)
	}
}

func TestAnAnswerOf500ThatIsReplayedDoesNotHoldAChargeUpForADay(t *testing.T) {
	for _, path := range []string{"/v1/payment_intents", "/v1/payment_intents/pi_1/confirm"} {
		f, p := fresh(t)
		f.break5[path] = 1
		_, err := p.Charge(soon(t), request("pm_ok"))
		wantUnknown(t, err)
		c, err := p.Charge(soon(t), request("pm_ok"))
		wantCharge(t, path, payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}, c, err)
		if n := f.captures("k1"); n != 1 {
			t.Errorf("%s: %d captures", path, n)
		}
	}
}

func TestAfterADayAnOldChargeIsStillFound(t *testing.T) {
	captured := payment.Charge{State: payment.StateCaptured, Ref: "pi_1", Captured: 999}
	for name, call := range map[string]func(*stripe.Provider, context.Context, payment.Request) (payment.Charge, error){
		"lookup": (*stripe.Provider).Lookup, "void": (*stripe.Provider).Void} {
		f, p := fresh(t)
		c, err := p.Charge(soon(t), request("pm_ok"))
		wantCharge(t, "charge", captured, c, err)
		f.forget()
		c, err = call(p, soon(t), request("pm_ok"))
		wantCharge(t, name, captured, c, err)
		r := request("pm_ok")
		r.Ref = c.Ref
		c, err = p.Charge(soon(t), r)
		wantCharge(t, "charge with its reference", captured, c, err)
		if n := f.captures("k1"); n != 1 {
			t.Errorf("%s: %d captures", name, n)
		}
	}
}

func TestAfterADayAnOldChargeThatIsNotFinishedIsFoundToo(t *testing.T) {
	f, p := fresh(t)
	if _, err := p.Charge(soon(t), request("pm_processing")); err != nil {
		t.Fatal(err)
	}
	f.forget()
	c, err := p.Lookup(soon(t), request("pm_processing"))
	wantCharge(t, "lookup", payment.Charge{State: payment.StatePending, Ref: "pi_1"}, c, err)
}

func TestARefundAfterADayIsStillDoneOnce(t *testing.T) {
	f, p := fresh(t)
	c, err := p.Charge(soon(t), request("pm_ok"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{c.Ref, c.Ref, ""} { // without a reference it is searched for
		got, err := p.Refund(soon(t), payment.RefundRequest{TenantID: "demo", OrderID: "o1", ChargeKey: "k1", ChargeRef: ref, Key: "k1-r", Amount: 100, Currency: "EUR"})
		if diff := cmp.Diff(payment.Refund{Ref: "re_1", Amount: 100}, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
		f.forget()
	}
	if sum := f.refunded("k1"); sum != 100 {
		t.Errorf("%d was refunded", sum)
	}
}

func wantRejected(t testing.TB, err error, code string) {
	t.Helper()
	var rejected *payment.RejectedError
	if !errors.As(err, &rejected) || rejected.Code != code {
		t.Fatalf("got %v, want a RejectedError %s", err, code)
	}
}

func TestErrorsSayWhatStripeSaidWithoutWhatIsSecret(t *testing.T) {
	limited := func(w http.ResponseWriter, _ *http.Request) bool {
		write(w, 429, failure("invalid_request_error", "rate_limit", "slow down, "+secretKey))
		return true
	}
	garbled := func(w http.ResponseWriter, _ *http.Request) bool {
		write(w, 502, []byte("<html>"+clientSecret))
		return true
	}
	cut := func(w http.ResponseWriter, _ *http.Request) bool {
		panic(http.ErrAbortHandler)
	}
	redirect := func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "http://127.0.0.1:1/?"+clientSecret, http.StatusTemporaryRedirect)
		return true
	}
	for _, c := range []struct {
		name     string
		method   string
		hook     func(http.ResponseWriter, *http.Request) bool
		key      string
		rejected string // its code; empty: unknown
		says     string
	}{
		{"an invalid payment method", "pm_missing", nil, secretKey, "resource_missing", "parameter payment_method, request req_1"},
		{"too many requests", "pm_ok", limited, secretKey, "", "HTTP 429 invalid_request_error, code rate_limit"},
		{"an answer of a proxy", "pm_ok", garbled, secretKey, "", "not understood"},
		{"a connection that ends", "pm_ok", cut, secretKey, "", "EOF"},
		{"a redirect", "pm_ok", redirect, secretKey, "", "does not redirect"},
		{"a wrong API key", "pm_ok", nil, "sk_test_wrong_and_secret", "", "could not create the payment intent: HTTP 401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			p := newProvider(t, stripe.Options{Key: c.key, BaseURL: f.server.URL})
			f.on(c.hook)
			_, err := p.Charge(soon(t), request(c.method))
			if c.rejected != "" {
				wantRejected(t, err, c.rejected)
			} else {
				wantUnknown(t, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error %q does not say %q", err, c.says)
			}
			if c.rejected == "" && len(f.requests()) != 1 {
				t.Errorf("it was sent again without the Guard: %v", f.requests())
			}
			for _, secret := range []string{secretKey, clientSecret, c.key, "pm_"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error %q contains %q", err, secret)
				}
			}
		})
	}
}

func TestAChargeThatCannotBeMadeIsNoneAndIsVoidedWithoutAnIntent(t *testing.T) {
	_, p := fresh(t)
	c, err := p.Lookup(soon(t), request("pm_missing"))
	wantCharge(t, "lookup", payment.Charge{State: payment.StateNone}, c, err)
	c, err = p.Void(soon(t), request("pm_missing"))
	wantCharge(t, "void", payment.Charge{State: payment.StateDeclined, Reason: "resource_missing"}, c, err)
}

func TestAPlainChargeTakesTwoRequests(t *testing.T) {
	f, p := fresh(t)
	if _, err := p.Charge(soon(t), request("pm_ok")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"POST /v1/payment_intents", "POST /v1/payment_intents/pi_1/confirm"}, f.requests()); diff != "" {
		t.Error(diff)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, o := range map[string]stripe.Options{
		"no key":                  {},
		"a URL that is none":      {Key: secretKey, BaseURL: "stripe"},
		"an empty webhook secret": {Key: secretKey, WebhookSecrets: []string{"whsec_a", ""}},
		"a negative timeout":      {Key: secretKey, RequestTimeout: -1},
	} {
		_, err := stripe.New(o)
		if err == nil || strings.Contains(err.Error(), secretKey) || strings.Contains(err.Error(), "whsec") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
