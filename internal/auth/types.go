// Package auth says who a caller is. It verifies the two kinds of credential a
// caller may bring, JSON Web Tokens and API keys, and turns them into a
// Principal: a tenant, a subject and a set of scopes.
//
// Parts. An Issuer is the local Ed25519 key that mints and verifies this
// server's own tokens. A RemoteKeys is an outside issuer's key set (JWKS), kept
// fresh in the background. Keys creates, lists, revokes and verifies API keys
// that lie hashed in a KeyStore. An Authenticator stands before all three and
// remembers what it has verified, so that a returning credential costs a hash
// and a look-up.
//
// Concurrency. Everything exported is safe for concurrent use after its
// constructor returned. A Principal that came from an Authenticator is shared
// between callers: it must not be changed.
//
// Lifecycle. RemoteKeys owns one goroutine, which Close stops and waits for.
// Authenticator, Keys and Issuer own none.
//
// Revocation. A revoked API key stops at once on the instance that revoked it,
// and elsewhere as soon as the cached verdict is older than
// Options.KeyCacheTTL (10 seconds by default). A token cannot be revoked: it
// ends when it expires, so its life should be short.
//
// Errors. What a caller can mend is an *Error (answer 401). Everything else,
// an *UnavailableError among it, means that the credential could not be judged
// (answer 503): it is neither good nor bad.
package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/audit"
)

// Ways a Principal proved who it is.
const (
	MethodJWT      = "jwt"
	MethodKey      = "key"
	MethodOperator = "operator"
)

// Principal is an authenticated caller. It is shared: treat it as read-only.
type Principal struct {
	// TenantID is the tenant the caller belongs to and is confined to.
	TenantID string
	// Subject names the caller within its tenant. For an API key it is
	// "key:" and the key's id.
	Subject string
	// Scopes is what the caller may do.
	Scopes Scopes
	// Method says how the caller proved itself: "jwt", "key" or "operator".
	Method string
	// KeyID is the API key's id, empty for other methods.
	KeyID string
	// ExpiresAt is when the credential ends, zero if it does not.
	ExpiresAt time.Time
}

// Has says whether the caller may do what the scope covers. It is false for a
// nil Principal.
func (p *Principal) Has(s Scope) bool { return p != nil && p.Scopes.Has(s) }

// Operator returns the principal of someone who reached the server from the
// machine it runs on: all scopes, confined to one tenant.
func Operator(tenantID string) *Principal {
	return &Principal{TenantID: tenantID, Subject: "operator", Scopes: MakeScopes(ScopeAdmin), Method: MethodOperator}
}

// Codes of an Error. They are stable: clients may switch on them.
const (
	CodeTokenMissing     = "token-missing"       // no credential at all
	CodeTokenMalformed   = "token-malformed"     // neither a JWT nor an API key
	CodeTokenAlgorithm   = "token-algorithm"     // signed with an algorithm that is not accepted
	CodeTokenSignature   = "token-signature"     // the signature does not fit
	CodeTokenKeyUnknown  = "token-key-unknown"   // signed with a key that is not known
	CodeTokenExpired     = "token-expired"       // ended, or has no end
	CodeTokenNotYetValid = "token-not-yet-valid" // begins in the future
	CodeTokenIssuer      = "token-issuer"        // from an issuer that is not trusted
	CodeTokenAudience    = "token-audience"      // meant for someone else
	CodeTokenTenant      = "token-tenant"        // names no tenant, or no valid one
	CodeTokenSubject     = "token-subject"       // names no subject
	CodeKeyUnknown       = "key-unknown"         // no such API key, or its secret is wrong
	CodeKeyRevoked       = "key-revoked"         // the API key was revoked
	CodeKeyExpired       = "key-expired"         // the API key has ended
)

// Error says why a credential was refused. Both fields are safe to show to the
// caller: they hold nothing of the credential.
type Error struct {
	// Code is one of the Code constants.
	Code string
	// Detail says what is wrong and what to do.
	Detail string
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

// UnavailableError says that a credential could not be judged now, because the
// key store or the outside issuer's keys could not be reached. Its message is
// safe to show; the cause is for the log.
type UnavailableError struct {
	Detail string
	// RetryAfter is how long to wait before trying again.
	RetryAfter time.Duration
	Err        error
}

func (e *UnavailableError) Error() string { return e.Detail }

func (e *UnavailableError) Unwrap() error { return e.Err }

// InvalidError says that an argument of a request to make a key or a token is
// wrong. It is safe to show to the caller.
type InvalidError struct {
	// Field names the argument in camelCase: "tenantId", "name", "scopes", "ttl".
	Field string
	// Detail says what is wrong and what to do.
	Detail string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Detail }

// Key is an API key as it is kept: everything but the secret.
type Key struct {
	// ID is the public part of the key, unique over all tenants.
	ID       string
	TenantID string
	// Name is what its owner calls it.
	Name string
	// Scopes are scope names, in the order of KnownScopes.
	Scopes []string
	// Hash is the SHA-256 of the secret.
	Hash      [32]byte
	CreatedAt time.Time
	// ExpiresAt is when the key ends, zero if it does not.
	ExpiresAt time.Time
	// RevokedAt is when the key was revoked, zero if it was not.
	RevokedAt time.Time
	// CreatedBy is the subject that created the key.
	CreatedBy string
}

// KeyStore keeps API keys. Implementations are safe for concurrent use. Times
// are kept to the microsecond or better and come back in UTC.
type KeyStore interface {
	// Insert writes a new key and its audit entry (CreatedEntry) in one durable
	// transaction. ErrKeyExists if the id is taken.
	Insert(ctx context.Context, k Key, by audit.Actor) error
	// ByID returns a key whatever its state and tenant, ErrKeyNotFound if there
	// is none.
	ByID(ctx context.Context, id string) (Key, error)
	// List returns all keys of a tenant, the newest first.
	List(ctx context.Context, tenantID string) ([]Key, error)
	// Revoke marks a tenant's key as revoked and writes the audit entry
	// (RevokedEntry) in one durable transaction, ErrKeyNotFound if the tenant has
	// no such key. A key that is revoked already keeps its first time, without
	// another entry.
	Revoke(ctx context.Context, tenantID, id string, at time.Time, by audit.Actor) error
}

// Errors a KeyStore answers with; test with errors.Is.
var (
	ErrKeyNotFound = errors.New("API key not found")
	ErrKeyExists   = errors.New("an API key with that id exists")
)

// CreateKey asks for a new API key.
type CreateKey struct {
	TenantID string
	// Name is what the owner calls the key: 1 to 100 printable characters.
	Name string
	// Scopes are scope names, at least one.
	Scopes []string
	// TTL is how long the key lives; zero means until it is revoked.
	TTL time.Duration
	// Actor is the creator; its subject becomes the key's CreatedBy.
	Actor audit.Actor
	// MayGrant is what the creator holds (its Principal.Scopes). A key never gets
	// more than its creator has, so a creator without scopes can create none.
	MayGrant Scopes
}

// Claims asks for a new token.
type Claims struct {
	TenantID string
	Subject  string
	Scopes   Scopes
	// TTL is how long the token lives, more than zero.
	TTL time.Duration
}

// maxTenantIDBytes bounds a tenant id.
const maxTenantIDBytes = 63

// ValidateTenantID says whether a tenant id is well formed: 1 to 63 of a-z,
// 0-9, '-' and '_', beginning with a letter or digit. The error, if any, is an
// *InvalidError.
func ValidateTenantID(id string) error {
	if id == "" {
		return &InvalidError{Field: "tenantId", Detail: "the tenant id is empty; give one such as \"demo\""}
	}
	if len(id) > maxTenantIDBytes {
		return &InvalidError{Field: "tenantId", Detail: fmt.Sprintf("the tenant id has %d characters; use at most %d", len(id), maxTenantIDBytes)}
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_') {
			continue
		}
		return &InvalidError{Field: "tenantId", Detail: fmt.Sprintf(
			"the tenant id %q has a character that is not allowed at position %d; use a-z, 0-9, '-' and '_', and begin with a letter or digit", id, i)}
	}
	return nil
}
