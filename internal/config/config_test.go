package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date; look at the difference (-want +got), then run `go test ./internal/config -update`:\n%s", file, diff)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheDefaultsAreValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestNothingGivenLoadsTheDefaults(t *testing.T) {
	cfg, err := Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), cfg); diff != "" {
		t.Errorf("configuration (-default +got):\n%s", diff)
	}
}

func TestEachLayerOverridesTheOneBefore(t *testing.T) {
	file := writeFile(t, `
http:
  listen: "127.0.0.1:1"
  maxConnections: 1
  idleTimeout: 1m
admin:
`)
	env := []string{
		"MILLRACE_HTTP__LISTEN=127.0.0.1:2",
		"MILLRACE_HTTP__MAX_CONNECTIONS=2",
		"HOME=/nowhere",
	}
	flags := []Flag{{Name: "--listen", Key: "http.listen", Value: "127.0.0.1:3"}}
	cfg, err := Load(file, env, flags)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.HTTP.Listen = "127.0.0.1:3"
	want.HTTP.MaxConnections = 2
	want.HTTP.IdleTimeout = time.Minute
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestALaterFlagWins(t *testing.T) {
	cfg, err := Load("", nil, []Flag{
		{Name: "--set", Key: "log.level", Value: "debug"},
		{Name: "--set", Key: "log.level", Value: "warn"},
	})
	if err != nil || cfg.Log.Level != "warn" {
		t.Errorf("level %v, error %v; want warn", cfg, err)
	}
}

// TestEveryKeyCanBeSetInEveryLayer sets each key there is, in a file and by its
// variable, to a value that is not its default.
func TestEveryKeyCanBeSetInEveryLayer(t *testing.T) {
	other := func(k Key) string {
		switch {
		case len(k.Enum) > 0 && k.Type == "list":
			return "[" + k.Enum[1] + "]"
		case len(k.Enum) > 0:
			for _, v := range k.Enum {
				if v != k.Default {
					return v
				}
			}
		}
		switch k.Type {
		case "size":
			return "123457B"
		case "duration":
			return "1m1s"
		case "whole number":
			return "7"
		case "number":
			return "0.5"
		case "list":
			return "[value]"
		case "true or false":
			return map[string]string{"true": "false", "false": "true"}[k.Default]
		default:
			return "value"
		}
	}
	for _, g := range Groups() {
		for _, k := range g.Keys {
			t.Run(k.Path, func(t *testing.T) {
				path := strings.ReplaceAll(k.Path, nameHole, "some-name")
				want := other(k)
				text, depth := "", 0
				for part := range strings.SplitSeq(path, ".") {
					text += strings.Repeat(" ", depth) + part + ":\n"
					depth++
				}
				text = strings.TrimSuffix(text, "\n") + " " + want + "\n"
				got := lookUp(t, path, writeFile(t, text), nil)
				if k.Secret && k.Type == "list" {
					want = "[" + mask + "]"
				} else if k.Secret {
					want = mask
				}
				if got != want {
					t.Errorf("from a file: got %s, want %s", got, want)
				}
				path = strings.ReplaceAll(k.Path, nameHole, "some_name")
				name := strings.ReplaceAll(k.Env, "<NAME>", "SOME_NAME")
				if got := lookUp(t, path, "", []string{name + "=" + strings.Trim(other(k), "[]")}); got != want {
					t.Errorf("from %s: got %s, want %s", name, got, want)
				}
			})
		}
	}
}

// lookUp loads without validation, since most single values fit nothing else, and
// returns one value.
func lookUp(t *testing.T, path, file string, env []string) string {
	t.Helper()
	layered, problems := environmentLayer(env)
	if file != "" {
		var err error
		if layered, err = fileLayer(file); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Default()
	problems = append(problems, decode(cfg, layered.values, nil)...)
	if len(problems) > 0 {
		t.Fatal(&Error{Problems: problems})
	}
	var got string
	walkValues(cfg, func(f field) {
		if f.path == path {
			got = formatValue(f)
		}
	})
	return got
}

func TestHooksAndTenantsAreReadByName(t *testing.T) {
	file := writeFile(t, `
hooks:
  shop:
    scheme: github
    tenant: demo
    secrets: [one, two]
events:
  rate:
    tenants:
      demo: {perSecond: 1000, burst: 5000}
`)
	cfg, err := Load(file, []string{
		"MILLRACE_HOOKS__PAY__SCHEME=stripe",
		"MILLRACE_HOOKS__PAY__TENANT=demo",
		`MILLRACE_HOOKS__PAY__SECRETS=["with, comma", "plain"]`,
		"MILLRACE_HOOKS__PAY__TOLERANCE=1m",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Hook{
		"shop": {Scheme: "github", Tenant: "demo", Secrets: []Secret{NewSecret("one"), NewSecret("two")}, Tolerance: 5 * time.Minute},
		"pay":  {Scheme: "stripe", Tenant: "demo", Secrets: []Secret{NewSecret("with, comma"), NewSecret("plain")}, Tolerance: time.Minute},
	}
	if diff := cmp.Diff(want, cfg.Hooks); diff != "" {
		t.Errorf("hooks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]TenantRate{"demo": {PerSecond: 1000, Burst: 5000}}, cfg.Events.Rate.Tenants); diff != "" {
		t.Errorf("tenants (-want +got):\n%s", diff)
	}
}

func TestVariablesOfAnOrchestratorAreNotOurs(t *testing.T) {
	env := []string{
		"MILLRACE_SERVICE_HOST=10.0.0.1", "MILLRACE_SERVICE_PORT=80", "MILLRACE_SERVICE_PORT_HTTP=80",
		"MILLRACE_PORT=tcp://10.0.0.1:80", "MILLRACE_PORT_80_TCP=tcp://10.0.0.1:80",
		"MILLRACE_PORT_80_TCP_PROTO=tcp", "MILLRACE_PORT_80_TCP_PORT=80", "MILLRACE_PORT_80_TCP_ADDR=10.0.0.1",
		"MILLRACE_API_SERVICE_HOST=10.0.0.1", "MILLRACE_API_PORT_80_TCP_ADDR=10.0.0.1",
		"MILLRACE_CONFIG=x.yaml", "MILLRACE_TOKEN=x",
	}
	if _, err := Load("", env, nil); err != nil {
		t.Error(err)
	}
	for _, g := range Groups() {
		for _, k := range g.Keys {
			if orchestratorEnv.MatchString(strings.ReplaceAll(k.Env, "<NAME>", "X")) {
				t.Errorf("%s would be taken for an orchestrator's", k.Env)
			}
		}
	}
}

func TestEveryKeyHasAMeaningAndANameOfItsOwn(t *testing.T) {
	paths, envs := map[string]bool{}, map[string]bool{}
	for _, g := range Groups() {
		for _, k := range g.Keys {
			if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
				t.Errorf("%s: its meaning is missing or no sentence: %q", k.Path, k.Doc)
			}
			if paths[k.Path] || envs[k.Env] {
				t.Errorf("%s or %s is there twice", k.Path, k.Env)
			}
			if strings.HasSuffix(k.Type, "number") && k.Unit == "" && k.Type != "number" {
				t.Errorf("%s: a whole number needs a unit", k.Path)
			}
			paths[k.Path], envs[k.Env] = true, true
		}
	}
}

func TestTheReferenceMatchesItsGoldenFiles(t *testing.T) {
	var text, page bytes.Buffer
	if err := WriteReference(&text); err != nil {
		t.Fatal(err)
	}
	if err := WriteMarkdown(&page); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/reference.txt", text.String())
	// The page of the documentation is its own golden file, so it cannot drift.
	golden(t, "../../docs/configuration.md", page.String())
}

func TestWhatShowWritesLoadsToTheSame(t *testing.T) {
	cfg := Default()
	cfg.Data = "/data: with # odd characters"
	cfg.Admin.Listen = ""
	cfg.Events.Dedupe.Mode = "off"
	cfg.Events.RetentionDays = 0
	cfg.Events.Rate.Tenants = map[string]TenantRate{"007": {PerSecond: 5}, "demo": {PerSecond: 1, Burst: 2}}
	cfg.Auth.JWKS.Algorithms = []string{"ES256"}
	var out bytes.Buffer
	if err := cfg.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	got, err := Load(writeFile(t, out.String()), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if diff := cmp.Diff(cfg, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestShowMasksEverySecret(t *testing.T) {
	cfg := Default()
	cfg.Tracing.Endpoint = "https://user:hunter2@collector.example:4318/v1"
	cfg.Hooks = map[string]Hook{"shop": {Scheme: "github", Tenant: "demo", Secrets: []Secret{NewSecret("hunter2")}, Tolerance: time.Minute}}
	var out bytes.Buffer
	if err := cfg.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
	for _, want := range []string{"secrets: ['********']", "https://********@collector.example:4318/v1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestASecretIsMaskedHoweverItIsWritten(t *testing.T) {
	hook := Hook{Secrets: []Secret{NewSecret("hunter2")}}
	var written []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		written = append(written, fmt.Sprintf(verb, hook), fmt.Sprintf(verb, hook.Secrets[0]), fmt.Sprintf(verb, &hook.Secrets[0]))
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", hook.Secrets[0], "hook", hook)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", hook.Secrets[0], "hook", hook)
	asJSON, err := json.Marshal(hook)
	if err != nil {
		t.Fatal(err)
	}
	written = append(written, logged.String(), string(asJSON))
	for _, w := range written {
		// Its hexadecimal and decimal forms count too.
		if strings.Contains(w, "hunter2") || strings.Contains(w, "68756e74657232") || strings.Contains(w, "104 117") {
			t.Errorf("the secret is in %q", w)
		}
	}
	if hook.Secrets[0].Reveal() != "hunter2" {
		t.Error("Reveal does not give the value")
	}
	if s := (Secret{}).String(); s != "" {
		t.Errorf("no secret is shown as %q, as if there were one", s)
	}
}

func TestSizesAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "17B": 17, "1KiB": 1024, "64MiB": 64 << 20, "64 mib": 64 << 20, "4GiB": 4 << 30, "2TiB": 2 << 40,
		"1KB": 1000, "2MB": 2e6, "3gb": 3e9, "1.5KiB": 1536, "0.5GiB": 512 << 20,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%q is written as %q, which is read as %d, %v", text, got, back, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1e9", "1.0001KiB", "many", "64 miles", "0x10", "inf", "1.2.3KiB", "9999999999TiB", "1 2 KiB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is read as %d; want an error", text, got)
		}
	}
}

func TestDurationsAreWrittenAsInAFile(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "2m": 2 * time.Minute, "1h": time.Hour, "1h30m": 90 * time.Minute, "1h0m5s": time.Hour + 5*time.Second,
		"10m10s": 610 * time.Second, "100ms": 100 * time.Millisecond, "10h": 10 * time.Hour, "20m": 20 * time.Minute,
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestAFileThatCannotBeUsedIsAClearError(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ name, file, want string }{
		{"missing", filepath.Join(dir, "none.yaml"), "does not exist: create it"},
		{"a directory", dir, "cannot be read"},
		{"not YAML", writeFile(t, "http: [unclosed"), "is not valid YAML: line 1"},
		{"not keys", writeFile(t, "- a\n- b\n"), "it must be keys with values"},
		{"a key twice", writeFile(t, "data: a\ndata: b\n"), `mapping key "data" already defined`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load(test.file, nil, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
				t.Errorf("got %v; want the file's name and %q", err, test.want)
			}
			var invalid *Error
			if errors.As(err, &invalid) {
				t.Error("it is reported as a wrong value")
			}
		})
	}
}

func TestAnEmptyFileIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "http:\nevents: {}\nhooks:\n"} {
		cfg, err := Load(writeFile(t, text), nil, nil)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if diff := cmp.Diff(Default(), cfg); diff != "" {
			t.Errorf("%q (-default +got):\n%s", text, diff)
		}
	}
}

// TestTheDocumentationNamesKeysThatExist finds what looks like a key in the pages
// written by hand.
func TestTheDocumentationNamesKeysThatExist(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	schema := newSchema()
	pattern := regexp.MustCompile("`((?:http|admin|log|tracing|auth|events|deadLetters|hooks)(?:\\.[a-zA-Z<>]+)+)")
	found := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
			path := m[1]
			if ext := filepath.Ext(path); ext == ".db" || ext == ".go" || ext == ".md" {
				continue
			}
			found++
			if !schema.isSection(path) && schema.unknown(path) != "" {
				t.Errorf("%s names %s: %s", page, path, schema.unknown(path))
			}
		}
	}
	if found < 40 {
		t.Errorf("found %d keys only: does the pattern still match?", found)
	}
}
