package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/internal/config"
)

// invocation is one run of the command line with fakes beneath it.
type invocation struct {
	deps        Deps
	env         []string
	stdin       string
	interactive bool
}

type result struct {
	Code     int
	Out, Err string
}

func (i invocation) run(t *testing.T, args ...string) result {
	t.Helper()
	return i.runContext(t.Context(), args...)
}

func (i invocation) runContext(ctx context.Context, args ...string) result {
	var out, errOut bytes.Buffer
	code := Run(ctx, args, Stdio{
		In: strings.NewReader(i.stdin), Out: &out, Err: &errOut, Env: i.env, Interactive: i.interactive,
	}, i.deps)
	return result{code, out.String(), errOut.String()}
}

// call is one request that reached the fake control API.
type call struct {
	Request string // method and path with query
	Tenant  string
	Body    string
}

// fakeControl is a control API that answers in turn and notes what it was asked.
type fakeControl struct {
	answers  []answer
	calls    []call
	released int
}

type answer struct {
	status int
	body   string
}

func (f *fakeControl) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	f.calls = append(f.calls, call{r.Method + " " + r.URL.RequestURI(), r.Header.Get("X-Millrace-Tenant"), string(body)})
	if len(f.calls) > len(f.answers) {
		return nil, errors.New("connection refused")
	}
	a := f.answers[len(f.calls)-1]
	w := httptest.NewRecorder()
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
	return w.Result(), nil
}

func (f *fakeControl) deps() Deps {
	return Deps{Control: func(context.Context, *config.Config) (*http.Client, string, func() error, error) {
		return &http.Client{Transport: f}, "http://control", func() error { f.released++; return nil }, nil
	}}
}

func TestAWrongCommandLineIsAUsageErrorInOneLine(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"serv"}, "there is no command `millrace serv`; did you mean `millrace serve`?"},
		{[]string{"frobnicate"}, "there is no command `millrace frobnicate`; see `millrace --help`"},
		{[]string{"keys", "revok"}, "there is no command `millrace keys revok`; did you mean `millrace keys revoke`?"},
		{[]string{"serve", "--port", "80"}, "unknown flag: --port; see `millrace serve --help`"},
		{[]string{"serve", "now"}, "\"now\" is not expected here; see `millrace serve --help`"},
		{[]string{"serve", "--set", "log.level"}, "--set log.level: write it as --set key=value, such as --set log.level=debug"},
		{[]string{"token"}, "missing --tenant TENANT and --subject NAME and --scope SCOPES; see `millrace token --help`"},
		{[]string{"token", "--tenant", "t", "--subject", "s", "--scope", "admin", "--ttl", "0s"}, "--ttl 0s: a token must live for a while; write a duration such as 24h"},
		{[]string{"token", "--ttl", "soon"}, "invalid argument \"soon\" for \"--ttl\" flag: write a duration, such as 90m, 24h or 30d; see `millrace token --help`"},
		{[]string{"keys", "list"}, "missing --tenant TENANT; see `millrace keys list --help`"},
		{[]string{"keys", "create", "--tenant", "demo"}, "missing --name NAME and --scope SCOPES; see `millrace keys create --help`"},
		{[]string{"keys", "revoke", "--tenant", "demo"}, "the key's id is missing; write `millrace keys revoke ID --tenant T [flags]`"},
		{[]string{"keys", "revoke", "a", "b"}, "\"b\" is not expected after \"a\"; write `millrace keys revoke ID --tenant T [flags]`"},
		{[]string{"dead-letters", "list", "--limit", "0"}, "--limit 0: write a number from 1 to 1000"},
		{[]string{"dead-letters", "list", "--from", "yesterday"}, "invalid argument \"yesterday\" for \"--from\" flag: write a time such as 2026-11-22T10:00:00Z, a day such as 2026-11-22 (UTC), or how long ago, such as 2h or 7d; see `millrace dead-letters list --help`"},
		{[]string{"dead-letters", "redrive", "--tenant", "demo"}, "which ones? Name an id, select with --kind, --type, --from, --to, or write --all; see `millrace dead-letters redrive --help`"},
		{[]string{"dead-letters", "delete", "--tenant", "demo"}, "which ones? Name an id, select with --kind, --type, --from, --to, or write --all; see `millrace dead-letters delete --help`"},
		{[]string{"dead-letters", "delete", "7", "--all", "--tenant", "demo"}, "\"7\" names one letter, the other flags select many; write one or the other"},
		{[]string{"dead-letters", "redrive", "7", "8"}, "\"8\" is not expected after \"7\"; write `millrace dead-letters redrive [ID] --tenant T [flags]`"},
		{[]string{"dead-letters", "show", "7", "--json", "--payload"}, "--json and --payload ask for two forms at once; write one of them"},
		{[]string{"config", "reference", "--format", "pdf"}, "--format pdf: write text or markdown"},
		{[]string{"load", "events", "--rate", "fast"}, "invalid argument \"fast\" for \"--rate\" flag: write how many a second, such as 50000, or max; see `millrace load events --help`"},
		{[]string{"load", "events"}, "missing --token TOKEN (or $MILLRACE_TOKEN); get one with `millrace token --tenant demo --subject load --scope \"events:write events:read\"`"},
		{[]string{"verify", "events", "--token", "t"}, "missing --acked FILE, the file that `millrace load events --acked FILE` wrote"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			got := invocation{}.run(t, test.args...)
			want := result{Code: ExitUsage, Err: "millrace: " + test.want + "\n"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAGroupAlonePrintsItsHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"keys"}, {"dead-letters"}, {"config"}, {"load"}, {"verify"}} {
		got := invocation{}.run(t, args...)
		if got.Code != ExitOK || !strings.Contains(got.Out, "Available Commands:") || got.Err != "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

func TestServeGetsTheConfigurationOfFlagsVariablesAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(file, []byte("events: {ack: store}\nlog: {level: warn}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got *config.Config
	i := invocation{
		env: []string{"MILLRACE_CONFIG=" + file, "MILLRACE_LOG__FORMAT=json", "MILLRACE_LOG__LEVEL=error"},
		deps: Deps{Serve: func(_ context.Context, cfg *config.Config, out io.Writer) error {
			got = cfg
			_, err := io.WriteString(out, "ready\n")
			return err
		}},
	}
	r := i.run(t, "serve", "--data", "/d", "--listen", ":1", "--admin", "", "--log-level", "debug", "--set", "http.maxConnections=7")
	if diff := cmp.Diff(result{Code: ExitOK, Out: "ready\n"}, r); diff != "" {
		t.Fatalf("result (-want +got):\n%s", diff)
	}
	want := config.Default()
	want.Data, want.HTTP.Listen, want.Admin.Listen = "/d", ":1", ""
	want.Log.Level, want.Log.Format = "debug", "json"
	want.Events.Ack = "store"
	want.HTTP.MaxConnections = 7
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestTheFlagForTheFileBeatsTheVariable(t *testing.T) {
	i := invocation{env: []string{"MILLRACE_CONFIG=/nowhere/variable.yaml"}}
	r := i.run(t, "serve", "--config", "/nowhere/flag.yaml")
	if r.Code != ExitFailure || !strings.Contains(r.Err, "/nowhere/flag.yaml does not exist") {
		t.Errorf("got %+v", r)
	}
}

func TestAWrongConfigurationExitsWithUsage(t *testing.T) {
	r := invocation{}.run(t, "serve", "--listen", "nowhere")
	want := result{Code: ExitUsage, Err: "millrace: configuration: http.listen = \"nowhere\" (--listen): it is not an address; write host:port, such as 127.0.0.1:8080, [::1]:8080 or :8080\n"}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestAFailureExitsWithOneAndPrintsNoUsage(t *testing.T) {
	i := invocation{deps: Deps{Serve: func(context.Context, *config.Config, io.Writer) error {
		return errors.New("the port is taken; give another with --listen")
	}}}
	want := result{Code: ExitFailure, Err: "millrace: the port is taken; give another with --listen\n"}
	if diff := cmp.Diff(want, i.run(t, "serve")); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestAnInterruptedCommandSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	i := invocation{deps: Deps{Serve: func(ctx context.Context, _ *config.Config, _ io.Writer) error {
		cancel()
		return ctx.Err()
	}}}
	want := result{Code: ExitFailure, Err: "millrace: interrupted; what was done so far stays done\n"}
	if diff := cmp.Diff(want, i.runContext(ctx, "serve")); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestTokenPrintsTheTokenAndNothingElse(t *testing.T) {
	var got TokenRequest
	var data string
	i := invocation{deps: Deps{Token: func(cfg *config.Config, r TokenRequest) (string, error) {
		got, data = r, cfg.Data
		return "eyJ.x.y", nil
	}}}
	r := i.run(t, "token", "--data", "/d", "--tenant", "demo", "--subject", "me", "--scope", "events:write, events:read", "--ttl", "30d")
	if diff := cmp.Diff(result{Code: ExitOK, Out: "eyJ.x.y\n"}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	want := TokenRequest{Tenant: "demo", Subject: "me", Scopes: []string{"events:write", "events:read"}, TTL: 30 * 24 * time.Hour}
	if diff := cmp.Diff(want, got); diff != "" || data != "/d" {
		t.Errorf("data directory %q, request (-want +got):\n%s", data, diff)
	}
}

func TestConfigShowPrintsTheEffectiveConfiguration(t *testing.T) {
	i := invocation{env: []string{
		"MILLRACE_HOOKS__SHOP__SCHEME=github", "MILLRACE_HOOKS__SHOP__TENANT=demo", "MILLRACE_HOOKS__SHOP__SECRETS=hunter2",
	}}
	r := i.run(t, "config", "show", "--set", "events.ack=store")
	if r.Code != ExitOK || !strings.Contains(r.Out, "ack: store\n") || !strings.Contains(r.Out, "secrets: ['********']") || strings.Contains(r.Out, "hunter2") {
		t.Errorf("got %+v", r)
	}
}

func TestConfigReferencePrintsBothForms(t *testing.T) {
	text := invocation{}.run(t, "config", "reference")
	page := invocation{}.run(t, "config", "reference", "--format", "markdown")
	if text.Code != ExitOK || !strings.Contains(text.Out, "\n  http.listen  (text)\n") {
		t.Errorf("text: %+v", text)
	}
	if page.Code != ExitOK || !strings.HasPrefix(page.Out, "# Configuration reference\n") {
		t.Errorf("markdown: %+v", page)
	}
}

func TestVersionNamesTheProgramAndTheToolchain(t *testing.T) {
	r := invocation{deps: Deps{Version: "v1.2.3"}}.run(t, "version")
	if r.Code != ExitOK || !strings.HasPrefix(r.Out, "millrace v1.2.3 (go1.") {
		t.Errorf("got %+v", r)
	}
}

// TestEveryCommandIsDocumented walks the tree: help must not have gaps, and what
// the examples show must be accepted.
func TestEveryCommandIsDocumented(t *testing.T) {
	root := newRoot(&runner{})
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("`%s` has no short text", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("`%s`: --%s has no text", cmd.CommandPath(), f.Name)
			}
		})
		for line := range strings.Lines(cmd.Example) {
			checkExample(t, line)
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(root)
}

// checkExample parses the flags of an example. Quoted words of examples hold no
// flags, so splitting at spaces is enough to find those.
func checkExample(t *testing.T, line string) {
	t.Helper()
	_, command, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ")"), "millrace ")
	if !ok {
		return
	}
	root := newRoot(&runner{})
	cmd, rest, err := root.Find(strings.Fields(command))
	if err != nil || !cmd.HasParent() {
		t.Errorf("example %q: no such command (%v)", line, err)
		return
	}
	for _, word := range rest {
		if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
			name, _, _ = strings.Cut(name, "=")
			if cmd.Flags().Lookup(name) == nil {
				t.Errorf("example %q: `%s` has no flag --%s", line, cmd.CommandPath(), name)
			}
		}
	}
}
