package outbox

import (
	"context"
	"errors"

	"millrace/internal/bus"
)

// BusDeliver returns a relay's Deliver that publishes rows: the row's id is the
// message's, and its trace and tenant travel as headers.
func BusDeliver(b bus.Bus) func(ctx context.Context, rows []Row) error {
	return func(ctx context.Context, rows []Row) error {
		messages := make([]bus.Message, len(rows))
		for i := range rows {
			r := &rows[i]
			m := bus.Message{Subject: r.Subject, ID: r.ID, Data: r.Data}
			if r.TenantID != "" || r.Trace != "" {
				m.Headers = make(map[string]string, 2)
			}
			if r.TenantID != "" {
				m.Headers[bus.HeaderTenant] = r.TenantID
			}
			if r.Trace != "" {
				m.Headers[bus.HeaderTrace] = r.Trace
			}
			messages[i] = m
		}
		err := b.Publish(ctx, messages)
		var invalid *bus.InvalidError
		if errors.As(err, &invalid) && invalid.Index >= 0 && invalid.Index < len(rows) {
			return &RowError{Seq: rows[invalid.Index].Seq, Reason: invalid.Reason}
		}
		return err
	}
}
