package faultfs_test

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/wal/vfs"
	"millrace/internal/wal/vfs/faultfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, s *faultfs.FS, name, content string) vfs.File {
	t.Helper()
	f, err := s.Create(name)
	must(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(t, err)
	return f
}

func content(s *faultfs.FS, name string) string {
	b, err := s.Content(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "(none)"
	}
	return string(b)
}

func TestWhatWasSyncedSurvivesAndTheRestMayNot(t *testing.T) {
	seen := map[string]int{}
	old, young := strings.Repeat("o", 1024), strings.Repeat("y", 1024)
	for seed := range uint64(400) {
		s := faultfs.New(seed)
		f := create(t, s, "f", old)
		must(t, f.Sync())
		must(t, s.SyncDir(""))
		_, err := f.WriteAt([]byte(young), 0)
		must(t, err)
		got := content(s.Reboot(), "f")
		seen[got]++
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatalf("the old machine still writes: %v", err)
		}
	}
	want := []string{old, young, old[:512] + young[:512], young[:512] + old[:512]}
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("%.4s…%.4s never came out", w, w[512:])
		}
		delete(seen, w)
	}
	if len(seen) > 0 {
		t.Errorf("sectors were torn: %v", seen)
	}
}

func TestNamesThatWereNotSyncedMayBeLostInAnyOrderThatTheRulesAllow(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		s := faultfs.New(seed)
		must(t, create(t, s, "a", "1").Sync())
		must(t, create(t, s, "b", "2").Sync())
		must(t, s.SyncDir(""))
		must(t, s.Rename("a", "c"))
		must(t, s.Rename("c", "d"))
		must(t, s.Remove("b"))
		s = s.Reboot()
		names, err := s.List("")
		must(t, err)
		seen[strings.Join(names, "")]++
	}
	want := map[string]bool{"ab": true, "a": true, "bc": true, "c": true, "bd": true, "d": true}
	for names := range seen {
		if !want[names] {
			t.Errorf("%q is impossible", names)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("only these came out: %v", seen)
	}
}

func TestAFailedSyncIsNotMadeGoodByTheNext(t *testing.T) {
	lost := 0
	for seed := range uint64(100) {
		s := faultfs.New(seed)
		f := create(t, s, "f", "data")
		must(t, s.SyncDir(""))
		s.Inject(faultfs.Fault{Kind: faultfs.Sync, Times: 1, Err: syscall.EIO})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		must(t, f.Sync())
		s = s.Kill()
		if content(s, "f") != "data" {
			t.Fatal("the page cache lost data")
		}
		if content(s.Reboot(), "f") != "data" {
			lost++
		}
	}
	if lost == 0 || lost == 100 {
		t.Errorf("lost %d times of 100", lost)
	}
}

func TestASmallDiskFillsUpAndASyncMayLie(t *testing.T) {
	s := faultfs.New(1)
	s.SetCapacity(10)
	f, err := s.Create("f")
	must(t, err)
	if n, err := f.WriteAt([]byte("0123456789ab"), 0); n != 10 || !vfs.IsNoSpace(err) {
		t.Errorf("wrote %d: %v", n, err)
	}
	if err := f.Allocate(11); !vfs.IsNoSpace(err) {
		t.Errorf("allocate: %v", err)
	}
	if _, err := f.WriteAt([]byte("over"), 0); err != nil {
		t.Errorf("writing where there is room already: %v", err)
	}
	lies := 0
	for seed := range uint64(50) {
		s := faultfs.New(seed)
		s.IgnoreFileSync = true
		must(t, create(t, s, "f", "data").Sync())
		must(t, s.SyncDir(""))
		if content(s.Reboot(), "f") != "data" {
			lies++
		}
	}
	if diff := cmp.Diff(true, lies > 5); diff != "" {
		t.Errorf("only %d lies came out", lies)
	}
}
