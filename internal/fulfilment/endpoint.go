package fulfilment

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/internal/audit"
)

// EndpointRequest says what an endpoint is to be.
type EndpointRequest struct {
	// URL is absolute, https unless the policy allows the target to be plain.
	URL string
	// Events are the types it wants; empty means DefaultEvents.
	Events []string
	// Secret is the caller's own signing secret. Empty keeps the one that is there,
	// or makes one.
	Secret string
	// RotateSecret makes a new secret. As with a Secret that is another than before,
	// the previous one goes on signing for 24 hours beside it.
	RotateSecret bool
	// Enabled switches it on or off. Nil leaves it as it is: on, if it is new.
	Enabled *bool
}

// PutResult is an endpoint that was put.
type PutResult struct {
	// Endpoint is as it is now, its secrets without keys.
	Endpoint Endpoint
	// Created says that there was none of this id.
	Created bool
	// NewSecret is the signing secret if the program made one. It is not shown again.
	NewSecret string
}

// maxPutRaces bounds how often a put without a version is tried again because
// others put the same endpoint.
const maxPutRaces = 5

// PutEndpoint creates or replaces an endpoint. ifVersion: 0 any, -1 must not
// exist. Errors: *InvalidError, ErrVersion, ErrTooManyEndpoints. A put that changes
// nothing writes nothing.
func (s *Service) PutEndpoint(ctx context.Context, tenantID, id string, r EndpointRequest, ifVersion int64, by audit.Actor) (PutResult, error) {
	if err := s.checkEndpoint(id, &r); err != nil {
		return PutResult{}, err
	}
	defer s.endpoints.forget(tenantID)
	for tries := 1; ; tries++ {
		result, err := s.putOnce(ctx, tenantID, id, r, ifVersion, by)
		if ifVersion == 0 && errors.Is(err, ErrVersion) && tries < maxPutRaces {
			continue
		}
		return result, err
	}
}

func (s *Service) putOnce(ctx context.Context, tenantID, id string, r EndpointRequest, ifVersion int64, by audit.Actor) (PutResult, error) {
	before, err := s.o.Store.Endpoint(ctx, tenantID, id)
	fresh := errors.Is(err, ErrNotFound)
	switch {
	case err != nil && !fresh:
		return PutResult{}, err
	case fresh && ifVersion > 0, !fresh && ifVersion != 0 && ifVersion != before.Version:
		return PutResult{}, ErrVersion
	}
	now := s.o.Now()
	after, made := r.apply(before, now)
	after.TenantID, after.ID = tenantID, id
	if !fresh && after.sameAs(&before) {
		return PutResult{Endpoint: before.withoutKeys()}, nil
	}
	expect := int64(-1)
	if !fresh {
		expect = before.Version
	}
	put, created, err := s.o.Store.PutEndpoint(ctx, after, expect, now, by)
	if err != nil {
		return PutResult{}, err
	}
	s.tryAgain(tenantID, id)
	return PutResult{Endpoint: put.withoutKeys(), Created: created, NewSecret: made}, nil
}

// apply returns the endpoint as it is to be and the secret that was made for it,
// if one was.
func (r *EndpointRequest) apply(before Endpoint, now time.Time) (after Endpoint, made string) {
	after = before
	after.URL, after.Events = r.URL, r.Events
	key := r.Secret
	if r.RotateSecret || key == "" && len(before.Secrets) == 0 {
		made = NewSecret()
		key = made
	}
	if key != "" && (len(before.Secrets) == 0 || before.Secrets[0].Key != key) {
		after.Secrets = rotated(before.Secrets, key, now)
	}
	switch {
	case r.Enabled == nil:
	case *r.Enabled:
		after.DisabledAt, after.DisabledReason = time.Time{}, ""
	case !before.Disabled():
		after.DisabledAt, after.DisabledReason = now, "switched off"
	}
	return after, made
}

// sameAs reports whether putting e where o is changes nothing.
func (e *Endpoint) sameAs(o *Endpoint) bool {
	return e.URL == o.URL && slices.Equal(e.Events, o.Events) && slices.Equal(e.Secrets, o.Secrets) &&
		e.Disabled() == o.Disabled() && e.DisabledReason == o.DisabledReason
}

func (e Endpoint) withoutKeys() Endpoint {
	e.Secrets = slices.Clone(e.Secrets)
	for i := range e.Secrets {
		e.Secrets[i].Key = ""
	}
	return e
}

// Endpoint returns an endpoint, its secrets without keys. ErrNotFound if the
// tenant has no such endpoint.
func (s *Service) Endpoint(ctx context.Context, tenantID, id string) (Endpoint, error) {
	e, err := s.o.Store.Endpoint(ctx, tenantID, id)
	return e.withoutKeys(), err
}

// Endpoints returns all of a tenant's endpoints by id, their secrets without keys.
func (s *Service) Endpoints(ctx context.Context, tenantID string) ([]Endpoint, error) {
	list, err := s.o.Store.Endpoints(ctx, tenantID)
	for i := range list {
		list[i] = list[i].withoutKeys()
	}
	return list, err
}

// DeleteEndpoint removes an endpoint. Its deliveries that are still tried are given
// up and become dead letters. One of the same id that is put later is another: it
// gets them only when they are redriven. ErrNotFound if the tenant has no such endpoint.
func (s *Service) DeleteEndpoint(ctx context.Context, tenantID, id string, by audit.Actor) error {
	defer s.endpoints.forget(tenantID)
	return s.o.Store.DeleteEndpoint(ctx, tenantID, id, s.o.Now(), by)
}

// checkEndpoint judges what is asked for and fills in the default events.
func (s *Service) checkEndpoint(id string, r *EndpointRequest) error {
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, notOfID) || strings.Trim(id, ".") == "" {
		return &InvalidError{"id", "must be 1 to 64 of a-z A-Z 0-9 . _ - and not only dots"}
	}
	if err := s.o.Policy.checkURL(r.URL); err != nil {
		return err
	}
	if len(r.Events) == 0 {
		r.Events = DefaultEvents()
	}
	for i, e := range r.Events {
		if !slices.Contains(EventTypes(), e) {
			return &InvalidError{fmt.Sprintf("events[%d]", i), fmt.Sprintf("there is no event type %.60q; choose from %s", e, strings.Join(EventTypes(), ", "))}
		}
	}
	r.Events = slices.Clone(r.Events)
	slices.Sort(r.Events)
	r.Events = slices.Compact(r.Events)
	if r.Secret == "" {
		return nil
	}
	if r.RotateSecret {
		return &InvalidError{"rotateSecret", "cannot go with a secret of your own: leave one of the two out"}
	}
	_, err := keyOf(r.Secret)
	return err
}

// checkURL judges an endpoint's URL. Names are not looked up here: what they lead
// to is judged again with every connection.
func (p *Policy) checkURL(text string) error {
	invalid := func(detail string) error { return &InvalidError{"url", detail} }
	if len(text) > MaxURLBytes {
		return invalid(fmt.Sprintf("has %d bytes; at most %d are taken", len(text), MaxURLBytes))
	}
	u, err := url.Parse(text)
	if err != nil || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }) {
		return invalid("is not a URL: write it like https://shop.example/webhooks")
	}
	port, err := strconv.Atoi(u.Port())
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return invalid("must be absolute, like https://shop.example/webhooks")
	case u.User != nil:
		return invalid("must not have a user name or password: webhooks are signed instead")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return invalid("must not have a fragment (#): it is never sent")
	case u.Port() != "" && (err != nil || port < 1 || port > 65535):
		return invalid("has a port that is not between 1 and 65535")
	}
	hostPort := dialAddress(u)
	if p.hostAllowed(hostPort) {
		return nil
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil && endsInNumber(host):
		return invalid(fmt.Sprintf("has the host %.60q, which is neither a name nor an address: write an address in full, like 198.51.100.7", u.Hostname()))
	case u.Scheme == "http" && !p.AllowPlain && (err != nil || !p.inAllowedNets(a)):
		return invalid("must begin with https: plain targets are not allowed here, except addresses in networks that the operator allows")
	}
	if err == nil && !p.allowed(a) ||
		!p.AllowPrivate && len(p.AllowedNets) == 0 && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
		return invalid((&forbiddenAddressError{u.Hostname()}).Error())
	}
	return nil
}

// endsInNumber reports whether the last label of a host is a number, decimal or
// hexadecimal. Resolvers read such hosts as addresses, 2130706433 and 0x7f.1 as
// 127.0.0.1; no name ends so.
func endsInNumber(host string) bool {
	label := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}

// dialAddress returns the "host:port" that a URL is dialled at.
func dialAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

func notOfID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}
