package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxCredentialBytes bounds what is looked at at all. Tokens of outside
	// issuers reach a few KiB; header limits stand before this one.
	maxCredentialBytes = 8 << 10
	maxSubjectBytes    = 256
	// maxExpiryYear is the last year that RFC 3339 can write.
	maxExpiryYear = 9999

	defaultTenantClaim = "tenant_id"
)

// tokenHeader is the part of a JWT's header that decides who may verify it.
type tokenHeader struct {
	Alg  string          `json:"alg"`
	Kid  string          `json:"kid"`
	Crit json.RawMessage `json:"crit"`
}

// readHeader reads the header of a JWT without believing any of it.
func readHeader(token string) (tokenHeader, error) {
	malformed := func(detail string) (tokenHeader, error) {
		return tokenHeader{}, &Error{Code: CodeTokenMalformed, Detail: detail}
	}
	head, rest, ok := strings.Cut(token, ".")
	if !ok || strings.Count(rest, ".") != 1 {
		return malformed("the credential is neither a JSON Web Token (three parts separated by dots) nor an API key (mrk_…); send one of them after \"Bearer \"")
	}
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return malformed("the header of the token is not base64url; send the token exactly as it was issued")
	}
	var h tokenHeader
	if err := json.Unmarshal(raw, &h); err != nil {
		return malformed("the header of the token is not a JSON object; send the token exactly as it was issued")
	}
	if h.Crit != nil {
		return malformed("the token demands extensions (\"crit\") that this server does not know; ask the issuer for a token without them")
	}
	return h, nil
}

// tokenRules is what a token must fulfil, whoever signed it.
type tokenRules struct {
	algorithms  []string
	issuer      string
	audience    string
	tenantClaim string
	leeway      time.Duration
	now         func() time.Time
	// newToken says how to get a new token; it ends many error details.
	newToken string
}

// verify checks signature and claims of a token and returns who it speaks for
// and until when it is good, leeway included. The error is an *Error or
// whatever keyOf answered.
func (r *tokenRules) verify(token string, keyOf jwt.Keyfunc) (*Principal, time.Time, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods(r.algorithms),
		jwt.WithIssuer(r.issuer),
		jwt.WithAudience(r.audience),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(r.leeway),
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(r.now),
	)
	claims := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(token, claims, keyOf); err != nil {
		return nil, time.Time{}, r.explain(err, claims)
	}
	return r.principal(claims)
}

// principal reads who a verified token speaks for.
func (r *tokenRules) principal(claims jwt.MapClaims) (*Principal, time.Time, error) {
	tenant, _ := claims[r.tenantClaim].(string)
	if tenant == "" {
		return nil, time.Time{}, &Error{Code: CodeTokenTenant, Detail: fmt.Sprintf(
			"the token has no claim %q that names a tenant; %s", r.tenantClaim, r.newToken)}
	}
	if err := ValidateTenantID(tenant); err != nil {
		return nil, time.Time{}, &Error{Code: CodeTokenTenant, Detail: fmt.Sprintf("claim %q of the token: %s", r.tenantClaim, detailOf(err))}
	}
	subject, _ := claims["sub"].(string)
	if subject == "" || len(subject) > maxSubjectBytes {
		return nil, time.Time{}, &Error{Code: CodeTokenSubject, Detail: fmt.Sprintf(
			"the token needs a \"sub\" claim of 1 to %d bytes; %s", maxSubjectBytes, r.newToken)}
	}
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil {
		return nil, time.Time{}, &Error{Code: CodeTokenExpired, Detail: "the token has no \"exp\" claim; " + r.newToken}
	}
	if expires.Year() > maxExpiryYear {
		return nil, time.Time{}, &Error{Code: CodeTokenMalformed, Detail: "the \"exp\" claim of the token is beyond all dates; " + r.newToken}
	}
	p := &Principal{
		TenantID:  tenant,
		Subject:   subject,
		Scopes:    claimedScopes(claims["scope"]) | claimedScopes(claims["scp"]),
		Method:    MethodJWT,
		ExpiresAt: expires.UTC(),
	}
	return p, expires.Add(r.leeway), nil
}

// claimedScopes reads a scope claim in either of its two usual forms, a string
// separated by spaces or an array of strings.
func claimedScopes(claim any) Scopes {
	switch v := claim.(type) {
	case string:
		return knownIn(v)
	case []any:
		var set Scopes
		for _, item := range v {
			if name, ok := item.(string); ok {
				set |= Scope(name).bit()
			}
		}
		return set
	}
	return 0
}

// explain turns an error of the parser into an *Error. A signature is judged
// before any claim, so nothing of a forged token's claims is ever talked about.
func (r *tokenRules) explain(err error, claims jwt.MapClaims) error {
	var own *Error
	var unavailable *UnavailableError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &unavailable):
		return unavailable
	case errors.Is(err, jwt.ErrTokenMalformed):
		return &Error{Code: CodeTokenMalformed, Detail: "the token cannot be read; send it exactly as it was issued"}
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return &Error{Code: CodeTokenSignature, Detail: "the signature of the token does not fit; it was changed or signed with another key: " + r.newToken}
	case errors.Is(err, jwt.ErrInvalidType):
		return &Error{Code: CodeTokenMalformed, Detail: "a registered claim of the token (exp, nbf, iss, aud) has the wrong type; " + r.newToken}
	case errors.Is(err, jwt.ErrTokenExpired):
		return &Error{Code: CodeTokenExpired, Detail: "the token has expired; " + r.newToken}
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return &Error{Code: CodeTokenNotYetValid, Detail: "the token is not valid yet (\"nbf\" lies ahead); wait, or check the clocks of the issuer and of this server"}
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return &Error{Code: CodeTokenIssuer, Detail: fmt.Sprintf("the token's \"iss\" is not %q; %s", r.issuer, r.newToken)}
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return &Error{Code: CodeTokenAudience, Detail: fmt.Sprintf("the token's \"aud\" does not name %q; %s", r.audience, r.newToken)}
	}
	return r.explainMissing(claims)
}

// explainMissing says which required claim is absent.
func (r *tokenRules) explainMissing(claims jwt.MapClaims) error {
	if exp, err := claims.GetExpirationTime(); err != nil || exp == nil {
		return &Error{Code: CodeTokenExpired, Detail: "the token has no \"exp\" claim, so it would never end; " + r.newToken}
	}
	if iss, err := claims.GetIssuer(); err != nil || iss == "" {
		return &Error{Code: CodeTokenIssuer, Detail: fmt.Sprintf("the token has no \"iss\" claim, it must be %q; %s", r.issuer, r.newToken)}
	}
	return &Error{Code: CodeTokenAudience, Detail: fmt.Sprintf("the token has no \"aud\" claim, it must name %q; %s", r.audience, r.newToken)}
}

// checkAlgorithm refuses a token by the algorithm in its header, before any key
// is looked for.
func (r *tokenRules) checkAlgorithm(alg string) error {
	for _, a := range r.algorithms {
		if a == alg {
			return nil
		}
	}
	return &Error{Code: CodeTokenAlgorithm, Detail: fmt.Sprintf(
		"the token's signature algorithm is not accepted; use %s", strings.Join(r.algorithms, " or "))}
}

func detailOf(err error) string {
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		return invalid.Detail
	}
	return err.Error()
}
