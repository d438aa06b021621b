package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/audit"
)

// Redriver puts what a letter holds back on its road. The payload is the
// letter's own, or what an operator gave in its place.
type Redriver interface {
	// Redrive returns nil when the thing is accepted, a *RejectedError when it is
	// refused for what is in it, and any other error when it could not be tried.
	// It may be called again for a letter that was redriven already: that must
	// not do its effect twice.
	Redrive(ctx context.Context, l Letter, payload []byte) error
}

// RejectedError says that a letter was refused once more.
type RejectedError struct{ Reason string }

func (e *RejectedError) Error() string { return e.Reason }

// ErrTruncated says that a letter holds only the beginning of what it was, and
// so can be redriven only with a replacement.
var ErrTruncated = errors.New("only the beginning of this was kept: send the whole as a replacement, or delete the letter")

// Service is what operators do with dead letters. It is safe for concurrent use.
type Service struct {
	store    Store
	redriver Redriver
	now      func() time.Time
	logger   *slog.Logger
	audit    AuditLog // nil: nothing is recorded
}

// AuditLog takes the entries of what operators do. *audit.Log is one.
type AuditLog interface {
	// Record writes entries durably, all or none.
	Record(ctx context.Context, entries []audit.Entry) error
}

// NewService returns a Service.
func NewService(store Store, redriver Redriver, now func() time.Time, logger *slog.Logger) *Service {
	return &Service{store: store, redriver: redriver, now: now, logger: logger}
}

// WithAudit returns the Service with an audit log. Deleting and redriving are
// recorded there before they are done, so that an entry says what was asked for:
// "dead-letter.delete" or "dead-letter.redrive" of "dead-letter/ID". Nothing is
// done that cannot be recorded.
func (s *Service) WithAudit(log AuditLog) *Service {
	audited := *s
	audited.audit = log
	return &audited
}

// List returns a page of letters, newest first.
func (s *Service) List(ctx context.Context, f Filter, limit int, cursor string) ([]Letter, string, error) {
	return s.store.List(ctx, f, limit, cursor)
}

// Get returns one letter.
func (s *Service) Get(ctx context.Context, tenantID, id string) (Letter, error) {
	return s.store.Get(ctx, tenantID, id)
}

// Delete removes one letter.
func (s *Service) Delete(ctx context.Context, tenantID, id string, by audit.Actor) error {
	if s.audit != nil {
		l, err := s.store.Get(ctx, tenantID, id)
		if err != nil {
			return err
		}
		if err := s.record(ctx, actionDelete, by, nil, l); err != nil {
			return err
		}
	}
	return s.store.Delete(ctx, tenantID, id)
}

// Redrive tries a letter again and removes it when that succeeds. The payload
// is used in place of the letter's own unless it is empty. A refusal is counted
// on the letter and returned as a *RejectedError.
func (s *Service) Redrive(ctx context.Context, tenantID, id string, payload []byte, by audit.Actor) (Letter, error) {
	l, err := s.store.Get(ctx, tenantID, id)
	if err != nil {
		return Letter{}, err
	}
	if l.Truncated && len(payload) == 0 {
		return l, ErrTruncated // nothing is done, so nothing is recorded
	}
	if err := s.record(ctx, actionRedrive, by, payload, l); err != nil {
		return l, err
	}
	return s.redrive(ctx, l, payload)
}

func (s *Service) redrive(ctx context.Context, l Letter, payload []byte) (Letter, error) {
	if len(payload) == 0 {
		if l.Truncated {
			return l, ErrTruncated
		}
		payload = l.Payload
	}
	err := s.redriver.Redrive(ctx, l, payload)
	var rejected *RejectedError
	if errors.As(err, &rejected) {
		l.Attempts++
		l.LastAttemptAt, l.Reason = s.now().UTC(), rejected.Reason
		if err := s.store.RecordAttempt(ctx, l.TenantID, l.ID, l.LastAttemptAt, l.Reason); err != nil {
			return l, fmt.Errorf("counting the attempt: %w", err)
		}
		return l, err
	}
	if err != nil {
		return l, err
	}
	// A crash here leaves a letter whose redrive has no further effect.
	if err := s.store.Delete(ctx, l.TenantID, l.ID); err != nil && !errors.Is(err, ErrNotFound) {
		return l, fmt.Errorf("the letter was redriven but not removed, do it again: %w", err)
	}
	s.logger.Info("dead letter redriven", "tenant", l.TenantID, "id", l.ID, "kind", l.Kind)
	return l, nil
}

// Summary says what became of the letters a filter matched.
type Summary struct {
	// Done counts the letters that are gone: redriven or deleted.
	Done int
	// Failed counts the letters that were tried and stay.
	Failed int
	// More says that the limit ended the work before the filter did.
	More bool
}

// page is how many letters are read at once; their payloads are in memory.
const page = 100

// RedriveAll redrives the letters a filter matches, newest first, at most limit.
// It stops at the first error that is not a refusal: trying on would not help.
func (s *Service) RedriveAll(ctx context.Context, f Filter, limit int, by audit.Actor) (Summary, error) {
	return s.each(ctx, f, limit, actionRedrive, by, func(l Letter) (bool, error) {
		_, err := s.redrive(ctx, l, nil)
		var rejected *RejectedError
		if errors.As(err, &rejected) || errors.Is(err, ErrTruncated) {
			return false, nil
		}
		return err == nil, err
	})
}

// DeleteAll deletes the letters a filter matches, at most limit.
func (s *Service) DeleteAll(ctx context.Context, f Filter, limit int, by audit.Actor) (Summary, error) {
	return s.each(ctx, f, limit, actionDelete, by, func(l Letter) (bool, error) {
		err := s.store.Delete(ctx, l.TenantID, l.ID)
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err == nil, err
	})
}

// each does something to each letter that a filter matches. A page is recorded in
// the audit log as a whole before its first letter is touched.
func (s *Service) each(ctx context.Context, f Filter, limit int, action string, by audit.Actor, do func(Letter) (bool, error)) (Summary, error) {
	var sum Summary
	cursor := ""
	for {
		letters, next, err := s.store.List(ctx, f, min(page, limit-sum.Done-sum.Failed), cursor)
		if err != nil {
			return sum, err
		}
		if err := s.record(ctx, action, by, nil, letters...); err != nil {
			return sum, err
		}
		for _, l := range letters {
			done, err := do(l)
			if err != nil {
				return sum, err
			}
			if done {
				sum.Done++
			} else {
				sum.Failed++
			}
		}
		if next == "" {
			return sum, nil
		}
		if sum.Done+sum.Failed >= limit {
			sum.More = true
			return sum, nil
		}
		cursor = next
	}
}
