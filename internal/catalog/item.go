package catalog

import (
	"strings"
	"time"
	"unique"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// Item is a product as readers get it: rendered once, never changed. Its names,
// descriptions and attributes are in Body only, so that a catalogue takes little more
// memory than what it shows.
type Item struct {
	TenantID, SKU, Slug, Category string
	Position, Version, Change     int64
	Active                        bool
	Deleted                       bool // or cannot be read: nobody is shown it
	// Body is the JSON of the full view without a newline; empty if the product is
	// deleted, or if nobody said how it is rendered.
	Body []byte
	// Sum is the xxHash64 of Body: what tells two contents of one version apart, which
	// there are when a backup was restored.
	Sum       uint64
	UpdatedAt time.Time
}

// Render is how a product is shown: a JSON object in all its languages. It is called
// from several goroutines at once, keeps nothing of the product, and what it returns
// is not changed any more.
type Render func(p *Product) []byte

// newItem makes the Item of a product. It keeps nothing of the product's memory: a
// text may be a part of a whole page that was read.
func newItem(p *Product, render Render) *Item {
	own := strings.Clone(p.SKU + p.Slug)
	it := &Item{
		TenantID: unique.Make(p.TenantID).Value(), SKU: own[:len(p.SKU)], Slug: own[len(p.SKU):], Category: unique.Make(p.Category).Value(),
		Position: p.Position, Version: p.Version, Change: p.Change, Active: p.Active, Deleted: p.Deleted || p.Unreadable, UpdatedAt: p.UpdatedAt,
	}
	if render == nil || it.Deleted {
		return it
	}
	it.Body = render(p)
	if room := cap(it.Body) - len(it.Body); room > len(it.Body)/8 {
		it.Body = append([]byte(nil), it.Body...)
	}
	it.Sum = xxhash.Sum64(it.Body)
	return it
}

// supersedes says whether next is a newer state of the product than old.
func supersedes(old, next *Item) bool {
	return next.Change > old.Change || next.Change == old.Change && next.Version > old.Version
}

// itemBytes is the memory that an Item holds alone. Tenants and categories are shared.
func itemBytes(it *Item) int {
	const word = 16 // texts are allocated in multiples of it, or nearly
	own := len(it.SKU) + len(it.Slug)
	return int(unsafe.Sizeof(*it)) + (own+word-1)/word*word + cap(it.Body)
}

// bySKU and byPosition are the orders of lists.
func bySKU(a, b *Item) int { return strings.Compare(a.SKU, b.SKU) }

func byPosition(a, b *Item) int {
	switch {
	case a.Position < b.Position:
		return -1
	case a.Position > b.Position:
		return 1
	default:
		return bySKU(a, b)
	}
}
