package catalog

import (
	"context"
	"fmt"
	"time"
)

// MaxPuts bounds one call of Put. A call is one transaction, during which nothing
// else is written: callers with more send several.
const MaxPuts = 250

// Service is the catalogue as the edge uses it: it judges what is asked for and
// hands it to the store. It is safe for concurrent use.
type Service struct {
	store Store
	now   func() time.Time
}

// New returns the catalogue that lies in store. A nil now means time.Now.
func New(store Store, now func() time.Time) *Service {
	if now == nil {
		now = time.Now
	}
	return &Service{store: store, now: now}
}

// Put creates and replaces products, all that can be in one durable transaction.
// Each put has its own result and error, in the order of puts: an *InvalidError,
// ErrVersion with the product as it stands in the result, or nil. One that fails
// leaves the others. The last value is the error of the whole: nothing was put. A
// put without a time is of now.
func (s *Service) Put(ctx context.Context, puts []Put) ([]PutResult, []error, error) {
	if len(puts) > MaxPuts {
		return nil, nil, &InvalidError{Field: "products", Detail: fmt.Sprintf("there are %d products; send at most %d at once", len(puts), MaxPuts)}
	}
	results, errs := make([]PutResult, len(puts)), make([]error, len(puts))
	now := s.now().UTC()
	var valid []Put
	var index []int // of valid in puts
	for i, p := range puts {
		if p.Now.IsZero() {
			p.Now = now
		}
		if p.Product, errs[i] = check(p.Product); errs[i] == nil && p.IfVersion < -1 {
			errs[i] = &InvalidError{Field: "version", Detail: fmt.Sprintf("%d is not a version; they begin with 1", p.IfVersion)}
		}
		if errs[i] == nil {
			valid, index = append(valid, p), append(index, i)
		}
	}
	if len(valid) == 0 {
		return results, errs, nil
	}
	done, failed, err := s.store.Put(ctx, valid)
	if err != nil {
		return nil, nil, fmt.Errorf("catalog: put %d products: %w", len(valid), err)
	}
	for j, i := range index {
		results[i], errs[i] = done[j], failed[j]
	}
	return results, errs, nil
}

// Get returns a tenant's product. The error wraps ErrNotFound if there is none.
func (s *Service) Get(ctx context.Context, tenantID, sku string) (Product, error) {
	if !validSKU(sku) {
		return Product{}, ErrNotFound
	}
	return s.store.Product(ctx, tenantID, sku)
}

// List returns one page of a tenant's products. The error wraps ErrBadCursor if
// the cursor is not one that a page gave.
func (s *Service) List(ctx context.Context, q Query) (Page, error) {
	if detail := textProblem(q.Category, maxCategoryRunes); detail != "" {
		return Page{}, &InvalidError{Field: "category", Detail: detail}
	}
	return s.store.Products(ctx, q)
}

// Prices returns the prices that a tenant's product had, newest first, at most
// limit. The error wraps ErrNotFound if there is no such product.
func (s *Service) Prices(ctx context.Context, tenantID, sku string, limit int) ([]Price, error) {
	if !validSKU(sku) {
		return nil, ErrNotFound
	}
	return s.store.Prices(ctx, tenantID, sku, limit)
}
