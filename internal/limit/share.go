package limit

import (
	"sync/atomic"
	"time"
)

// kickShare: an instance that has spent an eighth of a limit since the last exchange
// does not wait for the next one's time.
const kickShare = 8

// share is what an instance has spent of a limit that it shares, and how much of it
// the store knows. Totals only grow, and the store adds what a total has grown by
// since it last saw it: so an exchange whose answer is lost, that is repeated, or
// that comes late after a newer one, counts once.
type share struct {
	key string
	// total is what was ever spent here, in nanoseconds of a bucket's flow, or units
	// of a window; and hurryAt the total at which the next exchange is wanted at once.
	total, hurryAt atomic.Int64
	// since is when the key was first used after the last exchange began.
	since  atomic.Int64
	queued atomic.Bool
	// acked is the total of which the store has said that it knows.
	acked atomic.Int64

	// The exchanging goroutine's own:
	waiting bool  // since first
	first   int64 // when the first of what is not acknowledged was spent
}

// newShare begins at a total that no earlier share of the key had reached.
func newShare(key string, base, kick int64) *share {
	s := &share{key: key}
	s.total.Store(base)
	s.acked.Store(base)
	s.hurryAt.Store(base + kick)
	return s
}

// spend adds to the total and says whether that is worth an exchange at once.
func (s *share) spend(n int64) bool {
	total, at := s.total.Add(n), s.hurryAt.Load()
	return total >= at && total-n < at
}

// touch says whether the caller has to enqueue the key for the next exchange.
func (s *share) touch(now int64) bool {
	if s.queued.Load() || !s.queued.CompareAndSwap(false, true) {
		return false
	}
	s.since.Store(now)
	return true
}

// cut begins an exchange: it returns the total, and for how long what is not
// acknowledged of it has been spent.
func (s *share) cut(now, kick int64) (total, elapsed int64) {
	s.queued.Store(false)
	if since := s.since.Load(); !s.waiting || since < s.first {
		s.first, s.waiting = since, true
	}
	total = s.total.Load()
	s.hurryAt.Store(total + kick)
	return total, max(now-s.first, 0)
}

// acknowledge ends an exchange.
func (s *share) acknowledge(total int64) {
	s.waiting = false
	s.acked.Store(total)
}

// settled says whether the store knows all, or cannot be told.
func (s *share) settled(by *Syncer) bool {
	return s == nil || s.total.Load() == s.acked.Load() && !s.queued.Load() || by.Degraded()
}

// bury keeps the base of new shares above every total that was ever sent.
func (s *share) bury(base *atomic.Int64) {
	if s == nil {
		return
	}
	for total := s.total.Load(); ; {
		old := base.Load()
		if old >= total || base.CompareAndSwap(old, total) {
			return
		}
	}
}

// member is one key of a limit, as the Syncer sees it. Its methods but shared are
// called by one goroutine at a time.
type member interface {
	shared() *share
	// cut fills e with what the store is to know, and returns false if the key was
	// evicted. At is now; heard is the end of the last outage, zero if there was none.
	cut(e *Entry, at, heard time.Time) bool
	// apply takes the answer to e over, of an exchange that began and ended then.
	apply(e *Entry, began, ended time.Time)
}
