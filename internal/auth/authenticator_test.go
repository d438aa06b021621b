package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestAnAuthenticatorTakesBothKindsOfCredential(t *testing.T) {
	clk := newClock()
	issuer := testIssuer(t, clk.Now)
	keys := testKeys(t, newMemoryKeys(), clk.Now)
	a := testAuthenticator(t, Options{Issuer: issuer, Keys: keys, Now: clk.Now})
	key, text := createKey(t, keys, 0)
	for range 2 { // the second time from memory
		p, err := a.Authenticate(t.Context(), text)
		if err != nil || p.Method != MethodKey || p.KeyID != key.ID {
			t.Fatalf("API key: got %+v, %v", p, err)
		}
		p, err = a.Authenticate(t.Context(), mint(t, issuer, time.Hour))
		if err != nil || p.Method != MethodJWT || p.Subject != "till-7" {
			t.Fatalf("token: got %+v, %v", p, err)
		}
	}
}

func TestCredentialsNobodyHasToLookAt(t *testing.T) {
	issuer := testIssuer(t, time.Now)
	keys := testKeys(t, newMemoryKeys(), nil)
	_, text := createKey(t, keys, 0)
	both := testAuthenticator(t, Options{Issuer: issuer, Keys: keys})
	tests := []struct {
		name             string
		a                *Authenticator
		credential, code string
	}{
		{"none", both, "", CodeTokenMissing},
		{"too long", both, strings.Repeat("a.", maxCredentialBytes), CodeTokenMalformed},
		{"any text", both, "hunter2", CodeTokenMalformed},
		{"a key where none are accepted", testAuthenticator(t, Options{Issuer: issuer}), text, CodeKeyUnknown},
		{"a token where none are accepted", testAuthenticator(t, Options{Keys: keys}), mint(t, issuer, time.Hour), CodeTokenKeyUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.a.Authenticate(t.Context(), tt.credential)
			wantCode(t, err, tt.code)
		})
	}
}

func TestARememberedTokenEndsWhenItExpires(t *testing.T) {
	clk := newClock()
	issuer := testIssuer(t, clk.Now)
	a := testAuthenticator(t, Options{Issuer: issuer, Now: clk.Now})
	token := mint(t, issuer, time.Minute)
	if _, err := a.Authenticate(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	clk.Advance(time.Minute + defaultLeeway - time.Second)
	if _, err := a.Authenticate(t.Context(), token); err != nil {
		t.Fatalf("refused within the leeway: %v", err)
	}
	clk.Advance(time.Second)
	_, err := a.Authenticate(t.Context(), token)
	wantCode(t, err, CodeTokenExpired)
}

func TestARememberedKeyEndsWhenItExpires(t *testing.T) {
	clk := newClock()
	keys := testKeys(t, newMemoryKeys(), clk.Now)
	a := testAuthenticator(t, Options{Keys: keys, Now: clk.Now})
	_, text := createKey(t, keys, 3*time.Second)
	if _, err := a.Authenticate(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	clk.Advance(3 * time.Second) // well within KeyCacheTTL
	_, err := a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyExpired)
}

func TestAKeyRevokedHereStopsAtOnce(t *testing.T) {
	clk := newClock()
	keys := testKeys(t, newMemoryKeys(), clk.Now)
	a := testAuthenticator(t, Options{Keys: keys, Now: clk.Now})
	key, text := createKey(t, keys, 0)
	_, bystander := createKey(t, keys, 0)
	for _, c := range []string{text, bystander} {
		if _, err := a.Authenticate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
		t.Fatal(err)
	}
	_, err := a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyRevoked)
	if _, err := a.Authenticate(t.Context(), bystander); err != nil {
		t.Errorf("another key is refused too: %v", err)
	}
}

func TestAKeyRevokedElsewhereStopsAfterTheCacheTTL(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	here, elsewhere := testKeys(t, store, clk.Now), testKeys(t, store, clk.Now)
	a := testAuthenticator(t, Options{Keys: here, Now: clk.Now})
	key, text := createKey(t, here, 0)
	if _, err := a.Authenticate(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
		t.Fatal(err)
	}
	clk.Advance(10 * time.Second)
	_, err := a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyRevoked)
}

// A look at the store that began before a revocation and ends after it must not
// be believed by anyone who comes after it, neither from memory nor by joining.
func TestALookThatARevocationOvertookIsNotRemembered(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	keys := testKeys(t, store, clk.Now)
	a := testAuthenticator(t, Options{Keys: keys, Now: clk.Now})
	key, text := createKey(t, keys, 0)

	reading, goOn := make(chan struct{}), make(chan struct{})
	var looks atomic.Int64
	store.onByID = func() {
		if looks.Add(1) == 1 { // the later ones do not wait
			close(reading)
			<-goOn
		}
	}
	first := make(chan error, 1)
	go func() {
		_, err := a.Authenticate(context.Background(), text)
		first <- err
	}()
	<-reading
	if err := keys.Revoke(t.Context(), "demo", key.ID, ann); err != nil {
		t.Fatal(err)
	}
	_, err := a.Authenticate(t.Context(), text) // while the first still reads
	wantCode(t, err, CodeKeyRevoked)
	close(goOn)
	<-first
	clk.Advance(6 * time.Second) // the remembered refusal is over, the first look would not be
	_, err = a.Authenticate(t.Context(), text)
	wantCode(t, err, CodeKeyRevoked)
}

func TestManyCallersWithOneNewKeyShareOneLook(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	a := testAuthenticator(t, Options{Keys: keys})
	_, text := createKey(t, keys, 0)
	reading, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store.onByID = func() {
		once.Do(func() { close(reading) })
		<-goOn
	}
	// The first caller leaves: that must not end the look for the others.
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := a.Authenticate(ctx, text)
		left <- err
	}()
	<-reading
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v, want context.Canceled", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := a.Authenticate(t.Context(), text); err != nil {
				t.Error(err)
			}
		})
	}
	close(goOn)
	wg.Wait()
	if n := store.byID.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want 1", n)
	}
}

func TestARefusalIsRememberedBriefly(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	keys := testKeys(t, store, clk.Now)
	a := testAuthenticator(t, Options{Keys: keys, Now: clk.Now})
	_, stranger := createKey(t, testKeys(t, newMemoryKeys(), nil), 0)
	for range 100 {
		_, err := a.Authenticate(t.Context(), stranger)
		wantCode(t, err, CodeKeyUnknown)
	}
	if n := store.byID.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want 1", n)
	}
	clk.Advance(5 * time.Second)
	_, err := a.Authenticate(t.Context(), stranger)
	wantCode(t, err, CodeKeyUnknown)
	if n := store.byID.Load(); n != 2 {
		t.Errorf("the store was asked %d times after the refusal was over, want 2", n)
	}
}

func TestAStoreThatFailsIsNotRemembered(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	a := testAuthenticator(t, Options{Keys: keys})
	_, text := createKey(t, keys, 0)
	store.broken.Store(true)
	var unavailable *UnavailableError
	if _, err := a.Authenticate(t.Context(), text); !errors.As(err, &unavailable) {
		t.Fatalf("got %v, want an *UnavailableError", err)
	}
	store.broken.Store(false)
	if _, err := a.Authenticate(t.Context(), text); err != nil {
		t.Errorf("still refused after the store came back: %v", err)
	}
}

func TestTheCachesAreBounded(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	a := testAuthenticator(t, Options{Keys: keys, CacheEntries: 50, RefusedEntries: 20})
	strangers := testKeys(t, newMemoryKeys(), nil)
	for range 500 {
		_, good := createKey(t, keys, 0)
		if _, err := a.Authenticate(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		_, bad := createKey(t, strangers, 0)
		if _, err := a.Authenticate(t.Context(), bad); err == nil {
			t.Fatal("a stranger came in")
		}
	}
	a.good.CleanUp()
	a.bad.CleanUp()
	if n := a.good.EstimatedSize(); n > 50 {
		t.Errorf("%d verified credentials are remembered, want at most 50", n)
	}
	if n := a.bad.EstimatedSize(); n > 20 {
		t.Errorf("%d refused credentials are remembered, want at most 20", n)
	}
}

func TestMetricsTellHitsMissesAndRefusals(t *testing.T) {
	reg := prometheus.NewRegistry()
	issuer := testIssuer(t, time.Now)
	a := testAuthenticator(t, Options{Issuer: issuer, Metrics: NewMetrics(reg)})
	token := mint(t, issuer, time.Hour)
	for range 3 {
		if _, err := a.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	a.Authenticate(t.Context(), "")
	want := `
# HELP millrace_auth_lookups_total Credentials that were looked up in the cache of verdicts, by result: hit or miss.
# TYPE millrace_auth_lookups_total counter
millrace_auth_lookups_total{result="hit"} 2
millrace_auth_lookups_total{result="miss"} 1
# HELP millrace_auth_refusals_total Credentials that were refused, by error code.
# TYPE millrace_auth_refusals_total counter
millrace_auth_refusals_total{code="token-missing"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "millrace_auth_lookups_total", "millrace_auth_refusals_total"); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := New(Options{CacheEntries: -1, KeyCacheTTL: -time.Second})
	for _, want := range []string{"nobody could log in", "cache entries is -1", "key cache TTL is -1s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that says %q", err, want)
		}
	}
}

func TestAHitAllocatesNothing(t *testing.T) {
	issuer := testIssuer(t, time.Now)
	a := testAuthenticator(t, Options{Issuer: issuer})
	token := mint(t, issuer, time.Hour)
	want, err := a.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	// Less than one: the cache's own upkeep allocates now and then.
	if n := testing.AllocsPerRun(1000, func() {
		if got, err := a.Authenticate(ctx, token); err != nil || got != want {
			t.Fatal("not a hit", cmp.Diff(want, got), err)
		}
	}); n >= 1 {
		t.Errorf("a hit makes %v allocations, want none", n)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	issuer := testIssuer(b, time.Now)
	keys := testKeys(b, newMemoryKeys(), time.Now)
	a := testAuthenticator(b, Options{Issuer: issuer, Keys: keys})
	_, key := func() (Key, string) {
		k, s, err := keys.Create(context.Background(), CreateKey{TenantID: "demo", Name: "x", Scopes: []string{"admin"}, MayGrant: MakeScopes(ScopeAdmin)})
		if err != nil {
			b.Fatal(err)
		}
		return k, s
	}()
	token := mint(b, issuer, time.Hour)
	ctx := context.Background()
	for _, c := range []struct{ name, credential string }{{"token hit", token}, {"key hit", key}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Authenticate(ctx, c.credential); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("token hit in parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := a.Authenticate(ctx, token); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("refused hit", func(b *testing.B) {
		bad := token[:len(token)-2] + "AA"
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Authenticate(ctx, bad); err == nil {
				b.Fatal("accepted")
			}
		}
	})
	b.Run("token not remembered (baseline)", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := issuer.Verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
}
