package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/payment"
)

// postStripeWebhook takes what Stripe tells by itself. The signature, which the
// adapter checks, is the credential. Stripe sends again what is not answered 2xx.
func (sf *surface) postStripeWebhook(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	signature := r.Header.Get("Stripe-Signature")
	if signature == "" {
		ex.refuse(newProblem(slugHookUnverified, "the header Stripe-Signature is missing; only Stripe sends here"))
		return
	}
	bd, refused := s.receive(ex, r, s.bodies, holder{source: "stripe"})
	if refused != nil {
		ex.refuse(refused)
		return
	}
	defer bd.release()
	ctx, cancel := context.WithTimeout(ctx, s.o.QueryTimeout)
	defer cancel()
	err := s.o.PaymentNotices.Notice(ctx, bd.data, signature)
	var rejected *payment.RejectedError
	switch {
	case errors.As(err, &rejected):
		ex.refuse(newProblem(slugHookUnverified, "the delivery is not accepted: "+rejected.Detail).because(err))
	case err != nil:
		ex.refuse(problemOf(ctx, err))
	default:
		ex.WriteHeader(http.StatusNoContent)
	}
}

// sandboxCharge is a charge in the books of the payment sandbox.
type sandboxCharge struct {
	Key      string          `json:"key" doc:"Its idempotency key."`
	Ref      string          `json:"ref,omitempty" doc:"The sandbox's own id."`
	OrderID  string          `json:"orderId" example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	State    string          `json:"state" enum:"captured,declined,voided,pending" example:"captured"`
	Amount   money           `json:"amount" doc:"What was asked for; it moved only if the state is captured."`
	Refunded money           `json:"refunded" doc:"What went back."`
	Refunds  []sandboxRefund `json:"refunds" nullable:"false"`
	Reason   string          `json:"reason,omitempty" doc:"Why it was declined." example:"card_declined"`
	At       time.Time       `json:"at" doc:"When the sandbox first heard of it." example:"2026-11-22T08:30:00Z"`
}

type sandboxRefund struct {
	Key    string `json:"key"`
	Ref    string `json:"ref,omitempty"`
	Amount money  `json:"amount"`
}

type sandboxPage struct {
	Charges    []sandboxCharge `json:"charges" nullable:"false" doc:"In the order in which they began."`
	NextCursor string          `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last. A page may hold less than limit and not be the last."`
}

type (
	sandboxInput  struct{ params }
	sandboxOutput struct{ Body sandboxPage }
)

func (sf *surface) registerSandbox() {
	register(sf, huma.Operation{
		OperationID: "listSandboxCharges", Metadata: longRead(), Method: http.MethodGet, Path: "/sandbox/charges", Tags: []string{"Payments"},
		Summary: "List the charges in the books of the payment sandbox", Description: "What a payment provider would say happened. It is there while the sandbox is the provider.",
		Parameters: []*huma.Param{limitParam(), cursorParam()},
	}, auth.ScopeOrdersAdmin, sf.server.listSandboxCharges)
}

func (s *Server) listSandboxCharges(ctx context.Context, in *sandboxInput) (*sandboxOutput, error) {
	q := in.reader()
	limit := q.number("limit", defaultLimit, 1, maxLimit)
	cursor := q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	list, next, err := s.o.Sandbox.Charges(ctx, principalFrom(ctx).TenantID, cursor, limit)
	if errors.Is(err, ErrBadCursor) {
		return nil, badCursor()
	}
	if err != nil {
		return nil, err
	}
	out := &sandboxOutput{Body: sandboxPage{Charges: make([]sandboxCharge, len(list)), NextCursor: next}}
	for i, c := range list {
		v := sandboxCharge{Key: c.Key, Ref: c.Ref, OrderID: c.OrderID, State: string(c.State), Amount: money{c.Amount, c.Currency},
			Refunded: money{c.Refunded, c.Currency}, Refunds: make([]sandboxRefund, len(c.Refunds)), Reason: c.Reason, At: c.At.UTC()}
		for j, r := range c.Refunds {
			v.Refunds[j] = sandboxRefund{Key: r.Key, Ref: r.Ref, Amount: money{r.Amount, c.Currency}}
		}
		out.Body.Charges[i] = v
	}
	return out, nil
}
