package cli

import (
	"time"

	"github.com/spf13/cobra"

	"millrace/internal/config"
	"millrace/internal/load"
)

func (r *runner) loadOrdersCommand() *cobra.Command {
	var o load.OrdersOptions
	cmd := &cobra.Command{
		Use:   "orders --url URL --token TOKEN",
		Short: "Place orders at a fixed rate and report latencies",
		Long: `Put in products and stock, place orders over HTTP, each a request of its own with
a key of its own, and report what became of them. The loop is open: orders are due
at fixed times, and latency counts from when an order was due, so a server that
stalls is charged for it. With --rate max the loop is closed.

An order whose answer is lost is sent again with its key until it is answered, as a
good client does.`,
		Example: `  millrace load orders --token $TOKEN --skus 1000 --zipf 1 --rate 2000 --duration 30s --acked orders.tsv
  millrace load orders --token $TOKEN --skus 1 --rate max --duration 10s
  millrace load orders --token $TOKEN --rate 200 --payment-token tok_ok=8,tok_declined=1,tok_flaky=1 --duplicate 0.1 --cancel 0.1 --watch`,
		Args: noArgs,
	}
	target := addTargetFlags(cmd, "orders:write (and catalog:write, stock:write to put products in, orders:read to watch)")
	o.Rate, o.Lines, o.Quantity = 1000, load.Span{Min: 1, Max: 1}, load.Span{Min: 1, Max: 1}
	o.Tokens = []load.Weighted{{Text: "tok_ok", Weight: 1}}
	flags := cmd.Flags()
	flags.Var(rate{&o.Rate}, "rate", "orders a second to offer, or max")
	flags.DurationVar(&o.Duration, "duration", 0, "how long to order (default 30s unless --count is given)")
	flags.IntVar(&o.Count, "count", 0, "end after so many `ORDERS`; 0 means no such end")
	flags.IntVar(&o.Connections, "connections", 64, "most `ORDERS` in flight at a time")
	flags.IntVar(&o.SKUs, "skus", 100, "number of `PRODUCTS`")
	flags.StringVar(&o.SKUPrefix, "sku-prefix", "load-sku-", "`TEXT` that the products' SKUs begin with")
	flags.Float64Var(&o.Zipf, "zipf", 0, "`EXPONENT` of the products' popularity: 0 all alike, 1 as in most shops")
	flags.Var(span{&o.Lines}, "lines", "lines of an order")
	flags.Var(span{&o.Quantity}, "quantity", "units of a line")
	flags.Uint64Var(&o.Seed, "seed", 1, "`NUMBER` that decides the orders: the same makes the same ones")
	flags.Int64Var(&o.Stock, "stock", 1_000_000, "`UNITS` of each product to put in before")
	noSeed := flags.Bool("no-seed", false, "put in neither products nor stock: they are there")
	flags.Var(mix{&o.Tokens}, "payment-token", "payment token, or several with their weights (tok_ok=9,tok_declined=1)")
	flags.Float64Var(&o.Duplicate, "duplicate", 0, "`SHARE` of orders to send twice with one key: both answers must name one order")
	flags.Float64Var(&o.Cancel, "cancel", 0, "`SHARE` of orders to cancel at once")
	flags.BoolVar(&o.Watch, "watch", false, "follow some orders until they are paid, and wait in the end until all are")
	flags.DurationVar(&o.WatchFor, "watch-for", time.Minute, "with --watch: how long to wait")
	flags.StringVar(&o.AckedFile, "acked", "", "`FILE` to write the placed orders to, for: millrace verify orders")
	flags.StringVar(&o.JSONFile, "json", "", "`FILE` to write the report to")
	flags.BoolVar(&o.Retry, "retry", false, "send an order again also when it was refused (429, 503) or the server is away")
	flags.DurationVar(&o.RetryFor, "retry-for", time.Minute, "how long to try one order")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "most time for one attempt")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Duration == 0 && o.Count == 0 {
			o.Duration = 30 * time.Second
		}
		if o.TLS, err = target.tls(); err != nil {
			return err
		}
		o.NoSeed = *noSeed
		o.URL, o.Token, o.Out = target.url, target.credential(r.stdio.Env), r.stdio.Out
		if o.Token == "" {
			return usagef("missing --token TOKEN (or $%s); get one with `millrace token --tenant demo --subject load --scope admin`", config.EnvToken)
		}
		_, err = load.Orders(cmd.Context(), o)
		return err
	}
	return cmd
}

func (r *runner) verifyOrdersCommand() *cobra.Command {
	var o load.VerifyOrdersOptions
	var exclusive bool
	cmd := &cobra.Command{
		Use:   "orders --url URL --token TOKEN [--acked FILE]",
		Short: "Check orders, stock and payments against each other and against what was acknowledged",
		Long: `Wait until no order is being worked on, then read all orders, all stock and the
payment sandbox's ledger, and check: every order that ` + "`millrace load orders --acked FILE`" + `
was told is placed is there, once and as it was; each product's stock is what the
orders make of it, and what was put in is on hand or shipped; every paid order has
one charge of its amount and no other order has any; no order is in a state that
must not be. It fails on any difference.`,
		Example: `  millrace verify orders --token $TOKEN --acked orders.tsv
  millrace verify orders --token $TOKEN --history`,
		Args: noArgs,
	}
	target := addTargetFlags(cmd, "orders:admin and stock:write")
	flags := cmd.Flags()
	flags.StringArrayVar(&o.AckedFiles, "acked", nil, "`FILE` that load orders --acked wrote; may be repeated")
	flags.DurationVar(&o.Settle, "settle", time.Minute, "how long to wait until no order is being worked on; negative means not at all")
	flags.BoolVar(&o.History, "history", false, "check the history of every order, not only of a sample")
	flags.IntVar(&o.Replay, "replay", 0, "send so many of the acknowledged `ORDERS` again with their keys, as the same buyer (also scope orders:write): the answers must be the same")
	flags.BoolVar(&exclusive, "exclusive", true, "nobody else ordered during the run, so an unknown order is a fault")
	flags.IntVar(&o.Concurrency, "concurrency", 4, "`REQUESTS` at a time")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "most time for one request")
	flags.StringVar(&o.JSONFile, "json", "", "`FILE` to write the report to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.TLS, err = target.tls(); err != nil {
			return err
		}
		o.URL, o.Token, o.Out = target.url, target.credential(r.stdio.Env), r.stdio.Out
		if o.Token == "" {
			return usagef("missing --token TOKEN (or $%s); get one with `millrace token --tenant demo --subject load --scope admin`", config.EnvToken)
		}
		o.Shared = !exclusive
		_, err = load.VerifyOrders(cmd.Context(), o)
		return err
	}
	return cmd
}

// span is a flag for a range of whole numbers.
type span struct{ s *load.Span }

func (f span) Type() string { return "N|MIN-MAX" }

func (f span) String() string {
	if f.s == nil {
		return ""
	}
	return f.s.String()
}

func (f span) Set(text string) (err error) {
	*f.s, err = load.ParseSpan(text)
	return err
}

// mix is a flag for texts with weights.
type mix struct{ m *[]load.Weighted }

func (f mix) Type() string { return "TOKEN|MIX" }

func (f mix) String() string {
	if f.m == nil {
		return ""
	}
	return load.FormatMix(*f.m)
}

func (f mix) Set(text string) (err error) {
	*f.m, err = load.ParseMix(text)
	return err
}
