package order

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"millrace/internal/cache"
)

// ReadsOptions say how orders that were read are remembered, here and in Redis. Zero
// fields take the default.
type ReadsOptions struct {
	// TTL is how long an order or a page is believed at most without asking the store;
	// 3 s. A change reaches every instance at once; where the telling is lost, this is
	// how old what is shown can be.
	TTL time.Duration
	// NegativeTTL is how long an id that is not there is not asked for again; 1 s.
	NegativeTTL time.Duration
	// StaleFor is how long afterwards it is still shown, marked as stale, while the
	// store cannot be read; 5 min, negative for not at all.
	StaleFor time.Duration
	// SoftTimeout is how long a reader waits for a slow store where there is an older
	// answer, 250 ms; LoadTimeout bounds one read of the store, 5 s.
	SoftTimeout, LoadTimeout time.Duration
	// MaxBytes bounds the memory, 64 MiB: three quarters of it are for orders, about a
	// kilobyte each, and one for pages.
	MaxBytes int64
	// Remote is shared with the other instances; nil means memory alone. It gets orders
	// as GET /orders/{id} shows them, with names and addresses, for TTL and StaleFor:
	// never a payment token.
	Remote cache.Remote
	// Peers tells the other instances of changes; nil means that there are none.
	Peers cache.Peers
	// Instance is the name of this one among its peers.
	Instance string
	Metrics  *cache.Metrics
	Logger   *slog.Logger
	Now      func() time.Time
}

// Reads keeps orders that were read lately, and the first pages of customers'
// orders, in memory and in what the instances share. It decides nothing: whether
// someone may see an order is judged on each read, and commands read the store.
//
// Two levels, loads, versions and what holds when Redis or the database is away are
// the cache's, see package cache. An order's version is the version of its entry, so
// nothing older ever follows something newer. A page is of no version; it goes with
// its tag, which is its customer, whenever an order of that customer changes.
//
// When it is not known whether a change was committed, the orders it may have changed
// are forgotten, and so are those whose work was put off, which is no change of their
// version. Neither a step nor a deferral says whose order it is, so that customer's
// pages are shown up to TTL longer.
//
// Reads is safe for concurrent use; Close ends it.
type Reads struct {
	orders      *cache.Cache[*Order]
	pages       *cache.Cache[*Page]
	loadTimeout time.Duration
}

// NewReads returns Reads; Close ends them.
func NewReads(o ReadsOptions) (*Reads, error) {
	setDefault(&o.TTL, 3*time.Second)
	setDefault(&o.NegativeTTL, time.Second)
	setDefault(&o.StaleFor, 5*time.Minute)
	setDefault(&o.SoftTimeout, 250*time.Millisecond)
	setDefault(&o.LoadTimeout, 5*time.Second)
	setDefault(&o.MaxBytes, 64<<20)
	if o.LoadTimeout < 0 {
		return nil, fmt.Errorf("order: ReadsOptions: LoadTimeout of %s is not possible; give one above zero", o.LoadTimeout)
	}
	orders, err := cache.New(readOptions("orders", &o, o.MaxBytes/4*3, func(id string, v *Order) int { return len(id) + weighOrder(v) }))
	if err != nil {
		return nil, fmt.Errorf("order: set up the cache of orders: %w", err)
	}
	pages, err := cache.New(readOptions("order-pages", &o, o.MaxBytes/4, func(id string, v *Page) int { return len(id) + weighPage(v) }))
	if err != nil {
		orders.Close()
		return nil, fmt.Errorf("order: set up the cache of pages of orders: %w", err)
	}
	return &Reads{orders: orders, pages: pages, loadTimeout: o.LoadTimeout}, nil
}

// loadGrace is how much longer than LoadTimeout the cache waits for a load: the
// store's own error says more, and what it is tells a reader when to come again.
const loadGrace = time.Second

func readOptions[V kept](name string, o *ReadsOptions, maxBytes int64, weigh func(string, V) int) cache.Options[V] {
	return cache.Options[V]{
		Name: name, TTL: o.TTL, NegativeTTL: o.NegativeTTL, StaleFor: o.StaleFor, SoftTimeout: o.SoftTimeout, HardTimeout: o.LoadTimeout + loadGrace,
		MaxBytes: maxBytes, Weigh: weigh, Encode: encodeRead[V], Decode: decodeRead[V],
		Remote: o.Remote, Peers: o.Peers, Instance: o.Instance, Metrics: o.Metrics, Logger: o.Logger, Now: o.Now,
	}
}

// Close ends both caches.
func (r *Reads) Close() {
	r.orders.Close()
	r.pages.Close()
}

// Bounds of what is kept: ids and customers come from callers, and each that is not
// there takes its place in memory.
const (
	maxReadIDBytes       = 64
	maxReadCustomerBytes = 256
	maxReadLimit         = 100
)

// order returns an order of a tenant, whoever may see it.
func (r *Reads) order(ctx context.Context, store Store, tenantID, id string) (cache.Entry[*Order], error) {
	key := orderKey(tenantID, id)
	load := func(ctx context.Context) (cache.Loaded[*Order], error) {
		ctx, cancel := context.WithTimeout(ctx, r.loadTimeout)
		defer cancel()
		o, err := store.Order(ctx, tenantID, id)
		if errors.Is(err, ErrNotFound) {
			err = cache.ErrNotFound
		}
		return cache.Loaded[*Order]{Value: readable(&o), Version: o.Version}, err
	}
	entry, err := r.orders.Get(ctx, key, load)
	switch {
	case errors.Is(err, cache.ErrOutdated):
		// Who told of a newer one may have told of what a failover then lost.
		entry, err = ask(ctx, load)
	case err == nil && (entry.Value.TenantID != tenantID || entry.Value.ID != id):
		entry, err = past(ctx, r.orders, key, load)
	}
	if errors.Is(err, cache.ErrNotFound) {
		err = ErrNotFound
	}
	return entry, err
}

// page returns the first page of a query that keepsPage.
func (r *Reads) page(ctx context.Context, store Store, q Query) (cache.Entry[*Page], error) {
	key := pageKey(&q)
	// A replica may not have the order whose placement has just made all forget the
	// page, and what it says would be kept.
	q.Fresh = true
	load := func(ctx context.Context) (cache.Loaded[*Page], error) {
		ctx, cancel := context.WithTimeout(ctx, r.loadTimeout)
		defer cancel()
		page, err := readPage(ctx, store, q)
		return cache.Loaded[*Page]{Value: page, Tags: []string{customerTag(q.TenantID, q.CustomerID)}}, err
	}
	entry, err := r.pages.Get(ctx, key, load)
	if err == nil && !entry.Value.isOf(q.TenantID, q.CustomerID) {
		entry, err = past(ctx, r.pages, key, load)
	}
	return entry, err
}

// isOf says whether all orders of a page are of one customer.
func (p *Page) isOf(tenantID, customerID string) bool {
	for i := range p.Orders {
		if o := &p.Orders[i]; o.TenantID != tenantID || o.CustomerID != customerID {
			return false
		}
	}
	return true
}

// past asks the store itself where the cache holds, under a key, what is not of that
// key: somebody else wrote it into the remote level. All forget it.
func past[V any](ctx context.Context, c *cache.Cache[V], key string, load func(context.Context) (cache.Loaded[V], error)) (cache.Entry[V], error) {
	c.Invalidate(ctx, cache.Change{Key: key})
	return ask(ctx, load)
}

// ask asks the store itself; nothing is kept.
func ask[V any](ctx context.Context, load func(context.Context) (cache.Loaded[V], error)) (cache.Entry[V], error) {
	loaded, err := load(ctx)
	if err != nil {
		return cache.Entry[V]{}, err
	}
	return cache.Entry[V]{Value: loaded.Value, Version: loaded.Version}, nil
}

// readPage reads a page for readers.
func readPage(ctx context.Context, store Store, q Query) (*Page, error) {
	page, err := store.Orders(ctx, q)
	for i := range page.Orders {
		page.Orders[i] = *readable(&page.Orders[i])
	}
	return &page, err
}

// keepsPage says whether the answer to a query is kept: the first page of one
// customer, as people ask for it.
func keepsPage(q *Query) bool {
	return q.Cursor == "" && q.CustomerID != "" && len(q.CustomerID) <= maxReadCustomerBytes &&
		q.Limit >= 1 && q.Limit <= maxReadLimit && !strings.Contains(q.TenantID+string(q.Status), "/")
}

// Keys. A tenant's id has no slash, so no two orders or queries share one.

func orderKey(tenantID, id string) string { return tenantID + "/" + id }

func pageKey(q *Query) string {
	return q.TenantID + "/" + string(q.Status) + "/" + strconv.Itoa(q.Limit) + "/" + q.CustomerID
}

func customerTag(tenantID, customerID string) string { return tenantID + "/" + customerID }

// Changed is told of orders as they stand after a commit, at most a transaction's; of
// those whose Version is 0 that they may have changed. When it returns, nobody who
// begins to read here sees anything older. It waits for no server.
func (r *Reads) Changed(orders []Order) {
	ctx := context.Background()
	changes := make([]cache.Change, len(orders))
	tags := make([]string, 0, len(orders))
	for i := range orders {
		o := &orders[i]
		changes[i] = cache.Change{Key: orderKey(o.TenantID, o.ID), Version: o.Version}
		if o.CustomerID != "" {
			tags = append(tags, customerTag(o.TenantID, o.CustomerID))
		}
	}
	r.orders.Invalidate(ctx, changes...)
	r.pages.InvalidateTags(ctx, tags...)
}
