package postgres

import (
	"strings"
	"syscall"
)

// tcpUserTimeoutOption is TCP_USER_TIMEOUT of Linux, which package syscall does not
// name.
const tcpUserTimeoutOption = 0x12

// setUserTimeout has the kernel give a connection up when what was sent is not
// acknowledged within tcpUserTimeout: keep-alives are not sent while data is under
// way.
func setUserTimeout(network, _ string, raw syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeoutOption, int(tcpUserTimeout.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}

// diskSpace returns the free and total bytes of the disk that has a path; ok is false
// if the path is not there.
func diskSpace(path string) (free, total int64, ok bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(path, &s) != nil {
		return 0, 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), true
}
