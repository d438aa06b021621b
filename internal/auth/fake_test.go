package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"millrace/internal/audit"
)

// clock is a clock that stands still until it is told otherwise.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// memoryKeys is a KeyStore in memory that counts what it is asked and can fail.
type memoryKeys struct {
	mu     sync.Mutex
	keys   map[string]Key
	byID   atomic.Int64
	broken atomic.Bool
	// revokeFails, if set, is what Revoke fails with.
	revokeFails error
	// createdBy is who made the newest key.
	createdBy audit.Actor
	// onByID, if set, runs within ByID after the key was read.
	onByID func()
}

// ann creates and revokes the keys of these tests.
var ann = audit.Actor{Subject: "ann", Method: MethodJWT, RequestID: "r1"}

var errBroken = errors.New("the disk is on fire")

func newMemoryKeys() *memoryKeys { return &memoryKeys{keys: map[string]Key{}} }

func (s *memoryKeys) Insert(_ context.Context, k Key, by audit.Actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken.Load() {
		return errBroken
	}
	if _, ok := s.keys[k.ID]; ok {
		return ErrKeyExists
	}
	s.keys[k.ID] = k
	s.createdBy = by
	return nil
}

func (s *memoryKeys) ByID(ctx context.Context, id string) (Key, error) {
	s.byID.Add(1)
	s.mu.Lock()
	k, ok := s.keys[id]
	s.mu.Unlock()
	if s.onByID != nil {
		s.onByID()
	}
	switch {
	case ctx.Err() != nil:
		return Key{}, ctx.Err()
	case s.broken.Load():
		return Key{}, errBroken
	case !ok:
		return Key{}, ErrKeyNotFound
	}
	return k, nil
}

func (s *memoryKeys) List(_ context.Context, tenantID string) ([]Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken.Load() {
		return nil, errBroken
	}
	var keys []Key
	for _, k := range s.keys {
		if k.TenantID == tenantID {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return keys, nil
}

func (s *memoryKeys) Revoke(_ context.Context, tenantID, id string, at time.Time, _ audit.Actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revokeFails != nil {
		return s.revokeFails
	}
	k, ok := s.keys[id]
	if !ok || k.TenantID != tenantID {
		return ErrKeyNotFound
	}
	if k.RevokedAt.IsZero() {
		k.RevokedAt = at
		s.keys[id] = k
	}
	return nil
}

func testIssuer(t testing.TB, now func() time.Time) *Issuer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := IssuerOptions{Now: now}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return newIssuer(private, o)
}

func testKeys(t testing.TB, store KeyStore, now func() time.Time) *Keys {
	t.Helper()
	keys, err := NewKeys(store, now)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func testAuthenticator(t testing.TB, o Options) *Authenticator {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mint(t testing.TB, i *Issuer, ttl time.Duration) string {
	t.Helper()
	token, err := i.Mint(Claims{TenantID: "demo", Subject: "till-7", Scopes: MakeScopes(ScopeEventsWrite, ScopeEventsRead), TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func createKey(t testing.TB, k *Keys, ttl time.Duration) (Key, string) {
	t.Helper()
	key, secret, err := k.Create(t.Context(), CreateKey{
		TenantID: "demo", Name: "till 7", Scopes: []string{"events:write"}, TTL: ttl, Actor: ann, MayGrant: MakeScopes(ScopeAdmin),
	})
	if err != nil {
		t.Fatal(err)
	}
	return key, secret
}

// sign makes a token with any header and claims. A nil value takes a header
// field or claim away.
func sign(t testing.TB, method jwt.SigningMethod, key any, header, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims{})
	for k, v := range header {
		token.Header[k] = v
		if v == nil {
			delete(token.Header, k)
		}
	}
	for k, v := range claims {
		if v != nil {
			token.Claims.(jwt.MapClaims)[k] = v
		}
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// wantCode fails the test unless err is an *Error of the code.
func wantCode(t testing.TB, err error, code string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want an *Error with code %s", err, err, code)
	}
	if e.Code != code {
		t.Fatalf("got code %s (%s), want %s", e.Code, e.Detail, code)
	}
	if e.Detail == "" {
		t.Fatalf("the error %s has no detail", code)
	}
	return e
}

// keySet is an outside issuer that publishes keys over HTTP.
type keySet struct {
	*httptest.Server
	fetches atomic.Int64
	mu      sync.Mutex
	answer  func(w http.ResponseWriter)
}

func newKeySet(t testing.TB) *keySet {
	s := &keySet{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		s.mu.Lock()
		answer := s.answer
		s.mu.Unlock()
		answer(w)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keySet) respond(f func(w http.ResponseWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// publish serves public keys by key id, with extra raw entries.
func (s *keySet) publish(t testing.TB, keys map[string]any, extra ...string) {
	t.Helper()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, raw := range extra {
		set.Keys = append(set.Keys, json.RawMessage(raw))
	}
	for kid, key := range keys {
		jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: jwkset.UseSig}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(jwk.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, raw)
	}
	body, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	s.respond(func(w http.ResponseWriter) { fmt.Fprintf(w, "%s", body) })
}

// notFoundWithKey answers ErrKeyNotFound and the key together.
type notFoundWithKey struct{ *memoryKeys }

func (s notFoundWithKey) ByID(ctx context.Context, id string) (Key, error) {
	k, err := s.memoryKeys.ByID(ctx, id)
	return k, errors.Join(err, ErrKeyNotFound)
}
