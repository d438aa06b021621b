package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"millrace/internal/audit"
	"millrace/internal/fulfilment"
)

// The statements of webhook endpoints.
const (
	endpointColumns = `tenant_id, id, url, events, secrets, version, created_ns, updated_ns, disabled_ns, disabled_reason`

	getEndpoint   = `SELECT ` + endpointColumns + ` FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2`
	listEndpoints = `SELECT ` + endpointColumns + ` FROM webhook_endpoints WHERE tenant_id = $1 ORDER BY id`

	countEndpoints = `SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1`

	insertEndpoint = `INSERT INTO webhook_endpoints (` + endpointColumns + `)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (tenant_id, id) DO NOTHING`

	updateEndpoint = `UPDATE webhook_endpoints
SET url = $1, events = $2, secrets = $3, version = $4, updated_ns = $5, disabled_ns = $6, disabled_reason = $7
WHERE tenant_id = $8 AND id = $9 AND version = $10`

	deleteEndpoint = `DELETE FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2 AND version = $3`
)

// Webhooks is the fulfilment.Store of a SQL database.
type Webhooks struct{ on Pools }

var _ fulfilment.Store = (*Webhooks)(nil)

// NewWebhooks returns the webhook endpoints and deliveries of a database.
func NewWebhooks(on Pools) *Webhooks { return &Webhooks{on: on} }

// Endpoint returns one endpoint. See fulfilment.Store.
func (s *Webhooks) Endpoint(ctx context.Context, tenantID, id string) (fulfilment.Endpoint, error) {
	e, err := scanEndpoint(s.on.Read.QueryRowContext(ForTenant(ctx, tenantID), getEndpoint, tenantID, id))
	if noRows(err) {
		return fulfilment.Endpoint{}, fulfilment.ErrNotFound
	}
	return e, in("read a webhook endpoint", err)
}

// Endpoints returns a tenant's endpoints by id. See fulfilment.Store.
func (s *Webhooks) Endpoints(ctx context.Context, tenantID string) ([]fulfilment.Endpoint, error) {
	rows, err := s.on.Read.QueryContext(ForTenant(ctx, tenantID), listEndpoints, tenantID)
	if err != nil {
		return nil, in("list webhook endpoints", err)
	}
	defer rows.Close()
	var list []fulfilment.Endpoint
	for rows.Next() {
		e, err := scanEndpoint(rows)
		if err != nil {
			return nil, in("list webhook endpoints", err)
		}
		list = append(list, e)
	}
	return list, in("list webhook endpoints", rows.Err())
}

// PutEndpoint creates or replaces an endpoint. See fulfilment.Store.
func (s *Webhooks) PutEndpoint(ctx context.Context, e fulfilment.Endpoint, ifVersion int64, now time.Time, by audit.Actor) (put fulfilment.Endpoint, created bool, err error) {
	err = transact(ctx, s.on, func(tx transaction) error {
		before, err := endpointIn(ctx, tx, e.TenantID, e.ID)
		created = errors.Is(err, fulfilment.ErrNotFound)
		switch {
		case err != nil && !created:
			return err
		case ifVersion < 0 && !created, ifVersion > 0 && (created || before.Version != ifVersion):
			return fulfilment.ErrVersion
		}
		if put = e; created {
			put.Version, put.CreatedAt = 1, now.UTC()
		} else {
			put.Version, put.CreatedAt = before.Version+1, before.CreatedAt
		}
		put.UpdatedAt = now.UTC()
		var shown any
		if !created {
			shown = showEndpoint(&before)
		}
		if err := writeEndpoint(ctx, tx, &put, created); err != nil {
			return err
		}
		return auditEndpoint(ctx, tx, &put, now, by, "webhook-endpoint.put", shown, showEndpoint(&put))
	})
	switch {
	case errors.Is(err, errRaced):
		return fulfilment.Endpoint{}, false, fulfilment.ErrVersion
	case err != nil:
		return fulfilment.Endpoint{}, false, in("put a webhook endpoint", err)
	}
	return put, created, nil
}

// writeEndpoint inserts an endpoint or writes its next version.
func writeEndpoint(ctx context.Context, tx transaction, e *fulfilment.Endpoint, created bool) error {
	events, err := json.Marshal(e.Events)
	if err != nil {
		return err
	}
	secrets, err := packSecrets(e.Secrets)
	if err != nil {
		return err
	}
	var ok bool
	if created {
		var n int
		if err := tx.QueryRowContext(ctx, countEndpoints, e.TenantID).Scan(&n); err != nil {
			return err
		}
		if n >= fulfilment.MaxEndpoints {
			return fulfilment.ErrTooManyEndpoints
		}
		ok, err = one(tx.ExecContext(ctx, insertEndpoint, e.TenantID, e.ID, e.URL, string(events), secrets, e.Version,
			nanos(e.CreatedAt), nanos(e.UpdatedAt), nanos(e.DisabledAt), readable(e.DisabledReason)))
	} else {
		ok, err = one(tx.ExecContext(ctx, updateEndpoint, e.URL, string(events), secrets, e.Version,
			nanos(e.UpdatedAt), nanos(e.DisabledAt), readable(e.DisabledReason), e.TenantID, e.ID, e.Version-1))
	}
	if err == nil && !ok {
		return errRaced
	}
	return err
}

// DeleteEndpoint removes an endpoint. See fulfilment.Store.
func (s *Webhooks) DeleteEndpoint(ctx context.Context, tenantID, id string, now time.Time, by audit.Actor) error {
	return in("delete a webhook endpoint", transact(ctx, s.on, func(tx transaction) error {
		before, err := endpointIn(ctx, tx, tenantID, id)
		if err != nil {
			return err
		}
		ok, err := one(tx.ExecContext(ctx, deleteEndpoint, tenantID, id, before.Version))
		switch {
		case err != nil:
			return err
		case !ok:
			return errRaced
		}
		if err := giveUpAll(ctx, tx, tenantID, id, now); err != nil {
			return err
		}
		return auditEndpoint(ctx, tx, &before, now, by, "webhook-endpoint.delete", showEndpoint(&before), nil)
	}))
}

// disableEndpoint switches an endpoint off if it is still the one that was tried.
func disableEndpoint(ctx context.Context, tx transaction, d *fulfilment.Disable, at time.Time) error {
	before, err := endpointIn(ctx, tx, d.TenantID, d.EndpointID)
	if errors.Is(err, fulfilment.ErrNotFound) {
		return nil
	}
	if err != nil || before.Version != d.Version || !before.CreatedAt.Equal(d.CreatedAt) || before.Disabled() {
		return err
	}
	after := before
	after.Version++
	after.UpdatedAt, after.DisabledAt, after.DisabledReason = at.UTC(), at.UTC(), d.Reason
	if err := writeEndpoint(ctx, tx, &after, false); err != nil {
		return err
	}
	by := audit.Actor{Subject: "millrace", Method: "system"}
	return auditEndpoint(ctx, tx, &after, at, by, "webhook-endpoint.disable", showEndpoint(&before), showEndpoint(&after))
}

func endpointIn(ctx context.Context, tx transaction, tenantID, id string) (fulfilment.Endpoint, error) {
	e, err := scanEndpoint(tx.QueryRowContext(ctx, getEndpoint, tenantID, id))
	if noRows(err) {
		return fulfilment.Endpoint{}, fulfilment.ErrNotFound
	}
	return e, err
}

func auditEndpoint(ctx context.Context, tx transaction, e *fulfilment.Endpoint, at time.Time, by audit.Actor, action string, before, after any) error {
	entry, err := audit.NewEntry(e.TenantID, at, by, action, "webhook-endpoint/"+e.ID, before, after)
	if err != nil {
		return err
	}
	return insertAudit(ctx, tx, entry)
}

// shownEndpoint is an endpoint as the audit log shows it. Secrets are only
// counted, and a query, where tokens are kept, is left out of the URL.
type shownEndpoint struct {
	URL            string     `json:"url"`
	Events         []string   `json:"events"`
	Secrets        int        `json:"secrets"`
	SecretExpires  *time.Time `json:"previousSecretExpires,omitempty"`
	Version        int64      `json:"version"`
	Enabled        bool       `json:"enabled"`
	DisabledReason string     `json:"disabledReason,omitempty"`
}

func showEndpoint(e *fulfilment.Endpoint) *shownEndpoint {
	s := &shownEndpoint{Events: e.Events, Secrets: len(e.Secrets), Version: e.Version, Enabled: !e.Disabled(), DisabledReason: e.DisabledReason}
	if len(e.Secrets) > 1 {
		s.SecretExpires = &e.Secrets[1].ExpiresAt
	}
	if u, err := url.Parse(e.URL); err == nil {
		if u.RawQuery != "" {
			u.RawQuery = "hidden"
		}
		s.URL = u.Redacted()
	}
	return s
}

// packedSecret is a secret as the column keeps it.
type packedSecret struct {
	Key       string `json:"key"`
	ExpiresNs int64  `json:"expiresNs,omitempty"`
}

func packSecrets(secrets []fulfilment.Secret) (string, error) {
	packed := make([]packedSecret, len(secrets))
	for i, s := range secrets {
		packed[i] = packedSecret{s.Key, nanos(s.ExpiresAt)}
	}
	text, err := json.Marshal(packed)
	return string(text), err
}

func scanEndpoint(row interface{ Scan(...any) error }) (fulfilment.Endpoint, error) {
	var e fulfilment.Endpoint
	var events, secrets string
	var created, updated, disabled int64
	if err := row.Scan(&e.TenantID, &e.ID, &e.URL, &events, &secrets, &e.Version, &created, &updated, &disabled, &e.DisabledReason); err != nil {
		return fulfilment.Endpoint{}, err
	}
	if err := json.Unmarshal([]byte(events), &e.Events); err != nil {
		return fulfilment.Endpoint{}, fmt.Errorf("webhook endpoint %s of tenant %s has events that are not a JSON array; delete it and put it again: %w", e.ID, e.TenantID, err)
	}
	var packed []packedSecret
	if json.Unmarshal([]byte(secrets), &packed) != nil { // its error could show a piece of a secret
		return fulfilment.Endpoint{}, fmt.Errorf("webhook endpoint %s of tenant %s has secrets that cannot be read; delete it and put it again", e.ID, e.TenantID)
	}
	for _, p := range packed {
		e.Secrets = append(e.Secrets, fulfilment.Secret{Key: p.Key, ExpiresAt: timeOf(p.ExpiresNs)})
	}
	e.CreatedAt, e.UpdatedAt, e.DisabledAt = timeOf(created), timeOf(updated), timeOf(disabled)
	return e, nil
}
