package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
)

// Who acts in the suites.
var (
	ann = audit.Actor{Subject: "ann", Method: "jwt", RequestID: "r1"}
	bob = audit.Actor{Subject: "bob", Method: "operator"}
)

// Audit runs the conformance suite of audit.Store. The factory gives a fresh
// store and registers its own clean-up.
func Audit(t *testing.T, fresh func(t testing.TB) audit.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, audit.Store)
	}{
		{"every field comes back as it went in", auditFields},
		{"text that a database refuses is kept readable", auditText},
		{"an entry is written once, over all tenants apart", auditOnce},
		{"filters find exactly what they name", auditFilters},
		{"a span of time includes its beginning and not its end", auditSpan},
		{"pages have every entry once while others are written", auditPages},
		{"what is hard to find is looked for in bounded pages", auditScan},
		{"a large page ends early and goes on", auditLargePages},
		{"a cursor that the server did not give is refused", auditCursors},
		{"a page of nothing is not asked for", auditLimit},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// wantEntries fails the test unless a query finds what is wanted, ids aside.
func wantEntries(t testing.TB, s audit.Store, q audit.Query, want ...audit.Entry) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 1000
	}
	got, err := s.Entries(t.Context(), q)
	if diff := cmp.Diff(want, got.Entries, cmpopts.IgnoreFields(audit.Entry{}, "ID"), cmpopts.EquateEmpty()); diff != "" || err != nil || got.Next != "" {
		t.Errorf("error %v, next %q, entries of %+v differ (-want +got):\n%s", err, got.Next, q, diff)
	}
}

// entry returns an entry that is told apart by n, a second after the one before.
func entry(tenant string, n int) audit.Entry {
	at := monday.Add(time.Duration(n) * time.Second)
	return audit.Entry{ID: audit.NewID(at), TenantID: tenant, At: at, Actor: ann, Action: "stock.set", Object: fmt.Sprint("stock/", n),
		After: json.RawMessage(fmt.Sprintf(`{"onHand":%d}`, n))}
}

func record(t testing.TB, s audit.Store, entries ...audit.Entry) {
	t.Helper()
	if err := s.Record(t.Context(), entries); err != nil {
		t.Fatalf("Record: %v", err)
	}
}

func auditFields(t *testing.T, s audit.Store) {
	full := entry("demo", 1)
	full.At = full.At.Add(123456789)
	full.ID = audit.NewID(full.At)
	full.Before = json.RawMessage(`{"name":"Grüße \"quoted\"","n":1.50}`)
	bare := audit.Entry{ID: audit.NewID(monday), TenantID: "demo", At: monday, Action: "a", Object: "b"}
	record(t, s, full, bare)
	record(t, s)
	got, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 10})
	if diff := cmp.Diff([]audit.Entry{full, bare}, got.Entries); diff != "" || err != nil {
		t.Errorf("error %v, entries differ (-want +got):\n%s", err, diff)
	}
}

func auditText(t *testing.T, s audit.Store) {
	e := entry("demo", 1)
	e.Actor = audit.Actor{Subject: "a\x00b", Method: "jwt", RequestID: "r\xff"}
	e.Object = "stock/\x00"
	record(t, s, e)
	e.Actor = audit.Actor{Subject: "a\uFFFDb", Method: "jwt", RequestID: "r\uFFFD"}
	e.Object = "stock/\uFFFD"
	wantEntries(t, s, audit.Query{TenantID: "demo"}, e)
}

func auditOnce(t *testing.T, s audit.Store) {
	first := entry("demo", 1)
	again, other := first, first
	again.Action, other.TenantID = "another", "rival"
	record(t, s, first, again)
	record(t, s, again, other)
	wantEntries(t, s, audit.Query{TenantID: "demo"}, first)
	wantEntries(t, s, audit.Query{TenantID: "rival"}, other)
	wantEntries(t, s, audit.Query{TenantID: "nobody"})
}

func auditFilters(t *testing.T, s audit.Store) {
	var all []audit.Entry
	for n := range 24 {
		e := entry("demo", n)
		e.Object = fmt.Sprint("stock/", n%2)
		e.Action = []string{"stock.set", "stock.adjust", "stock.import"}[n%3]
		if n%4 == 0 {
			e.Actor = bob
		}
		all = append([]audit.Entry{e}, all...)
	}
	record(t, s, all...)
	record(t, s, entry("rival", 1))
	for _, object := range []string{"", "stock/0", "stock/9"} {
		for _, action := range []string{"", "stock.set", "stock"} {
			for _, subject := range []string{"", "bob", "BOB"} {
				var want []audit.Entry
				for _, e := range all {
					if (object == "" || e.Object == object) && (action == "" || e.Action == action) && (subject == "" || e.Actor.Subject == subject) {
						want = append(want, e)
					}
				}
				wantEntries(t, s, audit.Query{TenantID: "demo", Object: object, Action: action, Subject: subject}, want...)
			}
		}
	}
}

func auditSpan(t *testing.T, s audit.Store) {
	at := monday.Add(time.Hour + 999_999) // within a millisecond
	var es []audit.Entry
	for i := range 5 {
		e := entry("demo", i)
		e.At = at.Add(time.Duration(i-2) * time.Nanosecond)
		e.ID = audit.NewID(e.At)
		es = append(es, e)
	}
	record(t, s, es...)
	got, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", From: es[1].At, To: es[3].At, Limit: 10})
	newest := cmpopts.SortSlices(func(a, b audit.Entry) bool { return a.At.After(b.At) })
	if diff := cmp.Diff([]audit.Entry{es[2], es[1]}, got.Entries, newest); diff != "" || err != nil {
		t.Errorf("error %v, entries differ (-want +got):\n%s", err, diff)
	}
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, q := range []audit.Query{{From: far}, {To: time.Unix(-1, 0)}, {From: es[4].At.Add(1)}, {To: es[0].At}} {
		q.TenantID = "demo"
		wantEntries(t, s, q)
	}
	got, err = s.Entries(t.Context(), audit.Query{TenantID: "demo", To: far, Limit: 10})
	if len(got.Entries) != 5 || err != nil {
		t.Errorf("up to %v: %d entries, error %v", far, len(got.Entries), err)
	}
}

func auditPages(t *testing.T, s audit.Store) {
	var want []audit.Entry
	for n := range 25 {
		want = append([]audit.Entry{entry("demo", n)}, want...)
	}
	record(t, s, want...)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range 25 {
			if err := s.Record(t.Context(), []audit.Entry{entry("demo", 100+n)}); err != nil {
				t.Errorf("Record: %v", err)
			}
		}
	})
	defer wg.Wait()
	q := audit.Query{TenantID: "demo", Limit: 10, To: want[0].At.Add(time.Second)}
	var got []audit.Entry
	for range 4 {
		p, err := s.Entries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Entries...)
		if q.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || q.Cursor != "" {
		t.Errorf("next %q, pages differ (-want +got):\n%s", q.Cursor, diff)
	}
}

// auditScan has one entry that a filter finds below more than a page may look at.
func auditScan(t *testing.T, s audit.Store) {
	want := entry("demo", 0)
	want.Actor, want.Action, want.Object = bob, "stock.adjust", "stock/1"
	entries := []audit.Entry{want}
	for n := range audit.MaxScan {
		e := entry("demo", 0)
		e.At = monday.Add(time.Duration(n+1) * time.Millisecond)
		e.ID, e.Object, e.After = audit.NewID(e.At), "stock/1", nil
		entries = append(entries, e)
	}
	for chunk := range slices.Chunk(entries, 5000) {
		record(t, s, chunk...)
	}
	for _, q := range []audit.Query{{Subject: "bob"}, {Action: "stock.adjust"}, {Subject: "bob", Object: "stock/1"}, {Action: "stock.adjust", From: monday}} {
		q.TenantID, q.Limit = "demo", 10
		p, err := s.Entries(t.Context(), q)
		if err != nil || len(p.Entries) > 0 || p.Next == "" {
			t.Errorf("%+v: the first page has %d entries, next %q, error %v; want none and a next page", q, len(p.Entries), p.Next, err)
		}
		q.Cursor = p.Next
		wantEntries(t, s, q, want)
	}
	// A full page goes on after its last entry, not after the last that it looked at.
	p, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", Subject: "ann", Limit: 7})
	if err != nil || len(p.Entries) != 7 {
		t.Fatalf("%d entries, error %v", len(p.Entries), err)
	}
	p, err = s.Entries(t.Context(), audit.Query{TenantID: "demo", Subject: "ann", Limit: 1, Cursor: p.Next})
	if diff := cmp.Diff(entries[audit.MaxScan-7:audit.MaxScan-6], p.Entries, cmpopts.EquateEmpty()); diff != "" || err != nil {
		t.Errorf("error %v, the entry after a full page differs (-want +got):\n%s", err, diff)
	}
}

func auditLargePages(t *testing.T, s audit.Store) {
	big := json.RawMessage(`"` + string(slices.Repeat([]byte("x"), 3<<20)) + `"`)
	var ids, got []string
	for n := range 5 {
		e := entry("demo", n)
		e.Before = big
		record(t, s, e)
		ids = append([]string{e.ID}, ids...)
	}
	q, pages := audit.Query{TenantID: "demo", Limit: 100}, 0
	for {
		p, err := s.Entries(t.Context(), q)
		if err != nil || len(p.Entries) == 0 {
			t.Fatalf("page %d has %d entries, error %v", pages, len(p.Entries), err)
		}
		pages++
		for _, e := range p.Entries {
			got = append(got, e.ID)
		}
		if q.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	if diff := cmp.Diff(ids, got); diff != "" || pages < 2 {
		t.Errorf("%d pages, ids differ (-want +got):\n%s", pages, diff)
	}
}

func auditCursors(t *testing.T, s audit.Store) {
	record(t, s, entry("demo", 1), entry("demo", 2))
	p, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 1})
	if err != nil || p.Next == "" {
		t.Fatalf("next %q, error %v", p.Next, err)
	}
	for _, cursor := range []string{"x", p.Next + "A", p.Next[1:], "!!", p.Next[:len(p.Next)-1]} {
		if _, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: 1, Cursor: cursor}); !errors.Is(err, audit.ErrBadCursor) {
			t.Errorf("cursor %q: error %v, want audit.ErrBadCursor", cursor, err)
		}
	}
}

func auditLimit(t *testing.T, s audit.Store) {
	for _, limit := range []int{0, -1} {
		if _, err := s.Entries(t.Context(), audit.Query{TenantID: "demo", Limit: limit}); err == nil {
			t.Errorf("a limit of %d is taken", limit)
		}
	}
}
