package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// file is an open file. It implements vfs.File.
type file struct {
	s        *FS
	n        *node
	name     string
	writable bool
	closed   bool // guarded by s.mu
}

func (f *file) check() error {
	if f.closed {
		return &fs.PathError{Op: "use", Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	if err := f.s.begin(Read, f.name); err != nil {
		return 0, err
	}
	defer f.s.mu.Unlock()
	if err := f.check(); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(b []byte, off int64) (int, error) {
	err := f.s.begin(Write, f.name)
	var in *injected
	if err != nil && !errors.As(err, &in) {
		return 0, err
	}
	defer f.s.mu.Unlock()
	if err := f.check(); err != nil {
		return 0, err
	}
	if !f.writable {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrPermission}
	}
	if in != nil {
		b = b[:min(in.keep, len(b))]
		err = in.err
	}
	if room := f.s.capacity - f.s.root.bytes(); off+int64(len(b)) > int64(len(f.n.data))+max(room, 0) {
		b = b[:max(0, int64(len(f.n.data))+max(room, 0)-off)]
		err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	if len(b) > 0 {
		f.n.write(off, b)
	}
	return len(b), err
}

// Close implements vfs.File.
func (f *file) Close() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if err := f.check(); err != nil {
		return err
	}
	f.closed = true
	return nil
}

// Size implements vfs.File.
func (f *file) Size() (int64, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.dead {
		return 0, ErrCrashed
	}
	return int64(len(f.n.data)), nil
}

// Allocate implements vfs.File.
func (f *file) Allocate(size int64) error {
	if err := f.s.begin(Allocate, f.name); err != nil {
		return err
	}
	defer f.s.mu.Unlock()
	if err := f.check(); err != nil {
		return err
	}
	more := size - int64(len(f.n.data))
	if more > f.s.capacity-f.s.root.bytes() {
		return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
	}
	if more > 0 {
		f.n.extend(size)
	}
	return nil
}

// Sync implements vfs.File.
func (f *file) Sync() error {
	err := f.s.begin(Sync, f.name)
	var in *injected
	if err != nil && !errors.As(err, &in) {
		return err
	}
	defer f.s.mu.Unlock()
	if err := f.check(); err != nil {
		return err
	}
	switch {
	case in != nil:
		// As on Linux: the pages count as clean now, whether they reached the disk
		// or not. A later sync succeeds without writing them.
		f.n.persist(f.s.rng, 0.5)
		return in.err
	case !f.s.IgnoreFileSync:
		f.n.sync()
	}
	return nil
}

// Datasync implements vfs.File.
func (f *file) Datasync() error { return f.Sync() }
