package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// OrdersOptions says what to order. URL is required, and Duration or Count.
type OrdersOptions struct {
	// URL is the server's base URL, for example http://127.0.0.1:8080.
	URL string
	// Token is sent as a bearer token. It needs the scope orders:write, to seed also
	// catalog:write and stock:write, to watch also orders:read.
	Token string
	// Rate is the number of orders a second to offer in an open loop; 0 means as fast
	// as the server answers, in a closed loop.
	Rate int
	// Duration is how long to offer; 0 means until Count orders were sent.
	Duration time.Duration
	// Count ends the run after so many orders; 0 means no such end.
	Count int
	// Connections bounds the orders in flight; default 64.
	Connections int

	// SKUs is the number of products, 1 to 1,000,000; default 100. They are called
	// SKUPrefix and a number of five digits or more.
	SKUs int
	// SKUPrefix is 1 to 48 of A-Z a-z 0-9 . _ -; default "load-sku-".
	SKUPrefix string
	// Zipf is the exponent of the products' popularity: the k-th is ordered in
	// proportion to 1/k^Zipf; 0 is all alike, 1 is typical of shops.
	Zipf float64
	// Lines is how many lines an order has, drawn evenly; default 1. Two lines may
	// name one product.
	Lines Span
	// Quantity is how many units a line asks for, drawn evenly; default 1.
	Quantity Span
	// Seed makes runs repeat their orders (not their keys); default 1.
	Seed uint64
	// Tokens are the payment tokens by weight; default tok_ok alone.
	Tokens []Weighted
	// Stock is how many units of each product are put in before the run; default
	// 1,000,000.
	Stock int64
	// NoSeed leaves products and stock as they are.
	NoSeed bool

	// Duplicate is the share of orders that are sent twice with one key, half of them
	// at the same time and half one after the other. Both answers must name one
	// order.
	Duplicate float64
	// Cancel is the share of orders that are cancelled as soon as they are placed.
	Cancel float64
	// Retry sends an order again, with the same key, also when it was refused with
	// 429 or 503 or the server cannot be reached. After a failure that leaves open
	// whether it was placed, it is sent again in any case.
	Retry bool
	// RetryPause is the longest pause between attempts when the server does not say
	// how long to wait; default 1 s.
	RetryPause time.Duration
	// RetryFor bounds the retries of one order; default 60 s.
	RetryFor time.Duration
	// Timeout bounds one attempt; default 30 s.
	Timeout time.Duration
	// Watch follows some of the placed orders until they are paid (or settled
	// otherwise), and waits in the end until all are.
	Watch bool
	// WatchFor bounds that wait; default 60 s.
	WatchFor time.Duration

	// AckedFile, if set, gets the orders that were placed; see VerifyOrders.
	AckedFile string
	// JSONFile, if set, gets the report.
	JSONFile string
	// Out gets a progress line each second and the final table; nil means nobody.
	Out io.Writer
	// TLS is used for an https URL; nil means the system's defaults.
	TLS *tls.Config
}

// Span is a range of whole numbers, both ends included.
type Span struct{ Min, Max int }

// ParseSpan reads "3" or "1-5".
func ParseSpan(s string) (Span, error) {
	low, high, found := strings.Cut(s, "-")
	if !found {
		high = low
	}
	a, err1 := strconv.Atoi(low)
	b, err2 := strconv.Atoi(high)
	if err1 != nil || err2 != nil || a < 1 || b < a {
		return Span{}, fmt.Errorf("%q: write a whole number above zero, or two with a dash between, such as 1-5", s)
	}
	return Span{a, b}, nil
}

// String writes a Span as ParseSpan reads it.
func (s Span) String() string {
	if s.Min == s.Max {
		return strconv.Itoa(s.Min)
	}
	return fmt.Sprintf("%d-%d", s.Min, s.Max)
}

// Weighted is a text that is drawn in proportion to its weight.
type Weighted struct {
	Text   string
	Weight int
}

// ParseMix reads "tok_ok" or "tok_ok=9,tok_declined=1".
func ParseMix(s string) ([]Weighted, error) {
	var mix []Weighted
	for part := range strings.SplitSeq(s, ",") {
		text, number, found := strings.Cut(strings.TrimSpace(part), "=")
		w := Weighted{Text: text, Weight: 1}
		if found {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 || n > 1_000_000 {
				return nil, fmt.Errorf("%q: the weight must be a whole number from 1 to 1000000, such as tok_ok=9", part)
			}
			w.Weight = n
		}
		if text == "" {
			return nil, fmt.Errorf("%q: write payment tokens with commas between, such as tok_ok=9,tok_declined=1", s)
		}
		mix = append(mix, w)
	}
	return mix, nil
}

// FormatMix writes weighted texts as ParseMix reads them.
func FormatMix(mix []Weighted) string {
	var parts []string
	for _, w := range mix {
		if len(mix) == 1 {
			return w.Text
		}
		parts = append(parts, fmt.Sprintf("%s=%d", w.Text, w.Weight))
	}
	return strings.Join(parts, ",")
}

func (o *OrdersOptions) setDefaults() {
	orElse(&o.Connections, 64)
	orElse(&o.SKUs, 100)
	orElse(&o.SKUPrefix, "load-sku-")
	orElse(&o.Lines, Span{1, 1})
	orElse(&o.Quantity, Span{1, 1})
	orElse(&o.Seed, 1)
	orElse(&o.Stock, 1_000_000)
	orElse(&o.RetryFor, time.Minute)
	orElse(&o.RetryPause, time.Second)
	orElse(&o.Timeout, 30*time.Second)
	orElse(&o.WatchFor, time.Minute)
	if len(o.Tokens) == 0 {
		o.Tokens = []Weighted{{"tok_ok", 1}}
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

// orElse sets what is zero.
func orElse[T comparable](v *T, preset T) {
	var zero T
	if *v == zero {
		*v = preset
	}
}

// validate reports all that is wrong at once.
func (o *OrdersOptions) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Rate >= 0, "rate %d: must be at least 1 order a second, or 0 (max) for as fast as the server answers", o.Rate)
	check(o.Duration >= 0, "duration %s: must not be negative", o.Duration)
	check(o.Count >= 0, "count %d: must not be negative", o.Count)
	check(o.Duration > 0 || o.Count > 0, "duration: give a duration or a count, otherwise the run has no end")
	check(o.Connections >= 1 && o.Connections <= 10_000, "connections %d: must be 1 to 10000", o.Connections)
	check(o.SKUs >= 1 && o.SKUs <= 1_000_000, "SKUs %d: must be 1 to 1000000", o.SKUs)
	check(validSKU(o.SKUPrefix) && len(o.SKUPrefix) <= 48, "SKU prefix %q: must be 1 to 48 of A-Z a-z 0-9 . _ -", o.SKUPrefix)
	check(o.Zipf >= 0 && o.Zipf <= 10, "zipf %v: must be 0 (all alike) to 10", o.Zipf)
	check(o.Lines.Min >= 1 && o.Lines.Max >= o.Lines.Min && o.Lines.Max <= 100, "lines %s: must be within 1 to 100", o.Lines)
	check(o.Quantity.Min >= 1 && o.Quantity.Max >= o.Quantity.Min && o.Quantity.Max <= 1_000_000, "quantity %s: must be within 1 to 1000000", o.Quantity)
	check(o.Stock >= 1 && o.Stock <= 1_000_000_000, "stock %d: must be 1 to 1000000000 units", o.Stock)
	check(o.Duplicate >= 0 && o.Duplicate <= 1, "duplicate %v: must be a share from 0 to 1", o.Duplicate)
	check(o.Cancel >= 0 && o.Cancel <= 1, "cancel %v: must be a share from 0 to 1", o.Cancel)
	check(o.RetryFor > 0, "retry for %s: must be positive", o.RetryFor)
	check(o.RetryPause >= time.Millisecond, "retry pause %s: must be at least 1ms", o.RetryPause)
	check(o.Timeout > 0, "timeout %s: must be positive", o.Timeout)
	check(o.WatchFor > 0, "watch for %s: must be positive", o.WatchFor)
	check(!strings.ContainsAny(o.Token, "\r\n"), "token: must be one line")
	for _, t := range o.Tokens {
		check(t.Weight >= 1 && t.Text != "" && strings.IndexFunc(t.Text, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) < 0,
			"payment token %q: must be printable ASCII without spaces and quotes, its weight at least 1", t.Text)
	}
	return errors.Join(errs...)
}

func validSKU(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
	}) < 0
}
