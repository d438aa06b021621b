package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ReadsOptions says what to read. URL and Paths are required, and Duration or Count.
type ReadsOptions struct {
	// URL is the server's base URL, for example http://127.0.0.1:8080.
	URL string
	// Token is sent as a bearer token; empty sends none, for what is public.
	Token string
	// Tenant is sent as X-Millrace-Tenant, for a public catalogue; empty sends none.
	Tenant string
	// Paths are what is asked for, each alike often. A path may hold one placeholder,
	// a member's name in braces: /products/{sku} is asked for with one SKU after the
	// other, and the member "sku" of each answer must be the one that was asked for.
	Paths []string
	// Keys are the values of the placeholders. Without them they are taken from the
	// server: from the pages of what stands before the placeholder, of places from
	// searches by first letters.
	Keys []string
	// MaxKeys bounds how many are taken from the server for a path; default 10,000.
	MaxKeys int
	// Rate is the number of requests a second to offer in an open loop; 0 means as
	// fast as the server answers, in a closed loop.
	Rate int
	// Duration is how long to offer; 0 means until Count requests were sent.
	Duration time.Duration
	// Count ends the run after so many requests; 0 means no such end.
	Count int
	// WarmUp is how long to offer before, in the same way, without counting.
	WarmUp time.Duration
	// Connections bounds the requests in flight; default 64.
	Connections int

	// Zipf is the exponent of the keys' popularity: the k-th is asked for in
	// proportion to 1/k^Zipf; 0 is all alike.
	Zipf float64
	// Seed makes runs repeat their requests; default 1.
	Seed uint64
	// Conditional is the share of requests that carry the ETag of the last answer in
	// If-None-Match, as far as there was one.
	Conditional float64
	// Languages are values of Accept-Language, drawn evenly; none sends none.
	Languages []string
	// Encoding is the value of Accept-Encoding; empty sends none.
	Encoding string

	// Timeout bounds one request; default 30 s.
	Timeout time.Duration
	// JSONFile, if set, gets the report.
	JSONFile string
	// Out gets a progress line each second and the final table; nil means nobody.
	Out io.Writer
	// TLS is used for an https URL; nil means the system's defaults.
	TLS *tls.Config
}

func (o *ReadsOptions) setDefaults() {
	orElse(&o.MaxKeys, 10_000)
	orElse(&o.Connections, 64)
	orElse(&o.Seed, 1)
	orElse(&o.Timeout, 30*time.Second)
	if o.Out == nil {
		o.Out = io.Discard
	}
}

// validate reports all that is wrong at once.
func (o *ReadsOptions) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(o.Paths) > 0, "path: give what to read, such as /products/{sku}")
	check(o.Rate >= 0, "rate %d: must be at least 1 request a second, or 0 (max) for as fast as the server answers", o.Rate)
	check(o.Duration >= 0, "duration %s: must not be negative", o.Duration)
	check(o.Count >= 0, "count %d: must not be negative", o.Count)
	check(o.Duration > 0 || o.Count > 0, "duration: give a duration or a count, otherwise the run has no end")
	check(o.WarmUp >= 0, "warm-up %s: must not be negative", o.WarmUp)
	check(o.Connections >= 1 && o.Connections <= 10_000, "connections %d: must be 1 to 10000", o.Connections)
	check(o.MaxKeys >= 1 && o.MaxKeys <= 1_000_000, "max keys %d: must be 1 to 1000000", o.MaxKeys)
	check(len(o.Keys) <= 1_000_000, "keys: there are %d, more than 1000000", len(o.Keys))
	check(o.Zipf >= 0 && o.Zipf <= 10, "zipf %v: must be 0 (all alike) to 10", o.Zipf)
	check(o.Conditional >= 0 && o.Conditional <= 1, "conditional %v: must be a share from 0 to 1", o.Conditional)
	check(o.Timeout > 0, "timeout %s: must be positive", o.Timeout)
	check(len(o.Languages) <= 100, "languages: there are %d, more than 100", len(o.Languages))
	for _, h := range append([]string{o.Token, o.Tenant, o.Encoding}, o.Languages...) {
		check(!strings.ContainsAny(h, "\r\n"), "a token, tenant, language or encoding must be one line")
	}
	for _, k := range o.Keys {
		check(k != "", "keys: one is empty")
	}
	return errors.Join(errs...)
}
