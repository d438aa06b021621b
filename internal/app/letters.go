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
	Headers map[string]string `json:"headers,omitempty"`
	Data    []byte            `json:"data"`
}

func (r redriver) message(ctx context.Context, l deadletter.Letter, payload []byte) error {
	var m letterMessage
	if err := json.Unmarshal(payload, &m); err != nil || m.Subject == "" {
		return &deadletter.RejectedError{Reason: `the replacement is not a message: give {"subject","headers","data"} with data in base64`}
	}
	if r.core.bus == nil {
		return &deadletter.RejectedError{Reason: "no server runs here, and a message can be handed to a running one only: start the server and redrive again"}
	}
	return r.core.bus.Publish(ctx, []bus.Message{{Subject: m.Subject, ID: l.ID + "-" + fmt.Sprint(l.Attempts), Headers: m.Headers, Data: m.Data}})
}

// keepRow keeps a row of the outbox that can never be handed over. It was written
// by this program, so only a defect makes one.
func (c *core) keepRow(ctx context.Context, row outbox.Row, reason string) error {
	return c.keepMessage(ctx, &bus.Delivery{Message: bus.Message{Subject: row.Subject, ID: row.ID, Data: row.Data}, Attempt: 1},
		fmt.Errorf("it could not leave the outbox (lane %s): %s", row.Lane, reason))
}

// noTenant stands for the tenant of a message that names none.
const noTenant = "unknown"

// keepMessage keeps a message that can never be processed.
func (c *core) keepMessage(ctx context.Context, d *bus.Delivery, reason error) error {
	var told order.Told
	_ = json.Unmarshal(d.Data, &told) // it may be anything
	tenant := told.TenantID
	if tenant == "" {
		tenant = noTenant
	}
	payload, err := json.Marshal(letterMessage{d.Subject, d.Headers, d.Data})
	if err != nil {
		return err
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, append([]byte(d.Subject+"\x00"+d.ID+"\x00"), d.Data...)).String()
	c.logger.Error("a message could not be processed and is a dead letter now", "subject", d.Subject, "tenant", tenant, "id", id, "error", reason)
	return c.db.DeadLetters().Add(ctx, []deadletter.Letter{{
		ID: id, TenantID: tenant, Kind: deadletter.KindMessage, Reason: "the message could not be processed: " + reason.Error(),
		Source: "bus", Type: d.Subject, EventID: told.OrderID, ReceivedAt: time.Now().UTC(), Attempts: d.Attempt,
		ContentType: "application/json", Payload: payload,
	}})
}
