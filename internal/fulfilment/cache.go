package fulfilment

import (
	"context"
	"sync"
	"time"
)

const (
	// endpointsFresh is how long endpoints are believed that another process may
	// have changed.
	endpointsFresh = 3 * time.Second
	// maxCachedTenants bounds the cache; it starts anew when it is full.
	maxCachedTenants = 10_000
)

// endpointCache keeps the endpoints of tenants for a moment.
type endpointCache struct {
	load func(ctx context.Context, tenantID string) ([]Endpoint, error)

	mu sync.Mutex // guards what follows
	// changes counts invalidations, so that what was read before one is not kept
	// after it.
	changes  uint64
	byTenant map[string]cachedEndpoints
}

type cachedEndpoints struct {
	list []Endpoint // never changed
	at   time.Time  // of the monotonic clock
}

// of returns a tenant's endpoints. The slice must not be changed.
func (c *endpointCache) of(ctx context.Context, tenantID string) ([]Endpoint, error) {
	c.mu.Lock()
	cached, ok := c.byTenant[tenantID]
	changes := c.changes
	c.mu.Unlock()
	if ok && time.Since(cached.at) < endpointsFresh {
		return cached.list, nil
	}
	at := time.Now()
	list, err := c.load(ctx, tenantID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		if len(c.byTenant) >= maxCachedTenants {
			clear(c.byTenant)
		}
		c.byTenant[tenantID] = cachedEndpoints{list, at}
	}
	return list, nil
}

// forget makes the next look at a tenant's endpoints a fresh one.
func (c *endpointCache) forget(tenantID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	delete(c.byTenant, tenantID)
}
