package order

import (
	"context"
	"time"
)

// View is an order as readers get it, who may get what was true a moment ago. Who
// decides about an order or its money reads the order itself.
type View struct {
	// Order is shared with other readers: nothing in it may be changed. It has no
	// payment token, no provider's reference and no trace.
	Order Order
	// Age is how long ago it was read from the store or written.
	Age time.Duration
	// Stale says that its time is over: the store cannot be read now, or is slow.
	Stale bool
}

// ListView is a page of orders as readers get it; see View.
type ListView struct {
	Page  Page
	Age   time.Duration
	Stale bool
}

// Cached returns an order that the viewer may see, ErrNotFound otherwise. What was
// written through this instance shows at once, what others wrote when they have told
// of it, at the latest after ReadsOptions.TTL. Errors as of Order.
func (s *Service) Cached(ctx context.Context, v Viewer, id string) (View, error) {
	if s.o.Cache == nil || len(id) > maxReadIDBytes {
		o, err := s.Order(ctx, v, id)
		if err != nil {
			return View{}, err
		}
		return View{Order: *readable(&o)}, nil
	}
	entry, err := s.o.Cache.order(ctx, s.o.Store, v.TenantID, id)
	if err != nil {
		return View{}, err
	}
	// One entry serves whoever may see the order, so that is judged on each read.
	if o := entry.Value; o.TenantID != v.TenantID || v.CustomerID != "" && o.CustomerID != v.CustomerID {
		return View{}, ErrNotFound
	}
	return View{Order: *entry.Value, Age: entry.Age, Stale: entry.Stale}, nil
}

// CachedList returns a page of the orders that the viewer may see. The first page of
// one customer may be what was true a moment ago, as of Cached; every other is read
// from the store, and where that lists from a replica it is as old as the replica.
func (s *Service) CachedList(ctx context.Context, v Viewer, q Query) (ListView, error) {
	q, any := seenBy(v, q)
	if !any {
		return ListView{}, nil
	}
	if s.o.Cache == nil || !keepsPage(&q) {
		page, err := readPage(ctx, s.o.Store, q)
		return ListView{Page: *page}, err
	}
	entry, err := s.o.Cache.page(ctx, s.o.Store, q)
	if err != nil {
		return ListView{}, err
	}
	return ListView{Page: *entry.Value, Age: entry.Age, Stale: entry.Stale}, nil
}
