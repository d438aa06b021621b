package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"millrace/internal/bus"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

// redriver puts dead letters back on their roads, each kind on its own.
type redriver struct {
	events event.Redriver
	core   *core
}

// Redrive implements deadletter.Redriver.
func (r redriver) Redrive(ctx context.Context, l deadletter.Letter, payload []byte) error {
	switch l.Kind {
	case deadletter.KindOrder:
		return r.order(ctx, l)
	case deadletter.KindDelivery:
		return r.core.shop.webhooks.Redrive(ctx, l, payload)
	case deadletter.KindMessage:
		return r.message(ctx, l, payload)
	}
	return r.events.Redrive(ctx, l, payload)
}

// order has a parked order worked on again.
func (r redriver) order(ctx context.Context, l deadletter.Letter) error {
	out, err := r.core.shop.stepper.Do(ctx, order.Step{TenantID: l.TenantID, OrderID: l.EventID, Event: order.EventRedriven, At: time.Now().UTC(), Actor: "operator"})
	switch {
	case err != nil:
		return err
	case errors.Is(out.Err, order.ErrNotFound):
		return &deadletter.RejectedError{Reason: "the order is not there any more: delete the letter"}
	case errors.Is(out.Err, order.ErrAlready):
		return nil
	}
	return out.Err
}

// letterMessage is what a dead message's payload holds.
type letterMessage struct {
	Subject string            `json:"subject"`
	ID      string            `json:"id"`
	Headers map[string]string `json:"headers,omitempty"`
	Data    []byte            `json:"data"`
	// Lane and At are of a row of the outbox; empty for a message of the bus.
	Lane string    `json:"lane,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

func (r redriver) message(ctx context.Context, l deadletter.Letter, payload []byte) error {
	var m letterMessage
	if err := json.Unmarshal(payload, &m); err != nil || m.Subject == "" {
		return &deadletter.RejectedError{Reason: `the replacement is not a message: give {"subject","headers","data"} with data in base64`}
	}
	if m.Lane == string(outbox.LaneEvents) {
		err := r.core.deliverEvents(ctx, []outbox.Row{{TenantID: l.TenantID, Subject: m.Subject, ID: m.ID, At: m.At, Data: m.Data}})
		var still *outbox.RowError
		if errors.As(err, &still) {
			return &deadletter.RejectedError{Reason: still.Reason}
		}
		return err
	}
	if r.core.bus == nil {
		return &deadletter.RejectedError{Reason: "no server runs here, and a message can be handed to a running one only: start the server and redrive again"}
	}
	return r.core.bus.Publish(ctx, []bus.Message{{Subject: m.Subject, ID: l.ID + "-" + fmt.Sprint(l.Attempts), Headers: m.Headers, Data: m.Data}})
}

// keepRow keeps a row of the outbox that can never be handed over. It was written
// by this program, so only a defect makes one.
func (c *core) keepRow(ctx context.Context, row outbox.Row, reason string) error {
	return c.keep(ctx, row.TenantID, letterMessage{Subject: row.Subject, ID: row.ID, Lane: string(row.Lane), At: row.At, Data: row.Data}, 1,
		"it could not leave the outbox: "+reason)
}

// noTenant stands for the tenant of a message that names none.
const noTenant = "unknown"

// keepMessage keeps a message that can never be processed.
func (c *core) keepMessage(ctx context.Context, d *bus.Delivery, reason error) error {
	var told order.Told
	_ = json.Unmarshal(d.Data, &told) // it may be anything
	return c.keep(ctx, told.TenantID, letterMessage{Subject: d.Subject, ID: d.ID, Headers: d.Headers, Data: d.Data}, d.Attempt, reason.Error())
}

func (c *core) keep(ctx context.Context, tenant string, m letterMessage, attempts int, reason string) error {
	if tenant == "" {
		tenant = noTenant
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return err
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, append([]byte(m.Subject+"\x00"+m.ID+"\x00"), m.Data...)).String()
	c.logger.Error("a message could not be processed and is a dead letter now", "subject", m.Subject, "tenant", tenant, "id", id, "error", reason)
	return c.db.DeadLetters().Add(ctx, []deadletter.Letter{{
		ID: id, TenantID: tenant, Kind: deadletter.KindMessage, Reason: "the message could not be processed: " + reason,
		Source: "bus", Type: m.Subject, EventID: m.ID, ReceivedAt: time.Now().UTC(), Attempts: attempts,
		ContentType: "application/json", Payload: payload,
	}})
}
