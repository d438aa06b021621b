package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/httpapi"
	"millrace/internal/order"
	"millrace/internal/payment"
	"millrace/internal/payment/sandbox"
	"millrace/internal/payment/stripe"
)

// sandboxName is the sandbox's ledger in the data directory.
const sandboxName = "sandbox.ledger"

// payments is the payment provider behind its guard, as orders see it.
type payments struct {
	guard   *payment.Guard
	sandbox *sandbox.Sandbox // nil with another provider
	stripe  *stripe.Provider // nil with another provider
	worker  *order.Worker    // set before anything is served
	logger  *slog.Logger
	close   func() error
}

func openPayments(c *core) (*payments, error) {
	cfg, logger := &c.cfg.Payments, c.logger
	p := &payments{logger: logger}
	var provider payment.Provider
	var err error
	switch cfg.Provider {
	case "stripe":
		secrets := make([]string, len(cfg.Stripe.WebhookSecrets))
		for i, s := range cfg.Stripe.WebhookSecrets {
			secrets[i] = s.Reveal()
		}
		p.stripe, err = stripe.New(stripe.Options{Key: cfg.Stripe.SecretKey.Reveal(), WebhookSecrets: secrets, BaseURL: cfg.Stripe.BaseURL, RequestTimeout: cfg.Timeout})
		if err != nil {
			return nil, err
		}
		provider, p.close = p.stripe, func() error { p.stripe.Close(); return nil }
	default:
		o := sandbox.Options{Ledger: c.db.ledger, Notify: p.noticed(logger)}
		if o.Ledger == nil {
			o.Path = c.dir.file(sandboxName)
		}
		p.sandbox, err = sandbox.Open(o)
		if err != nil {
			return nil, err
		}
		provider, p.close = p.sandbox, p.sandbox.Close
	}
	p.guard, err = payment.NewGuard(provider, payment.GuardOptions{Timeout: cfg.Timeout, MaxConcurrent: cfg.MaxConcurrent,
		Logger: logger, Metrics: payment.NewMetrics(c.registry)})
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// noticeTimeout bounds the work on one notice of the provider.
const noticeTimeout = 15 * time.Second

// noticed takes the sandbox's notices, which come as calls.
func (p *payments) noticed(logger *slog.Logger) func(payment.Notice) {
	return func(n payment.Notice) {
		ctx, cancel := context.WithTimeout(context.Background(), noticeTimeout)
		defer cancel()
		if err := p.take(ctx, n); err != nil {
			logger.Error("a notice of the payment sandbox could not be taken; the answer to the charge will do", "tenant", n.TenantID, "order", n.OrderID, "error", err)
		}
	}
}

func (p *payments) take(ctx context.Context, n payment.Notice) error {
	return p.worker.Noticed(ctx, order.Ref{TenantID: n.TenantID, ID: n.OrderID}, orderCharge(n.Charge))
}

// Notice implements httpapi.PaymentNotices with Stripe's webhooks.
func (p *payments) Notice(ctx context.Context, payload []byte, signature string) error {
	n, ours, err := p.stripe.ParseWebhook(payload, signature)
	switch {
	case errors.Is(err, stripe.ErrSignature), errors.Is(err, stripe.ErrPayload):
		return &payment.RejectedError{Code: "webhook", Detail: err.Error()}
	case err != nil, !ours:
		return err
	}
	if f := n.RefundFailed; f != nil {
		p.logger.Error("the payment provider could not give money back although it had agreed to: look at the refund there and pay the buyer by another way",
			"tenant", n.TenantID, "order", n.OrderID, "refund", f.Ref, "amount", f.Amount, "currency", f.Currency, "reason", f.Reason)
		return nil
	}
	if err := p.take(ctx, n); err != nil && !errors.Is(err, order.ErrNotFound) {
		return err
	}
	return nil // an order that is not here is another system's on the same account
}

// Charges implements httpapi.SandboxLedger.
func (p *payments) Charges(ctx context.Context, tenantID, cursor string, limit int) ([]httpapi.SandboxCharge, string, error) {
	charges, next, err := p.sandbox.Charges(ctx, tenantID, cursor, limit)
	if errors.Is(err, sandbox.ErrBadCursor) {
		return nil, "", httpapi.ErrBadCursor
	}
	if err != nil {
		return nil, "", err
	}
	page := make([]httpapi.SandboxCharge, len(charges))
	for i, c := range charges {
		page[i] = httpapi.SandboxCharge{Key: c.Key, Ref: c.Ref, OrderID: c.OrderID, Amount: c.Amount, Currency: c.Currency, State: c.State,
			Refunded: c.Refunded, Reason: c.Reason, At: c.At}
		for _, r := range c.Refunds {
			page[i].Refunds = append(page[i].Refunds, httpapi.SandboxRefund(r))
		}
	}
	return page, next, nil
}

// Available, Charge, Lookup, Void and Refund implement order.Payments.
func (p *payments) Available() (bool, time.Duration) { return p.guard.Available() }

func (p *payments) Charge(ctx context.Context, o *order.Order) (order.Charge, error) {
	c, err := p.guard.Charge(ctx, chargeOf(o))
	return orderCharge(c), orderPaymentError(err)
}

func (p *payments) Lookup(ctx context.Context, o *order.Order) (order.Charge, error) {
	c, err := p.guard.Lookup(ctx, chargeOf(o))
	return orderCharge(c), orderPaymentError(err)
}

func (p *payments) Void(ctx context.Context, o *order.Order) (order.Charge, error) {
	c, err := p.guard.Void(ctx, chargeOf(o))
	return orderCharge(c), orderPaymentError(err)
}

func (p *payments) Refund(ctx context.Context, o *order.Order, key string, amount int64) error {
	_, err := p.guard.Refund(ctx, payment.RefundRequest{TenantID: o.TenantID, OrderID: o.ID, ChargeKey: o.ChargeKey(), ChargeRef: o.Progress.PaymentRef,
		Key: key, Amount: amount, Currency: o.Currency})
	return orderPaymentError(err)
}

func chargeOf(o *order.Order) payment.Request {
	return payment.Request{TenantID: o.TenantID, OrderID: o.ID, Key: o.ChargeKey(), Token: o.Details.PaymentToken, Amount: o.Total,
		Currency: o.Currency, Ref: o.Progress.PaymentRef}
}

func orderCharge(c payment.Charge) order.Charge {
	return order.Charge{State: order.ChargeState(c.State), Ref: c.Ref, Captured: c.Captured, Reason: c.Reason}
}

func orderPaymentError(err error) error {
	var rejected *payment.RejectedError
	switch {
	case errors.Is(err, payment.ErrUnavailable):
		return fmt.Errorf("%w: %w", order.ErrPaymentsUnavailable, err)
	case errors.As(err, &rejected):
		return &order.PaymentRejectedError{Code: rejected.Code, Detail: rejected.Detail}
	}
	return err
}
