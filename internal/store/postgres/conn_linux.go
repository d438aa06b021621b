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
