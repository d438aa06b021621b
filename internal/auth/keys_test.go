package auth

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
)

func TestAKeyIsShownOnceAndKeptHashed(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	keys := testKeys(t, store, clk.Now)
	key, text := createKey(t, keys, time.Hour)

	if !regexp.MustCompile(`^mrk_[a-z2-7]{16}_[0-9A-Za-z]{43}$`).MatchString(text) {
		t.Errorf("got key %q, which has another form than documented", text)
	}
	secret := text[strings.LastIndex(text, "_")+1:]
	kept, err := store.ByID(t.Context(), key.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(key, kept); diff != "" {
		t.Errorf("the kept key differs from the returned one (-returned +kept):\n%s", diff)
	}
	if strings.Contains(string(kept.Hash[:]), secret[:32]) || kept.Hash == [32]byte{} {
		t.Error("the secret itself is kept, or nothing")
	}
	if want := clk.Now().Add(time.Hour); !kept.ExpiresAt.Equal(want) {
		t.Errorf("the key ends at %v, want %v", kept.ExpiresAt, want)
	}
	listed, err := keys.List(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Key{key}, listed); diff != "" {
		t.Errorf("listed keys (-want +got):\n%s", diff)
	}
	if _, other := createKey(t, keys, 0); other == text {
		t.Error("two keys are the same")
	}
}

func TestAKeyNamesWhoItSpeaksFor(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	keys := testKeys(t, store, clk.Now)
	key, text := createKey(t, keys, time.Hour)
	// A scope of a newer version must neither break the key nor grant anything.
	k := store.keys[key.ID]
	k.Scopes = append(k.Scopes, "future:write")
	store.keys[key.ID] = k
	got, err := keys.Verify(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	want := &Principal{TenantID: "demo", Subject: "key:" + key.ID, Scopes: MakeScopes(ScopeEventsWrite), Method: MethodKey, KeyID: key.ID, ExpiresAt: clk.Now().Add(time.Hour)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	clk := newClock()
	store := newMemoryKeys()
	keys := testKeys(t, store, clk.Now)
	_, good := createKey(t, keys, 0)
	expiring, expired := createKey(t, keys, time.Minute)
	revokedKey, revoked := createKey(t, keys, 0)
	if err := keys.Revoke(t.Context(), "demo", revokedKey.ID, ann); err != nil {
		t.Fatal(err)
	}
	clk.Advance(time.Minute)
	// flip changes the last character of the secret.
	flip := func(text string) string {
		last := byte('0')
		if text[len(text)-1] == '0' {
			last = '1'
		}
		return text[:len(text)-1] + string(last)
	}
	id := good[len(KeyPrefix) : len(KeyPrefix)+keyIDChars]
	tests := []struct {
		name, credential, code string
	}{
		{"a wrong secret", flip(good), CodeKeyUnknown},
		{"the secret of another key", strings.Replace(good, id, expiring.ID, 1), CodeKeyUnknown},
		{"an id that is not there", strings.Replace(good, id, strings.Repeat("a", keyIDChars), 1), CodeKeyUnknown},
		{"revoked", revoked, CodeKeyRevoked},
		{"revoked, but the secret is wrong, so nothing is said of it", flip(revoked), CodeKeyUnknown},
		{"expired to the second", expired, CodeKeyExpired},
		{"expired, but the secret is wrong, so nothing is said of it", flip(expired), CodeKeyUnknown},
		{"cut off", good[:len(good)-1], CodeTokenMalformed},
		{"too long", good + "x", CodeTokenMalformed},
		{"the prefix alone", KeyPrefix, CodeTokenMalformed},
		{"characters that are in no key", good[:len(good)-1] + "'", CodeTokenMalformed},
		{"an id in upper case", strings.Replace(good, id, strings.ToUpper(id[:15])+"A", 1), CodeTokenMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := keys.Verify(t.Context(), tt.credential)
			if p != nil {
				t.Errorf("got principal %+v", p)
			}
			wantCode(t, err, tt.code)
		})
	}
	if _, err := keys.Verify(t.Context(), good); err != nil {
		t.Errorf("the good key is refused: %v", err)
	}
}

func TestAnUnknownIDAndAWrongSecretCannotBeToldApart(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	key, good := createKey(t, keys, 0)
	_, stranger := createKey(t, testKeys(t, newMemoryKeys(), nil), 0)
	_, wrongSecret := keys.Verify(t.Context(), KeyPrefix+key.ID+"_"+strings.Repeat("0", keySecretChars))
	_, unknownID := keys.Verify(t.Context(), stranger)
	if diff := cmp.Diff(wrongSecret, unknownID); diff != "" {
		t.Errorf("the answers differ (-wrong secret +unknown id):\n%s", diff)
	}
	if _, err := keys.Verify(t.Context(), good); err != nil {
		t.Errorf("the good key is refused: %v", err)
	}
}

func TestAnIDThatIsNotThereIsRefusedEvenIfItsHashWereToFit(t *testing.T) {
	// A store that answers ErrKeyNotFound with a key whose hash fits must not
	// make a principal: both conditions are needed.
	keys := testKeys(t, notFoundWithKey{newMemoryKeys()}, nil)
	_, good := createKey(t, keys, 0)
	_, err := keys.Verify(t.Context(), good)
	wantCode(t, err, CodeKeyUnknown)
}

func TestAStoreThatFailsMakesNoVerdict(t *testing.T) {
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	_, good := createKey(t, keys, 0)
	store.broken.Store(true)
	_, err := keys.Verify(t.Context(), good)
	var unavailable *UnavailableError
	if !errors.As(err, &unavailable) || unavailable.RetryAfter <= 0 || !errors.Is(err, errBroken) {
		t.Fatalf("got error %v (%T), want an *UnavailableError about the store", err, err)
	}
	if strings.Contains(err.Error(), "fire") {
		t.Errorf("the message shows the cause to the caller: %s", err)
	}
	if _, err := keys.List(t.Context(), "demo"); !errors.Is(err, errBroken) {
		t.Errorf("List: got error %v, want the store's", err)
	}
	if _, text, err := keys.Create(t.Context(), CreateKey{TenantID: "demo", Name: "x", Scopes: []string{"admin"}, MayGrant: MakeScopes(ScopeAdmin)}); !errors.Is(err, errBroken) || text != "" {
		t.Errorf("Create: got key %q and error %v, want no key and the store's error", text, err)
	}
}

func TestRequestsForKeysThatAreRefused(t *testing.T) {
	ok := CreateKey{TenantID: "demo", Name: "till 7", Scopes: []string{"events:write"}, Actor: ann, MayGrant: MakeScopes(ScopeEventsWrite, ScopeKeysWrite)}
	tests := []struct {
		name, field, want string
		change            func(*CreateKey)
	}{
		{"a bad tenant", "tenantId", "not allowed", func(c *CreateKey) { c.TenantID = "No!" }},
		{"no name", "name", "0 characters", func(c *CreateKey) { c.Name = "" }},
		{"a long name", "name", "101 characters", func(c *CreateKey) { c.Name = strings.Repeat("ü", 101) }},
		{"a name with a line break", "name", "cannot be printed", func(c *CreateKey) { c.Name = "a\nb" }},
		{"a name that is not UTF-8", "name", "cannot be printed", func(c *CreateKey) { c.Name = "a\xff" }},
		{"no scope", "scopes", "no scope is given", func(c *CreateKey) { c.Scopes = nil }},
		{"an unknown scope", "scopes", `unknown scope "events"`, func(c *CreateKey) { c.Scopes = []string{"events"} }},
		{"more than its creator has", "scopes", "events:read cannot be granted", func(c *CreateKey) { c.Scopes = []string{"events:write", "events:read"} }},
		{"admin by one who is not", "scopes", "admin cannot be granted", func(c *CreateKey) { c.Scopes = []string{"admin"} }},
		{"a creator who has nothing", "scopes", "cannot be granted", func(c *CreateKey) { c.MayGrant = 0 }},
		{"a negative time to live", "ttl", "-1h", func(c *CreateKey) { c.TTL = -time.Hour }},
		{"a time to live beyond what a time can hold", "ttl", "at most", func(c *CreateKey) { c.TTL = 2_080_000 * time.Hour }},
		{"a time to live below a second", "ttl", "at least 1s", func(c *CreateKey) { c.TTL = time.Millisecond }},
	}
	store := newMemoryKeys()
	keys := testKeys(t, store, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := ok
			tt.change(&req)
			_, text, err := keys.Create(t.Context(), req)
			var invalid *InvalidError
			if text != "" || !errors.As(err, &invalid) || invalid.Field != tt.field || !strings.Contains(invalid.Detail, tt.want) {
				t.Errorf("got key %q and error %v, want an *InvalidError about %s that says %q", text, err, tt.field, tt.want)
			}
		})
	}
	if len(store.keys) != 0 {
		t.Errorf("%d refused keys are in the store", len(store.keys))
	}
	if _, _, err := keys.Create(t.Context(), ok); err != nil {
		t.Errorf("a good request is refused: %v", err)
	}
}

func TestOnlyTheTenantOfAKeyCanRevokeIt(t *testing.T) {
	keys := testKeys(t, newMemoryKeys(), nil)
	key, text := createKey(t, keys, 0)
	for name, err := range map[string]error{
		"another tenant":        keys.Revoke(t.Context(), "other", key.ID, ann),
		"an id that is nowhere": keys.Revoke(t.Context(), "demo", strings.Repeat("a", keyIDChars), ann),
		"an id that cannot be":  keys.Revoke(t.Context(), "demo", "../x", ann),
		"the text of a key":     keys.Revoke(t.Context(), "demo", text, ann),
	} {
		if !errors.Is(err, ErrKeyNotFound) {
			t.Errorf("%s: got error %v, want ErrKeyNotFound", name, err)
		}
		if err != nil && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error repeats the key", name)
		}
	}
	if _, err := keys.Verify(t.Context(), text); err != nil {
		t.Errorf("the key was revoked by someone else: %v", err)
	}
}

func TestWhoCreatesAKeyIsTheActor(t *testing.T) {
	store := newMemoryKeys()
	key, _ := createKey(t, testKeys(t, store, nil), 0)
	if key.CreatedBy != "ann" || store.createdBy != ann {
		t.Errorf("created by %q, the store was told %+v", key.CreatedBy, store.createdBy)
	}
}

func TestTheAuditLogKeepsNoSecretOfAKey(t *testing.T) {
	clk := newClock()
	key, text := createKey(t, testKeys(t, newMemoryKeys(), clk.Now), time.Hour)
	created, err := CreatedEntry(key, ann)
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := RevokedEntry(key, clk.Now().Add(time.Minute), ann)
	if err != nil {
		t.Fatal(err)
	}
	const live = `{"name":"till 7","scopes":["events:write"],"createdBy":"ann","expiresAt":"2026-11-22T13:00:00Z"}`
	const dead = `{"name":"till 7","scopes":["events:write"],"createdBy":"ann","expiresAt":"2026-11-22T13:00:00Z","revokedAt":"2026-11-22T12:01:00Z"}`
	for _, tt := range []struct {
		entry                 audit.Entry
		action, before, after string
		at                    time.Time
	}{
		{created, "key.create", "", live, clk.Now()},
		{revoked, "key.revoke", live, dead, clk.Now().Add(time.Minute)},
	} {
		e := tt.entry
		if e.TenantID != "demo" || e.Action != tt.action || e.Object != "key/"+key.ID || e.Actor != ann || !e.At.Equal(tt.at) {
			t.Errorf("%s: entry %+v", tt.action, e)
		}
		if diff := cmp.Diff([]string{tt.before, tt.after}, []string{string(e.Before), string(e.After)}); diff != "" {
			t.Errorf("%s: before and after differ (-want +got):\n%s", tt.action, diff)
		}
	}
	if strings.Contains(text, key.ID) && strings.Contains(string(revoked.After), text[len(KeyPrefix)+keyIDChars+1:]) {
		t.Error("the secret is in the log")
	}
}
