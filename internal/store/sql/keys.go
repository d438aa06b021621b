package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"millrace/internal/audit"
	"millrace/internal/auth"
)

// The statements of API keys. A key's id is unique over all tenants: a caller
// shows the key before anybody knows its tenant.
const (
	insertKey = `INSERT INTO api_keys (id, tenant_id, name, scopes, hash, created_ns, expires_ns, revoked_ns, created_by)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE NOT EXISTS (SELECT 1 FROM api_keys WHERE id = $1)
ON CONFLICT DO NOTHING`

	keyByID = `SELECT id, tenant_id, name, scopes, hash, created_ns, expires_ns, revoked_ns, created_by
FROM api_keys WHERE id = $1`

	listKeys = `SELECT id, tenant_id, name, scopes, hash, created_ns, expires_ns, revoked_ns, created_by
FROM api_keys WHERE tenant_id = $1 ORDER BY created_ns DESC, id DESC`

	// revokeKey answers with the key as it is after it; it finds no key that is
	// revoked already.
	revokeKey = `UPDATE api_keys SET revoked_ns = $1 WHERE tenant_id = $2 AND id = $3 AND revoked_ns = 0
RETURNING id, tenant_id, name, scopes, hash, created_ns, expires_ns, revoked_ns, created_by`

	keyOfTenant = `SELECT count(*) FROM api_keys WHERE tenant_id = $1 AND id = $2`
)

// Keys is the auth.KeyStore of a SQL database.
type Keys struct{ on Pools }

var _ auth.KeyStore = (*Keys)(nil)

// NewKeys returns the API keys of a database.
func NewKeys(on Pools) *Keys { return &Keys{on: on} }

// Insert writes a new key. See auth.KeyStore.
func (s *Keys) Insert(ctx context.Context, k auth.Key, by audit.Actor) error {
	scopes, err := json.Marshal(k.Scopes)
	if err != nil {
		return in("insert an API key", err)
	}
	entry, err := auth.CreatedEntry(k, by)
	if err != nil {
		return in("insert an API key", err)
	}
	return in("insert an API key", transact(ctx, s.on, func(tx transaction) error {
		ok, err := one(tx.ExecContext(ctx, insertKey, k.ID, k.TenantID, k.Name, string(scopes), k.Hash[:],
			nanos(k.CreatedAt), nanos(k.ExpiresAt), nanos(k.RevokedAt), readable(k.CreatedBy)))
		switch {
		case err != nil:
			return err
		case !ok:
			return auth.ErrKeyExists
		}
		return insertAudit(ctx, tx, entry)
	}))
}

// ByID returns a key whatever its state and tenant. See auth.KeyStore.
func (s *Keys) ByID(ctx context.Context, id string) (auth.Key, error) {
	k, err := scanKey(s.on.AllRead.QueryRowContext(ctx, keyByID, id))
	if noRows(err) {
		return auth.Key{}, auth.ErrKeyNotFound
	}
	return k, in("read an API key", err)
}

// List returns the keys of a tenant, the newest first. See auth.KeyStore.
func (s *Keys) List(ctx context.Context, tenantID string) ([]auth.Key, error) {
	rows, err := s.on.Lists.QueryContext(ForTenant(ctx, tenantID), listKeys, tenantID)
	if err != nil {
		return nil, in("list API keys", err)
	}
	defer rows.Close()
	var keys []auth.Key
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, in("list API keys", err)
		}
		keys = append(keys, k)
	}
	return keys, in("list API keys", rows.Err())
}

// Revoke marks a key as revoked. See auth.KeyStore.
func (s *Keys) Revoke(ctx context.Context, tenantID, id string, at time.Time, by audit.Actor) error {
	return in("revoke an API key", transact(ctx, s.on, func(tx transaction) error {
		k, err := scanKey(tx.QueryRowContext(ctx, revokeKey, nanos(at), tenantID, id))
		if noRows(err) {
			var there int
			if err := tx.QueryRowContext(ctx, keyOfTenant, tenantID, id).Scan(&there); err != nil || there > 0 {
				return err
			}
			return auth.ErrKeyNotFound
		}
		if err != nil {
			return err
		}
		k.RevokedAt = time.Time{}
		entry, err := auth.RevokedEntry(k, at, by)
		if err != nil {
			return err
		}
		return insertAudit(ctx, tx, entry)
	}))
}

func scanKey(row interface{ Scan(...any) error }) (auth.Key, error) {
	var k auth.Key
	var scopes string
	var hash []byte
	var created, expires, revoked int64
	if err := row.Scan(&k.ID, &k.TenantID, &k.Name, &scopes, &hash, &created, &expires, &revoked, &k.CreatedBy); err != nil {
		return auth.Key{}, err
	}
	if len(hash) != len(k.Hash) {
		return auth.Key{}, fmt.Errorf("API key %s has a hash of %d bytes instead of %d; revoke it and create another", k.ID, len(hash), len(k.Hash))
	}
	if err := json.Unmarshal([]byte(scopes), &k.Scopes); err != nil {
		return auth.Key{}, fmt.Errorf("API key %s has scopes that are not a JSON array; revoke it and create another: %w", k.ID, err)
	}
	k.Hash = [32]byte(hash)
	k.CreatedAt, k.ExpiresAt, k.RevokedAt = timeOf(created), timeOf(expires), timeOf(revoked)
	return k, nil
}
