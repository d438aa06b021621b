package httpapi

import (
	"net/http"

	"millrace/internal/auth"
	"millrace/internal/order"
)

// Problem types of the edge itself. Those of the domain (event.Unavailable) and
// of auth carry their own names; all stand in problemKinds.
const (
	slugInvalidParameter = "invalid-parameter"
	slugInvalidBody      = "invalid-body"
	slugMalformedBody    = "malformed-body"
	slugWrongShape       = "wrong-shape"
	slugTruncatedBody    = "truncated-body"
	slugCorruptEncoding  = "corrupt-encoding"
	slugSlowBody         = "slow-body"
	slugBodyTooLarge     = "body-too-large"
	slugTooManyEvents    = "too-many-events"
	slugMediaType        = "unsupported-media-type"
	slugEncoding         = "unsupported-encoding"
	slugEmptyBatch       = "empty-batch"
	slugNoValidEvents    = "no-valid-events"
	slugUnauthenticated  = "unauthenticated"
	slugScopeMissing     = "scope-missing"
	slugNotFound         = "not-found"
	slugMethodNotAllowed = "method-not-allowed"
	slugNotRedrivable    = "not-redrivable"
	slugRateLimited      = "rate-limited"
	slugTooManyStreams   = "too-many-streams"
	slugTooManyReads     = "too-many-reads"
	slugOverloaded       = "overloaded"
	slugOutcomeUnknown   = "outcome-unknown"
	slugQueryTimeout     = "query-timeout"
	slugAuthUnavailable  = "auth-unavailable"
	slugNotReady         = "not-ready"
	slugNotImplemented   = "not-enabled"
	slugHookUnknown      = "webhook-unknown"
	slugHookUnverified   = "webhook-unverified"
	slugWebhookPayload   = "webhook-invalid"
	slugClientGone       = "client-gone"
	slugInternal         = "internal"
	slugTenantMissing    = "tenant-missing"

	slugKeyMissing           = "idempotency-key-missing"
	slugKeyReused            = "idempotency-key-reused"
	slugOutOfStock           = order.RefusedOutOfStock
	slugUnknownSKU           = order.RefusedUnknownSKU
	slugInactiveProduct      = order.RefusedInactive
	slugCurrencyMismatch     = order.RefusedCurrency
	slugTotalTooLarge        = order.RefusedTotal
	slugOrderState           = "order-state"
	slugStockReserved        = "stock-reserved"
	slugStockOutOfRange      = "stock-out-of-range"
	slugPreconditionFailed   = "precondition-failed"
	slugPreconditionRequired = "precondition-required"
	slugTooManyEndpoints     = "too-many-endpoints"
	slugSlugTaken            = "slug-taken"
	slugLoading              = "loading"
	slugTooManyWaits         = "too-many-waits"
	slugStoreUnavailable     = "store-unavailable"
)

// statusClientGone is for the log: nobody reads the answer.
const statusClientGone = 499

// problemKind says what one problem type means, to clients and on the docs page.
type problemKind struct {
	slug   string
	status int
	title  string
	// about says what the client should do.
	about string
}

// problemKinds is every problem type there is, in the order of the docs page.
// It is never changed.
var problemKinds = [...]problemKind{
	{slugInvalidParameter, 400, "A parameter is not valid", "Mend the parameter that errors[].location names."},
	{slugMalformedBody, 400, "The body is not what its Content-Type says", "Send valid JSON (RFC 8259, UTF-8)."},
	{slugWrongShape, 400, "The body holds no batch of events", "Send an array of events, {\"events\":[…]}, NDJSON or CloudEvents."},
	{slugTruncatedBody, 400, "The body ended early", "Send the request again; nothing of it was kept."},
	{slugCorruptEncoding, 400, "The compressed body cannot be decompressed", "Compress the body as Content-Encoding says, or send it plain."},
	{slugKeyMissing, 400, "The Idempotency-Key is missing", "Send the header Idempotency-Key with a new random value for each order, such as a UUID, and the same value when you repeat the request."},
	{slugTenantMissing, 400, "The request names no tenant", "Name the tenant in the X-Millrace-Tenant header."},
	{slugWebhookPayload, 400, "The webhook delivery cannot be used", "Send the delivery as the source's scheme demands."},
	{auth.CodeTokenMissing, 401, "A credential is needed", "Send Authorization: Bearer with a token or an API key."},
	{auth.CodeTokenMalformed, 401, "The credential is neither a token nor an API key", "Send a JWT or an API key that begins with mrk_."},
	{auth.CodeTokenAlgorithm, 401, "The token's algorithm is not accepted", "Have the token signed with an algorithm that this server trusts."},
	{auth.CodeTokenSignature, 401, "The token's signature does not fit", "Get a new token from the issuer."},
	{auth.CodeTokenKeyUnknown, 401, "The token's signing key is not known", "Get a new token from an issuer that this server trusts."},
	{auth.CodeTokenExpired, 401, "The token has expired", "Get a new token."},
	{auth.CodeTokenNotYetValid, 401, "The token is not valid yet", "Wait, or set the clock right."},
	{auth.CodeTokenIssuer, 401, "The token's issuer is not trusted", "Use a token of an issuer that this server trusts."},
	{auth.CodeTokenAudience, 401, "The token is meant for someone else", "Ask the issuer for a token with this server's audience."},
	{auth.CodeTokenTenant, 401, "The token names no valid tenant", "Ask the issuer for a token with the tenant claim."},
	{auth.CodeTokenSubject, 401, "The token names no subject", "Ask the issuer for a token with a subject."},
	{auth.CodeKeyUnknown, 401, "The API key is not known", "Check the key; create a new one if it is lost."},
	{auth.CodeKeyRevoked, 401, "The API key was revoked", "Use another key."},
	{auth.CodeKeyExpired, 401, "The API key has expired", "Create a new key."},
	{slugUnauthenticated, 401, "The credential was refused", "Use another credential."},
	{slugHookUnverified, 401, "The webhook's signature was not accepted", "Sign the raw body with the source's secret, and send it while it is fresh."},
	{slugScopeMissing, 403, "The credential lacks a scope", "Use a credential that has the scope named in detail."},
	{slugNotFound, 404, "There is no such thing here", "Check the address and the id; another tenant's objects are not found either."},
	{slugHookUnknown, 404, "No webhook source of that name", "Configure the source, or mend the name in the address."},
	{slugMethodNotAllowed, 405, "The method is not allowed here", "Use one of the methods in the Allow header."},
	{slugSlowBody, 408, "The body came too slowly", "Send it faster or in smaller batches; nothing of it was kept."},
	{slugNotRedrivable, 409, "The dead letter cannot be redriven as it is", "Send a replacement event in the body, or delete it."},
	{slugOutOfStock, 409, "Not enough in stock", "items says what is available. Nothing was reserved, and the same Idempotency-Key may be used again."},
	{slugOrderState, 409, "The order's status does not allow that", "Read the order: detail says why it is too early or too late."},
	{slugStockReserved, 409, "More is reserved than would be left", "Cancel orders first, or leave at least what is reserved."},
	{slugStockOutOfRange, 409, "The stock would be out of range", "Give a smaller change; the bounds are in detail."},
	{slugSlugTaken, 409, "Another product has this slug", "Give another slug, or take it from the product that detail names first."},
	{slugTooManyEndpoints, 409, "The tenant has as many webhook endpoints as there may be", "Delete one first."},
	{slugPreconditionFailed, 412, "It has changed meanwhile", "Read it again, put your change on top and send the new ETag in If-Match."},
	{slugBodyTooLarge, 413, "The body is too large", "Send smaller batches; the limit is in detail and counts decompressed bytes."},
	{slugTooManyEvents, 413, "The batch holds too many events", "Split the batch."},
	{slugMediaType, 415, "The Content-Type is not supported", "Use one of the media types named in detail."},
	{slugEncoding, 415, "The Content-Encoding is not supported", "Use gzip or zstd, or send the body plain."},
	{slugInvalidBody, 422, "The body is not valid", "Mend what errors[].location names."},
	{slugKeyReused, 422, "The Idempotency-Key was used for another request", "Use a new key for a new request, and the same body with the same key when you repeat one."},
	{slugUnknownSKU, 422, "No such product", "items names what the catalogue does not have."},
	{slugInactiveProduct, 422, "The product cannot be ordered", "items names what is not on sale now."},
	{slugCurrencyMismatch, 422, "The products have prices in different currencies", "Order the products that items names separately."},
	{slugTotalTooLarge, 422, "The order's total is too large", "Order less at once."},
	{slugEmptyBatch, 422, "The batch holds no event", "Send at least one event."},
	{slugNoValidEvents, 422, "No event of the batch is valid", "Mend the events as rejected[].reason says. They are kept as dead letters."},
	{slugPreconditionRequired, 428, "Say which version you saw", "Send If-Match with the ETag that the answer carries, if that is the version you want to change."},
	{slugRateLimited, 429, "The tenant's rate or quota is used up", "Wait for retryAfter seconds; the detail says which of them it is, and the RateLimit headers what is left."},
	{slugTooManyStreams, 429, "Too many live tails are open", "Close one, or share one between readers."},
	{slugTooManyWaits, 429, "Too many requests wait for a change", "Ask without wait, every few seconds."},
	{slugTooManyReads, 429, "Too many reads are under way", "Wait for one to end; read fewer pages at once."},
	{slugClientGone, statusClientGone, "The client went away", "Nothing: this appears in logs only."},
	{slugInternal, 500, "Something went wrong here", "Try again; if it stays, report the instance."},
	{slugNotImplemented, 501, "Not enabled on this server", "Ask the operator which features this server runs."},
	{"backlog-full", 503, "The backlog is full", "Wait for retryAfter seconds and send again; nothing was kept."},
	{"disk-full", 503, "The disk is full", "Wait for retryAfter seconds and send again; nothing was kept. The operator must free space."},
	{slugOverloaded, 503, "The server is at its limit", "Wait for retryAfter seconds and send again; nothing was kept."},
	{"stream-away", 503, "The stream that keeps events takes nothing", "Wait for retryAfter seconds and send again; nothing was kept. The operator must see to the stream's servers."},
	{"log-failed", 503, "The log failed", "Send again to another instance; this one stops."},
	{"shutting-down", 503, "The server is shutting down", "Send again; another instance or the restarted one will answer."},
	{"store-timeout", 503, "The store did not answer in time", "Send again with the same ids: the events may be there already."},
	{"store-behind", 503, "The store is behind the log", "Wait for retryAfter seconds and redrive again; nothing was done."},
	{slugStoreUnavailable, 503, "The database does not take writes now", "Wait for retryAfter seconds and send again; nothing was done."},
	{slugOutcomeUnknown, 503, "The outcome is not known", "Send again with the same ids, or the same Idempotency-Key: what was kept is recognised."},
	{slugQueryTimeout, 503, "The query took too long", "Ask for a shorter time range or a smaller page."},
	{slugAuthUnavailable, 503, "Credentials cannot be checked now", "Wait for retryAfter seconds and try again."},
	{slugLoading, 503, "Not everything is in memory yet", "Wait for retryAfter seconds and ask again, or ask another instance: this one has just started."},
	{slugNotReady, 503, "Not ready", "Send requests to another instance until this one is ready."},
}

// lookupKind finds a kind by its slug. The table is short and only refusals come
// here.
func lookupKind(slug string) (problemKind, bool) {
	for i := range problemKinds {
		if problemKinds[i].slug == slug {
			return problemKinds[i], true
		}
	}
	return problemKind{}, false
}

// slugForStatus is the type of a problem that only has a status.
func slugForStatus(status int) string {
	switch status {
	case http.StatusBadRequest:
		return slugMalformedBody
	case http.StatusNotFound:
		return slugNotFound
	case http.StatusMethodNotAllowed:
		return slugMethodNotAllowed
	case http.StatusRequestTimeout:
		return slugSlowBody
	case http.StatusRequestEntityTooLarge:
		return slugBodyTooLarge
	case http.StatusUnsupportedMediaType:
		return slugMediaType
	case http.StatusUnprocessableEntity:
		return slugInvalidBody
	}
	return slugInternal
}
