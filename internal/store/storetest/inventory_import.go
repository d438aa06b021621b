package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/inventory"
)

// deltaLine is a line of an import that changes what is on hand.
func deltaLine(n int64, sku string, delta int64) inventory.ImportLine {
	return inventory.ImportLine{TenantID: "demo", ImportID: "i1", Line: n, SKU: sku, IsDelta: true, Delta: delta, OnHand: -1, Now: monday, Actor: ann}
}

func (h *InventoryHarness) imports(t testing.TB, lines ...inventory.ImportLine) []inventory.ImportResult {
	t.Helper()
	results, err := h.Store.Import(t.Context(), lines)
	if err != nil || len(results) != len(lines) {
		t.Fatalf("Import of %d lines: %d results, error %v", len(lines), len(results), err)
	}
	return results
}

func importApplies(t *testing.T, h *InventoryHarness) {
	seven := h.put(t, "b", 7)
	lines := []inventory.ImportLine{line(1, "a", 5), deltaLine(2, "b", -3), deltaLine(3, "c", 4), line(4, "d", 0)}
	for i := range lines {
		lines[i].Now = monday.Add(time.Duration(i+1) * time.Minute)
	}
	results := h.imports(t, lines...)
	var want []audit.Entry
	for i, level := range []inventory.Level{
		{SKU: "a", OnHand: 5, Version: 1}, {SKU: "b", OnHand: 4, Version: 2}, {SKU: "c", OnHand: 4, Version: 1}, {SKU: "d", Version: 1},
	} {
		level.TenantID, level.UpdatedAt = "demo", lines[i].Now
		if diff := cmp.Diff(inventory.ImportResult{Level: level}, results[i]); diff != "" {
			t.Errorf("line %d: result differs (-want +got):\n%s", i+1, diff)
		}
		h.want(t, level)
		before := inventory.Level{}
		if i == 1 {
			before = seven
		}
		entry, err := inventory.ImportEntry(lines[i], before, level)
		if err != nil {
			t.Fatal(err)
		}
		want = append([]audit.Entry{entry}, want...)
	}
	wantEntries(t, h.Audit, audit.Query{TenantID: "demo", Action: "stock.import"}, want...)
	if results, err := h.Store.Import(t.Context(), nil); len(results) != 0 || err != nil {
		t.Errorf("an import of nothing: %v, %v", results, err)
	}
}

func importTwice(t *testing.T, h *InventoryHarness) {
	lines := []inventory.ImportLine{line(1, "a", 5), deltaLine(2, "b", 3), line(3, "c", 0)}
	h.imports(t, lines...)
	now := h.put(t, "a", 50)
	// Once more, and in part: with a line that is new between.
	results := h.imports(t, lines[0], deltaLine(4, "d", 1), lines[1], lines[2])
	for i, onHand := range []int64{50, 1, 3, 0} {
		if r := results[i]; r.Level.OnHand != onHand || r.Repeated != (i != 1) || r.Err != nil {
			t.Errorf("line %d: %+v; want %d on hand", i, r, onHand)
		}
	}
	h.want(t, now)
	h.wantAudited(t, "stock.import", 4)
	// A line that changed nothing was applied all the same.
	h.put(t, "c", 9)
	if r := h.imports(t, lines[2])[0]; !r.Repeated || r.Level.OnHand != 9 {
		t.Errorf("a line that changed nothing, again: %+v", r)
	}
	// Within one call.
	twice := h.imports(t, deltaLine(5, "b", 1), deltaLine(5, "b", 1), deltaLine(5, "other", 1))
	if twice[0].Repeated || !twice[1].Repeated || twice[1].Level.OnHand != 4 || twice[2].Repeated || twice[2].Err == nil || twice[2].Level.OnHand != 0 {
		t.Errorf("one line number three times: %+v", twice)
	}
}

func importChanged(t *testing.T, h *InventoryHarness) {
	h.imports(t, line(1, "a", 5), deltaLine(2, "b", 3))
	for name, changed := range map[string]inventory.ImportLine{
		"another SKU": line(1, "c", 5), "another number": line(1, "a", 6), "a change instead": deltaLine(1, "a", 5),
		"another change": deltaLine(2, "b", -3), "a number instead": line(2, "b", 3),
	} {
		applied := "a onHand 5"
		if changed.Line == 2 {
			applied = "b delta 3"
		}
		r := h.imports(t, changed, line(1, "a", 5))
		if diff := cmp.Diff(error(&inventory.ReusedLineError{ImportID: "i1", Line: changed.Line, Applied: applied}), r[0].Err); diff != "" || r[0].Repeated || !r[1].Repeated || r[1].Err != nil {
			t.Errorf("%s: %+v, error differs (-want +got):\n%s", name, r, diff)
		}
	}
	h.wantNumbers(t, "a", 5, 0)
	h.wantNumbers(t, "b", 3, 0)
	h.wantAudited(t, "stock.import", 2)
}

func importErrors(t *testing.T, h *InventoryHarness) {
	h.put(t, "held", 10)
	h.reserve(t, "held", 4)
	lines := []inventory.ImportLine{line(1, "a", 5), line(2, "held", 3), deltaLine(3, "none", -1), deltaLine(4, "held", -7), deltaLine(5, "b", 2)}
	wantErrs := []error{nil, &inventory.ReservedError{SKU: "held", OnHand: 3, Reserved: 4}, &inventory.OverflowError{SKU: "none", OnHand: -1},
		&inventory.ReservedError{SKU: "held", OnHand: 3, Reserved: 4}, nil}
	for i, r := range h.imports(t, lines...) {
		if diff := cmp.Diff(wantErrs[i], r.Err); diff != "" || r.Repeated {
			t.Errorf("line %d: repeated %v, error differs (-want +got):\n%s", i+1, r.Repeated, diff)
		}
	}
	h.wantNumbers(t, "held", 10, 4)
	h.wantNumbers(t, "a", 5, 0)
	h.wantNumbers(t, "b", 2, 0)
	h.wantAudited(t, "stock.import", 2)
	if _, err := h.Store.Level(t.Context(), "demo", "none"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("error %v, want inventory.ErrNotFound", err)
	}
	h.reserve(t, "held", -4) // the order is cancelled
	for i, r := range h.imports(t, lines...) {
		if failed := r.Err != nil; failed != (i == 2 || i == 3) || r.Repeated != (i == 0 || i == 4) {
			t.Errorf("again, line %d: %+v", i+1, r)
		}
	}
	h.wantNumbers(t, "held", 3, 0)
}

func importOneSKU(t *testing.T, h *InventoryHarness) {
	results := h.imports(t, line(1, "a", 5), deltaLine(2, "a", -6), deltaLine(3, "a", -5), deltaLine(4, "b", 1), line(5, "a", 9), line(6, "a", 9))
	for i, want := range []struct {
		onHand, version int64
		failed          bool
	}{{5, 1, false}, {5, 1, true}, {0, 2, false}, {1, 1, false}, {9, 3, false}, {9, 3, false}} {
		if r := results[i]; r.Level.OnHand != want.onHand || r.Level.Version != want.version || (r.Err != nil) != want.failed {
			t.Errorf("line %d: %+v, want %+v", i+1, r, want)
		}
	}
	h.wantNumbers(t, "a", 9, 0)
	h.wantAudited(t, "", 4)
}

func importMany(t *testing.T, h *InventoryHarness) {
	const n = 1000
	var lines []inventory.ImportLine
	for i := range int64(n) {
		lines = append(lines, line(i+1, fmt.Sprintf("sku-%04d", i%700), i))
	}
	h.imports(t, lines...)
	for _, r := range h.imports(t, lines...) {
		if !r.Repeated {
			t.Fatalf("a line was applied twice: %+v", r)
		}
	}
	page, err := h.Store.Levels(t.Context(), inventory.Query{TenantID: "demo", Limit: n})
	if len(page.Levels) != 700 || err != nil {
		t.Fatalf("%d levels, error %v", len(page.Levels), err)
	}
	for i, l := range page.Levels {
		want := int64(i)
		if i < 300 {
			want += 700
		}
		if l.SKU != fmt.Sprintf("sku-%04d", i) || l.OnHand != want {
			t.Fatalf("level %d: %+v, want %d on hand", i, l, want)
		}
	}
	h.wantAudited(t, "stock.import", n)
}

func importRace(t *testing.T, h *InventoryHarness) {
	var lines []inventory.ImportLine
	for i := range int64(50) {
		lines = append(lines, deltaLine(i+1, fmt.Sprint("sku-", i%10), 1))
	}
	var wg sync.WaitGroup
	var applied atomic.Int64
	for range 8 {
		wg.Go(func() {
			results, err := h.Store.Import(t.Context(), lines)
			if err != nil {
				t.Errorf("Import: %v", err)
			}
			for _, r := range results {
				if r.Err != nil {
					t.Errorf("line: %v", r.Err)
				}
				if !r.Repeated {
					applied.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := applied.Load(); n != 50 {
		t.Errorf("%d lines were applied, want 50", n)
	}
	for i := range 10 {
		h.wantNumbers(t, fmt.Sprint("sku-", i), 5, 0)
	}
	h.wantAudited(t, "", 50)
}

func importApart(t *testing.T, h *InventoryHarness) {
	other, rival := deltaLine(1, "a", 1), deltaLine(1, "a", 1)
	other.ImportID, rival.TenantID = "i2", "rival"
	for i, r := range h.imports(t, deltaLine(1, "a", 1), rival, other) {
		if r.Repeated || r.Err != nil || r.Level.OnHand != []int64{1, 1, 2}[i] {
			t.Errorf("line %d: %+v", i, r)
		}
	}
	h.want(t, inventory.Level{TenantID: "rival", SKU: "a", OnHand: 1, Version: 1, UpdatedAt: monday})
}

func importBesideOrders(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 5)
	var wg sync.WaitGroup
	var reserved atomic.Int64
	wg.Go(func() {
		for range 60 {
			if h.Reserve(t.Context(), "demo", "a", 1) == nil {
				reserved.Add(1)
			}
		}
	})
	onHand := int64(5)
	for i := range int64(30) {
		for _, r := range h.imports(t, deltaLine(2*i+1, "a", 1), line(2*i+2, fmt.Sprint("b", i), 1)) {
			if r.Err != nil {
				t.Errorf("line: %v", r.Err)
			}
		}
		onHand++
	}
	wg.Wait()
	if reserved.Load() == 0 {
		t.Error("nothing was reserved")
	}
	h.wantNumbers(t, "a", onHand, reserved.Load())
}
