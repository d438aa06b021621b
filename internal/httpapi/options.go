package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Options configures a Server. The parts without a default are required, except
// where it says that nil is allowed.
type Options struct {
	Events      EventIngester
	Reader      EventReader
	DeadLetters DeadLetters
	Auth        Authenticator
	Keys        Keys
	// Hooks takes webhook deliveries; nil means that there are none, and every
	// source is unknown.
	Hooks HookIngester
	// HookTenant returns the tenant of a webhook source, so that an unknown source
	// and a tenant over its rate are refused before the body is read. Nil means
	// that only Hooks tells.
	HookTenant func(source string) (tenantID string, known bool)
	// The parts that take orders and what belongs to them. Each may be nil: then its
	// routes are not there.
	Orders    Orders
	Catalog   Catalog
	Stock     Stock
	Places    Places
	Audit     AuditLog
	Endpoints WebhookEndpoints
	// PaymentNotices takes what Stripe tells by webhook; Sandbox shows what the
	// payment sandbox has in its books. Nil means that there is no such route.
	PaymentNotices PaymentNotices
	Sandbox        SandboxLedger
	// OrderRates limits the orders of each tenant; nil means no limit.
	OrderRates Rates
	// CatalogPublic lets everyone read products and places without a credential; the
	// tenant of products then is named by X-Millrace-Tenant or the parameter "tenant".
	CatalogPublic bool
	// CatalogCache is how long others may keep what was read without a credential.
	// Shared caches may if the URL says everything: if it names the tenant (tenant=, not
	// the header) of products, and, of what is shown in one language, the language
	// (lang=) that it is shown in. What depends on headers is for the caller's own cache.
	// What may be out of date must be asked for each time.
	CatalogCache HTTPCache
	// VariantBytes bounds the memory of compressed and translated products and places;
	// 32 MiB.
	VariantBytes int64
	// CatalogStale and PlacesStale say for how long it has not been known that what
	// is in memory is what the database has; 0 while it is. Nil means that nothing is in
	// memory: each read asks the database.
	CatalogStale, PlacesStale func() time.Duration

	// Rates limits each tenant; nil means no limit.
	Rates Rates
	// Bytes bounds the memory of request bodies; nil means no bound.
	Bytes Bytes
	// ProbesOnly serves /livez and /readyz and no other route of the public API: for
	// instances that do other work.
	ProbesOnly bool
	// Checks are asked by /readyz. More can be added with AddCheck.
	Checks []Check

	// Logger is where access lines and failures go; nil means nowhere.
	Logger *slog.Logger
	// LogContext puts the request id where the logger finds it; nil means that
	// this package names it in each line.
	LogContext func(ctx context.Context, requestID string) context.Context
	// Metrics counts; nil means for nobody.
	Metrics *Metrics
	// Tracer records a span for each request; nil means that ids are read, made
	// and passed on, but nothing is recorded.
	Tracer trace.Tracer

	// Version is shown by /openapi.json and /control/status.
	Version string
	// ListenAddresses are shown by /control/status.
	ListenAddresses func() []string

	// CertFile and KeyFile are PEM files; when set, Serve speaks TLS and loads
	// them again when they change.
	CertFile, KeyFile string

	// MaxBodyBytes bounds a body, before and after decompression; 1 MiB.
	MaxBodyBytes int
	// MaxHeaderBytes bounds a request's header; 32 KiB.
	MaxHeaderBytes int
	// MaxTails and MaxTailsPerTenant bound the open live tails; 1,000 and 20. A
	// negative MaxTailsPerTenant allows none. MaxTails is at least
	// MaxTailsPerTenant.
	MaxTails, MaxTailsPerTenant int
	// MaxReads and MaxReadsPerTenant bound the reads of many events or dead letters
	// and of statistics that are under way at once; 64 and 16. MaxReads is at least
	// MaxReadsPerTenant.
	MaxReads, MaxReadsPerTenant int

	// MaxWaits and MaxWaitsPerTenant bound the requests that wait for an order to
	// change (GET /orders/{id}/status?wait=); 5,000 and 2,000. MaxWaits is at least
	// MaxWaitsPerTenant. MaxWaitsPerBuyer bounds those of one subject without
	// orders:admin, so that it leaves the others of its tenant some; 50.
	MaxWaits, MaxWaitsPerTenant, MaxWaitsPerBuyer int

	// HeaderTimeout bounds the reading of a request's header; 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout bounds the time from a request's header to the end of its body;
	// 20 s.
	BodyTimeout time.Duration
	// WriteTimeout bounds the time from a request's header to the end of its
	// answer, tails excepted; 2 min. It must leave room for BodyTimeout,
	// QueryTimeout and the wait of the ack mode.
	WriteTimeout time.Duration
	// IdleTimeout bounds how long a connection waits for its next request; 2 min.
	IdleTimeout time.Duration
	// QueryTimeout bounds one query of a store; 15 s.
	QueryTimeout time.Duration
	// ProbeTimeout bounds one readiness probe; 2 s.
	ProbeTimeout time.Duration
	// TailHeartbeat is how often a quiet tail shows that it is alive; 15 s.
	TailHeartbeat time.Duration
	// TailWriteTimeout bounds how long a tail's reader may not read; 10 s.
	TailWriteTimeout time.Duration
	// DrainDelay is how long requests are still taken after readiness began to
	// fail, so that load balancers notice; none by default.
	DrainDelay time.Duration
	// DrainTimeout bounds the whole way down when Serve's context ends; 30 s.
	DrainTimeout time.Duration

	// Now is the clock for query defaults; time.Now.
	Now func() time.Time
}

// HTTPCache is how long browsers and shared caches may keep an answer. Zero values
// mean that they ask each time.
type HTTPCache struct {
	// MaxAge is how long it counts as fresh; whole seconds.
	MaxAge time.Duration
	// StaleWhileRevalidate is how much longer it may be handed out while a newer one is
	// asked for; whole seconds.
	StaleWhileRevalidate time.Duration
}

func (o *Options) setDefaults() {
	setDefault(&o.MaxBodyBytes, 1<<20)
	setDefault(&o.MaxHeaderBytes, 32<<10)
	setDefault(&o.MaxTails, 1000)
	setDefault(&o.MaxTailsPerTenant, 20)
	o.MaxTails = max(o.MaxTails, o.MaxTailsPerTenant)
	setDefault(&o.MaxReads, 64)
	setDefault(&o.MaxReadsPerTenant, 16)
	o.MaxReads = max(o.MaxReads, o.MaxReadsPerTenant)
	setDefault(&o.MaxWaits, 5000)
	setDefault(&o.MaxWaitsPerTenant, 2000)
	setDefault(&o.MaxWaitsPerBuyer, 50)
	o.MaxWaits = max(o.MaxWaits, o.MaxWaitsPerTenant)
	setDefault(&o.HeaderTimeout, 10*time.Second)
	setDefault(&o.BodyTimeout, 20*time.Second)
	setDefault(&o.WriteTimeout, 2*time.Minute)
	setDefault(&o.IdleTimeout, 2*time.Minute)
	setDefault(&o.QueryTimeout, 15*time.Second)
	setDefault(&o.ProbeTimeout, 2*time.Second)
	setDefault(&o.TailHeartbeat, 15*time.Second)
	setDefault(&o.TailWriteTimeout, 10*time.Second)
	setDefault(&o.DrainTimeout, 30*time.Second)
	setDefault(&o.VariantBytes, 32<<20)
	setDefault(&o.Version, "dev")
	neverStale := func() time.Duration { return 0 }
	if o.CatalogStale == nil {
		o.CatalogStale = neverStale
	}
	if o.PlacesStale == nil {
		o.PlacesStale = neverStale
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ListenAddresses == nil {
		o.ListenAddresses = func() []string { return nil }
	}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (o *Options) validate() error {
	for name, missing := range map[string]bool{
		"Events": o.Events == nil, "Reader": o.Reader == nil, "DeadLetters": o.DeadLetters == nil,
		"Auth": o.Auth == nil, "Keys": o.Keys == nil,
	} {
		if missing {
			return fmt.Errorf("httpapi: Options.%s is missing", name)
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return errors.New("httpapi: TLS needs both a certificate and a key file; set both or neither")
	}
	for name, n := range map[string]int64{
		"MaxBodyBytes": int64(o.MaxBodyBytes), "MaxHeaderBytes": int64(o.MaxHeaderBytes), "MaxTails": int64(o.MaxTails),
		"MaxReads": int64(o.MaxReads), "MaxReadsPerTenant": int64(o.MaxReadsPerTenant),
		"MaxWaits": int64(o.MaxWaits), "MaxWaitsPerTenant": int64(o.MaxWaitsPerTenant), "MaxWaitsPerBuyer": int64(o.MaxWaitsPerBuyer), "HeaderTimeout": int64(o.HeaderTimeout), "BodyTimeout": int64(o.BodyTimeout),
		"WriteTimeout": int64(o.WriteTimeout), "IdleTimeout": int64(o.IdleTimeout), "QueryTimeout": int64(o.QueryTimeout),
		"ProbeTimeout": int64(o.ProbeTimeout), "TailHeartbeat": int64(o.TailHeartbeat), "TailWriteTimeout": int64(o.TailWriteTimeout),
		"VariantBytes": o.VariantBytes, "CatalogCache.MaxAge": int64(o.CatalogCache.MaxAge) + 1, "CatalogCache.StaleWhileRevalidate": int64(o.CatalogCache.StaleWhileRevalidate) + 1,
		"DrainDelay": int64(o.DrainDelay) + 1, "DrainTimeout": int64(o.DrainTimeout),
	} {
		if n <= 0 {
			return fmt.Errorf("httpapi: Options.%s must be more than zero", name)
		}
	}
	if o.WriteTimeout < o.BodyTimeout || o.WriteTimeout < o.QueryTimeout {
		return fmt.Errorf("httpapi: WriteTimeout (%v) covers the body and the query, so it must not be less than BodyTimeout (%v) or QueryTimeout (%v)",
			o.WriteTimeout, o.BodyTimeout, o.QueryTimeout)
	}
	if o.DrainDelay >= o.DrainTimeout {
		return fmt.Errorf("httpapi: DrainTimeout (%v) covers DrainDelay (%v) and must be more", o.DrainTimeout, o.DrainDelay)
	}
	return nil
}
