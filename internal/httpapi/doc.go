// Package httpapi is the edge: it speaks HTTP, says who the caller is, refuses
// early what cannot be taken, and hands everything else to the domain.
//
// # Pattern
//
// A Server owns two surfaces, which are the same code with another way of
// saying who calls. Handler is the public one: bearer tokens and API keys.
// ControlHandler is the operator's, meant for a Unix socket that only the
// operator may open; it carries the keys and dead-letter routes.
//
// Every request passes one place, surface.ServeHTTP, which gives it an id, a
// trace context and security headers, counts and logs it, and turns a panic into
// an answer. From there the mux chooses a route. Hot and streaming routes
// (POST /events, POST /orders, GET /products/{sku}, GET /events/tail and more) are
// plain handlers that encode by hand; all others are huma operations whose schemas
// come from their types. Both kinds stand in the same OpenAPI document, and every
// error, the mux's own included, is an application/problem+json with a type from one
// table.
//
// Products and places are read from memory (reads.go): their bodies were rendered when
// they changed, and what is made of them on first use, one language or a compressed
// form, is kept within a bound (variants.go). Each representation has a strong ETag of
// its own (etag.go); what no credential was shown for may be kept, by shared caches if
// the URL says all that it depends on.
//
// The order of checks for events is the order of their cost: credential, scope,
// whether the log takes anything at all, the tenant's rate, the declared size,
// the memory for the body, and only then the body itself.
//
// # Concurrency
//
// A Server is safe for concurrent use. It starts one goroutine per listener (in
// Serve), one per open tail for heartbeats, and short-lived ones for readiness
// probes; all end with what they belong to.
//
// # Lifecycle
//
// New validates. Serve blocks until its context ends or Shutdown is called. On
// the way down readiness fails first, then the tails end, then requests in
// flight finish, and what is still open at the deadline is cut.
//
// # Limits of net/http
//
// A request that net/http itself cannot parse, or whose header is too large, is
// answered by it with a plain-text 400 or 431 before this package sees it.
package httpapi
