package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/wal"
)

// DeadLetterWriter keeps dead letters; deadletter.Store is one.
type DeadLetterWriter interface {
	// Add writes the letters durably; one that is there already is left alone.
	Add(ctx context.Context, letters []deadletter.Letter) error
}

// SinkOptions are what a Sink is made of. Log, Store and DeadLetters are required.
type SinkOptions struct {
	Log         SinkLog
	Store       Store
	DeadLetters DeadLetterWriter
	// MaxBatchRows and MaxBatchBytes end a batch; a frame is never split, so a
	// batch may exceed them by one frame. 20,000 and 16 MiB if zero. While the store
	// takes too long over so many, batches are smaller.
	MaxBatchRows  int
	MaxBatchBytes int64
	// MinInterval is the least time between the beginnings of two commits while
	// there is less than a full batch to write: small commits cost as much as
	// middling ones. Zero means none.
	MinInterval time.Duration
	// GiveWay, if set, is asked after each commit: true means that accepting is
	// short of the processor and the disk while the backlog has room, so the sink
	// rests for twice as long as the commit took. What it is for is a burst: the
	// log takes events faster than a store can.
	GiveWay func() bool
	// Exact and ExactDays: see Batch.
	Exact     bool
	ExactDays int
	// Forget, if set, is told of every event that becomes a dead letter here, so
	// that it is no duplicate when it comes again, mended.
	Forget func(Hash)
	// MaxBackoff bounds the wait between two tries of a failing commit, 5 s if zero.
	MaxBackoff time.Duration
	// CommitTimeout bounds one call of the store, 60 s if zero.
	CommitTimeout time.Duration
	// Advice says what to do when something is wrong with the log.
	Advice  Advice
	Now     func() time.Time // time.Now if nil
	Logger  *slog.Logger
	Metrics *SinkMetrics
}

// Sink brings what is in the log into the store, in order and exactly once: the
// store moves its position in the log in the transaction that inserts the rows,
// so whatever is interrupted is done again from where the store stands.
//
// Run is the only goroutine; the other methods are safe for concurrent use.
type Sink struct {
	o SinkOptions
	// batch and began, when the last commit began, belong to Run, as do maxRows and
	// maxBytes, which end a batch for now, and good, how many commits in a row succeeded.
	batch    batch
	began    time.Time
	maxRows  int
	maxBytes int64
	good     int

	mu        sync.Mutex
	committed uint64        // the store has every record below
	changed   chan struct{} // closed and replaced at every commit
	lastErr   error         // of the last commit, nil once one succeeds
	letters   uint64        // dead letters of all commits
}

// NewSink returns a Sink.
func NewSink(o SinkOptions) (*Sink, error) {
	if o.Log == nil || o.Store == nil || o.DeadLetters == nil {
		return nil, errors.New("a sink needs a log, a store and a place for dead letters")
	}
	if o.MaxBatchRows <= 0 {
		o.MaxBatchRows = 20_000
	}
	if o.MaxBatchBytes <= 0 {
		o.MaxBatchBytes = 16 << 20
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 5 * time.Second
	}
	if o.CommitTimeout <= 0 {
		o.CommitTimeout = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Advice = o.Advice.withDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewSinkMetrics(nil)
	}
	s := &Sink{o: o, maxRows: o.MaxBatchRows, maxBytes: o.MaxBatchBytes, changed: make(chan struct{})}
	s.batch.logID = o.Log.ID()
	return s, nil
}

// Locate asks the store where it stands in the log and checks that the log has
// what the store wants next. It must be called once, before Run.
func (s *Sink) Locate(ctx context.Context) error {
	next, known, err := s.position(ctx)
	if err != nil {
		return err
	}
	return s.standAt(next, known)
}

// maxRefreshes bounds how often one look for the position begins anew because
// others moved it meanwhile.
const maxRefreshes = 10

// position asks the store where it stands. A log that others write and trim is
// looked at between two answers: one that does not fit is believed only if both are
// the same, since then what the log has and what the store has are of one moment.
func (s *Sink) position(ctx context.Context) (next uint64, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.CommitTimeout)
	defer cancel()
	next, known, err = s.askPosition(ctx)
	refresher, ok := s.o.Log.(Refresher)
	if !ok || err != nil {
		return next, known, err
	}
	for range maxRefreshes {
		if err := refresher.Refresh(ctx); err != nil {
			return 0, false, fmt.Errorf("asking %s how far it goes: %w", s.o.Advice.Name, err)
		}
		before := next
		if next, known, err = s.askPosition(ctx); err != nil || next == before {
			return next, known, err
		}
		if s.o.Log.First() <= next && next <= s.o.Log.Next() {
			return next, known, nil
		}
	}
	return 0, false, fmt.Errorf("the store's position in %s moves while it is looked for: another instance writes it", s.o.Advice.Name)
}

func (s *Sink) askPosition(ctx context.Context) (next uint64, known bool, err error) {
	next, known, err = s.o.Store.Position(ctx, s.o.Log.ID())
	if err != nil {
		err = fmt.Errorf("asking the store for its position in %s: %w", s.o.Advice.Name, err)
	}
	return next, known, err
}

// relocate is Locate for a sink that runs: a store that is away is asked again.
func (s *Sink) relocate(ctx context.Context) error {
	for wait := firstBackoff; ; wait = min(2*wait, s.o.MaxBackoff) {
		next, known, err := s.position(ctx)
		if err == nil {
			return s.standAt(next, known)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.failed(err, wait)
		sleep(ctx, wait)
	}
}

// standAt checks that the log has what the store wants next, and goes there.
func (s *Sink) standAt(next uint64, known bool) error {
	first, end := s.o.Log.First(), s.o.Log.Next()
	if !known {
		if err := s.unknown(first, end); err != nil {
			return err
		}
		next = first
	}
	switch {
	case next < first:
		return fmt.Errorf("%s begins at sequence %d but the store has only what is below %d: %d records are missing; %s",
			s.o.Advice.Name, first, next, first-next, s.o.Advice.MissingStart)
	case next > end:
		return fmt.Errorf("%s ends at sequence %d but the store has what is below %d: the end of the log is missing; %s",
			s.o.Advice.Name, end, next, s.o.Advice.MissingEnd)
	}
	if err := s.o.Log.Release(next); err != nil {
		return err
	}
	s.batch.known = known
	s.advance(next)
	return nil
}

// unknown judges a log that the store does not know. A log gives up only what a
// store has: one that begins later than it was begun had one, and if that is not this
// one, or this one as it was, what it had must not be missed in silence.
func (s *Sink) unknown(first, end uint64) error {
	had := s.batch.known
	switch {
	case first <= 1 && had:
		s.o.Logger.Warn("the store does not know the log any more, all of which is still there; it is stored again from its beginning: look whether the database is the one it should be",
			"log", s.o.Advice.Name, "records", end-first)
		return nil
	case first <= 1:
		return nil
	case first == end && !had:
		s.o.Logger.Warn("the store does not know the log, which is empty but was not always: what it had lies in another store, or is lost if this one should have it",
			"log", s.o.Advice.Name, "records", first-1)
		return nil
	}
	return fmt.Errorf("%s begins at sequence %d, so a store had its first %d records, but this store does not know it: either this is not the database that it was written to, or that database has lost its newest (restored from a backup, or a replica that lagged took over); "+
		"go back to the database that has them, or restore them; if they may stay missing here, %s", s.o.Advice.Name, first, first-1, s.o.Advice.MissingStart)
}

// Run sinks until the context ends, and returns nil then. Any other return is a
// failure that trying again would not mend.
func (s *Sink) Run(ctx context.Context) error {
	defer func() {
		if s.Err() != nil {
			s.o.Metrics.failing.Dec() // of this sink no more is known
		}
	}()
	for {
		err := s.run(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrFramesMissing):
			before := s.Committed()
			if moved := s.relocate(ctx); moved != nil {
				return moved
			}
			if ctx.Err() == nil && s.Committed() == before {
				return err // nobody has brought them into the store
			}
		case errors.Is(err, errReposition):
			if err := s.relocate(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// errReposition asks Run to begin again from where the store stands.
var errReposition = errors.New("the store stands elsewhere in the log")

func (s *Sink) run(ctx context.Context) error {
	reader, err := s.o.Log.ReadFrames(s.Committed())
	if err != nil {
		return fmt.Errorf("reading %s: %w", s.o.Advice.Name, err)
	}
	defer reader.Close()
	s.batch.carrying = false // the new reader brings the frame again
	for {
		if err := s.collect(ctx, reader); err != nil {
			return err
		}
		if err := s.commit(ctx); err != nil {
			return err
		}
		if s.o.GiveWay != nil && s.o.GiveWay() {
			sleep(ctx, min(2*s.o.Now().Sub(s.began), longestRest))
		}
	}
}

// longestRest bounds one rest of a sink that gives way.
const longestRest = 250 * time.Millisecond

// collect waits for a frame and fills the batch with what there is, up to its
// bounds or the end of the day.
func (s *Sink) collect(ctx context.Context, reader Frames) error {
	b := &s.batch
	b.begin(s.Committed())
	if !b.takeCarried() {
		f, err := reader.Next(ctx)
		if err != nil {
			return s.readError(err)
		}
		b.add(f)
	}
	for waited := false; b.err == nil && !b.carrying && b.rows() < s.maxRows && b.bytes() < s.maxBytes; {
		f, ok, err := reader.TryNext()
		if err != nil {
			return s.readError(err)
		}
		if ok {
			b.add(f)
			continue
		}
		if waited || !s.linger(ctx) {
			break
		}
		waited = true
	}
	return b.err
}

func (s *Sink) readError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, wal.ErrClosed) {
		return err
	}
	return fmt.Errorf("reading %s: %w; %s", s.o.Advice.Name, err, s.o.Advice.Unreadable)
}

// linger waits out the rest of MinInterval and says whether it waited at all.
func (s *Sink) linger(ctx context.Context) bool {
	rest := s.o.MinInterval - s.o.Now().Sub(s.began)
	if rest <= 0 || rest > s.o.MinInterval {
		return false
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Committed returns the sequence of the first record that is not in the store.
func (s *Sink) Committed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed
}

// Changed returns a channel that is closed at the next commit.
func (s *Sink) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// WaitCommitted returns once the store has every record below upTo.
func (s *Sink) WaitCommitted(ctx context.Context, upTo uint64) error {
	for {
		s.mu.Lock()
		committed, changed := s.committed, s.changed
		s.mu.Unlock()
		if committed >= upTo {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Err returns why the last commit failed, nil if it succeeded.
func (s *Sink) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}

// DeadLetters returns how many dead letters the commits of this sink had.
func (s *Sink) DeadLetters() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.letters
}

func (s *Sink) setErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// advance notes a commit and wakes those who wait for it.
func (s *Sink) advance(upTo uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committed = upTo
	close(s.changed)
	s.changed = make(chan struct{})
	s.o.Metrics.position.Set(float64(upTo))
}
