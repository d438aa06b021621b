package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"millrace/internal/config"
)

func (r *runner) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until it is told to stop (SIGINT or SIGTERM). It then finishes
what is in flight and loses nothing. One server at a time holds a data directory.`,
		Example: `  millrace serve
  millrace serve --demo
  millrace serve --data /var/lib/millrace --listen :8080 --admin 127.0.0.1:9090
  millrace serve --config millrace.yaml --set events.ack=store
  millrace serve --config millrace.yaml --roles api,sink`,
		Args: noArgs,
	}
	flags := addConfigFlags(cmd)
	flags.key("listen", "http.listen", "`ADDR` of the API")
	flags.key("admin", "admin.listen", "`ADDR` of metrics and profiles, empty for none")
	flags.key("roles", "roles", "`ROLES` of this instance: api, sink and worker, with commas between")
	flags.key("log-level", "log.level", "least severe `LEVEL` to log: debug, info, warn or error")
	flags.toggle("demo", "demo.enabled", "open a demo shop: a small catalogue, and a merchant that ships by itself")
	flags.key("log-format", "log.format", "`FORM` of the log: auto, json or text")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		return r.deps.Serve(cmd.Context(), cfg, r.stdio.Out)
	}
	return cmd
}

func (r *runner) tokenCommand() *cobra.Command {
	var tenant, subject, scope string
	ttl := 24 * time.Hour
	cmd := &cobra.Command{
		Use:   "token --tenant T --subject S --scope SCOPES",
		Short: "Print a token for the API",
		Long: `Print a JSON Web Token of the server's own issuer, and nothing else. It works
while a server runs and before the first start: the issuer's key is made when it
is not there. A token cannot be revoked; for devices and partners prefer
` + "`millrace keys create`.",
		Example: `  export TOKEN=$(millrace token --tenant demo --subject me --scope "events:write events:read" --ttl 24h)`,
		Args:    noArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "`TENANT` that the bearer belongs to")
	cmd.Flags().StringVar(&subject, "subject", "", "`NAME` of the bearer")
	cmd.Flags().StringVar(&scope, "scope", "", "`SCOPES` with spaces between, such as \"events:write events:read\"")
	cmd.Flags().Var(period{&ttl}, "ttl", "how long the token is valid, such as 90m, 24h or 30d")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "tenant", "subject", "scope"); err != nil {
			return err
		}
		if ttl <= 0 {
			return usagef("--ttl %s: a token must live for a while; write a duration such as 24h", ttl)
		}
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		token, err := r.deps.Token(cfg, TokenRequest{Tenant: tenant, Subject: subject, Scopes: scopeList(scope), TTL: ttl})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(r.stdio.Out, token)
		return err
	}
	return cmd
}

func (r *runner) configCommand() *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the effective configuration, secrets masked",
		Args:  noArgs,
	}
	flags := addConfigFlags(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		return cfg.WriteYAML(r.stdio.Out)
	}

	var format string
	reference := &cobra.Command{
		Use:   "reference",
		Short: "Print every configuration key with its meaning and default",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			switch format {
			case "text":
				return config.WriteReference(r.stdio.Out)
			case "markdown":
				return config.WriteMarkdown(r.stdio.Out)
			default:
				return usagef("--format %s: write text or markdown", format)
			}
		},
	}
	reference.Flags().StringVar(&format, "format", "text", "`FORM` of the output: text or markdown")
	return group("config", "Show the configuration", show, reference)
}
