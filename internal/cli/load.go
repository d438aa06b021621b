package cli

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"millrace/internal/config"
	"millrace/internal/load"
)

// targetFlags say which server a command talks to over public HTTP.
type targetFlags struct {
	url, token, caFile string
}

func addTargetFlags(cmd *cobra.Command, scopes string) *targetFlags {
	f := &targetFlags{}
	cmd.Flags().StringVar(&f.url, "url", "http://127.0.0.1:8080", "base `URL` of the server")
	cmd.Flags().StringVar(&f.token, "token", "", "`TOKEN` or API key with the scope "+scopes+" (default $"+config.EnvToken+")")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "PEM `FILE` with the authorities to trust for an https URL, in place of the system's")
	return f
}

// credential returns the token; the environment spares it the list of processes.
func (f *targetFlags) credential(env []string) string {
	if f.token != "" {
		return f.token
	}
	return lookupEnv(env, config.EnvToken)
}

func (f *targetFlags) tls() (*tls.Config, error) {
	if f.caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(f.caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file %s has no certificate in it; it must be PEM", f.caFile)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func (r *runner) loadCommand() *cobra.Command {
	return group("load", "Offer load to a server and measure it", r.loadEventsCommand(), r.loadOrdersCommand(), r.loadReadsCommand())
}

func (r *runner) loadEventsCommand() *cobra.Command {
	var o load.EventsOptions
	cmd := &cobra.Command{
		Use:   "events --url URL --token TOKEN",
		Short: "Send events at a fixed rate and report latencies",
		Long: `Send batches of events over HTTP and report what became of them. The loop is
open: batches are due at fixed times, and latency counts from when a batch was
due, so a server that stalls is charged for it. With --rate max the loop is
closed: each connection sends its next batch when the last is answered.`,
		Example: `  millrace load events --token $TOKEN --rate 50000 --batch 100 --duration 60s --acked acked.tsv
  millrace load events --token $TOKEN --rate max --duration 10s --json report.json`,
		Args: noArgs,
	}
	target := addTargetFlags(cmd, "events:write")
	o.Rate = 50_000
	flags := cmd.Flags()
	flags.Var(rate{&o.Rate}, "rate", "events a second to offer, or max")
	flags.IntVar(&o.Batch, "batch", 100, "`EVENTS` in a request")
	flags.DurationVar(&o.Duration, "duration", 0, "how long to send (default 60s unless --count is given)")
	flags.IntVar(&o.Count, "count", 0, "end after so many `EVENTS`; 0 means no such end")
	flags.IntVar(&o.Connections, "connections", 64, "most `BATCHES` in flight at a time")
	flags.StringVar(&o.PayloadFile, "payload", "", "`FILE` with the events to send, one JSON object a line, plain or .gz; default built-in telemetry")
	flags.IntVar(&o.MaxBodyBytes, "max-body-bytes", 1_000_000, "most `BYTES` of a body; a batch of large events has fewer of them")
	flags.IntVar(&o.EventsPerType, "events-per-type", 25, "built-in `EVENTS` of one type that follow each other")
	flags.StringVar(&o.AckedFile, "acked", "", "`FILE` to write what the server accepted to, for: millrace verify events")
	flags.StringVar(&o.JSONFile, "json", "", "`FILE` to write the report to")
	flags.BoolVar(&o.Retry, "retry", false, "send a batch again, with the same ids, when it was refused or its outcome is unknown")
	flags.DurationVar(&o.RetryFor, "retry-for", time.Minute, "with --retry: how long to try one batch")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "most time for one attempt")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Duration == 0 && o.Count == 0 {
			o.Duration = time.Minute
		}
		if o.TLS, err = target.tls(); err != nil {
			return err
		}
		o.URL, o.Token, o.Out = target.url, target.credential(r.stdio.Env), r.stdio.Out
		if o.Token == "" {
			return usagef("missing --token TOKEN (or $%s); get one with `millrace token --tenant demo --subject load --scope \"events:write events:read\"`", config.EnvToken)
		}
		_, err = load.Events(cmd.Context(), o)
		return err
	}
	return cmd
}

func (r *runner) verifyCommand() *cobra.Command {
	return group("verify", "Check that a server kept what it acknowledged", r.verifyEventsCommand(), r.verifyOrdersCommand())
}

func (r *runner) verifyEventsCommand() *cobra.Command {
	var o load.VerifyOptions
	var exclusive bool
	cmd := &cobra.Command{
		Use:   "events --url URL --token TOKEN --acked FILE",
		Short: "Compare what was acknowledged with what the server has",
		Long: `Ask the server for every event that ` + "`millrace load events --acked FILE`" + ` was told
is accepted: each must be there once and unchanged, and the statistics must add
up. It fails on any difference.`,
		Example: `  millrace verify events --token $TOKEN --acked acked.tsv`,
		Args:    noArgs,
	}
	target := addTargetFlags(cmd, "events:read")
	flags := cmd.Flags()
	flags.StringArrayVar(&o.AckedFiles, "acked", nil, "`FILE` that load events --acked wrote; may be repeated")
	flags.BoolVar(&o.Each, "each", false, "ask for each event by its id too, not only for a sample")
	flags.BoolVar(&exclusive, "exclusive", true, "nobody else sent events during the run, so an unknown one is a fault")
	flags.DurationVar(&o.Wait, "wait", 30*time.Second, "how long to wait until all is queryable; negative means not at all")
	flags.IntVar(&o.Concurrency, "concurrency", 4, "`REQUESTS` at a time")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "most time for one request")
	flags.StringVar(&o.JSONFile, "json", "", "`FILE` to write the report to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if len(o.AckedFiles) == 0 {
			return usagef("missing --acked FILE, the file that `millrace load events --acked FILE` wrote")
		}
		if o.TLS, err = target.tls(); err != nil {
			return err
		}
		o.URL, o.Token, o.Out = target.url, target.credential(r.stdio.Env), r.stdio.Out
		if o.Token == "" {
			return usagef("missing --token TOKEN (or $%s); get one with `millrace token --tenant demo --subject verify --scope events:read`", config.EnvToken)
		}
		o.Shared = !exclusive
		_, err = load.VerifyEvents(cmd.Context(), o)
		return err
	}
	return cmd
}
