package fulfilment

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAnswerBytes is how much of an answer is read, to have the connection back;
	// what it says beyond its status does not matter.
	maxAnswerBytes       = 4 << 10
	maxAnswerHeaderBytes = 16 << 10
	// endpointsAwayDelay is when a delivery is tried again whose endpoint could not be
	// looked up.
	endpointsAwayDelay = 5 * time.Second
)

// newClient returns the client of all attempts. It uses no proxy: the check of
// addresses would judge the proxy's. It speaks HTTP/1.1, so that tenants whose
// endpoints share a host share no connection at the same time.
func newClient(o *Options) *http.Client {
	p := &o.Policy
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            p.dialContext(o.Resolver),
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    min(p.Timeout, 5*time.Second),
			MaxIdleConns:           p.InFlight,
			MaxIdleConnsPerHost:    p.PerEndpoint,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswerHeaderBytes,
			Protocols:              http1(),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// verdict is what an attempt says of its endpoint.
type verdict int

const (
	noVerdict verdict = iota // nothing
	wasOff                   // it is disabled or deleted, and was not asked
	didWell                  // it answered like one that can take more
	didFail
)

// attempt tries one delivery and says what that led to.
func (d *Dispatcher) attempt(ctx context.Context, v *Delivery) (s Settlement, how verdict) {
	s = Settlement{TenantID: v.TenantID, DeliveryID: v.ID, Attempt: v.Attempts}
	e, err := d.endpoint(ctx, v.TenantID, v.EndpointID)
	s.At = d.o.Now()
	switch {
	case errors.Is(err, ErrNotFound), err == nil && v.CreatedAt.Before(e.CreatedAt):
		// The second is one of the same id that was put since: this was not for it.
		s.Outcome, s.Letter, s.Error = OutcomeGaveUp, true, DeletedReason(v.EndpointID)
		d.o.Metrics.attempts.WithLabelValues(resultOff).Inc()
		return s, wasOff
	case err != nil:
		d.o.Logger.Warn("the endpoint of a webhook could not be looked up, the webhook is tried again later",
			"tenant", v.TenantID, "endpoint", v.EndpointID, "delivery", v.ID, "error", err)
		s.Outcome, s.RetryAt = OutcomeReleased, s.At.Add(endpointsAwayDelay)
		return s, noVerdict
	case e.Disabled():
		s.Outcome, s.Letter = OutcomeGaveUp, true
		s.Error = fmt.Sprintf("the webhook endpoint %s is disabled: %s; enable it and redrive", e.ID, e.DisabledReason)
		d.o.Metrics.attempts.WithLabelValues(resultOff).Inc()
		return s, wasOff
	}
	if v.Attempts == 1 {
		d.o.Metrics.lag.Observe(max(s.At.Sub(v.CreatedAt), 0).Seconds())
	}
	begun := time.Now()
	answer, err := d.post(ctx, &e, v)
	d.o.Metrics.seconds.Observe(time.Since(begun).Seconds())
	s.At = d.o.Now()
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), errStopping) {
		s.Outcome, s.RetryAt = OutcomeReleased, s.At // it may have arrived: then it arrives twice
		return s, noVerdict
	}
	how = didFail
	if d.judge(&s, &e, answer, err) {
		how = didWell
	}
	return s, how
}

// endpoint returns an endpoint from the cache if it says that it is there and on;
// before a delivery is given up the store itself is asked.
func (d *Dispatcher) endpoint(ctx context.Context, tenantID, id string) (Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	list, err := d.endpoints.of(ctx, tenantID)
	if err != nil {
		return Endpoint{}, err
	}
	if i := slices.IndexFunc(list, func(e Endpoint) bool { return e.ID == id }); i >= 0 && !list[i].Disabled() {
		return list[i], nil
	}
	return d.o.Store.Endpoint(ctx, tenantID, id)
}

// answer is what matters of an endpoint's answer.
type answer struct {
	status     int
	retryAfter string
}

// post sends a delivery once.
func (d *Dispatcher) post(ctx context.Context, e *Endpoint, v *Delivery) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Policy.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(v.Payload))
	if err != nil {
		return answer{}, err
	}
	now := d.o.Now()
	signed, err := signature(e.Secrets, v.ID, now, v.Payload)
	if err != nil {
		return answer{}, err
	}
	// net/http takes the names as they are here only in canonical form.
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Millrace/"+d.o.Version)
	r.Header.Set("Webhook-Id", v.ID)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Webhook-Signature", signed)
	if v.Trace != "" {
		r.Header.Set("Traceparent", v.Trace)
	}
	// Not sent, but says that the request may be repeated: when a kept connection
	// turns out to be closed, it is sent over another at once.
	r.Header["Idempotency-Key"] = []string{}
	resp, err := d.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	// The status is known. A body that breaks off costs the connection, no more.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswerBytes))
	return answer{resp.StatusCode, resp.Header.Get("Retry-After")}, nil
}

// judge turns an answer, or the lack of one, into the outcome of an attempt.
func (d *Dispatcher) judge(s *Settlement, e *Endpoint, a answer, err error) (wellDone bool) {
	p := &d.o.Policy
	s.Status = a.status
	result := resultRefused
	switch {
	case err != nil:
		result, s.Error = failure(err, p.Timeout)
	case a.status >= 200 && a.status < 300:
		result, s.Outcome = resultDelivered, OutcomeDelivered
	case a.status == http.StatusGone:
		result, s.Outcome, s.Letter = resultGone, OutcomeGaveUp, true
		s.Error = "the endpoint answered 410 Gone and was disabled; enable it and redrive"
		s.Disable = &Disable{EndpointRef{e.TenantID, e.ID}, e.Version, e.CreatedAt, "it answered 410 Gone"}
	case a.status >= 300 && a.status < 400:
		s.Error = fmt.Sprintf("the endpoint answered %d, and redirects are not followed: put the address it leads to as the URL", a.status)
	default:
		s.Error = strings.TrimSpace(fmt.Sprintf("the endpoint answered %d %s", a.status, http.StatusText(a.status)))
	}
	d.o.Metrics.attempts.WithLabelValues(result).Inc()
	if s.Outcome != 0 {
		return true
	}
	busy := a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable
	if delay := p.retryDelay(s.Attempt, d.o.Rand()); delay > 0 {
		if busy {
			delay = max(delay, min(retryAfter(a.retryAfter, s.At), p.MaxRetryAfter))
		}
		s.Outcome, s.RetryAt = OutcomeRetry, s.At.Add(delay)
	} else {
		s.Outcome, s.Letter = OutcomeGaveUp, true
		s.Error = fmt.Sprintf("given up after %d attempts: %s", s.Attempt, s.Error)
	}
	return err == nil && a.status < 500 && !busy
}

// retryAfter reads a Retry-After header, 0 if there is none that can be read.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}

// failure names what went wrong without the URL, which can hold a token, and
// without addresses of the inner network.
func failure(err error, timeout time.Duration) (result, reason string) {
	var forbidden *forbiddenAddressError
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	var timedOut interface{ Timeout() bool }
	var requestErr *url.Error
	switch {
	case errors.As(err, &forbidden):
		return resultForbidden, forbidden.Error()
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return resultUnreachable, "the host name of the endpoint does not exist"
		}
		return resultUnreachable, "the host name of the endpoint could not be looked up"
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return resultTimeout, fmt.Sprintf("the endpoint did not answer in time: it has %v", timeout)
	case errors.As(err, &certificate):
		return resultUnreachable, "the endpoint's certificate is not valid: " + certificate.Err.Error()
	case errors.As(err, &record):
		return resultUnreachable, "the endpoint does not speak TLS on this port"
	case errors.As(err, &op) && op.Op == "dial":
		return resultUnreachable, "the endpoint could not be connected to: " + op.Err.Error()
	case errors.Is(err, io.EOF), errors.As(err, &op):
		return resultUnreachable, "the connection broke before the endpoint had answered"
	case errors.As(err, &requestErr):
		return resultUnreachable, requestErr.Err.Error()
	}
	return resultUnreachable, err.Error()
}
