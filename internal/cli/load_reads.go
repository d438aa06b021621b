package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/internal/config"
	"millrace/internal/load"
)

func (r *runner) loadReadsCommand() *cobra.Command {
	var o load.ReadsOptions
	var keysFile string
	cmd := &cobra.Command{
		Use:   "reads --url URL --token TOKEN [--path PATH]",
		Short: "Read products or places at a fixed rate and report latencies",
		Long: `Ask for products, places or other documents over HTTP and report how that went.
The loop is open: requests are due at fixed times, and latency counts from when a
request was due, so a server that stalls is charged for it. With --rate max the loop
is closed: each connection sends its next request when the last is answered.

A member's name in braces in a path stands for one key after the other: those of
--key and --keys-file, otherwise those that the server has. Every answer is checked:
it is of the key that was asked for, its ETag is strong and stands for the same bytes
each time, and 304 comes only to who asked about that ETag. The command fails if one
is not so.`,
		Example: `  millrace load reads --token $TOKEN --rate 10000 --duration 30s
  millrace load reads --token $TOKEN --path '/places/{id}' --rate max --language de,en --language fr
  millrace load reads --token $TOKEN --path '/products/{sku}' --key tee --conditional 0.5 --encoding gzip
  millrace load reads --tenant demo --rate max # a public catalogue`,
		Args: noArgs,
	}
	target := addTargetFlags(cmd, "orders:read to read orders; any will do for products and places")
	o.Rate = 10_000
	flags := cmd.Flags()
	flags.StringArrayVar(&o.Paths, "path", []string{"/products/{sku}"}, "`PATH` to read; may be repeated")
	flags.StringArrayVar(&o.Keys, "key", nil, "`VALUE` for the name in braces; may be repeated")
	flags.StringVar(&keysFile, "keys-file", "", "`FILE` with a value on each line")
	flags.IntVar(&o.MaxKeys, "max-keys", 10_000, "most `VALUES` to take from the server")
	flags.Var(rate{&o.Rate}, "rate", "requests a second to offer, or max")
	flags.DurationVar(&o.Duration, "duration", 0, "how long to read (default 30s unless --count is given)")
	flags.IntVar(&o.Count, "count", 0, "end after so many `REQUESTS`; 0 means no such end")
	flags.DurationVar(&o.WarmUp, "warm-up", 0, "how long to read before, without counting")
	flags.IntVar(&o.Connections, "connections", 64, "most `REQUESTS` in flight at a time")
	flags.Float64Var(&o.Zipf, "zipf", 0, "`EXPONENT` of the keys' popularity: 0 all alike, 1 as in most shops")
	flags.Uint64Var(&o.Seed, "seed", 1, "`NUMBER` that decides what is read: the same reads the same")
	flags.Float64Var(&o.Conditional, "conditional", 0, "`SHARE` of requests that ask about the last ETag (If-None-Match)")
	flags.StringArrayVar(&o.Languages, "language", nil, "`VALUE` of Accept-Language; of several each request has one")
	flags.StringVar(&o.Encoding, "encoding", "", "`VALUE` of Accept-Encoding, such as gzip")
	flags.StringVar(&o.Tenant, "tenant", "", "`TENANT` whose public catalogue to read without a token")
	flags.StringVar(&o.JSONFile, "json", "", "`FILE` to write the report to")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "most time for one request")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Duration == 0 && o.Count == 0 {
			o.Duration = 30 * time.Second
		}
		if o.TLS, err = target.tls(); err != nil {
			return err
		}
		o.URL, o.Out = target.url, r.stdio.Out
		if o.Token = target.token; o.Token == "" && o.Tenant == "" {
			o.Token = target.credential(r.stdio.Env)
		}
		if o.Token == "" && o.Tenant == "" {
			return usagef("missing --token TOKEN (or $%s); get one with `millrace token --tenant demo --subject load --scope orders:read`, or name the --tenant of a public catalogue", config.EnvToken)
		}
		if keysFile != "" {
			if err := addLines(&o.Keys, keysFile); err != nil {
				return fmt.Errorf("--keys-file: %w", err)
			}
		}
		_, err = load.Reads(cmd.Context(), o)
		return err
	}
	return cmd
}

// addLines adds the lines of a file that are not empty.
func addLines(to *[]string, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	before := len(*to)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			*to = append(*to, line)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(*to) == before {
		return fmt.Errorf("%s is empty; write one value on each line", path)
	}
	return nil
}
