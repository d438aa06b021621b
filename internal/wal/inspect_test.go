package wal_test

import (
	"strings"
	"sync"
	"testing"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

func TestInspectBesideARunningLogSeesNoDamage(t *testing.T) {
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if pos, err := l.Append(make([]byte, 700)); err != nil || l.Release(pos.Seq) != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 300 {
		if r := inspect(t, fs); len(r.Damage) > 0 {
			t.Fatal(r.Damage[0])
		}
	}
}

// rollingFS lets the log go on after every listing of its directory.
type rollingFS struct {
	*faultfs.FS
	roll func()
}

func (r rollingFS) List(dir string) ([]string, error) {
	names, err := r.FS.List(dir)
	r.roll()
	return names, err
}

func TestInspectShowsALogThatGoesOnMeanwhileAsItWas(t *testing.T) {
	for _, released := range []bool{false, true} {
		fs := faultfs.New(1)
		l := mustOpen(t, smallOptions(fs))
		mustAppend(t, l, "x")
		before := l.Next()
		r, err := wal.Inspect(rollingFS{fs, func() {
			for range 12 {
				mustAppend(t, l, strings.Repeat("y", 1500))
			}
			if released {
				if err := l.Release(l.Next() - 14); err != nil {
					t.Fatal(err)
				}
			}
		}}, logDir)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Damage) > 0 {
			t.Fatalf("released %v: false damage: %v", released, r.Damage[0])
		}
		if r.Next < before || r.Next > l.Next() {
			t.Errorf("released %v: the report ends at %d, the log went from %d to %d", released, r.Next, before, l.Next())
		}
	}
}
