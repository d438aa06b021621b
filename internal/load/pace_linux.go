package load

import (
	"runtime"
	"syscall"
	"time"
)

// sleeper waits for a moment to within about 0.1 ms. The runtime's timers are
// good to a millisecond when the process is idle, which would be added to every
// latency; a thread that sleeps in the kernel is ten times better and costs
// less than spinning. The goroutine that made it must use it alone and call
// done when it no longer needs it.
type sleeper struct{}

func newSleeper() sleeper {
	runtime.LockOSThread()
	return sleeper{}
}

func (sleeper) sleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	// A signal may end it early; the caller looks at the clock again.
	_ = syscall.Nanosleep(&ts, nil)
}

func (sleeper) done() { runtime.UnlockOSThread() }
