//go:build !linux

package blackbox

import (
	"errors"
	"syscall"
	"time"
)

func dieWithParent() *syscall.SysProcAttr { return nil }

// Usage is what a process has used so far.
type Usage struct {
	RSSBytes     int64
	PeakRSSBytes int64
	CPU          time.Duration
}

// Usage is known on Linux only.
func (s *Server) Usage() (Usage, error) {
	return Usage{}, errors.New("the memory and CPU time of a process are read from /proc, which this system does not have")
}
