package app

import (
	"context"
	"fmt"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"

	"millrace/internal/auth"
	"millrace/internal/config"
	"millrace/internal/httpapi"
	"millrace/internal/limit"
	"millrace/internal/telemetry"
)

// jobEvents is the job that needs the log but not the store: events are taken in
// while the database is away.
const jobEvents = "events"

// jobRead is what needs the store.
const jobRead = "reads"

// jobOrders is placing orders.
const jobOrders = "orders"

// jobWork is working on orders that were placed. Nobody routes by it: the part
// that it names shows in /readyz.
const jobWork = "work"

// queryTimeout bounds one query of the store.
const queryTimeout = 15 * time.Second

// maxTails bounds the live streams of all tenants together.
const maxTails = 1000

// noneIsNegative turns the configuration's 0 into what the edge calls none.
func noneIsNegative(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// newEdge builds the HTTP edge on a core, and on works if there are any.
func (c *core) newEdge(w *works, authenticator httpapi.Authenticator, tracer trace.Tracer, addresses func() []string) (*httpapi.Server, error) {
	h, e := &c.cfg.HTTP, &c.cfg.Events
	rates, err := c.eventLimits()
	if err != nil {
		return nil, err
	}
	orderRates, err := c.orderLimits()
	if err != nil {
		return nil, err
	}
	bytes, err := limit.NewBytes("bodies", int64(h.MaxInflightBytes), c.limits)
	if err != nil {
		return nil, err
	}
	wait := max(h.RequestTimeout, h.BodyTimeout)
	if c.cfg.Events.Ack == "store" {
		wait = max(wait, e.StoreAckTimeout+h.BodyTimeout)
	}
	o := httpapi.Options{
		Events: c.ingester, Hooks: c.ingester, HookTenant: c.hookTenant, Reader: c.reader, DeadLetters: c.letters,
		Auth: authenticator, Keys: c.keys, Rates: rates, Bytes: bytes, Checks: c.checks(),
		Logger: c.logger, LogContext: telemetry.WithRequestID, Metrics: httpapi.NewMetrics(c.registry), Tracer: tracer,
		Version: Version(), ListenAddresses: addresses, CertFile: h.TLS.CertFile, KeyFile: h.TLS.KeyFile,
		MaxBodyBytes: int(e.MaxBodyBytes), MaxHeaderBytes: int(h.MaxHeaderBytes), MaxTailsPerTenant: noneIsNegative(e.Tail.MaxStreamsPerTenant),
		MaxTails:      max(maxTails, e.Tail.MaxStreamsPerTenant),
		QueryTimeout:  min(queryTimeout, wait),
		HeaderTimeout: h.ReadHeaderTimeout, BodyTimeout: h.BodyTimeout, WriteTimeout: wait, IdleTimeout: h.IdleTimeout,
		DrainDelay: h.DrainDelay, DrainTimeout: h.ShutdownTimeout,
		Orders: c.shop.orders, Catalog: c.shop.catalog, Stock: c.shop.stock, Audit: c.shop.audit, Endpoints: c.shop.webhooks,
		Places: c.places, CatalogPublic: c.cfg.Catalog.Public,
		CatalogCache: httpapi.HTTPCache{MaxAge: c.cfg.Catalog.MaxAge, StaleWhileRevalidate: c.cfg.Catalog.StaleWhileRevalidate},
		VariantBytes: int64(c.cfg.Reads.VariantsMaxBytes), OrderRates: orderRates, ProbesOnly: !c.has(config.RoleAPI),
	}
	if r := &c.reads; r.catalog != nil {
		o.CatalogStale, o.PlacesStale = r.followCatalog.Since, r.followPlaces.Since
	}
	if w != nil {
		o.Checks = append(o.Checks, httpapi.Check{Name: "bus", Jobs: []string{jobWork}, Probe: probeBus(c.bus)})
	}
	if w != nil && w.payments.sandbox != nil {
		o.Sandbox = w.payments
	}
	if w != nil && w.payments.stripe != nil {
		o.PaymentNotices = w.payments
	}
	return httpapi.New(o)
}

// checks are what readiness asks.
func (c *core) checks() []httpapi.Check {
	checks := []httpapi.Check{
		{Name: "log", Jobs: []string{jobEvents}, Probe: func(context.Context) error { return c.admit() }},
		{Name: "store", Jobs: []string{jobRead, jobOrders}, Probe: c.db.Ping},
		{Name: "orders", Jobs: []string{jobOrders}, Probe: func(context.Context) error { return c.shop.orders.Admit() }},
		{Name: "sink", Jobs: []string{jobRead}, Probe: func(context.Context) error { return c.intake.ProbeSink() }},
	}
	if r := &c.reads; r.catalog != nil {
		checks = append(checks,
			httpapi.Check{Name: "catalog", Jobs: []string{jobRead}, Probe: func(context.Context) error { return r.followCatalog.Ready() }},
			httpapi.Check{Name: "places", Jobs: []string{jobRead}, Probe: func(context.Context) error { return r.followPlaces.Ready() }})
	}
	return checks
}

// newAuthenticator builds what judges credentials. Closing the core ends the
// refreshing of an outside issuer's keys.
func (c *core) newAuthenticator() (*auth.Authenticator, error) {
	a, metrics := &c.cfg.Auth, auth.NewMetrics(c.registry)
	o := auth.Options{Issuer: c.issuer, Keys: c.keys, CacheEntries: a.CacheEntries, Metrics: metrics}
	if a.JWKS.URL != "" {
		remote, err := auth.NewRemoteKeys(auth.RemoteOptions{
			URL: a.JWKS.URL, Issuer: a.JWKS.Issuer, Audience: a.JWKS.Audience, Algorithms: a.JWKS.Algorithms,
			TenantClaim: a.JWKS.TenantClaim, Leeway: zeroIsNone(a.Leeway), Logger: c.logger, Metrics: metrics,
		})
		if err != nil {
			return nil, err
		}
		c.onClose(func() error { remote.Close(); return nil })
		o.Remote = remote
	}
	return auth.New(o)
}

// listen opens a TCP listener and says which setting to change when it cannot.
func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; choose another address", key, err)
	}
	return l, nil
}
