// Package stripe moves money through Stripe, with Stripe's own SDK.
//
// Pattern: a charge takes two steps. First a PaymentIntent is made and not yet
// confirmed, under an idempotency key derived from the charge's: whoever repeats
// that request gets the same intent, so a charge can be looked up and voided
// without knowing what became of an earlier call. Then the intent is confirmed,
// which captures. An intent is captured at most once and never after it was
// cancelled, so once a void or a decline has cancelled it, no confirmation that is
// still on its way can do anything.
//
// Stripe keeps idempotency keys for a day at least. Lookup and Void therefore
// search for an older intent when the repeated request was refused or led to an
// intent that was never confirmed, and Refund lists the intent's refunds before it
// makes one. Charge does not search: look a charge up before repeating it after a
// day, and pass its Ref.
//
// Charge rejects only if no intent was made, or declines after it has cancelled the
// intent. Whatever else Stripe refuses leaves the outcome open.
//
// Stripe replays a 5xx answer like any other. A creation or confirmation that only
// gets such a replay goes on under a second key, which is safe for the reason
// above. A refund does not: it stays unknown until someone looks.
//
// Concurrency: every method is safe for concurrent use. The SDK's own retries are
// off, payment.Guard does that. Lifecycle: New starts nothing, Close drops idle
// connections.
package stripe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	sdk "github.com/stripe/stripe-go/v85"

	"millrace/internal/payment"
)

// Options configure a Provider.
type Options struct {
	// Key is the secret API key. Required.
	Key string
	// WebhookSecrets are the signing secrets of the webhook endpoint: the current one,
	// and others while they are being rotated. Without one every webhook is refused.
	WebhookSecrets []string
	// WebhookTolerance is how old a webhook's signature may be. Default 5 min.
	WebhookTolerance time.Duration
	// RequestTimeout bounds every request, beside the context. Default 8 s.
	RequestTimeout time.Duration
	// BaseURL replaces https://api.stripe.com, for tests.
	BaseURL string
}

// Provider is a payment.Provider, see the package comment.
type Provider struct {
	client    *sdk.Client
	http      *http.Client
	secrets   []string
	tolerance time.Duration
}

var _ payment.Provider = (*Provider)(nil)

// New returns a Provider, or says what is wrong with the options.
func New(o Options) (*Provider, error) {
	switch {
	case strings.TrimSpace(o.Key) == "":
		return nil, errors.New("stripe: the secret API key is missing: set it, or choose the sandbox")
	case o.RequestTimeout < 0, o.WebhookTolerance < 0:
		return nil, errors.New("stripe: the timeout and the tolerance must not be negative")
	}
	for i, s := range o.WebhookSecrets {
		if s == "" { // it would accept signatures that anyone can make
			return nil, fmt.Errorf("stripe: webhook secret %d is empty", i+1)
		}
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 8 * time.Second
	}
	if o.WebhookTolerance == 0 {
		o.WebhookTolerance = 5 * time.Minute
	}
	config := &sdk.BackendConfig{
		EnableTelemetry:   sdk.Bool(false),
		LeveledLogger:     &sdk.LeveledLogger{Level: sdk.LevelNull},
		MaxNetworkRetries: sdk.Int64(0),
	}
	if o.BaseURL != "" {
		u, err := url.Parse(o.BaseURL)
		if err != nil || u.Host == "" {
			return nil, errors.New("stripe: the base URL is not a URL such as http://127.0.0.1:12111")
		}
		config.URL = sdk.String(strings.TrimSuffix(o.BaseURL, "/"))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.TLSHandshakeTimeout = 5 * time.Second
	client := &http.Client{
		Timeout:   o.RequestTimeout,
		Transport: transport,
		// A redirect could carry the key elsewhere; Stripe sends none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("stripe does not redirect") },
	}
	config.HTTPClient = client
	return &Provider{
		client:    sdk.NewClient(o.Key, sdk.WithBackends(&sdk.Backends{API: sdk.GetBackendWithConfig(sdk.APIBackend, config)})),
		http:      client,
		secrets:   o.WebhookSecrets,
		tolerance: o.WebhookTolerance,
	}, nil
}

// Close drops idle connections. Calls that are running end by themselves.
func (p *Provider) Close() { p.http.CloseIdleConnections() }

// Charge implements payment.Provider.
func (p *Provider) Charge(ctx context.Context, r payment.Request) (payment.Charge, error) {
	if err := unsendable(r); err != nil {
		return payment.Charge{}, err
	}
	if err := payment.CheckDeadline(ctx); err != nil {
		return payment.Charge{}, err
	}
	intent, err := p.intent(ctx, r)
	if err != nil {
		switch f := faultIn(err); {
		case f.inUse():
			return payment.Charge{State: payment.StatePending}, nil
		case f.neverMade() && f.kind == sdk.ErrorTypeCard:
			return payment.Charge{State: payment.StateDeclined, Reason: f.reason()}, nil
		case f.neverMade():
			return payment.Charge{}, refusal(err)
		}
		return payment.Charge{}, err
	}
	if intent.Status != sdk.PaymentIntentStatusRequiresConfirmation {
		return p.settled(ctx, intent)
	}
	return p.confirm(ctx, r, intent.ID)
}

// Lookup implements payment.Provider. Stripe has no way to ask for an intent by
// key that is up to date, so it may make one, which stays unconfirmed.
func (p *Provider) Lookup(ctx context.Context, r payment.Request) (payment.Charge, error) {
	if err := unsendable(r); err != nil {
		return neverSent(r, payment.StateNone, err)
	}
	if err := payment.CheckDeadline(ctx); err != nil {
		return payment.Charge{}, err
	}
	intent, err := p.find(ctx, r)
	if err != nil {
		if faultIn(err).neverMade() {
			return payment.Charge{State: payment.StateNone}, nil
		}
		return pendingOr(err)
	}
	return standing(intent), nil
}

// Void implements payment.Provider.
func (p *Provider) Void(ctx context.Context, r payment.Request) (payment.Charge, error) {
	if err := unsendable(r); err != nil {
		return neverSent(r, payment.StateVoided, err)
	}
	if err := payment.CheckDeadline(ctx); err != nil {
		return payment.Charge{}, err
	}
	intent, err := p.find(ctx, r)
	if err != nil {
		if f := faultIn(err); f.neverMade() {
			return payment.Charge{State: payment.StateDeclined, Reason: f.reason()}, nil
		}
		return pendingOr(err)
	}
	intent, err = p.cancel(ctx, intent.ID, voided)
	if err != nil {
		return pendingOr(err)
	}
	return standing(intent), nil
}

// unsendable says why a charge is not even sent, as a *payment.RejectedError.
func unsendable(r payment.Request) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return checkCurrency(r.Currency)
}

// neverSent answers a question about a charge that is not sent. If Stripe has given
// it an id all the same, something is wrong that a person must look at.
func neverSent(r payment.Request, state payment.State, why error) (payment.Charge, error) {
	if r.Ref != "" {
		return payment.Charge{}, why
	}
	return payment.Charge{State: state}, nil
}

// pendingOr answers a question that was not answered: pending if Stripe is still at
// the same request.
func pendingOr(err error) (payment.Charge, error) {
	if faultIn(err).inUse() {
		return payment.Charge{State: payment.StatePending}, nil
	}
	return payment.Charge{}, refusal(err)
}

// checkCurrency refuses the currencies whose amounts Stripe counts in another
// unit than the minor unit of ISO 4217, so that nobody pays a hundred times too
// much or too little.
func checkCurrency(currency string) error {
	switch currency {
	case "ISK", "MGA", "UGX":
		return &payment.RejectedError{Code: "currency_unsupported", Detail: currency + " is not supported with Stripe: it counts its amounts in another unit than ISO 4217"}
	}
	return nil
}

// confirm captures an intent that was not confirmed when it was last seen.
func (p *Provider) confirm(ctx context.Context, r payment.Request, id string) (payment.Charge, error) {
	var intent *sdk.PaymentIntent
	err := keyed(r.Key+":confirm", func(key string) error {
		params := &sdk.PaymentIntentConfirmParams{}
		params.SetIdempotencyKey(key)
		var err error
		intent, err = p.client.V1PaymentIntents.Confirm(ctx, id, params)
		return faultOf("confirm the payment intent", err)
	})
	if err == nil {
		return p.settled(ctx, intent)
	}
	switch f := faultIn(err); {
	case f.inUse():
		return payment.Charge{State: payment.StatePending}, nil
	case f.kind == sdk.ErrorTypeCard:
		return p.decline(ctx, id, f.reason())
	case f.code == sdk.ErrorCodePaymentIntentUnexpectedState:
		intent, err := p.retrieve(ctx, id)
		if err != nil {
			return payment.Charge{}, err
		}
		return p.settled(ctx, intent)
	case f.mismatched():
		// The key confirmed another intent, which may be captured.
		return payment.Charge{}, err
	case f.refused():
		// Nothing must be left that a later confirmation could capture.
		return p.declineFor(ctx, id, f.reason())
	}
	return payment.Charge{}, err
}

// settled says what became of a charge that was confirmed. What cannot go on
// without the buyer is cancelled: it is a decline.
func (p *Provider) settled(ctx context.Context, intent *sdk.PaymentIntent) (payment.Charge, error) {
	switch intent.Status {
	case sdk.PaymentIntentStatusSucceeded, sdk.PaymentIntentStatusCanceled, sdk.PaymentIntentStatusProcessing:
		return standing(intent), nil
	case sdk.PaymentIntentStatusRequiresAction:
		return p.declineFor(ctx, intent.ID, "authentication_required") // only the buyer could go on
	case sdk.PaymentIntentStatusRequiresPaymentMethod:
		return p.decline(ctx, intent.ID, reasonOf(intent.LastPaymentError))
	}
	return payment.Charge{}, fmt.Errorf("stripe: the payment intent %s is in the state %q after it was confirmed: look it up", intent.ID, intent.Status)
}

// declineFor declines for a reason that Stripe itself does not keep.
func (p *Provider) declineFor(ctx context.Context, id, reason string) (payment.Charge, error) {
	if err := p.note(ctx, id, metaDeclined, reason); err != nil {
		return payment.Charge{}, err
	}
	return p.decline(ctx, id, reason)
}

// decline cancels the intent: only then nothing can be captured any more.
func (p *Provider) decline(ctx context.Context, id, reason string) (payment.Charge, error) {
	intent, err := p.cancel(ctx, id, declined)
	if err != nil {
		return payment.Charge{}, err
	}
	c := standing(intent)
	if c.State == payment.StateDeclined {
		c.Reason = reason
	}
	return c, nil
}

// standing says where a charge stands. A charge that was refused by the bank and
// is not cancelled yet is none: Charge finishes it, Void too.
func standing(intent *sdk.PaymentIntent) payment.Charge {
	c := payment.Charge{Ref: intent.ID}
	switch intent.Status {
	case sdk.PaymentIntentStatusSucceeded:
		c.State, c.Captured = payment.StateCaptured, intent.AmountReceived
		if intent.LatestCharge != nil {
			c.Refunded = intent.LatestCharge.AmountRefunded
		}
	case sdk.PaymentIntentStatusCanceled:
		c.State = payment.StateVoided
		if intent.CancellationReason == declined {
			c.State, c.Reason = payment.StateDeclined, intent.Metadata[metaDeclined]
			if c.Reason == "" {
				c.Reason = reasonOf(intent.LastPaymentError)
			}
		}
	case sdk.PaymentIntentStatusProcessing:
		c.State = payment.StatePending
	default:
		c.State = payment.StateNone
	}
	return c
}
