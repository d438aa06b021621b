package fulfilment

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"millrace/internal/deadletter"
)

// deliveryID returns the id of the delivery of a notice to an endpoint: a UUID of
// version 8. The time in the order's UUIDv7 stands in front, so that deliveries
// are written and listed in the order of the orders; the rest is a hash. An order
// id of another kind leaves the time empty.
func deliveryID(n *Notice, endpointID string) string {
	id := hashID(n.TenantID, n.ID, n.OrderID, endpointID)
	var placed [6]byte
	if order, err := uuid.Parse(n.OrderID); err == nil && order.Version() == 7 {
		copy(placed[:], order[:])
	}
	copy(id[:], placed[:])
	return id.String()
}

// hashID returns a UUID of version 8 that is made of the parts alone.
func hashID(parts ...string) uuid.UUID {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(strconv.Itoa(len(p)) + ":" + p)) // the length keeps the parts apart
	}
	id := uuid.UUID(h.Sum(nil)[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// LetterOf returns the dead letter of a delivery that was given up. A Store
// writes it in the transaction of the settlement.
func LetterOf(d *Delivery, s *Settlement) deadletter.Letter {
	return deadletter.Letter{
		// The time tells this end of the delivery from one after it was redriven.
		ID:          hashID("delivery", d.TenantID, d.ID, strconv.FormatInt(s.At.UnixNano(), 10)).String(),
		TenantID:    d.TenantID,
		Kind:        deadletter.KindDelivery,
		Reason:      s.Error,
		Source:      letterSource + d.EndpointID,
		Type:        d.EventType,
		EventID:     d.ID,
		ReceivedAt:  s.At,
		Attempts:    max(d.Attempts, 1),
		ContentType: "application/json",
		Payload:     d.Payload,
	}
}

// DeletedReason says why a delivery is given up whose endpoint is no longer there.
func DeletedReason(endpointID string) string {
	return fmt.Sprintf("the webhook endpoint %s was deleted; put it again and redrive, or delete this", endpointID)
}

// letterSource stands before the endpoint's id in the source of a dead letter.
const letterSource = "webhook-endpoint/"

// body is what is sent, as Standard Webhooks recommends.
type body struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// payloadOf checks a notice and returns the body of its deliveries.
func payloadOf(n *Notice) (json.RawMessage, error) {
	for _, f := range []struct{ name, value string }{
		{"tenantId", n.TenantID}, {"id", n.ID}, {"type", n.EventType}, {"orderId", n.OrderID},
	} {
		switch {
		case f.value == "":
			return nil, &InvalidError{f.name, "is empty: a notice needs it"}
		case len(f.value) > 255 || !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0):
			return nil, &InvalidError{f.name, "must be UTF-8 of at most 255 bytes without NUL"}
		}
	}
	if n.At.IsZero() {
		return nil, &InvalidError{"at", "is zero: say when it happened"}
	}
	if len(n.Data) > MaxDataBytes {
		return nil, &InvalidError{"data", fmt.Sprintf("has %d bytes; at most %d can be sent", len(n.Data), MaxDataBytes)}
	}
	if t := bytes.TrimSpace(n.Data); len(t) == 0 || t[0] != '{' || !utf8.Valid(t) {
		return nil, &InvalidError{"data", "must be a JSON object in UTF-8"}
	}
	b, err := json.Marshal(body{n.EventType, n.At.UTC(), n.Data})
	if err != nil {
		return nil, &InvalidError{"data", "cannot be written: " + err.Error()}
	}
	return b, nil
}

// traceparent returns a W3C traceparent as it is, and nothing for anything else:
// it becomes a header, and a bad one would fail every attempt.
func traceparent(s string) string {
	const shape = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(shape) {
		return ""
	}
	for i := range len(s) {
		hex := s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
		if dash := shape[i] == '-'; dash && s[i] != '-' || !dash && !hex {
			return ""
		}
	}
	return s
}
