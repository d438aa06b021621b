package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"

	"golang.org/x/sys/unix"
)

// FreeBytes implements FS.
func (OS) FreeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	err := retryInterrupted(func() error { return unix.Statfs(dir, &st) })
	if err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	free := float64(st.Bavail) * float64(st.Bsize)
	return int64(min(free, math.MaxInt64/2)), nil
}

// Allocate implements File.
func (f osFile) Allocate(size int64) error {
	old, err := f.Size()
	if err != nil {
		return err
	}
	err = f.control(func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) && old < size {
		return f.Truncate(size) // a hole: writes may still meet a full disk
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("fallocate %s to %d bytes: %w", f.Name(), size, err)
	}
	return nil
}

// Datasync implements File.
func (f osFile) Datasync() error {
	if err := f.control(unix.Fdatasync); err != nil {
		return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
	}
	return nil
}

// control runs a system call on the file's descriptor and keeps the descriptor
// from being closed meanwhile.
func (f osFile) control(call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		callErr = retryInterrupted(func() error { return call(int(fd)) })
	})
	if err != nil { // the file is closed, and the runtime's error is not one of fs
		return fmt.Errorf("%w: %w", fs.ErrClosed, err)
	}
	return callErr
}

func retryInterrupted(call func() error) error {
	for {
		err := call()
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
