package httpapi

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"go.opentelemetry.io/otel/trace"
)

// requestID returns the caller's X-Request-Id if it is sane, and a random one
// otherwise.
func requestID(h http.Header) string {
	if given := h["X-Request-Id"]; len(given) == 1 && saneID(given[0]) {
		return given[0]
	}
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(raw[8:], rand.Uint64())
	var text [32]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// saneID accepts 1 to 128 characters that are harmless in a log line, a header
// and a file name.
func saneID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':' || c == '=' || c == '+' {
			continue
		}
		return false
	}
	return true
}

// begin gives a request its trace context: the caller's trace goes on, or a new
// one begins. It returns the traceparent of this server's part.
func (s *Server) begin(ex *exchange, r *http.Request) string {
	ctx := r.Context()
	parent, ok := parseTraceparent(r.Header["Traceparent"])
	if s.o.Tracer != nil {
		if ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(parent))
		}
		ctx, ex.span = s.o.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		if sc := ex.span.SpanContext(); sc.IsValid() {
			parent.TraceID, parent.SpanID, parent.TraceFlags = sc.TraceID(), sc.SpanID(), sc.TraceFlags()
		}
	} else {
		// Nobody records spans, but the logs still want the ids.
		if !ok {
			binary.LittleEndian.PutUint64(parent.TraceID[:8], rand.Uint64())
			binary.LittleEndian.PutUint64(parent.TraceID[8:], rand.Uint64()|1)
		}
		binary.LittleEndian.PutUint64(parent.SpanID[:], rand.Uint64()|1)
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(parent))
	}
	if s.o.LogContext != nil {
		ctx = s.o.LogContext(ctx, ex.id)
	}
	ex.ctx = ctx
	return formatTraceparent(parent)
}

const traceparentBytes = 55 // 00-{32}-{16}-{2}

// parseTraceparent reads a W3C traceparent. Of versions after 00 it reads what 00
// defines, as the recommendation says.
func parseTraceparent(values []string) (trace.SpanContextConfig, bool) {
	var c trace.SpanContextConfig
	if len(values) != 1 {
		return c, false
	}
	v := values[0]
	if len(v) < traceparentBytes || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" ||
		v[:2] == "00" && len(v) != traceparentBytes || len(v) > traceparentBytes && v[traceparentBytes] != '-' {
		return c, false
	}
	var version, flags [1]byte
	if !unhex(version[:], v[:2]) || !unhex(c.TraceID[:], v[3:35]) || !unhex(c.SpanID[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return trace.SpanContextConfig{}, false
	}
	if !c.TraceID.IsValid() || !c.SpanID.IsValid() {
		return trace.SpanContextConfig{}, false
	}
	c.TraceFlags = trace.TraceFlags(flags[0]) & trace.FlagsSampled
	return c, true
}

// unhex decodes lower-case hexadecimal, the only kind a traceparent may have.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

func formatTraceparent(c trace.SpanContextConfig) string {
	var b [traceparentBytes]byte
	copy(b[:], "00-")
	hex.Encode(b[3:35], c.TraceID[:])
	b[35] = '-'
	hex.Encode(b[36:52], c.SpanID[:])
	b[52], b[53], b[54] = '-', '0', '0'
	if c.TraceFlags.IsSampled() {
		b[54] = '1'
	}
	return string(b[:])
}
