package auth

import (
	"fmt"
	"math/bits"
	"strings"
)

// Scope names something a caller may do.
type Scope string

// The scopes there are.
const (
	ScopeEventsWrite      Scope = "events:write"
	ScopeEventsRead       Scope = "events:read"
	ScopeDeadLettersRead  Scope = "deadletters:read"
	ScopeDeadLettersWrite Scope = "deadletters:write"
	ScopeKeysWrite        Scope = "keys:write"
	ScopeCatalogWrite     Scope = "catalog:write"
	ScopeStockWrite       Scope = "stock:write"
	// ScopeOrdersWrite lets a buyer place orders and cancel them, ScopeOrdersRead
	// see them: its own, of which it is the subject.
	ScopeOrdersWrite Scope = "orders:write"
	ScopeOrdersRead  Scope = "orders:read"
	// ScopeOrdersAdmin is for the merchant: all of the tenant's orders, refunds,
	// shipments and deliveries.
	ScopeOrdersAdmin   Scope = "orders:admin"
	ScopeWebhooksWrite Scope = "webhooks:write"
	ScopeAuditRead     Scope = "audit:read"
	// ScopeAdmin stands for all scopes, within the caller's tenant.
	ScopeAdmin Scope = "admin"
)

// Scopes is a set of scopes. The zero value is the empty set. Its bits are an
// implementation detail and must not be stored: store names.
type Scopes uint32

// knownScopes holds every scope; the index of a scope is its bit. It is never
// changed.
var knownScopes = [...]Scope{
	ScopeEventsWrite,
	ScopeEventsRead,
	ScopeDeadLettersRead,
	ScopeDeadLettersWrite,
	ScopeKeysWrite,
	ScopeCatalogWrite,
	ScopeStockWrite,
	ScopeOrdersWrite,
	ScopeOrdersRead,
	ScopeOrdersAdmin,
	ScopeWebhooksWrite,
	ScopeAuditRead,
	ScopeAdmin,
}

// KnownScopes returns every scope there is.
func KnownScopes() []Scope { return append([]Scope(nil), knownScopes[:]...) }

// bit returns the bit of a scope, zero if there is no such scope.
func (s Scope) bit() Scopes {
	for i, known := range knownScopes {
		if s == known {
			return 1 << i
		}
	}
	return 0
}

const adminBit Scopes = 1 << (len(knownScopes) - 1)

// MakeScopes returns the set of the given scopes. Unknown scopes are left out:
// use ParseScopes for what comes from outside.
func MakeScopes(scopes ...Scope) Scopes {
	var set Scopes
	for _, s := range scopes {
		set |= s.bit()
	}
	return set
}

// ParseScopes reads scope names separated by spaces. The error is an
// *InvalidError that names the unknown scope and lists the known ones.
func ParseScopes(s string) (Scopes, error) { return ParseScopeNames(strings.Fields(s)) }

// ParseScopeNames reads a list of scope names, at least one. Its errors are
// those of ParseScopes.
func ParseScopeNames(names []string) (Scopes, error) {
	var set Scopes
	for _, name := range names {
		bit := Scope(name).bit()
		if bit == 0 {
			return 0, &InvalidError{Field: "scopes", Detail: fmt.Sprintf("unknown scope %q; the scopes are %s", name, listScopes())}
		}
		set |= bit
	}
	if set == 0 {
		return 0, &InvalidError{Field: "scopes", Detail: "no scope is given; give at least one of " + listScopes()}
	}
	return set, nil
}

// knownIn returns the known scopes among space-separated names. Tokens of
// outside issuers carry scopes that mean nothing here ("openid"), so unknown
// names are no error.
func knownIn(names string) Scopes {
	var set Scopes
	for name := range strings.FieldsSeq(names) {
		set |= Scope(name).bit()
	}
	return set
}

func listScopes() string {
	names := make([]string, len(knownScopes))
	for i, s := range knownScopes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// Has says whether the set covers the scope: it holds it, or holds admin. No
// set covers a scope that does not exist.
func (set Scopes) Has(s Scope) bool {
	bit := s.bit()
	return bit != 0 && set&(bit|adminBit) != 0
}

// Covers says whether everything that other allows is allowed by set too.
func (set Scopes) Covers(other Scopes) bool {
	return set&adminBit != 0 || other&^set == 0
}

// Names returns the scopes of the set by name, in the order of KnownScopes.
func (set Scopes) Names() []string {
	names := make([]string, 0, bits.OnesCount32(uint32(set)))
	for i, s := range knownScopes {
		if set&(1<<i) != 0 {
			names = append(names, string(s))
		}
	}
	return names
}

// String returns the scopes of the set by name, separated by spaces: the form
// of the "scope" claim.
func (set Scopes) String() string { return strings.Join(set.Names(), " ") }
