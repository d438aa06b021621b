package deadletter

import (
	"context"
	"fmt"
	"time"

	"millrace/internal/audit"
)

// What operators do, as the audit log calls it.
const (
	actionDelete  = "dead-letter.delete"
	actionRedrive = "dead-letter.redrive"
)

// auditedLetter is what the audit log keeps of a letter: not its payload, which
// may hold anything.
type auditedLetter struct {
	Kind       Kind      `json:"kind"`
	Reason     string    `json:"reason"`
	Source     string    `json:"source,omitempty"`
	Type       string    `json:"type,omitempty"`
	EventID    string    `json:"eventId,omitempty"`
	BatchID    string    `json:"batchId,omitempty"`
	ReceivedAt time.Time `json:"receivedAt"`
	Attempts   int       `json:"attempts"`
}

// auditedRedrive is what is known of a redrive before it is done.
type auditedRedrive struct {
	// Replaced says that the operator sent something in place of the payload.
	Replaced bool `json:"replaced"`
}

// record writes to the audit log, if there is one, that an action is about to be
// done to letters.
func (s *Service) record(ctx context.Context, action string, by audit.Actor, replacement []byte, letters ...Letter) error {
	if s.audit == nil || len(letters) == 0 {
		return nil
	}
	now := s.now().UTC()
	entries := make([]audit.Entry, len(letters))
	for i := range letters {
		l := &letters[i]
		before := auditedLetter{Kind: l.Kind, Reason: l.Reason, Source: l.Source, Type: l.Type, EventID: l.EventID,
			BatchID: l.BatchID, ReceivedAt: l.ReceivedAt, Attempts: l.Attempts}
		var after any
		if action == actionRedrive {
			after = auditedRedrive{Replaced: len(replacement) > 0}
		}
		var err error
		if entries[i], err = audit.NewEntry(l.TenantID, now, by, action, "dead-letter/"+l.ID, before, after); err != nil {
			return err
		}
	}
	if err := s.audit.Record(ctx, entries); err != nil {
		return fmt.Errorf("nothing was done, because it could not be recorded in the audit log: %w", err)
	}
	return nil
}
