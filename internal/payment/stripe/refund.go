package stripe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	sdk "github.com/stripe/stripe-go/v85"

	"millrace/internal/payment"
)

// maxRefunds bounds how many refunds of one charge are looked through.
const maxRefunds = 1000

// Refund implements payment.Provider. A refund that is pending is done as far as we
// can do it; if it fails later, ParseWebhook tells.
func (p *Provider) Refund(ctx context.Context, r payment.RefundRequest) (payment.Refund, error) {
	if err := r.Validate(); err != nil {
		return payment.Refund{}, err
	}
	if err := checkCurrency(r.Currency); err != nil {
		return payment.Refund{}, err
	}
	if err := payment.CheckDeadline(ctx); err != nil {
		return payment.Refund{}, err
	}
	refund, err := p.refund(ctx, r)
	if err != nil {
		return payment.Refund{}, refusal(err)
	}
	switch refund.Status {
	case sdk.RefundStatusSucceeded, sdk.RefundStatusPending:
	case sdk.RefundStatusFailed, sdk.RefundStatusCanceled:
		return payment.Refund{}, &payment.RejectedError{Code: "refund_failed",
			Detail: fmt.Sprintf("the refund %s is %s (%s): pay the buyer back by another way", refund.ID, refund.Status, failureOf(refund))}
	case sdk.RefundStatusRequiresAction:
		return payment.Refund{}, &payment.RejectedError{Code: "refund_requires_action",
			Detail: fmt.Sprintf("the refund %s waits for the buyer to say where the money is to go: see to it there, then try again", refund.ID)}
	default:
		return payment.Refund{}, fmt.Errorf("stripe: the refund %s is in the unknown state %q: look at it there", refund.ID, refund.Status)
	}
	if refund.Amount != r.Amount || !strings.EqualFold(string(refund.Currency), r.Currency) {
		return payment.Refund{}, &payment.RejectedError{Code: "idempotency_mismatch", Detail: "the key was used for a refund of another amount or currency"}
	}
	return payment.Refund{Ref: refund.ID, Amount: refund.Amount}, nil
}

// failureOf says why a refund was not finished.
func failureOf(r *sdk.Refund) string { return cmp.Or(string(r.FailureReason), string(r.Status)) }

// refund returns the refund with this key if there is one, and makes it if not.
func (p *Provider) refund(ctx context.Context, r payment.RefundRequest) (*sdk.Refund, error) {
	intent := r.ChargeRef
	if intent == "" {
		found, err := p.search(ctx, r.TenantID, r.ChargeKey, "")
		if err != nil {
			return nil, err
		}
		if found == "" {
			return nil, errors.New("stripe: no payment intent was found for the charge to refund: look the charge up and pass its reference")
		}
		intent = found
	}
	list := &sdk.RefundListParams{PaymentIntent: sdk.String(intent)}
	list.Limit = sdk.Int64(100)
	seen := 0
	for refund, err := range p.client.V1Refunds.List(ctx, list).All(ctx) {
		if err := faultOf("list the refunds", err); err != nil {
			return nil, err
		}
		if refund.Metadata[metaKey] == r.Key {
			return refund, nil
		}
		if seen++; seen == maxRefunds {
			return nil, fmt.Errorf("stripe: the charge has more than %d refunds, this one was not looked for further", maxRefunds)
		}
	}
	params := &sdk.RefundCreateParams{
		PaymentIntent: sdk.String(intent),
		Amount:        sdk.Int64(r.Amount),
		Reason:        sdk.String(string(sdk.RefundReasonRequestedByCustomer)),
		Metadata:      metadata(r.TenantID, r.OrderID, r.Key),
	}
	params.SetIdempotencyKey(r.Key)
	refund, err := p.client.V1Refunds.Create(ctx, params)
	return refund, faultOf("create the refund", err)
}
