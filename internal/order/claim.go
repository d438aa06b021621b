package order

import (
	"encoding/json"
	"fmt"
)

// Scopes of idempotency keys, so that one key may serve for requests of
// different kinds.
const (
	ScopeOrder  = "order"
	ScopeRefund = "refund"
)

// RefundAnswer is what is stored with the key of a refund that was asked for, so
// that a repeated request gets the same answer.
func RefundAnswer(o *Order) string {
	b, _ := json.Marshal(o.Progress.Refund) // numbers: cannot fail
	return string(b)
}

// parseRefundAnswer reads what RefundAnswer wrote.
func parseRefundAnswer(answer string) (Refund, error) {
	var r Refund
	if err := json.Unmarshal([]byte(answer), &r); err != nil {
		return Refund{}, fmt.Errorf("the answer stored with a refund's key cannot be read: %w", err)
	}
	return r, nil
}
