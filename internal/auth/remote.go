package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	maxKeySetBytes = 1 << 20
	maxKeySetKeys  = 256
	minRSABits     = 2048
)

// remoteAlgorithms are the algorithms an outside issuer may use. Symmetric ones
// and "none" are not among them and cannot be configured.
var remoteAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// RemoteOptions says which outside issuer is trusted. URL, Issuer and Audience
// are required; other zero fields take the default.
type RemoteOptions struct {
	// URL is where the issuer publishes its key set (JWKS): https, or http for an
	// issuer on the same machine or network.
	URL string
	// Issuer and Audience are the "iss" and "aud" that tokens must carry.
	Issuer   string
	Audience string
	// Algorithms are the signature algorithms that are accepted, asymmetric ones
	// only; RS256, ES256 and EdDSA by default.
	Algorithms []string
	// TenantClaim is the claim that names the tenant; "tenant_id" by default.
	TenantClaim string
	// Leeway is as for IssuerOptions.
	Leeway time.Duration
	// RefreshInterval is how often the key set is fetched; 15 minutes by default.
	// A key the issuer withdrew is refused after that and Options.TokenCacheTTL.
	RefreshInterval time.Duration
	// UnknownKeyInterval is the least time between two fetches caused by tokens
	// with an unknown key id; 10 seconds by default. A token signed with a key
	// newer than the last fetch may be refused for that long.
	UnknownKeyInterval time.Duration
	// Timeout bounds one fetch; 5 seconds by default.
	Timeout time.Duration
	// Transport carries the fetches; http.DefaultTransport by default.
	Transport http.RoundTripper
	// Logger hears of fetches that fail and of recovery. Nil means silence.
	Logger *slog.Logger
	// Metrics counts fetches. Nil means none.
	Metrics *Metrics
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

func (o RemoteOptions) withDefaults() (RemoteOptions, error) {
	var errs []error
	if u, err := url.Parse(o.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		errs = append(errs, fmt.Errorf("auth: %q is not a URL of a key set; give one such as https://issuer.example/.well-known/jwks.json", o.URL))
	}
	if o.Issuer == "" {
		errs = append(errs, errors.New("auth: the outside issuer needs an issuer name, the \"iss\" of its tokens"))
	}
	if o.Audience == "" {
		errs = append(errs, errors.New("auth: the outside issuer needs an audience, the \"aud\" of tokens meant for this server"))
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = []string{"RS256", "ES256", "EdDSA"}
	}
	for _, a := range o.Algorithms {
		if !slices.Contains(remoteAlgorithms, a) {
			errs = append(errs, fmt.Errorf("auth: signature algorithm %q is not accepted; use some of %v", a, remoteAlgorithms))
		}
	}
	if o.TenantClaim == "" {
		o.TenantClaim = defaultTenantClaim
	}
	var err error
	if o.Leeway, err = checkLeeway(o.Leeway); err != nil {
		errs = append(errs, err)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"refresh interval", &o.RefreshInterval, 15 * time.Minute},
		{"unknown key interval", &o.UnknownKeyInterval, 10 * time.Second},
		{"timeout", &o.Timeout, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("auth: the %s of the outside issuer is %s; give a positive time", d.name, *d.value))
		}
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
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
	return o, errors.Join(errs...)
}

// RemoteKeys verifies tokens of an outside issuer with the keys it publishes.
//
// One goroutine fetches the key set, at start, at every RefreshInterval, and
// when a token names a key that is not in the set. Fetches of the last kind are
// shared by everyone who waits and are at least UnknownKeyInterval apart, so
// that tokens with made-up key ids cost the issuer next to nothing. A fetch that
// fails leaves the keys as they are.
type RemoteKeys struct {
	options RemoteOptions
	rules   tokenRules
	client  *http.Client
	storage jwkset.Storage
	keys    keyfunc.Keyfunc

	requests chan struct{} // asks the goroutine for a fetch; holds one
	stop     context.CancelFunc
	done     chan struct{} // closed when the goroutine has ended

	mu        sync.Mutex
	fetchedAt time.Time     // end of the last fetch, good or bad; zero before the first
	fetchErr  error         // outcome of the last fetch
	loaded    bool          // whether any fetch succeeded
	next      chan struct{} // closed at the end of the fetch that runs or comes next
}

// NewRemoteKeys begins to fetch the key set in the background and returns at
// once: an issuer that is down does not keep the server from starting.
func NewRemoteKeys(o RemoteOptions) (*RemoteKeys, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	storage := jwkset.NewMemoryStorage()
	keys, err := keyfunc.New(keyfunc.Options{Storage: storage})
	if err != nil {
		return nil, fmt.Errorf("auth: set up the outside issuer's keys: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &RemoteKeys{
		options: o,
		rules: tokenRules{
			algorithms:  o.Algorithms,
			issuer:      o.Issuer,
			audience:    o.Audience,
			tenantClaim: o.TenantClaim,
			leeway:      o.Leeway,
			now:         o.Now,
			newToken:    "get a new one from its issuer",
		},
		client: &http.Client{
			Transport: o.Transport,
			Timeout:   o.Timeout,
			// An issuer has no need to send us elsewhere, and a redirect could
			// lead to a place that someone else controls.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		storage:  storage,
		keys:     keys,
		requests: make(chan struct{}, 1),
		stop:     stop,
		done:     make(chan struct{}),
		next:     make(chan struct{}),
	}
	go r.run(ctx)
	return r, nil
}

// Close stops the fetching and waits until it has ended. Calling it again does
// nothing.
func (r *RemoteKeys) Close() {
	r.stop()
	<-r.done
}

// Ready is nil once a key set has been fetched, and says what is wrong before.
func (r *RemoteKeys) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.loaded:
		return nil
	case r.fetchErr != nil:
		return fmt.Errorf("no key set of issuer %s yet: %w", r.options.Issuer, r.fetchErr)
	}
	return fmt.Errorf("the key set of issuer %s is being fetched", r.options.Issuer)
}

func (r *RemoteKeys) run(ctx context.Context) {
	defer close(r.done)
	ticker := time.NewTicker(r.options.RefreshInterval)
	defer ticker.Stop()
	for {
		err := r.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		r.finish(err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-r.requests:
		}
	}
}

// finish notes the outcome of a fetch and wakes everyone who waits for it.
func (r *RemoteKeys) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	failedBefore := r.fetchErr != nil
	r.fetchedAt, r.fetchErr = r.options.Now(), err
	close(r.next)
	r.next = make(chan struct{})
	r.options.Metrics.fetched(err)
	switch {
	case err != nil:
		r.options.Logger.Warn("cannot fetch the issuer's keys; the known ones stay in use, and it is tried again",
			"issuer", r.options.Issuer, "url", r.options.URL, "haveKeys", r.loaded, "error", err)
	case failedBefore:
		r.options.Logger.Info("the issuer's keys are fetched again", "issuer", r.options.Issuer, "url", r.options.URL)
	}
	r.loaded = r.loaded || err == nil
}

// fetch replaces the keys by those the issuer publishes now.
func (r *RemoteKeys) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.options.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the issuer answered %s instead of 200 OK", resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
	if err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	if len(raw) > maxKeySetBytes {
		return fmt.Errorf("the key set has more than %d bytes", maxKeySetBytes)
	}
	keys, err := r.parse(raw)
	if err != nil {
		return err
	}
	return r.storage.KeyReplaceAll(ctx, keys)
}

// parse reads a key set and keeps the keys that can verify a token here. One
// key of an unknown kind must not take the others down with it.
func (r *RemoteKeys) parse(raw []byte) ([]jwkset.JWK, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("the key set is not valid JSON: %w", err)
	}
	if len(set.Keys) > maxKeySetKeys {
		return nil, fmt.Errorf("the key set has %d keys, more than %d", len(set.Keys), maxKeySetKeys)
	}
	var keys []jwkset.JWK
	for _, m := range set.Keys {
		if m.USE != "" && m.USE != jwkset.UseSig {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err == nil {
			err = checkRemoteKey(m.KID, key.Key())
		}
		if err != nil {
			r.options.Logger.Debug("a key of the issuer is left out", "issuer", r.options.Issuer, "kid", m.KID, "error", err)
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of the %d keys in the key set can verify a token; it needs RSA (%d bits or more), EC or Ed25519 keys with a \"kid\"", len(set.Keys), minRSABits)
	}
	return keys, nil
}

// checkRemoteKey says why a published key cannot be used, if so.
func checkRemoteKey(kid string, key any) error {
	if kid == "" {
		return errors.New("it has no \"kid\"")
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("an RSA key of %d bits is too short", bits)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("a %T is not a public key for signatures", key)
	}
	return nil
}

// verify checks a token of the outside issuer. A key id that is not known is
// worth one fetch, if the last one is long enough ago.
func (r *RemoteKeys) verify(ctx context.Context, token string, h tokenHeader) (*Principal, time.Time, error) {
	if err := r.rules.checkAlgorithm(h.Alg); err != nil {
		return nil, time.Time{}, err
	}
	if h.Kid == "" {
		return nil, time.Time{}, &Error{Code: CodeTokenKeyUnknown, Detail: "the token does not say which key signed it (\"kid\"); " + r.rules.newToken}
	}
	if err := r.ensureKey(ctx, h.Kid); err != nil {
		return nil, time.Time{}, err
	}
	return r.rules.verify(token, func(t *jwt.Token) (any, error) {
		key, err := r.keys.KeyfuncCtx(ctx)(t)
		if err != nil {
			return nil, &Error{Code: CodeTokenAlgorithm, Detail: "the token's key is not meant for the algorithm it was used with; " + r.rules.newToken}
		}
		return key, nil
	})
}

// ensureKey returns nil if the key is known, now or after a fetch.
func (r *RemoteKeys) ensureKey(ctx context.Context, kid string) error {
	if r.has(ctx, kid) {
		return nil
	}
	if wait := r.requestFetch(); wait != nil {
		select {
		case <-wait:
		case <-r.done:
		case <-ctx.Done():
			return &UnavailableError{Detail: "the issuer's keys could not be fetched in time; try again shortly", RetryAfter: time.Second, Err: ctx.Err()}
		}
		if r.has(ctx, kid) {
			return nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fetchErr != nil || !r.loaded {
		// The key may well be a new one: with the issuer down nobody can tell.
		return &UnavailableError{Detail: "the keys of the token's issuer cannot be fetched, so the token cannot be checked; try again shortly",
			RetryAfter: r.options.UnknownKeyInterval, Err: r.fetchErr}
	}
	return &Error{Code: CodeTokenKeyUnknown, Detail: "the token was signed with a key that its issuer does not publish; " + r.rules.newToken}
}

func (r *RemoteKeys) has(ctx context.Context, kid string) bool {
	_, err := r.storage.KeyRead(ctx, kid)
	return err == nil
}

// requestFetch asks for a fetch and returns a channel that closes when it has
// ended, or nil if the last one is too recent.
func (r *RemoteKeys) requestFetch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fetchedAt.IsZero() {
		return r.next // the first fetch is under way
	}
	if r.options.Now().Sub(r.fetchedAt) < r.options.UnknownKeyInterval {
		return nil
	}
	select {
	case r.requests <- struct{}{}:
	default: // someone has asked already
	}
	return r.next
}
