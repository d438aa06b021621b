package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	sdk "github.com/stripe/stripe-go/v85"

	"millrace/internal/payment"
)

// fault is a request that failed. It carries codes and Stripe's request id only:
// the messages and objects in Stripe's answers may name the buyer, the token or
// the intent's client secret.
type fault struct {
	doing       string
	status      int // HTTP, 0 if there was no answer
	kind        sdk.ErrorType
	code        sdk.ErrorCode
	declineCode sdk.DeclineCode
	param       string
	requestID   string
	replayed    bool
	cause       error // of a failure without an answer
}

// creating is what a fault was doing that may mean that there is no intent.
const creating = "create the payment intent"

// faultOf returns nil for nil, and a *fault otherwise.
func faultOf(doing string, err error) error {
	if err == nil {
		return nil
	}
	f := &fault{doing: doing}
	var answer *sdk.Error
	var transport *url.Error
	switch {
	case errors.As(err, &answer):
		f.status, f.kind, f.code = answer.HTTPStatusCode, answer.Type, answer.Code
		f.declineCode, f.param, f.requestID = answer.DeclineCode, answer.Param, answer.RequestID
		f.replayed = replayed(answer.LastResponse)
	case errors.As(err, &transport):
		f.cause = transport.Err
	case errors.Is(err, context.DeadlineExceeded):
		f.cause = context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		f.cause = context.Canceled
	default: // the text may be the body of the answer
		f.cause = fmt.Errorf("the answer was not understood (%T)", err)
	}
	return f
}

// faultIn returns the fault in err; if there is none, one of which nothing is true.
func faultIn(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	return &fault{}
}

// mismatchError says that an intent is not that of the charge in question.
type mismatchError struct{ intent string }

func (e *mismatchError) Error() string {
	return "stripe: the payment intent " + e.intent + " belongs to a charge with another key, tenant, amount or currency: look at both charges there"
}

// refusal returns an error as the port has it where a *payment.RejectedError says
// nothing of the charge, that is everywhere but in Charge.
func refusal(err error) error {
	var mismatch *mismatchError
	f := faultIn(err)
	switch {
	case errors.As(err, &mismatch):
		return &payment.RejectedError{Code: "idempotency_mismatch", Detail: mismatch.Error()}
	case f.mismatched():
		return &payment.RejectedError{Code: "idempotency_mismatch", Detail: f.Error()}
	case f.refused():
		return &payment.RejectedError{Code: f.reason(), Detail: f.Error()}
	}
	return err
}

func (f *fault) Error() string {
	if f.cause != nil {
		return fmt.Sprintf("stripe: could not %s: %v", f.doing, f.cause)
	}
	text := fmt.Sprintf("stripe: could not %s: %s", f.doing, f.detail())
	switch {
	case f.mismatched():
		text += ": the key was used for another request before, whose outcome is not known here: look at the charge there"
	case f.status == http.StatusNotFound && f.doing != creating:
		text += ": was it made with another account, or in the other mode of test and live?"
	}
	return text
}

func (f *fault) Unwrap() error { return f.cause }

func (f *fault) detail() string {
	parts := []string{fmt.Sprintf("HTTP %d %s", f.status, f.kind)}
	for _, part := range [][2]string{{"code", string(f.code)}, {"decline code", string(f.declineCode)},
		{"parameter", f.param}, {"request", f.requestID}} {
		if part[1] != "" {
			parts = append(parts, part[0]+" "+part[1])
		}
	}
	return strings.Join(parts, ", ")
}

// inUse says that Stripe is at the same request at the moment.
func (f *fault) inUse() bool { return f.status == http.StatusConflict }

// refused says that the request will never be accepted. A wrong or restricted API
// key is not that: it is the operator's to put right, and orders wait meanwhile.
func (f *fault) refused() bool {
	switch f.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict, http.StatusTooManyRequests:
		return false
	}
	return f.status >= 400 && f.status < 500
}

// neverMade says that a creation was refused: this key has made no intent in the
// day that Stripe keeps it, and makes none.
func (f *fault) neverMade() bool {
	return f.doing == creating && f.refused() && !f.mismatched()
}

// mismatched says that there was an earlier request with the same key.
func (f *fault) mismatched() bool { return f.kind == sdk.ErrorTypeIdempotency }

func (f *fault) reason() string { return reason(f.declineCode, f.code, string(f.kind)) }

// reasonOf returns why an intent was refused by the bank.
func reasonOf(e *sdk.Error) string {
	if e == nil {
		return string(sdk.ErrorCodeCardDeclined)
	}
	return reason(e.DeclineCode, e.Code, string(e.Type))
}

func reason(decline sdk.DeclineCode, code sdk.ErrorCode, otherwise string) string {
	switch {
	case decline != "" && decline != sdk.DeclineCodeGenericDecline:
		return string(decline)
	case code != "":
		return string(code)
	case otherwise != "":
		return otherwise
	}
	return "unknown"
}
