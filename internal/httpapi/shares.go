package httpapi

import (
	"errors"
	"sync"
)

// Why there is no memory for a body.
var (
	// errNoMemory means that the bound on bytes in flight is reached.
	errNoMemory = errors.New("too many bytes in flight")
	// errShareUsed means that one holder has as much of the bound as one may.
	errShareUsed = errors.New("too many bytes in flight for one tenant or webhook source")
)

// holder is on whose behalf memory is held: a tenant, or a webhook source, whose
// senders are not known before their body was read and which must not be able to
// crowd its tenant out.
type holder struct{ tenant, source string }

// shares divides the bound on bytes in flight, so that no holder can take all of
// it. It is safe for concurrent use.
type shares struct {
	bound Bytes // nil if there is none
	most  int64 // what one holder may have

	mu   sync.Mutex
	held map[holder]int64
}

// newShares returns shares of a quarter of the bound, but of at least one body of
// the largest size with all it takes to decompress it.
func newShares(bound Bytes, oneBody int64) *shares {
	s := &shares{bound: bound}
	if bound != nil {
		s.most, s.held = max(bound.Limit()/4, oneBody), map[holder]int64{}
	}
	return s
}

// take takes n bytes for a holder, or says why it cannot.
func (s *shares) take(by holder, n int64) error {
	if s.bound == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	has := s.held[by]
	if has+n > s.most {
		return errShareUsed
	}
	if !s.bound.TryAcquire(n) {
		return errNoMemory
	}
	s.held[by] = has + n
	return nil
}

// give gives n bytes back.
func (s *shares) give(by holder, n int64) {
	if s.bound == nil || n == 0 {
		return
	}
	s.bound.Release(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.held[by] - n; left != 0 {
		s.held[by] = left
		return
	}
	delete(s.held, by)
}
