package catalog

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"
)

// some puts a few hundred products of two tenants.
func some(t testing.TB, store *shop) {
	t.Helper()
	s := newProducts(t, store, false)
	random := rand.New(rand.NewPCG(5, 5))
	for n := range 300 {
		p := named(fmt.Sprintf("%c%d", "abAB.-_9"[random.IntN(8)], n), fmt.Sprint("Number ", n))
		p.TenantID = []string{"demo", "other"}[random.IntN(2)]
		p.Category = []string{"", "shirts", "shoes", "Größe"}[random.IntN(4)]
		p.Position = int64(random.IntN(7)) - 3
		p.Active = random.IntN(3) > 0
		if random.IntN(2) == 0 {
			p.Slug = fmt.Sprintf("slug-%d", n)
		}
		s.put(p)
		if random.IntN(5) == 0 {
			s.put(Product{TenantID: p.TenantID, SKU: p.SKU, Deleted: true})
		}
	}
}

func TestReadsAreTheSameWithAndWithoutAnIndex(t *testing.T) {
	store := newShop()
	some(t, store)
	with, without := newProducts(t, store, true), newProducts(t, store, false)
	for _, q := range []Query{
		{}, {Inactive: true}, {Category: "shirts"}, {Category: "shirts", Inactive: true}, {Category: "Größe"}, {Category: "none"},
	} {
		for _, tenant := range []string{"demo", "other", "nobody"} {
			for _, limit := range []int{1, 7, 1000} {
				q.TenantID, q.Limit = tenant, limit
				if diff := cmp.Diff(pagesOf(t, without, q), pagesOf(t, with, q)); diff != "" {
					t.Errorf("%+v: pages (-store +index):\n%s", q, diff)
				}
			}
		}
	}
	for key, p := range store.products {
		for name, read := range map[string]func(s products) (*Item, error){
			"by SKU":                    func(s products) (*Item, error) { return s.Get(t.Context(), key.tenantID, key.sku) },
			"by slug":                   func(s products) (*Item, error) { return s.BySlug(t.Context(), key.tenantID, p.Slug) },
			"by SKU of another tenant":  func(s products) (*Item, error) { return s.Get(t.Context(), "third", key.sku) },
			"by slug of another tenant": func(s products) (*Item, error) { return s.BySlug(t.Context(), "third", p.Slug) },
		} {
			want, wantErr := read(without)
			got, gotErr := read(with)
			if diff := cmp.Diff(want, got); diff != "" || !errors.Is(gotErr, wantErr) || wantErr != nil && !errors.Is(wantErr, ErrNotFound) {
				t.Errorf("%v %s: error %v, want %v, item (-store +index):\n%s", key, name, gotErr, wantErr, diff)
			}
			if gone := p.Deleted || strings.HasSuffix(name, "tenant") || name == "by slug" && p.Slug == ""; gone != (got == nil) {
				t.Errorf("%v %s: %v", key, name, got)
			}
			if got != nil && (got.Sum == 0 || got.Sum != xxhash.Sum64(got.Body)) {
				t.Errorf("%v %s: the sum %x is not that of the body", key, name, got.Sum)
			}
		}
	}
	for _, s := range []products{with, without} {
		if _, err := s.List(t.Context(), Query{TenantID: "demo"}); err == nil {
			t.Error("a page of nothing is taken")
		}
	}
}

// pagesOf reads a list to its end, page by page.
func pagesOf(t *testing.T, s products, q Query) (pages [][]*Item) {
	t.Helper()
	for {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if pages = append(pages, slices.Clip(page.Items)); len(page.Items) == 0 {
			pages[len(pages)-1] = nil // an empty page is one, however it is made
		}
		if q.Cursor = page.Next; q.Cursor == "" || len(pages) > 1000 {
			return pages
		}
	}
}

func TestAProductThatCannotBeReadIsShownToNobody(t *testing.T) {
	s := newProducts(t, newShop(), true)
	p := named("a", "one")
	p.Slug = "a"
	p.TenantID = "demo"
	p = s.put(p).Product
	bad := p
	bad.Unreadable, bad.Names, bad.Version, bad.Change = true, nil, 2, 2
	s.index.Apply([]Product{bad})
	if it := s.index.get("demo", "a"); it != nil || s.index.bySlug("demo", "a") != nil || len(pagesOf(t, s, Query{TenantID: "demo", Inactive: true, Limit: 9})[0]) > 0 {
		t.Errorf("it is shown: %+v", it)
	}
	p.Version, p.Change = 3, 3
	s.index.Apply([]Product{p})
	if it := s.index.get("demo", "a"); it == nil || s.index.bySlug("demo", "a") != it {
		t.Error("put again it is not shown")
	}
}

func TestASlugIsWithTheProductThatGotItLastWhateverIsHeardFirst(t *testing.T) {
	state := func(sku, slug string, change int64) Product {
		return Product{TenantID: "demo", SKU: sku, Slug: slug, Version: change, Change: change, Active: true}
	}
	// a has the slug, b has it after a gave it away, and a gets it back.
	history := []Product{state("a", "s", 1), state("a", "", 2), state("b", "s", 3), state("b", "", 5), state("a", "s", 6)}
	random := rand.New(rand.NewPCG(8, 8))
	for range 200 {
		x := NewIndex(nil)
		heard := map[string]int64{} // by SKU, the change up to which it is heard of
		for _, n := range random.Perm(len(history)) {
			p := history[n]
			x.Apply([]Product{p})
			heard[p.SKU] = max(heard[p.SKU], p.Change)
			var want Product
			for _, p := range history {
				if heard[p.SKU] == p.Change && p.Slug == "s" {
					want = p
				}
			}
			if got := x.bySlug("demo", "s"); got == nil && want.SKU != "" || got != nil && got.SKU != want.SKU {
				t.Fatalf("heard of %v: the slug is with %+v, want %s", heard, got, want.SKU)
			}
		}
	}
}

func TestAListEndsWhereItsPageIsLargeAndGoesOnThere(t *testing.T) {
	x := NewIndex(func(p *Product) []byte { return make([]byte, 3<<20) })
	var list []Product
	for n := range 8 {
		list = append(list, Product{TenantID: "demo", SKU: fmt.Sprint(n), Change: 1, Version: 1, Active: n%2 == 0})
	}
	x.Apply(list)
	q, sizes := Query{TenantID: "demo", Limit: 100, Inactive: true}, []int{}
	for {
		page, err := x.list(q)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Items))
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if diff := cmp.Diff([]int{3, 3, 2}, sizes); diff != "" {
		t.Errorf("items on pages (-want +got):\n%s", diff)
	}
}

// pack makes a cursor of anything.
func pack(kind byte, body string) string {
	b := append([]byte{kind}, body...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)))
}

func TestCursorsThatNoPageGaveAreRefused(t *testing.T) {
	x := NewIndex(nil)
	last := &Item{SKU: "b", Position: -5}
	inAll, inCategory := Query{TenantID: "demo", Limit: 1}, Query{TenantID: "demo", Category: "c", Limit: 1}
	for name, q := range map[string]Query{
		"of everything, in a category":      {Category: "c", Cursor: writeCursor(inAll, last)},
		"of a category, in everything":      {Cursor: writeCursor(inCategory, last)},
		"no base64":                         {Cursor: "?"},
		"nothing in it":                     {Cursor: pack(0, "")[:2]},
		"a kind that is none":               {Cursor: pack(0x13, "b")},
		"no SKU":                            {Cursor: pack(afterSKU, "")},
		"a SKU that is none":                {Cursor: pack(afterSKU, "a/b")},
		"half a position":                   {Category: "c", Cursor: pack(afterPosition, "1234567")},
		"a position without a SKU":          {Category: "c", Cursor: pack(afterPosition, "12345678")},
		"a wrong checksum":                  {Cursor: writeCursor(inAll, last)[:3] + "A" + writeCursor(inAll, last)[4:]},
		"one that goes on":                  {Cursor: writeCursor(inAll, last) + "AA"},
		"very long":                         {Cursor: strings.Repeat("A", 1<<20)},
		"bits in it that stand for nothing": {Cursor: writeCursor(inAll, last)[:7] + "B"},
	} {
		q.TenantID, q.Limit = "demo", 1
		if page, err := x.list(q); !errors.Is(err, ErrBadCursor) {
			t.Errorf("%s: %+v, %v", name, page, err)
		}
	}
	for _, q := range []Query{inAll, inCategory} {
		if q.Cursor = writeCursor(q, last); q.Cursor == "" {
			t.Fatal("no cursor")
		}
		if after, err := readCursor(q); err != nil || after.SKU != "b" || after.Position != -5 && q.Category != "" {
			t.Errorf("%+v: %+v, %v", q, after, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("", writeCursor(Query{}, &Item{SKU: "a"}))
	f.Add("c", writeCursor(Query{Category: "c"}, &Item{SKU: "a", Position: -1}))
	f.Fuzz(func(t *testing.T, category, cursor string) {
		q := Query{Category: category, Cursor: cursor}
		after, err := readCursor(q)
		if err != nil || cursor == "" {
			return
		}
		if again := writeCursor(q, after); again != cursor {
			t.Errorf("%q is read as %+v, whose cursor is %q", cursor, after, again)
		}
	})
}

// history is one product's states, in the order in which they came to be.
func history(t *testing.T) []Product {
	t.Helper()
	store := newShop()
	s := newProducts(t, store, false)
	a := named("a", "first")
	a.Slug, a.Category = "slug", "shirts"
	b := a
	b.Names, b.Position, b.Active = map[string]string{"en": "second"}, 2, false
	again := named("a", "again")
	again.Category = "shoes"
	var states []Product
	for _, p := range []Product{a, b, deleted("a"), again} {
		states = append(states, s.put(p).Product)
	}
	return states
}

func TestStatesThatComeInAnyOrderEndTheSame(t *testing.T) {
	states := history(t)
	for _, last := range []int{0, 1, 2, 3} { // the state that is the last there is
		want := NewIndex(showProduct)
		want.Apply(states[last : last+1])
		for seed := range uint64(50) {
			random := rand.New(rand.NewPCG(seed, uint64(last)))
			var order []Product
			for _, i := range append(random.Perm(last+1), random.Perm(last+1)...) { // each twice
				order = append(order, states[i])
			}
			x := NewIndex(showProduct)
			for i := range order {
				x.Apply(order[i : i+1])
			}
			if diff := cmp.Diff(everything(want), everything(x)); diff != "" {
				t.Errorf("up to state %d, seed %d (-want +got):\n%s", last, seed, diff)
			}
			loaded := NewIndex(showProduct)
			if err := loaded.Load(func(add func([]Product)) error { add(order[:2]); add(order[2:]); loaded.Apply(order[1:2]); return nil }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(everything(want), everything(loaded)); diff != "" {
				t.Errorf("up to state %d, seed %d, loaded (-want +got):\n%s", last, seed, diff)
			}
		}
	}
}

// everything is what readers can find of product a and its slug.
func everything(x *Index) map[string]any {
	found := map[string]any{"SKU": x.get("demo", "a"), "slug": x.bySlug("demo", "slug")}
	for _, q := range []Query{{}, {Inactive: true}, {Category: "shirts"}, {Category: "shirts", Inactive: true}, {Category: "shoes", Inactive: true}} {
		q.TenantID, q.Limit = "demo", 10
		page, err := x.list(q)
		if err != nil {
			panic(err)
		}
		found[fmt.Sprintf("%s %v", q.Category, q.Inactive)] = page.Items
	}
	return found
}

func TestAStateSupersedesByChangeThenByVersion(t *testing.T) {
	state := func(change, version int64) *Item { return &Item{Change: change, Version: version} }
	for _, tt := range []struct {
		old, next *Item
		want      bool
	}{
		{state(1, 1), state(2, 2), true},
		{state(2, 2), state(1, 1), false},
		{state(1, 9), state(2, 1), true}, // a restored database counts again
		{state(2, 1), state(2, 2), true},
		{state(2, 2), state(2, 1), false},
		{state(2, 2), state(2, 2), false},
	} {
		if got := supersedes(tt.old, tt.next); got != tt.want {
			t.Errorf("%+v by %+v: %v", tt.old, tt.next, got)
		}
	}
}

func TestASlugGoesFromOneProductToAnother(t *testing.T) {
	store := newShop()
	s := newProducts(t, store, false)
	a, b := named("a", "A"), named("b", "B")
	a.Slug = "best"
	first := s.put(a).Product
	a.Slug = ""
	moved := s.put(a).Product
	b.Slug = "best"
	second := s.put(b).Product
	for name, order := range map[string][]Product{
		"in order":      {first, moved, second},
		"the new first": {first, second, moved},
		"the old last":  {second, moved, first},
	} {
		x := NewIndex(nil)
		for _, p := range order {
			x.Apply([]Product{p})
		}
		if it := x.bySlug("demo", "best"); it == nil || it.SKU != "b" {
			t.Errorf("%s: the slug leads to %+v", name, it)
		}
	}
}

func TestALoadReplacesEverything(t *testing.T) {
	store := newShop()
	s := newProducts(t, store, true)
	s.put(named("a", "old"))
	s.put(named("a", "older than it seems"))
	s.put(named("gone", "gone"))
	kept := s.put(named("kept", "kept")).Product
	backup := newShop() // of a database in which less had happened
	old := newProducts(t, backup, false)
	want := old.put(named("a", "restored")).Product

	faults := map[string]func(add func([]Product)) error{
		"an error": func(add func([]Product)) error { add([]Product{want}); return errors.New("away") },
		"a panic":  func(add func([]Product)) error { add([]Product{want}); panic("away") },
	}
	for name, feed := range faults {
		func() {
			defer func() { _ = recover() }()
			if err := s.index.Load(feed); err == nil {
				t.Errorf("%s: no error", name)
			}
		}()
		if it := s.index.get("demo", "gone"); it == nil {
			t.Errorf("%s: a load that failed has replaced what was there", name)
		}
	}
	err := s.index.Load(func(add func([]Product)) error {
		if err := s.index.Load(store.feed(1)); err == nil {
			t.Error("two loads at once are taken")
		}
		add(backup.changes("demo", 0))
		s.index.Apply([]Product{{TenantID: "demo", SKU: "late", Change: 2, Version: 1}, kept}) // written meanwhile
		if it := s.index.get("demo", "a"); it == nil || !strings.Contains(string(it.Body), "older than it seems") {
			t.Errorf("during the load readers see %+v", it)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newItem(&want, showProduct), s.index.get("demo", "a")); diff != "" {
		t.Errorf("after the load (-want +got):\n%s", diff)
	}
	if s.index.get("demo", "gone") != nil || s.index.get("demo", "late") == nil || s.index.get("demo", "kept") == nil || s.index.Stats().Records != 3 {
		t.Errorf("after the load there is %+v", s.index.Stats())
	}
}

func TestReadersSeeAWholeCatalogueWhileItIsWritten(t *testing.T) {
	store := newShop()
	some(t, store)
	s := newProducts(t, store, true)
	const always = "always"
	p := named(always, "0")
	p.Slug, p.Category = always, "shirts"
	s.put(p)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for n := range 3 {
		readers.Go(func() {
			q, order := Query{TenantID: "demo", Limit: 1000, Inactive: n < 2}, bySKU
			if n == 1 {
				q.Category, order = "shirts", byPosition
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				page, err := s.index.list(q)
				if err != nil || !ascends(page.Items, order) {
					t.Errorf("%+v: a page is not in order: %v", q, err)
					return
				}
				times := 0
				for _, it := range page.Items {
					if it.SKU == always {
						times++
					}
				}
				if q.Inactive && times != 1 || times > 1 {
					t.Errorf("%+v: the product that is always there is %d times on a page", q, times)
					return
				}
				if s.index.get("demo", always) == nil || s.index.bySlug("demo", always) == nil {
					t.Error("the product that is always there is not found")
					return
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 1))
	for n := range 2000 {
		p.Names, p.Active, p.Position = map[string]string{"en": fmt.Sprint(n)}, random.IntN(2) == 0, int64(random.IntN(5))
		s.put(p)
		switch other := named(fmt.Sprint("x", random.IntN(50)), fmt.Sprint(n)); random.IntN(3) {
		case 0:
			s.put(other)
		case 1:
			if s.index.get("demo", other.SKU) != nil {
				s.put(deleted(other.SKU))
			}
		default:
			other.Active = false
			s.put(other)
		}
	}
	close(stop)
	readers.Wait()
}

// ascends says whether items are in order, none twice.
func ascends(items []*Item, order func(a, b *Item) int) bool {
	for i := 1; i < len(items); i++ {
		if order(items[i-1], items[i]) >= 0 {
			return false
		}
	}
	return true
}
