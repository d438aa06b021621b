package deadletter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
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
}

// NewService returns a Service.
func NewService(store Store, redriver Redriver, now func() time.Time, logger *slog.Logger) *Service {
	return &Service{store: store, redriver: redriver, now: now, logger: logger}
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
func (s *Service) Delete(ctx context.Context, tenantID, id string) error {
	return s.store.Delete(ctx, tenantID, id)
}

// Redrive tries a letter again and removes it when that succeeds. The payload
// is used in place of the letter's own unless it is empty. A refusal is counted
// on the letter and returned as a *RejectedError.
func (s *Service) Redrive(ctx context.Context, tenantID, id string, payload []byte) (Letter, error) {
	l, err := s.store.Get(ctx, tenantID, id)
	if err != nil {
		return Letter{}, err
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
func (s *Service) RedriveAll(ctx context.Context, f Filter, limit int) (Summary, error) {
	return s.each(ctx, f, limit, func(l Letter) (bool, error) {
		_, err := s.redrive(ctx, l, nil)
		var rejected *RejectedError
		if errors.As(err, &rejected) || errors.Is(err, ErrTruncated) {
			return false, nil
		}
		return err == nil, err
	})
}

// DeleteAll deletes the letters a filter matches, at most limit.
func (s *Service) DeleteAll(ctx context.Context, f Filter, limit int) (Summary, error) {
	return s.each(ctx, f, limit, func(l Letter) (bool, error) {
		err := s.store.Delete(ctx, l.TenantID, l.ID)
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err == nil, err
	})
}

func (s *Service) each(ctx context.Context, f Filter, limit int, do func(Letter) (bool, error)) (Summary, error) {
	var sum Summary
	cursor := ""
	for {
		letters, next, err := s.store.List(ctx, f, min(page, limit-sum.Done-sum.Failed), cursor)
		if err != nil {
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
