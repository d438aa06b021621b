package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
)

func testLogger(t *testing.T, w *bytes.Buffer, format string) *slog.Logger {
	t.Helper()
	logger, err := NewLogger(w, slog.LevelInfo, format)
	if err != nil {
		t.Fatal(err)
	}
	return logger
}

// line reads a JSON log line without its time.
func line(t *testing.T, b *bytes.Buffer) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	delete(got, "time")
	b.Reset()
	return got
}

func traced(t *testing.T) context.Context {
	t.Helper()
	traceID, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex("b7ad6b7169203331")
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID}))
	return WithRequestID(ctx, "req-1")
}

func TestIDsOfTheContextAreOnTheTopLevelOfEveryLine(t *testing.T) {
	ids := func(more map[string]any) map[string]any {
		want := map[string]any{
			"level": "INFO", "msg": "hello",
			"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331", "request_id": "req-1",
		}
		for k, v := range more {
			want[k] = v
		}
		return want
	}
	tests := []struct {
		name   string
		logger func(*slog.Logger) *slog.Logger
		want   map[string]any
	}{
		{"a plain logger", func(l *slog.Logger) *slog.Logger { return l }, ids(map[string]any{"n": 1.0})},
		{"a logger with attributes", func(l *slog.Logger) *slog.Logger { return l.With("a", "b") }, ids(map[string]any{"n": 1.0, "a": "b"})},
		{"a logger with an open group", func(l *slog.Logger) *slog.Logger { return l.WithGroup("g") }, ids(map[string]any{"g": map[string]any{"n": 1.0}})},
		{"groups and attributes in turn", func(l *slog.Logger) *slog.Logger {
			return l.With("a", "b").WithGroup("g").With("c", "d").WithGroup("h")
		},
			ids(map[string]any{"a": "b", "g": map[string]any{"c": "d", "h": map[string]any{"n": 1.0}}})},
		{"an empty group and no attributes", func(l *slog.Logger) *slog.Logger { return l.WithGroup("").With() }, ids(map[string]any{"n": 1.0})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var buf bytes.Buffer
			logger := tt.logger(testLogger(t, &buf, FormatJSON))
			logger.InfoContext(traced(t), "hello", "n", 1)
			if diff := cmp.Diff(tt.want, line(t, &buf)); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
			logger.Info("without ids")
			if got := line(t, &buf); got["trace_id"] != nil || got["request_id"] != nil {
				t.Errorf("a line without a context has ids of an earlier one: %v", got)
			}
		})
	}
}

func TestTwoLoggersFromOneGroupDoNotMix(t *testing.T) {
	var buf bytes.Buffer
	parent := testLogger(t, &buf, FormatJSON).WithGroup("g").With("p", 0).With("q", 0)
	a, b := parent.With("a", 1), parent.With("b", 2)
	a.InfoContext(traced(t), "x")
	if diff := cmp.Diff(map[string]any{"p": 0.0, "q": 0.0, "a": 1.0}, line(t, &buf)["g"]); diff != "" {
		t.Errorf("first logger (-want +got):\n%s", diff)
	}
	b.InfoContext(traced(t), "x")
	if diff := cmp.Diff(map[string]any{"p": 0.0, "q": 0.0, "b": 2.0}, line(t, &buf)["g"]); diff != "" {
		t.Errorf("second logger (-want +got):\n%s", diff)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	masked := []string{"password", "Password", "PASSWORD", "secret", "client_secret", "clientSecret", "token", "accessToken", "Authorization",
		"Proxy-Authorization", "api_key", "apiKey", "X-API-Key", "cookie", "Set-Cookie", "private_key", "secrets", "hookSecrets", "credential"}
	shown := []string{"tokens_used_by", "keyId", "tenant", "passwordless_login", "secretary", "detail", "key"}
	for _, format := range []string{FormatJSON, FormatText} {
		var buf bytes.Buffer
		logger := testLogger(t, &buf, format)
		for _, name := range masked {
			buf.Reset()
			logger.Info("x", name, "hunter2")
			if got := buf.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, Masked) {
				t.Errorf("%s: %q is not masked: %s", format, name, got)
			}
		}
		for _, name := range shown {
			buf.Reset()
			logger.Info("x", name, "hunter2")
			if got := buf.String(); !strings.Contains(got, "hunter2") {
				t.Errorf("%s: %q is masked: %s", format, name, got)
			}
		}
	}
}

type leaky struct{ Password string }

func (l leaky) LogValue() slog.Value { return slog.GroupValue(slog.String("password", l.Password)) }

func TestSecretsAreMaskedWhereverTheyHide(t *testing.T) {
	var buf bytes.Buffer
	logger := testLogger(t, &buf, FormatJSON)
	for name, log := range map[string]func(){
		"in With":             func() { logger.With("token", "hunter2").Info("x") },
		"in a group":          func() { logger.Info("x", slog.Group("g", "password", "hunter2")) },
		"in a group so named": func() { logger.Info("x", slog.Group("secret", "value", "hunter2")) },
		"in an open group":    func() { logger.WithGroup("credentials").Info("x", "user", "hunter2") },
		"in a LogValuer":      func() { logger.Info("x", "login", leaky{"hunter2"}) },
		"as bytes":            func() { logger.Info("x", "secret", []byte("hunter2")) },
		"as a list":           func() { logger.Info("x", "secrets", []string{"hunter2"}) },
		"as a number":         func() { logger.Info("x", "token", 42424242) },
	} {
		buf.Reset()
		log()
		if got := buf.String(); strings.Contains(got, "hunter2") || strings.Contains(got, "42424242") || !strings.Contains(got, Masked) {
			t.Errorf("%s: not masked: %s", name, got)
		}
	}
}

func TestFormatsAndLevels(t *testing.T) {
	var buf bytes.Buffer
	for format, prefix := range map[string]string{FormatJSON: `{"time"`, FormatText: "time=", FormatAuto: `{"time"`, "": `{"time"`} {
		buf.Reset()
		testLogger(t, &buf, format).Info("x")
		if !strings.HasPrefix(buf.String(), prefix) {
			t.Errorf("format %q writes %q, want it to begin with %q", format, buf.String(), prefix)
		}
	}
	buf.Reset()
	testLogger(t, &buf, FormatJSON).Debug("x")
	if buf.Len() != 0 {
		t.Errorf("a line below the level is written: %s", &buf)
	}
	if _, err := NewLogger(&buf, slog.LevelInfo, "xml"); err == nil || !strings.Contains(err.Error(), "use auto, json or text") {
		t.Errorf("got error %v", err)
	}
	file, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	logger, err := NewLogger(file, slog.LevelInfo, FormatAuto)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("x")
	if raw, err := os.ReadFile(file.Name()); err != nil || !bytes.HasPrefix(raw, []byte("{")) {
		t.Errorf("auto writes %q to a file, want JSON (%v)", raw, err)
	}
	for name, want := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "WARN": slog.LevelWarn, "error": slog.LevelError} {
		if got, err := ParseLevel(name); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", name, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
		t.Errorf("got error %v", err)
	}
}

func BenchmarkLog(b *testing.B) {
	logger, err := NewLogger(discard{}, slog.LevelInfo, FormatJSON)
	if err != nil {
		b.Fatal(err)
	}
	ctx := WithRequestID(b.Context(), "0198f3c2")
	ctx = trace.ContextWithSpanContext(ctx, newSpanContext())
	b.Run("with ids", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			logger.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("route", "POST /events"), slog.Int("status", 202))
		}
	})
	b.Run("baseline: plain slog", func(b *testing.B) {
		plain := slog.New(slog.NewJSONHandler(discard{}, nil))
		b.ReportAllocs()
		for b.Loop() {
			plain.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("route", "POST /events"), slog.Int("status", 202))
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestADurationIsLoggedWithItsUnit(t *testing.T) {
	var out bytes.Buffer
	logger, err := NewLogger(&out, slog.LevelInfo, FormatJSON)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("x", "took", 1500*time.Millisecond)
	if !strings.Contains(out.String(), `"took":"1.5s"`) {
		t.Error(out.String())
	}
}
