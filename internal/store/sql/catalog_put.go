package sql

import (
	"context"
	"maps"

	"millrace/internal/audit"
	"millrace/internal/catalog"
)

// Put creates, replaces and deletes products. See catalog.Store.
//
// The version of a tenant's catalogue is locked before anything is read, and every
// writer of its products does so: what is read stands until the end, and two who want
// one slug take turns.
func (s *Catalog) Put(ctx context.Context, puts []catalog.Put) ([]catalog.PutResult, []error, error) {
	results, errs := make([]catalog.PutResult, len(puts)), make([]error, len(puts))
	if len(puts) == 0 {
		return results, errs, nil
	}
	tenants := make([]string, len(puts))
	for i := range puts {
		tenants[i] = puts[i].Product.TenantID
	}
	err := transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		held, err := p.holdVersions(ctx, catalogTopic, tenants)
		if err != nil {
			return err
		}
		for i := 0; i < len(puts); {
			n := distinctRun(puts[i:], keyOfPut)
			c := productChunk{puts: puts[i : i+n], results: results[i : i+n], errs: errs[i : i+n], versions: held}
			if err := c.put(ctx, p); err != nil {
				return err
			}
			i += n
		}
		return held.raise(ctx, p)
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

// slugKey names a product by tenant and slug.
type slugKey struct{ tenantID, slug string }

// productChunk is puts of different products.
type productChunk struct {
	puts     []catalog.Put
	results  []catalog.PutResult
	errs     []error
	versions *versions

	there map[skuKey]*catalog.Product  // as they stand, tombstones included
	slugs map[slugKey]*catalog.Product // who has the slugs that are asked for

	products, prices []any // arguments
	entries          []audit.Entry
}

func (c *productChunk) put(ctx context.Context, p *prepared) error {
	if err := c.read(ctx, p); err != nil {
		return err
	}
	for i := range c.puts {
		c.results[i], c.errs[i] = catalog.PutResult{}, nil // of a run that others overtook
		if err := c.one(i); err != nil {
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

// read returns the products that the puts are of, and those that have the slugs
// that they ask for.
func (c *productChunk) read(ctx context.Context, p *prepared) error {
	args := make([]any, 0, 2*len(c.puts))
	for i := range c.puts {
		args = append(args, c.puts[i].Product.TenantID, c.puts[i].Product.SKU)
	}
	c.there = make(map[skuKey]*catalog.Product, len(c.puts))
	names := newInterner()
	err := p.each(ctx, getProducts, args, func(row interface{ Scan(...any) error }) error {
		var r productRow
		_, err := scanProduct(row, &r)
		product := r.whatever(names) // what cannot be read can be put again
		c.there[skuKey{product.TenantID, product.SKU}] = &product
		return err
	})
	if err != nil {
		return err
	}
	args = args[:0]
	for i := range c.puts {
		if wanted := &c.puts[i].Product; c.wantsSlug(wanted) {
			args = append(args, wanted.TenantID, wanted.Slug)
		}
	}
	c.slugs = make(map[slugKey]*catalog.Product)
	return p.each(ctx, getProductsBySlug, args, func(row interface{ Scan(...any) error }) error {
		var r productRow
		_, err := scanProduct(row, &r)
		product := r.whatever(names)
		c.slugs[slugKey{product.TenantID, product.Slug}] = &product
		return err
	})
}

// wantsSlug says whether a product asks for a slug that it does not have.
func (c *productChunk) wantsSlug(wanted *catalog.Product) bool {
	if wanted.Slug == "" || wanted.Deleted {
		return false
	}
	there := c.there[skuKey{wanted.TenantID, wanted.SKU}]
	return there == nil || there.Slug != wanted.Slug
}

// one decides what becomes of a put.
func (c *productChunk) one(i int) error {
	put := &c.puts[i]
	there := c.there[keyOfPut(put)]
	before := there
	if there != nil && there.Deleted {
		before = nil
	}
	switch {
	case before == nil && put.Product.Deleted:
		c.errs[i] = catalog.ErrNotFound
		return nil
	case !allowed(put.IfVersion, before):
		c.errs[i] = catalog.ErrVersion
		if before != nil {
			c.results[i].Product = *before
		}
		return nil
	case before != nil && !put.Product.Deleted && sameProduct(before, &put.Product):
		c.results[i].Product = *before
		return nil
	}
	if c.wantsSlug(&put.Product) {
		if owner := c.slugs[slugKey{put.Product.TenantID, put.Product.Slug}]; owner != nil {
			c.results[i].Product, c.errs[i] = *owner, catalog.ErrSlugTaken
			return nil
		}
	}
	after := put.Product
	if after.Deleted {
		after = catalog.Product{TenantID: after.TenantID, SKU: after.SKU, Deleted: true}
	}
	after.Version, after.Change = 1, c.versions.next(after.TenantID)
	if there != nil {
		after.Version = there.Version + 1
	}
	after.UpdatedAt = timeOf(nanos(put.Now))
	after.CreatedAt = after.UpdatedAt
	if before != nil {
		after.CreatedAt = before.CreatedAt
	}
	c.results[i] = catalog.PutResult{Product: after, Created: before == nil, Changed: true}
	return c.write(put, before, &after)
}

// allowed says whether a product stands as a put names it; it is nil if there is
// none.
func allowed(ifVersion int64, there *catalog.Product) bool {
	switch ifVersion {
	case 0:
		return true
	case catalog.NoVersion:
		return there == nil
	case catalog.AnyVersion:
		return there != nil
	}
	return there != nil && there.Version == ifVersion
}

// write adds a changed product to what the chunk writes, and to what the puts behind
// it see of slugs.
func (c *productChunk) write(put *catalog.Put, before, after *catalog.Product) error {
	names, err := textsJSON(after.Names)
	if err != nil {
		return err
	}
	descriptions, err := textsJSON(after.Descriptions)
	if err != nil {
		return err
	}
	entry, err := entryOf(put, before, after)
	if err != nil {
		return err
	}
	if before != nil {
		delete(c.slugs, slugKey{before.TenantID, before.Slug})
	}
	if after.Slug != "" {
		c.slugs[slugKey{after.TenantID, after.Slug}] = after
	}
	c.products = append(c.products, after.TenantID, after.SKU, after.Version, number(after.Deleted), after.Change, number(after.Active),
		after.Price.Amount, after.Price.Currency, after.Category, after.Position, after.Slug, names, descriptions, string(after.Attributes),
		nanos(after.CreatedAt), nanos(after.UpdatedAt))
	if !after.Deleted && (before == nil || before.Price != after.Price) {
		c.prices = append(c.prices, after.TenantID, after.SKU, after.Version, after.Price.Amount, after.Price.Currency,
			nanos(after.UpdatedAt), readable(put.Actor.Subject))
	}
	c.entries = append(c.entries, entry)
	return nil
}

func entryOf(put *catalog.Put, before, after *catalog.Product) (audit.Entry, error) {
	if after.Deleted {
		return catalog.DeleteEntry(before, put.Now, put.Actor)
	}
	return catalog.PutEntry(before, after, put.Now, put.Actor)
}

// sameProduct says whether two products that are not deleted differ in nothing but
// version and times, as far as can be read.
func sameProduct(a, b *catalog.Product) bool {
	return !a.Unreadable && a.Price == b.Price && a.Category == b.Category && a.Position == b.Position && a.Slug == b.Slug && a.Active == b.Active &&
		maps.Equal(a.Names, b.Names) && maps.Equal(a.Descriptions, b.Descriptions) && string(a.Attributes) == string(b.Attributes)
}
