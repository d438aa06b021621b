// Package paymenttest is the conformance suite of payment.Provider: what every
// adapter must do whatever its provider is like. An adapter's test calls Run.
package paymenttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/payment"
)

// Subject is a provider to be tested, with fresh books.
type Subject struct {
	Provider payment.Provider

	// Tokens: OK captures; Declined is declined with DeclineReason; TimeoutCaptured
	// captures and gives no answer; Timeout gives no answer and captures nothing.
	OK, Declined, TimeoutCaptured, Timeout string
	DeclineReason                          string

	// Captures counts the captures under a charge's key in the provider's own books,
	// Refunded adds up its refunds. They do not go through Provider.
	Captures func(key string) int
	Refunded func(key string) int64
}

// Run runs the suite. The factory gives a fresh Subject and registers its own
// clean-up.
func Run(t *testing.T, fresh func(t testing.TB) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"a charge captures, and says the same again", captures},
		{"a charge nobody asked for is none", unknownCharge},
		{"a decline is final", declines},
		{"many charges with one key capture once", concurrentCharges},
		{"the same key with another request is an error, and no decline", mismatch},
		{"a question that is refused never reads as if nothing was captured", refusedQuestions},
		{"after a void nothing is captured", voidFirst},
		{"a void that comes too late says captured", voidLate},
		{"a void and a charge at once agree", voidRace},
		{"a charge without an answer is looked up: captured", timeoutCaptured},
		{"a charge without an answer is looked up: none, and can be voided", timeoutNone},
		{"a declined charge stays declined when voided", voidDeclined},
		{"a refund takes place once for its key", refundOnce},
		{"many refunds with one key take place once", concurrentRefundsOneKey},
		{"refunds never exceed what was captured", refundSums},
		{"nothing is refunded that was not captured", refundNothing},
		{"a refund's key with another amount is refused", refundMismatch},
		{"requests that make no sense are refused before they are sent, so that nothing can come of them", invalid},
		{"a call without a deadline is refused", noDeadline},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// patience bounds every call that is expected to be answered.
const patience = 20 * time.Second

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func request(key, token string) payment.Request {
	return payment.Request{TenantID: "demo", OrderID: "order-" + key, Key: key, Token: token, Amount: 999, Currency: "EUR"}
}

func refundOf(c payment.Charge, chargeKey, key string, amount int64) payment.RefundRequest {
	return payment.RefundRequest{TenantID: "demo", OrderID: "order-" + chargeKey, ChargeKey: chargeKey, ChargeRef: c.Ref,
		Key: key, Amount: amount, Currency: "EUR", Reason: "requested by the buyer"}
}

var withoutRef = cmpopts.IgnoreFields(payment.Charge{}, "Ref")

var captured = payment.Charge{State: payment.StateCaptured, Captured: 999}

func wantCharge(t testing.TB, what string, want, got payment.Charge, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, withoutRef); diff != "" {
		t.Fatalf("%s:\n%s", what, diff)
	}
}

func wantRejected(t testing.TB, what, code string, err error) {
	t.Helper()
	var rejected *payment.RejectedError
	if !errors.As(err, &rejected) || code != "" && rejected.Code != code {
		t.Fatalf("%s: got error %v, want a RejectedError %s", what, err, code)
	}
}

func wantBooks(t testing.TB, s Subject, key string, captures int, refunded int64) {
	t.Helper()
	if n := s.Captures(key); n != captures {
		t.Errorf("the provider's books have %d captures for %s, want %d", n, key, captures)
	}
	if n := s.Refunded(key); n != refunded {
		t.Errorf("the provider's books have refunds of %d for %s, want %d", n, key, refunded)
	}
}

func pay(t testing.TB, s Subject, key string) payment.Charge {
	t.Helper()
	c, err := s.Provider.Charge(within(t, patience), request(key, s.OK))
	wantCharge(t, "charge", captured, c, err)
	return c
}

func captures(t *testing.T, s Subject) {
	first := pay(t, s, "k1")
	if first.Ref == "" {
		t.Error("a captured charge has no reference")
	}
	if again := pay(t, s, "k1"); again != first {
		t.Errorf("charged again: %+v, at first %+v", again, first)
	}
	for _, ref := range []string{"", first.Ref} {
		r := request("k1", s.OK)
		r.Ref = ref
		c, err := s.Provider.Lookup(within(t, patience), r)
		wantCharge(t, "lookup", captured, c, err)
		c, err = s.Provider.Charge(within(t, patience), r)
		wantCharge(t, "charge again", captured, c, err)
		if c.Ref != first.Ref {
			t.Errorf("the reference is %q, at first %q", c.Ref, first.Ref)
		}
	}
	wantBooks(t, s, "k1", 1, 0)
}

func unknownCharge(t *testing.T, s Subject) {
	for range 2 {
		c, err := s.Provider.Lookup(within(t, patience), request("k1", s.OK))
		wantCharge(t, "lookup", payment.Charge{State: payment.StateNone}, c, err)
	}
	wantBooks(t, s, "k1", 0, 0)
	pay(t, s, "k1") // asking has not spoilt the key
	wantBooks(t, s, "k1", 1, 0)
}

func declines(t *testing.T, s Subject) {
	declined := payment.Charge{State: payment.StateDeclined, Reason: s.DeclineReason}
	for range 2 {
		c, err := s.Provider.Charge(within(t, patience), request("k1", s.Declined))
		wantCharge(t, "charge", declined, c, err)
		c, err = s.Provider.Lookup(within(t, patience), request("k1", s.Declined))
		wantCharge(t, "lookup", declined, c, err)
	}
	wantBooks(t, s, "k1", 0, 0)
}

func concurrentCharges(t *testing.T, s Subject) {
	ctx := within(t, patience)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c, err := s.Provider.Charge(ctx, request("k1", s.OK))
			if err == nil && c.State != payment.StateCaptured && c.State != payment.StatePending {
				t.Errorf("got %+v", c)
			}
			var rejected *payment.RejectedError
			if errors.As(err, &rejected) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	c, err := s.Provider.Lookup(ctx, request("k1", s.OK))
	wantCharge(t, "lookup", captured, c, err)
	wantBooks(t, s, "k1", 1, 0)
}

func mismatch(t *testing.T, s Subject) {
	pay(t, s, "k1")
	r := request("k1", s.OK)
	r.Amount++
	c, err := s.Provider.Charge(within(t, patience), r)
	wantOpen(t, "another amount", c, err)
	wantBooks(t, s, "k1", 1, 0)
}

// wantOpen wants an error of Charge that leaves the outcome open.
func wantOpen(t testing.TB, what string, c payment.Charge, err error) {
	t.Helper()
	var rejected *payment.RejectedError
	if err == nil || errors.As(err, &rejected) || errors.Is(err, payment.ErrUnavailable) {
		t.Errorf("%s: got %+v and error %v, want an error that leaves the outcome open", what, c, err)
	}
}

func refusedQuestions(t *testing.T, s Subject) {
	pay(t, s, "k1")
	other := pay(t, s, "k2")
	for what, change := range map[string]func(*payment.Request){
		"another amount":                     func(r *payment.Request) { r.Amount++ },
		"a reference the provider knows not": func(r *payment.Request) { r.Ref = "no_such_reference" },
		"the reference of another charge":    func(r *payment.Request) { r.Ref = other.Ref },
	} {
		r := request("k1", s.OK)
		change(&r)
		for op, ask := range map[string]func(context.Context, payment.Request) (payment.Charge, error){
			"lookup": s.Provider.Lookup, "void": s.Provider.Void} {
			if c, err := ask(within(t, patience), r); err == nil {
				wantCharge(t, op+" with "+what, captured, c, err)
			}
		}
		if c, err := s.Provider.Charge(within(t, patience), r); err != nil {
			wantOpen(t, "charge with "+what, c, err)
		} else {
			wantCharge(t, "charge with "+what, captured, c, err)
		}
	}
	wantBooks(t, s, "k1", 1, 0)
	wantBooks(t, s, "k2", 1, 0)
}

func voidFirst(t *testing.T, s Subject) {
	voided := payment.Charge{State: payment.StateVoided}
	for range 2 {
		c, err := s.Provider.Void(within(t, patience), request("k1", s.OK))
		wantCharge(t, "void", voided, c, err)
		c, err = s.Provider.Charge(within(t, patience), request("k1", s.OK))
		wantCharge(t, "charge", voided, c, err)
		c, err = s.Provider.Lookup(within(t, patience), request("k1", s.OK))
		wantCharge(t, "lookup", voided, c, err)
	}
	wantBooks(t, s, "k1", 0, 0)
}

func voidLate(t *testing.T, s Subject) {
	pay(t, s, "k1")
	for range 2 {
		c, err := s.Provider.Void(within(t, patience), request("k1", s.OK))
		wantCharge(t, "void", captured, c, err)
	}
	wantBooks(t, s, "k1", 1, 0)
}

func voidRace(t *testing.T, s Subject) {
	ctx := within(t, patience)
	for round := range 25 {
		key := fmt.Sprint("k", round)
		var wg sync.WaitGroup
		var voided payment.Charge
		var voidErr error
		for range 3 {
			wg.Go(func() { _, _ = s.Provider.Charge(ctx, request(key, s.OK)) })
		}
		wg.Go(func() { voided, voidErr = s.Provider.Void(ctx, request(key, s.OK)) })
		wg.Wait()
		c, err := s.Provider.Charge(ctx, request(key, s.OK)) // the late repetition
		if err != nil {
			t.Fatal(err)
		}
		final, err := s.Provider.Lookup(ctx, request(key, s.OK))
		wantCharge(t, "lookup", c, final, err)
		n := s.Captures(key)
		switch {
		case final.State == payment.StateCaptured && n == 1, final.State == payment.StateVoided && n == 0:
		default:
			t.Fatalf("the charge is %s and the books have %d captures", final.State, n)
		}
		if voidErr == nil && (voided.State == payment.StateVoided) != (final.State == payment.StateVoided) && voided.State != payment.StatePending {
			t.Fatalf("the void said %s and the charge is %s", voided.State, final.State)
		}
	}
}

// noAnswer charges with a token that gets none.
func noAnswer(t testing.TB, s Subject, token string) {
	t.Helper()
	_, err := s.Provider.Charge(within(t, 300*time.Millisecond), request("k1", token))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, payment.ErrUnavailable) {
		t.Fatalf("a call without an answer ended with %v, want its deadline", err)
	}
}

func timeoutCaptured(t *testing.T, s Subject) {
	noAnswer(t, s, s.TimeoutCaptured)
	c, err := s.Provider.Lookup(within(t, patience), request("k1", s.TimeoutCaptured))
	wantCharge(t, "lookup", captured, c, err)
	c, err = s.Provider.Void(within(t, patience), request("k1", s.TimeoutCaptured))
	wantCharge(t, "void", captured, c, err)
	wantBooks(t, s, "k1", 1, 0)
}

func timeoutNone(t *testing.T, s Subject) {
	noAnswer(t, s, s.Timeout)
	c, err := s.Provider.Lookup(within(t, patience), request("k1", s.Timeout))
	wantCharge(t, "lookup", payment.Charge{State: payment.StateNone}, c, err)
	c, err = s.Provider.Void(within(t, patience), request("k1", s.Timeout))
	wantCharge(t, "void", payment.Charge{State: payment.StateVoided}, c, err)
	c, err = s.Provider.Charge(within(t, patience), request("k1", s.Timeout))
	wantCharge(t, "charge after the void", payment.Charge{State: payment.StateVoided}, c, err)
	wantBooks(t, s, "k1", 0, 0)
}

func voidDeclined(t *testing.T, s Subject) {
	_, err := s.Provider.Charge(within(t, patience), request("k1", s.Declined))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Provider.Void(within(t, patience), request("k1", s.Declined))
	wantCharge(t, "void", payment.Charge{State: payment.StateDeclined, Reason: s.DeclineReason}, c, err)
	wantBooks(t, s, "k1", 0, 0)
}

func refundOnce(t *testing.T, s Subject) {
	c := pay(t, s, "k1")
	var first payment.Refund
	for i := range 3 {
		got, err := s.Provider.Refund(within(t, patience), refundOf(c, "k1", "k1-r1", 400))
		if err != nil || got.Amount != 400 || got.Ref == "" {
			t.Fatalf("refund: %+v, %v", got, err)
		}
		if i == 0 {
			first = got
		} else if got != first {
			t.Errorf("the refund again: %+v, at first %+v", got, first)
		}
	}
	wantBooks(t, s, "k1", 1, 400)
	second, err := s.Provider.Refund(within(t, patience), refundOf(c, "k1", "k1-r2", 400))
	if err != nil || second.Ref == first.Ref {
		t.Errorf("a refund with another key: %+v, %v", second, err)
	}
	looked, err := s.Provider.Lookup(within(t, patience), request("k1", s.OK))
	wantCharge(t, "lookup", payment.Charge{State: payment.StateCaptured, Captured: 999, Refunded: 800}, looked, err)
	wantBooks(t, s, "k1", 1, 800)
}

func concurrentRefundsOneKey(t *testing.T, s Subject) {
	c := pay(t, s, "k1")
	ctx := within(t, patience)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			var rejected *payment.RejectedError
			if _, err := s.Provider.Refund(ctx, refundOf(c, "k1", "k1-r1", 400)); errors.As(err, &rejected) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := s.Provider.Refund(ctx, refundOf(c, "k1", "k1-r1", 400)); err != nil {
		t.Error(err)
	}
	wantBooks(t, s, "k1", 1, 400)
}

func refundSums(t *testing.T, s Subject) {
	c := pay(t, s, "k1")
	ctx := within(t, patience)
	var wg sync.WaitGroup
	var took atomic.Int64
	for i := range 10 {
		wg.Go(func() {
			if r, err := s.Provider.Refund(ctx, refundOf(c, "k1", fmt.Sprint("k1-r", i), 300)); err == nil {
				took.Add(r.Amount)
			}
		})
	}
	wg.Wait()
	if took.Load() != 900 {
		t.Errorf("refunds of %d took place, want 900 of 999", took.Load())
	}
	wantBooks(t, s, "k1", 1, took.Load())
	_, err := s.Provider.Refund(ctx, refundOf(c, "k1", "k1-last", 100))
	wantRejected(t, "one more than is left", "", err)
	if _, err := s.Provider.Refund(ctx, refundOf(c, "k1", "k1-rest", 99)); err != nil {
		t.Error(err)
	}
	wantBooks(t, s, "k1", 1, 999)
}

func refundNothing(t *testing.T, s Subject) {
	c, err := s.Provider.Void(within(t, patience), request("k1", s.OK))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Provider.Refund(within(t, patience), refundOf(c, "k1", "k1-r1", 100))
	wantRejected(t, "refund of a voided charge", "", err)
	wantBooks(t, s, "k1", 0, 0)
}

func refundMismatch(t *testing.T, s Subject) {
	c := pay(t, s, "k1")
	if _, err := s.Provider.Refund(within(t, patience), refundOf(c, "k1", "k1-r1", 100)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Provider.Refund(within(t, patience), refundOf(c, "k1", "k1-r1", 200))
	wantRejected(t, "another amount", "idempotency_mismatch", err)
	wantBooks(t, s, "k1", 1, 100)
}

func invalid(t *testing.T, s Subject) {
	r := request("k1", s.OK)
	r.Amount = 0
	_, err := s.Provider.Charge(within(t, patience), r)
	wantRejected(t, "charge", "invalid_request", err)
	c, err := s.Provider.Lookup(within(t, patience), r)
	wantCharge(t, "lookup", payment.Charge{State: payment.StateNone}, c, err)
	c, err = s.Provider.Void(within(t, patience), r)
	wantCharge(t, "void", payment.Charge{State: payment.StateVoided}, c, err)
	r.Ref = "ch_1" // so the provider knows it: that does not fit
	_, err = s.Provider.Lookup(within(t, patience), r)
	wantRejected(t, "lookup by reference", "invalid_request", err)
	_, err = s.Provider.Void(within(t, patience), r)
	wantRejected(t, "void by reference", "invalid_request", err)
	wantBooks(t, s, "k1", 0, 0)
	_, err = s.Provider.Refund(within(t, patience), refundOf(payment.Charge{}, "k1", "", 100))
	wantRejected(t, "refund", "invalid_request", err)
}

func noDeadline(t *testing.T, s Subject) {
	ctx := context.Background()
	r := request("k1", s.OK)
	_, chargeErr := s.Provider.Charge(ctx, r)
	_, lookupErr := s.Provider.Lookup(ctx, r)
	_, voidErr := s.Provider.Void(ctx, r)
	_, refundErr := s.Provider.Refund(ctx, refundOf(payment.Charge{}, "k1", "k1-r1", 100))
	for op, err := range map[string]error{"charge": chargeErr, "lookup": lookupErr, "void": voidErr, "refund": refundErr} {
		if err == nil {
			t.Errorf("%s was done without a deadline", op)
		}
	}
	wantBooks(t, s, "k1", 0, 0)
}
