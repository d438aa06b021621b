//go:build !linux

package vfs

import "math"

// FreeBytes implements FS. Without a portable call it never reports a full disk.
func (OS) FreeBytes(string) (int64, error) { return math.MaxInt64 / 2, nil }

// Allocate implements File. It makes a hole: writes may still meet a full disk.
func (f osFile) Allocate(size int64) error {
	old, err := f.Size()
	if err != nil || old >= size {
		return err
	}
	return f.Truncate(size)
}

// Datasync implements File with a full sync.
func (f osFile) Datasync() error { return f.Sync() }
