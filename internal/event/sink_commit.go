package event

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"millrace/internal/deadletter"
)

// firstBackoff is the wait after the first of several failures.
const firstBackoff = 50 * time.Millisecond

// commit brings the batch into the store. It tries until that succeeds, the
// context ends, or the store turns out to stand elsewhere. Where a commit took
// place and its reply was lost, the next try is told so by the position.
func (s *Sink) commit(ctx context.Context) error {
	s.began = s.o.Now()
	backoff := firstBackoff
	for {
		err := s.try(ctx)
		if err == nil {
			break
		}
		if errors.Is(err, errReposition) || ctx.Err() != nil {
			return err
		}
		if s.tooMuch(err) {
			s.failed(err, 0)
			return errReposition // and with less
		}
		s.failed(err, backoff)
		if !sleep(ctx, backoff/2+rand.N(backoff/2)) {
			return ctx.Err()
		}
		backoff = min(2*backoff, s.o.MaxBackoff)
	}
	s.done()
	return nil
}

// regrowAfter is how many commits in a row must succeed before batches grow again.
const regrowAfter = 16

// tooMuch halves the batches to come if this one took too long and can be made
// smaller: it would take as long again.
func (s *Sink) tooMuch(err error) bool {
	b := &s.batch
	if !errors.Is(err, ErrSlow) && !errors.Is(err, context.DeadlineExceeded) || len(b.arrivals) < 2 {
		return false
	}
	s.maxRows, s.maxBytes, s.good = max(1, b.rows()/2), max(1, b.bytes()/2), 0
	s.o.Logger.Warn("the store took too long over a batch; the next are half as large",
		"log", s.o.Advice.Name, "rows", b.rows(), "bytes", b.bytes())
	return true
}

// regrow doubles the batches to come, up to what is asked for, after some successes.
func (s *Sink) regrow() {
	if s.good++; s.good >= regrowAfter {
		s.good = 0
		s.maxRows, s.maxBytes = min(2*s.maxRows, s.o.MaxBatchRows), min(2*s.maxBytes, s.o.MaxBatchBytes)
	}
}

// try writes the batch once. Rows that the database refuses for what is in them
// become dead letters on the way.
func (s *Sink) try(ctx context.Context) error {
	b := &s.batch
	if err := s.addLetters(ctx); err != nil {
		return fmt.Errorf("writing dead letters: %w", err)
	}
	inserted, err := s.append(ctx, b.request(&s.o))
	var position *PositionError
	switch {
	case err == nil:
		s.o.Metrics.inserted.Add(float64(inserted))
		return nil
	case errors.As(err, &position):
		return s.reposition(position)
	case errors.Is(err, ErrData) && len(b.items) > 0:
		if err := s.condemn(ctx, err); err != nil {
			return err
		}
		return s.try(ctx) // without them
	}
	return err
}

// append and addLetters are the calls of the stores, each with its deadline.
func (s *Sink) append(ctx context.Context, b Batch) (inserted int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.CommitTimeout)
	defer cancel()
	return s.o.Store.Append(ctx, b)
}

func (s *Sink) addLetters(ctx context.Context) error {
	if len(s.batch.letters) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.CommitTimeout)
	defer cancel()
	return s.o.DeadLetters.Add(ctx, s.batch.letters)
}

// reposition judges a store that does not stand where the batch begins. That it
// has the batch is the common case: an earlier reply was lost.
func (s *Sink) reposition(p *PositionError) error {
	switch {
	case p.Unknown:
		s.o.Logger.Error("the store does not know the event log any more, of which it had everything so far; looking what is left of it",
			"log", s.o.Advice.Name, "had", s.batch.from)
		return errReposition
	case p.Have == s.batch.upTo:
		return nil
	}
	s.o.Logger.Warn("the store stands elsewhere in the event log; going on from there",
		"log", s.o.Advice.Name, "have", p.Have, "expected", s.batch.from)
	return errReposition
}

// condemn finds the rows the database refuses for what is in them and turns
// them into dead letters of the batch.
func (s *Sink) condemn(ctx context.Context, cause error) error {
	b := &s.batch
	kept, bad, err := s.bisect(ctx, b.items, nil)
	if err != nil {
		return err
	}
	if len(bad) == 0 {
		// Each half is fine but the whole is not: that is not the data of one row.
		return fmt.Errorf("the database refuses the batch but none of its rows: %w", cause)
	}
	s.tellRefused(bad)
	for _, refused := range bad {
		if s.o.Forget != nil {
			s.o.Forget(refused.row.Hash)
		}
		b.letters = append(b.letters, s.condemned(refused))
	}
	b.items = append(b.items[:0], kept...)
	return nil
}

// toldRefused is how many refused rows of one batch are told one by one.
const toldRefused = 5

func (s *Sink) tellRefused(bad []refusedRow) {
	for _, r := range bad[:min(len(bad), toldRefused)] {
		s.o.Logger.Warn("the database refuses an event for what is in it; it becomes a dead letter",
			"tenant", r.row.TenantID, "type", r.row.Type, "id", r.row.ID, "error", r.cause)
	}
	if more := len(bad) - toldRefused; more > 0 {
		s.o.Logger.Warn("the database refuses more events of the same batch; they become dead letters, each with its reason", "events", more)
	}
}

// refusedRow is a row and what the database said of it.
type refusedRow struct {
	row   Row
	cause error
}

// bisect parts rows into the ones the database takes and the ones it refuses,
// with dry runs.
func (s *Sink) bisect(ctx context.Context, rows []Row, bad []refusedRow) (kept []Row, _ []refusedRow, err error) {
	request := s.batch.request(&s.o)
	request.Rows, request.DryRun = rows, true
	_, err = s.append(ctx, request)
	switch {
	case err == nil:
		return rows, bad, nil
	case !errors.Is(err, ErrData):
		return nil, bad, err
	case len(rows) == 1:
		return nil, append(bad, refusedRow{rows[0], err}), nil
	}
	half := len(rows) / 2
	left, bad, err := s.bisect(ctx, rows[:half], bad)
	if err != nil {
		return nil, bad, err
	}
	right, bad, err := s.bisect(ctx, rows[half:], bad)
	if err != nil {
		return nil, bad, err
	}
	return append(append(make([]Row, 0, len(left)+len(right)), left...), right...), bad, nil
}

// condemned is the dead letter of a row the database refuses.
func (s *Sink) condemned(r refusedRow) deadletter.Letter {
	receivedAt := time.Unix(0, r.row.ReceivedAt).UTC()
	return deadletter.Letter{
		// Its place in the log is not known here. What two rows do not differ in
		// beyond this makes them the same event.
		ID:       letterID(receivedAt, s.batch.logID[:], r.row.Hash[:], []byte(r.row.Type), []byte(r.row.Payload)),
		TenantID: r.row.TenantID, Kind: deadletter.KindEvent,
		Reason: "the database refuses this event: " + r.cause.Error(),
		Source: r.row.Source, Type: r.row.Type, EventID: r.row.ID,
		ReceivedAt: receivedAt, Attempts: 1, ContentType: "application/json",
		Payload: AppendEnvelope(nil, r.row),
	}
}

func (s *Sink) failed(err error, backoff time.Duration) {
	if s.Err() == nil {
		s.o.Metrics.failing.Inc()
	}
	s.setErr(err)
	s.o.Metrics.failures.Inc()
	s.o.Logger.Warn("events could not be written to the store; they are safe in the log and it is tried again",
		"from", s.batch.from, "upTo", s.batch.upTo, "rows", len(s.batch.items), "retryIn", backoff, "error", err)
}

// done notes the commit, lets the log go forward, and tells those who wait.
func (s *Sink) done() {
	b, m, now := &s.batch, s.o.Metrics, s.o.Now()
	if s.Err() != nil {
		s.setErr(nil)
		m.failing.Dec()
		s.o.Logger.Info("the store takes events again", "position", b.upTo)
	}
	m.rows.Add(float64(len(b.items)))
	m.flushRows.Observe(float64(len(b.items)))
	m.flushSeconds.Observe(now.Sub(s.began).Seconds())
	for _, at := range b.arrivals {
		m.lagSeconds.Observe(max(now.Sub(at).Seconds(), 0))
	}
	for i := range b.letters {
		m.deadLetters.WithLabelValues(string(b.letters[i].Kind)).Inc()
	}
	s.mu.Lock()
	s.letters += uint64(len(b.letters))
	s.mu.Unlock()
	if err := s.o.Log.Release(b.upTo); err != nil {
		s.o.Logger.Warn("the event log could not give back space", "error", err)
	}
	b.known = true
	s.regrow()
	s.advance(b.upTo)
}

// sleep waits and says whether the context allowed it to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
