package fulfilment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"millrace/internal/deadletter"
)

// maxPayloadBytes bounds the body that stands in for a dead letter's own.
const maxPayloadBytes = MaxDataBytes + 4<<10

var _ deadletter.Redriver = (*Service)(nil)

// Redrive makes the delivery of a dead letter due again, for the whole schedule
// and under the same webhook-id. It is a *deadletter.RejectedError when the
// endpoint is gone or disabled, or the payload is no JSON object. A delivery that
// has arrived, or is still tried, is left alone.
func (s *Service) Redrive(ctx context.Context, l deadletter.Letter, payload []byte) error {
	reject := func(format string, args ...any) error {
		return &deadletter.RejectedError{Reason: fmt.Sprintf(format, args...)}
	}
	endpointID, ok := strings.CutPrefix(l.Source, letterSource)
	if l.Kind != deadletter.KindDelivery || !ok || l.EventID == "" {
		return reject("this is no dead letter of a webhook delivery; delete it")
	}
	var content struct {
		Data struct {
			OrderID string `json:"orderId"`
		} `json:"data"`
	}
	err := json.Unmarshal(payload, &content)
	if err != nil || len(payload) > maxPayloadBytes || !utf8.Valid(payload) || !bytes.HasPrefix(bytes.TrimSpace(payload), []byte("{")) {
		return reject("the payload is not a webhook's: a JSON object in UTF-8 of at most %d bytes; redrive with one that is", maxPayloadBytes)
	}
	e, err := s.o.Store.Endpoint(ctx, l.TenantID, endpointID)
	switch {
	case errors.Is(err, ErrNotFound):
		return reject("%s", DeletedReason(endpointID))
	case err != nil:
		return err
	case e.Disabled():
		return reject("the webhook endpoint %s is disabled: %s; enable it and redrive", endpointID, e.DisabledReason)
	}
	now := s.o.Now()
	err = s.o.Store.Revive(ctx, Delivery{TenantID: l.TenantID, ID: l.EventID, EndpointID: endpointID, EventType: l.Type,
		OrderID: content.Data.OrderID, Payload: payload, CreatedAt: now, NextAttempt: now})
	if err == nil {
		s.tryAgain(l.TenantID, endpointID)
	}
	return err
}
