package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/inventory"
)

// InventoryHarness is a fresh store of stock, with the audit log it writes.
type InventoryHarness struct {
	Store inventory.Store
	Audit audit.Store
	// Reserve does to a level what orders do: it changes what is reserved by n in a
	// transaction of its own, raises the version, and answers an error if that much
	// cannot be reserved. It is called concurrently.
	Reserve func(ctx context.Context, tenantID, sku string, n int64) error
}

// Inventory runs the conformance suite of inventory.Store. The factory registers
// its own clean-up.
func Inventory(t *testing.T, fresh func(t testing.TB) *InventoryHarness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *InventoryHarness)
	}{
		{"a level is set for the first time once", stockFirst},
		{"setting names the version it has seen", stockVersions},
		{"of many that set one version one wins", stockRace},
		{"nothing is set below what is reserved", stockReserved},
		{"setting what is there changes nothing", stockSame},
		{"levels are listed in the order of SKU, page by page", stockList},
		{"a cursor that the server did not give is refused", stockCursors},
		{"no tenant sees or changes another's stock", stockTenants},
		{"a change that cannot be finished leaves nothing", stockCancelled},

		{"an adjustment adds to what is on hand", adjustAdds},
		{"an adjustment with one key is done once", adjustOnce},
		{"of many adjustments with one key at a time one is done", adjustRace},
		{"a key stands for one request of one actor", adjustKeys},
		{"a key is free after its life", adjustKeyLife},
		{"an adjustment out of range does nothing and leaves its key free", adjustRange},
		{"adjustments and orders at a time lose nothing", adjustBesideOrders},
		{"a crowd that adjusts one level at once is served", adjustCrowd},

		{"an import sets and changes levels", importApplies},
		{"an import that runs twice is applied once", importTwice},
		{"a line of an import that was applied and is another now is refused", importChanged},
		{"an import line that fails leaves the others and may come again", importErrors},
		{"import lines of one SKU follow each other", importOneSKU},
		{"an import of a thousand lines is applied as a whole", importMany},
		{"one import at a time from many is applied once", importRace},
		{"imports of the same SKUs at once, in any order, all come through", importCross},
		{"imports of different names and tenants are apart", importApart},
		{"an import beside orders loses nothing", importBesideOrders},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func set(sku string, onHand, ifVersion int64) inventory.Set {
	return inventory.Set{TenantID: "demo", SKU: sku, OnHand: onHand, IfVersion: ifVersion, Now: monday, Actor: ann}
}

// put sets a level whatever stands.
func (h *InventoryHarness) put(t testing.TB, sku string, onHand int64) inventory.Level {
	t.Helper()
	l, err := h.Store.Set(t.Context(), set(sku, onHand, inventory.AnyVersion))
	if err != nil {
		t.Fatalf("Set %s to %d: %v", sku, onHand, err)
	}
	return l
}

func (h *InventoryHarness) reserve(t testing.TB, sku string, n int64) {
	t.Helper()
	if err := h.Reserve(t.Context(), "demo", sku, n); err != nil {
		t.Fatalf("reserve %d of %s: %v", n, sku, err)
	}
}

// want fails the test unless a level stands as it is wanted.
func (h *InventoryHarness) want(t testing.TB, want inventory.Level) {
	t.Helper()
	got, err := h.Store.Level(t.Context(), want.TenantID, want.SKU)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("level of %s: error %v, differs (-want +got):\n%s", want.SKU, err, diff)
	}
}

// wantNumbers fails the test unless so much is on hand and reserved.
func (h *InventoryHarness) wantNumbers(t testing.TB, sku string, onHand, reserved int64) {
	t.Helper()
	got, err := h.Store.Level(t.Context(), "demo", sku)
	if got.OnHand != onHand || got.Reserved != reserved || err != nil {
		t.Errorf("%s: %d on hand, %d reserved, error %v; want %d and %d", sku, got.OnHand, got.Reserved, err, onHand, reserved)
	}
}

// wantAudited fails the test unless the tenant has so many entries of an action.
func (h *InventoryHarness) wantAudited(t testing.TB, action string, n int) {
	t.Helper()
	got, err := h.Audit.Entries(t.Context(), audit.Query{TenantID: "demo", Action: action, Limit: n + 10})
	if len(got.Entries) != n || err != nil {
		t.Errorf("%d entries of %q in the audit log, error %v; want %d", len(got.Entries), action, err, n)
	}
}

func stockFirst(t *testing.T, h *InventoryHarness) {
	if _, err := h.Store.Level(t.Context(), "demo", "a"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("no level: error %v, want inventory.ErrNotFound", err)
	}
	first := set("a", 7, 0)
	first.Now = monday.Add(123456789)
	got, err := h.Store.Set(t.Context(), first)
	want := inventory.Level{TenantID: "demo", SKU: "a", OnHand: 7, Version: 1, UpdatedAt: first.Now}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, level differs (-want +got):\n%s", err, diff)
	}
	for _, again := range []int64{7, 8} {
		if _, err := h.Store.Set(t.Context(), set("a", again, 0)); !errors.Is(err, inventory.ErrExists) {
			t.Errorf("the first time again, to %d: error %v, want inventory.ErrExists", again, err)
		}
	}
	if _, err := h.Store.Set(t.Context(), set("b", 1, 1)); !errors.Is(err, inventory.ErrVersion) {
		t.Errorf("a version of no level: error %v, want inventory.ErrVersion", err)
	}
	if _, err := h.Store.Level(t.Context(), "demo", "b"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("what was refused is there: error %v", err)
	}
	h.want(t, want)
	entry, err := inventory.SetEntry(first, inventory.Level{}, want)
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, h.Audit, audit.Query{TenantID: "demo"}, entry)
}

func stockVersions(t *testing.T, h *InventoryHarness) {
	before := h.put(t, "a", 7)
	s := set("a", 8, 1)
	s.Now, s.Actor = monday.Add(time.Minute), bob
	after, err := h.Store.Set(t.Context(), s)
	want := inventory.Level{TenantID: "demo", SKU: "a", OnHand: 8, Version: 2, UpdatedAt: s.Now}
	if diff := cmp.Diff(want, after); diff != "" || err != nil {
		t.Errorf("error %v, level differs (-want +got):\n%s", err, diff)
	}
	for _, version := range []int64{1, 3} {
		for _, onHand := range []int64{8, 9} {
			if _, err := h.Store.Set(t.Context(), set("a", onHand, version)); !errors.Is(err, inventory.ErrVersion) {
				t.Errorf("version %d to %d: error %v, want inventory.ErrVersion", version, onHand, err)
			}
		}
	}
	h.want(t, want)
	h.reserve(t, "a", 1) // a reservation is a change too
	if _, err := h.Store.Set(t.Context(), set("a", 9, 2)); !errors.Is(err, inventory.ErrVersion) {
		t.Errorf("the version before a reservation: error %v, want inventory.ErrVersion", err)
	}
	entry, err := inventory.SetEntry(s, before, after)
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, h.Audit, audit.Query{TenantID: "demo", Subject: "bob"}, entry)
	h.wantAudited(t, "stock.set", 2)
}

func stockRace(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 100)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			switch _, err := h.Store.Set(t.Context(), set("a", int64(i), 1)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, inventory.ErrVersion):
				t.Errorf("error %v, want inventory.ErrVersion", err)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d won, want 1", n)
	}
	h.wantAudited(t, "stock.set", 2)
}

func stockReserved(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 10)
	h.reserve(t, "a", 4)
	_, err := h.Store.Set(t.Context(), set("a", 3, 2))
	var reserved *inventory.ReservedError
	if !errors.As(err, &reserved) || *reserved != (inventory.ReservedError{SKU: "a", OnHand: 3, Reserved: 4}) {
		t.Errorf("error %v, want an *inventory.ReservedError", err)
	}
	h.wantNumbers(t, "a", 10, 4)
	got, err := h.Store.Set(t.Context(), set("a", 4, 2))
	if got.OnHand != 4 || got.Reserved != 4 || got.Available() != 0 || got.Version != 3 || err != nil {
		t.Errorf("%+v, error %v", got, err)
	}
	h.wantAudited(t, "", 2)
}

func stockSame(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 0)
	h.reserve(t, "a", 0)
	s := set("a", 0, 2)
	s.Now = monday.Add(time.Hour)
	want := inventory.Level{TenantID: "demo", SKU: "a", Version: 2, UpdatedAt: monday}
	got, err := h.Store.Set(t.Context(), s)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, level differs (-want +got):\n%s", err, diff)
	}
	h.want(t, want)
	h.wantAudited(t, "", 1)
}

func stockList(t *testing.T, h *InventoryHarness) {
	var want []inventory.Level
	for _, sku := range []string{"10", "9", "B", "a-1", "a.1", "a_1", "b"} {
		want = append(want, h.put(t, sku, 5))
	}
	for limit := 1; limit <= 8; limit++ {
		var got []inventory.Level
		q := inventory.Query{TenantID: "demo", Limit: limit}
		for range 10 {
			page, err := h.Store.Levels(t.Context(), q)
			if err != nil || len(page.Levels) > limit {
				t.Fatalf("limit %d: %d levels, error %v", limit, len(page.Levels), err)
			}
			got = append(got, page.Levels...)
			if q.Cursor = page.Next; page.Next == "" {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || q.Cursor != "" {
			t.Errorf("limit %d: next %q, levels differ (-want +got):\n%s", limit, q.Cursor, diff)
		}
	}
}

func stockCursors(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 1)
	h.put(t, "b", 1)
	page, err := h.Store.Levels(t.Context(), inventory.Query{TenantID: "demo", Limit: 1})
	if err != nil || page.Next == "" {
		t.Fatalf("next %q, error %v", page.Next, err)
	}
	for _, cursor := range []string{"x", page.Next + "A", page.Next[1:], "!!", "a"} {
		if _, err := h.Store.Levels(t.Context(), inventory.Query{TenantID: "demo", Limit: 1, Cursor: cursor}); !errors.Is(err, inventory.ErrBadCursor) {
			t.Errorf("cursor %q: error %v, want inventory.ErrBadCursor", cursor, err)
		}
	}
	for _, limit := range []int{0, -1} {
		if _, err := h.Store.Levels(t.Context(), inventory.Query{TenantID: "demo", Limit: limit}); err == nil {
			t.Errorf("a page of %d levels is given", limit)
		}
	}
}

func stockTenants(t *testing.T, h *InventoryHarness) {
	mine := h.put(t, "a", 5)
	s := set("a", 9, 0)
	s.TenantID = "rival"
	theirs, err := h.Store.Set(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	a := adjustment("a", 1, "k")
	a.TenantID = "nobody"
	if l, replayed, err := h.Store.Adjust(t.Context(), a); l.OnHand != 1 || replayed || err != nil {
		t.Errorf("%+v, %v, error %v", l, replayed, err)
	}
	h.want(t, mine)
	h.want(t, theirs)
	for _, want := range []inventory.Level{mine, theirs} {
		page, err := h.Store.Levels(t.Context(), inventory.Query{TenantID: want.TenantID, Limit: 10})
		if diff := cmp.Diff([]inventory.Level{want}, page.Levels); diff != "" || err != nil {
			t.Errorf("%s: error %v, levels differ (-want +got):\n%s", want.TenantID, err, diff)
		}
	}
	h.wantAudited(t, "", 1)
}

func stockCancelled(t *testing.T, h *InventoryHarness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Store.Set(ctx, set("a", 1, 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("Set: error %v", err)
	}
	if _, _, err := h.Store.Adjust(ctx, adjustment("a", 1, "k")); !errors.Is(err, context.Canceled) {
		t.Errorf("Adjust: error %v", err)
	}
	if _, err := h.Store.Import(ctx, []inventory.ImportLine{line(1, "a", 1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Import: error %v", err)
	}
	if _, err := h.Store.Level(t.Context(), "demo", "a"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("error %v, want inventory.ErrNotFound", err)
	}
	h.wantAudited(t, "", 0)
}

func adjustment(sku string, delta int64, key string) inventory.Adjustment {
	return inventory.Adjustment{TenantID: "demo", SKU: sku, Delta: delta, Reason: "counted", Key: key, Now: monday, Actor: ann}
}

func (h *InventoryHarness) adjust(t testing.TB, a inventory.Adjustment, onHand, version int64, replayed bool) {
	t.Helper()
	l, again, err := h.Store.Adjust(t.Context(), a)
	if l.OnHand != onHand || l.Version != version || again != replayed || err != nil {
		t.Errorf("%s by %d: %+v, replayed %v, error %v; want %d on hand, version %d, replayed %v", a.SKU, a.Delta, l, again, err, onHand, version, replayed)
	}
}

func adjustAdds(t *testing.T, h *InventoryHarness) {
	first := adjustment("a", 5, "k1")
	first.Reason = `found "five" behind the shelf: ü`
	h.adjust(t, first, 5, 1, false)
	h.reserve(t, "a", 2)
	second := adjustment("a", -3, "k2")
	second.Now, second.Actor = monday.Add(time.Minute), bob
	h.adjust(t, second, 2, 3, false)
	after := inventory.Level{TenantID: "demo", SKU: "a", OnHand: 2, Reserved: 2, Version: 3, UpdatedAt: second.Now}
	h.want(t, after)
	before, whenReserved := inventory.Level{}, inventory.Level{TenantID: "demo", SKU: "a", OnHand: 5, Reserved: 2, Version: 2}
	e1, err1 := inventory.AdjustEntry(first, before, inventory.Level{TenantID: "demo", SKU: "a", OnHand: 5, Version: 1})
	e2, err2 := inventory.AdjustEntry(second, whenReserved, after)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, h.Audit, audit.Query{TenantID: "demo"}, e2, e1)
}

func adjustOnce(t *testing.T, h *InventoryHarness) {
	a := adjustment("a", 5, "k")
	h.adjust(t, a, 5, 1, false)
	a.Now = monday.Add(time.Hour)
	h.adjust(t, a, 5, 1, true)
	h.put(t, "a", 50)
	h.adjust(t, a, 50, 2, true) // as it is now
	h.wantAudited(t, "stock.adjust", 1)
}

func adjustRace(t *testing.T, h *InventoryHarness) {
	var wg sync.WaitGroup
	var done atomic.Int32
	for range 16 {
		wg.Go(func() {
			l, replayed, err := h.Store.Adjust(t.Context(), adjustment("a", 5, "k"))
			if l.OnHand != 5 || l.Version != 1 || err != nil {
				t.Errorf("%+v, error %v", l, err)
			}
			if !replayed {
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if n := done.Load(); n != 1 {
		t.Errorf("%d were done, want 1", n)
	}
	h.wantNumbers(t, "a", 5, 0)
	h.wantAudited(t, "", 1)
}

func adjustKeys(t *testing.T, h *InventoryHarness) {
	h.adjust(t, adjustment("a", 5, "k"), 5, 1, false)
	otherReason := adjustment("a", 5, "k")
	otherReason.Reason = "another"
	for name, a := range map[string]inventory.Adjustment{
		"another delta":  adjustment("a", 6, "k"),
		"the other sign": adjustment("a", -5, "k"),
		"another SKU":    adjustment("b", 5, "k"),
		"another reason": otherReason,
	} {
		if _, _, err := h.Store.Adjust(t.Context(), a); !errors.Is(err, inventory.ErrKeyReused) {
			t.Errorf("%s: error %v, want inventory.ErrKeyReused", name, err)
		}
	}
	h.wantNumbers(t, "a", 5, 0)
	bobs := adjustment("a", 6, "k")
	bobs.Actor = bob
	h.adjust(t, bobs, 11, 2, false)
	h.adjust(t, adjustment("a", 6, "K"), 17, 3, false)
	h.wantAudited(t, "", 3)
}

func adjustKeyLife(t *testing.T, h *InventoryHarness) {
	a := adjustment("a", 5, "k")
	h.adjust(t, a, 5, 1, false)
	a.Now = monday.Add(inventory.KeyLife - 1)
	h.adjust(t, a, 5, 1, true)
	a.Now, a.Delta = monday.Add(inventory.KeyLife), 1
	h.adjust(t, a, 6, 2, false)
	a.Now = a.Now.Add(inventory.KeyLife - 1)
	h.adjust(t, a, 6, 2, true)
}

func adjustRange(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 10)
	h.reserve(t, "a", 4)
	h.put(t, "full", inventory.MaxQuantity)
	for _, tt := range []struct {
		a    inventory.Adjustment
		want error
	}{
		{adjustment("a", -7, "k"), &inventory.ReservedError{SKU: "a", OnHand: 3, Reserved: 4}},
		{adjustment("a", -11, "k"), &inventory.OverflowError{SKU: "a", OnHand: -1}},
		{adjustment("none", -1, "k"), &inventory.OverflowError{SKU: "none", OnHand: -1}},
		{adjustment("full", 1, "k"), &inventory.OverflowError{SKU: "full", OnHand: inventory.MaxQuantity + 1}},
	} {
		_, _, err := h.Store.Adjust(t.Context(), tt.a)
		if diff := cmp.Diff(tt.want, rangeError(err)); diff != "" {
			t.Errorf("%s by %d: error %v differs (-want +got):\n%s", tt.a.SKU, tt.a.Delta, err, diff)
		}
	}
	h.wantNumbers(t, "a", 10, 4)
	h.wantNumbers(t, "full", inventory.MaxQuantity, 0)
	h.adjust(t, adjustment("a", -6, "k"), 4, 3, false)
	h.wantAudited(t, "stock.adjust", 1)
}

// rangeError takes a range error out of what wraps it.
func rangeError(err error) error {
	var reserved *inventory.ReservedError
	var overflow *inventory.OverflowError
	switch {
	case errors.As(err, &reserved):
		return reserved
	case errors.As(err, &overflow):
		return overflow
	}
	return err
}

func adjustBesideOrders(t *testing.T, h *InventoryHarness) {
	h.put(t, "a", 20)
	var wg sync.WaitGroup
	var onHand, reserved atomic.Int64
	onHand.Store(20)
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if h.Reserve(t.Context(), "demo", "a", 1) == nil {
					reserved.Add(1)
				}
				delta := int64([]int{1, -2}[(g+i)%2])
				_, _, err := h.Store.Adjust(t.Context(), adjustment("a", delta, fmt.Sprint(g, "/", i)))
				var tooFew *inventory.ReservedError
				switch {
				case err == nil:
					onHand.Add(delta)
				case !errors.As(err, &tooFew) && !errors.As(err, new(*inventory.OverflowError)):
					t.Errorf("Adjust: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if reserved.Load() == 0 {
		t.Error("nothing was reserved")
	}
	h.wantNumbers(t, "a", onHand.Load(), reserved.Load())
}

// line is a line of an import that sets what is on hand.
func line(n int64, sku string, onHand int64) inventory.ImportLine {
	return inventory.ImportLine{TenantID: "demo", ImportID: "i1", Line: n, SKU: sku, OnHand: onHand, Delta: math.MinInt64, Now: monday, Actor: ann}
}
