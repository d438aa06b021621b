package fulfilment

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Policy says where webhooks may go and how they are tried. The zero value is
// what an operator on the public internet wants.
type Policy struct {
	// AllowPlain permits http URLs for every host; otherwise only AllowedHosts and
	// addresses in AllowedNets may have them. A name that leads to such an address may
	// not: it can lead elsewhere tomorrow.
	AllowPlain bool
	// AllowPrivate permits every address: loopback, private networks and the rest.
	AllowPrivate bool
	// AllowedNets permits these networks besides the public internet.
	AllowedNets []netip.Prefix
	// AllowedHosts permits these targets, "host" or "host:port" as in the URL,
	// whatever their address, over http too.
	AllowedHosts []string

	// Schedule is the time between one attempt and the next. After one attempt more
	// than it has entries the delivery is a dead letter. Nil means
	// DefaultSchedule.
	Schedule []time.Duration
	// Jitter is the part of an interval by which it is made shorter or longer at
	// random: 0.2 if zero, none if negative, at most 0.5.
	Jitter float64
	// Timeout bounds one attempt from dialling to the end of the answer; 10 s if zero.
	Timeout time.Duration
	// MaxRetryAfter bounds how much later than Schedule says an endpoint's
	// Retry-After can put the next attempt; 1 h if zero.
	MaxRetryAfter time.Duration

	// InFlight bounds the attempts at once in this process, 256 if zero; PerEndpoint
	// those to one endpoint, 32 if zero, and never more than an eighth of InFlight. One
	// tenant has at most a quarter of InFlight, and endpoints that fail have at most
	// half of it together.
	InFlight, PerEndpoint int
	// Lease is how long a claimed delivery is left to the one who claimed it, and so
	// how long one waits that was claimed by a process that died: 1 min if zero. It
	// must be longer than twice Timeout.
	Lease time.Duration
	// Poll is how often deliveries are looked for that came due by time or from
	// another process; 500 ms if zero.
	Poll time.Duration
	// KeepSettled is how long settled deliveries can be listed; 7 days if zero.
	KeepSettled time.Duration
}

// DefaultSchedule returns the intervals between attempts: 11 attempts within about
// 33 hours.
func DefaultSchedule() []time.Duration {
	return []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour}
}

func (p Policy) withDefaults() (Policy, error) {
	if p.Schedule == nil {
		p.Schedule = DefaultSchedule()
	}
	if p.Jitter == 0 {
		p.Jitter = 0.2
	}
	p.Jitter = max(p.Jitter, 0)
	for _, d := range []struct {
		field     *time.Duration
		otherwise time.Duration
	}{
		{&p.Timeout, 10 * time.Second}, {&p.MaxRetryAfter, time.Hour}, {&p.Lease, time.Minute},
		{&p.Poll, 500 * time.Millisecond}, {&p.KeepSettled, 7 * 24 * time.Hour},
	} {
		if *d.field == 0 {
			*d.field = d.otherwise
		}
	}
	if p.InFlight == 0 {
		p.InFlight = 256
	}
	if p.PerEndpoint == 0 {
		p.PerEndpoint = min(32, p.InFlight)
	}
	return p, p.validate()
}

func (p *Policy) validate() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf("fulfilment: "+format, args...)) }
	if slices.ContainsFunc(p.Schedule, func(d time.Duration) bool { return d <= 0 }) {
		refuse("Schedule has an interval that is not above zero; give each a length")
	}
	if p.Jitter > 0.5 {
		refuse("Jitter is %v; give at most 0.5", p.Jitter)
	}
	if p.Timeout < 0 || p.MaxRetryAfter < 0 || p.Poll < 0 || p.KeepSettled < 0 {
		refuse("Timeout, MaxRetryAfter, Poll and KeepSettled must not be negative")
	}
	if p.Lease <= 2*p.Timeout {
		refuse("Lease is %v; give more than twice Timeout, which is %v", p.Lease, p.Timeout)
	}
	if p.InFlight < 1 || p.PerEndpoint < 1 || p.PerEndpoint > p.InFlight {
		refuse("InFlight is %d and PerEndpoint is %d; give both at least 1, and PerEndpoint no more than InFlight", p.InFlight, p.PerEndpoint)
	}
	for i, n := range p.AllowedNets {
		if !n.IsValid() {
			refuse("AllowedNets[%d] is not a network; write it like 10.1.0.0/16", i)
		}
	}
	return errors.Join(errs...)
}

// retryDelay returns the time until the attempt after this one, 0 if there is
// none. attempt counts from 1; random is in [0, 1).
func (p *Policy) retryDelay(attempt int, random float64) time.Duration {
	if attempt < 1 || attempt > len(p.Schedule) {
		return 0
	}
	base := float64(p.Schedule[attempt-1])
	return time.Duration(base * (1 - p.Jitter + 2*p.Jitter*random))
}

// horizon is how far away a next attempt can be at most; what is further away was
// written when the clock was wrong.
func (p *Policy) horizon() time.Duration {
	longest := time.Duration(0)
	for _, d := range p.Schedule {
		longest = max(longest, d)
	}
	return max(time.Duration(float64(longest)*(1+p.Jitter)), p.MaxRetryAfter, p.Lease) + time.Minute
}

// lifetime is how long the attempts of a delivery can take from the first to the
// last when none has to wait.
func (p *Policy) lifetime() time.Duration {
	sum := time.Minute
	for _, d := range p.Schedule {
		sum += max(time.Duration(float64(d)*(1+p.Jitter)), p.MaxRetryAfter) + p.Timeout
	}
	return sum
}
