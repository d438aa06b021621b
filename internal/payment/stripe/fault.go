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

func (f *fault) Error() string {
	if f.cause != nil {
		return fmt.Sprintf("stripe: %s: %v", f.doing, f.cause)
	}
	return fmt.Sprintf("stripe: %s: %s", f.doing, f.detail())
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

// neverMade says, of a creation, that there is no intent and will be none.
func (f *fault) neverMade() bool {
	return f.refused() && f.kind != sdk.ErrorTypeIdempotency && f.doing == "create the payment intent"
}

// port returns the fault as the port has it.
func (f *fault) port() error {
	switch {
	case !f.refused():
		return f
	case f.kind == sdk.ErrorTypeIdempotency:
		return &payment.RejectedError{Code: "idempotency_mismatch", Detail: "the key was used for another request: " + f.detail()}
	}
	return &payment.RejectedError{Code: f.reason(), Detail: "could not " + f.doing + ": " + f.detail()}
}

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
