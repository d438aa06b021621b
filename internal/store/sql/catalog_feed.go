package sql

import (
	"context"
	"encoding/json"
	"fmt"

	"millrace/internal/catalog"
)

// productRow is a product as its row has it: texts are not decoded.
type productRow struct {
	product                         catalog.Product
	names, descriptions, attributes string
	deleted, active                 int64
	createdNs, updatedNs            int64
}

// productFeed reads all products.
var productFeed = rowFeed[productRow, catalog.Product]{
	load: loadProducts,
	key: func(last *productRow) []any {
		if last == nil {
			return []any{"", ""}
		}
		return []any{last.product.TenantID, last.product.SKU}
	},
	scan: scanProduct,
	decoder: func() func(*productRow) catalog.Product {
		names := newInterner()
		return func(r *productRow) catalog.Product { return r.whatever(names) }
	},
}

// Versions returns the version of each tenant's catalogue. See catalog.Feed.
func (s *Catalog) Versions(ctx context.Context) (versions map[string]int64, epoch string, err error) {
	versions, epoch, err = readVersions(ctx, s.on, catalogTopic)
	return versions, epoch, in("read the versions of catalogues", err)
}

// Load calls each with all products of all tenants. See catalog.Feed.
func (s *Catalog) Load(ctx context.Context, each func([]catalog.Product) error) error {
	return in("load the products", productFeed.all(ctx, s.on.AllLists, each))
}

// Changes returns a tenant's products that have changed. See catalog.Feed.
func (s *Catalog) Changes(ctx context.Context, tenantID string, after int64, limit int) (products []catalog.Product, more bool, err error) {
	products, more, err = productFeed.changes(ctx, s.on.AllRead, changesOfProducts, tenantID, after, limit)
	return products, more, in("read the products that have changed", err)
}

// scanProduct reads a row and says how many bytes of text it has.
func scanProduct(row interface{ Scan(...any) error }, r *productRow) (int, error) {
	p := &r.product
	err := row.Scan(&p.TenantID, &p.SKU, &p.Version, &r.deleted, &p.Change, &r.active, &p.Price.Amount, &p.Price.Currency,
		&p.Category, &p.Position, &p.Slug, &r.names, &r.descriptions, &r.attributes, &r.createdNs, &r.updatedNs)
	return len(r.names) + len(r.descriptions) + len(r.attributes), err
}

// decode returns the product of a row; one whose texts are not what Put writes is
// Unreadable, and the error says why.
func (r *productRow) decode(names *interner) (catalog.Product, error) {
	p := r.product
	var err error
	if r.deleted == 0 {
		if p.Names, err = names.texts(r.names); err != nil {
			err = fmt.Errorf("the names of product %s are not a JSON object; put the product again: %w", p.SKU, err)
		}
	}
	if err == nil && r.descriptions != "{}" {
		if p.Descriptions, err = names.texts(r.descriptions); err != nil {
			err = fmt.Errorf("the descriptions of product %s are not a JSON object; put the product again: %w", p.SKU, err)
		}
	}
	if err != nil {
		p.Unreadable, p.Names, p.Descriptions = true, nil, nil
	}
	if r.attributes != "" {
		p.Attributes = json.RawMessage(r.attributes)
	}
	p.TenantID, p.Price.Currency, p.Category = names.of(p.TenantID), names.of(p.Price.Currency), names.of(p.Category)
	p.Active, p.Deleted = r.active != 0, r.deleted != 0
	p.CreatedAt, p.UpdatedAt = timeOf(r.createdNs), timeOf(r.updatedNs)
	return p, err
}

// whatever returns the product of a row, which may be Unreadable.
func (r *productRow) whatever(names *interner) catalog.Product {
	p, _ := r.decode(names)
	return p
}

// readProduct reads one product.
func readProduct(row interface{ Scan(...any) error }, names *interner) (catalog.Product, error) {
	var r productRow
	if _, err := scanProduct(row, &r); err != nil {
		return catalog.Product{}, err
	}
	return r.decode(names)
}
