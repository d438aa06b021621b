package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Key is the path of the key, or the name of a variable nothing knows.
	Key string
	// Value is the bad value in the form to show; empty when the value is not the
	// point.
	Value string
	// Origin says where the value came from, empty for a default.
	Origin string
	// Reason says what is wrong and how to mend it.
	Reason string
}

// String is one line: key, value, origin, reason.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Key)
	if p.Value != "" {
		b.WriteString(" = " + p.Value)
	}
	if p.Origin != "" && p.Origin != p.Key {
		b.WriteString(" (" + p.Origin + ")")
	}
	b.WriteString(": " + p.Reason)
	return b.String()
}

// Error has every problem of a configuration.
type Error struct {
	Problems []Problem
}

// Error is one line for one problem and a line for each when there are more.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].String()
	}
	lines := make([]string, 0, len(e.Problems)+1)
	lines = append(lines, fmt.Sprintf("configuration: %d problems", len(e.Problems)))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}

// namePattern is what tenants and hooks may be called: fit for a path of a URL
// and the name of a file.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

const nameRule = "a name is 1 to 63 of a-z, 0-9, - and _, and begins with a letter or a digit"

// Validate returns nil, or an *Error with every problem: values out of their
// bounds, and values that do not fit each other.
func (c *Config) Validate() error {
	v := &validator{}
	walkValues(c, v.bounds)
	v.addresses(c)
	v.auth(c)
	v.events(c)
	v.names(c)
	v.hooks(c)
	v.orders(c)
	v.services(c)
	if len(v.problems) == 0 {
		return nil
	}
	return &Error{Problems: v.problems}
}

type validator struct{ problems []Problem }

// add notes a problem. A key has one problem at most: the first is the one to
// mend first.
func (v *validator) add(key, value, reason string, args ...any) {
	if slices.ContainsFunc(v.problems, func(p Problem) bool { return p.Key == key }) {
		return
	}
	v.problems = append(v.problems, Problem{Key: key, Value: value, Reason: fmt.Sprintf(reason, args...)})
}

// good reports whether none of the keys has a problem yet. Rules about two values
// ask first: a value that is wrong in itself says nothing about the other.
func (v *validator) good(keys ...string) bool {
	return !slices.ContainsFunc(v.problems, func(p Problem) bool { return slices.Contains(keys, p.Key) })
}

// bounds checks what the tags of a field say.
func (v *validator) bounds(f field) {
	if allowed := f.enum(); allowed != nil {
		for _, value := range enumValues(f) {
			if !slices.Contains(allowed, value) {
				v.add(f.path, strconv.Quote(value), "it must be one of %s", strings.Join(allowed, ", "))
			}
		}
	}
	low, high := f.tag.Get("min"), f.tag.Get("max")
	if low == "" && high == "" {
		return
	}
	value := magnitude(f.value.Interface())
	if low != "" && value < parseBound(f, low) {
		v.add(f.path, formatValue(f), "it is too small; the least is %s", low)
	}
	if high != "" && value > parseBound(f, high) {
		v.add(f.path, formatValue(f), "it is too big; the most is %s", high)
	}
}

func enumValues(f field) []string {
	if list, ok := f.value.Interface().([]string); ok {
		return list
	}
	return []string{f.value.String()}
}

func magnitude(value any) float64 {
	switch x := value.(type) {
	case int:
		return float64(x)
	case float64:
		return x
	case Size:
		return float64(x)
	case time.Duration:
		return float64(x)
	default:
		panic(fmt.Sprintf("config: a bound on a %T has no meaning", value))
	}
}

// parseBound reads a bound from a tag. Tags are written by us, so a bad one is a
// bug; a test visits them all.
func parseBound(f field, text string) float64 {
	var bound any
	var err error
	switch f.value.Interface().(type) {
	case Size:
		bound, err = ParseSize(text)
	case time.Duration:
		bound, err = time.ParseDuration(text)
	default:
		bound, err = strconv.ParseFloat(text, 64)
	}
	if err != nil {
		panic(fmt.Sprintf("config: key %s has the bound %q: %v", f.path, text, err))
	}
	return magnitude(bound)
}

func (v *validator) addresses(c *Config) {
	if c.HTTP.DrainDelay >= c.HTTP.ShutdownTimeout && v.good("http.shutdownTimeout") {
		v.add("http.drainDelay", formatDuration(c.HTTP.DrainDelay),
			"it is part of http.shutdownTimeout (%s) and must be shorter; make it shorter or the other longer", formatDuration(c.HTTP.ShutdownTimeout))
	}
	if c.Data == "" {
		v.add("data", `""`, "it is empty; name a directory on a local disk, such as ./millrace-data")
	}
	v.address("http.listen", c.HTTP.Listen)
	if c.Admin.Listen != "" {
		v.address("admin.listen", c.Admin.Listen)
		if c.Admin.Listen == c.HTTP.Listen && !strings.HasSuffix(c.Admin.Listen, ":0") {
			v.add("admin.listen", strconv.Quote(c.Admin.Listen), "it is the address of http.listen too; give one of them another port")
		}
	}
	tls := c.HTTP.TLS
	if tls.CertFile == "" && tls.KeyFile != "" {
		v.add("http.tls.certFile", `""`, "http.tls.keyFile is set and this is not; set both, or neither for plain HTTP")
	}
	if tls.CertFile != "" && tls.KeyFile == "" {
		v.add("http.tls.keyFile", `""`, "http.tls.certFile is set and this is not; set both, or neither for plain HTTP")
	}
	if c.HTTP.RequestTimeout < c.HTTP.BodyTimeout && v.good("http.requestTimeout", "http.bodyTimeout") {
		v.add("http.requestTimeout", formatDuration(c.HTTP.RequestTimeout),
			"it is shorter than http.bodyTimeout (%s), which is a part of it; make it longer", formatDuration(c.HTTP.BodyTimeout))
	}
	if c.Tracing.Endpoint != "" {
		if u, err := url.Parse(c.Tracing.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			v.add("tracing.endpoint", strconv.Quote(redactURL(c.Tracing.Endpoint)), "it is not an http or https URL; write one such as http://localhost:4318")
		}
	}
}

// redactURL masks what a URL carries as user and password.
func redactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	// User is masked with the password: some collectors take the key as the user.
	u.User = nil
	return strings.Replace(u.String(), "//", "//"+mask+"@", 1)
}

func (v *validator) address(key, address string) {
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		v.add(key, strconv.Quote(address), "it is not an address; write host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080")
	case !isPort(port):
		v.add(key, strconv.Quote(address), "its port is not a number from 0 to 65535; write one such as 8080")
	case strings.ContainsAny(host, "/ \t\n"):
		v.add(key, strconv.Quote(address), "its host is not a host name or an IP address; write host:port, such as 127.0.0.1:8080")
	}
}

func isPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (v *validator) auth(c *Config) {
	required := func(key, value, why string) {
		if value == "" {
			v.add(key, `""`, "it is empty; %s", why)
		}
	}
	required("auth.issuer", c.Auth.Issuer, "name the issuer that own tokens carry, such as millrace")
	required("auth.audience", c.Auth.Audience, "name the audience that own tokens carry, such as millrace")
	j := c.Auth.JWKS
	if j.URL == "" {
		for _, x := range []struct{ key, value string }{{"auth.jwks.issuer", j.Issuer}, {"auth.jwks.audience", j.Audience}} {
			if x.value != "" {
				v.add("auth.jwks.url", `""`, "%s is set and this is not; set it to where the issuer publishes its keys", x.key)
			}
		}
		return
	}
	u, err := url.Parse(j.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		v.add("auth.jwks.url", strconv.Quote(redactURL(j.URL)), "it is not a URL; write one such as https://login.example.com/.well-known/jwks.json")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		v.add("auth.jwks.url", strconv.Quote(redactURL(j.URL)), "keys fetched over plain http can be forged on the way; use https")
	}
	required("auth.jwks.issuer", j.Issuer, "with auth.jwks.url set, name the 'iss' that its tokens carry")
	required("auth.jwks.audience", j.Audience, "with auth.jwks.url set, name the 'aud' that its tokens carry")
	required("auth.jwks.tenantClaim", j.TenantClaim, "name the claim that holds the tenant, such as tenant_id")
	if len(j.Algorithms) == 0 {
		v.add("auth.jwks.algorithms", "[]", "it is empty; list the algorithms the issuer signs with, such as [RS256]")
	}
	if j.Issuer != "" && j.Issuer == c.Auth.Issuer {
		v.add("auth.jwks.issuer", strconv.Quote(j.Issuer), "it is the same as auth.issuer, so nobody could tell the two apart; change one")
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// bodiesInFlight is how many of the largest bodies must fit in memory at least.
const bodiesInFlight = 8

func (v *validator) events(c *Config) {
	e := c.Events
	if e.Ack == "store" && e.StoreAckTimeout > c.HTTP.RequestTimeout && v.good("http.requestTimeout") {
		v.add("events.storeAckTimeout", formatDuration(e.StoreAckTimeout),
			"it is longer than http.requestTimeout (%s), which would end first; make it shorter", formatDuration(c.HTTP.RequestTimeout))
	}
	v.atMost("events.maxEventBytes", e.MaxEventBytes, "events.maxBodyBytes", e.MaxBodyBytes)
	v.atMost("events.deadLetterMaxBytes", e.DeadLetterMaxBytes, "events.maxBodyBytes", e.MaxBodyBytes)
	if c.HTTP.MaxInflightBytes < bodiesInFlight*e.MaxBodyBytes && v.good("events.maxBodyBytes") {
		// A body is there twice while it is decompressed, and one sender may hold a
		// share of the bound only.
		v.add("http.maxInflightBytes", c.HTTP.MaxInflightBytes.String(),
			"it is less than %d times events.maxBodyBytes (%s), so that large bodies could be refused for ever; make it bigger", bodiesInFlight, e.MaxBodyBytes)
	}
	v.atMost("events.maxBodyBytes", e.MaxBodyBytes, "events.queueMaxBytes", e.QueueMaxBytes)
	if e.SegmentBytes > e.BacklogMaxBytes/2 && v.good("events.backlogMaxBytes") {
		// Space is given back a whole segment at a time.
		v.add("events.segmentBytes", e.SegmentBytes.String(),
			"it is more than half of events.backlogMaxBytes (%s), so the log could never give space back in time; make it smaller", e.BacklogMaxBytes)
	}
	const block = 4 * KiB
	if e.SegmentBytes%block != 0 {
		v.add("events.segmentBytes", e.SegmentBytes.String(), "it is not a whole number of disk blocks of 4KiB; write one such as 64MiB")
	}
	// A quarter of a segment bounds one record of the log, and a record is a body
	// and what is noted about each of its events.
	if e.SegmentBytes/8 < e.MaxBodyBytes && v.good("events.maxBodyBytes") {
		v.add("events.segmentBytes", e.SegmentBytes.String(), "it is less than eight times events.maxBodyBytes (%s); make it bigger", e.MaxBodyBytes)
	}
	if e.Dedupe.Mode == "exact" && e.RetentionDays > 0 && e.Dedupe.ExactDays > e.RetentionDays && v.good("events.retentionDays") {
		v.add("events.dedupe.exactDays", strconv.Itoa(e.Dedupe.ExactDays),
			"it is more than events.retentionDays (%d), and what is gone cannot be recognised; make it smaller", e.RetentionDays)
	}
}

// atMost checks that one size fits into another.
func (v *validator) atMost(key string, value Size, boundKey string, bound Size) {
	if value > bound && v.good(boundKey) {
		v.add(key, value.String(), "it is more than %s (%s), so it could never be reached; make it smaller or the other bigger", boundKey, bound)
	}
}

func (v *validator) names(c *Config) {
	for name, rate := range c.Events.Rate.Tenants {
		if !namePattern.MatchString(name) {
			v.add("events.rate.tenants."+name, "", "%q is not a tenant: %s", name, nameRule)
		}
		v.burst("events.rate.tenants."+name, rate.PerSecond, rate.Burst)
	}
	v.burst("events.rate", c.Events.Rate.PerSecond, c.Events.Rate.Burst)
}

func (v *validator) burst(section string, perSecond, burst int) {
	if perSecond == 0 && burst > 0 && v.good(section+".perSecond") {
		v.add(section+".burst", strconv.Itoa(burst), "a burst without a rate limits nothing; set %s.perSecond too, or leave the burst out", section)
	}
}

func (v *validator) hooks(c *Config) {
	for name, h := range c.Hooks {
		path := "hooks." + name
		if !namePattern.MatchString(name) {
			v.add(path, "", "%q cannot stand in a URL: %s", name, nameRule)
		}
		if !namePattern.MatchString(h.Tenant) {
			v.add(path+".tenant", strconv.Quote(h.Tenant), "name the tenant that the events belong to: %s", nameRule)
		}
		if len(h.Secrets) == 0 {
			v.add(path+".secrets", "[]", "it is empty, so no delivery could be verified; set the secret that the sender signs with")
		}
		for i, s := range h.Secrets {
			if s.value == "" || strings.TrimSpace(s.value) != s.value {
				v.add(path+".secrets", mask, "secret %d is empty or has white space around it; write it exactly as the sender shows it", i+1)
			}
		}
	}
	slices.SortStableFunc(v.problems, func(a, b Problem) int {
		// Maps have no order, messages should: everything else stays where it is.
		if strings.HasPrefix(a.Key, "hooks.") && strings.HasPrefix(b.Key, "hooks.") {
			return strings.Compare(a.Key, b.Key)
		}
		return 0
	})
}
