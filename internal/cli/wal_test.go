package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/config"
	"millrace/internal/wal"
)

// makeLog makes a data directory with a log of n records in it, each a commit of
// its own, closed cleanly.
func makeLog(t *testing.T, n int) (data string) {
	t.Helper()
	data = t.TempDir()
	log := openLog(t, data)
	for i := range n {
		if _, err := log.Append(fmt.Appendf(nil, "record %d: %s", i, strings.Repeat("x", 700))); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

func openLog(t *testing.T, data string) *wal.Log {
	t.Helper()
	log, err := wal.Open(t.Context(), wal.Options{
		Dir: filepath.Join(data, "wal"), SegmentBytes: 1 << 20, MaxFrameBytes: 1 << 16, MaxRecordBytes: 1 << 16, ReserveBytes: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// damage changes one byte in the middle of a record of the log.
func damage(t *testing.T, data, record string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "wal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if i := strings.Index(string(text), record); i >= 0 {
			text[i+20] ^= 1
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%q is in none of %v", record, files)
}

// lockDeps counts the locks that are held.
func lockDeps(held *int) Deps {
	return Deps{LockData: func(string) (func() error, error) {
		*held++
		return func() error { *held--; return nil }, nil
	}}
}

func TestWALInspectShowsASoundLog(t *testing.T) {
	data := makeLog(t, 3)
	for _, dir := range []string{data, filepath.Join(data, "wal")} {
		r := invocation{}.run(t, "wal", "inspect", dir)
		shape := regexp.MustCompile(`^log +[0-9a-f]{32} in \S+/wal
records +\d+ to \d+, \d\.\d KiB
files +1 segment, \d spares?
end +closed cleanly

SEGMENT +RECORDS +FRAMES +USED +SIZE +RECEIVED +STATE
\S+ +\d+ to \d+ +\d+ +\d\.\d KiB +1\.0 MiB +\S+Z to \S+Z +open
$`)
		if r.Code != ExitOK || r.Err != "" || !shape.MatchString(r.Out) {
			t.Errorf("%s: code %d, %q\n%s", dir, r.Code, r.Err, r.Out)
		}
	}
}

func TestWALInspectFailsOnDamageAndNamesTheFile(t *testing.T) {
	data := makeLog(t, 3)
	damage(t, data, "record 1")
	r := invocation{}.run(t, "wal", "inspect", data)
	if r.Code != ExitFailure || !regexp.MustCompile(`Damage:\n  \S+/wal/\S+ at offset \d+: `).MatchString(r.Out) {
		t.Errorf("code %d\n%s", r.Code, r.Out)
	}
	want := "millrace: the log is damaged in 1 place; bring the files back from a copy, or stop the server and run `millrace wal repair " + data + "`\n"
	if diff := cmp.Diff(want, r.Err); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestWALRepairShowsThePlanAsksAndRepairs(t *testing.T) {
	data := makeLog(t, 3)
	damage(t, data, "record 1")
	before := readTree(t, data)
	held := 0

	nobody := invocation{deps: lockDeps(&held)}.run(t, "wal", "repair", data)
	if nobody.Code != ExitUsage || !strings.Contains(nobody.Out, "\nPlan:\n  1. ") || !strings.Contains(nobody.Out, "\nLost, unless") ||
		nobody.Err != "millrace: Repair the log as planned? Nobody is there to be asked; add --yes if you mean it\n" {
		t.Errorf("without a terminal: %+v", nobody)
	}
	declined := invocation{deps: lockDeps(&held), interactive: true, stdin: "n\n"}.run(t, "wal", "repair", data)
	if declined.Code != ExitFailure || !strings.Contains(declined.Err, "nothing was changed") {
		t.Errorf("declined: %+v", declined)
	}
	if diff := cmp.Diff(before, readTree(t, data)); diff != "" {
		t.Fatalf("something changed before anyone said yes (-before +after):\n%s", diff)
	}

	agreed := invocation{deps: lockDeps(&held), interactive: true, stdin: "yes\n"}.run(t, "wal", "repair", data)
	if agreed.Code != ExitOK || !strings.Contains(agreed.Out, "Kept in quarantine: ") || !strings.Contains(agreed.Out, "The log is repaired and goes on with record ") {
		t.Errorf("agreed: %+v", agreed)
	}
	if held != 0 {
		t.Errorf("%d locks are still held", held)
	}
	if err := openLog(t, data).Close(); err != nil {
		t.Errorf("the repaired log: %v", err)
	}
	again := invocation{deps: lockDeps(&held)}.run(t, "wal", "repair", data)
	if again.Code != ExitOK || !strings.HasSuffix(again.Out, "is sound: nothing to repair.\n") {
		t.Errorf("again: %+v", again)
	}
	after := invocation{}.run(t, "wal", "inspect", data)
	if after.Code != ExitOK || !strings.Contains(after.Out, "Lost in earlier damage that was repaired:\n  records ") {
		t.Errorf("afterwards: %+v", after)
	}
}

// readTree returns every file beneath a folder with its content.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		tree[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestWALRepairRefusesWhileAServerHoldsTheData(t *testing.T) {
	data := makeLog(t, 1)
	i := invocation{deps: Deps{LockData: func(dir string) (func() error, error) {
		return nil, fmt.Errorf("%s is held by another millrace process", dir)
	}}}
	want := result{Code: ExitFailure, Err: "millrace: " + data + " is held by another millrace process\n"}
	if diff := cmp.Diff(want, i.run(t, "wal", "repair", data, "--yes")); diff != "" {
		t.Errorf("by the data directory (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(data, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, i.run(t, "wal", "repair", filepath.Join(data, "wal"), "--yes")); diff != "" {
		t.Errorf("by the log's folder (-want +got):\n%s", diff)
	}
}

func TestWALRepairOfACopyNeedsNoLock(t *testing.T) {
	data := makeLog(t, 1)
	r := invocation{}.run(t, "wal", "repair", filepath.Join(data, "wal"))
	if r.Code != ExitOK || !strings.HasSuffix(r.Out, "is sound: nothing to repair.\n") {
		t.Errorf("got %+v", r)
	}
}

func TestWALRepairAsksTheStoreWhereItStands(t *testing.T) {
	data := makeLog(t, 3)
	damage(t, data, "record 1")
	held := 0
	var asked []string
	i := invocation{deps: lockDeps(&held)}
	i.deps.StorePosition = func(_ context.Context, _ *config.Config, dir, logID string) (uint64, error) {
		asked = append(asked, dir)
		if held != 1 || len(logID) != 32 {
			t.Errorf("asked about the log %q with %d locks held", logID, held)
		}
		return 1000, nil
	}
	r := i.run(t, "wal", "repair", data, "--yes")
	if r.Code != ExitOK || !strings.Contains(r.Out, "goes on with record 1000.\n") || !slices.Equal(asked, []string{data}) {
		t.Errorf("asked %v: %+v", asked, r)
	}
	i.deps.StorePosition = func(context.Context, *config.Config, string, string) (uint64, error) {
		return 0, errors.New("the file is no database")
	}
	if r := i.run(t, "wal", "repair", data, "--yes"); r.Code != ExitFailure || !strings.Contains(r.Err, "the file is no database; if it cannot be mended, give --store-position 1") {
		t.Errorf("a broken database: %+v", r)
	}
	if r := i.run(t, "wal", "repair", data, "--yes", "--store-position", "1"); r.Code != ExitOK {
		t.Errorf("with --store-position: %+v", r)
	}
}

func TestWALCommandsNameADirectoryThatIsWrong(t *testing.T) {
	empty := t.TempDir()
	file := filepath.Join(empty, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		filepath.Join(empty, "none"): "does not exist; name a data directory",
		file:                         "is a file; name a data directory",
		empty:                        "there is no log in " + empty,
	} {
		for _, command := range []string{"inspect", "repair"} {
			r := invocation{}.run(t, "wal", command, dir)
			if r.Code != ExitFailure || !strings.Contains(r.Err, want) || strings.Count(r.Err, "\n") != 1 {
				t.Errorf("wal %s %s: %+v, want %q", command, dir, r, want)
			}
		}
	}
}

func TestBytesAreWrittenForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64.0 MiB", 4 << 30: "4.0 GiB", 5 << 40: "5.0 TiB", 1 << 50: "1024.0 TiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}
