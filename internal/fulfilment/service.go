package fulfilment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"millrace/internal/coalesce"
)

// Options are what a Service is made of. Store is required.
type Options struct {
	Store  Store
	Policy Policy
	// Version stands in the User-Agent of webhooks, "dev" if empty.
	Version string
	// Now is the clock, time.Now if nil.
	Now func() time.Time
	// Rand returns a number in [0, 1) and is safe for concurrent use; math/rand's if nil.
	Rand func() float64
	// Resolver looks up the hosts of endpoints; the system's if nil.
	Resolver *net.Resolver
	// Logger is for what happens outside of a call's answer. Nil discards.
	Logger *slog.Logger
	// Metrics are made with NewMetrics. Nil means none.
	Metrics *Metrics
}

func (o Options) withDefaults() (Options, error) {
	if o.Store == nil {
		return o, errors.New("fulfilment: Store is nil; hand over where endpoints and deliveries are kept")
	}
	var err error
	if o.Policy, err = o.Policy.withDefaults(); err != nil {
		return o, err
	}
	o.Version = cmp.Or(o.Version, "dev")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o, nil
}

// Bounds of the notices that wait to be written.
const (
	maxNoticesPerWrite = 256
	maxNoticesQueued   = 8192
	// maxMended bounds the endpoints that wait to be tried at once. Others are when
	// their pause ends.
	maxMended = 64
	// storeTimeout bounds one call of the store that no caller waits for.
	storeTimeout = 15 * time.Second
)

// Service is where endpoints are kept and notices are handed over. It is safe for
// concurrent use.
type Service struct {
	o         Options
	endpoints *endpointCache
	notices   *coalesce.Caller[handed, int]
	enqueued  chan struct{} // has room for one: "there are new deliveries"
	// mended are endpoints that somebody has just changed or redriven to.
	mended chan EndpointRef
}

// handed is a checked notice on its way to the store.
type handed struct {
	notice  *Notice
	payload []byte
}

// New starts a Service. Close ends it.
func New(o Options) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Service{o: o, enqueued: make(chan struct{}, 1), mended: make(chan EndpointRef, maxMended)}
	s.endpoints = &endpointCache{load: o.Store.Endpoints, byTenant: map[string]cachedEndpoints{}}
	s.notices = coalesce.NewCaller(coalesce.Options{MaxBatchWeight: maxNoticesPerWrite, MaxQueuedWeight: maxNoticesQueued}, s.write)
	return s, nil
}

// Close writes the notices that wait and ends the Service. It may be called more
// than once.
func (s *Service) Close() { s.notices.Close() }

// Notify hands a notice to each of the tenant's endpoints that wants its type and
// returns to how many: 0 if none does. One that is disabled counts: its delivery
// becomes a dead letter, to be redriven when it is enabled. When it returns without an error the
// deliveries are durable. Handing the same notice over again changes nothing.
// *InvalidError says that it can never be sent; every other error leaves open
// whether it was taken: hand it over again.
func (s *Service) Notify(ctx context.Context, n Notice) (deliveries int, err error) {
	payload, err := payloadOf(&n)
	if err != nil {
		return 0, err
	}
	n.Trace = traceparent(n.Trace)
	deliveries, err = s.notices.Do(ctx, handed{&n, payload}, 1)
	if err != nil {
		return 0, fmt.Errorf("notice %s of order %s: %w", n.ID, n.OrderID, err)
	}
	return deliveries, nil
}

// Wants says whether any of the tenant's endpoints wants such an event now. It asks what Notify asks, so that who would have to gather a notice first
// can save it.
func (s *Service) Wants(ctx context.Context, tenantID, eventType string) (bool, error) {
	endpoints, err := s.endpoints.of(ctx, tenantID)
	return slices.ContainsFunc(endpoints, func(e Endpoint) bool { return wants(&e, eventType) }), err
}

func wants(e *Endpoint, eventType string) bool { return slices.Contains(e.Events, eventType) }

// write turns notices into deliveries, all in one transaction.
func (s *Service) write(calls []*coalesce.Call[handed, int]) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	now := s.o.Now()
	var deliveries []Delivery
	var written []*coalesce.Call[handed, int]
	for _, call := range calls {
		endpoints, err := s.endpoints.of(ctx, call.In.notice.TenantID)
		if err != nil {
			call.Err = err
			continue
		}
		for i := range endpoints {
			e := &endpoints[i]
			if n := call.In.notice; wants(e, n.EventType) {
				call.Out++
				created := now
				if created.Before(e.CreatedAt) { // it was put meanwhile, or by a clock that is ahead
					created = e.CreatedAt
				}
				deliveries = append(deliveries, Delivery{TenantID: n.TenantID, ID: deliveryID(n, e.ID), EndpointID: e.ID,
					EventType: n.EventType, OrderID: n.OrderID, Payload: call.In.payload, CreatedAt: created, NextAttempt: now, Trace: n.Trace})
			}
		}
		if call.Out > 0 {
			written = append(written, call)
		}
	}
	if len(deliveries) == 0 {
		return
	}
	if err := s.o.Store.Enqueue(ctx, deliveries); err != nil {
		for _, call := range written {
			call.Out, call.Err = 0, err
		}
		return
	}
	s.wake()
}

// wake tells the dispatcher of this process that there is something new.
func (s *Service) wake() {
	select {
	case s.enqueued <- struct{}{}:
	default: // the signal that is there already serves
	}
}

// tryAgain tells the dispatcher of this process not to let an endpoint pause longer.
func (s *Service) tryAgain(tenantID, endpointID string) {
	select {
	case s.mended <- EndpointRef{tenantID, endpointID}:
	default:
	}
}

// Deliveries lists a tenant's deliveries, those of the newest orders first. Empty
// endpointID means all. See Store.
func (s *Service) Deliveries(ctx context.Context, tenantID, endpointID string, limit int, cursor string) ([]Delivery, string, error) {
	return s.o.Store.Deliveries(ctx, tenantID, endpointID, limit, cursor)
}
