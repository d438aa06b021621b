// Package dedupe remembers which events were accepted lately, so that a client
// that repeats a request does not make its events twice.
//
// A caller claims the hashes of a batch before it appends the batch to the log,
// and settles the claim with the outcome. Until then a second batch with one of
// the hashes gets a claim to wait for: its events are as durable as the
// original, never more. When the original failed, its hashes are free again and
// the second batch claims them itself.
//
// Claims are atomic for a batch and a caller settles its own claim before it
// waits for others, so claims never wait for each other in a circle.
//
// A Window is safe for concurrent use. It has no goroutine: old hashes leave as
// new ones come.
package dedupe

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Options of a Window.
type Options struct {
	// Window is how long a hash is remembered, if the memory suffices.
	Window time.Duration
	// MemoryBytes bounds the memory. When it is full the oldest hashes leave
	// early: the window shrinks, which Stats shows.
	MemoryBytes int64
}

// Window is the set of hashes accepted within the last Options.Window.
type Window struct {
	span time.Duration

	mu    sync.Mutex
	table *table
	// marks note, in steps of markEvery, which numbers were taken when.
	marks []mark
	now   time.Time // highest time seen
	// expired is the number below which hashes are too old. They are dropped a
	// few at a time, so that the first claim after a quiet spell does not pay for
	// millions of them.
	expired uint64
	// pending are the unsettled claims in order of their numbers.
	pending []*Claim
}

// mark says that every number below end was taken at or before at.
type mark struct {
	end uint64
	at  time.Time
}

const (
	// markEvery bounds the number of marks; a hash may be remembered that much
	// longer than the window.
	markEvery = 100 * time.Millisecond
	// dropsPerCall exceeds what a batch adds, so that dropping keeps up.
	dropsPerCall = 1024
)

// Claim is the unsettled right to the hashes that were new in one batch.
type Claim struct {
	window     *Window
	first, end uint64
	settled    chan struct{}
	err        error
}

// Found says what a claim found of one hash.
type Found struct {
	// Duplicate is true if the hash was there already, or earlier in the batch.
	Duplicate bool
	// Pending is the claim that brought it, while that is unsettled; nil if it is
	// settled or the batch's own.
	Pending *Claim
}

// New returns an empty window.
func New(o Options) (*Window, error) {
	if o.Window <= 0 {
		return nil, errors.New("the dedupe window must be longer than zero")
	}
	if o.MemoryBytes <= 0 {
		return nil, errors.New("the memory of the dedupe window must be more than zero")
	}
	return &Window{span: o.Window, table: newTable(o.MemoryBytes)}, nil
}

// Claim takes every hash that is new and says in found, which must be as long
// as hashes, which are not. The caller must settle the claim.
func (w *Window) Claim(hashes []Hash, found []Found, now time.Time) *Claim {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(now)
	c := &Claim{window: w, first: w.table.tail, settled: make(chan struct{})}
	for i := range hashes {
		found[i] = Found{}
		if n, ok := w.find(&hashes[i]); ok {
			found[i].Duplicate = true
			if n < c.first {
				found[i].Pending = w.pendingAt(n)
			}
			continue
		}
		w.table.add(&hashes[i])
	}
	c.end = w.table.tail
	if c.end > c.first {
		w.pending = append(w.pending, c)
	}
	w.mark()
	return c
}

// Remember adds hashes that are durable already, as at start. Calls come in
// order of time.
func (w *Window) Remember(hashes []Hash, at time.Time) {
	if len(hashes) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(at)
	for i := range hashes {
		if _, ok := w.find(&hashes[i]); !ok {
			w.table.add(&hashes[i])
		}
	}
	w.mark()
}

// Forget lets go of a hash, so that it may come again. Its claim need not be
// settled yet: who waits for that still learns its outcome.
func (w *Window) Forget(h Hash) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.table.find(&h); ok {
		w.table.remove(n)
	}
}

// find returns the number of a hash that is within the window. One that is too
// old, and only waits to be dropped, makes room at once.
func (w *Window) find(h *Hash) (n uint64, ok bool) {
	n, ok = w.table.find(h)
	if ok && n < w.expired {
		w.table.remove(n)
		return 0, false
	}
	return n, ok
}

// Settle says how the batch of the claim ended: nil means that its hashes are
// kept, an error that they are free again. Those who wait learn the same. On a
// nil Claim it does nothing.
func (c *Claim) Settle(err error) {
	if c == nil {
		return
	}
	w := c.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.pending, c); i >= 0 {
		w.pending = slices.Delete(w.pending, i, i+1)
	}
	if err != nil {
		for n := c.first; n < c.end; n++ {
			w.table.remove(n)
		}
	}
	c.err = err
	close(c.settled)
}

// Wait returns the claim's outcome once it is settled, or the context's error.
func (c *Claim) Wait(ctx context.Context) (outcome, ctxErr error) {
	select {
	case <-c.settled:
		return c.err, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Stats describes the window.
type Stats struct {
	// Hashes is how many are remembered, and Capacity how many can be.
	Hashes, Capacity int
	// Bytes is the memory set aside.
	Bytes int64
	// Reach is how far back the memory goes: less than the configured window if
	// the memory was too small for the rate, or little has come yet.
	Reach time.Duration
	// Overflowed counts hashes that could not be remembered for lack of room in
	// their part of the index.
	Overflowed uint64
}

// Stats returns the state of the window.
func (w *Window) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Stats{
		Hashes: w.table.len(), Capacity: len(w.table.ring), Bytes: w.table.bytes(),
		Overflowed: w.table.overflowed,
	}
	if len(w.marks) > 0 {
		s.Reach = w.now.Sub(w.marks[0].at)
	}
	return s
}

// advance lets go of what is older than the window. A clock that went back does
// not count: time stands still until it has caught up.
func (w *Window) advance(now time.Time) {
	if now.After(w.now) {
		w.now = now
	}
	oldest := w.now.Add(-w.span - markEvery)
	gone := 0
	for gone < len(w.marks) && w.marks[gone].at.Before(oldest) {
		w.expired = w.marks[gone].end
		gone++
	}
	w.marks = slices.Delete(w.marks, 0, gone)
	for range dropsPerCall {
		if w.table.head >= w.expired {
			return
		}
		w.table.dropOldest()
	}
}

// mark notes the time of the numbers taken by now, and forgets marks of numbers
// that left early.
func (w *Window) mark() {
	gone := 0
	for gone < len(w.marks) && w.marks[gone].end <= w.table.head {
		gone++
	}
	w.marks = slices.Delete(w.marks, 0, gone)
	if n := len(w.marks); n > 0 && w.now.Sub(w.marks[n-1].at) < markEvery {
		w.marks[n-1].end = w.table.tail
		return
	}
	w.marks = append(w.marks, mark{end: w.table.tail, at: w.now})
}

// pendingAt returns the unsettled claim that took the number n.
func (w *Window) pendingAt(n uint64) *Claim {
	i, _ := slices.BinarySearchFunc(w.pending, n, func(c *Claim, n uint64) int {
		if c.end <= n {
			return -1
		}
		return 1
	})
	if i < len(w.pending) && w.pending[i].first <= n {
		return w.pending[i]
	}
	return nil
}
