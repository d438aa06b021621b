package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shop is a Store and a Feed in memory.
type shop struct {
	Store // prices: none

	mu       sync.Mutex
	products map[itemKey]Product // tombstones included
	versions map[string]int64
	fail     error // of a Put that does nothing
	lost     error // of a Put that does everything
}

func newShop() *shop {
	return &shop{products: map[itemKey]Product{}, versions: map[string]int64{}}
}

func (s *shop) Put(_ context.Context, puts []Put) ([]PutResult, []error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, nil, s.fail
	}
	results, errs := make([]PutResult, len(puts)), make([]error, len(puts))
	raised := map[string]bool{}
	for i := range puts {
		if results[i], errs[i] = s.judge(&puts[i]); errs[i] != nil || !results[i].Changed {
			continue
		}
		p := &results[i].Product
		if !raised[p.TenantID] {
			raised[p.TenantID] = true
			s.versions[p.TenantID]++
		}
		p.Change = s.versions[p.TenantID]
		s.products[itemKey{p.TenantID, p.SKU}] = *p
	}
	if s.lost != nil {
		return nil, nil, s.lost
	}
	return results, errs, nil
}

func (s *shop) judge(put *Put) (PutResult, error) {
	p := put.Product
	before, there := s.products[itemKey{p.TenantID, p.SKU}]
	exists := there && !before.Deleted
	switch {
	case put.IfVersion == NoVersion && exists, put.IfVersion == AnyVersion && !exists, put.IfVersion > 0 && (!exists || put.IfVersion != before.Version):
		return PutResult{Product: before}, ErrVersion
	case p.Deleted && !exists:
		return PutResult{}, ErrNotFound
	}
	for _, other := range s.products {
		if p.Slug != "" && other.TenantID == p.TenantID && other.Slug == p.Slug && other.SKU != p.SKU {
			return PutResult{Product: other}, ErrSlugTaken
		}
	}
	p.Version, p.Change, p.CreatedAt, p.UpdatedAt = before.Version, before.Change, before.CreatedAt, before.UpdatedAt
	if exists && string(showProduct(&p)) == string(showProduct(&before)) {
		return PutResult{Product: before}, nil
	}
	p.Version++
	p.UpdatedAt = put.Now
	if !exists {
		p.CreatedAt = put.Now
	}
	return PutResult{Product: p, Created: !exists, Changed: true}, nil
}

func (s *shop) Product(_ context.Context, tenantID, sku string) (Product, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, there := s.products[itemKey{tenantID, sku}]
	if !there || p.Deleted {
		return Product{}, ErrNotFound
	}
	return p, nil
}

func (s *shop) Products(_ context.Context, q Query) (ProductPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := func(p *Product) string {
		if q.Category == "" {
			return p.SKU
		}
		return fmt.Sprintf("%012d %s", p.Position+maxPosition, p.SKU)
	}
	after, ok := strings.CutPrefix(q.Cursor, "after ")
	if q.Cursor != "" && !ok {
		return ProductPage{}, ErrBadCursor
	}
	var list []Product
	for _, p := range s.products {
		if p.TenantID == q.TenantID && !p.Deleted && (p.Active || q.Inactive) && (q.Category == "" || p.Category == q.Category) && key(&p) > after {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Product) int { return strings.Compare(key(&a), key(&b)) })
	page := ProductPage{Products: list}
	if len(list) > q.Limit {
		page.Products, page.Next = list[:q.Limit], "after "+key(&list[q.Limit-1])
	}
	return page, nil
}

// feed gives everything to a load, in pages of n.
func (s *shop) feed(n int) func(add func([]Product)) error {
	return func(add func([]Product)) error {
		s.mu.Lock()
		var list []Product
		for _, p := range s.products {
			list = append(list, p)
		}
		s.mu.Unlock()
		var adding sync.WaitGroup
		for page := range slices.Chunk(list, n) {
			adding.Go(func() { add(page) })
		}
		adding.Wait()
		return nil
	}
}

// changes is what a Feed answers.
func (s *shop) changes(tenantID string, after int64) []Product {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Product
	for _, p := range s.products {
		if p.TenantID == tenantID && p.Change > after {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Product) int { return cmp.Or(cmp.Compare(a.Change, b.Change), strings.Compare(a.SKU, b.SKU)) })
	return list
}

// showProduct is a Render, with all that a product has.
func showProduct(p *Product) []byte {
	body, err := json.Marshal(struct {
		SKU          string            `json:"sku"`
		Names        map[string]string `json:"names"`
		Descriptions map[string]string `json:"descriptions,omitempty"`
		Price        Money             `json:"price"`
		Category     string            `json:"category,omitempty"`
		Slug         string            `json:"slug,omitempty"`
		Position     int64             `json:"position"`
		Attributes   json.RawMessage   `json:"attributes,omitempty"`
		Active       bool              `json:"active"`
		Version      int64             `json:"version"`
		CreatedAt    time.Time         `json:"createdAt"`
		UpdatedAt    time.Time         `json:"updatedAt"`
	}{p.SKU, p.Names, p.Descriptions, p.Price, p.Category, p.Slug, p.Position, p.Attributes, p.Active, p.Version, p.CreatedAt, p.UpdatedAt})
	if err != nil {
		panic(err)
	}
	return body
}

// products is a Service with its index.
type products struct {
	*Service
	t     testing.TB
	index *Index
}

// newProducts returns a service that stands on store, and answers from an index if
// indexed is set.
func newProducts(t testing.TB, store *shop, indexed bool) products {
	t.Helper()
	p := products{t: t}
	if indexed {
		p.index = NewIndex(showProduct)
		if err := p.index.Load(store.feed(7)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if p.Service, err = New(Options{Store: store, Index: p.index, Render: showProduct, Now: func() time.Time { return noon }}); err != nil {
		t.Fatal(err)
	}
	return p
}

// put puts one product, which must be taken.
func (p products) put(product Product) PutResult {
	p.t.Helper()
	results, errs, err := p.Put(p.t.Context(), []Put{{Product: product}})
	if err := errors.Join(append(errs, err)...); err != nil {
		p.t.Fatalf("put %s: %v", product.SKU, err)
	}
	return results[0]
}

// named returns a product that is told apart by its name.
func named(sku, name string) Product {
	p := tee()
	p.SKU, p.Names = sku, map[string]string{"en": name}
	return p
}

func deleted(sku string) Product { return Product{TenantID: "demo", SKU: sku, Deleted: true} }
