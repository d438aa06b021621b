package sql

import "context"

// tenantKey is the key of a context's tenant.
type tenantKey struct{}

// ForTenant returns a context whose reads are tenantID's alone: a database with
// row-level security shows them no other tenant's rows, whatever their statements
// say. It costs nothing if the context is tenantID's already.
func ForTenant(ctx context.Context, tenantID string) context.Context {
	if there, _ := ctx.Value(tenantKey{}).(string); there == tenantID {
		return ctx
	}
	return context.WithValue(ctx, tenantKey{}, tenantID)
}

// TenantOf returns the tenant of a context, empty if it has none.
func TenantOf(ctx context.Context) string {
	tenantID, _ := ctx.Value(tenantKey{}).(string)
	return tenantID
}
