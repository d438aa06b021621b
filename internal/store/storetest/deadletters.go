package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/deadletter"
)

// DeadLetters runs the conformance suite of deadletter.Store. The factory gives a
// fresh store and registers its own clean-up.
func DeadLetters(t *testing.T, fresh func(t testing.TB) deadletter.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, deadletter.Store)
	}{
		{"every field comes back as it went in", letterFields},
		{"the same letter twice is one", letterTwice},
		{"letters are listed newest first, by page", letterPages},
		{"the list filters by kind, type and time", letterFilters},
		{"large letters take more pages, and all come", letterLargePages},
		{"a cursor that is not ours is refused", letterBadCursor},
		{"a letter is deleted once", letterDelete},
		{"a failed redrive is counted", letterAttempts},
		{"letters are counted by kind over all tenants", letterCount},
		{"old letters are dropped, a bounded number at a time", letterDrop},
		{"no tenant touches another's letters", letterTenants},
		{"text no database takes is kept readable", letterOddText},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// letter returns a letter that is told apart by n.
func letter(tenant string, n int) deadletter.Letter {
	return deadletter.Letter{
		ID:          fmt.Sprintf("00000000-0000-5000-8000-%012d", n),
		TenantID:    tenant,
		Kind:        deadletter.KindEvent,
		Reason:      fmt.Sprintf("reason %d", n),
		Source:      "shop",
		Type:        "order.placed",
		EventID:     fmt.Sprint("event-", n),
		BatchID:     "batch",
		ReceivedAt:  monday.Add(time.Duration(n/2) * time.Second), // pairs share a time
		Attempts:    1,
		ContentType: "application/json",
		Payload:     fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

func addLetters(t testing.TB, s deadletter.Store, letters ...deadletter.Letter) {
	t.Helper()
	if err := s.Add(t.Context(), letters); err != nil {
		t.Fatalf("Add: %v", err)
	}
}

// allLetters reads every page.
func allLetters(t testing.TB, s deadletter.Store, f deadletter.Filter, limit int) []deadletter.Letter {
	t.Helper()
	var out []deadletter.Letter
	cursor := ""
	for range 10_000 {
		page, next, err := s.List(t.Context(), f, limit, cursor)
		if err != nil {
			t.Fatalf("List(%+v): %v", f, err)
		}
		if len(page) > limit {
			t.Fatalf("a page of %d letters where %d were asked for", len(page), limit)
		}
		out = append(out, page...)
		if cursor = next; cursor == "" {
			return out
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

// newestFirst returns the letters in the order of List.
func newestFirst(letters []deadletter.Letter) []deadletter.Letter {
	out := slices.Clone(letters)
	slices.SortFunc(out, func(a, b deadletter.Letter) int {
		if c := b.ReceivedAt.Compare(a.ReceivedAt); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	return out
}

func letterFields(t *testing.T, s deadletter.Store) {
	full := letter("demo", 1)
	full.Kind = deadletter.KindWebhook
	full.Reason = "the payload is Grüße \U0001F600, not JSON"
	full.ReceivedAt = monday.Add(123456789)
	full.LastAttemptAt = monday.Add(time.Hour + 1)
	full.Attempts = 7
	full.Truncated = true
	full.Payload = []byte{0, 0xff, '"', '\n', 0x80}
	bare := deadletter.Letter{ID: "bare", TenantID: "demo", Kind: deadletter.KindBody, ReceivedAt: monday}
	addLetters(t, s, full, bare)
	for _, want := range []deadletter.Letter{full, bare} {
		got, err := s.Get(t.Context(), "demo", want.ID)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("letter %s: error %v, differs (-want +got):\n%s", want.ID, err, diff)
		}
	}
	got := allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 10)
	if diff := cmp.Diff([]deadletter.Letter{full, bare}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the list differs (-want +got):\n%s", diff)
	}
	if err := s.Add(t.Context(), nil); err != nil {
		t.Errorf("Add of nothing: %v", err)
	}
}

func letterTwice(t *testing.T, s deadletter.Store) {
	first, again := letter("demo", 1), letter("demo", 1)
	again.Reason = "another"
	addLetters(t, s, first, again)
	addLetters(t, s, again, letter("demo", 2))
	want := newestFirst([]deadletter.Letter{first, letter("demo", 2)})
	if diff := cmp.Diff(want, allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 10)); diff != "" {
		t.Errorf("letters differ (-want +got):\n%s", diff)
	}
}

func letterPages(t *testing.T, s deadletter.Store) {
	var letters []deadletter.Letter
	for n := range 25 {
		letters = append(letters, letter("demo", n))
	}
	addLetters(t, s, letters...)
	for _, limit := range []int{1, 2, 3, 24, 25, 26} {
		if diff := cmp.Diff(newestFirst(letters), allLetters(t, s, deadletter.Filter{TenantID: "demo"}, limit)); diff != "" {
			t.Errorf("pages of %d: letters differ (-want +got):\n%s", limit, diff)
		}
	}
	if _, _, err := s.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 0, ""); err == nil {
		t.Error("a limit of 0 was taken")
	}
	// Deleting what was read does not disturb the rest: that is how a redrive by filter goes.
	page, next, err := s.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 10, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range page {
		if err := s.Delete(t.Context(), "demo", l.ID); err != nil {
			t.Fatal(err)
		}
	}
	page, _, err = s.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 100, next)
	if diff := cmp.Diff(newestFirst(letters)[10:], page); diff != "" || err != nil {
		t.Errorf("after deleting the first page: error %v, the rest differs (-want +got):\n%s", err, diff)
	}
}

func letterFilters(t *testing.T, s deadletter.Store) {
	var letters []deadletter.Letter
	for n := range 24 {
		l := letter("demo", n)
		l.Kind = []deadletter.Kind{deadletter.KindEvent, deadletter.KindBody, deadletter.KindWebhook}[n%3]
		l.Type = []string{"a", "b"}[n%2]
		letters = append(letters, l)
	}
	addLetters(t, s, letters...)
	at := monday.Add(5 * time.Second)
	for _, f := range []deadletter.Filter{
		{}, {Kind: deadletter.KindBody}, {Type: "b"}, {Kind: deadletter.KindWebhook, Type: "a"}, {Kind: "none"},
		{From: at}, {To: at}, {From: at.Add(1)}, {To: at.Add(1)}, {From: at, To: at.Add(3 * time.Second), Type: "a"}, {From: at, To: at},
		{From: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		f.TenantID = "demo"
		want := []deadletter.Letter{}
		for _, l := range newestFirst(letters) {
			if (f.Kind == "" || l.Kind == f.Kind) && (f.Type == "" || l.Type == f.Type) &&
				(f.From.IsZero() || !l.ReceivedAt.Before(f.From)) && (f.To.IsZero() || l.ReceivedAt.Before(f.To)) {
				want = append(want, l)
			}
		}
		if diff := cmp.Diff(want, allLetters(t, s, f, 3), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v: letters differ (-want +got):\n%s", f, diff)
		}
	}
}

func letterLargePages(t *testing.T, s deadletter.Store) {
	var letters []deadletter.Letter
	for n := range 12 {
		l := letter("demo", n)
		l.Payload = make([]byte, 1<<20)
		l.Payload[0] = byte(n)
		letters = append(letters, l)
	}
	addLetters(t, s, letters...)
	got := allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 100)
	if len(got) != len(letters) {
		t.Fatalf("%d letters, want %d", len(got), len(letters))
	}
	for i, want := range newestFirst(letters) {
		if got[i].ID != want.ID || !slices.Equal(got[i].Payload, want.Payload) {
			t.Errorf("letter %d is %s, want %s, each with its payload", i, got[i].ID, want.ID)
		}
	}
}

func letterBadCursor(t *testing.T, s deadletter.Store) {
	addLetters(t, s, letter("demo", 1), letter("demo", 2))
	_, next, err := s.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 1, "")
	if err != nil || next == "" {
		t.Fatalf("first page: next %q, error %v", next, err)
	}
	bad := []string{"x", "%", "AAAA", next + "AAAA", next[1:], next[:len(next)-1]}
	for i := range next {
		flipped := []byte(next)
		flipped[i]++
		bad = append(bad, string(flipped))
	}
	for _, cursor := range bad {
		if _, _, err := s.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 1, cursor); !errors.Is(err, deadletter.ErrBadCursor) {
			t.Errorf("cursor %q: error %v, want deadletter.ErrBadCursor", cursor, err)
		}
	}
}

func letterDelete(t *testing.T, s deadletter.Store) {
	addLetters(t, s, letter("demo", 1), letter("demo", 2))
	id := letter("demo", 1).ID
	if err := s.Delete(t.Context(), "demo", id); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "demo", id); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("the second time: error %v, want deadletter.ErrNotFound", err)
	}
	if _, err := s.Get(t.Context(), "demo", id); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("Get: error %v, want deadletter.ErrNotFound", err)
	}
	if got := allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 10); len(got) != 1 {
		t.Errorf("%d letters left, want 1", len(got))
	}
}

func letterAttempts(t *testing.T, s deadletter.Store) {
	want := letter("demo", 1)
	addLetters(t, s, want)
	for n := 1; n <= 2; n++ {
		want.Attempts++
		want.LastAttemptAt = monday.Add(time.Duration(n) * time.Hour)
		want.Reason = fmt.Sprint("still wrong ", n)
		if err := s.RecordAttempt(t.Context(), "demo", want.ID, want.LastAttemptAt, want.Reason); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), "demo", want.ID)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("error %v, the letter differs (-want +got):\n%s", err, diff)
		}
	}
	if err := s.RecordAttempt(t.Context(), "demo", "none", monday, "x"); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("a letter that is not there: error %v, want deadletter.ErrNotFound", err)
	}
}

func letterCount(t *testing.T, s deadletter.Store) {
	counts := func() map[deadletter.Kind]int64 {
		t.Helper()
		got, err := s.Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := counts(); len(got) != 0 {
		t.Errorf("a new store counts %v", got)
	}
	for n := range 5 {
		l := letter([]string{"demo", "rival"}[n%2], n)
		if n == 4 {
			l.Kind = deadletter.KindBody
		}
		addLetters(t, s, l)
	}
	want := map[deadletter.Kind]int64{deadletter.KindEvent: 4, deadletter.KindBody: 1}
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Errorf("counts differ (-want +got):\n%s", diff)
	}
}

func letterDrop(t *testing.T, s deadletter.Store) {
	var letters []deadletter.Letter
	for n := range 10 {
		letters = append(letters, letter([]string{"demo", "rival"}[n%2], n))
	}
	letters[2].Kind = deadletter.KindOrder // stays: it waits for a person
	addLetters(t, s, letters...)
	before := monday.Add(3 * time.Second) // letters 0 to 5 are older
	for _, want := range []int{4, 1, 0} {
		if n, err := s.DropBefore(t.Context(), before, 4); n != want || err != nil {
			t.Errorf("dropped %d, error %v; want %d", n, err, want)
		}
	}
	left := append(allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 10), allLetters(t, s, deadletter.Filter{TenantID: "rival"}, 10)...)
	if diff := cmp.Diff(newestFirst(append(letters[6:], letters[2])), newestFirst(left)); diff != "" {
		t.Errorf("letters differ (-want +got):\n%s", diff)
	}
	if _, err := s.DropBefore(t.Context(), before, 0); err == nil {
		t.Error("a limit of 0 was taken")
	}
}

func letterTenants(t *testing.T, s deadletter.Store) {
	mine, theirs := letter("demo", 1), letter("rival", 1) // the same id
	theirs.Reason = "theirs"
	other := letter("rival", 2)
	addLetters(t, s, mine, theirs, other)
	if diff := cmp.Diff([]deadletter.Letter{mine}, allLetters(t, s, deadletter.Filter{TenantID: "demo"}, 10)); diff != "" {
		t.Errorf("demo's letters differ (-want +got):\n%s", diff)
	}
	_, getErr := s.Get(t.Context(), "demo", other.ID)
	deleteErr := s.Delete(t.Context(), "demo", other.ID)
	attemptErr := s.RecordAttempt(t.Context(), "demo", other.ID, monday, "x")
	for name, err := range map[string]error{"Get": getErr, "Delete": deleteErr, "RecordAttempt": attemptErr} {
		if !errors.Is(err, deadletter.ErrNotFound) {
			t.Errorf("%s of another tenant's letter: error %v, want deadletter.ErrNotFound", name, err)
		}
	}
	if err := s.Delete(t.Context(), "demo", mine.ID); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newestFirst([]deadletter.Letter{theirs, other}), allLetters(t, s, deadletter.Filter{TenantID: "rival"}, 10)); diff != "" {
		t.Errorf("rival's letters differ (-want +got):\n%s", diff)
	}
}

// A dead letter is where broken text ends up, so no text may be refused here.
func letterOddText(t *testing.T, s deadletter.Store) {
	l := letter("demo", 1)
	l.Reason, l.Type, l.EventID, l.Source, l.ContentType = "a\x00b", "\xff\xfe", "c\xc3", "\x00", "text/\xff"
	addLetters(t, s, l)
	got, err := s.Get(t.Context(), "demo", l.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := l
	want.Reason, want.Type, want.EventID, want.Source, want.ContentType = "a\uFFFDb", "\uFFFD", "c\uFFFD", "\uFFFD", "text/\uFFFD"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the letter differs (-want +got):\n%s", diff)
	}
}
