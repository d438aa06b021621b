package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/cache"
)

// CacheOptions say how API keys that were read are remembered, here and in Redis.
// What is kept is what it takes to judge a key: tenant, scopes, the hash of its
// secret, and when it ends or ended. Zero fields take the default.
type CacheOptions struct {
	// TTL is how long a key is believed at most without asking the store; 3 s. A
	// revocation reaches every instance at once; where the telling is lost the key works
	// on for TTL and Options.KeyCacheTTL at most: 3.5 s.
	TTL time.Duration
	// StaleFor is how long afterwards it is believed still while the store cannot be
	// asked, so that devices get in while the database is away; 5 min, negative for
	// not at all. A key that this instance knows to be revoked never is.
	StaleFor time.Duration
	// SoftTimeout is how long someone waits for a slow store where there is an older
	// answer, 250 ms; LoadTimeout bounds one question to the store, 4 s.
	SoftTimeout, LoadTimeout time.Duration
	// MaxBytes bounds the memory for keys; 16 MiB, about 30,000 keys.
	MaxBytes int64
	// Remote is shared with the other instances; nil means memory alone.
	Remote cache.Remote
	// Peers tells the other instances of revocations; nil means that there are none.
	Peers cache.Peers
	// Instance is the name of this one among its peers.
	Instance string
	Metrics  *cache.Metrics
	Logger   *slog.Logger
}

// defaultKeyCacheTTL is how long an Authenticator believes a verified key by default
// when the keys are remembered here: looking again is cheap then.
const defaultKeyCacheTTL = 500 * time.Millisecond

// Versions of a key: it changes once.
const (
	versionLive    = 1
	versionRevoked = 2
)

// judged is what it takes to judge a key.
type judged struct {
	ID        string    `json:"id"`
	TenantID  string    `json:"tenant"`
	Scopes    []string  `json:"scopes"`
	Hash      []byte    `json:"hash"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	RevokedAt time.Time `json:"revokedAt,omitzero"`
}

func judgedOf(k *Key) *judged {
	return &judged{ID: k.ID, TenantID: k.TenantID, Scopes: k.Scopes, Hash: k.Hash[:], ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt}
}

func (j *judged) version() int64 {
	if j.RevokedAt.IsZero() {
		return versionLive
	}
	return versionRevoked
}

// key returns the parts of a key that Verify looks at.
func (j *judged) key() Key {
	k := Key{ID: j.ID, TenantID: j.TenantID, Scopes: j.Scopes, ExpiresAt: j.ExpiresAt, RevokedAt: j.RevokedAt}
	copy(k.Hash[:], j.Hash)
	return k
}

// keyCodecVersion is the first byte of an encoded key. Another version's are
// ignored; raise it with every change of judged.
const keyCodecVersion = 2

func encodeKey(j *judged) ([]byte, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	return append([]byte{keyCodecVersion}, text...), nil
}

func decodeKey(data []byte) (*judged, error) {
	if len(data) == 0 || data[0] != keyCodecVersion {
		return nil, fmt.Errorf("it is not an API key as this version (%d) writes it", keyCodecVersion)
	}
	j := &judged{}
	if err := json.Unmarshal(data[1:], j); err != nil {
		return nil, err
	}
	if len(j.Hash) != len(Key{}.Hash) || j.TenantID == "" || j.ID == "" {
		return nil, errors.New("it is not an API key: id, tenant or hash is missing")
	}
	return j, nil
}

// NewCachedKeys returns the API keys that lie in store, remembered in a cache.
// Close ends it. A nil now means time.Now.
func NewCachedKeys(store KeyStore, now func() time.Time, o CacheOptions) (*Keys, error) {
	k, err := NewKeys(store, now)
	if err != nil {
		return nil, err
	}
	if o.TTL == 0 {
		o.TTL = 3 * time.Second
	}
	if o.StaleFor == 0 {
		o.StaleFor = 5 * time.Minute
	}
	if o.SoftTimeout == 0 {
		o.SoftTimeout = 250 * time.Millisecond
	}
	if o.LoadTimeout == 0 {
		o.LoadTimeout = 4 * time.Second
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 16 << 20
	}
	k.cache, err = cache.New(cache.Options[*judged]{
		Name: "keys", TTL: o.TTL, StaleFor: o.StaleFor, SoftTimeout: o.SoftTimeout, HardTimeout: o.LoadTimeout,
		// As long as what is there, so that nobody learns from times which ids exist.
		NegativeTTL: o.TTL,
		MaxBytes:    o.MaxBytes,
		Weigh: func(id string, j *judged) int {
			n := 400 + len(id)
			if j != nil {
				n += len(j.TenantID) + 32*len(j.Scopes)
			}
			return n
		},
		Encode: encodeKey, Decode: decodeKey,
		Remote: o.Remote, Peers: o.Peers, Instance: o.Instance, Metrics: o.Metrics, Logger: o.Logger, Now: now,
		OnInvalidate: func([]string) { k.epoch.Add(1) },
	})
	if err != nil {
		return nil, fmt.Errorf("auth: set up the cache of API keys: %w", err)
	}
	return k, nil
}

// Close ends the cache, if there is one.
func (k *Keys) Close() {
	if k.cache != nil {
		k.cache.Close()
	}
}

// byID returns a key by its id as Verify needs it: through the cache, if there is
// one. Errors as of KeyStore.ByID.
func (k *Keys) byID(ctx context.Context, id string) (Key, error) {
	if k.cache == nil {
		return k.store.ByID(ctx, id)
	}
	entry, err := k.cache.Get(ctx, id, func(ctx context.Context) (cache.Loaded[*judged], error) {
		key, err := k.store.ByID(ctx, id)
		if errors.Is(err, ErrKeyNotFound) {
			return cache.Loaded[*judged]{}, cache.ErrNotFound
		}
		if err != nil {
			return cache.Loaded[*judged]{}, err
		}
		j := judgedOf(&key)
		return cache.Loaded[*judged]{Value: j, Version: j.version()}, nil
	})
	switch {
	case errors.Is(err, cache.ErrNotFound):
		return Key{}, ErrKeyNotFound
	case err != nil:
		return Key{}, err
	case entry.Value.ID != id || entry.Version != entry.Value.version():
		// Somebody else wrote that into Redis: all forget it, and the store knows.
		k.cache.Invalidate(ctx, cache.Change{Key: id})
		return k.store.ByID(ctx, id)
	}
	return entry.Value.key(), nil
}

// revoked has every instance forget what it knew of a key, and keeps that it is
// revoked, if the store can be read: so those whom the telling does not reach find
// it in Redis. failed is what became of the revocation in the store.
func (k *Keys) revoked(ctx context.Context, id string, failed error) {
	if k.cache == nil || errors.Is(failed, ErrKeyNotFound) {
		return
	}
	if failed != nil {
		// It may have been revoked all the same: nobody believes what was read before.
		k.cache.Invalidate(ctx, cache.Change{Key: id})
		return
	}
	k.cache.Invalidate(ctx, cache.Change{Key: id, Version: versionRevoked})
	if key, err := k.store.ByID(ctx, id); err == nil && !key.RevokedAt.IsZero() {
		k.cache.Put(ctx, id, cache.Loaded[*judged]{Value: judgedOf(&key), Version: versionRevoked})
	}
}
