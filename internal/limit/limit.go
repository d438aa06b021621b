// Package limit keeps the server standing by saying no early: to a tenant that
// is over its rate (Rates) or its quota (Windows), to a body when too many bytes
// are in flight (Bytes), and to a connection when too many are open (Connections).
//
// Everything here answers from memory, and nothing queues: who is refused is told
// when to come back. Everything is safe for concurrent use and bounded in memory
// whatever callers send.
//
// # Limits of several instances
//
// Rates and Windows are kept by each instance alone, unless they are given a
// Syncer: then they are views of counts that all instances share in a Store, which
// is Redis (package limit/redis). A decision still is made from memory; the one
// goroutine of Syncer.Run tells the store what was spent, a batch of keys at a
// time, every SyncerOptions.Every, sooner when a key spends fast, and brings back
// what the others spent. See Syncer for what that costs in accuracy, and for what
// happens without the store. With Exact every decision asks the store instead.
package limit

import (
	"strconv"
	"strings"
	"time"
)

// Decision is how a key stands. Limit is zero when the key is not limited; then
// the other numbers mean nothing and no headers are due.
type Decision struct {
	Allowed bool
	// Limit is the size of the bucket, what can be spent at once, or that of the
	// window.
	Limit int64
	// Remaining is what could be spent now without debt, at least zero.
	Remaining int64
	// Reset is how long until all of Limit can be spent again.
	Reset time.Duration
	// RetryAfter is how long until the key is allowed again; zero if it is allowed.
	RetryAfter time.Duration
	// Policy is the value of the RateLimit-Policy header, such as
	// "events";q=100000;w=2.
	Policy string
	// Quota is how the key stands with the second policy of Policies.
	Quota Standing
}

// Standing is how a key stands with its quota. Limit is zero if it has none.
type Standing struct {
	Allowed          bool
	Limit, Remaining int64
	// Window is the length of the quota's window.
	Window time.Duration
	Reset  time.Duration
	Policy string
}

// Limited says whether any policy applies, so that headers are due.
func (d *Decision) Limited() bool { return d.Limit != 0 || d.Quota.Limit != 0 }

// QuotaUsed says whether it is the quota that refuses.
func (d *Decision) QuotaUsed() bool {
	return !d.Allowed && d.Quota.Limit != 0 && !d.Quota.Allowed
}

// AppendRateLimit appends the value of the RateLimit header, such as
// "events";r=99900;t=1, one part for each policy, and nothing if the key is not
// limited.
func (d *Decision) AppendRateLimit(dst []byte) []byte {
	if d.Limit != 0 {
		dst = appendRateLimit(dst, d.Policy, d.Remaining, d.Reset)
	}
	if d.Quota.Limit != 0 {
		if d.Limit != 0 {
			dst = append(dst, ", "...)
		}
		dst = appendRateLimit(dst, d.Quota.Policy, d.Quota.Remaining, d.Quota.Reset)
	}
	return dst
}

func appendRateLimit(dst []byte, policy string, remaining int64, reset time.Duration) []byte {
	name, _, _ := strings.Cut(policy, ";")
	dst = append(dst, name...)
	dst = append(dst, ";r="...)
	dst = strconv.AppendInt(dst, remaining, 10)
	dst = append(dst, ";t="...)
	return strconv.AppendInt(dst, ceilSeconds(reset), 10)
}

// PolicyHeader returns the value of the RateLimit-Policy header: all policies of
// the key, and nothing if it is not limited.
func (d *Decision) PolicyHeader() string {
	switch {
	case d.Quota.Limit == 0:
		return d.Policy
	case d.Limit == 0:
		return d.Quota.Policy
	}
	return d.Policy + ", " + d.Quota.Policy
}

// RetryAfterSeconds is RetryAfter as the Retry-After header wants it: whole
// seconds, rounded up, at least 1 when the key is refused.
func (d *Decision) RetryAfterSeconds() int64 { return ceilSeconds(d.RetryAfter) }

func ceilSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// join makes q the decision's quota.
func (d *Decision) join(q Decision, window time.Duration) {
	d.Allowed = d.Allowed && q.Allowed
	d.RetryAfter = max(d.RetryAfter, q.RetryAfter)
	d.Quota = Standing{Allowed: q.Allowed, Limit: q.Limit, Remaining: q.Remaining, Window: window, Reset: q.Reset, Policy: q.Policy}
}
