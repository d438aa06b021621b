package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
)

// apiKey is an API key as the API shows it: everything but the secret.
type apiKey struct {
	ID        string     `json:"id" doc:"The public part of the key." example:"8Zt4cQ1x"`
	Name      string     `json:"name" example:"till 4"`
	Scopes    []string   `json:"scopes" nullable:"false" example:"[\"events:write\"]"`
	CreatedAt time.Time  `json:"createdAt" example:"2026-11-22T08:30:00Z"`
	CreatedBy string     `json:"createdBy" doc:"The subject that created the key." example:"ops"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty" doc:"Absent: it lives until it is revoked."`
	RevokedAt *time.Time `json:"revokedAt,omitempty" doc:"Absent: it is not revoked."`
}

// createdKey is a new API key, with its secret. It has the members of apiKey,
// written out because a schema takes no notice of what is embedded.
type createdKey struct {
	ID        string     `json:"id" doc:"The public part of the key." example:"8Zt4cQ1x"`
	Name      string     `json:"name" example:"till 4"`
	Scopes    []string   `json:"scopes" nullable:"false" example:"[\"events:write\"]"`
	CreatedAt time.Time  `json:"createdAt" example:"2026-11-22T08:30:00Z"`
	CreatedBy string     `json:"createdBy" doc:"The subject that created the key." example:"ops"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty" doc:"Absent: it lives until it is revoked."`

	Secret string `json:"secret" doc:"The whole key, as it is sent. It is shown this once and cannot be shown again." example:"mrk_8Zt4cQ1x_…"`
}

type keyList struct {
	Keys []apiKey `json:"keys" nullable:"false" doc:"Newest first, revoked ones included."`
}

// newKey is what a key is created from.
type newKey struct {
	Name   string   `json:"name" minLength:"1" maxLength:"100" doc:"What you call it." example:"till 4"`
	Scopes []string `json:"scopes" minItems:"1" nullable:"false" doc:"What it may do; no more than you may." example:"[\"events:write\"]"`
	TTL    string   `json:"ttl,omitempty" doc:"How long it lives, such as 720h; absent: until it is revoked." example:"720h"`
}

type (
	createKeyInput struct {
		params
		Body newKey
	}
	listKeysInput  struct{ params }
	revokeKeyInput struct {
		ID string `path:"id" maxLength:"64" doc:"The key's id." example:"8Zt4cQ1x"`
		params
	}
	createdKeyOutput struct{ Body createdKey }
	keyListOutput    struct{ Body keyList }
)

func showKey(k *auth.Key) apiKey {
	out := apiKey{ID: k.ID, Name: k.Name, Scopes: k.Scopes, CreatedAt: k.CreatedAt.UTC(), CreatedBy: k.CreatedBy}
	if out.Scopes == nil {
		out.Scopes = []string{}
	}
	out.ExpiresAt, out.RevokedAt = optionalTime(k.ExpiresAt), optionalTime(k.RevokedAt)
	return out
}

// optionalTime is nil for the zero time.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (sf *surface) registerKeys() {
	s, tags := sf.server, []string{"API keys"}
	register(sf, huma.Operation{
		OperationID: "createKey", Method: http.MethodPost, Path: "/keys", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Create an API key", Description: "The secret is in this answer and nowhere else.",
	}, auth.ScopeKeysWrite, s.createKey)
	register(sf, huma.Operation{
		OperationID: "listKeys", Method: http.MethodGet, Path: "/keys", Tags: tags,
		Summary: "List the tenant's API keys",
	}, auth.ScopeKeysWrite, s.listKeys)
	register(sf, huma.Operation{
		OperationID: "revokeKey", Method: http.MethodDelete, Path: "/keys/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Revoke an API key", Description: "It stops at once on this instance, and within seconds on the others.",
	}, auth.ScopeKeysWrite, s.revokeKey)
}

func (s *Server) createKey(ctx context.Context, in *createKeyInput) (*createdKeyOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	var ttl time.Duration
	if in.Body.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(in.Body.TTL); err != nil || ttl <= 0 {
			return nil, &auth.InvalidError{Field: "ttl", Detail: "give a duration above zero, such as 720h or 30m, or leave it out"}
		}
	}
	p := principalFrom(ctx)
	key, secret, err := s.o.Keys.Create(ctx, auth.CreateKey{
		TenantID: p.TenantID, Name: in.Body.Name, Scopes: in.Body.Scopes, TTL: ttl, Actor: actorFrom(ctx), MayGrant: p.Scopes,
	})
	if err != nil {
		return nil, err
	}
	k := showKey(&key)
	return &createdKeyOutput{Body: createdKey{ID: k.ID, Name: k.Name, Scopes: k.Scopes, CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy,
		ExpiresAt: k.ExpiresAt, Secret: secret}}, nil
}

func (s *Server) listKeys(ctx context.Context, in *listKeysInput) (*keyListOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	keys, err := s.o.Keys.List(ctx, principalFrom(ctx).TenantID)
	if err != nil {
		return nil, err
	}
	out := &keyListOutput{Body: keyList{Keys: make([]apiKey, len(keys))}}
	for i := range keys {
		out.Body.Keys[i] = showKey(&keys[i])
	}
	return out, nil
}

func (s *Server) revokeKey(ctx context.Context, in *revokeKeyInput) (*noContentOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	return nil, s.o.Keys.Revoke(ctx, principalFrom(ctx).TenantID, in.ID, actorFrom(ctx))
}
