package sql

import (
	"cmp"
	"context"
	"slices"
)

// skuKey names a row by tenant and SKU.
type skuKey struct{ tenantID, sku string }

// skuKeys returns the keys of items in the order that rows are locked in, each once.
func skuKeys[T any](items []T, key func(*T) skuKey) []skuKey {
	keys := make([]skuKey, len(items))
	for i := range items {
		keys[i] = key(&items[i])
	}
	slices.SortFunc(keys, func(a, b skuKey) int {
		return cmp.Or(cmp.Compare(a.tenantID, b.tenantID), cmp.Compare(a.sku, b.sku))
	})
	return slices.Compact(keys)
}

// lock locks rows for the rest of the transaction where a database has several
// writers: two transactions then wait for each other instead of both failing, and
// never in a circle.
func (p *prepared) lock(ctx context.Context, m manyRows, keys []skuKey) error {
	if !p.tx.dialect.locksRows() {
		return nil
	}
	m.tail = p.tx.dialect.forUpdate(m.tail)
	args := make([]any, 0, 2*len(keys))
	for _, k := range keys {
		args = append(args, k.tenantID, k.sku)
	}
	return p.each(ctx, m, args, func(interface{ Scan(...any) error }) error { return nil })
}
