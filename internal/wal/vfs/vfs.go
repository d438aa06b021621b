// Package vfs is the seam between the log and the file system. It has exactly the
// operations the log needs, so that a test can put a file system underneath that
// tears, drops, reorders and fails (see the folder faultfs).
//
// Durability is explicit, as on a real machine: what was written to a File is on
// disk only after Sync or Datasync returned nil, and a name that was created,
// renamed or removed is so on disk only after SyncDir of its directory.
package vfs

import (
	"errors"
	"io"
	"syscall"
)

// FS is a file system. Names are paths with slashes. Errors satisfy errors.Is
// with fs.ErrNotExist and the syscall error numbers where they apply.
// Implementations are safe for concurrent use.
type FS interface {
	// Open opens an existing file for reading.
	Open(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)
	// Create makes a new file for reading and writing; one of that name must not
	// exist.
	Create(name string) (File, error)
	// Remove deletes a file. Who has it open may go on using it.
	Remove(name string) error
	// Rename gives a file another name and replaces a file that has it already.
	Rename(from, to string) error
	// MkdirAll makes a directory and those above it, if missing.
	MkdirAll(dir string) error
	// List returns the names of the files and directories in dir, in order.
	List(dir string) ([]string, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// FreeBytes returns how many bytes dir's file system still has for us.
	FreeBytes(dir string) (int64, error)
}

// File is an open file. ReadAt may be called by several goroutines at once, also
// beside WriteAt.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the file's length in bytes.
	Size() (int64, error)
	// Allocate makes the file at least size bytes long and reserves the blocks,
	// which read as zeros, if the file system can.
	Allocate(size int64) error
	// Sync makes content and metadata durable.
	Sync() error
	// Datasync makes the content durable, with what it takes to read it back.
	Datasync() error
}

// IsNoSpace reports whether an error says that there is no room left, which
// passes when room is made.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
