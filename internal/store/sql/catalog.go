package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

// The statements of products.
const (
	productColumns = `tenant_id, sku, version, active, amount, currency, category, names, descriptions, attributes, created_ns, updated_ns`

	getProduct = `SELECT ` + productColumns + ` FROM products WHERE tenant_id = $1 AND sku = $2`

	// Two lists, because one with an optional category would not use its index.
	listProducts = `SELECT ` + productColumns + ` FROM products
WHERE tenant_id = $1 AND sku > $2 AND (active = 1 OR $3 = 1) ORDER BY sku LIMIT $4`

	listProductsOfCategory = `SELECT ` + productColumns + ` FROM products
WHERE tenant_id = $1 AND category = $2 AND sku > $3 AND (active = 1 OR $4 = 1) ORDER BY sku LIMIT $5`

	listPrices = `SELECT product_version, amount, currency, from_ns, changed_by FROM product_prices
WHERE tenant_id = $1 AND sku = $2 ORDER BY product_version DESC LIMIT $3`
)

var (
	getProducts = manyRows{head: `SELECT ` + productColumns + ` FROM products WHERE (tenant_id, sku) IN (VALUES `, width: 2, tail: `)`}

	lockProducts = manyRows{head: `SELECT 1 FROM products WHERE (tenant_id, sku) IN (VALUES `, width: 2,
		tail: `) ORDER BY tenant_id, sku`}

	// putProducts changes a product only if it is still of the version before.
	putProducts = manyRows{head: `INSERT INTO products (` + productColumns + `) VALUES `, width: 12,
		tail: ` ON CONFLICT (tenant_id, sku) DO UPDATE SET version = excluded.version, active = excluded.active,
amount = excluded.amount, currency = excluded.currency, category = excluded.category, names = excluded.names,
descriptions = excluded.descriptions, attributes = excluded.attributes, updated_ns = excluded.updated_ns
WHERE products.version = excluded.version - 1`}

	addPrices = manyRows{head: `INSERT INTO product_prices (tenant_id, sku, product_version, amount, currency, from_ns, changed_by) VALUES `, width: 7}
)

// Catalog is the catalog.Store of a SQL database.
type Catalog struct{ on Pools }

var _ catalog.Store = (*Catalog)(nil)

// NewCatalog returns the products of a database.
func NewCatalog(on Pools) *Catalog { return &Catalog{on: on} }

func keyOfPut(p *catalog.Put) skuKey { return skuKey{p.Product.TenantID, p.Product.SKU} }

// Put creates and replaces products. See catalog.Store.
func (s *Catalog) Put(ctx context.Context, puts []catalog.Put) ([]catalog.PutResult, []error, error) {
	results, errs := make([]catalog.PutResult, len(puts)), make([]error, len(puts))
	if len(puts) == 0 {
		return results, errs, nil
	}
	err := transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		if err := p.lock(ctx, lockProducts, skuKeys(puts, keyOfPut)); err != nil {
			return err
		}
		for i := 0; i < len(puts); {
			n := distinctRun(puts[i:], keyOfPut)
			c := productChunk{puts: puts[i : i+n], results: results[i : i+n], errs: errs[i : i+n]}
			if err := c.put(ctx, p); err != nil {
				return err
			}
			i += n
		}
		return nil
	})
	if err != nil {
		return nil, nil, in("put products", err)
	}
	return results, errs, nil
}

// distinctRun returns how many of items, from the first on, make one chunk: no
// more than rowsPerChunk, and no two with one key, so that each sees what
// the one before it left.
func distinctRun[T any, K comparable](items []T, key func(*T) K) int {
	seen := make(map[K]struct{}, min(len(items), rowsPerChunk))
	for i := range items {
		k := key(&items[i])
		if _, twice := seen[k]; twice || i == rowsPerChunk {
			return i
		}
		seen[k] = struct{}{}
	}
	return len(items)
}

// productChunk is puts of different products.
type productChunk struct {
	puts    []catalog.Put
	results []catalog.PutResult
	errs    []error

	products, prices []any // arguments
	entries          []audit.Entry
}

func (c *productChunk) put(ctx context.Context, p *prepared) error {
	there, err := c.read(ctx, p)
	if err != nil {
		return err
	}
	for i := range c.puts {
		c.results[i], c.errs[i] = catalog.PutResult{}, nil // of a run that others overtook
		product := &c.puts[i].Product
		if err := c.one(i, there[skuKey{product.TenantID, product.SKU}]); err != nil {
			return err
		}
	}
	changed, err := p.exec(ctx, putProducts, c.products)
	if err != nil {
		return err
	}
	if changed != putProducts.rows(c.products) {
		return errRaced
	}
	if _, err := p.exec(ctx, addPrices, c.prices); err != nil {
		return err
	}
	return p.insertAudit(ctx, c.entries)
}

// read returns the products that the puts are of, as they stand.
func (c *productChunk) read(ctx context.Context, p *prepared) (map[skuKey]*catalog.Product, error) {
	args := make([]any, 0, 2*len(c.puts))
	for i := range c.puts {
		args = append(args, c.puts[i].Product.TenantID, c.puts[i].Product.SKU)
	}
	there := make(map[skuKey]*catalog.Product, len(c.puts))
	return there, p.each(ctx, getProducts, args, func(row interface{ Scan(...any) error }) error {
		product, _, err := scanProduct(row)
		there[skuKey{product.TenantID, product.SKU}] = &product
		return err
	})
}

// one decides what becomes of a put; before is nil if there is no such product.
func (c *productChunk) one(i int, before *catalog.Product) error {
	put := &c.puts[i]
	var version int64
	if before != nil {
		version = before.Version
	}
	if put.IfVersion == -1 && before != nil || put.IfVersion > 0 && put.IfVersion != version {
		c.errs[i] = catalog.ErrVersion
		if before != nil {
			c.results[i].Product = *before
		}
		return nil
	}
	if before != nil && sameProduct(before, &put.Product) {
		c.results[i].Product = *before
		return nil
	}
	after := put.Product
	after.Version, after.UpdatedAt = version+1, timeOf(nanos(put.Now))
	after.CreatedAt = after.UpdatedAt
	if before != nil {
		after.CreatedAt = before.CreatedAt
	}
	c.results[i] = catalog.PutResult{Product: after, Created: before == nil, Changed: true}
	return c.write(put, before, &after)
}

// write adds a changed product to what the chunk writes.
func (c *productChunk) write(put *catalog.Put, before, after *catalog.Product) error {
	names, err := json.Marshal(after.Names)
	if err != nil {
		return err
	}
	descriptions := []byte("{}")
	if len(after.Descriptions) > 0 {
		if descriptions, err = json.Marshal(after.Descriptions); err != nil {
			return err
		}
	}
	entry, err := catalog.PutEntry(before, after, put.Now, put.Actor)
	if err != nil {
		return err
	}
	c.products = append(c.products, after.TenantID, after.SKU, after.Version, number(after.Active), after.Price.Amount, after.Price.Currency,
		after.Category, string(names), string(descriptions), string(after.Attributes), nanos(after.CreatedAt), nanos(after.UpdatedAt))
	if before == nil || before.Price != after.Price {
		c.prices = append(c.prices, after.TenantID, after.SKU, after.Version, after.Price.Amount, after.Price.Currency,
			nanos(after.UpdatedAt), readable(put.Actor.Subject))
	}
	c.entries = append(c.entries, entry)
	return nil
}

// sameProduct says whether two products differ in nothing but version and times.
func sameProduct(a, b *catalog.Product) bool {
	return a.Price == b.Price && a.Category == b.Category && a.Active == b.Active && maps.Equal(a.Names, b.Names) &&
		maps.Equal(a.Descriptions, b.Descriptions) && string(a.Attributes) == string(b.Attributes)
}

// Product returns one product. See catalog.Store.
func (s *Catalog) Product(ctx context.Context, tenantID, sku string) (catalog.Product, error) {
	p, _, err := scanProduct(s.on.Read.QueryRowContext(ForTenant(ctx, tenantID), getProduct, tenantID, sku))
	if noRows(err) {
		return catalog.Product{}, catalog.ErrNotFound
	}
	return p, in("read a product", err)
}

// Products returns one page in the order of SKU. See catalog.Store.
func (s *Catalog) Products(ctx context.Context, q catalog.Query) (catalog.Page, error) {
	if q.Limit < 1 {
		return catalog.Page{}, fmt.Errorf("list products: the limit is %d; ask for at least 1", q.Limit)
	}
	after := ""
	if q.Cursor != "" {
		var ok bool
		if after, ok = unpackCursor(productCursor, q.Cursor); !ok {
			return catalog.Page{}, catalog.ErrBadCursor
		}
	}
	if !storable(q.Category) {
		return catalog.Page{}, nil
	}
	statement, args := listProducts, []any{q.TenantID, after, number(q.Inactive), q.Limit + 1}
	if q.Category != "" {
		statement, args = listProductsOfCategory, []any{q.TenantID, q.Category, after, number(q.Inactive), q.Limit + 1}
	}
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, q.TenantID), statement, args...)
	if err != nil {
		return catalog.Page{}, in("list products", err)
	}
	defer rows.Close()
	var page catalog.Page
	bytes := 0
	for rows.Next() {
		if n := len(page.Products); n >= q.Limit || bytes >= maxListBytes {
			page.Next = packCursor(productCursor, page.Products[n-1].SKU)
			return page, nil
		}
		p, size, err := scanProduct(rows)
		if err != nil {
			return catalog.Page{}, in("list products", err)
		}
		page.Products = append(page.Products, p)
		bytes += size
	}
	return page, in("list products", rows.Err())
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

// scanProduct reads a product and says how many bytes of text it has.
func scanProduct(row interface{ Scan(...any) error }) (catalog.Product, int, error) {
	var p catalog.Product
	var active, created, updated int64
	var names, descriptions, attributes []byte
	err := row.Scan(&p.TenantID, &p.SKU, &p.Version, &active, &p.Price.Amount, &p.Price.Currency, &p.Category,
		&names, &descriptions, &attributes, &created, &updated)
	if err != nil {
		return catalog.Product{}, 0, err
	}
	if err := json.Unmarshal(names, &p.Names); err != nil {
		return catalog.Product{}, 0, fmt.Errorf("the names of product %s are not a JSON object; put the product again: %w", p.SKU, err)
	}
	if string(descriptions) != "{}" {
		if err := json.Unmarshal(descriptions, &p.Descriptions); err != nil {
			return catalog.Product{}, 0, fmt.Errorf("the descriptions of product %s are not a JSON object; put the product again: %w", p.SKU, err)
		}
	}
	if len(attributes) > 0 {
		p.Attributes = attributes
	}
	p.Active, p.CreatedAt, p.UpdatedAt = active != 0, timeOf(created), timeOf(updated)
	return p, len(names) + len(descriptions) + len(attributes), nil
}
