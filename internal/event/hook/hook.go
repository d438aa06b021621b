// Package hook verifies incoming webhooks: that a delivery was signed by who
// holds the source's secret, that it is no stale replay, and which event it is.
//
// It is pure: a Verifier takes the headers through a function, the raw body and
// the time, and keeps no state, so it is safe for concurrent use. That the same
// delivery counts once is for the caller to see to, by Delivery.ID.
//
// What a signature proves differs by scheme. Stripe and Standard Webhooks sign a
// timestamp with the body, so a captured delivery is worth nothing once the
// replay window (Source.Tolerance) has passed. Standard Webhooks signs the id
// too; Stripe's id is in the body. GitHub signs the body alone: a delivery that
// is sent again as it was is caught by its id, but who captured one and holds no
// secret could send the same body under another id and another event name. Give
// such a source an endpoint that only TLS reaches.
package hook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/internal/event/scan"
)

// Scheme says how a source signs its deliveries.
type Scheme string

// The schemes there are.
const (
	// GitHub: X-Hub-Signature-256, HMAC-SHA256 of the body in hexadecimal.
	GitHub Scheme = "github"
	// Stripe: Stripe-Signature, HMAC-SHA256 of time and body in hexadecimal.
	Stripe Scheme = "stripe"
	// Standard: Standard Webhooks 1.0 with symmetric secrets, HMAC-SHA256 of id,
	// time and body in base64.
	Standard Scheme = "standard"
)

// DefaultTolerance is the replay window of a source that sets none.
const DefaultTolerance = 5 * time.Minute

// Source is one configured sender of webhooks.
type Source struct {
	// Name is the source's name in the path and in its events' source field:
	// letters, digits, "-", "_" and ".".
	Name string
	// TenantID is the tenant its events belong to.
	TenantID string
	Scheme   Scheme
	// Secrets are the signing secrets as the sender shows them; a delivery may be
	// signed with any of them, so that one can be replaced without a gap.
	Secrets []string
	// Tolerance is how far the signed time may be from now, before or after, for
	// schemes that sign one; zero means DefaultTolerance.
	Tolerance time.Duration
	// TypePrefix stands, with a dot, before the type of every event. Empty means
	// "github", "stripe", or for Standard Webhooks the source's name.
	TypePrefix string
}

// Header returns a request header's first value, empty if it is absent. Names
// are given in canonical form.
type Header func(name string) string

// Delivery is what a verified delivery is as an event.
type Delivery struct {
	// ID is the sender's id of the delivery, the same when it is repeated.
	ID string
	// Type is the event's type, with the prefix.
	Type string
	// Timestamp is the time of the event in UTC; zero if the sender gave none.
	Timestamp time.Time
}

// Verifier verifies the deliveries of one source. It is immutable.
type Verifier struct {
	source  Source
	secrets [][]byte
	verify  func(v *Verifier, h Header, body []byte, now time.Time) (Delivery, error)
}

// New returns the verifier of a source, or an error that names the source and
// what to mend. No error holds a secret.
func New(source Source) (*Verifier, error) {
	v := &Verifier{source: source}
	if err := v.setUp(); err != nil {
		return nil, fmt.Errorf("webhook source %q: %w", source.Name, err)
	}
	return v, nil
}

func (v *Verifier) setUp() error {
	s := &v.source
	if !isName(s.Name) {
		return errors.New(`name must be 1 to 64 letters, digits, "-", "_" or "."`)
	}
	if s.TenantID == "" {
		return errors.New("tenant is missing: say whose events these are")
	}
	if s.Tolerance < 0 {
		return fmt.Errorf("tolerance is negative (%v): give the replay window, for example 5m", s.Tolerance)
	}
	if s.Tolerance == 0 {
		s.Tolerance = DefaultTolerance
	}
	defaultPrefix := string(s.Scheme)
	switch s.Scheme {
	case GitHub:
		v.verify = (*Verifier).github
	case Stripe:
		v.verify = (*Verifier).stripe
	case Standard:
		v.verify = (*Verifier).standard
		defaultPrefix = s.Name
	default:
		return fmt.Errorf("scheme %q is unknown: use %q, %q or %q", s.Scheme, GitHub, Stripe, Standard)
	}
	s.TypePrefix = strings.TrimSuffix(s.TypePrefix, ".")
	if s.TypePrefix == "" {
		s.TypePrefix = defaultPrefix
	}
	if !isName(s.TypePrefix) {
		return errors.New(`type prefix must be at most 64 letters, digits, "-", "_" or "."`)
	}
	if len(s.Secrets) == 0 {
		return errors.New("no secret: give at least one")
	}
	for i, secret := range s.Secrets {
		key, err := secretKey(s.Scheme, secret)
		if err != nil {
			return fmt.Errorf("secret %d: %w", i+1, err)
		}
		v.secrets = append(v.secrets, key)
	}
	s.Secrets = nil // the keys are enough, and are never printed
	return nil
}

// secretKey returns the HMAC key of a secret as the sender shows it.
func secretKey(scheme Scheme, secret string) ([]byte, error) {
	switch {
	case strings.TrimSpace(secret) == "":
		return nil, errors.New("it is empty")
	case strings.TrimSpace(secret) != secret:
		return nil, errors.New("white space stands around it: remove it, a line end at the end of a file for example")
	case scheme != Standard:
		return []byte(secret), nil
	case strings.HasPrefix(secret, "whsk_"), strings.HasPrefix(secret, "whpk_"):
		return nil, errors.New("it is an asymmetric key, only symmetric secrets (whsec_…) are supported")
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return nil, errors.New(`it is not "whsec_" and base64 after that: copy the whole of it`)
	}
	if len(key) == 0 {
		return nil, errors.New(`nothing follows after "whsec_"`)
	}
	return key, nil
}

func isName(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if c|0x20-'a' > 25 && c-'0' > 9 && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// Name returns the source's name.
func (v *Verifier) Name() string { return v.source.Name }

// TenantID returns the tenant that the source's events belong to.
func (v *Verifier) TenantID() string { return v.source.TenantID }

// Verify checks a delivery and says which event it is. The error is an *Error.
// If Verified(err), the delivery is genuine but cannot become an event, and the
// Delivery holds what of it could be read.
func (v *Verifier) Verify(h Header, body []byte, now time.Time) (Delivery, error) {
	return v.verify(v, h, body, now)
}

// Code says why a delivery was refused.
type Code uint8

// The codes there are.
const (
	// MissingHeader: a header that the scheme asks for is absent.
	MissingHeader Code = iota + 1
	// MalformedHeader: a header is not written as the scheme asks.
	MalformedHeader
	// TooOld: the signed time is before the replay window.
	TooOld
	// TooNew: the signed time is after the replay window: a clock is wrong.
	TooNew
	// Mismatch: no secret makes any of the signatures.
	Mismatch
	// BadBody: the signature holds, but the body is not what the scheme sends.
	BadBody
)

// String returns the code as a stable slug.
func (c Code) String() string {
	switch c {
	case MissingHeader:
		return "missing-header"
	case MalformedHeader:
		return "malformed-header"
	case TooOld:
		return "too-old"
	case TooNew:
		return "too-new"
	case Mismatch:
		return "signature-mismatch"
	case BadBody:
		return "bad-body"
	}
	return fmt.Sprintf("code-%d", uint8(c))
}

// Error says why a delivery was refused. It holds no secret, no signature and
// nothing of the body.
type Error struct {
	Code   Code
	Source string
	// Reason says what is wrong and what to do.
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("webhook from %q: %s", e.Source, e.Reason)
}

// Verified reports whether an error of Verify means that the delivery is genuine
// but cannot become an event.
func Verified(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == BadBody
}

func (v *Verifier) refuse(code Code, reason string) error {
	return &Error{Code: code, Source: v.source.Name, Reason: reason}
}

// header returns a header that must be there.
func (v *Verifier) header(h Header, name string) (string, error) {
	value := h(name)
	if value == "" {
		return "", v.refuse(MissingHeader, "the header "+name+" is missing: is this a "+string(v.source.Scheme)+" webhook?")
	}
	if len(value) > maxHeaderBytes {
		return "", v.refuse(MalformedHeader, fmt.Sprintf("the header %s is longer than %d bytes", name, maxHeaderBytes))
	}
	return value, nil
}

// idHeader returns a header that becomes an event's id or a part of its type.
func (v *Verifier) idHeader(h Header, name string) (string, error) {
	value, err := v.header(h, name)
	if err != nil {
		return "", err
	}
	if len(value) > maxHeaderIDBytes || !isPlain(value) {
		return "", v.refuse(MalformedHeader, fmt.Sprintf("the header %s is longer than %d bytes or holds other than text", name, maxHeaderIDBytes))
	}
	return value, nil
}

// Bounds of what is read from headers, so that parsing stays cheap before the
// signature is known to hold.
const (
	maxHeaderBytes   = 4096
	maxHeaderIDBytes = 128
	maxSignatures    = 16
)

// isPlain reports whether text can be an id or a type: UTF-8 without control
// characters.
func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(text)
}

// checkBody refuses a body that is not JSON; its signature must hold already.
func (v *Verifier) checkBody(body []byte) error {
	if !scan.Valid(body) {
		return v.refuse(BadBody, "the signature holds, but the body is not JSON: have the sender use application/json")
	}
	return nil
}

// typed returns the type of an event by its name at the sender.
func (v *Verifier) typed(name string) string { return v.source.TypePrefix + "." + name }
