package order

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// ChargeState is where an order's charge stands with the payment provider.
type ChargeState string

// The states there are.
const (
	ChargeCaptured ChargeState = "captured"
	// ChargeDeclined and ChargeVoided: it will never be captured.
	ChargeDeclined ChargeState = "declined"
	ChargeVoided   ChargeState = "voided"
	// ChargePending: the provider is still at it.
	ChargePending ChargeState = "pending"
	// ChargeNone: the provider knows nothing of it.
	ChargeNone ChargeState = "none"
)

// Charge is what the payment provider says of an order's charge.
type Charge struct {
	State ChargeState
	// Ref is the provider's id of it.
	Ref string
	// Captured is in minor units.
	Captured int64
	// Reason is a stable code of a decline.
	Reason string
}

// Payments moves an order's money. All of it may be repeated: at most one charge
// of an order is ever captured, and one refund made for each key. Errors:
// ErrPaymentsUnavailable (nothing was sent), *PaymentRejectedError (refused for
// good), anything else means that the outcome is not known.
type Payments interface {
	// Available says whether a call would be sent now, and if not, when to ask again.
	Available() (ok bool, retryAfter time.Duration)
	Charge(ctx context.Context, o *Order) (Charge, error)
	Lookup(ctx context.Context, o *Order) (Charge, error)
	// Void makes sure that the charge is never captured, or says that it was.
	Void(ctx context.Context, o *Order) (Charge, error)
	Refund(ctx context.Context, o *Order, key string, amount int64) error
}

// ErrPaymentsUnavailable says that nothing was sent to the payment provider.
var ErrPaymentsUnavailable = errors.New("the payment provider is not available now")

// PaymentRejectedError says that the provider refuses a request for good.
type PaymentRejectedError struct{ Code, Detail string }

func (e *PaymentRejectedError) Error() string { return e.Code + ": " + e.Detail }

// Notice is what the merchant is told of an order.
type Notice struct {
	TenantID, OrderID string
	// ID is the same whenever the same thing is told.
	ID string
	// Event is such as "order.paid".
	Event string
	At    time.Time
	Data  json.RawMessage
	Trace string
}

// Merchant tells the merchant: the notice is durable when Notify returns, and is
// delivered from there. Telling the same notice twice tells it once.
type Merchant interface {
	// Wants says whether anyone would be told of such an event now; it is cheap.
	Wants(ctx context.Context, tenantID, event string) (bool, error)
	// It returns to how many endpoints the notice goes.
	Notify(ctx context.Context, n Notice) (told int, err error)
}
