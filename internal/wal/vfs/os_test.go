package vfs_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/wal/vfs"
)

func TestTheOperatingSystemsFilesKeepTheContract(t *testing.T) {
	var fsys vfs.OS
	dir := t.TempDir() + "/a/b"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fsys.List(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("listing a missing directory: %v", err)
	}
	must(fsys.MkdirAll(dir))
	must(fsys.MkdirAll(dir))
	f, err := fsys.Create(dir + "/x")
	must(err)
	if _, err := fsys.Create(dir + "/x"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating it again: %v", err)
	}
	_, err = f.WriteAt([]byte("hello"), 3)
	must(err)
	must(f.Allocate(1 << 20))
	must(f.Allocate(10)) // never shrinks
	must(f.Datasync())
	must(f.Sync())
	if size, err := f.Size(); err != nil || size != 1<<20 {
		t.Errorf("allocated to %d bytes, %v", size, err)
	}
	must(f.Close())
	must(fsys.Rename(dir+"/x", dir+"/y"))
	must(fsys.SyncDir(dir))
	names, err := fsys.List(dir)
	must(err)
	if diff := cmp.Diff([]string{"y"}, names); diff != "" {
		t.Error(diff)
	}
	r, err := fsys.Open(dir + "/y")
	must(err)
	got := make([]byte, 9)
	_, err = r.ReadAt(got, 0)
	must(err)
	if string(got) != "\x00\x00\x00hello\x00" {
		t.Errorf("read %q", got)
	}
	if _, err := r.WriteAt(got, 0); err == nil {
		t.Error("a file opened for reading was written")
	}
	must(fsys.Remove(dir + "/y"))
	_, err = r.ReadAt(got, 0)
	must(err) // who has it open may go on
	must(r.Close())
	if _, err := fsys.OpenWrite(dir + "/y"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening a removed file: %v", err)
	}
	if free, err := fsys.FreeBytes(dir); err != nil || free <= 0 {
		t.Errorf("free space %d, %v", free, err)
	}
	if err := fsys.SyncDir(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("syncing a missing directory: %v", err)
	}
}

func TestSyncingAClosedFileSaysThatItIsClosed(t *testing.T) {
	f, err := vfs.OS{}.Create(t.TempDir() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Datasync": f.Datasync, "Sync": f.Sync, "Allocate": func() error { return f.Allocate(1) },
	} {
		if err := call(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s of a closed file: %v is not fs.ErrClosed", name, err)
		}
	}
}
