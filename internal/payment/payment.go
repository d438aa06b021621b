// Package payment is the port to whoever moves the money. Card numbers never
// come here: a token stands for them.
//
// Every operation names a key derived from the order, so that it may be repeated
// without being done twice. An adapter guarantees: for one key at most one
// capture ever happens, Charge answers the same for the same request, and after
// Void has answered StateVoided nothing is captured any more, whatever is still
// on its way.
package payment

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Request asks for a charge. It is the same value every time one charge is
// spoken of.
type Request struct {
	TenantID string
	OrderID  string
	// Key is the idempotency key of the charge.
	Key string
	// Token stands for the buyer's means of payment.
	Token    string
	Amount   int64 // minor units, above zero
	Currency string
	// Ref is the provider's own id of the charge if it is known already.
	Ref string
}

// State is where a charge stands.
type State string

// The states a provider can tell.
const (
	// StateCaptured: the money is ours.
	StateCaptured State = "captured"
	// StateDeclined: it was refused for good; a later capture is impossible.
	StateDeclined State = "declined"
	// StateVoided: it was cancelled before capture; a later capture is impossible.
	StateVoided State = "voided"
	// StatePending: the provider is still at it; ask again later.
	StatePending State = "pending"
	// StateNone: the provider knows of no such charge. A request that is still on its
	// way could yet make one.
	StateNone State = "none"
)

// Charge is what the provider says of a charge.
type Charge struct {
	State State
	// Ref is the provider's id, empty if there is none yet.
	Ref string
	// Captured is the amount in minor units, Refunded what of it went back.
	Captured, Refunded int64
	// Reason says why it was declined: a stable code such as "card_declined" or
	// "insufficient_funds".
	Reason string
}

// RefundRequest asks to send money back.
type RefundRequest struct {
	TenantID string
	OrderID  string
	// ChargeKey and ChargeRef name the charge.
	ChargeKey, ChargeRef string
	// Key is the idempotency key of this refund.
	Key      string
	Amount   int64
	Currency string
	Reason   string
}

// Refund is a refund that the provider has accepted: the money went back or is on
// its way. The buyer's bank can still send it back to us, days later: then a
// Notice says RefundFailed.
type Refund struct {
	Ref    string
	Amount int64
}

// Provider moves money. It is safe for concurrent use. Every method needs a
// context with a deadline. Errors: what a *RejectedError means depends on the
// method, see there; ErrUnavailable means that nothing was sent (the breaker is
// open, or no place was free); anything else that the outcome is not known: look
// it up.
//
// A request without a Ref that Charge refuses before it sends anything cannot have
// made a charge: Lookup answers StateNone to it and Void StateVoided.
type Provider interface {
	// Charge captures. A decline is no error: it is StateDeclined. A *RejectedError
	// means that nothing was captured for this key and nothing can be: it is as good
	// as a decline. Everything else that is refused on the way, such as a key that was
	// used for another request, is an error that leaves the outcome open.
	Charge(ctx context.Context, r Request) (Charge, error)
	// Lookup says where the charge stands, without changing anything. A
	// *RejectedError means that this question is refused for good. It says nothing of
	// the charge, which may well be captured: a person must look.
	Lookup(ctx context.Context, r Request) (Charge, error)
	// Void makes sure that the charge is never captured. It answers StateVoided or
	// StateDeclined, or StateCaptured when it came too late: refund it then. It
	// answers StatePending when the provider is in the middle of the capture: ask
	// again. A *RejectedError is as with Lookup: the charge may be captured.
	Void(ctx context.Context, r Request) (Charge, error)
	// Refund sends money back, once for each key. A *RejectedError means that this
	// refund is refused for good: a person must look.
	Refund(ctx context.Context, r RefundRequest) (Refund, error)
}

// Notice is what a provider tells by itself, in a webhook. It may come before the
// answer of the call that caused it, late, twice or never. StatePending in a
// notice says that something happened that is not final: look the charge up.
type Notice struct {
	TenantID, OrderID string
	// Key is the charge's, or with RefundFailed the refund's.
	Key    string
	Charge Charge
	// RefundFailed is set when a refund that was accepted has failed after all. The
	// Charge is StatePending then.
	RefundFailed *FailedRefund
}

// FailedRefund is a refund that the provider could not finish: the money is ours
// again, and a person must pay the buyer back by another way.
type FailedRefund struct {
	// Ref is the provider's id of the refund, as Refund gave it.
	Ref      string
	Amount   int64 // minor units
	Currency string
	// Reason is a stable code such as "lost_or_stolen_card".
	Reason string
}

// RejectedError says that the provider refuses a request for what is in it. What
// follows from it for the charge depends on the method of Provider.
type RejectedError struct {
	// Code is the provider's stable code.
	Code   string
	Detail string
}

func (e *RejectedError) Error() string {
	return "the payment provider refuses: " + e.Code + ": " + e.Detail
}

// ErrUnavailable says that nothing was sent to the provider.
var ErrUnavailable = errors.New("the payment provider is not available now")

// UnavailableError is an ErrUnavailable that knows when to come back.
type UnavailableError struct {
	RetryAfter time.Duration
	Cause      string
}

func (e *UnavailableError) Error() string { return ErrUnavailable.Error() + ": " + e.Cause }

// Is makes it an ErrUnavailable.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

// MaxKeyLength bounds the keys of requests, in bytes: providers allow 255 and an
// adapter may add a suffix.
const MaxKeyLength = 200

// MaxFieldLength bounds every other text of a request, in bytes.
const MaxFieldLength = 500

// Validate says what is wrong with a request, as a *RejectedError; nil if nothing
// is.
func (r Request) Validate() error {
	return firstError(
		checkKey("the charge's key", r.Key),
		checkText("the tenant", r.TenantID, true),
		checkText("the order id", r.OrderID, true),
		checkText("the payment token", r.Token, true),
		checkText("the provider's reference", r.Ref, false),
		checkMoney(r.Amount, r.Currency),
	)
}

// Validate says what is wrong with a request, as a *RejectedError; nil if nothing
// is.
func (r RefundRequest) Validate() error {
	return firstError(
		checkKey("the refund's key", r.Key),
		checkKey("the charge's key", r.ChargeKey),
		checkText("the tenant", r.TenantID, true),
		checkText("the order id", r.OrderID, true),
		checkText("the provider's reference", r.ChargeRef, false),
		checkMoney(r.Amount, r.Currency),
	)
}

// CheckDeadline returns an error if the context has no deadline: a call to a
// provider without one could wait for ever.
func CheckDeadline(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("a call to a payment provider needs a context with a deadline: use context.WithTimeout, or call through a Guard")
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &RejectedError{Code: "invalid_request", Detail: fmt.Sprintf(format, args...)}
}

func checkKey(what, key string) error {
	if key == "" || len(key) > MaxKeyLength {
		return invalid("%s must have 1 to %d bytes, it has %d", what, MaxKeyLength, len(key))
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return invalid("%s must be printable ASCII without spaces, byte %d is not", what, i)
		}
	}
	return nil
}

func checkText(what, text string, required bool) error {
	switch {
	case required && text == "":
		return invalid("%s is missing", what)
	case len(text) > MaxFieldLength:
		return invalid("%s has %d bytes, more than the %d allowed", what, len(text), MaxFieldLength)
	case !utf8.ValidString(text):
		return invalid("%s is not valid UTF-8", what)
	}
	return nil
}

func checkMoney(amount int64, currency string) error {
	if amount < 1 {
		return invalid("the amount must be at least 1 minor unit, it is %d", amount)
	}
	upper := len(currency) == 3
	for i := range len(currency) {
		upper = upper && currency[i] >= 'A' && currency[i] <= 'Z'
	}
	if !upper {
		return invalid("the currency %.10q is not an upper-case ISO 4217 code such as EUR", currency)
	}
	return nil
}
