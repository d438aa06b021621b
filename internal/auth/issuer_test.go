package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

func TestATokenOfTheIssuerNamesWhoItSpeaksFor(t *testing.T) {
	clk := newClock()
	issuer := testIssuer(t, clk.Now)
	got, err := issuer.Verify(mint(t, issuer, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := &Principal{TenantID: "demo", Subject: "till-7", Scopes: MakeScopes(ScopeEventsWrite, ScopeEventsRead), Method: MethodJWT, ExpiresAt: clk.Now().Add(time.Hour)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
}

// TestTokensThatAreRefused signs with the right key wherever the attack does not
// lie in the key itself, so that each case fails for its own reason alone.
func TestTokensThatAreRefused(t *testing.T) {
	clk := newClock()
	issuer := testIssuer(t, clk.Now)
	other := testIssuer(t, clk.Now)
	now := clk.Now()
	ed := jwt.SigningMethodEdDSA
	publicPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(issuer.public)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}()
	claims := func(name string, value any) map[string]any {
		c := map[string]any{
			"iss": "millrace", "aud": "millrace", "sub": "ann", "tenant_id": "demo",
			"scope": "events:write", "exp": now.Add(time.Hour).Unix(),
		}
		if name != "" {
			c[name] = value
		}
		return c
	}
	kid := map[string]any{"kid": issuer.KeyID()}
	good := sign(t, ed, issuer.private, kid, claims("", nil))
	if _, err := issuer.Verify(good); err != nil {
		t.Fatalf("the token that all others are made from is refused: %v", err)
	}
	parts := strings.Split(good, ".")
	encode := base64.RawURLEncoding.EncodeToString
	tests := []struct {
		name, token, code string
	}{
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, claims("", nil)), CodeTokenAlgorithm},
		{"alg None in other letters", encode([]byte(`{"alg":"None","kid":"`+issuer.KeyID()+`"}`)) + "." + parts[1] + ".", CodeTokenAlgorithm},
		{"two alg members that disagree", encode([]byte(`{"alg":"none","ALG":"EdDSA","kid":"`+issuer.KeyID()+`"}`)) + "." + parts[1] + ".", CodeTokenSignature},
		{"no alg", encode([]byte(`{"kid":"`+issuer.KeyID()+`"}`)) + "." + parts[1] + "." + parts[2], CodeTokenAlgorithm},
		{"HS256 with the public key as its secret", sign(t, jwt.SigningMethodHS256, []byte(issuer.public), kid, claims("", nil)), CodeTokenAlgorithm},
		{"HS256 with the public key in PEM as its secret", sign(t, jwt.SigningMethodHS256, publicPEM, kid, claims("", nil)), CodeTokenAlgorithm},
		{"the right key id with another key", sign(t, ed, other.private, kid, claims("", nil)), CodeTokenSignature},
		{"another server's key", mint(t, other, time.Hour), CodeTokenKeyUnknown},
		{"no key id", sign(t, ed, issuer.private, nil, claims("", nil)), CodeTokenKeyUnknown},
		{"a critical extension", sign(t, ed, issuer.private, map[string]any{"kid": issuer.KeyID(), "crit": []string{"b64"}}, claims("", nil)), CodeTokenMalformed},
		{"claims that were changed", parts[0] + "." + encode([]byte(`{"iss":"millrace","aud":"millrace","sub":"ann","tenant_id":"other","exp":4102444800}`)) + "." + parts[2], CodeTokenSignature},
		{"no signature", parts[0] + "." + parts[1] + ".", CodeTokenSignature},
		{"a wrong issuer", sign(t, ed, issuer.private, kid, claims("iss", "evil")), CodeTokenIssuer},
		{"no issuer", sign(t, ed, issuer.private, kid, claims("iss", nil)), CodeTokenIssuer},
		{"a wrong audience", sign(t, ed, issuer.private, kid, claims("aud", "shop")), CodeTokenAudience},
		{"no audience", sign(t, ed, issuer.private, kid, claims("aud", nil)), CodeTokenAudience},
		{"expired beyond the leeway", sign(t, ed, issuer.private, kid, claims("exp", now.Add(-31*time.Second).Unix())), CodeTokenExpired},
		{"no expiry", sign(t, ed, issuer.private, kid, claims("exp", nil)), CodeTokenExpired},
		{"an expiry that is text", sign(t, ed, issuer.private, kid, claims("exp", "tomorrow")), CodeTokenMalformed},
		{"an expiry before all dates", sign(t, ed, issuer.private, kid, claims("exp", -1e15)), CodeTokenExpired},
		{"an expiry beyond all dates", sign(t, ed, issuer.private, kid, claims("exp", 1e15)), CodeTokenMalformed},
		{"not valid yet beyond the leeway", sign(t, ed, issuer.private, kid, claims("nbf", now.Add(31*time.Second).Unix())), CodeTokenNotYetValid},
		{"no tenant", sign(t, ed, issuer.private, kid, claims("tenant_id", nil)), CodeTokenTenant},
		{"a tenant that is a number", sign(t, ed, issuer.private, kid, claims("tenant_id", 7)), CodeTokenTenant},
		{"a tenant id that is a path", sign(t, ed, issuer.private, kid, claims("tenant_id", "../demo")), CodeTokenTenant},
		{"no subject", sign(t, ed, issuer.private, kid, claims("sub", nil)), CodeTokenSubject},
		{"a subject without end", sign(t, ed, issuer.private, kid, claims("sub", strings.Repeat("a", 257))), CodeTokenSubject},
		{"two parts", parts[0] + "." + parts[1], CodeTokenMalformed},
		{"four parts", good + ".x", CodeTokenMalformed},
		{"a header that is not base64", "!!." + parts[1] + "." + parts[2], CodeTokenMalformed},
		{"a header that is not JSON", encode([]byte("hi")) + "." + parts[1] + "." + parts[2], CodeTokenMalformed},
		{"claims that are not JSON", parts[0] + "." + encode([]byte("hi")) + "." + parts[2], CodeTokenMalformed},
		{"claims that are a list", parts[0] + "." + encode([]byte("[]")) + "." + parts[2], CodeTokenMalformed},
		{"white space around it", " " + good, CodeTokenMalformed},
		{"any text", "hunter2", CodeTokenMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := issuer.Verify(tt.token)
			if p != nil {
				t.Errorf("got principal %+v", p)
			}
			e := wantCode(t, err, tt.code)
			if strings.Contains(e.Detail, parts[1]) || strings.Contains(e.Detail, "evil") {
				t.Errorf("the detail repeats what the caller sent: %s", e.Detail)
			}
		})
	}
}

func TestTokensThatAreAccepted(t *testing.T) {
	clk := newClock()
	issuer := testIssuer(t, clk.Now)
	now := clk.Now()
	claims := func(name string, value any) map[string]any {
		c := map[string]any{
			"iss": "millrace", "aud": "millrace", "sub": "ann", "tenant_id": "demo",
			"scope": "events:write", "exp": now.Add(time.Hour).Unix(),
		}
		c[name] = value
		return c
	}
	tests := []struct {
		name   string
		claims map[string]any
		scopes string
	}{
		{"expired within the leeway", claims("exp", now.Add(-29*time.Second).Unix()), "events:write"},
		{"not valid yet within the leeway", claims("nbf", now.Add(29*time.Second).Unix()), "events:write"},
		{"several audiences of which one is ours", claims("aud", []string{"shop", "millrace"}), "events:write"},
		{"scopes of others among ours", claims("scope", "openid events:read profile"), "events:read"},
		{"scopes as an array in scp", claims("scp", []string{"keys:write", "openid"}), "events:write keys:write"},
		{"scopes as text in scp", claims("scp", "keys:write"), "events:write keys:write"},
		{"no scope means that nothing is allowed", claims("scope", nil), ""},
		{"a scope claim of a strange type means nothing", claims("scope", 7), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := issuer.Verify(sign(t, jwt.SigningMethodEdDSA, issuer.private, map[string]any{"kid": issuer.KeyID()}, tt.claims))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Scopes.String(); got != tt.scopes {
				t.Errorf("got scopes %q, want %q", got, tt.scopes)
			}
		})
	}
}

func TestMintRefusesClaimsThatMakeNoSense(t *testing.T) {
	issuer := testIssuer(t, newClock().Now)
	ok := Claims{TenantID: "demo", Subject: "ann", Scopes: MakeScopes(ScopeAdmin), TTL: time.Hour}
	tests := []struct {
		name, field string
		change      func(*Claims)
	}{
		{"a bad tenant", "tenantId", func(c *Claims) { c.TenantID = "De mo" }},
		{"no subject", "subject", func(c *Claims) { c.Subject = "" }},
		{"no scope", "scopes", func(c *Claims) { c.Scopes = 0 }},
		{"no time to live", "ttl", func(c *Claims) { c.TTL = 0 }},
		{"a negative time to live", "ttl", func(c *Claims) { c.TTL = -time.Hour }},
		{"a life without end", "ttl", func(c *Claims) { c.TTL = 11 * 365 * 24 * time.Hour }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := ok
			tt.change(&c)
			token, err := issuer.Mint(c)
			var invalid *InvalidError
			if token != "" || !errors.As(err, &invalid) || invalid.Field != tt.field {
				t.Errorf("got token %q and error %v, want an *InvalidError about %s", token, err, tt.field)
			}
		})
	}
	if _, err := issuer.Mint(ok); err != nil {
		t.Errorf("good claims are refused: %v", err)
	}
}

func TestTheIssuerKeepsItsKeyInAPrivateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "issuer.key")
	first, err := LoadOrCreateIssuer(path, IssuerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("got mode %04o, want 0600", got)
	}
	second, err := LoadOrCreateIssuer(path, IssuerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Verify(mint(t, first, time.Hour)); err != nil {
		t.Errorf("a token from before a restart is refused: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the folder has %d files, want the key alone: %v", len(entries), entries)
	}
}

func TestIssuersCreatedAtTheSameTimeShareOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.key")
	const n = 16
	ids := make([]string, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			issuer, err := LoadOrCreateIssuer(path, IssuerOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = issuer.KeyID()
		})
	}
	close(start)
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("got keys %v, want one", ids)
		}
	}
}

func TestCreatingAKeyNeverReplacesOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.key")
	if err := createKeyFile(path); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// As a second process does that saw no file before the first was done.
	if err := createKeyFile(path); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(path); err != nil || string(second) != string(first) {
		t.Errorf("the key was replaced (%v)", err)
	}
}

func TestAnIssuerKeyThatCannotBeTrustedIsRefused(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	edDER, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	good := block("PRIVATE KEY", edDER)
	tests := []struct {
		name    string
		content []byte
		mode    os.FileMode
		want    string
	}{
		{"readable by its group", good, 0o640, "chmod 600"},
		{"readable by all", good, 0o604, "chmod 600"},
		{"writable by all", good, 0o602, "chmod 600"},
		{"empty, as after a crash", nil, 0o600, "not one PEM block"},
		{"cut off", good[:len(good)-40], 0o600, "not one PEM block"},
		{"two keys", append(append([]byte{}, good...), good...), 0o600, "not one PEM block"},
		{"another kind of block", block("CERTIFICATE", edDER), 0o600, "not one PEM block"},
		{"damaged inside", block("PRIVATE KEY", edDER[3:]), 0o600, "damaged"},
		{"another kind of key", block("PRIVATE KEY", ecDER), 0o600, "must be an Ed25519 key"},
		{"a huge file", make([]byte, maxKeyFileBytes+1), 0o600, "cannot be a key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "issuer.key")
			if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateIssuer(path, IssuerOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got error %v, want one that names the file and says %q", err, tt.want)
			}
			if kept, _ := os.ReadFile(path); len(kept) != len(tt.content) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestAnUnreasonableLeewayIsRefused(t *testing.T) {
	if _, err := LoadOrCreateIssuer(filepath.Join(t.TempDir(), "k"), IssuerOptions{Leeway: time.Hour}); err == nil || !strings.Contains(err.Error(), "5m") {
		t.Errorf("got error %v, want one that names the bound", err)
	}
}
