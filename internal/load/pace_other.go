//go:build !linux

package load

import "time"

// sleeper waits for a moment, as exactly as the runtime's timers are.
type sleeper struct{}

func newSleeper() sleeper             { return sleeper{} }
func (sleeper) sleep(d time.Duration) { time.Sleep(d) }
func (sleeper) done()                 {}
