package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// deadLetter is a dead letter in the control API's answers.
type deadLetter struct {
	ID              string    `json:"id"`
	Kind            string    `json:"kind"`
	Reason          string    `json:"reason"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	EventID         string    `json:"eventId"`
	BatchID         string    `json:"batchId"`
	ContentType     string    `json:"contentType"`
	ReceivedAt      time.Time `json:"receivedAt"`
	Attempts        int       `json:"attempts"`
	LastAttemptAt   time.Time `json:"lastAttemptAt"`
	Payload         string    `json:"payload"`
	PayloadEncoding string    `json:"payloadEncoding"`
	Truncated       bool      `json:"truncated"`
}

// payload returns the bytes that were received.
func (l deadLetter) payload() ([]byte, error) {
	if l.PayloadEncoding != "base64" {
		return []byte(l.Payload), nil
	}
	raw, err := base64.StdEncoding.DecodeString(l.Payload)
	if err != nil {
		return nil, fmt.Errorf("the payload in the server's answer is not base64: %w", err)
	}
	return raw, nil
}

// letterFilter are the flags that select dead letters.
type letterFilter struct {
	kind, typ string
	from, to  time.Time
	all       bool
}

func addLetterFilter(cmd *cobra.Command, allUsage string) *letterFilter {
	f := &letterFilter{}
	cmd.Flags().StringVar(&f.kind, "kind", "", "only this `KIND`: event, body, webhook, order, delivery or message")
	cmd.Flags().StringVar(&f.typ, "type", "", "only events of this `TYPE`")
	cmd.Flags().Var(moment{&f.from, time.Now}, "from", "only those received at this time or later: RFC 3339, a day, or how long ago (2h, 7d)")
	cmd.Flags().Var(moment{&f.to, time.Now}, "to", "only those received before this time")
	cmd.Flags().BoolVar(&f.all, "all", false, allUsage)
	return f
}

func (f *letterFilter) isEmpty() bool {
	return f.kind == "" && f.typ == "" && f.from.IsZero() && f.to.IsZero()
}

func (f *letterFilter) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("kind", f.kind)
	set("type", f.typ)
	if !f.from.IsZero() {
		set("from", f.from.Format(time.RFC3339Nano))
	}
	if !f.to.IsZero() {
		set("to", f.to.Format(time.RFC3339Nano))
	}
	return q
}

// describe says in words which letters of a tenant are meant.
func (f *letterFilter) describe(tenant string) string {
	s := fmt.Sprintf("every dead letter of tenant %s", tenant)
	if f.kind != "" {
		s += " of kind " + f.kind
	}
	if f.typ != "" {
		s += " of type " + f.typ
	}
	if !f.from.IsZero() {
		s += " received since " + shortTime(f.from)
	}
	if !f.to.IsZero() {
		s += " received before " + shortTime(f.to)
	}
	return s
}

func (r *runner) deadLettersCommand() *cobra.Command {
	cmd := group("dead-letters", "See, redrive and delete what could not be processed",
		r.deadLettersListCommand(), r.deadLettersShowCommand(), r.deadLettersRedriveCommand(), r.deadLettersDeleteCommand())
	cmd.Aliases = []string{"dead-letter"}
	return cmd
}

func (r *runner) deadLettersListCommand() *cobra.Command {
	var limit int
	var cursor string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list --tenant T",
		Short: "List dead letters, newest first",
		Args:  noArgs,
	}
	flags := addControlFlags(cmd)
	filter := addLetterFilter(cmd, "list all pages, not only the first")
	cmd.Flags().IntVar(&limit, "limit", 50, "`NUMBER` of letters of a page, 1 to 1000")
	cmd.Flags().StringVar(&cursor, "cursor", "", "go on after this `CURSOR`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, payloads included")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > 1000 {
			return usagef("--limit %d: write a number from 1 to 1000", limit)
		}
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			return r.listDeadLetters(ctx, c, filter, limit, cursor, asJSON)
		})
	}
	return cmd
}

func (r *runner) listDeadLetters(ctx context.Context, c *control, filter *letterFilter, limit int, cursor string, asJSON bool) error {
	query := filter.query()
	query.Set("limit", strconv.Itoa(limit))
	table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
	for printed := 0; ; {
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var page struct {
			DeadLetters []json.RawMessage `json:"deadLetters"`
			NextCursor  string            `json:"nextCursor"`
		}
		if err := c.call(ctx, "GET", "/dead-letters", query, nil, &page); err != nil {
			return err
		}
		if err := r.printLetters(table, page.DeadLetters, printed == 0, asJSON); err != nil {
			return err
		}
		printed += len(page.DeadLetters)
		switch {
		case page.NextCursor == "" && printed == 0:
			fmt.Fprintf(r.stdio.Err, "There is none: %s was asked for.\n", filter.describe(c.tenant))
			return nil
		case page.NextCursor == "":
			return nil
		case page.NextCursor == cursor:
			return errors.New("the server gave the same page twice; report this, and list with --from and --to until it is mended")
		case !filter.all:
			fmt.Fprintf(r.stdio.Err, "There are more: add --cursor %s for the next, or --all.\n", page.NextCursor)
			return nil
		}
		cursor = page.NextCursor
	}
}

func (r *runner) printLetters(table *tabwriter.Writer, letters []json.RawMessage, first, asJSON bool) error {
	if asJSON {
		for _, l := range letters {
			if _, err := fmt.Fprintf(r.stdio.Out, "%s\n", l); err != nil {
				return err
			}
		}
		return nil
	}
	if first && len(letters) > 0 {
		fmt.Fprintln(table, "ID\tKIND\tTYPE\tRECEIVED\tATTEMPTS\tREASON")
	}
	for _, raw := range letters {
		var l deadLetter
		if err := json.Unmarshal(raw, &l); err != nil {
			return fmt.Errorf("the server's answer cannot be read: %w; is it the same version as this command?", err)
		}
		typ := l.Type
		if typ == "" {
			typ = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n",
			l.ID, l.Kind, printable(typ), shortTime(l.ReceivedAt), l.Attempts, printable(l.Reason))
	}
	return table.Flush()
}

func (r *runner) deadLettersShowCommand() *cobra.Command {
	var asJSON, payloadOnly bool
	cmd := &cobra.Command{
		Use:   "show ID --tenant T",
		Short: "Show one dead letter with its payload",
		Args:  oneArg("the letter's id"),
	}
	flags := addControlFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the answer as JSON")
	cmd.Flags().BoolVar(&payloadOnly, "payload", false, "print the payload alone, byte for byte as received")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if asJSON && payloadOnly {
			return usagef("--json and --payload ask for two forms at once; write one of them")
		}
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			var raw json.RawMessage
			if err := c.call(ctx, "GET", "/dead-letters/"+url.PathEscape(args[0]), nil, nil, &raw); err != nil {
				return err
			}
			if asJSON {
				_, err := fmt.Fprintf(r.stdio.Out, "%s\n", raw)
				return err
			}
			var l deadLetter
			if err := json.Unmarshal(raw, &l); err != nil {
				return fmt.Errorf("the server's answer cannot be read: %w; is it the same version as this command?", err)
			}
			return r.printLetter(l, payloadOnly)
		})
	}
	return cmd
}

func (r *runner) printLetter(l deadLetter, payloadOnly bool) error {
	payload, err := l.payload()
	if err != nil {
		return err
	}
	if payloadOnly {
		_, err := r.stdio.Out.Write(payload)
		return err
	}
	table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" && value != "-" {
			fmt.Fprintf(table, "%s\t%s\n", name, printable(value))
		}
	}
	row("id", l.ID)
	row("kind", l.Kind)
	row("reason", l.Reason)
	row("type", l.Type)
	row("source", l.Source)
	row("event id", l.EventID)
	row("batch id", l.BatchID)
	row("content type", l.ContentType)
	row("received", shortTime(l.ReceivedAt))
	row("attempts", strconv.Itoa(l.Attempts))
	row("last attempt", shortTime(l.LastAttemptAt))
	if l.Truncated {
		row("payload", "only its beginning was kept")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.stdio.Out, "\n%s\n", printableLines(string(payload)))
	return err
}

func (r *runner) deadLettersRedriveCommand() *cobra.Command {
	var replacement string
	var yes bool
	cmd := &cobra.Command{
		Use:   "redrive [ID] --tenant T",
		Short: "Put dead letters back on their road",
		Long: `Put one dead letter back on its road, or all that a filter selects. What is
refused again stays a dead letter, with the new reason. One letter can be mended
on the way: --replacement has the event to take instead.`,
		Example: `  millrace dead-letters redrive 0198c1de-… --tenant demo
  millrace dead-letters redrive 0198c1de-… --tenant demo --replacement mended.json
  millrace dead-letters redrive --tenant demo --type order.placed --from 2h`,
		Args: atMostOneArg,
	}
	flags := addControlFlags(cmd)
	filter := addLetterFilter(cmd, "redrive all of the tenant's letters")
	cmd.Flags().StringVar(&replacement, "replacement", "", "`FILE` with the event to take instead, - for standard input")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOrFilter(cmd, args, filter); err != nil {
			return err
		}
		if len(args) == 1 {
			body, err := r.readReplacement(replacement)
			if err != nil {
				return err
			}
			return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
				return r.redriveOne(ctx, c, args[0], body)
			})
		}
		if replacement != "" {
			return usagef("--replacement mends one letter; name its id")
		}
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			if err := r.confirm("Redrive "+filter.describe(c.tenant), yes); err != nil {
				return err
			}
			return r.redriveAll(ctx, c, filter)
		})
	}
	return cmd
}

// oneOrFilter makes sure that a command is told either one letter or a filter,
// and that nobody selects everything by leaving something out.
func oneOrFilter(cmd *cobra.Command, args []string, filter *letterFilter) error {
	switch {
	case len(args) == 1 && (filter.all || !filter.isEmpty()):
		return usagef("%q names one letter, the other flags select many; write one or the other", args[0])
	case len(args) == 1:
		return nil
	case filter.isEmpty() && !filter.all:
		return usagef("which ones? Name an id, select with --kind, --type, --from, --to, or write --all; see `%s --help`", cmd.CommandPath())
	default:
		return nil
	}
}

// maxReplacement bounds what is read as a replacement; the server has its own,
// smaller bound on an event.
const maxReplacement = 8 << 20

func (r *runner) readReplacement(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	in := r.stdio.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("the replacement cannot be read: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, maxReplacement+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the replacement cannot be read: %w", err)
	case len(body) == 0:
		return nil, errors.New("the replacement is empty; it must be the event as JSON")
	case len(body) > maxReplacement:
		return nil, fmt.Errorf("the replacement is longer than %d bytes; no event may be that long", maxReplacement)
	}
	return body, nil
}

func (r *runner) redriveOne(ctx context.Context, c *control, id string, body []byte) error {
	var payload any
	if body != nil {
		payload = body
	}
	if err := c.call(ctx, "POST", "/dead-letters/"+url.PathEscape(id)+"/redrive", nil, payload, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintf(r.stdio.Out, "Dead letter %s is an event now.\n", id)
	return err
}

// redriveAll redrives page by page. It stops at the first page that has failures:
// those letters stay, so it would meet them again and never end.
func (r *runner) redriveAll(ctx context.Context, c *control, filter *letterFilter) error {
	total := 0
	for {
		var page struct {
			Redriven int  `json:"redriven"`
			Failed   int  `json:"failed"`
			More     bool `json:"more"`
		}
		if err := c.call(ctx, "POST", "/dead-letters/redrive", filter.query(), nil, &page); err != nil {
			return fmt.Errorf("%w (%s redriven before that)", err, plural(total, "dead letter"))
		}
		total += page.Redriven
		if page.Failed > 0 {
			fmt.Fprintf(r.stdio.Out, "%s redriven.\n", plural(total, "dead letter"))
			more := ""
			if page.More {
				more = ", and more match that were not tried"
			}
			return fmt.Errorf("%s refused again, kept with the new reason%s; mend what is wrong (see `millrace dead-letters list`), then redrive again",
				plural(page.Failed, "dead letter"), more)
		}
		if !page.More || page.Redriven == 0 {
			_, err := fmt.Fprintf(r.stdio.Out, "%s redriven.\n", plural(total, "dead letter"))
			return err
		}
	}
}

func (r *runner) deadLettersDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete [ID] --tenant T",
		Short: "Delete dead letters for good",
		Args:  atMostOneArg,
	}
	flags := addControlFlags(cmd)
	filter := addLetterFilter(cmd, "delete all of the tenant's letters")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOrFilter(cmd, args, filter); err != nil {
			return err
		}
		return r.withControl(cmd, flags, func(ctx context.Context, c *control) error {
			if len(args) == 1 {
				return r.deleteOne(ctx, c, args[0])
			}
			if err := r.confirm("Delete "+filter.describe(c.tenant)+" for good", yes); err != nil {
				return err
			}
			return r.deleteAll(ctx, c, filter)
		})
	}
	return cmd
}

func (r *runner) deleteOne(ctx context.Context, c *control, id string) error {
	if err := c.call(ctx, "DELETE", "/dead-letters/"+url.PathEscape(id), nil, nil, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintf(r.stdio.Out, "Dead letter %s is deleted.\n", id)
	return err
}

func (r *runner) deleteAll(ctx context.Context, c *control, filter *letterFilter) error {
	if filter.isEmpty() {
		// The API deletes by filter only. A day ahead is beyond every letter there
		// is, whatever the server's clock.
		filter.to = time.Now().Add(24 * time.Hour).UTC()
	}
	total := 0
	for {
		var page struct {
			Deleted int  `json:"deleted"`
			More    bool `json:"more"`
		}
		if err := c.call(ctx, "DELETE", "/dead-letters", filter.query(), nil, &page); err != nil {
			return fmt.Errorf("%w (%s deleted before that)", err, plural(total, "dead letter"))
		}
		total += page.Deleted
		if !page.More || page.Deleted == 0 {
			_, err := fmt.Fprintf(r.stdio.Out, "%s deleted.\n", plural(total, "dead letter"))
			return err
		}
	}
}
