package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dataDir is a data directory that this process holds the lock of.
type dataDir struct {
	path string
	lock *os.File
}

// errHeld says that another process holds the data directory.
var errHeld = errors.New("the data directory is in use")

// Names in the data directory.
const (
	lockName    = "lock"
	socketName  = "control.sock"
	issuerName  = "issuer.key"
	walName     = "wal"
	privateMode = 0o700
)

// openDataDir makes the directory if need be and takes its lock, which ends with
// the process however that ends. An errHeld names the process that has it.
func openDataDir(path string) (*dataDir, error) {
	path, err := makeDataDir(path)
	if err != nil {
		return nil, err
	}
	// Whatever this process writes from here on is for its owner alone, also what
	// a library creates.
	unix.Umask(0o077)
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := readHolder(f)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is held by another millrace process%s; stop it, or give this one another directory with --data", errHeld, path, holder)
		}
		return nil, fmt.Errorf("locking the data directory %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("writing the lock of the data directory: %w", err)
		}
	}
	return &dataDir{path: path, lock: f}, nil
}

// makeDataDir returns the absolute path of the directory, which it makes,
// private to its owner, if it is not there.
func makeDataDir(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("the data directory: %w", err)
	}
	if err := os.MkdirAll(path, privateMode); err != nil {
		return "", fmt.Errorf("making the data directory: %w", err)
	}
	return path, nil
}

func readHolder(f *os.File) string {
	var buf [32]byte
	n, _ := f.ReadAt(buf[:], 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n]))); err == nil {
		return fmt.Sprintf(" (pid %d)", pid)
	}
	return ""
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// Close gives the lock back.
func (d *dataDir) Close() error {
	_ = os.Remove(d.file(socketName)) // the next start would do it
	return d.lock.Close()
}

// listenControl opens the control socket, to which only the owner of the data
// directory has access. A socket that a crash left behind is replaced: the lock
// says that nobody listens on it.
func (d *dataDir) listenControl() (net.Listener, error) {
	short, done, err := shortPath(d.path)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(d.file(socketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing a control socket that was left behind: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(short, socketName), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // its name is only good while shortPath holds
	if err := os.Chmod(d.file(socketName), 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protecting the control socket: %w", err)
	}
	return l, nil
}

// dialControl connects to the control socket of the process that holds dir.
func dialControl(dir string) (net.Conn, error) {
	short, done, err := shortPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.Dial("unix", filepath.Join(short, socketName))
}

// shortPath returns another name of a directory that is short enough for the
// address of a Unix socket (108 bytes), valid until done is called.
func shortPath(dir string) (short string, done func(), err error) {
	const longest = 90
	if len(dir) <= longest {
		return dir, func() {}, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, fmt.Errorf("opening the data directory: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), func() { f.Close() }, nil
}
