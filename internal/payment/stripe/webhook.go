package stripe

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	sdk "github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"millrace/internal/payment"
)

// Errors of ParseWebhook; test with errors.Is. Both mean that the request is to be
// refused with 400.
var (
	// ErrSignature says that a webhook is not proven to come from Stripe.
	ErrSignature = errors.New("stripe: the webhook's signature is not valid")
	// ErrPayload says that a webhook with a good signature cannot be read.
	ErrPayload = errors.New("stripe: the webhook cannot be read")
)

// ParseWebhook checks the signature of a webhook and says what it tells about a
// charge. The header is that of Stripe-Signature, the payload the body byte for
// byte. ok is false for what is not about a charge of ours: answer it with 200,
// or Stripe sends it again.
//
// A failed attempt (payment_intent.payment_failed) comes as StatePending with the
// reason: the charge is final only once its intent is cancelled, which Charge
// does. A refund that has failed or was cancelled after it was accepted comes as
// RefundFailed, perhaps several times: Stripe has more than one event for it.
func (p *Provider) ParseWebhook(payload []byte, header string) (notice payment.Notice, ok bool, err error) {
	event, err := p.verified(payload, header)
	if err != nil {
		return payment.Notice{}, false, err
	}
	if event.Data == nil {
		return payment.Notice{}, false, nil
	}
	switch event.Type {
	case sdk.EventTypePaymentIntentSucceeded, sdk.EventTypePaymentIntentPaymentFailed, sdk.EventTypePaymentIntentCanceled:
		var intent sdk.PaymentIntent
		if err := json.Unmarshal(event.Data.Raw, &intent); err != nil {
			return payment.Notice{}, false, fmt.Errorf("%w: event %s holds no payment intent", ErrPayload, event.ID)
		}
		notice, ok = noticeFor(intent.Metadata)
		notice.Charge = standing(&intent)
		if event.Type == sdk.EventTypePaymentIntentPaymentFailed {
			notice.Charge = payment.Charge{State: payment.StatePending, Ref: intent.ID, Reason: reasonOf(intent.LastPaymentError)}
		}
	case sdk.EventTypeChargeRefunded:
		var charge sdk.Charge
		if err := json.Unmarshal(event.Data.Raw, &charge); err != nil {
			return payment.Notice{}, false, fmt.Errorf("%w: event %s holds no charge", ErrPayload, event.ID)
		}
		if charge.PaymentIntent == nil {
			return payment.Notice{}, false, nil
		}
		notice, ok = noticeFor(charge.Metadata) // Stripe copies the intent's
		notice.Charge = payment.Charge{State: payment.StateCaptured, Ref: charge.PaymentIntent.ID,
			Captured: charge.AmountCaptured, Refunded: charge.AmountRefunded}
	case sdk.EventTypeRefundFailed, sdk.EventTypeRefundUpdated, sdk.EventTypeChargeRefundUpdated:
		var refund sdk.Refund
		if err := json.Unmarshal(event.Data.Raw, &refund); err != nil {
			return payment.Notice{}, false, fmt.Errorf("%w: event %s holds no refund", ErrPayload, event.ID)
		}
		if refund.Status != sdk.RefundStatusFailed && refund.Status != sdk.RefundStatusCanceled {
			return payment.Notice{}, false, nil
		}
		notice, ok = noticeFor(refund.Metadata)
		notice.Charge.State = payment.StatePending
		if refund.PaymentIntent != nil {
			notice.Charge.Ref = refund.PaymentIntent.ID
		}
		notice.RefundFailed = &payment.FailedRefund{Ref: refund.ID, Amount: refund.Amount,
			Currency: strings.ToUpper(string(refund.Currency)), Reason: failureOf(&refund)}
	}
	if !ok {
		return payment.Notice{}, false, nil
	}
	return notice, true, nil
}

func noticeFor(metadata map[string]string) (payment.Notice, bool) {
	n := payment.Notice{TenantID: metadata[metaTenant], OrderID: metadata[metaOrder], Key: metadata[metaKey]}
	return n, n.TenantID != "" && n.OrderID != "" && n.Key != ""
}

// verified tries every secret. The fields that are read are the same in every
// version of the API, so the event's version does not matter.
func (p *Provider) verified(payload []byte, header string) (sdk.Event, error) {
	why := errors.New("no signing secret is configured")
	for _, secret := range p.secrets {
		if why = webhook.ValidatePayloadWithTolerance(payload, header, secret, p.tolerance); why != nil {
			continue
		}
		event, err := webhook.ConstructEventWithOptions(payload, header, secret,
			webhook.ConstructEventOptions{Tolerance: p.tolerance, IgnoreAPIVersionMismatch: true})
		if err != nil { // the parser's text can quote the payload
			return sdk.Event{}, fmt.Errorf("%w: it is not an event", ErrPayload)
		}
		return event, nil
	}
	return sdk.Event{}, fmt.Errorf("%w: %s", ErrSignature, strings.TrimPrefix(why.Error(), "webhook "))
}
