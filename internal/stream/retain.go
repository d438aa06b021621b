package stream

import "time"

// retention says what of a partition may be trimmed: what was released and cannot
// be sent again any more. A server that starts learns the ids of messages from
// those that are still there; were a message trimmed while its sender, who missed
// the answer, may still send it again, it would be taken a second time.
//
// It is not safe for concurrent use. Its memory is bounded: releases that are close
// together are one.
type retention struct {
	keep    time.Duration // after its release a message stays for so long
	due     uint64        // below it everything was released that long ago
	pending []release     // by time, and by upTo
}

// release is that everything below upTo is in the store.
type release struct {
	upTo        uint64
	first, last time.Time // of the releases that are one; the last counts
}

// maxReleases is about how many releases are told apart within keep: a message
// stays longer than it has to by one part of so many, at most.
const maxReleases = 64

// note notes that the store stands at upTo: everything below is in it, and nothing
// else. A store stands before where it stood if it lost its last commits.
func (r *retention) note(upTo uint64, now time.Time) {
	r.due = min(r.settle(now), upTo)
	n := len(r.pending)
	for n > 0 && r.pending[n-1].upTo > upTo {
		n--
	}
	r.pending = r.pending[:n]
	switch {
	case upTo == r.due || n > 0 && upTo == r.pending[n-1].upTo:
		return // it was known
	case n > 0 && now.Sub(r.pending[n-1].first) < r.keep/maxReleases:
		r.pending[n-1].upTo, r.pending[n-1].last = upTo, now
	default:
		r.pending = append(r.pending, release{upTo, now, now})
	}
}

// settle returns below which sequence everything may be trimmed.
func (r *retention) settle(now time.Time) uint64 {
	n := 0
	for n < len(r.pending) && now.Sub(r.pending[n].last) >= r.keep {
		r.due = r.pending[n].upTo
		n++
	}
	r.pending = append(r.pending[:0], r.pending[n:]...)
	return r.due
}
