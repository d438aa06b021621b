//go:build !linux

package postgres

import "syscall"

// setUserTimeout does nothing where the kernel has no such setting: the bounds on
// reads and writes remain.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }

// diskSpace cannot tell here.
func diskSpace(string) (free, total int64, ok bool) { return 0, 0, false }
