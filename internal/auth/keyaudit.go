package auth

import (
	"time"

	"millrace/internal/audit"
)

// auditedKey is what the audit log keeps of a key: neither its secret nor the
// secret's hash.
type auditedKey struct {
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	CreatedBy string     `json:"createdBy"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	RevokedAt *time.Time `json:"revokedAt,omitempty"`
}

func auditKey(k Key) auditedKey {
	a := auditedKey{Name: k.Name, Scopes: k.Scopes, CreatedBy: k.CreatedBy}
	if !k.ExpiresAt.IsZero() {
		a.ExpiresAt = &k.ExpiresAt
	}
	if !k.RevokedAt.IsZero() {
		a.RevokedAt = &k.RevokedAt
	}
	return a
}

// CreatedEntry is the audit entry ("key.create", "key/ID") of a new key.
func CreatedEntry(k Key, by audit.Actor) (audit.Entry, error) {
	return audit.NewEntry(k.TenantID, k.CreatedAt, by, "key.create", "key/"+k.ID, nil, auditKey(k))
}

// RevokedEntry is the audit entry ("key.revoke", "key/ID") of a key that was not
// revoked and now is, at the given time.
func RevokedEntry(k Key, at time.Time, by audit.Actor) (audit.Entry, error) {
	revoked := k
	revoked.RevokedAt = at
	return audit.NewEntry(k.TenantID, at, by, "key.revoke", "key/"+k.ID, auditKey(k), auditKey(revoked))
}
