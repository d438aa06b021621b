package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"millrace/internal/auth"
)

// exchange is one request on its way through: the ResponseWriter the routes
// write to, and what the log, the metrics and the trace want to know at its end.
// It is pooled, so nothing may keep it after the handler returned.
type exchange struct {
	w         http.ResponseWriter
	ctx       context.Context // of the request, with trace and log ids; handed to the route as an argument
	span      trace.Span      // nil unless a tracer is configured
	surface   *surface
	route     *route
	principal *auth.Principal
	id        string
	start     time.Time
	status    int
	written   int64
	problem   string // slug of the problem that was answered
	// pending is the request's body while some of it may be unread on a connection
	// that other requests will use; nil where nobody needs to care.
	pending io.ReadCloser
	cut     bool     // the connection must not be used again
	cause   error    // what lies behind it, for the log
	values  []string // room for values of headers: net/http writes them when this is over
}

// value returns the value of a header. It saves an allocation for each.
func (ex *exchange) value(s string) []string {
	if len(ex.values) == cap(ex.values) {
		return []string{s}
	}
	n := len(ex.values)
	ex.values = append(ex.values, s)
	return ex.values[n : n+1 : n+1]
}

// Header, Write and WriteHeader make an exchange an http.ResponseWriter.
func (ex *exchange) Header() http.Header { return ex.w.Header() }

func (ex *exchange) WriteHeader(status int) {
	if ex.status == 0 && status >= 200 {
		ex.status = status
	}
	ex.w.WriteHeader(status)
}

func (ex *exchange) Write(b []byte) (int, error) {
	if ex.status == 0 {
		ex.status = http.StatusOK
	}
	n, err := ex.w.Write(b)
	ex.written += int64(n)
	return n, err
}

// Unwrap lets an http.ResponseController reach the connection.
func (ex *exchange) Unwrap() http.ResponseWriter { return ex.w }

// setReadDeadline bounds the reading of the request body; zero takes the bound
// away. Writers that have no deadline (tests) are left as they are.
func (ex *exchange) setReadDeadline(t time.Time) {
	if w, ok := ex.w.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = w.SetReadDeadline(t)
	}
}

// Values of headers that never change. They are shared by all answers and never
// written to.
var (
	valueJSON    = []string{"application/json"}
	valueProblem = []string{"application/problem+json"}
	valueNoSniff = []string{"nosniff"}
	valueNoStore = []string{"no-store"}
	valueHSTS    = []string{"max-age=31536000"}
)

// answer writes a complete JSON answer.
func (ex *exchange) answer(status int, body []byte) {
	ex.Header()["Content-Type"] = valueJSON
	ex.WriteHeader(status)
	_, _ = ex.Write(body)
}

// refuse answers with a problem.
func (ex *exchange) refuse(p *problem) {
	ex.note(p)
	h := ex.Header()
	for name, values := range p.GetHeaders() {
		h[name] = values
	}
	h["Content-Type"] = valueProblem
	var stack [768]byte
	b := p.appendJSON(stack[:0])
	if ex.pending != nil && h["Connection"] == nil {
		ex.refuseAtOnce(p.Status, b)
		return
	}
	ex.WriteHeader(p.Status)
	_, _ = ex.Write(b)
}

// maxDrainBytes is how much of a refused body is read so that its connection can
// be used again; with more to come it is cheaper for both to begin a new one.
const maxDrainBytes = 256 << 10

// refuseAtOnce answers before the body has come in, and then reads the rest of it
// away. Left to itself net/http does it the other way round, so that a refusal
// waits for what it refuses.
//
// The rest is read here and not left to net/http, which after a full-duplex
// answer reads it too late to take notice of its end: the next request on the
// connection would then fail.
func (ex *exchange) refuseAtOnce(status int, answer []byte) {
	duplex, ok := ex.w.(interface{ EnableFullDuplex() error })
	ok = ok && duplex.EnableFullDuplex() == nil
	ex.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	ex.WriteHeader(status)
	_, _ = ex.Write(answer)
	if !ok {
		return
	}
	if http.NewResponseController(ex.w).Flush() != nil {
		ex.cut = true
		return
	}
	// The reader tells net/http to end the connection in good order if there is
	// too much. Any other failure leaves bytes behind that would be taken for the
	// next request.
	_, err := io.Copy(io.Discard, http.MaxBytesReader(ex.w, ex.pending, maxDrainBytes))
	var tooMuch *http.MaxBytesError
	if errors.As(err, &tooMuch) {
		ex.setReadDeadline(time.Now().Add(farewell)) // net/http reads on for a while
		return
	}
	ex.cut = err != nil
}

// farewell is how long a connection that must end may still bring what nobody
// reads, so that the answer gets through before the end does.
const farewell = 500 * time.Millisecond

// note stamps a problem with the request and keeps what the log wants of it.
func (ex *exchange) note(p *problem) {
	p.Instance = ex.id
	ex.problem, ex.cause = p.slug(), p.cause
}

// ServeHTTP is the one place that every request of a surface passes.
func (sf *surface) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := sf.server
	ex := s.exchanges.Get().(*exchange)
	ex.w, ex.start, ex.surface, ex.route = w, time.Now(), sf, sf.unmatched
	defer sf.finish(ex, r)
	s.metrics.inFlight.Inc()

	ex.id = requestID(r.Header)
	trace := s.begin(ex, r)
	h := w.Header()
	ex.values = make([]string, 0, 5)
	h["X-Request-Id"] = ex.value(ex.id)
	h["Traceparent"] = ex.value(trace)
	h["X-Content-Type-Options"] = valueNoSniff
	h["Cache-Control"] = valueNoStore
	if r.TLS != nil {
		h["Strict-Transport-Security"] = valueHSTS
	}
	if r.ContentLength != 0 {
		ex.setReadDeadline(ex.start.Add(s.o.BodyTimeout))
		// A client that waits to be asked for its body is not asked for nothing.
		if r.ProtoMajor == 1 && r.ContentLength <= maxDrainBytes && len(r.Header["Expect"]) == 0 {
			ex.pending = r.Body
		}
	}
	if r.Method == http.MethodConnect || !isClean(r.URL.EscapedPath()) {
		// The mux would redirect, or take the target of a CONNECT for a path.
		ex.refuse(noSuchAddress(r))
		return
	}
	sf.mux.ServeHTTP(ex, r)
}

// isClean says whether a path is the shortest way to write it, as the mux wants
// it: from the root, without empty or dot elements. A slash at the end is allowed.
func isClean(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	shortest := path.Clean(p)
	return len(shortest) == len(p) || len(shortest)+1 == len(p) && p[len(p)-1] == '/' && p != "//"
}

// finish turns a panic into an answer and writes down how the request went. It
// is deferred directly, so that recover works.
func (sf *surface) finish(ex *exchange, r *http.Request) {
	s := sf.server
	v := recover()
	aborted := v == http.ErrAbortHandler
	if v != nil && !aborted {
		aborted = s.panicked(ex, r, v)
	}
	if ex.status == 0 {
		ex.status = http.StatusOK
		if aborted {
			ex.status = http.StatusInternalServerError
		}
	}
	aborted = aborted || ex.cut
	d := time.Since(ex.start)
	s.metrics.inFlight.Dec()
	ex.route.observe(s.metrics, r.Method, ex.status, d)
	s.log(ex, r, d)
	ex.endSpan()
	*ex = exchange{}
	s.exchanges.Put(ex)
	if aborted {
		panic(http.ErrAbortHandler) // net/http closes the connection and says nothing
	}
}

// panicked answers 500, unless the answer has begun: then it says that the
// connection must be cut, since nothing else tells the client.
func (s *Server) panicked(ex *exchange, r *http.Request, v any) (cut bool) {
	s.metrics.panics.Inc()
	s.logger.LogAttrs(ex.context(r), slog.LevelError, "a request handler panicked; the request was answered 500, the server goes on",
		slog.String("method", r.Method), slog.String("route", ex.route.pattern), slog.String("requestId", ex.id),
		slog.String("panic", fmt.Sprint(v)), slog.String("stack", string(debug.Stack())))
	if ex.status != 0 {
		return true
	}
	ex.refuse(newProblem(slugInternal, "the server failed on this request; the failure is in its log under this instance").
		because(fmt.Errorf("panic: %v", v)))
	return false
}

func (ex *exchange) context(r *http.Request) context.Context {
	if ex.ctx != nil {
		return ex.ctx
	}
	return r.Context()
}

func (ex *exchange) endSpan() {
	if ex.span == nil {
		return
	}
	if ex.span.IsRecording() {
		ex.span.SetName(ex.route.pattern)
		ex.span.SetAttributes(attribute.String("http.route", ex.route.path), attribute.Int("http.response.status_code", ex.status))
		if ex.status >= 500 {
			ex.span.SetStatus(codes.Error, ex.problem)
		}
	}
	ex.span.End()
}

// log writes the access line. Answers that went well are told at Debug where
// they are many, at Info elsewhere; refusals share a budget of lines, so that a
// flood of them is not a flood of the log too.
func (s *Server) log(ex *exchange, r *http.Request, d time.Duration) {
	level := slog.LevelInfo
	switch {
	case ex.status == statusClientGone || errors.Is(ex.cause, context.Canceled):
		level = slog.LevelDebug
	case ex.status >= 500 && ex.status != http.StatusServiceUnavailable || ex.problem == slugOutcomeUnknown:
		level = slog.LevelError
	case ex.status >= 400:
		level = slog.LevelWarn
	case ex.route.quiet:
		level = slog.LevelDebug
	}
	ctx := ex.context(r)
	if !s.logger.Enabled(ctx, level) {
		return
	}
	suppressed := 0
	if level == slog.LevelWarn {
		var ok bool
		if suppressed, ok = s.refusals.take(ex.start); !ok {
			return
		}
	}
	s.logger.LogAttrs(ctx, level, "request", s.accessAttrs(ex, r, d, suppressed)...)
}

func (s *Server) accessAttrs(ex *exchange, r *http.Request, d time.Duration, suppressed int) []slog.Attr {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("route", ex.route.path),
		slog.Int("status", ex.status), slog.Float64("seconds", d.Seconds()), slog.Int64("bytes", ex.written),
		slog.String("remote", r.RemoteAddr))
	if s.o.LogContext == nil {
		attrs = append(attrs, slog.String("requestId", ex.id))
	}
	if p := ex.principal; p != nil {
		attrs = append(attrs, slog.String("tenant", p.TenantID), slog.String("subject", p.Subject))
	}
	if ex.problem != "" {
		attrs = append(attrs, slog.String("problem", ex.problem))
	}
	if ex.cause != nil {
		attrs = append(attrs, slog.String("error", ex.cause.Error()))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	return attrs
}
