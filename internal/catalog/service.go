package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// MaxPuts bounds one call of Put. A call is one transaction, during which nothing
// else is written: callers with more send several.
const MaxPuts = 250

// Options are what a Service is made of. Store is required.
type Options struct {
	Store Store
	// Index answers reads, except those of prices; nil: the store does.
	Index *Index
	// Render is how products are shown that the store answers with; nil: their Items
	// have no Body. It is the Index's.
	Render Render
	// Ready is an error while the index is not complete; nil: it always is.
	Ready func() error
	// Wrote is told of the change that a Put brought to a tenant's catalogue, after the
	// index was. It must not block. Nil: nobody wants to know.
	Wrote func(tenantID string, change int64)
	Now   func() time.Time // time.Now if nil
}

// Service is the catalogue as the edge uses it: it judges what is asked for, hands
// it to the store, and answers reads from memory. It is safe for concurrent use.
type Service struct{ o Options }

// New returns the catalogue that lies in a store.
func New(o Options) (*Service, error) {
	if o.Store == nil {
		return nil, errors.New("catalog: the options of the service are wrong: Store is required")
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Wrote == nil {
		o.Wrote = func(string, int64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o}, nil
}

// Put creates, replaces and deletes products, all that can be in one durable
// transaction; readers of this instance see them when it returns. Each put has its
// own result and error, in the order of puts: an *InvalidError, or what Store.Put
// says of one. One that fails leaves the others. The last value is the error of the
// whole: nothing was put, or, if the answer of the database was lost, readers will
// see what was. A put without a time is of now.
func (s *Service) Put(ctx context.Context, puts []Put) ([]PutResult, []error, error) {
	if len(puts) > MaxPuts {
		return nil, nil, &InvalidError{Field: "products", Detail: fmt.Sprintf("there are %d products; send at most %d at once", len(puts), MaxPuts)}
	}
	results, errs := make([]PutResult, len(puts)), make([]error, len(puts))
	now := s.o.Now().UTC()
	var valid []Put
	var index []int // of valid in puts
	for i, p := range puts {
		if p.Now.IsZero() {
			p.Now = now
		}
		if p.Product, errs[i] = check(p.Product); errs[i] == nil && p.IfVersion < AnyVersion {
			errs[i] = &InvalidError{Field: "version", Detail: fmt.Sprintf("%d is not a version; they begin with 1", p.IfVersion)}
		}
		if errs[i] == nil {
			valid, index = append(valid, p), append(index, i)
		}
	}
	if len(valid) == 0 {
		return results, errs, nil
	}
	done, failed, err := s.o.Store.Put(ctx, valid)
	if err != nil {
		return nil, nil, fmt.Errorf("catalog: put %d products: %w", len(valid), err)
	}
	s.show(done)
	for j, i := range index {
		results[i], errs[i] = done[j], failed[j]
	}
	return results, errs, nil
}

// show has readers see what was put, here and, by who listens to Wrote, elsewhere. They
// also see what a put left as it stood, whoever wrote it: its answer tells of that, and
// no read that follows may be older.
func (s *Service) show(done []PutResult) {
	changes := map[string]int64{}
	stand := make([]Product, 0, len(done))
	for i := range done {
		p := &done[i].Product
		if p.Version > 0 {
			stand = append(stand, *p)
		}
		if done[i].Changed {
			changes[p.TenantID] = max(changes[p.TenantID], p.Change)
		}
	}
	if s.o.Index != nil {
		s.o.Index.Apply(stand)
	}
	for tenantID, change := range changes {
		s.o.Wrote(tenantID, change)
	}
}

// Get returns a tenant's product, whether it can be ordered or not. The error wraps
// ErrNotFound if there is none, ErrLoading if that is not known yet.
func (s *Service) Get(ctx context.Context, tenantID, sku string) (*Item, error) {
	if !validSKU(sku) {
		return nil, ErrNotFound
	}
	if s.o.Index == nil {
		p, err := s.o.Store.Product(ctx, tenantID, sku)
		if err != nil {
			return nil, err
		}
		return newItem(&p, s.o.Render), nil
	}
	if err := s.loading(); err != nil { // first: what is not found before it is loaded may be there
		return nil, err
	}
	return found(s.o.Index.get(tenantID, sku))
}

// found is the answer of a read of one product from the index.
func found(it *Item) (*Item, error) {
	if it == nil {
		return nil, ErrNotFound
	}
	return it, nil
}

func (s *Service) loading() error {
	if err := s.o.Ready(); err != nil {
		return fmt.Errorf("%w: %w", ErrLoading, err)
	}
	return nil
}

// BySlug returns the tenant's product that has a slug. The errors are those of Get.
// Without an Index it looks through the tenant's products.
func (s *Service) BySlug(ctx context.Context, tenantID, slug string) (*Item, error) {
	if !validSlug(slug) {
		return nil, ErrNotFound
	}
	if s.o.Index != nil {
		if err := s.loading(); err != nil {
			return nil, err
		}
		return found(s.o.Index.bySlug(tenantID, slug))
	}
	for q := (Query{TenantID: tenantID, Inactive: true, Limit: 1000}); ; {
		page, err := s.o.Store.Products(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Products {
			if p := &page.Products[i]; p.Slug == slug {
				return newItem(p, s.o.Render), nil
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil, ErrNotFound
		}
	}
}

// List returns one page of a tenant's products. The error wraps ErrBadCursor if
// the cursor is not one that a page of such a query gave, ErrLoading if the index is
// not complete yet.
func (s *Service) List(ctx context.Context, q Query) (Page, error) {
	if detail := textProblem(q.Category, maxCategoryRunes); detail != "" {
		return Page{}, &InvalidError{Field: "category", Detail: detail}
	}
	if q.Limit < 1 {
		return Page{}, fmt.Errorf("catalog: list products: the limit is %d; ask for at least 1", q.Limit)
	}
	if s.o.Index != nil {
		if err := s.loading(); err != nil {
			return Page{}, err
		}
		return s.o.Index.list(q)
	}
	stored, err := s.o.Store.Products(ctx, q)
	if err != nil {
		return Page{}, err
	}
	page := Page{Items: make([]*Item, len(stored.Products)), Next: stored.Next}
	for i := range stored.Products {
		page.Items[i] = newItem(&stored.Products[i], s.o.Render)
	}
	return page, nil
}

// Prices returns the prices that a tenant's product had, newest first, at most
// limit, from the store. The error wraps ErrNotFound if there is no such product.
func (s *Service) Prices(ctx context.Context, tenantID, sku string, limit int) ([]Price, error) {
	if !validSKU(sku) {
		return nil, ErrNotFound
	}
	return s.o.Store.Prices(ctx, tenantID, sku, limit)
}
