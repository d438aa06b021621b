package catalog

import (
	"errors"
	"sync"
	"sync/atomic"

	"millrace/internal/memindex"
)

// itemKey is the primary key of an Item.
type itemKey struct{ tenantID, sku string }

// slugKey is the unique key of one that has a slug.
type slugKey struct{ tenantID, slug string }

// shelf is a list of a tenant's products: of one category, or of all. There is one of
// those that can be ordered, so that however many are hidden, none must be passed over to
// find those that are shown, and one that has the hidden too: of two lists that are read
// one after the other a product that is hidden meanwhile would be on both or on neither.
type shelf struct {
	tenantID, category string
	hidden             bool // those that cannot be ordered are on it too
}

// shelve puts an item on its shelves of a category.
func shelve(it *Item, category string, add func(shelf)) {
	add(shelf{it.TenantID, category, true})
	if it.Active {
		add(shelf{it.TenantID, category, false})
	}
}

// tables hold one load of the catalogue.
type tables struct {
	items      *memindex.Table[itemKey, Item]
	slugs      *memindex.Unique[slugKey, Item]
	all        *memindex.Groups[shelf, Item] // by SKU
	categories *memindex.Groups[shelf, Item] // by position
}

func newTables() *tables {
	t := &tables{items: memindex.New(func(it *Item) itemKey { return itemKey{it.TenantID, it.SKU} }, memindex.Options[Item]{
		Name: "catalog", Supersedes: supersedes, Live: func(it *Item) bool { return !it.Deleted }, Bytes: itemBytes,
	})}
	// Of two that have a slug one is an older state, which was heard of late.
	t.slugs = memindex.AddUniqueBy(t.items, func(it *Item) (slugKey, bool) { return slugKey{it.TenantID, it.Slug}, it.Slug != "" },
		func(a, b *Item) bool { return a.Change > b.Change })
	t.all = memindex.AddGroups(t.items, func(it *Item, add func(shelf)) { shelve(it, "", add) }, bySKU)
	t.categories = memindex.AddGroups(t.items, func(it *Item, add func(shelf)) {
		if it.Category != "" {
			shelve(it, it.Category, add)
		}
	}, byPosition)
	return t
}

// Index is the whole catalogue of all tenants in memory. Reads never wait, for
// writers neither. All methods are safe for concurrent use.
//
// What it is told may come in any order and more than once: of two states of a
// product the one with the higher Change stays, and deleted products stay as
// tombstones, so that an older state cannot bring them back. They are never purged, in
// the Store neither: one takes about 190 bytes here.
type Index struct {
	render Render
	live   atomic.Pointer[tables] // what is read

	mu   sync.RWMutex // guards next, and live against being replaced during an Apply
	next *tables      // is being loaded; nil: none
}

// NewIndex makes an empty Index of products that are shown as render does.
func NewIndex(render Render) *Index {
	x := &Index{render: render}
	x.live.Store(newTables())
	return x
}

// Load replaces all there is by the products that feed adds, which it may do from
// several goroutines at once, and by what Apply is told meanwhile. Until it returns,
// and if it returns an error, readers see what was there before. It takes one load at
// a time.
func (x *Index) Load(feed func(add func([]Product)) error) error {
	t := newTables()
	x.mu.Lock()
	if x.next != nil {
		x.mu.Unlock()
		return errors.New("catalog: the index is being loaded already; wait for that load")
	}
	x.next = t
	x.mu.Unlock()
	loaded := false
	defer func() { // also when feed panics
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.next = nil; loaded {
			x.live.Store(t)
		}
	}()
	err := t.items.Load(func(add func([]*Item)) error {
		return feed(func(products []Product) { add(x.itemsOf(products)) })
	})
	loaded = err == nil
	return err
}

func (x *Index) itemsOf(products []Product) []*Item {
	items := make([]*Item, len(products))
	for i := range products {
		items[i] = newItem(&products[i], x.render)
	}
	return items
}

// Apply makes products visible, tombstones included, except those that it has the
// same or a newer state of.
func (x *Index) Apply(products []Product) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	live := x.live.Load()
	for i := range products {
		p := &products[i]
		if x.next == nil && live.has(p) {
			continue // most of what comes back from the database was written here
		}
		it := newItem(p, x.render)
		live.items.Put(it)
		if x.next != nil {
			x.next.items.Put(it)
		}
	}
}

// has says whether nothing would change if a product was applied.
func (t *tables) has(p *Product) bool {
	it := t.items.Get(itemKey{p.TenantID, p.SKU})
	return it != nil && !supersedes(it, &Item{Change: p.Change, Version: p.Version})
}

// Stats says what the index holds and what that takes.
func (x *Index) Stats() memindex.Stats { return x.live.Load().items.Stats() }

// get returns a product, nil if there is none.
func (x *Index) get(tenantID, sku string) *Item {
	it := x.live.Load().items.Get(itemKey{tenantID, sku})
	if it == nil || it.Deleted {
		return nil
	}
	return it
}

// bySlug returns the product that has a slug, nil if none has.
func (x *Index) bySlug(tenantID, slug string) *Item {
	return x.live.Load().slugs.Get(slugKey{tenantID, slug})
}

// list returns one page.
func (x *Index) list(q Query) (Page, error) {
	after, err := readCursor(q)
	if err != nil {
		return Page{}, err
	}
	t := x.live.Load()
	groups := t.all
	if q.Category != "" {
		groups = t.categories
	}
	l, on := lister{limit: q.Limit}, shelf{q.TenantID, q.Category, q.Inactive}
	if after == nil {
		groups.All(on)(l.take)
	} else {
		groups.After(on, after)(l.take)
	}
	page := Page{Items: l.items}
	if l.more {
		page.Next = writeCursor(q, l.items[len(l.items)-1])
	}
	return page, nil
}
