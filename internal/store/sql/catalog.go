package sql

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"millrace/internal/catalog"
)

// The statements of products. What is deleted has a row still, its tombstone.
const (
	productColumns = `tenant_id, sku, version, deleted, change, active, amount, currency, category, position, slug, names, descriptions, attributes, created_ns, updated_ns`

	getProduct = `SELECT ` + productColumns + ` FROM products WHERE tenant_id = $1 AND sku = $2 AND deleted = 0`

	// Two lists, because one with an optional category would not use its index.
	listProducts = `SELECT ` + productColumns + ` FROM products
WHERE tenant_id = $1 AND sku > $2 AND (active = 1 OR $3 = 1) AND deleted = 0 ORDER BY sku LIMIT $4`

	listProductsOfCategory = `SELECT ` + productColumns + ` FROM products
WHERE tenant_id = $1 AND category = $2 AND (position, sku) > ($3, $4) AND (active = 1 OR $5 = 1) AND deleted = 0 ORDER BY position, sku LIMIT $6`

	listPrices = `SELECT product_version, amount, currency, from_ns, changed_by FROM product_prices
WHERE tenant_id = $1 AND sku = $2 AND EXISTS (SELECT 1 FROM products WHERE tenant_id = $1 AND sku = $2 AND deleted = 0)
ORDER BY product_version DESC LIMIT $3`

	loadProducts = `SELECT ` + productColumns + ` FROM products WHERE (tenant_id, sku) > ($1, $2) ORDER BY tenant_id, sku LIMIT $3`
)

var (
	getProducts = manyRows{head: `SELECT ` + productColumns + ` FROM products WHERE (tenant_id, sku) IN (VALUES `, width: 2, tail: `)`}

	getProductsBySlug = manyRows{head: `SELECT ` + productColumns + ` FROM products WHERE slug <> '' AND (tenant_id, slug) IN (VALUES `, width: 2, tail: `)`}

	// putProducts changes a product only if it is still of the version before.
	putProducts = manyRows{head: `INSERT INTO products (` + productColumns + `) VALUES `, width: 16,
		tail: ` ON CONFLICT (tenant_id, sku) DO UPDATE SET version = excluded.version, deleted = excluded.deleted, change = excluded.change,
active = excluded.active, amount = excluded.amount, currency = excluded.currency, category = excluded.category, position = excluded.position,
slug = excluded.slug, names = excluded.names, descriptions = excluded.descriptions, attributes = excluded.attributes,
created_ns = excluded.created_ns, updated_ns = excluded.updated_ns
WHERE products.version = excluded.version - 1`}

	changesOfProducts = changesOf("products", productColumns, "octet_length(names) + octet_length(descriptions) + octet_length(attributes)")

	addPrices = manyRows{head: `INSERT INTO product_prices (tenant_id, sku, product_version, amount, currency, from_ns, changed_by) VALUES `, width: 7}
)

// Catalog is the catalog.Store and the catalog.Feed of a SQL database.
type Catalog struct{ on Pools }

var (
	_ catalog.Store = (*Catalog)(nil)
	_ catalog.Feed  = (*Catalog)(nil)
)

// NewCatalog returns the products of a database.
func NewCatalog(on Pools) *Catalog { return &Catalog{on: on} }

func keyOfPut(p *catalog.Put) skuKey { return skuKey{p.Product.TenantID, p.Product.SKU} }

// Product returns one product. See catalog.Store.
func (s *Catalog) Product(ctx context.Context, tenantID, sku string) (catalog.Product, error) {
	p, err := readProduct(s.on.Read.QueryRowContext(ForTenant(ctx, tenantID), getProduct, tenantID, sku), newInterner())
	if noRows(err) {
		return catalog.Product{}, catalog.ErrNotFound
	}
	return p, in("read a product", err)
}

// Products returns one page. See catalog.Store.
func (s *Catalog) Products(ctx context.Context, q catalog.Query) (catalog.ProductPage, error) {
	if q.Limit < 1 {
		return catalog.ProductPage{}, fmt.Errorf("list products: the limit is %d; ask for at least 1", q.Limit)
	}
	after := positionCursor{position: math.MinInt64}
	if q.Cursor != "" {
		var ok bool
		if after, ok = productsAfter(q); !ok {
			return catalog.ProductPage{}, catalog.ErrBadCursor
		}
	}
	if !storable(q.Category) {
		return catalog.ProductPage{}, nil
	}
	statement, args := listProducts, []any{q.TenantID, after.sku, number(q.Inactive), q.Limit + 1}
	if q.Category != "" {
		statement, args = listProductsOfCategory, []any{q.TenantID, q.Category, after.position, after.sku, number(q.Inactive), q.Limit + 1}
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, q.TenantID), statement, args...)
	if err != nil {
		return catalog.ProductPage{}, in("list products", err)
	}
	defer rows.Close()
	var page catalog.ProductPage
	names, bytes := newInterner(), 0
	for rows.Next() {
		if n := len(page.Products); n >= q.Limit || bytes >= maxListBytes {
			page.Next = cursorAfter(q, &page.Products[n-1])
			return page, nil
		}
		var row productRow
		size, err := scanProduct(rows, &row)
		if err != nil {
			return catalog.ProductPage{}, in("list products", err)
		}
		p, err := row.decode(names)
		if err != nil {
			return catalog.ProductPage{}, in("list products", err)
		}
		page.Products = append(page.Products, p)
		bytes += size
	}
	return page, in("list products", rows.Err())
}

// positionCursor is where a list of a category goes on.
type positionCursor struct {
	position int64
	sku      string
}

// cursorAfter returns the cursor that goes on after a product: by SKU, or within a
// category by position and SKU.
func cursorAfter(q catalog.Query, p *catalog.Product) string {
	if q.Category == "" {
		return packCursor(productCursor, p.SKU)
	}
	return packCursor(positionsCursor, strconv.FormatInt(p.Position, 10)+" "+p.SKU)
}

// productsAfter is the inverse of cursorAfter for a query's cursor.
func productsAfter(q catalog.Query) (after positionCursor, ok bool) {
	if q.Category == "" {
		after.sku, ok = unpackCursor(productCursor, q.Cursor)
		return after, ok
	}
	text, ok := unpackCursor(positionsCursor, q.Cursor)
	position, sku, found := strings.Cut(text, " ")
	n, err := strconv.ParseInt(position, 10, 64)
	return positionCursor{n, sku}, ok && found && err == nil
}

// Prices returns the prices a product had, newest first. See catalog.Store.
func (s *Catalog) Prices(ctx context.Context, tenantID, sku string, limit int) ([]catalog.Price, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list prices: the limit is %d; ask for at least 1", limit)
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, tenantID), listPrices, tenantID, sku, limit)
	if err != nil {
		return nil, in("list prices", err)
	}
	defer rows.Close()
	var prices []catalog.Price
	for rows.Next() {
		var p catalog.Price
		var from int64
		if err := rows.Scan(&p.ProductVersion, &p.Amount, &p.Currency, &from, &p.ChangedBy); err != nil {
			return nil, in("list prices", err)
		}
		p.From = timeOf(from)
		prices = append(prices, p)
	}
	if err := rows.Err(); err != nil {
		return nil, in("list prices", err)
	}
	if len(prices) == 0 { // a product has had at least one
		return nil, catalog.ErrNotFound
	}
	return prices, nil
}
