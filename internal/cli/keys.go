package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// apiKey is an API key in the control API's answers.
type apiKey struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Scopes    []string  `json:"scopes"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt"`
	RevokedAt time.Time `json:"revokedAt"`
	// Secret is the key itself, in the answer to its creation only.
	Secret string `json:"secret"`
}

func (k apiKey) state(now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "revoked " + shortTime(k.RevokedAt)
	case !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(now):
		return "expired"
	default:
		return "active"
	}
}

// createKeyRequest is the body of POST /keys.
type createKeyRequest struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	// TTL is a duration such as "720h", empty for no end.
	TTL string `json:"ttl,omitempty"`
}

func (r *runner) keysCommand() *cobra.Command {
	return group("keys", "Create, list and revoke API keys", r.keysCreateCommand(), r.keysListCommand(), r.keysRevokeCommand())
}

func (r *runner) keysCreateCommand() *cobra.Command {
	var name, scope string
	var ttl time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create --tenant T --name NAME --scope SCOPES",
		Short: "Create an API key and show it once",
		Long: `Create an API key. The key itself goes to standard output and can never be shown
again, because only its hash is kept; what there is to say about it goes to
standard error.`,
		Example: `  millrace keys create --tenant demo --name "till 7" --scope events:write
  millrace keys create --tenant demo --name partner --scope "events:write events:read" --ttl 90d`,
		Args: noArgs,
	}
	flags := addControlFlags(cmd)
	cmd.Flags().StringVar(&name, "name", "", "`NAME` to know the key by")
	cmd.Flags().StringVar(&scope, "scope", "", "`SCOPES` with spaces between, such as \"events:write events:read\"")
	cmd.Flags().Var(period{&ttl}, "ttl", "how long the key is valid, such as 90d; 0 means until it is revoked")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the whole answer as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required(cmd, "tenant", "name", "scope"); err != nil {
			return err
		}
		if ttl < 0 {
			return usagef("--ttl %s: a key cannot end before it begins; write a duration such as 90d", ttl)
		}
		request := createKeyRequest{Name: name, Scopes: scopeList(scope)}
		if ttl > 0 {
			request.TTL = ttl.String()
		}
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			var raw json.RawMessage
			if err := c.call(ctx, "POST", "/keys", nil, request, &raw); err != nil {
				return err
			}
			return r.printCreatedKey(raw, flags.tenant, asJSON)
		})
	}
	return cmd
}

func (r *runner) printCreatedKey(raw json.RawMessage, tenant string, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(r.stdio.Out, "%s\n", raw)
		return err
	}
	var key apiKey
	if err := json.Unmarshal(raw, &key); err != nil || key.Secret == "" {
		return fmt.Errorf("the server's answer has no key in it; `millrace keys list` shows whether one was created")
	}
	if _, err := fmt.Fprintln(r.stdio.Out, key.Secret); err != nil {
		return err
	}
	until := "until it is revoked"
	if !key.ExpiresAt.IsZero() {
		until = "until " + shortTime(key.ExpiresAt)
	}
	fmt.Fprintf(r.stdio.Err, "Key %s for tenant %s may %s %s. Keep it now: it cannot be shown again.\n",
		key.ID, tenant, strings.Join(key.Scopes, " "), until)
	return nil
}

func (r *runner) keysListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list --tenant T",
		Short: "List a tenant's API keys",
		Args:  noArgs,
	}
	flags := addControlFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the answer as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			var raw json.RawMessage
			if err := c.call(ctx, "GET", "/keys", nil, nil, &raw); err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintf(r.stdio.Out, "%s\n", raw)
				return err
			}
			return r.printKeys(raw, flags.tenant)
		})
	}
	return cmd
}

func (r *runner) printKeys(raw json.RawMessage, tenant string) error {
	var answer struct {
		Keys []apiKey `json:"keys"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w; is it the same version as this command?", err)
	}
	if len(answer.Keys) == 0 {
		fmt.Fprintf(r.stdio.Err, "Tenant %s has no API keys.\n", tenant)
		return nil
	}
	table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tNAME\tSCOPES\tCREATED\tEXPIRES\tSTATE")
	now := time.Now()
	for _, k := range answer.Keys {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, printable(k.Name), strings.Join(k.Scopes, " "),
			shortTime(k.CreatedAt), shortTime(k.ExpiresAt), k.state(now))
	}
	return table.Flush()
}

func (r *runner) keysRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID --tenant T",
		Short: "Revoke an API key, now and for ever",
		Args:  oneArg("the key's id"),
	}
	flags := addControlFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			if err := c.call(ctx, "DELETE", "/keys/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(r.stdio.Out, "Key %s is revoked.\n", args[0])
			return err
		})
	}
	return cmd
}
