// Package faultfs is a file system in memory that fails the way real ones do. It
// is for tests of code that promises durability.
//
// It keeps two states of every file and directory: what a reader sees (the page
// cache) and what is on disk. Sync moves one to the other. Reboot is a power loss:
// of all that was not synced, each 512-byte sector of each write and each change
// of a directory survives or not, at random, in any order that the rules allow: a
// directory's changes that touch the same name or file keep their order, nothing
// else does. Kill is the end of the process alone: the page cache survives.
//
// Faults are injected with Inject (an operation fails, or is cut short),
// CrashAfter (everything fails from some operation on), SetCapacity (a small
// disk), FlipBit (rot), and the two Ignore knobs, which make syncs lie so that a
// test can prove that it would notice.
//
// All methods are safe for concurrent use. After Kill or Reboot the old FS and its
// files answer with ErrCrashed for ever, and the returned FS takes over.
package faultfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"

	"millrace/internal/wal/vfs"
)

// ErrCrashed answers every operation after a crash.
var ErrCrashed = errors.New("faultfs: the machine is down")

// Kind is a kind of operation.
type Kind string

// The kinds of operation that can be told apart by Inject.
const (
	Open     Kind = "open"
	Create   Kind = "create"
	Remove   Kind = "remove"
	Rename   Kind = "rename"
	List     Kind = "list"
	Mkdir    Kind = "mkdir"
	SyncDir  Kind = "syncdir"
	Read     Kind = "read"
	Write    Kind = "write"
	Allocate Kind = "allocate"
	Sync     Kind = "sync" // Sync and Datasync
)

// Fault makes operations fail.
type Fault struct {
	Kind Kind
	// Path restricts it to paths that contain this.
	Path string
	// Skip lets so many matching operations pass first.
	Skip int
	// Times is how many fail then; 0 means all.
	Times int
	// Err is the error they fail with. With nil nothing fails, which together with
	// Wait delays an operation.
	Err error
	// Keep is how many bytes of a failing write take place.
	Keep int
	// Reached, if not nil, is sent to when the fault is met, before Wait.
	Reached chan<- struct{}
	// Wait, if not nil, is waited for first. It must be closed before the test
	// ends.
	Wait <-chan struct{}
}

// FS is the file system. It implements vfs.FS.
type FS struct {
	// IgnoreFileSync and IgnoreDirSync make syncs report success and do nothing.
	// Set them before use.
	IgnoreFileSync, IgnoreDirSync bool

	mu         sync.Mutex // guards what follows, and all nodes
	rng        *rand.Rand
	root       *node
	dead       bool
	crashAfter int // operations until the crash, -1 for never
	faults     []*Fault
	capacity   int64
}

var _ vfs.FS = (*FS)(nil)

// New returns an empty file system. The seed decides what a crash destroys.
func New(seed uint64) *FS {
	return &FS{rng: rand.New(rand.NewPCG(seed, 1)), root: newDir(), crashAfter: -1, capacity: math.MaxInt64 / 4}
}

// Inject adds a fault.
func (s *FS) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal removes all faults.
func (s *FS) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// CrashAfter lets so many operations pass and stops the machine then.
func (s *FS) CrashAfter(operations int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashAfter = operations
}

// SetCapacity bounds the sum of all files' sizes.
func (s *FS) SetCapacity(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capacity = bytes
}

// Used returns the sum of all files' sizes.
func (s *FS) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.root.bytes()
}

// Kill ends the process: the returned FS has all that was written, synced or not.
func (s *FS) Kill() *FS { return s.succeed(func(*FS) {}) }

// Reboot ends the machine: the returned FS has all that was synced and a random
// part of the rest.
func (s *FS) Reboot() *FS {
	return s.succeed(func(n *FS) { n.root = n.root.afterPowerLoss(n.rng) })
}

func (s *FS) succeed(change func(*FS)) *FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	n := &FS{IgnoreFileSync: s.IgnoreFileSync, IgnoreDirSync: s.IgnoreDirSync, rng: s.rng, root: s.root, crashAfter: -1, capacity: s.capacity}
	s.root = nil
	s.rng = nil
	change(n)
	return n
}

// FlipBit changes one bit of a file, in memory and on disk.
func (s *FS) FlipBit(name string, offset int64, bit uint) error {
	return s.edit(name, func(b []byte) []byte {
		if offset < int64(len(b)) {
			b[offset] ^= 1 << (bit % 8)
		}
		return b
	})
}

// SetContent replaces a file's content durably, behind the back of who has it
// open. The file must exist.
func (s *FS) SetContent(name string, content []byte) error {
	return s.edit(name, func([]byte) []byte { return slices.Clone(content) })
}

func (s *FS) edit(name string, change func([]byte) []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.file(name)
	if err != nil {
		return err
	}
	n.sync()
	n.data = change(n.data)
	n.disk = slices.Clone(n.data)
	return nil
}

// Content returns a copy of what a reader would see in a file.
func (s *FS) Content(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.file(name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.data), nil
}

// begin is called at the start of every operation, without the lock. It returns
// with the lock held, unless there is an error that is not a *shortWrite.
func (s *FS) begin(kind Kind, name string) (err error) {
	s.mu.Lock()
	for i := 0; i < len(s.faults); i++ {
		f := s.faults[i]
		if f.Kind != kind || !strings.Contains(name, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		if f.Wait != nil || f.Reached != nil {
			s.mu.Unlock()
			if f.Reached != nil {
				f.Reached <- struct{}{}
			}
			if f.Wait != nil {
				<-f.Wait
			}
			s.mu.Lock()
		}
		if f.Err != nil {
			err = &injected{keep: f.Keep, err: &fs.PathError{Op: string(kind), Path: name, Err: f.Err}}
		}
		break
	}
	if s.crashAfter == 0 {
		s.dead = true
	} else if s.crashAfter > 0 {
		s.crashAfter--
	}
	if s.dead {
		err = &fs.PathError{Op: string(kind), Path: name, Err: ErrCrashed}
	}
	var in *injected
	if err != nil && (!errors.As(err, &in) || (kind != Write && kind != Sync)) {
		s.mu.Unlock()
	}
	return err
}

// injected is a failure of a write or sync that still has an effect.
type injected struct {
	keep int
	err  error
}

func (e *injected) Error() string { return e.err.Error() }
func (e *injected) Unwrap() error { return e.err }

// Open implements vfs.FS.
func (s *FS) Open(name string) (vfs.File, error) { return s.open(name, false) }

// OpenWrite implements vfs.FS.
func (s *FS) OpenWrite(name string) (vfs.File, error) { return s.open(name, true) }

func (s *FS) open(name string, writable bool) (vfs.File, error) {
	if err := s.begin(Open, name); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	n, err := s.file(name)
	if err != nil {
		return nil, err
	}
	return &file{s: s, n: n, name: name, writable: writable}, nil
}

// Create implements vfs.FS.
func (s *FS) Create(name string) (vfs.File, error) {
	if err := s.begin(Create, name); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	dir, base, err := s.parent(name)
	if err != nil {
		return nil, err
	}
	if dir.children[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &node{}
	dir.change(change{base, n})
	return &file{s: s, n: n, name: name, writable: true}, nil
}

// Remove implements vfs.FS.
func (s *FS) Remove(name string) error {
	if err := s.begin(Remove, name); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, err := s.file(name); err != nil {
		return err
	}
	dir, base, _ := s.parent(name)
	dir.change(change{base, nil})
	return nil
}

// Rename implements vfs.FS. Both names must be in the same directory.
func (s *FS) Rename(from, to string) error {
	if err := s.begin(Rename, from); err != nil {
		return err
	}
	defer s.mu.Unlock()
	n, err := s.file(from)
	if err != nil {
		return err
	}
	dir, fromBase, _ := s.parent(from)
	toDir, toBase, err := s.parent(to)
	if err != nil {
		return err
	}
	if dir != toDir {
		return &fs.PathError{Op: "rename", Path: to, Err: errors.New("faultfs: renames stay in their directory")}
	}
	dir.change(change{fromBase, nil}, change{toBase, n})
	return nil
}

// MkdirAll implements vfs.FS.
func (s *FS) MkdirAll(dir string) error {
	if err := s.begin(Mkdir, dir); err != nil {
		return err
	}
	defer s.mu.Unlock()
	n := s.root
	for _, part := range parts(dir) {
		child := n.children[part]
		if child == nil {
			child = newDir()
			n.change(change{part, child})
		}
		if child.children == nil {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		n = child
	}
	return nil
}

// List implements vfs.FS.
func (s *FS) List(dir string) ([]string, error) {
	if err := s.begin(List, dir); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	n, err := s.dir(dir)
	if err != nil {
		return nil, err
	}
	return n.names(), nil
}

// SyncDir implements vfs.FS.
func (s *FS) SyncDir(dir string) error {
	if err := s.begin(SyncDir, dir); err != nil {
		return err
	}
	defer s.mu.Unlock()
	n, err := s.dir(dir)
	if err == nil && !s.IgnoreDirSync {
		n.syncDir()
	}
	return err
}

// FreeBytes implements vfs.FS.
func (s *FS) FreeBytes(string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return 0, ErrCrashed
	}
	return s.capacity - s.root.bytes(), nil
}

func (s *FS) file(name string) (*node, error) {
	dir, base, err := s.parent(name)
	if err != nil {
		return nil, err
	}
	n := dir.children[base]
	switch {
	case n == nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n.children != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return n, nil
}

func (s *FS) parent(name string) (*node, string, error) {
	p := parts(name)
	if len(p) == 0 {
		return nil, "", fmt.Errorf("faultfs: %q names no file", name)
	}
	dir, err := s.dir(strings.Join(p[:len(p)-1], "/"))
	return dir, p[len(p)-1], err
}

func (s *FS) dir(name string) (*node, error) {
	if s.dead {
		return nil, ErrCrashed
	}
	n := s.root
	for _, part := range parts(name) {
		n = n.children[part]
		if n == nil || n.children == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}
