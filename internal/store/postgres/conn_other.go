//go:build !linux

package postgres

import "syscall"

// setUserTimeout does nothing where the kernel has no such setting: the bounds on
// reads and writes remain.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
