package stripe

import (
	"context"
	"errors"
	"strings"

	sdk "github.com/stripe/stripe-go/v85"

	"millrace/internal/payment"
)

// Why an intent was cancelled tells a void from a decline. Stripe allows four
// reasons; these two mean as much.
const (
	voided   = sdk.PaymentIntentCancellationReasonRequestedByCustomer
	declined = sdk.PaymentIntentCancellationReasonAbandoned
)

// Names in the metadata of intents and refunds.
const (
	metaTenant = "tenant_id"
	metaOrder  = "order_id"
	metaKey    = "key"
	// metaDeclined is why a charge was declined, if Stripe does not keep it.
	metaDeclined = "declined"
)

func metadata(tenant, order, key string) map[string]string {
	return map[string]string{metaTenant: tenant, metaOrder: order, metaKey: key}
}

// intent returns the charge's intent as it is now.
func (p *Provider) intent(ctx context.Context, r payment.Request) (*sdk.PaymentIntent, error) {
	if r.Ref != "" {
		return p.retrieveOf(ctx, r, r.Ref)
	}
	intent, err := p.create(ctx, r)
	if err == nil && replayed(intent.LastResponse) {
		return p.retrieveOf(ctx, r, intent.ID) // a replay shows it as it was made
	}
	return intent, err
}

// find is intent for who asks about the past: as long as nothing came of the
// intent, or it could not even be made, an older one is searched for, made under a
// key that Stripe has forgotten. That the intent was made by this very call does
// not matter: the call before may have made it and then failed to search.
func (p *Provider) find(ctx context.Context, r payment.Request) (*sdk.PaymentIntent, error) {
	intent, err := p.intent(ctx, r)
	except := ""
	switch {
	case faultIn(err).neverMade(): // today
	case err != nil || r.Ref != "" || intent.Status != sdk.PaymentIntentStatusRequiresConfirmation:
		return intent, err
	default:
		except = intent.ID
	}
	older, searchErr := p.search(ctx, r.TenantID, r.Key, except)
	switch {
	case searchErr != nil:
		return nil, searchErr
	case older == "":
		return intent, err
	}
	return p.retrieveOf(ctx, r, older)
}

// search returns the id of an intent with the charge's key other than except: the
// one that captured if there is one, empty if there is none. Stripe's search is
// about a minute behind, which does not matter for intents older than a day.
func (p *Provider) search(ctx context.Context, tenant, key, except string) (string, error) {
	params := &sdk.PaymentIntentSearchParams{}
	params.Query = "metadata['" + metaKey + "']:'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(key) + "'"
	params.Limit = sdk.Int64(10)
	list := p.client.V1PaymentIntents.Search(ctx, params)
	if err := faultOf("search for payment intents", list.Err()); err != nil {
		return "", err
	}
	found := ""
	for _, intent := range list.Data() {
		if intent.ID == except || intent.Metadata[metaKey] != key || intent.Metadata[metaTenant] != tenant {
			continue
		}
		if found == "" || intent.Status == sdk.PaymentIntentStatusSucceeded {
			found = intent.ID
		}
	}
	return found, nil
}

// create makes the charge's intent, or gets it again. For one key the parameters
// must always be the same, in every release: Stripe compares them.
func (p *Provider) create(ctx context.Context, r payment.Request) (*sdk.PaymentIntent, error) {
	var intent *sdk.PaymentIntent
	err := keyed(r.Key+":create", func(key string) error {
		params := &sdk.PaymentIntentCreateParams{
			Amount:             sdk.Int64(r.Amount),
			Currency:           sdk.String(strings.ToLower(r.Currency)),
			CaptureMethod:      sdk.String(string(sdk.PaymentIntentCaptureMethodAutomatic)),
			PaymentMethod:      sdk.String(r.Token),
			PaymentMethodTypes: []*string{sdk.String("card")},
			Metadata:           metadata(r.TenantID, r.OrderID, r.Key),
		}
		params.SetIdempotencyKey(key)
		var err error
		intent, err = p.client.V1PaymentIntents.Create(ctx, params)
		return faultOf(creating, err)
	})
	return intent, err
}

func (p *Provider) retrieve(ctx context.Context, id string) (*sdk.PaymentIntent, error) {
	params := &sdk.PaymentIntentRetrieveParams{}
	params.AddExpand("latest_charge")
	intent, err := p.client.V1PaymentIntents.Retrieve(ctx, id, params)
	return intent, faultOf("retrieve the payment intent", err)
}

// retrieveOf is retrieve for an intent that must be that of the charge.
func (p *Provider) retrieveOf(ctx context.Context, r payment.Request, id string) (*sdk.PaymentIntent, error) {
	intent, err := p.retrieve(ctx, id)
	if err != nil {
		return nil, err
	}
	if intent.Metadata[metaKey] != r.Key || intent.Metadata[metaTenant] != r.TenantID || intent.Amount != r.Amount ||
		!strings.EqualFold(string(intent.Currency), r.Currency) {
		return nil, &mismatchError{intent: intent.ID}
	}
	return intent, nil
}

// cancel cancels the intent, or returns it as it is if that is not possible any
// more. It uses no key of its own: cancelling twice is no different from once, and
// the replay of an old "not now" would be wrong.
func (p *Provider) cancel(ctx context.Context, id string, why sdk.PaymentIntentCancellationReason) (*sdk.PaymentIntent, error) {
	intent, err := p.client.V1PaymentIntents.Cancel(ctx, id, &sdk.PaymentIntentCancelParams{CancellationReason: sdk.String(string(why))})
	err = faultOf("cancel the payment intent", err)
	var f *fault
	if errors.As(err, &f) && f.code == sdk.ErrorCodePaymentIntentUnexpectedState {
		return p.retrieve(ctx, id)
	}
	return intent, err
}

// note writes one value into the intent's metadata.
func (p *Provider) note(ctx context.Context, id, name, value string) error {
	_, err := p.client.V1PaymentIntents.Update(ctx, id, &sdk.PaymentIntentUpdateParams{Metadata: map[string]string{name: value}})
	return faultOf("note on the payment intent", err)
}

// keyed calls with the key, and with another one if the answer to the first is the
// replay of a 5xx, which would be the answer for a day.
func keyed(key string, call func(key string) error) error {
	var err error
	for _, suffix := range []string{"", ":2", ":3"} {
		err = call(key + suffix)
		var f *fault
		if !errors.As(err, &f) || f.status < 500 || !f.replayed {
			break
		}
	}
	return err
}

func replayed(r *sdk.APIResponse) bool {
	return r != nil && r.Header.Get("Idempotent-Replayed") == "true"
}
