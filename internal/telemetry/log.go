package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/mattn/go-isatty"
	"go.opentelemetry.io/otel/trace"
)

// Log formats. FormatAuto is text on a terminal and JSON elsewhere.
const (
	FormatAuto = "auto"
	FormatJSON = "json"
	FormatText = "text"
)

// Keys under which the logger adds the ids of a context.
const (
	KeyTraceID   = "trace_id"
	KeySpanID    = "span_id"
	KeyRequestID = "request_id"
)

// Masked stands in a log for a value that must not be there.
const Masked = "[masked]"

// ParseLevel reads a log level: debug, info, warn or error.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("telemetry: unknown log level %q; use debug, info, warn or error", s)
}

// NewLogger returns a logger that writes to w from the given level up, in one
// of the formats. It adds the trace, span and request id of the context to each
// line. An attribute whose name says that it is a secret is masked, whatever it
// holds; that is a net beneath careful callers, not a licence to log secrets.
func NewLogger(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: showAttr}
	if format == FormatAuto || format == "" {
		format = FormatJSON
		if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
			format = FormatText
		}
	}
	switch format {
	case FormatJSON:
		return slog.New(newContextHandler(slog.NewJSONHandler(w, options))), nil
	case FormatText:
		return slog.New(newContextHandler(slog.NewTextHandler(w, options))), nil
	}
	return nil, fmt.Errorf("telemetry: unknown log format %q; use %s, %s or %s", format, FormatAuto, FormatJSON, FormatText)
}

// showAttr hides the value of an attribute that is named like a secret or stands
// in a group that is, and gives durations their unit.
func showAttr(groups []string, a slog.Attr) slog.Attr {
	if isSecretName(a.Key) || slices.ContainsFunc(groups, isSecretName) {
		return slog.String(a.Key, Masked)
	}
	if a.Value.Kind() == slog.KindDuration {
		// A bare number of nanoseconds is for nobody; text has its unit.
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}

// secretEndings end the names of attributes that are secrets, once case, '-' and
// '_' are taken out. It is never changed.
var secretEndings = [...]string{
	"password", "passwd", "passphrase", "secret", "secrets", "token", "tokens", "authorization",
	"apikey", "xapikey", "cookie", "credential", "credentials", "privatekey",
}

func isSecretName(name string) bool {
	var stack [64]byte
	plain := stack[:0]
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '-' || c == '_':
			continue
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		}
		plain = append(plain, c)
	}
	for _, ending := range secretEndings {
		if len(plain) >= len(ending) && string(plain[len(plain)-len(ending):]) == ending {
			return true
		}
	}
	return false
}

// contextHandler adds the ids of a context at the top level of each record, even
// where the logger has an open group.
type contextHandler struct {
	inner slog.Handler
	// root is the handler as it was before the first group was opened, and
	// reopen does again what was done to it since. Both are nil without a group.
	root   slog.Handler
	reopen []func(slog.Handler) slog.Handler
}

func newContextHandler(inner slog.Handler) slog.Handler { return &contextHandler{inner: inner} }

func (h *contextHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

func (h *contextHandler) Handle(ctx context.Context, r slog.Record) error {
	ids := idsOf(ctx)
	if len(ids) == 0 {
		return h.inner.Handle(ctx, r)
	}
	if h.root == nil {
		r = r.Clone()
		r.AddAttrs(ids...)
		return h.inner.Handle(ctx, r)
	}
	inner := h.root.WithAttrs(ids)
	for _, step := range h.reopen {
		inner = step(inner)
	}
	return inner.Handle(ctx, r)
}

func (h *contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	step := func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) }
	next := &contextHandler{inner: step(h.inner)}
	if h.root != nil {
		next.root, next.reopen = h.root, append(slices.Clip(h.reopen), step)
	}
	return next
}

func (h *contextHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	step := func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) }
	next := &contextHandler{inner: step(h.inner), root: h.root, reopen: append(slices.Clip(h.reopen), step)}
	if next.root == nil {
		next.root = h.inner
	}
	return next
}

// idsOf returns the ids a context carries, as attributes.
func idsOf(ctx context.Context) []slog.Attr {
	if ctx == nil {
		return nil
	}
	var ids []slog.Attr
	if id := RequestID(ctx); id != "" {
		ids = append(ids, slog.String(KeyRequestID, id))
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		ids = append(ids, slog.String(KeyTraceID, sc.TraceID().String()), slog.String(KeySpanID, sc.SpanID().String()))
	}
	return ids
}
