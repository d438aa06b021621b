package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Ports are taken from below the range that the system gives to outgoing
// connections: a server that is restarted must find its port free again, however
// many connections a load generator opened meanwhile.
const (
	firstPort = 15000
	lastPort  = 32000
)

// port is a loopback port that no other process of this kind takes while it is held.
type port struct {
	number int
	lock   *os.File // locked; the system unlocks it when this process ends
}

func (p *port) release() { _ = p.lock.Close() }

// FreePort reserves a loopback TCP port among all processes that use this package,
// until release is called. Nobody listens on it.
func FreePort() (number int, release func(), err error) {
	p, err := reservePort(0)
	if err != nil {
		return 0, nil, err
	}
	return p.number, p.release, nil
}

// reservePort reserves a certain port, or any if want is 0.
func reservePort(want int) (*port, error) {
	dir, err := sharedDir("ports")
	if err != nil {
		return nil, err
	}
	if want != 0 {
		p, err := tryPort(dir, want)
		if err != nil {
			return nil, fmt.Errorf("port %d of 127.0.0.1 cannot be used: %w; choose another one or end what listens there", want, err)
		}
		return p, nil
	}
	last := min(lastPort, firstEphemeralPort()-1)
	if last <= firstPort {
		last = lastPort
	}
	count := last - firstPort + 1
	offset := rand.IntN(count)
	for i := range count {
		if p, err := tryPort(dir, firstPort+(offset+i)%count); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no port between %d and %d of 127.0.0.1 is free", firstPort, last)
}

func tryPort(dir string, number int) (*port, error) {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(number)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("another test's server has it"), f.Close())
	}
	l, err := net.Listen("tcp", loopback(number))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	_ = l.Close()
	return &port{number: number, lock: f}, nil
}

// loopback is the address of a port.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// firstEphemeralPort is the lowest port that outgoing connections get.
func firstEphemeralPort() int {
	const usual = 32768
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
	n, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return usual
	}
	return n
}
