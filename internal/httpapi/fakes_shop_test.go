package httpapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/order"
	"millrace/internal/payment"
)

const testOrderID = "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"

// fakeOrders keeps orders in memory and notes what it was asked.
type fakeOrders struct {
	mu       sync.Mutex
	admit    error
	err      error // of every call but Admit
	orders   map[string]order.Order
	requests []order.Request
	keys     map[string]string // key to order id
	history  []order.HistoryEntry
	query    order.Query
	viewer   order.Viewer
	command  order.Command
	refund   order.RefundRequest
	shipment order.Shipment
	page     order.Page
	age      time.Duration // of what is cached, which is stale then

	// waits receives the version of each WaitStatus, which then waits for change, its
	// context or its time.
	waits  chan int64
	change chan struct{}
}

func newFakeOrders() *fakeOrders {
	return &fakeOrders{orders: map[string]order.Order{}, keys: map[string]string{}, waits: make(chan int64, 100), change: make(chan struct{})}
}

func (f *fakeOrders) Admit() error { return f.admit }

func (f *fakeOrders) Place(ctx context.Context, r order.Request) (order.Receipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	if f.err != nil {
		return order.Receipt{}, f.err
	}
	if ctx.Err() != nil {
		return order.Receipt{}, ctx.Err()
	}
	if id, ok := f.keys[r.Key]; ok {
		return order.Receipt{Order: f.orders[id], Replayed: true}, nil
	}
	o := order.Order{TenantID: r.TenantID, ID: testOrderID, CustomerID: r.CustomerID, Status: order.Placed, Version: 1, Currency: "EUR", Total: 3998}
	f.orders[o.ID], f.keys[r.Key] = o, o.ID
	return order.Receipt{Order: o}, nil
}

func (f *fakeOrders) find(v order.Viewer, id string) (order.Order, error) {
	if f.err != nil {
		return order.Order{}, f.err
	}
	o, ok := f.orders[id]
	if !ok || o.TenantID != v.TenantID || v.CustomerID != "" && v.CustomerID != o.CustomerID {
		return order.Order{}, order.ErrNotFound
	}
	return o, nil
}

func (f *fakeOrders) Order(_ context.Context, v order.Viewer, id string) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(v, id)
}

func (f *fakeOrders) Cached(_ context.Context, v order.Viewer, id string) (order.View, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, err := f.find(v, id)
	return order.View{Order: o, Age: f.age, Stale: f.age > 0}, err
}

func (f *fakeOrders) WaitStatus(ctx context.Context, v order.Viewer, id string, version int64, wait time.Duration) (order.Order, error) {
	o, err := f.Order(ctx, v, id)
	if err != nil || version != 0 && o.Version != version || version == 0 && o.Status.Terminal() {
		return o, err
	}
	f.mu.Lock()
	change := f.change
	f.mu.Unlock()
	f.waits <- version
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-change:
	case <-ctx.Done():
	case <-timer.C:
	}
	return f.Order(context.WithoutCancel(ctx), v, id)
}

// set changes an order and wakes who waits for it.
func (f *fakeOrders) set(o order.Order) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders[o.ID] = o
	close(f.change)
	f.change = make(chan struct{})
}

func (f *fakeOrders) History(_ context.Context, v order.Viewer, id string) ([]order.HistoryEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(v, id); err != nil {
		return nil, err
	}
	return f.history, nil
}

func (f *fakeOrders) CachedList(_ context.Context, v order.Viewer, q order.Query) (order.ListView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.viewer, f.query = v, q
	if q.Cursor == "bad" {
		return order.ListView{}, order.ErrBadCursor
	}
	return order.ListView{Page: f.page, Age: f.age, Stale: f.age > 0}, f.err
}

func (f *fakeOrders) do(c order.Command) (order.Order, error) {
	f.command = c
	return f.find(c.Viewer, c.OrderID)
}

func (f *fakeOrders) Cancel(_ context.Context, c order.Command) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do(c)
}

func (f *fakeOrders) Refund(_ context.Context, r order.RefundRequest) (order.RefundReceipt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	again := f.refund.Key == r.Key
	f.refund = r
	o, err := f.do(r.Command)
	return order.RefundReceipt{Order: o, Refund: order.Refund{Number: 1, Amount: 500}, Replayed: again}, err
}

func (f *fakeOrders) Ship(_ context.Context, r order.ShipRequest) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shipment = r.Shipment
	return f.do(r.Command)
}

func (f *fakeOrders) Deliver(_ context.Context, c order.Command) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do(c)
}

func (f *fakeOrders) Redrive(_ context.Context, c order.Command) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do(c)
}

func (f *fakeOrders) SettleByHand(_ context.Context, c order.Command) (order.Order, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do(c)
}

// fakeCatalog keeps products in memory as the store's contract says.
type fakeCatalog struct {
	mu       sync.Mutex
	products map[string]catalog.Product // tenant/sku, tombstones included
	items    map[string]*catalog.Item   // of those that are not deleted
	prices   []catalog.Price
	query    catalog.Query
	actor    audit.Actor
	loading  bool
	err      error
}

func (f *fakeCatalog) Put(_ context.Context, puts []catalog.Put) ([]catalog.PutResult, []error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	results, errs := make([]catalog.PutResult, len(puts)), make([]error, len(puts))
	for i, p := range puts {
		f.actor = p.Actor
		results[i], errs[i] = f.put(p)
	}
	return results, errs, f.err
}

func (f *fakeCatalog) put(p catalog.Put) (catalog.PutResult, error) {
	key := p.Product.TenantID + "/" + p.Product.SKU
	old := f.products[key]
	there := old.Version > 0 && !old.Deleted
	for _, other := range f.products {
		if p.Product.Slug != "" && other.Slug == p.Product.Slug && other.TenantID == p.Product.TenantID && other.SKU != p.Product.SKU {
			return catalog.PutResult{Product: other}, catalog.ErrSlugTaken
		}
	}
	switch {
	case p.Product.Price.Amount <= 0 && !p.Product.Deleted:
		return catalog.PutResult{}, &catalog.InvalidError{Field: "price.amount", Detail: "must be above zero"}
	case p.IfVersion > 0 && (!there || old.Version != p.IfVersion), p.IfVersion == catalog.NoVersion && there, p.IfVersion == catalog.AnyVersion && !there:
		return catalog.PutResult{Product: old}, catalog.ErrVersion
	case p.Product.Deleted && !there:
		return catalog.PutResult{}, catalog.ErrNotFound
	}
	changed := !there || p.Product.Deleted || string(RenderProduct(new(versioned(p.Product, old)))) != string(RenderProduct(&old))
	if changed {
		p.Product = versioned(p.Product, old)
		p.Product.Version++
		f.products[key] = p.Product
		delete(f.items, key)
		if q := p.Product; !q.Deleted {
			body := RenderProduct(&q)
			f.items[key] = &catalog.Item{TenantID: q.TenantID, SKU: q.SKU, Slug: q.Slug, Category: q.Category, Position: q.Position,
				Version: q.Version, Active: q.Active, Body: body, Sum: xxhash.Sum64(body), UpdatedAt: q.UpdatedAt}
		}
	}
	return catalog.PutResult{Product: f.products[key], Created: !there, Changed: changed}, nil
}

// versioned is a product as a store would write it over old.
func versioned(p, old catalog.Product) catalog.Product {
	p.Version, p.CreatedAt, p.UpdatedAt = old.Version, testNow, testNow
	return p
}

func (f *fakeCatalog) find(which func(*catalog.Item) bool) (*catalog.Item, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loading {
		return nil, fmt.Errorf("%w: 40,000 records", catalog.ErrLoading)
	}
	for _, it := range f.items {
		if which(it) {
			return it, nil
		}
	}
	return nil, catalog.ErrNotFound
}

func (f *fakeCatalog) Get(_ context.Context, tenantID, sku string) (*catalog.Item, error) {
	return f.find(func(it *catalog.Item) bool { return it.TenantID == tenantID && it.SKU == sku })
}

func (f *fakeCatalog) BySlug(_ context.Context, tenantID, slug string) (*catalog.Item, error) {
	return f.find(func(it *catalog.Item) bool { return it.TenantID == tenantID && it.Slug == slug })
}

func (f *fakeCatalog) List(_ context.Context, q catalog.Query) (catalog.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = q
	switch {
	case q.Cursor == "bad":
		return catalog.Page{}, catalog.ErrBadCursor
	case f.loading:
		return catalog.Page{}, catalog.ErrLoading
	}
	page := catalog.Page{Next: "n"}
	for _, it := range f.items {
		if it.TenantID == q.TenantID && (it.Active || q.Inactive) && (q.Category == "" || it.Category == q.Category) {
			page.Items = append(page.Items, it)
		}
	}
	slices.SortFunc(page.Items, func(a, b *catalog.Item) int { return strings.Compare(a.SKU, b.SKU) })
	return page, nil
}

func (f *fakeCatalog) Prices(context.Context, string, string, int) ([]catalog.Price, error) {
	return f.prices, nil
}

// fakeStock keeps levels in memory as the store's contract says.
type fakeStock struct {
	mu     sync.Mutex
	levels map[string]inventory.Level // by SKU
	keys   map[string]int64
	lines  map[int64]bool
	actor  audit.Actor
	err    error
}

func (f *fakeStock) put(sku string, onHand int64, reserved int64) inventory.Level {
	l := inventory.Level{TenantID: "demo", SKU: sku, OnHand: onHand, Reserved: reserved, Version: f.levels[sku].Version + 1, UpdatedAt: testNow}
	f.levels[sku] = l
	return l
}

func (f *fakeStock) Set(_ context.Context, s inventory.Set) (inventory.Level, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, there := f.levels[s.SKU]
	f.actor = s.Actor
	switch {
	case f.err != nil:
		return l, f.err
	case s.IfVersion == 0 && there:
		return l, inventory.ErrExists
	case s.IfVersion != l.Version:
		return l, inventory.ErrVersion
	case s.OnHand < l.Reserved:
		return l, &inventory.ReservedError{SKU: s.SKU, OnHand: s.OnHand, Reserved: l.Reserved}
	}
	return f.put(s.SKU, s.OnHand, l.Reserved), nil
}

func (f *fakeStock) Adjust(_ context.Context, a inventory.Adjustment) (inventory.Level, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, again := f.keys[a.Key]; again {
		if before != a.Delta {
			return inventory.Level{}, false, inventory.ErrKeyReused
		}
		return f.levels[a.SKU], true, nil
	}
	l := f.levels[a.SKU]
	if l.OnHand+a.Delta > inventory.MaxQuantity {
		return l, false, &inventory.OverflowError{SKU: a.SKU, OnHand: l.OnHand + a.Delta}
	}
	f.keys[a.Key] = a.Delta
	return f.put(a.SKU, l.OnHand+a.Delta, l.Reserved), false, nil
}

func (f *fakeStock) Import(_ context.Context, lines []inventory.ImportLine) ([]inventory.ImportResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]inventory.ImportResult, len(lines))
	for i, l := range lines {
		f.actor = l.Actor
		switch {
		case f.lines[l.Line]:
			results[i].Repeated = true
		case !l.IsDelta && l.OnHand < f.levels[l.SKU].Reserved:
			results[i].Err = &inventory.ReservedError{SKU: l.SKU, OnHand: l.OnHand, Reserved: f.levels[l.SKU].Reserved}
		case l.IsDelta:
			f.lines[l.Line] = true
			results[i].Level = f.put(l.SKU, f.levels[l.SKU].OnHand+l.Delta, f.levels[l.SKU].Reserved)
		default:
			f.lines[l.Line] = true
			results[i].Level = f.put(l.SKU, l.OnHand, f.levels[l.SKU].Reserved)
		}
	}
	return results, f.err
}

func (f *fakeStock) Get(_ context.Context, tenantID, sku string) (inventory.Level, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.levels[sku]
	if !ok || l.TenantID != tenantID {
		return inventory.Level{}, inventory.ErrNotFound
	}
	return l, nil
}

func (f *fakeStock) List(_ context.Context, q inventory.Query) (inventory.Page, error) {
	if q.Cursor == "bad" {
		return inventory.Page{}, inventory.ErrBadCursor
	}
	l, err := f.Get(context.Background(), q.TenantID, "tee")
	if err != nil {
		return inventory.Page{}, nil
	}
	return inventory.Page{Levels: []inventory.Level{l}, Next: "n"}, nil
}

type fakeAudit struct {
	query   audit.Query
	entries []audit.Entry
}

func (f *fakeAudit) Entries(_ context.Context, q audit.Query) (audit.Page, error) {
	f.query = q
	if q.Cursor == "bad" {
		return audit.Page{}, audit.ErrBadCursor
	}
	return audit.Page{Entries: f.entries, Next: "n"}, nil
}

// fakeEndpoints keeps webhook endpoints in memory.
type fakeEndpoints struct {
	endpoints  map[string]fulfilment.Endpoint
	request    fulfilment.EndpointRequest
	actor      audit.Actor
	deliveries []fulfilment.Delivery
	err        error
}

func (f *fakeEndpoints) PutEndpoint(_ context.Context, tenantID, id string, r fulfilment.EndpointRequest, ifVersion int64, by audit.Actor) (fulfilment.PutResult, error) {
	old, there := f.endpoints[id]
	f.request, f.actor = r, by
	switch {
	case f.err != nil:
		return fulfilment.PutResult{}, f.err
	case ifVersion > 0 && ifVersion != old.Version, ifVersion < 0 && there:
		return fulfilment.PutResult{}, fulfilment.ErrVersion
	}
	e := fulfilment.Endpoint{TenantID: tenantID, ID: id, URL: r.URL, Events: fulfilment.DefaultEvents(), Secrets: []fulfilment.Secret{{}, {ExpiresAt: testNow}},
		Version: old.Version + 1, CreatedAt: testNow, UpdatedAt: testNow}
	f.endpoints[id] = e
	result := fulfilment.PutResult{Endpoint: e, Created: !there}
	if !there || r.RotateSecret {
		result.NewSecret = "whsec_new"
	}
	return result, nil
}

func (f *fakeEndpoints) Endpoint(_ context.Context, tenantID, id string) (fulfilment.Endpoint, error) {
	e, ok := f.endpoints[id]
	if !ok || e.TenantID != tenantID {
		return fulfilment.Endpoint{}, fulfilment.ErrNotFound
	}
	return e, nil
}

func (f *fakeEndpoints) Endpoints(_ context.Context, tenantID string) ([]fulfilment.Endpoint, error) {
	var list []fulfilment.Endpoint
	for _, e := range f.endpoints {
		if e.TenantID == tenantID {
			list = append(list, e)
		}
	}
	return list, nil
}

func (f *fakeEndpoints) DeleteEndpoint(ctx context.Context, tenantID, id string, by audit.Actor) error {
	_, err := f.Endpoint(ctx, tenantID, id)
	f.actor = by
	delete(f.endpoints, id)
	return err
}

func (f *fakeEndpoints) Deliveries(_ context.Context, _, _ string, _ int, cursor string) ([]fulfilment.Delivery, string, error) {
	if cursor == "bad" {
		return nil, "", fulfilment.ErrBadCursor
	}
	return f.deliveries, "", nil
}

type fakeNotices struct {
	payload string
	err     error
}

func (f *fakeNotices) Notice(_ context.Context, payload []byte, signature string) error {
	if signature != "good" {
		return &payment.RejectedError{Code: "signature", Detail: "no secret makes this signature"}
	}
	f.payload = string(payload)
	return f.err
}

type fakeLedger struct{ charges []SandboxCharge }

func (f *fakeLedger) Charges(_ context.Context, tenantID, cursor string, _ int) ([]SandboxCharge, string, error) {
	if cursor == "bad" {
		return nil, "", errors.Join(errors.New("sandbox"), ErrBadCursor)
	}
	if tenantID != "demo" {
		return nil, "", nil
	}
	return f.charges, "", nil
}

// shop is everything that takes orders and what belongs to them, as fakes.
type shop struct {
	orders    *fakeOrders
	catalog   *fakeCatalog
	places    *fakePlaces
	stock     *fakeStock
	audit     *fakeAudit
	endpoints *fakeEndpoints
	notices   *fakeNotices
	ledger    *fakeLedger
}

func newShop() shop {
	return shop{
		orders: newFakeOrders(), catalog: &fakeCatalog{products: map[string]catalog.Product{}, items: map[string]*catalog.Item{}},
		places: newFakePlaces(),
		stock:  &fakeStock{levels: map[string]inventory.Level{}, keys: map[string]int64{}, lines: map[int64]bool{}},
		audit:  &fakeAudit{}, endpoints: &fakeEndpoints{endpoints: map[string]fulfilment.Endpoint{}}, notices: &fakeNotices{}, ledger: &fakeLedger{},
	}
}

func (s *shop) open(o *Options) {
	o.Places = s.places
	o.Orders, o.Catalog, o.Stock, o.Audit, o.Endpoints, o.PaymentNotices, o.Sandbox = s.orders, s.catalog, s.stock, s.audit, s.endpoints, s.notices, s.ledger
	known := o.Auth.(fakeAuth).principals
	buyer := auth.MakeScopes(auth.ScopeOrdersRead, auth.ScopeOrdersWrite)
	known["buyer"] = &auth.Principal{TenantID: "demo", Subject: "customer-17", Scopes: buyer, Method: auth.MethodJWT}
	known["buyer 2"] = &auth.Principal{TenantID: "demo", Subject: "customer-18", Scopes: buyer, Method: auth.MethodJWT}
	known["merchant"] = &auth.Principal{TenantID: "demo", Subject: "till", Scopes: auth.MakeScopes(auth.ScopeOrdersAdmin), Method: auth.MethodJWT}
	known["no scope"] = &auth.Principal{TenantID: "demo", Subject: "anyone", Method: auth.MethodJWT}
}
