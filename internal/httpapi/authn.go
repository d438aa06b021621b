package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"millrace/internal/auth"
)

// identifyBearer finds the caller of the public surface by its credential: a
// bearer token or an API key in Authorization, or an API key in X-API-Key.
func (s *Server) identifyBearer(ctx context.Context, r *http.Request) (*auth.Principal, *problem) {
	credential, refused := credentialOf(r.Header)
	if refused != nil {
		return nil, refused
	}
	p, err := s.o.Auth.Authenticate(ctx, credential)
	if err == nil {
		return p, nil
	}
	var refusal *auth.Error
	if errors.As(err, &refusal) {
		return nil, unauthenticated(refusal.Code, refusal.Detail)
	}
	unavailable := newProblem(slugAuthUnavailable, "the credential could not be checked now; wait for retryAfter seconds and try again").
		after(retryUnavailable).because(err)
	var u *auth.UnavailableError
	if errors.As(err, &u) {
		unavailable.Detail = u.Detail
		unavailable.after(u.RetryAfter)
	}
	return nil, unavailable
}

// credentialOf returns what the caller shows.
func credentialOf(h http.Header) (string, *problem) {
	if values := h["Authorization"]; len(values) > 0 {
		const scheme = "bearer "
		v := values[0]
		if len(values) == 1 && len(v) > len(scheme) && strings.EqualFold(v[:len(scheme)], scheme) {
			return strings.TrimLeft(v[len(scheme):], " "), nil
		}
		return "", unauthenticated(auth.CodeTokenMalformed, "the Authorization header must be one line of the form: Bearer <token or API key>")
	}
	if values := h["X-Api-Key"]; len(values) == 1 && values[0] != "" {
		return values[0], nil
	}
	return "", unauthenticated(auth.CodeTokenMissing, "send a token or an API key: Authorization: Bearer <credential>")
}

// unauthenticated is a 401 with the challenge of RFC 6750.
func unauthenticated(code, detail string) *problem {
	slug := code
	if _, ok := lookupKind(slug); !ok {
		slug = slugUnauthenticated
	}
	challenge := `Bearer realm="millrace"`
	if code != auth.CodeTokenMissing {
		challenge += `, error="invalid_token", error_description="` + quotable(detail) + `"`
	}
	return newProblem(slug, detail).with("WWW-Authenticate", challenge)
}

// scopeMissing says that the caller lacks a scope, of which any would do.
func scopeMissing(p *auth.Principal, scopes ...auth.Scope) *problem {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	detail := fmt.Sprintf("this needs the scope %s; the credential has %s", strings.Join(names, " or "), orNone(p.Scopes.String()))
	return newProblem(slugScopeMissing, detail).with("WWW-Authenticate",
		`Bearer realm="millrace", error="insufficient_scope", scope="`+names[0]+`"`)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// quotable keeps what RFC 6750 allows in an error_description.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s)
}

// tenantHeader names the tenant on the operator's surface.
const tenantHeader = "X-Millrace-Tenant"

// identifyOperator trusts whoever reached the operator's surface.
func identifyOperator(_ context.Context, r *http.Request) (*auth.Principal, *problem) {
	tenant := r.Header.Get(tenantHeader)
	if err := auth.ValidateTenantID(tenant); err != nil {
		return nil, newProblem(slugTenantMissing, "the header "+tenantHeader+": "+err.Error())
	}
	return auth.Operator(tenant), nil
}

// methodVisitor is the method of a principal that showed no credential.
const methodVisitor = "visitor"

// anyVisitor is whoever shows no credential and names no tenant. It is never changed.
var anyVisitor = &auth.Principal{Method: methodVisitor}

// identifyVisitor says which tenant's public catalogue a caller without a
// credential wants to see: the one of the header, else of the parameter "tenant".
func identifyVisitor(r *http.Request) (*auth.Principal, *problem) {
	where, tenant := "the header "+tenantHeader, r.Header.Get(tenantHeader)
	if tenant == "" {
		where, tenant = `the query parameter "tenant"`, r.URL.Query().Get("tenant")
	}
	if tenant == "" {
		return nil, newProblem(slugTenantMissing, "name the shop's tenant in the header "+tenantHeader+" or in the query parameter \"tenant\", or send a credential")
	}
	if err := auth.ValidateTenantID(tenant); err != nil {
		return nil, newProblem(slugTenantMissing, where+": "+err.Error())
	}
	return &auth.Principal{TenantID: tenant, Method: methodVisitor}, nil
}
