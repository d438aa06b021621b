package wal_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/wal"
	"millrace/internal/wal/vfs/faultfs"
)

// hurt damages a log at random and says how.
func hurt(t *testing.T, fs *faultfs.FS, rng *rand.Rand) string {
	t.Helper()
	segments := inspect(t, fs).Segments
	if len(segments) == 0 {
		return "nothing, no segment is left"
	}
	s := segments[rng.IntN(len(segments))]
	content, err := fs.Content(s.File)
	if err != nil {
		t.Fatal(err)
	}
	at := rng.Int64N(max(s.UsedBytes, 1))
	set := func(b []byte) {
		if err := fs.SetContent(s.File, b); err != nil {
			t.Fatal(err)
		}
	}
	switch rng.IntN(6) {
	case 0:
		if err := fs.Remove(s.File); err != nil {
			t.Fatal(err)
		}
		return "removed " + s.File
	case 1:
		clear(content[at:min(at+4096, int64(len(content)))])
		set(content)
		return fmt.Sprintf("zeroed 4 KiB of %s at %d", s.File, at)
	case 2:
		set(append(content[:at:at], content[at+1:]...))
		return fmt.Sprintf("took out a byte of %s at %d", s.File, at)
	case 3:
		set(content[:at])
		return fmt.Sprintf("cut %s at %d", s.File, at)
	case 4:
		if err := fs.Remove(logDir + "/meta"); err == nil {
			return "removed meta"
		}
		fallthrough
	default:
		if err := fs.FlipBit(s.File, at, uint(rng.IntN(8))); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("flipped a bit of %s at %d", s.File, at)
	}
}

func inGaps(gaps []wal.Gap, seq uint64) bool {
	for _, g := range gaps {
		if seq >= g.From && (g.Open || seq < g.UpTo) {
			return true
		}
	}
	return false
}

func TestARepairedLogHasEverythingButWhatTheRepairLists(t *testing.T) {
	const n = 60
	repaired := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		fs := writtenLog(t, n, rng.IntN(2) == 0)
		storePosition := uint64(0)
		if rng.IntN(2) == 0 {
			storePosition = 1 + rng.Uint64N(n+10)
		}
		var harm []string
		for range 1 + rng.IntN(3) {
			harm = append(harm, hurt(t, fs, rng))
		}
		where := fmt.Sprintf("seed %d, store at %d, harm %q", seed, storePosition, harm)
		before := listing(t, fs)
		o := wal.RepairOptions{DryRun: true, StorePosition: storePosition}
		dry, err := wal.Repair(fs, logDir, o)
		if err != nil {
			if strings.Contains(err.Error(), "nothing to repair") {
				continue // no meta file and no segment with a frame: said so
			}
			t.Fatalf("%s: dry run: %v", where, err)
		}
		if diff := cmp.Diff(before, listing(t, fs)); diff != "" {
			t.Fatalf("%s: the dry run changed the log: %s", where, diff)
		}
		o.DryRun = false
		if rng.IntN(2) == 0 { // a crash during the repair
			fs.CrashAfter(rng.IntN(60))
			_, _ = wal.Repair(fs, logDir, o)
			fs = fs.Reboot()
		}
		report, err := wal.Repair(fs, logDir, o)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		repaired += len(report.Damage)
		if r := inspect(t, fs); len(r.Damage) > 0 {
			t.Fatalf("%s: damage is left: %v", where, r.Damage[0])
		}
		if again, err := wal.Repair(fs, logDir, o); err != nil || len(again.Steps) > 0 {
			t.Fatalf("%s: a second repair wants to do %q (%v)", where, again.Steps, err)
		}
		checkRepaired(t, where, fs, n, storePosition, dry)
	}
	if repaired < 200 {
		t.Fatalf("only %d damages were repaired", repaired)
	}
}

func checkRepaired(t *testing.T, where string, fs *faultfs.FS, n, storePosition uint64, report wal.RepairReport) {
	t.Helper()
	l, err := wal.Open(ctx, smallOptions(fs))
	if err != nil {
		t.Fatalf("%s: open after the repair: %v", where, err)
	}
	defer l.Close()
	if l.Next() < storePosition || (storePosition > 0 && l.First() > storePosition) {
		t.Fatalf("%s: the log has [%d, %d), the store stands at %d", where, l.First(), l.Next(), storePosition)
	}
	if report.First != l.First() || report.Next != l.Next() {
		t.Fatalf("%s: the report says [%d, %d), the log has [%d, %d)", where, report.First, report.Next, l.First(), l.Next())
	}
	got := readAll(t, l)
	missing := 0
	for seq := uint64(1); seq <= n; seq++ {
		rec, ok := got[seq]
		if ok && rec != record(seq) {
			t.Fatalf("%s: record %d is wrong", where, seq)
		}
		// Silently missing may be what the store has, and what was at the very
		// front or end: a log cannot tell that it was longer.
		if !ok && seq >= max(storePosition, 1) && !inGaps(report.Lost, seq) && seq >= l.First() && seq < l.Next() {
			t.Fatalf("%s: record %d is missing, the report lists %v", where, seq, report.Lost)
		}
		if !ok {
			missing++
		}
		if ok && inGaps(report.Lost, seq) {
			t.Fatalf("%s: record %d is there, the report lists %v", where, seq, report.Lost)
		}
	}
	if missing == int(n) {
		return
	}
	next := l.Next()
	if pos, err := l.Append([]byte("after")); err != nil || pos.Seq != next {
		t.Fatalf("%s: append after the repair: %d (want %d), %v", where, pos.Seq, next, err)
	}
	r, err := l.NewReader(max(storePosition, l.First()))
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	defer r.Close()
	var last wal.Frame
	for {
		f, ok, err := r.TryNext()
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		if !ok {
			break
		}
		if f.FirstSeq < last.Next() {
			t.Fatalf("%s: a frame begins at %d, the one before ended at %d", where, f.FirstSeq, last.Next())
		}
		last = wal.Frame{FirstSeq: f.FirstSeq, Records: make([][]byte, len(f.Records))}
	}
	if last.Next() != next+1 {
		t.Fatalf("%s: the reader stops at %d, not at %d", where, last.Next(), next+1)
	}
}

func TestASealTellsHowManyRecordsAreLostBeforeIt(t *testing.T) {
	fs := writtenLog(t, 50, true)
	segments := inspect(t, fs).Segments
	s := segments[1]
	if err := fs.FlipBit(s.File, s.UsedBytes-512-700, 3); err != nil { // within the last data frame
		t.Fatal(err)
	}
	for _, later := range segments[2:] {
		if err := fs.Remove(later.File); err != nil {
			t.Fatal(err)
		}
	}
	report, err := wal.Repair(fs, logDir, wal.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []wal.Gap{{From: s.Next - 1, UpTo: s.Next}, {From: s.Next, UpTo: s.Next + 1<<32, Open: true}}
	if diff := cmp.Diff(want, report.Lost); diff != "" {
		t.Error(diff)
	}
	l := mustOpen(t, smallOptions(fs))
	if pos := mustAppend(t, l, "after"); pos.Seq != s.Next+1<<32 {
		t.Errorf("the log goes on at %d", pos.Seq)
	}
}

func TestARepairJoinsTheLogToTheStore(t *testing.T) {
	for _, test := range []struct {
		name     string
		n        int
		remove   int // first segments
		position uint64
		lost     []wal.Gap
	}{
		{"the store is ahead of a log that was brought back from a copy", 10, 0, 500, nil},
		{"the store needs segments that are gone", 50, 2, 15, []wal.Gap{{From: 15, UpTo: 33}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fs := writtenLog(t, test.n, true)
			for _, s := range inspect(t, fs).Segments[:test.remove] {
				if err := fs.Remove(s.File); err != nil {
					t.Fatal(err)
				}
			}
			report, err := wal.Repair(fs, logDir, wal.RepairOptions{StorePosition: test.position})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.lost, report.Lost); diff != "" {
				t.Error(diff)
			}
			l := mustOpen(t, smallOptions(fs))
			r, err := l.NewReader(test.position)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			mustAppend(t, l, "after")
			f, err := r.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if test.lost != nil && (f.FirstSeq != test.lost[0].UpTo || string(f.Records[0]) != record(f.FirstSeq)) {
				t.Errorf("after the gap comes %d", f.FirstSeq)
			}
			if test.lost == nil && (f.FirstSeq != test.position || string(f.Records[0]) != "after") {
				t.Errorf("where the store stands comes %d", f.FirstSeq)
			}
		})
	}
}

func TestAHealthyLogNeedsNoRepair(t *testing.T) {
	for _, n := range []int{0, 1, 60} {
		for _, closed := range []bool{true, false} {
			fs := writtenLog(t, n, closed)
			for _, position := range []uint64{0, 1, uint64(n) + 1} {
				r, err := wal.Repair(fs, logDir, wal.RepairOptions{StorePosition: position})
				if err != nil || len(r.Steps) > 0 {
					t.Errorf("%d records, closed %v, store at %d: steps %q, %v", n, closed, position, r.Steps, err)
				}
			}
			if r := inspect(t, fs); r.Closed != closed || r.Next != uint64(n)+1 || r.First != 1 || r.Torn {
				t.Errorf("%d records, closed %v: report %+v", n, closed, r)
			}
		}
	}
}

func TestARepairThatCrashedStillTakesStraySparesOut(t *testing.T) {
	for crash := range 200 {
		fs := writtenLog(t, 50, true)
		report := inspect(t, fs)
		for _, name := range report.SpareFiles {
			if err := fs.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		// The last segment under a spare's name: recycled, its frames would be taken
		// for those of the generation to come.
		last := report.Segments[len(report.Segments)-1]
		if err := fs.Rename(last.File, logDir+"/spare-000000000001"); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir(logDir); err != nil {
			t.Fatal(err)
		}
		o := wal.RepairOptions{StorePosition: last.First}
		fs.CrashAfter(crash)
		_, _ = wal.Repair(fs, logDir, o)
		fs = fs.Reboot()
		if _, err := wal.Repair(fs, logDir, o); err != nil {
			t.Fatal(err)
		}
		for kills := range uint64(25) {
			l, err := wal.Open(ctx, smallOptions(fs))
			if err != nil {
				t.Fatalf("crash after %d operations, then %d kills: %v", crash, kills, err)
			}
			if n := l.Next(); n != last.First+kills {
				t.Fatalf("crash after %d operations, then %d kills: the log ends at %d instead of %d", crash, kills, n, last.First+kills)
			}
			mustAppend(t, l, record(1030))
			fs = fs.Kill()
			_ = l.Close()
		}
	}
}

func TestARestoredCopyIsNotConfusedByNewerSpares(t *testing.T) {
	fs := faultfs.New(1)
	o := smallOptions(fs)
	o.SpareSegments = 4
	l := mustOpen(t, o)
	appendUpTo := func(upTo uint64) {
		for seq := l.Next(); seq <= upTo; seq++ {
			mustAppend(t, l, record(seq))
		}
	}
	appendUpTo(20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	old := map[string][]byte{}
	for _, s := range inspect(t, fs).Segments {
		b, err := fs.Content(s.File)
		if err != nil {
			t.Fatal(err)
		}
		old[s.File] = b
	}
	l = mustOpen(t, o)
	appendUpTo(120)
	store := l.Next()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	report := inspect(t, fs)
	for _, name := range report.SpareFiles {
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range report.Segments {
		var err error
		if old[s.File] != nil {
			err = fs.Remove(s.File)
		} else { // as if released and recycled
			err = fs.Rename(s.File, fmt.Sprintf("%s/spare-%012d", logDir, 100+i))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range old {
		f, err := fs.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if err := fs.SetContent(name, content); err != nil {
			t.Fatal(err)
		}
	}
	repaired, err := wal.Repair(fs, logDir, wal.RepairOptions{StorePosition: store})
	if err != nil || len(repaired.Damage) > 0 || len(repaired.Steps) == 0 {
		t.Fatalf("damage %v, steps %q, %v", repaired.Damage, repaired.Steps, err)
	}
	for kills := range uint64(60) {
		o.FS = fs
		l, err := wal.Open(ctx, o)
		if err != nil {
			t.Fatalf("after %d kills: %v", kills, err)
		}
		if l.Next() != store+kills {
			t.Fatalf("after %d kills the log ends at %d instead of %d", kills, l.Next(), store+kills)
		}
		mustAppend(t, l, record(1030))
		fs = fs.Kill()
		_ = l.Close()
	}
}

func TestAReaderCrossesAGapAfterARelease(t *testing.T) {
	fs := writtenLog(t, 50, true)
	segments := inspect(t, fs).Segments
	if err := fs.FlipBit(segments[0].File, segments[0].UsedBytes-512-700, 3); err != nil { // within the last data frame
		t.Fatal(err)
	}
	report, err := wal.Repair(fs, logDir, wal.RepairOptions{})
	if err != nil || len(report.Lost) != 1 {
		t.Fatalf("lost %v, %v", report.Lost, err)
	}
	lost := report.Lost[0]
	l := mustOpen(t, smallOptions(fs))
	r, err := l.NewReader(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for next := uint64(1); next < lost.From; {
		f, ok, err := r.TryNext()
		if err != nil || !ok {
			t.Fatalf("at %d: %v", next, err)
		}
		next = f.Next()
	}
	if err := l.Release(segments[1].First); err != nil { // nothing that the reader still needs
		t.Fatal(err)
	}
	if f, ok, err := r.TryNext(); err != nil || !ok || f.FirstSeq != lost.UpTo {
		t.Fatalf("after the gap %v comes %d, %v", lost, f.FirstSeq, err)
	}
}
