package auth

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseScopes(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
		wantErr  string
	}{
		{"one scope", "events:write", []string{"events:write"}, ""},
		{"several scopes in any order and spacing", "  keys:write events:read\tevents:write ", []string{"events:write", "events:read", "keys:write"}, ""},
		{"a scope given twice counts once", "admin admin", []string{"admin"}, ""},
		{"an unknown scope is named and the known ones are listed", "events:write event:read", nil, `unknown scope "event:read"; the scopes are events:write, events:read, deadletters:read, deadletters:write, keys:write, catalog:write, stock:write, orders:write, orders:read, orders:admin, webhooks:write, audit:read, admin`},
		{"the scopes of a shop, in the order of the table", "audit:read orders:admin orders:read orders:write stock:write catalog:write webhooks:write",
			[]string{"catalog:write", "stock:write", "orders:write", "orders:read", "orders:admin", "webhooks:write", "audit:read"}, ""},
		{"upper case is another scope", "ADMIN", nil, `unknown scope "ADMIN"`},
		{"none at all is an error", "  ", nil, "no scope is given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseScopes(tt.in)
			if tt.wantErr != "" {
				var invalid *InvalidError
				if !errors.As(err, &invalid) || invalid.Field != "scopes" || !strings.Contains(invalid.Detail, tt.wantErr) {
					t.Fatalf("got error %v, want one that says %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.Names()); diff != "" {
				t.Errorf("scopes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScopesOfASet(t *testing.T) {
	writer := MakeScopes(ScopeEventsWrite)
	admin := MakeScopes(ScopeAdmin)
	for _, s := range KnownScopes() {
		if !admin.Has(s) {
			t.Errorf("admin does not have %s", s)
		}
		if got, want := writer.Has(s), s == ScopeEventsWrite; got != want {
			t.Errorf("a writer has %s: got %v, want %v", s, got, want)
		}
		if (Scopes(0)).Has(s) {
			t.Errorf("the empty set has %s", s)
		}
		if !admin.Covers(MakeScopes(s)) {
			t.Errorf("admin does not cover %s", s)
		}
	}
	if admin.Has("nonsense") {
		t.Error("admin has a scope that does not exist")
	}
	if writer.Covers(admin) || writer.Covers(MakeScopes(ScopeEventsRead)) || !writer.Covers(writer) {
		t.Error("a writer covers more or less than itself")
	}
	var nobody *Principal
	if nobody.Has(ScopeEventsRead) {
		t.Error("a nil principal has a scope")
	}
	if op := Operator("demo"); !op.Has(ScopeKeysWrite) || op.TenantID != "demo" || op.Method != MethodOperator {
		t.Errorf("got operator %+v", op)
	}
}

func TestValidateTenantID(t *testing.T) {
	tests := []struct {
		name, id string
		ok       bool
	}{
		{"a word", "demo", true},
		{"a digit first", "7eleven", true},
		{"dash and underscore inside", "a-b_c", true},
		{"63 characters", strings.Repeat("a", 63), true},
		{"64 characters are too many", strings.Repeat("a", 64), false},
		{"empty", "", false},
		{"a dash first", "-a", false},
		{"an underscore first", "_a", false},
		{"upper case", "Demo", false},
		{"a path", "a/../b", false},
		{"a NUL", "a\x00b", false},
		{"not ASCII", "bücher", false},
		{"a space", "a b", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := ValidateTenantID(tt.id)
			if (err == nil) != tt.ok {
				t.Errorf("ValidateTenantID(%q) = %v, want ok %v", tt.id, err, tt.ok)
			}
			var invalid *InvalidError
			if err != nil && (!errors.As(err, &invalid) || invalid.Field != "tenantId") {
				t.Errorf("got %T, want an *InvalidError about tenantId", err)
			}
		})
	}
}
