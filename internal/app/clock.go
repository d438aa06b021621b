package app

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// suspiciousJump is how far the clock may run ahead of the time that has passed
	// before nothing is destroyed by it.
	suspiciousJump = time.Hour
	// believedAfter is how long a jump must last to be believed.
	believedAfter = 24 * time.Hour
)

// cautiousClock is the time by which things are destroyed: days of events, dead
// letters, idempotency keys. It does not follow a clock that jumps ahead until
// that has lasted for a day, so that a clock set wrong, which happens, does not
// unlink what is to be kept or forget which orders were placed. It follows a clock
// that is set back at once. It is safe for concurrent use.
type cautiousClock struct {
	wall   func() time.Time
	passed func() time.Duration // since the start, by a clock that nobody sets
	logger *slog.Logger

	mu sync.Mutex // guards what follows
	// believed is the time that was believed last, and when that was.
	believed   time.Time
	believedAt time.Duration
	// ahead says since when the clock is ahead, if it is.
	isAhead    bool
	aheadSince time.Duration
}

func newCautiousClock(wall func() time.Time, logger *slog.Logger) *cautiousClock {
	start := time.Now()
	return &cautiousClock{wall: wall, passed: func() time.Duration { return time.Since(start) }, logger: logger, believed: wall().Round(0)}
}

// Now returns the time, as far as it is believed.
func (c *cautiousClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, passed := c.wall().Round(0), c.passed()
	expected := c.believed.Add(passed - c.believedAt)
	if ahead := wall.Sub(expected); ahead > suspiciousJump {
		if !c.isAhead {
			c.isAhead, c.aheadSince = true, passed
			c.logger.Error("the clock has jumped ahead; nothing is removed by it, and no idempotency key expires, before it has shown that time for a day or this server is started anew",
				"ahead", ahead.Round(time.Second), "clock", wall.UTC())
		}
		if passed-c.aheadSince < believedAfter {
			return expected
		}
	}
	c.believed, c.believedAt, c.isAhead = wall, passed, false
	return wall
}
