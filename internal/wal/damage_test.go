package wal_test

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

const logDir = "data/wal"

// smallOptions make segments that a test can fill.
func smallOptions(fs *faultfs.FS) wal.Options {
	return wal.Options{Dir: logDir, FS: fs, SegmentBytes: 16 << 10, MaxFrameBytes: 4 << 10, MaxRecordBytes: 4 << 10, ReserveBytes: 1}
}

func mustOpen(t testing.TB, o wal.Options) *wal.Log {
	t.Helper()
	l, err := wal.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustAppend(t testing.TB, l *wal.Log, rec string) wal.Position {
	t.Helper()
	pos, err := l.Append([]byte(rec))
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// record is the content of the record with a sequence.
func record(seq uint64) string {
	return fmt.Sprintf("%d:%s", seq, strings.Repeat("r", int(seq*37%1500)))
}

// writtenLog returns a file system with a log of n records, one a frame.
func writtenLog(t testing.TB, n int, closed bool) *faultfs.FS {
	t.Helper()
	fs := faultfs.New(1)
	l := mustOpen(t, smallOptions(fs))
	for i := range n {
		mustAppend(t, l, record(uint64(i+1)))
	}
	if closed {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return fs.Kill()
}

// wantRecords is what a log of the records [from, upTo) should have.
func wantRecords(from, upTo uint64) map[uint64]string {
	want := map[uint64]string{}
	for seq := from; seq < upTo; seq++ {
		want[seq] = record(seq)
	}
	return want
}

func inspect(t testing.TB, fs *faultfs.FS) wal.Report {
	t.Helper()
	r, err := wal.Inspect(fs, logDir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// listing returns every file's content.
func listing(t testing.TB, fs *faultfs.FS) map[string]string {
	t.Helper()
	names, err := fs.List(logDir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, n := range names {
		if b, err := fs.Content(path.Join(logDir, n)); err == nil {
			files[n] = string(b)
		}
	}
	return files
}

// restore brings a log back to what listing returned.
func restore(t testing.TB, fs *faultfs.FS, files map[string]string) {
	t.Helper()
	for name := range listing(t, fs) {
		if _, ok := files[name]; !ok {
			if err := fs.Remove(path.Join(logDir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, content := range files {
		if err := fs.SetContent(path.Join(logDir, name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATornTailIsCutAtEveryOffset(t *testing.T) {
	fs := writtenLog(t, 4, false)
	file := inspect(t, fs).Segments[0].File
	start := inspect(t, fs).Segments[0].UsedBytes
	l := mustOpen(t, smallOptions(fs))
	mustAppend(t, l, record(5))
	fs = fs.Kill()
	whole, err := fs.Content(file)
	if err != nil {
		t.Fatal(err)
	}
	end := start + 80 + 4 + int64(len(record(5)))
	for cut := start; cut <= end; cut++ {
		for _, tail := range []string{"", strings.Repeat("\x00", len(whole)-int(cut)), strings.Repeat("\xff", len(whole)-int(cut))} {
			if err := fs.SetContent(file, append(whole[:cut:cut], tail...)); err != nil {
				t.Fatal(err)
			}
			want := wantRecords(1, 5)
			if cut == end {
				want[5] = record(5)
			}
			if r := inspect(t, fs); len(r.Damage) > 0 {
				t.Fatalf("cut at %d: inspect says %v", cut, r.Damage[0])
			}
			l, err := wal.Open(ctx, smallOptions(fs))
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if diff := cmp.Diff(want, readAll(t, l)); diff != "" {
				t.Fatalf("cut at %d: %s", cut, diff)
			}
			next := uint64(len(want) + 1)
			if pos := mustAppend(t, l, record(next)); pos.Seq != next {
				t.Fatalf("cut at %d: the next record got %d", cut, pos.Seq)
			}
			fs = fs.Kill()
			l = mustOpen(t, smallOptions(fs))
			if diff := cmp.Diff(wantRecords(1, next+1), readAll(t, l)); diff != "" {
				t.Fatalf("cut at %d: after another record and a restart: %s", cut, diff)
			}
			fs = fs.Kill()
		}
	}
}

// A bit is flipped in every 41st byte of every segment, one at a time.
func TestAFlippedBitIsFoundOrHarmless(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			const n = 50
			fs := writtenLog(t, n, closed)
			segments := inspect(t, fs).Segments
			if len(segments) < 3 {
				t.Fatalf("the log has only %d segments", len(segments))
			}
			found, before := 0, listing(t, fs)
			for _, s := range segments {
				for off := int64(0); off < s.UsedBytes; off += 41 {
					if err := fs.FlipBit(s.File, off, uint(off)); err != nil {
						t.Fatal(err)
					}
					found += checkFlipped(t, fs, s.File, off, n, closed)
					restore(t, fs, before)
				}
			}
			if found < 300 {
				t.Fatalf("only %d flips were found", found)
			}
		})
	}
}

func checkFlipped(t *testing.T, fs *faultfs.FS, file string, off int64, n uint64, closed bool) (found int) {
	t.Helper()
	before := listing(t, fs)
	l, err := wal.Open(ctx, smallOptions(fs))
	var damage *wal.DamageError
	if errors.As(err, &damage) {
		if damage.File != file || damage.Offset > off || damage.Offset < off-2000 {
			t.Fatalf("flip in %s at %d: the error names %s at %d", file, off, damage.File, damage.Offset)
		}
		if diff := cmp.Diff(before, listing(t, fs)); diff != "" {
			t.Fatalf("a refused start changed the log: %s", diff)
		}
		return 1
	}
	if err != nil {
		t.Fatal(err)
	}
	got := readAll(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lost := n - uint64(len(got))
	if diff := cmp.Diff(wantRecords(1, n+1-lost), got); diff != "" {
		t.Fatalf("flip in %s at %d: %s", file, off, diff)
	}
	if lost > 1 || (lost == 1 && closed) {
		t.Fatalf("flip in %s at %d: %d records lost in silence", file, off, lost)
	}
	return 0
}

func TestMissingFilesAreNoticed(t *testing.T) {
	fs := writtenLog(t, 50, true)
	segments := inspect(t, fs).Segments
	last := len(segments) - 1
	var all []string
	for _, s := range segments {
		all = append(all, s.File)
	}
	for _, test := range []struct {
		name    string
		remove  []string
		missing string
	}{
		{"a segment in the middle", all[1:2], all[1]},
		{"two segments in the middle", all[1:3], all[1]},
		{"the last segment", all[last:], all[last]},
		{"all segments", all, logDir + "/segment-*"},
		{"the meta file", []string{logDir + "/meta"}, logDir + "/meta"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fs := writtenLog(t, 50, true)
			for _, name := range test.remove {
				if err := fs.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
			_, err := wal.Open(ctx, smallOptions(fs))
			var damage *wal.DamageError
			if !errors.As(err, &damage) || damage.File != test.missing {
				t.Fatalf("want damage that names %s, got %v", test.missing, err)
			}
			if !strings.Contains(err.Error(), "millrace wal repair") {
				t.Fatalf("the error does not say what to do: %v", err)
			}
		})
	}
	t.Run("the first segment", func(t *testing.T) {
		if err := fs.Remove(all[0]); err != nil {
			t.Fatal(err)
		}
		// The log cannot know: it removes its first segments itself. A reader that
		// stands there learns it.
		l := mustOpen(t, smallOptions(fs))
		if _, err := l.NewReader(1); !errors.Is(err, wal.ErrPosition) {
			t.Fatalf("want ErrPosition, got %v", err)
		}
	})
}

func TestAMiddleSegmentWithoutItsEndIsDamage(t *testing.T) {
	fs := writtenLog(t, 50, true)
	s := inspect(t, fs).Segments[1]
	content, err := fs.Content(s.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.SetContent(s.File, content[:s.UsedBytes-1024]); err != nil {
		t.Fatal(err)
	}
	_, err = wal.Open(ctx, smallOptions(fs))
	var damage *wal.DamageError
	if !errors.As(err, &damage) || damage.File != s.File {
		t.Fatalf("want damage of %s, got %v", s.File, err)
	}
}
