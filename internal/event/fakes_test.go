package event

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/event/dedupe"
	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// gateLog is a Log whose appends wait until the test lets them end.
type gateLog struct {
	entered chan []byte
	outcome chan error
	next    atomic.Uint64
}

func newGateLog() *gateLog {
	return &gateLog{entered: make(chan []byte, 16), outcome: make(chan error, 16)}
}

func (l *gateLog) Admit() error                          { return nil }
func (l *gateLog) AppendAsync([]byte, func(error)) error { return errors.New("not in this test") }
func (l *gateLog) Next() uint64                          { return l.next.Load() }

func (l *gateLog) Append(record []byte) (wal.Position, error) {
	l.entered <- slices.Clone(record)
	err := <-l.outcome
	if err != nil {
		return wal.Position{}, err
	}
	return wal.Position{Seq: l.next.Add(1) - 1}, nil
}

// memStore is a Store in memory that can fail in every way the contract names.
type memStore struct {
	Store // the methods that are not needed

	mu       sync.Mutex
	known    bool
	next     uint64
	rows     []Row
	batches  []Batch
	fail     []error             // one for each coming Append, nil for success
	loseNext bool                // commit, but answer with an error
	away     int                 // so many calls of Position fail
	refuses  func(r Row) bool    // rows refused with ErrData
	appended chan struct{}       // one for each real Append that committed
	onAppend func(b Batch) error // called first, outside the lock
}

func newMemStore() *memStore { return &memStore{appended: make(chan struct{}, 1<<16)} }

var errAway = errors.New("the database is away")

func (s *memStore) Position(context.Context, LogID) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away > 0 {
		s.away--
		return 0, false, errAway
	}
	return s.next, s.known, nil
}

func (s *memStore) Append(_ context.Context, b Batch) (int, error) {
	if s.onAppend != nil && !b.DryRun {
		if err := s.onAppend(b); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fail) > 0 && !b.DryRun {
		err := s.fail[0]
		s.fail = s.fail[1:]
		if err != nil {
			return 0, err
		}
	}
	if !s.known && b.Known {
		return 0, &PositionError{From: b.From, Unknown: true}
	}
	if s.known && s.next != b.From {
		return 0, &PositionError{Have: s.next, From: b.From}
	}
	for _, r := range b.Rows {
		if s.refuses != nil && s.refuses(r) {
			return 0, ErrData
		}
	}
	if b.DryRun {
		return len(b.Rows), nil
	}
	s.known, s.next = true, b.UpTo
	for _, r := range b.Rows {
		s.rows = append(s.rows, cloneRow(r))
	}
	b.Rows = nil
	s.batches = append(s.batches, b)
	s.appended <- struct{}{}
	if s.loseNext {
		s.loseNext = false
		return 0, errAway
	}
	return len(s.rows), nil
}

func (s *memStore) Has(_ context.Context, h Hash) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.rows, func(r Row) bool { return r.Hash == h }), nil
}

func (s *memStore) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, r := range s.rows {
		ids = append(ids, r.ID)
	}
	return ids
}

func cloneRow(r Row) Row {
	r.TenantID, r.ID, r.Type = strings.Clone(r.TenantID), strings.Clone(r.ID), strings.Clone(r.Type)
	r.Source, r.Attributes, r.Payload = strings.Clone(r.Source), strings.Clone(r.Attributes), strings.Clone(r.Payload)
	return r
}

// memLetters keeps dead letters in memory.
type memLetters struct {
	mu      sync.Mutex
	letters []deadletter.Letter
}

func (m *memLetters) Add(_ context.Context, letters []deadletter.Letter) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range letters {
		if slices.ContainsFunc(m.letters, func(have deadletter.Letter) bool { return have.ID == l.ID }) {
			continue
		}
		l.Payload = slices.Clone(l.Payload)
		l.Reason = strings.Clone(l.Reason)
		m.letters = append(m.letters, l)
	}
	return nil
}

func (m *memLetters) all() []deadletter.Letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.letters)
}

func openLog(t testing.TB, fs *faultfs.FS, now func() time.Time) *wal.Log {
	t.Helper()
	log, err := wal.Open(t.Context(), wal.Options{Dir: "wal", FS: fs, Now: now, SegmentBytes: 8 << 20, ReserveBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func newTestWindow(t testing.TB) *dedupe.Window {
	t.Helper()
	w, err := dedupe.New(dedupe.Options{Window: 2 * time.Minute, MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return w
}
