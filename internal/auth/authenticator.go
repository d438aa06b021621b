package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// Options says how an Authenticator judges. At least one of Issuer, Remote and
// Keys is required; other zero fields take the default.
type Options struct {
	// Issuer verifies the tokens of this server. Nil accepts none.
	Issuer *Issuer
	// Remote verifies the tokens of an outside issuer. Nil accepts none. The
	// caller closes it.
	Remote *RemoteKeys
	// Keys verifies API keys. Nil accepts none.
	Keys *Keys

	// CacheEntries bounds the verified credentials that are remembered; 100,000
	// by default. One takes about 300 bytes.
	CacheEntries int
	// RefusedEntries bounds the refused credentials that are remembered; 10,000
	// by default. They have a cache of their own, so that garbage cannot push out
	// what is good.
	RefusedEntries int
	// TokenCacheTTL is how long a verified token is believed, at most until it
	// expires; 5 minutes by default.
	TokenCacheTTL time.Duration
	// KeyCacheTTL is how long a verified API key is believed: how long a key that
	// another instance revoked still works here, if nobody tells of it. 10 seconds by
	// default; half a second if Keys has a cache, which is asked then.
	KeyCacheTTL time.Duration
	// RefusedTTL is how long a refusal is repeated without looking again; 5
	// seconds by default.
	RefusedTTL time.Duration
	// VerifyTimeout bounds one verification, which may have to ask the key store
	// or the outside issuer; 5 seconds by default.
	VerifyTimeout time.Duration
	// Metrics counts look-ups and refusals. Nil means none.
	Metrics *Metrics
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Issuer == nil && o.Remote == nil && o.Keys == nil {
		errs = append(errs, errors.New("auth: nobody could log in; give a local issuer, an outside issuer or API keys"))
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"cache entries", &o.CacheEntries, 100_000},
		{"refused entries", &o.RefusedEntries, 10_000},
	} {
		if *n.value == 0 {
			*n.value = n.def
		}
		if *n.value < 0 {
			errs = append(errs, fmt.Errorf("auth: %s is %d; give a number above zero", n.name, *n.value))
		}
	}
	keyTTL := 10 * time.Second
	if o.Keys != nil && o.Keys.cache != nil {
		keyTTL = defaultKeyCacheTTL
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"token cache TTL", &o.TokenCacheTTL, 5 * time.Minute},
		{"key cache TTL", &o.KeyCacheTTL, keyTTL},
		{"refused TTL", &o.RefusedTTL, 5 * time.Second},
		{"verify timeout", &o.VerifyTimeout, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("auth: %s is %s; give a positive time", d.name, *d.value))
		}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, errors.Join(errs...)
}

// digest identifies a credential without keeping it.
type digest = [sha256.Size]byte

// digestOf hashes a credential, without allocating for one of up to 1 KiB.
func digestOf(credential string) digest {
	var stack [1024]byte
	return sha256.Sum256(append(stack[:0], credential...))
}

// verdict is what is remembered of a credential: a principal or a refusal.
type verdict struct {
	principal *Principal
	refusal   *Error
	until     time.Time // when it must be looked at again
	epoch     uint64    // Keys.epoch before it was looked at; API keys only
}

// Authenticator turns credentials into principals and remembers its verdicts,
// by the SHA-256 of the credential, in two bounded caches. It is safe for
// concurrent use and needs no closing.
type Authenticator struct {
	options Options
	good    *otter.Cache[digest, *verdict]
	bad     *otter.Cache[digest, *verdict]
	flight  singleflight.Group
}

// New returns an Authenticator.
func New(o Options) (*Authenticator, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	good, err := otter.New(&otter.Options[digest, *verdict]{MaximumSize: o.CacheEntries})
	if err != nil {
		return nil, fmt.Errorf("auth: set up the cache of %d verified credentials: %w", o.CacheEntries, err)
	}
	bad, err := otter.New(&otter.Options[digest, *verdict]{MaximumSize: o.RefusedEntries})
	if err != nil {
		return nil, fmt.Errorf("auth: set up the cache of %d refused credentials: %w", o.RefusedEntries, err)
	}
	return &Authenticator{options: o, good: good, bad: bad}, nil
}

// Authenticate says whose credential it is: a JSON Web Token or an API key, as
// it stands after "Bearer " in the Authorization header, or in X-API-Key. The
// principal is shared and must not be changed.
//
// An *Error means that the credential is refused. Any other error means that it
// could not be judged: an *UnavailableError, or the context's.
func (a *Authenticator) Authenticate(ctx context.Context, credential string) (*Principal, error) {
	p, err := a.authenticate(ctx, credential)
	if err != nil {
		a.options.Metrics.refused(err)
		return nil, err
	}
	return p, nil
}

func (a *Authenticator) authenticate(ctx context.Context, credential string) (*Principal, error) {
	if credential == "" {
		return nil, &Error{Code: CodeTokenMissing, Detail: "no credential was sent; send \"Authorization: Bearer <token or API key>\""}
	}
	if len(credential) > maxCredentialBytes {
		return nil, &Error{Code: CodeTokenMalformed, Detail: fmt.Sprintf("the credential has more than %d bytes; send a token or an API key as it was issued", maxCredentialBytes)}
	}
	sum := digestOf(credential)
	if v := a.remembered(sum); v != nil {
		a.options.Metrics.hits.Inc()
		return v.answer()
	}
	a.options.Metrics.misses.Inc()
	return a.miss(ctx, sum, credential)
}

// remembered returns the verdict on a credential that may still be believed, nil if
// there is none.
func (a *Authenticator) remembered(sum digest) *verdict {
	now := a.options.Now()
	if v, ok := a.good.GetIfPresent(sum); ok && a.current(v, now) {
		return v
	}
	if v, ok := a.bad.GetIfPresent(sum); ok && now.Before(v.until) {
		return v
	}
	return nil
}

// answer is what a verdict comes to.
func (v *verdict) answer() (*Principal, error) {
	if v.refusal != nil {
		return nil, v.refusal
	}
	return v.principal, nil
}

// current says whether a remembered principal may still be believed.
func (a *Authenticator) current(v *verdict, now time.Time) bool {
	if !now.Before(v.until) {
		return false
	}
	return v.principal.Method != MethodKey || v.epoch == a.options.Keys.epoch.Load()
}

// miss verifies a credential, once for all who bring it at the same time. The
// verification does not end with the caller that happened to begin it.
func (a *Authenticator) miss(ctx context.Context, sum digest, credential string) (*Principal, error) {
	var epoch uint64
	if a.options.Keys != nil {
		epoch = a.options.Keys.epoch.Load()
	}
	// Who comes after a revocation must not share a look that began before it.
	id := string(binary.BigEndian.AppendUint64(sum[:], epoch))
	outcome := a.flight.DoChan(id, func() (any, error) {
		// A look may have ended since the caller found nothing remembered.
		if v := a.remembered(sum); v != nil {
			return v.answer()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.options.VerifyTimeout)
		defer cancel()
		return a.verify(ctx, sum, credential, epoch)
	})
	select {
	case r := <-outcome:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Principal), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("auth: the caller left before its credential was verified: %w", ctx.Err())
	}
}

// verify judges a credential and remembers the verdict.
func (a *Authenticator) verify(ctx context.Context, sum digest, credential string, epoch uint64) (*Principal, error) {
	p, until, err := a.judge(ctx, credential)
	now := a.options.Now()
	if err != nil {
		var refusal *Error
		if errors.As(err, &refusal) {
			a.bad.Set(sum, &verdict{refusal: refusal, until: now.Add(a.options.RefusedTTL)})
			a.good.Invalidate(sum)
		}
		return nil, err
	}
	ttl := a.options.TokenCacheTTL
	if p.Method == MethodKey {
		ttl = a.options.KeyCacheTTL
	}
	if latest := now.Add(ttl); until.IsZero() || until.After(latest) {
		until = latest
	}
	a.good.Set(sum, &verdict{principal: p, until: until, epoch: epoch})
	return p, nil
}

// judge hands a credential to whoever can verify it. The time is when it ends,
// zero if it does not.
func (a *Authenticator) judge(ctx context.Context, credential string) (*Principal, time.Time, error) {
	if strings.HasPrefix(credential, KeyPrefix) {
		if a.options.Keys == nil {
			return nil, time.Time{}, &Error{Code: CodeKeyUnknown, Detail: "this server accepts no API keys; send a token"}
		}
		p, err := a.options.Keys.Verify(ctx, credential)
		if err != nil {
			return nil, time.Time{}, err
		}
		return p, p.ExpiresAt, nil
	}
	h, err := readHeader(credential)
	if err != nil {
		return nil, time.Time{}, err
	}
	// The header only chooses who judges; each judge trusts its own keys alone.
	issuer, remote := a.options.Issuer, a.options.Remote
	switch {
	case issuer != nil && (remote == nil || h.Kid == issuer.keyID):
		return issuer.verify(credential, h)
	case remote != nil:
		return remote.verify(ctx, credential, h)
	}
	return nil, time.Time{}, &Error{Code: CodeTokenKeyUnknown, Detail: "this server accepts no tokens; send an API key"}
}
