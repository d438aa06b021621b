package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/cache"
)

// broadcasts reach every instance of a test, before Send returns.
type broadcasts struct {
	mu   sync.Mutex
	ears map[int]func([]byte)
	next int
	lost atomic.Bool
}

func (b *broadcasts) Send(_ context.Context, data []byte) error {
	if b.lost.Load() {
		return nil
	}
	b.mu.Lock()
	ears := make([]func([]byte), 0, len(b.ears))
	for _, ear := range b.ears {
		ears = append(ears, ear)
	}
	b.mu.Unlock()
	for _, ear := range ears {
		ear(slices.Clone(data))
	}
	return nil
}

func (b *broadcasts) Listen(_ context.Context, h func([]byte)) (stop func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ears == nil {
		b.ears = map[int]func([]byte){}
	}
	n := b.next
	b.next++
	b.ears[n] = h
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.ears, n)
	}, nil
}

func cachedKeys(t testing.TB, store KeyStore, o CacheOptions) *Keys {
	t.Helper()
	keys, err := NewCachedKeys(store, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	return keys
}

func TestAKeyIsReadOnceForManyAuthenticators(t *testing.T) {
	store := newMemoryKeys()
	keys := cachedKeys(t, store, CacheOptions{TTL: time.Minute})
	key, text := createKey(t, keys, time.Hour)
	for range 3 {
		a := testAuthenticator(t, Options{Keys: keys})
		for range 10 {
			p, err := a.Authenticate(t.Context(), text)
			if err != nil {
				t.Fatal(err)
			}
			want := &Principal{TenantID: "demo", Subject: "key:" + key.ID, Scopes: MakeScopes(ScopeEventsWrite), Method: MethodKey, KeyID: key.ID, ExpiresAt: key.ExpiresAt}
			if diff := cmp.Diff(want, p); diff != "" {
				t.Fatalf("principal (-want +got):\n%s", diff)
			}
		}
	}
	if n := store.byID.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want once", n)
	}
	wrong := text[:len(text)-1] + "0"
	if strings.HasSuffix(text, "0") {
		wrong = text[:len(text)-1] + "1"
	}
	if _, err := keys.Verify(t.Context(), wrong); err == nil {
		t.Error("a wrong secret came in through the cache")
	}
}

func TestAnUnknownKeyIsLookedForOnce(t *testing.T) {
	store := newMemoryKeys()
	keys := cachedKeys(t, store, CacheOptions{TTL: time.Minute})
	_, stranger := createKey(t, testKeys(t, newMemoryKeys(), nil), 0)
	for range 1000 {
		_, err := keys.Verify(t.Context(), stranger)
		wantCode(t, err, CodeKeyUnknown)
	}
	if n := store.byID.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want once", n)
	}
}

func TestARevokedKeyIsRefusedAtOnceHereAndAtItsPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newMemoryKeys(), &broadcasts{}
		here := cachedKeys(t, store, CacheOptions{Peers: peers, Instance: "here"})
		there := cachedKeys(t, store, CacheOptions{Peers: peers, Instance: "there"})
		defer here.Close()
		defer there.Close()
		synctest.Wait() // both listen
		atHere, atThere := testAuthenticator(t, Options{Keys: here, KeyCacheTTL: time.Hour}), testAuthenticator(t, Options{Keys: there, KeyCacheTTL: time.Hour})
		key, text := createKey(t, here, 0)
		for _, a := range []*Authenticator{atHere, atThere} {
			if _, err := a.Authenticate(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		if err := here.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
			t.Fatal(err)
		}
		_, err := atHere.Authenticate(t.Context(), text)
		wantCode(t, err, CodeKeyRevoked)
		time.Sleep(100 * time.Millisecond) // the telling may gather for a moment
		_, err = atThere.Authenticate(t.Context(), text)
		wantCode(t, err, CodeKeyRevoked)
	})
}

func TestARevocationOfWhichNobodyToldIsFeltWithinFourSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newMemoryKeys(), &broadcasts{}
		peers.lost.Store(true)
		here := cachedKeys(t, store, CacheOptions{Peers: peers, Instance: "here"})
		there := cachedKeys(t, store, CacheOptions{Peers: peers, Instance: "there"})
		defer here.Close()
		defer there.Close()
		a := testAuthenticator(t, Options{Keys: there})
		key, text := createKey(t, here, 0)
		if _, err := a.Authenticate(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		if err := here.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		_, err := a.Authenticate(t.Context(), text)
		wantCode(t, err, CodeKeyRevoked)
	})
}

// commons is what instances share in the place of Redis. It gives leases to all who
// want one.
type commons struct {
	mu      sync.Mutex
	records map[string]cache.Record
	until   map[string]time.Time
	newest  map[string]int64
}

func (c *commons) Check(context.Context, string) (int64, error) { return 0, nil }

func (c *commons) Distrust(context.Context, string) error { return nil }

func (c *commons) Release(context.Context, string, string, string) error { return nil }

func (c *commons) Read(_ context.Context, _, key string, want cache.Want) (cache.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.records[key]
	r.Found, r.Left = ok, time.Until(c.until[key])
	r.Leased = !ok || r.Left < want.Left
	return r, nil
}

func (c *commons) Store(_ context.Context, _, key, _ string, r cache.Record) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Version < c.newest[key] {
		return false, nil
	}
	c.records[key], c.until[key], c.newest[key] = r, time.Now().Add(r.Left), r.Version
	return true, nil
}

func (c *commons) Tell(_ context.Context, _ string, news []cache.News) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range news {
		if n.Version == 0 || c.records[n.Key].Version < n.Version {
			delete(c.records, n.Key)
		}
		if n.Put != nil && n.Put.Version >= c.newest[n.Key] {
			c.records[n.Key], c.until[n.Key] = *n.Put, time.Now().Add(n.Put.Left)
		}
		c.newest[n.Key] = max(c.newest[n.Key], n.Version)
	}
	return 0, nil
}

func TestWhoDidNotHearOfARevocationFindsItInRedisWhileTheDatabaseIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newMemoryKeys(), &broadcasts{}
		shared := &commons{records: map[string]cache.Record{}, until: map[string]time.Time{}, newest: map[string]int64{}}
		peers.lost.Store(true)
		here := cachedKeys(t, store, CacheOptions{Remote: shared, Peers: peers, Instance: "here"})
		there := cachedKeys(t, store, CacheOptions{Remote: shared, Peers: peers, Instance: "there"})
		defer here.Close()
		defer there.Close()
		synctest.Wait() // both know that Redis is there
		a := testAuthenticator(t, Options{Keys: there})
		key, text := createKey(t, here, 0)
		other, stays := createKey(t, here, 0)
		for _, text := range []string{text, stays} {
			if _, err := a.Authenticate(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		if err := here.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // Redis is told
		store.broken.Store(true)
		time.Sleep(4 * time.Second) // what is known there is over its time, and so is what Redis has
		_, err := a.Authenticate(t.Context(), text)
		wantCode(t, err, CodeKeyRevoked)
		if p, err := a.Authenticate(t.Context(), stays); err != nil || p.KeyID != other.ID {
			t.Errorf("a key that nobody revoked: %v", err)
		}
	})
}

func TestWhileTheDatabaseIsAwayKnownKeysComeInForAWhileButNoRevokedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryKeys()
		keys := cachedKeys(t, store, CacheOptions{})
		defer keys.Close()
		a := testAuthenticator(t, Options{Keys: keys})
		_, good := createKey(t, keys, 0)
		expiring, ending := createKey(t, keys, 2*time.Minute)
		revokedKey, revoked := createKey(t, keys, 0)
		doubtfulKey, doubtful := createKey(t, keys, 0)
		_, unseen := createKey(t, keys, 0)
		for _, text := range []string{good, ending, revoked, doubtful} {
			if _, err := a.Authenticate(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		store.broken.Store(true) // nothing can be read, and one revocation still gets through
		if err := keys.Revoke(t.Context(), "demo", revokedKey.ID, ann); err != nil {
			t.Fatal(err)
		}
		store.revokeFails = errBroken
		if err := keys.Revoke(t.Context(), "demo", doubtfulKey.ID, ann); !errors.Is(err, errBroken) {
			t.Fatalf("revoked: %v", err)
		}
		time.Sleep(time.Minute)
		for range 3 {
			for _, text := range []string{good, ending} {
				if _, err := a.Authenticate(t.Context(), text); err != nil {
					t.Errorf("a key that was good a minute ago: %v", err)
				}
			}
			if p, err := a.Authenticate(t.Context(), revoked); err == nil {
				t.Errorf("a revoked key came in as %+v", p)
			}
			var unavailable *UnavailableError
			if _, err := a.Authenticate(t.Context(), doubtful); !errors.As(err, &unavailable) {
				t.Errorf("a key that may be revoked: %v, want an *UnavailableError", err)
			}
			if _, err := a.Authenticate(t.Context(), unseen); !errors.As(err, &unavailable) {
				t.Errorf("a key that nobody has seen: %v, want an *UnavailableError", err)
			}
		}
		time.Sleep(90 * time.Second)
		_, err := a.Authenticate(t.Context(), ending)
		if e := wantCode(t, err, CodeKeyExpired); !strings.Contains(e.Detail, expiring.ID) {
			t.Error(e)
		}
		time.Sleep(3 * time.Minute)
		if p, err := a.Authenticate(t.Context(), good); err == nil {
			t.Errorf("after more than five minutes a key still comes in as %+v", p)
		}
		store.broken.Store(false)
		time.Sleep(2 * time.Second)
		if _, err := a.Authenticate(t.Context(), good); err != nil {
			t.Errorf("after the database came back: %v", err)
		}
	})
}

func TestARevocationDuringASlowReadIsNotOverwrittenByIt(t *testing.T) {
	store := newMemoryKeys()
	keys := cachedKeys(t, store, CacheOptions{TTL: time.Minute})
	a := testAuthenticator(t, Options{Keys: keys})
	key, text := createKey(t, keys, 0)
	reading, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	store.onByID = func() {
		if first.CompareAndSwap(false, true) {
			close(reading)
			<-goOn
		}
	}
	slow := make(chan struct{})
	go func() {
		defer close(slow)
		_, _ = a.Authenticate(context.Background(), text) // begun before: either answer is right
	}()
	<-reading
	if err := keys.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
		t.Fatal(err)
	}
	_, err := a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyRevoked)
	close(goOn)
	<-slow
	_, err = a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyRevoked)
}

func TestAStrangerWhoRevokesAKeyChangesNothingForItsOwner(t *testing.T) {
	store := newMemoryKeys()
	keys := cachedKeys(t, store, CacheOptions{TTL: time.Minute})
	key, text := createKey(t, keys, 0)
	for range 3 {
		if err := keys.Revoke(t.Context(), "other", key.ID, ann); !errors.Is(err, ErrKeyNotFound) {
			t.Fatal(err)
		}
		if _, err := keys.Verify(t.Context(), text); err != nil {
			t.Error(err)
		}
	}
	if n := store.byID.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want once", n)
	}
}

func TestAKeyThatLiesInRedisUnderTheNameOfAnotherIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		version int64
		plant   func(victim, thiefs *Key) *judged
	}{
		"another key":                   {1, func(_, thiefs *Key) *judged { return judgedOf(thiefs) }},
		"a key that is not revoked yet": {2, func(victim, _ *Key) *judged { j := judgedOf(victim); j.TenantID = "other"; return j }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemoryKeys()
				shared := &commons{records: map[string]cache.Record{}, until: map[string]time.Time{}, newest: map[string]int64{}}
				keys := cachedKeys(t, store, CacheOptions{Remote: shared})
				defer keys.Close()
				synctest.Wait() // it is known that Redis is there
				victim, text := createKey(t, keys, 0)
				thiefs, thiefsText := createKey(t, keys, 0)
				data, err := encodeKey(c.plant(&victim, &thiefs))
				if err != nil {
					t.Fatal(err)
				}
				shared.records[victim.ID] = cache.Record{Data: data, Version: c.version}
				shared.until[victim.ID] = time.Now().Add(time.Hour)
				chimera := KeyPrefix + victim.ID + thiefsText[strings.LastIndex(thiefsText, "_"):]
				for range 3 {
					_, err := keys.Verify(t.Context(), chimera)
					wantCode(t, err, CodeKeyUnknown)
					if p, err := keys.Verify(t.Context(), text); err != nil || p.TenantID != "demo" {
						t.Errorf("the key itself: %+v, %v", p, err)
					}
				}
			})
		})
	}
}

func TestWhatIsSharedOfAKeyIsItsHashAndNeverItsSecret(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	key, text := createKey(t, keys, time.Hour)
	data, err := encodeKey(judgedOf(&key))
	if err != nil {
		t.Fatal(err)
	}
	if secret := text[strings.LastIndex(text, "_")+1:]; strings.Contains(string(data), secret) || strings.Contains(string(data), key.Name) {
		t.Errorf("too much goes out: %s", data)
	}
	j, err := decodeKey(data)
	if err != nil {
		t.Fatal(err)
	}
	want := Key{ID: key.ID, TenantID: key.TenantID, Scopes: key.Scopes, Hash: key.Hash, ExpiresAt: key.ExpiresAt}
	if diff := cmp.Diff(want, j.key()); diff != "" {
		t.Errorf("what comes back (-want +got):\n%s", diff)
	}
	for name, bad := range map[string][]byte{
		"nothing":         nil,
		"another version": append([]byte{keyCodecVersion + 1}, data[1:]...),
		"cut off":         data[:len(data)-1],
		"null":            append([]byte{keyCodecVersion}, `null`...),
		"no hash":         append([]byte{keyCodecVersion}, `{"id":"a","tenant":"demo","scopes":["admin"]}`...),
		"half a hash":     append([]byte{keyCodecVersion}, `{"id":"a","tenant":"demo","scopes":["admin"],"hash":"AAAA"}`...),
		"no tenant":       append([]byte{keyCodecVersion}, `{"id":"a","scopes":["admin"],"hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`...),
		"no id":           append([]byte{keyCodecVersion}, `{"tenant":"demo","scopes":["admin"],"hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`...),
	} {
		if j, err := decodeKey(bad); err == nil {
			t.Errorf("%s is read as %+v", name, j)
		}
	}
}
