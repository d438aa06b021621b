package load

import (
	"context"
	"time"
)

// pacer hands out the numbers of the requests of an open loop, each when it is
// due: number k after so many units (events, orders) as stand before it, at a
// fixed rate from the start. It does not change and is safe for concurrent use.
type pacer struct {
	started  time.Time
	rate     int           // units a second, above zero
	duration time.Duration // 0 = no end by time
	// before returns how many units stand before request k, has whether there is a
	// request k.
	before func(k int) int
	has    func(k int) bool
	// missed is told each request that was due before the end and did not leave.
	missed func(k int)
}

// intended returns when request k is due.
func (p *pacer) intended(k int) time.Time {
	seconds := float64(p.before(k)) / float64(p.rate)
	return p.started.Add(time.Duration(seconds * float64(time.Second)))
}

// run hands out each number when it is due and closes the channel at the end of
// the run. When every connection is busy it waits and is late; the workers count
// that.
func (p *pacer) run(ctx context.Context, due chan<- int) {
	defer close(due)
	sleeper := newSleeper()
	defer sleeper.done()
	var over <-chan time.Time // fires when the time is over although requests wait
	end := time.Time{}
	if p.duration > 0 {
		end = p.started.Add(p.duration)
		timer := time.NewTimer(time.Until(end))
		defer timer.Stop()
		over = timer.C
	}
	for k := 0; p.has(k); k++ {
		at := p.intended(k)
		if !end.IsZero() && !at.Before(end) {
			return
		}
		for d := time.Until(at); d > 0 && ctx.Err() == nil; d = time.Until(at) {
			sleeper.sleep(min(d, 50*time.Millisecond))
		}
		select {
		case due <- k:
		case <-ctx.Done():
			return
		case <-over:
			for ; p.has(k) && p.intended(k).Before(end); k++ {
				p.missed(k)
			}
			return
		}
	}
}
