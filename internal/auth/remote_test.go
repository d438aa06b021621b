package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	testRemoteIssuer   = "https://id.example"
	testRemoteAudience = "https://api.example"
)

func testRemote(t testing.TB, o RemoteOptions) *RemoteKeys {
	t.Helper()
	o.Issuer, o.Audience = testRemoteIssuer, testRemoteAudience
	r, err := NewRemoteKeys(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// remoteToken signs a token as the outside issuer would, with one claim changed.
func remoteToken(t testing.TB, method jwt.SigningMethod, key any, kid any, now time.Time, change ...any) string {
	t.Helper()
	claims := map[string]any{
		"iss": testRemoteIssuer, "aud": testRemoteAudience, "sub": "ann", "tenant_id": "demo",
		"scope": "openid events:write", "exp": now.Add(time.Hour).Unix(),
	}
	for i := 0; i < len(change); i += 2 {
		claims[change[i].(string)] = change[i+1]
	}
	return sign(t, method, key, map[string]any{"kid": kid}, claims)
}

func TestTokensOfAnOutsideIssuer(t *testing.T) {
	clk := newClock()
	ed := newEd25519(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short := `{"kty":"RSA","kid":"short","use":"sig","e":"AQAB","n":"` + strings.Repeat("u", 171) + `"}` // 1024 bits
	server := newKeySet(t)
	server.publish(t, map[string]any{"ed": ed.Public(), "rsa": rsaKey.Public(), "ec": ec.Public()},
		short,
		`{"kty":"oct","kid":"shared","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}`,
		`{"kty":"from the future","kid":"f"}`,
		`{"kty":"OKP","crv":"Ed25519","kid":"broken","x":"AAAA"}`,
		`{"kty":"OKP","crv":"Ed25519","kid":"enc","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
	)
	local := testIssuer(t, clk.Now)
	remote := testRemote(t, RemoteOptions{URL: server.URL, Now: clk.Now})
	a := testAuthenticator(t, Options{Issuer: local, Remote: remote, Now: clk.Now})
	now := clk.Now()
	eddsa, rs256, es256 := jwt.SigningMethodEdDSA, jwt.SigningMethodRS256, jwt.SigningMethodES256

	for name, token := range map[string]string{
		"EdDSA":               remoteToken(t, eddsa, ed, "ed", now),
		"RS256":               remoteToken(t, rs256, rsaKey, "rsa", now),
		"ES256":               remoteToken(t, es256, ec, "ec", now),
		"within the leeway":   remoteToken(t, eddsa, ed, "ed", now, "exp", now.Add(-29*time.Second).Unix()),
		"of the local issuer": mint(t, local, time.Hour),
	} {
		p, err := a.Authenticate(t.Context(), token)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if p.TenantID != "demo" || !p.Has(ScopeEventsWrite) || p.Has(ScopeKeysWrite) {
			t.Errorf("%s: got %+v", name, p)
		}
	}

	refused := []struct {
		name, token, code string
	}{
		{"alg none", remoteToken(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "ed", now), CodeTokenAlgorithm},
		{"HS256 with the public key as its secret", remoteToken(t, jwt.SigningMethodHS256, []byte(ed.Public().(ed25519.PublicKey)), "ed", now), CodeTokenAlgorithm},
		{"HS256 with the shared key that was published by mistake", remoteToken(t, jwt.SigningMethodHS256, []byte("secretsecretsecretsecretsecretsecret"), "shared", now), CodeTokenAlgorithm},
		{"an asymmetric algorithm that is not configured", remoteToken(t, jwt.SigningMethodPS256, rsaKey, "rsa", now), CodeTokenAlgorithm},
		{"a key used with another algorithm", remoteToken(t, eddsa, ed, "rsa", now), CodeTokenSignature},
		{"a key id that is not published", remoteToken(t, eddsa, newEd25519(t), "foreign", now), CodeTokenKeyUnknown},
		{"the key id of a key that is too short", remoteToken(t, rs256, rsaKey, "short", now), CodeTokenKeyUnknown},
		{"the key id of a key for encryption", remoteToken(t, eddsa, ed, "enc", now), CodeTokenKeyUnknown},
		{"no key id", remoteToken(t, eddsa, ed, nil, now), CodeTokenKeyUnknown},
		{"a foreign key under a published id", remoteToken(t, eddsa, newEd25519(t), "ed", now), CodeTokenSignature},
		{"the outside key under the local key id", remoteToken(t, eddsa, ed, local.KeyID(), now, "iss", "millrace", "aud", "millrace"), CodeTokenSignature},
		{"the outside key that speaks for the local issuer", remoteToken(t, eddsa, ed, "ed", now, "iss", "millrace"), CodeTokenIssuer},
		{"the wrong audience", remoteToken(t, eddsa, ed, "ed", now, "aud", "someone"), CodeTokenAudience},
		{"no expiry", remoteToken(t, eddsa, ed, "ed", now, "exp", nil), CodeTokenExpired},
		{"no tenant", remoteToken(t, eddsa, ed, "ed", now, "tenant_id", nil), CodeTokenTenant},
	}
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			_, err := a.Authenticate(t.Context(), tt.token)
			wantCode(t, err, tt.code)
		})
	}
}

func TestTheTenantClaimOfAnOutsideIssuerCanBeNamed(t *testing.T) {
	ed := newEd25519(t)
	server := newKeySet(t)
	server.publish(t, map[string]any{"ed": ed.Public()})
	a := testAuthenticator(t, Options{Remote: testRemote(t, RemoteOptions{URL: server.URL, TenantClaim: "https://example/org"})})
	token := remoteToken(t, jwt.SigningMethodEdDSA, ed, "ed", time.Now(), "tenant_id", "wrong", "https://example/org", "acme")
	p, err := a.Authenticate(t.Context(), token)
	if err != nil || p.TenantID != "acme" {
		t.Errorf("got %+v, %v, want tenant acme", p, err)
	}
}

func TestANewKeyIsFetchedWhenATokenNamesItAndAnOldOneIsForgotten(t *testing.T) {
	clk := newClock()
	oldKey, newKey := newEd25519(t), newEd25519(t)
	server := newKeySet(t)
	server.publish(t, map[string]any{"old": oldKey.Public()})
	a := testAuthenticator(t, Options{Remote: testRemote(t, RemoteOptions{URL: server.URL, Now: clk.Now}), Now: clk.Now})
	oldToken := remoteToken(t, jwt.SigningMethodEdDSA, oldKey, "old", clk.Now())
	if _, err := a.Authenticate(t.Context(), oldToken); err != nil {
		t.Fatal(err)
	}

	server.publish(t, map[string]any{"new": newKey.Public()})
	clk.Advance(10 * time.Second)
	if _, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, newKey, "new", clk.Now())); err != nil {
		t.Fatalf("a token with the new key: %v", err)
	}
	if n := server.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// A withdrawn key is refused: new tokens at once, remembered ones in time.
	_, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, oldKey, "old", clk.Now(), "sub", "bob"))
	wantCode(t, err, CodeTokenKeyUnknown)
	clk.Advance(5 * time.Minute)
	_, err = a.Authenticate(t.Context(), oldToken)
	wantCode(t, err, CodeTokenKeyUnknown)
}

func TestMadeUpKeyIDsCostTheIssuerNextToNothing(t *testing.T) {
	clk := newClock()
	ed := newEd25519(t)
	server := newKeySet(t)
	server.publish(t, map[string]any{"ed": ed.Public()})
	a := testAuthenticator(t, Options{Remote: testRemote(t, RemoteOptions{URL: server.URL, Now: clk.Now}), Now: clk.Now})
	flood := func() {
		var wg sync.WaitGroup
		for i := range 100 {
			token := remoteToken(t, jwt.SigningMethodEdDSA, ed, strings.Repeat("x", i+1), clk.Now(), "jti", rand.Text())
			wg.Go(func() {
				_, err := a.Authenticate(t.Context(), token)
				wantCodeAsync(t, err, CodeTokenKeyUnknown)
			})
		}
		wg.Wait()
	}
	flood()
	if n := server.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within the interval, want the first alone", n)
	}
	clk.Advance(10 * time.Second)
	flood()
	// Who asks while a fetch runs may cause one more, never one each.
	if n := server.fetches.Load(); n < 2 || n > 3 {
		t.Errorf("%d fetches after the interval, want 2 or 3", n)
	}
	if _, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, ed, "ed", clk.Now())); err != nil {
		t.Errorf("a good token is refused under the flood: %v", err)
	}
}

func wantCodeAsync(t *testing.T, err error, code string) {
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got error %v, want code %s", err, code)
	}
}

func TestAnIssuerThatIsDownMakesNoVerdictAndKeepsTheKnownKeys(t *testing.T) {
	clk := newClock()
	ed := newEd25519(t)
	token := remoteToken(t, jwt.SigningMethodEdDSA, ed, "ed", clk.Now())
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter)
	}{
		{"answers 500", func(w http.ResponseWriter) { w.WriteHeader(500) }},
		{"redirects elsewhere", func(w http.ResponseWriter) { w.Header().Set("Location", "http://127.0.0.1:1/"); w.WriteHeader(302) }},
		{"answers something else", func(w http.ResponseWriter) { io.WriteString(w, "<html>") }},
		{"publishes no key", func(w http.ResponseWriter) { io.WriteString(w, `{"keys":[]}`) }},
		{"answers without end", func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat(" ", maxKeySetBytes+1)+`{"keys":[]}`) }},
	}
	for _, tt := range tests {
		t.Run("from the start: "+tt.name, func(t *testing.T) {
			clk := newClock()
			server := newKeySet(t)
			server.respond(tt.answer)
			remote := testRemote(t, RemoteOptions{URL: server.URL, Now: clk.Now})
			a := testAuthenticator(t, Options{Remote: remote, Now: clk.Now})
			_, err := a.Authenticate(t.Context(), token)
			var unavailable *UnavailableError
			if !errors.As(err, &unavailable) || unavailable.Err == nil {
				t.Fatalf("got %v, want an *UnavailableError with a cause", err)
			}
			if remote.Ready() == nil {
				t.Error("the keys are said to be ready")
			}
			server.publish(t, map[string]any{"ed": ed.Public()})
			clk.Advance(10 * time.Second)
			if _, err := a.Authenticate(t.Context(), token); err != nil {
				t.Errorf("refused after the issuer came back: %v", err)
			}
			if err := remote.Ready(); err != nil {
				t.Errorf("not ready after the issuer came back: %v", err)
			}
		})
		t.Run("later: "+tt.name, func(t *testing.T) {
			clk := newClock()
			server := newKeySet(t)
			server.publish(t, map[string]any{"ed": ed.Public()})
			a := testAuthenticator(t, Options{Remote: testRemote(t, RemoteOptions{URL: server.URL, Now: clk.Now}), Now: clk.Now})
			if _, err := a.Authenticate(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			server.respond(tt.answer)
			clk.Advance(10 * time.Second)
			_, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, ed, "new", clk.Now()))
			var unavailable *UnavailableError
			if !errors.As(err, &unavailable) {
				t.Errorf("a key that cannot be looked up: got %v, want an *UnavailableError", err)
			}
			if _, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, ed, "ed", clk.Now(), "sub", "bob")); err != nil {
				t.Errorf("a known key is forgotten: %v", err)
			}
		})
	}
}

// transport answers requests without a network, so that time can be faked.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTheKeySetIsFetchedAgainAtItsIntervalAndAfterCloseNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		r := testRemote(t, RemoteOptions{URL: "https://id.example/keys", RefreshInterval: time.Minute, Transport: transport(func(*http.Request) (*http.Response, error) {
			fetches++
			return nil, errors.New("down")
		})})
		time.Sleep(150 * time.Second) // fake time: 0, 60 and 120 s
		synctest.Wait()
		if fetches != 3 {
			t.Errorf("%d fetches in 150 s, want 3", fetches)
		}
		r.Close()
		r.Close()
		time.Sleep(time.Hour)
		if fetches != 3 {
			t.Errorf("%d fetches after Close", fetches-3)
		}
	})
}

func TestAnIssuerThatNeverAnswersIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testRemote(t, RemoteOptions{URL: "https://id.example/keys", Timeout: 2 * time.Second, Transport: transport(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})})
		a := testAuthenticator(t, Options{Remote: r})
		began := time.Now()
		_, err := a.Authenticate(t.Context(), remoteToken(t, jwt.SigningMethodEdDSA, newEd25519(t), "ed", time.Now()))
		var unavailable *UnavailableError
		if !errors.As(err, &unavailable) {
			t.Errorf("got %v, want an *UnavailableError", err)
		}
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("it took %s, want the timeout of 2s", d)
		}
		r.Close()
	})
}

func TestRemoteOptionsThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := NewRemoteKeys(RemoteOptions{URL: "ftp://x/", Algorithms: []string{"RS256", "HS256", "none"}, Timeout: -1})
	for _, want := range []string{`"ftp://x/"`, "issuer name", "audience", `"HS256"`, `"none"`, "timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that says %s", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), `"RS256" is not`) {
		t.Errorf("RS256 is refused: %v", err)
	}
}
