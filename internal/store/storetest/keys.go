package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/audit"
	"millrace/internal/auth"
)

// Keys runs the conformance suite of auth.KeyStore. The factory gives a fresh
// store, with the audit log it writes, and registers its own clean-up.
func Keys(t *testing.T, fresh func(t testing.TB) (auth.KeyStore, audit.Store)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, auth.KeyStore, audit.Store)
	}{
		{"every field comes back as it went in", keyFields},
		{"an id is taken once, over all tenants", keyIDTaken},
		{"of many who insert one id at a time one succeeds", keyIDRace},
		{"keys are listed newest first", keyList},
		{"a revoked key keeps its first time", keyRevoke},
		{"no tenant touches another's keys", keyTenants},
		{"creating and revoking are in the audit log, and nothing else is", keyAudit},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, log := fresh(t)
			c.test(t, keys, log)
		})
	}
}

// key returns a key that is told apart by n.
func key(tenant string, n int) auth.Key {
	k := auth.Key{
		ID:        fmt.Sprintf("key%013d", n),
		TenantID:  tenant,
		Name:      fmt.Sprint("key ", n),
		Scopes:    []string{"events:write"},
		CreatedAt: monday.Add(time.Duration(n/2) * time.Microsecond), // pairs share a time
		CreatedBy: "alice",
	}
	k.Hash[0], k.Hash[31] = byte(n), 0xff
	return k
}

func insertKeys(t testing.TB, s auth.KeyStore, keys ...auth.Key) {
	t.Helper()
	for _, k := range keys {
		if err := s.Insert(t.Context(), k, ann); err != nil {
			t.Fatalf("Insert(%s): %v", k.ID, err)
		}
	}
}

func keyFields(t *testing.T, s auth.KeyStore, _ audit.Store) {
	full := key("demo", 1)
	full.Name = `Grüße "quoted" ` + "\U0001F600"
	full.Scopes = []string{"events:write", "events:read", "admin"}
	full.CreatedAt = monday.Add(123456000)
	full.ExpiresAt = monday.Add(time.Hour)
	full.RevokedAt = monday.Add(time.Minute)
	bare := auth.Key{ID: "bare", TenantID: "demo", CreatedAt: monday}
	insertKeys(t, s, full, bare)
	for _, want := range []auth.Key{full, bare} {
		got, err := s.ByID(t.Context(), want.ID)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("key %s: error %v, differs (-want +got):\n%s", want.ID, err, diff)
		}
	}
	if _, err := s.ByID(t.Context(), "none"); !errors.Is(err, auth.ErrKeyNotFound) {
		t.Errorf("a key that is not there: error %v, want auth.ErrKeyNotFound", err)
	}
}

func keyIDTaken(t *testing.T, s auth.KeyStore, _ audit.Store) {
	first := key("demo", 1)
	insertKeys(t, s, first)
	for _, tenant := range []string{"demo", "rival"} {
		again := key(tenant, 1)
		again.Name = "another"
		if err := s.Insert(t.Context(), again, ann); !errors.Is(err, auth.ErrKeyExists) {
			t.Errorf("the id again by %s: error %v, want auth.ErrKeyExists", tenant, err)
		}
	}
	got, err := s.ByID(t.Context(), first.ID)
	if diff := cmp.Diff(first, got); diff != "" || err != nil {
		t.Errorf("error %v, the first key differs (-want +got):\n%s", err, diff)
	}
}

func keyIDRace(t *testing.T, s auth.KeyStore, _ audit.Store) {
	var wg sync.WaitGroup
	var won atomic.Int32
	for range 16 {
		wg.Go(func() {
			switch err := s.Insert(t.Context(), key("demo", 1), ann); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, auth.ErrKeyExists):
				t.Errorf("error %v, want auth.ErrKeyExists", err)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d inserts succeeded, want 1", n)
	}
}

func keyList(t *testing.T, s auth.KeyStore, _ audit.Store) {
	var want []auth.Key
	for n := range 10 {
		k := key("demo", n)
		insertKeys(t, s, k)
		want = append([]auth.Key{k}, want...)
	}
	got, err := s.List(t.Context(), "demo")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, keys differ (-want +got):\n%s", err, diff)
	}
}

func keyRevoke(t *testing.T, s auth.KeyStore, _ audit.Store) {
	want := key("demo", 1)
	insertKeys(t, s, want, key("demo", 2))
	want.RevokedAt = monday.Add(time.Hour)
	for _, at := range []time.Time{want.RevokedAt, monday.Add(2 * time.Hour)} {
		if err := s.Revoke(t.Context(), "demo", want.ID, at, ann); err != nil {
			t.Fatal(err)
		}
		got, err := s.ByID(t.Context(), want.ID)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("error %v, the key differs (-want +got):\n%s", err, diff)
		}
	}
	if got, err := s.ByID(t.Context(), key("demo", 2).ID); !got.RevokedAt.IsZero() || err != nil {
		t.Errorf("the other key: revoked at %v, error %v", got.RevokedAt, err)
	}
	if err := s.Revoke(t.Context(), "demo", "none", monday, ann); !errors.Is(err, auth.ErrKeyNotFound) {
		t.Errorf("a key that is not there: error %v, want auth.ErrKeyNotFound", err)
	}
}

func keyTenants(t *testing.T, s auth.KeyStore, _ audit.Store) {
	mine, theirs := key("demo", 1), key("rival", 2)
	insertKeys(t, s, mine, theirs)
	got, err := s.List(t.Context(), "demo")
	if diff := cmp.Diff([]auth.Key{mine}, got); diff != "" || err != nil {
		t.Errorf("error %v, demo's keys differ (-want +got):\n%s", err, diff)
	}
	if err := s.Revoke(t.Context(), "demo", theirs.ID, monday, ann); !errors.Is(err, auth.ErrKeyNotFound) {
		t.Errorf("revoking another tenant's key: error %v, want auth.ErrKeyNotFound", err)
	}
	if got, err := s.ByID(t.Context(), theirs.ID); !got.RevokedAt.IsZero() || err != nil {
		t.Errorf("their key: revoked at %v, error %v", got.RevokedAt, err)
	}
	if got, err := s.List(t.Context(), "nobody"); len(got) != 0 || err != nil {
		t.Errorf("a tenant without keys: %v, error %v", got, err)
	}
}

func keyAudit(t *testing.T, s auth.KeyStore, log audit.Store) {
	k := key("demo", 1)
	insertKeys(t, s, k)
	if err := s.Insert(t.Context(), k, ann); !errors.Is(err, auth.ErrKeyExists) {
		t.Fatalf("error %v, want auth.ErrKeyExists", err)
	}
	at := monday.Add(time.Hour)
	for _, later := range []time.Duration{0, time.Hour} {
		if err := s.Revoke(t.Context(), "demo", k.ID, at.Add(later), bob); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Revoke(t.Context(), "demo", "none", at, bob); !errors.Is(err, auth.ErrKeyNotFound) {
		t.Fatalf("error %v, want auth.ErrKeyNotFound", err)
	}
	created, err := auth.CreatedEntry(k, ann)
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := auth.RevokedEntry(k, at, bob)
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, log, audit.Query{TenantID: "demo"}, revoked, created)
}
