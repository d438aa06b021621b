package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs"
)

func TestRecordsComeBackInOrderAfterARestart(t *testing.T) {
	dir := t.TempDir()
	o := wal.Options{Dir: dir + "/a/wal", FS: vfs.OS{}, SegmentBytes: 64 << 10}
	l, err := wal.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[uint64]string{}
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				rec := fmt.Sprintf("%d/%d %s", g, i, bytes.Repeat([]byte("x"), i*20))
				pos, err := l.Append([]byte(rec))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[pos.Seq] = rec
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(want, readAll(t, l)); diff != "" {
		t.Fatal(diff)
	}
	id := l.ID()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, err = wal.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if l.ID() != id || l.First() != 1 || l.Next() != 401 {
			t.Fatalf("id %x (want %x), first %d, next %d", l.ID(), id, l.First(), l.Next())
		}
		if diff := cmp.Diff(want, readAll(t, l)); diff != "" {
			t.Fatal(diff)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// readAll returns every record a log has, by sequence.
func readAll(t testing.TB, l *wal.Log) map[uint64]string {
	t.Helper()
	r, err := l.NewReader(l.First())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[uint64]string{}
	for {
		f, ok, err := r.TryNext()
		if err != nil && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, wal.ErrFailed) {
			t.Fatal(err)
		}
		if !ok {
			return got
		}
		for i, rec := range f.Records {
			got[f.FirstSeq+uint64(i)] = string(rec)
		}
	}
}
