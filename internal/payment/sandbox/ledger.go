package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"millrace/internal/payment"
)

// ChargeID names a charge.
type ChargeID struct{ TenantID, Key string }

// Line is one record of a charge.
type Line struct {
	ChargeID
	// N numbers a charge's records, from 1 without a gap.
	N  int64
	At time.Time
	// Record is what happened, as JSON. It is the Sandbox's own business.
	Record []byte
}

// ErrConflict says that another process has put a record in the place of one that
// was to be appended.
var ErrConflict = errors.New("sandbox: another process wrote to the ledger first")

// Ledger keeps what several Sandboxes, each in a process of its own, did together:
// they are one bank. It is safe for concurrent use. All errors may be told to who
// operates Millrace.
type Ledger interface {
	// Load returns all records of charges, those of each in the order of their numbers.
	// A charge without records is left out.
	Load(ctx context.Context, charges []ChargeID) ([]Line, error)
	// Append adds records, all or none, and returns when they are durable. It answers
	// ErrConflict, and adds nothing, if one with the charge and number of one of them is
	// there. After any other error they may be there.
	Append(ctx context.Context, lines []Line) error
	// Page returns charges in the order in which they began, at most limit, those after
	// a cursor unless that is empty; of one tenant unless that is empty. next is empty
	// at the end. ErrBadCursor if the cursor is not one it gave.
	Page(ctx context.Context, tenantID, cursor string, limit int) (charges []ChargeID, next string, err error)
}

const (
	// sharedTime bounds one batch of questions to a shared ledger.
	sharedTime = 10 * time.Second
	// sharedTries is how often a batch is decided when others are always first.
	sharedTries = 20
)

// shared answers questions by a ledger that others write to as well: what is known
// of the charges is loaded for each batch, and decided again if somebody wrote
// meanwhile.
type shared struct {
	*teller
	ledger Ledger
	added  []Line // by the running batch
}

func newShared(t *teller, l Ledger) *shared {
	s := &shared{teller: t, ledger: l}
	t.record = s.add
	return s
}

// add puts a record, which was applied already, into the running batch.
func (s *shared) add(r record) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a record of the sandbox's ledger: %w", err)
	}
	s.added = append(s.added, Line{ChargeID: ChargeID{r.TenantID, r.Key}, N: s.book.find(r.TenantID, r.Key).records, At: time.Unix(0, r.At), Record: body})
	return nil
}

func (s *shared) serve(calls []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), sharedTime)
	defer cancel()
	for try := 1; ; try++ {
		failures := maps.Clone(s.failures)
		err := s.attempt(ctx, calls)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrConflict) && try < sharedTries:
			s.failures = failures
			continue
		case errors.Is(err, ErrConflict):
			err = &payment.UnavailableError{RetryAfter: 100 * time.Millisecond, Cause: fmt.Sprintf("others wrote to the sandbox's ledger first, %d times", try)}
		}
		for _, c := range calls {
			c.Out, c.Err = answer{}, err
		}
		return
	}
}

// attempt answers the questions by what the ledger says now. Its error is of all
// of them.
func (s *shared) attempt(ctx context.Context, calls []*call) error {
	if err := s.load(ctx, calls); err != nil {
		// Nothing was decided, so nothing will come of these calls.
		return &payment.UnavailableError{RetryAfter: time.Second, Cause: err.Error()}
	}
	s.added = s.added[:0]
	now := s.now()
	for _, c := range calls {
		if c.Err == nil {
			c.Out, c.Err = s.decide(c.In, now)
		}
	}
	if len(s.added) == 0 {
		return nil
	}
	return s.ledger.Append(ctx, s.added)
}

// load fills a new book with the charges that the calls are about.
func (s *shared) load(ctx context.Context, calls []*call) error {
	s.book = newBook()
	s.book.named = true
	var ids []ChargeID
	seen := map[ChargeID]bool{}
	for _, c := range calls {
		about, err := s.about(ctx, c)
		if err != nil {
			return err
		}
		for _, id := range about {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	lines, err := s.ledger.Load(ctx, ids)
	if err != nil {
		return err
	}
	for _, line := range lines {
		var r record
		err := json.Unmarshal(line.Record, &r)
		if err == nil {
			err = s.book.apply(r)
		}
		if err != nil {
			return fmt.Errorf("the sandbox's ledger contradicts itself at record %d of charge %s: %w", line.N, line.Key, err)
		}
	}
	return nil
}

// about returns the charges that a call is about. An error that is the caller's own
// is put into the call.
func (s *shared) about(ctx context.Context, c *call) (ids []ChargeID, err error) {
	c.Out, c.Err = answer{}, nil
	switch q := &c.In; q.kind {
	case askList:
		q.page, q.next, err = s.ledger.Page(ctx, q.tenant, q.cursor, q.limit)
		if errors.Is(err, ErrBadCursor) {
			c.Err, err = err, nil
		}
		return q.page, err
	case askRefund:
		return []ChargeID{{q.refund.TenantID, q.refund.ChargeKey}}, nil
	default:
		return []ChargeID{{q.charge.TenantID, q.charge.Key}}, nil
	}
}
