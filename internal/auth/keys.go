package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/internal/audit"
	"millrace/internal/cache"
)

// An API key is "mrk_" id "_" secret: 10 random bytes in base32 and 32 in
// base62, so that a double click selects all of it and a scanner for leaked
// secrets can tell what it is.
const (
	// KeyPrefix begins every API key.
	KeyPrefix = "mrk_"

	keyIDBytes      = 10
	keyIDChars      = 16
	keySecretBytes  = 32
	keySecretChars  = 43
	maxKeyNameRunes = 100
)

// keyIDEncoding is base32 in lower case. It is never changed.
var keyIDEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Keys creates, lists, revokes and verifies API keys. It is safe for concurrent
// use.
type Keys struct {
	store KeyStore
	now   func() time.Time
	cache *cache.Cache[*judged] // nil if keys are not remembered here
	// epoch goes up with every revocation here, and with those that peers tell of. A
	// cached verdict of an older epoch is void, so a revocation is felt at once.
	epoch atomic.Uint64
}

// NewKeys returns the API keys that lie in store. A nil now means time.Now.
func NewKeys(store KeyStore, now func() time.Time) (*Keys, error) {
	if store == nil {
		return nil, errors.New("auth: NewKeys needs a key store")
	}
	if now == nil {
		now = time.Now
	}
	return &Keys{store: store, now: now}, nil
}

// Create makes a new API key, keeps its hash durably, and returns it with its
// full text, which cannot be had again. An error about the request is an
// *InvalidError.
func (k *Keys) Create(ctx context.Context, req CreateKey) (Key, string, error) {
	scopes, err := k.check(req)
	if err != nil {
		return Key{}, "", err
	}
	id, secret := newKeyID(), newKeySecret()
	now := k.now().UTC().Truncate(time.Microsecond)
	key := Key{
		ID:        id,
		TenantID:  req.TenantID,
		Name:      req.Name,
		Scopes:    scopes.Names(),
		Hash:      sha256.Sum256([]byte(secret)),
		CreatedAt: now,
		CreatedBy: req.Actor.Subject,
	}
	if req.TTL > 0 {
		key.ExpiresAt = now.Add(req.TTL)
	}
	if err := k.store.Insert(ctx, key, req.Actor); err != nil {
		return Key{}, "", fmt.Errorf("auth: keep API key %s of tenant %s: %w", id, req.TenantID, err)
	}
	return key, KeyPrefix + id + "_" + secret, nil
}

// check validates a request for a key and returns its scopes.
func (k *Keys) check(req CreateKey) (Scopes, error) {
	if err := ValidateTenantID(req.TenantID); err != nil {
		return 0, err
	}
	if n := utf8.RuneCountInString(req.Name); n == 0 || n > maxKeyNameRunes {
		return 0, &InvalidError{Field: "name", Detail: fmt.Sprintf("the name has %d characters; give the key a name of 1 to %d, such as \"till 7\"", n, maxKeyNameRunes)}
	}
	if !utf8.ValidString(req.Name) || strings.ContainsFunc(req.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return 0, &InvalidError{Field: "name", Detail: "the name has characters that cannot be printed; leave them out"}
	}
	scopes, err := ParseScopeNames(req.Scopes)
	if err != nil {
		return 0, err
	}
	if !req.MayGrant.Covers(scopes) {
		return 0, &InvalidError{Field: "scopes", Detail: fmt.Sprintf(
			"a key cannot have more scopes than its creator: %s cannot be granted; leave it out or ask someone who has it",
			(scopes &^ req.MayGrant).String())}
	}
	if req.TTL < 0 || req.TTL > 0 && req.TTL < time.Second {
		return 0, &InvalidError{Field: "ttl", Detail: fmt.Sprintf("a key cannot live for %s; use at least 1s, or leave it out for a key that lives until it is revoked", req.TTL)}
	}
	if req.TTL > maxKeyTTL {
		return 0, &InvalidError{Field: "ttl", Detail: fmt.Sprintf("a key cannot live for %s; use at most %s, or leave it out for a key that lives until it is revoked", req.TTL, maxKeyTTL)}
	}
	return scopes, nil
}

// maxKeyTTL is a hundred years. Times are kept in nanoseconds, which end in 2262.
const maxKeyTTL = 100 * 365 * 24 * time.Hour

// List returns all API keys of a tenant, the newest first, revoked and expired
// ones included.
func (k *Keys) List(ctx context.Context, tenantID string) ([]Key, error) {
	keys, err := k.store.List(ctx, tenantID)
	if err != nil {
		return nil, fmt.Errorf("auth: list API keys of tenant %s: %w", tenantID, err)
	}
	return keys, nil
}

// Revoke ends a tenant's key for good. It takes effect on this instance before
// Revoke returns, and on its peers when they are told. The audit log says that it was done by the actor. The error
// wraps ErrKeyNotFound if the tenant has no such key.
func (k *Keys) Revoke(ctx context.Context, tenantID, id string, by audit.Actor) error {
	if !isKeyID(id) {
		return fmt.Errorf("auth: revoke an API key of tenant %s: %w", tenantID, ErrKeyNotFound)
	}
	err := k.store.Revoke(ctx, tenantID, id, k.now().UTC().Truncate(time.Microsecond), by)
	// Also after an error: the store may have revoked the key all the same.
	k.revoked(ctx, id, err)
	k.epoch.Add(1)
	if err != nil {
		return fmt.Errorf("auth: revoke API key %s of tenant %s: %w", id, tenantID, err)
	}
	return nil
}

// Verify checks the full text of an API key and returns who it speaks for. The
// error is an *Error, or an *UnavailableError if the store could not be asked.
// It remembers no verdict: an Authenticator does.
func (k *Keys) Verify(ctx context.Context, credential string) (*Principal, error) {
	id, secret, ok := splitKey(credential)
	if !ok {
		return nil, &Error{Code: CodeTokenMalformed, Detail: "an API key looks like mrk_<id>_<secret>; send it exactly as it was shown when it was created"}
	}
	key, err := k.byID(ctx, id)
	found := err == nil
	if err != nil && !errors.Is(err, ErrKeyNotFound) {
		return nil, &UnavailableError{Detail: "API keys cannot be checked now; try again shortly", RetryAfter: time.Second, Err: err}
	}
	// One path for a key that is not there and one whose secret is wrong: the
	// answer and its timing do not tell which ids exist. Whether a key is revoked
	// or expired is told only to who has its secret.
	sum := sha256.Sum256([]byte(secret))
	if match := subtle.ConstantTimeCompare(sum[:], key.Hash[:]) == 1; !match || !found {
		return nil, &Error{Code: CodeKeyUnknown, Detail: "there is no such API key; check it for missing characters, or create a new one"}
	}
	if !key.RevokedAt.IsZero() {
		return nil, &Error{Code: CodeKeyRevoked, Detail: fmt.Sprintf("API key %s was revoked; create a new one", id)}
	}
	if !key.ExpiresAt.IsZero() && !k.now().Before(key.ExpiresAt) {
		return nil, &Error{Code: CodeKeyExpired, Detail: fmt.Sprintf("API key %s has expired; create a new one", id)}
	}
	var scopes Scopes
	for _, name := range key.Scopes {
		// A scope that a newer version wrote grants nothing here.
		scopes |= Scope(name).bit()
	}
	return &Principal{
		TenantID:  key.TenantID,
		Subject:   "key:" + id,
		Scopes:    scopes,
		Method:    MethodKey,
		KeyID:     id,
		ExpiresAt: key.ExpiresAt,
	}, nil
}

// splitKey takes an API key apart, if it has the form of one.
func splitKey(credential string) (id, secret string, ok bool) {
	if len(credential) != len(KeyPrefix)+keyIDChars+1+keySecretChars || !strings.HasPrefix(credential, KeyPrefix) {
		return "", "", false
	}
	id, secret, ok = strings.Cut(credential[len(KeyPrefix):], "_")
	if !ok || !isKeyID(id) {
		return "", "", false
	}
	for i := 0; i < len(secret); i++ {
		c := secret[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return "", "", false
		}
	}
	return id, secret, true
}

// isKeyID says whether s has the form of a key's id.
func isKeyID(s string) bool {
	if len(s) != keyIDChars {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '2' && c <= '7') {
			return false
		}
	}
	return true
}

func newKeyID() string {
	var raw [keyIDBytes]byte
	rand.Read(raw[:]) // never fails: the process ends if the system has no randomness
	return keyIDEncoding.EncodeToString(raw[:])
}

func newKeySecret() string {
	var raw [keySecretBytes]byte
	rand.Read(raw[:])
	text := new(big.Int).SetBytes(raw[:]).Text(62)
	return strings.Repeat("0", keySecretChars-len(text)) + text
}
