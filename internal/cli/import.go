package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// Bounds of one request of an import. A request is one transaction of the server,
// during which it writes nothing else.
const (
	importBatchLines = 250
	importBatchBytes = 256 << 10
)

// maxShownRejects bounds the bad lines that go to standard error.
const maxShownRejects = 100

// importKind is what can be imported.
type importKind struct {
	name string // as it stands in addresses
	key  string // the column that every CSV file must have
	// row turns a record of a CSV file, by column, into the members of a line.
	row func(record map[string]string) (map[string]any, error)
	// column says whether a CSV file may have a column of that name, and columns lists
	// them for people.
	column  func(name string) bool
	columns string
	// once says that a line is applied once for the import's id.
	once bool
}

// importFlags are the flags of an import.
type importFlags struct {
	*controlFlags
	format, id, rejects string
}

func (r *runner) importCommand() *cobra.Command {
	return group("import", "Import products, stock or places from a file", r.importProductsCommand(), r.importStockCommand(), r.importPlacesCommand())
}

func (r *runner) importProductsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "products FILE",
		Short: "Create and replace products from a CSV or NDJSON file",
		Long: `Create and replace products from a file; - stands for standard input. It works
with a running server and without one, and may be run again: what is the same
changes nothing. Lines that are wrong are told with number and reason, the others
are imported; the exit code is 1 then.

CSV has a header with these columns, in any order: sku; name, or name.en, name.de
and so on; description, or description.en and so on; amount (minor units) or price
(such as 19.99); currency; category; position (orders its category, a whole number);
slug (names it in addresses for people); active (true or false); attributes (a JSON
object). An empty cell is left out.

NDJSON has on each line the body of PUT /products/{sku} with a member "sku":
  {"sku":"tee","names":{"en":"Tee"},"price":{"amount":1999,"currency":"EUR"}}

Files may be compressed with gzip.`,
		Example: `  millrace import products products.csv
  millrace import products products.ndjson.gz --tenant acme --rejects bad.txt
  cat products.csv | millrace import products - --format csv`,
		Args: oneArg("the file"),
	}
	flags := r.addImportFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return r.runImport(cmd, flags, productImport(), args[0])
	}
	return cmd
}

func (r *runner) importStockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stock FILE",
		Short: "Set or change stock from a CSV or NDJSON file, each line once",
		Long: `Set or change what is on hand from a file; - stands for standard input. It works
with a running server and without one. Each line is applied once for the import's
id, so running it again after an interruption goes on where it stopped. The id is
the SHA-256 of the file's content unless you name one: to apply the same file once
more, such as the same delivery a week later, name the import with --import-id.
Lines that are wrong are told with number and reason, the others are applied; the
exit code is 1 then.

To mend lines that were refused, change them in their places and run the file again
with --import-id and the id of the first run: another content has another id, and
would be applied as a whole. A line that was applied must stay as it was.

CSV has a header with sku and onHand (sets what is counted) or delta (changes it).
NDJSON has on each line {"sku":"tee","onHand":100} or {"sku":"tee","delta":-2}.

Files may be compressed with gzip.`,
		Example: `  millrace import stock stock.csv
  millrace import stock delivery.ndjson.gz --import-id delivery-2026-11-22`,
		Args: oneArg("the file"),
	}
	flags := r.addImportFlags(cmd)
	cmd.Flags().StringVar(&flags.id, "import-id", "", "`NAME` of the import, 1 to 100 characters (default the SHA-256 of the file's content)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return r.runImport(cmd, flags, stockImport(), args[0])
	}
	return cmd
}

func (r *runner) importPlacesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "places FILE",
		Short: "Create, replace and delete places from a CSV or NDJSON file",
		Long: `Create, replace and delete places, which all tenants share, from a file; - stands
for standard input. It works with a running server and without one, and may be run
again: what is the same changes nothing. Places that are not in the file stay as
they are. Lines that are wrong are told with number and reason, the others are
imported; the exit code is 1 then. --tenant names the tenant whose audit log tells
of it.

NDJSON has a country or a city on each line; names are by BCP 47 language tag, and
admin, population, lat and lon may be left out:
  {"id":276,"kind":"country","code":"DE","names":{"en":"Germany","de":"Deutschland"}}
  {"id":2867714,"kind":"city","country":"DE","admin":"02","population":1260391,
   "lat":48.13743,"lon":11.57549,"names":{"en":"Munich","de":"München"}}
(on one line each). This deletes one:
  {"id":2867714,"deleted":true}

CSV has a header with these columns, in any order: id; kind (country or city);
country (two letters, for both kinds); admin; population; lat; lon; name, or name.en,
name.de and so on; deleted (true or false). An empty cell is left out.

Files may be compressed with gzip.`,
		Example: `  millrace import places places.ndjson.gz
  millrace import places cities.csv --rejects bad.txt`,
		Args: oneArg("the file"),
	}
	flags := r.addImportFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return r.runImport(cmd, flags, placeImport(), args[0])
	}
	return cmd
}

func (r *runner) addImportFlags(cmd *cobra.Command) *importFlags {
	f := &importFlags{controlFlags: addControlFlags(cmd)}
	f.tenant = "demo"
	cmd.Flags().Lookup("tenant").DefValue = f.tenant
	cmd.Flags().StringVar(&f.format, "format", "", "`csv or ndjson` (default by the file's name)")
	cmd.Flags().StringVar(&f.rejects, "rejects", "", "write the lines that are wrong to `FILE` instead of standard error")
	return f
}

// importRun is one import under way.
type importRun struct {
	kind     *importKind
	control  *control
	id       string
	source   *importSource
	rejects  *rejectList
	progress *importProgress

	batch bytes.Buffer
	lines int // in batch

	applied, repeated int64
}

// runImport imports a file.
func (r *runner) runImport(cmd *cobra.Command, flags *importFlags, kind *importKind, name string) (err error) {
	source, err := openImport(name, flags.format, r.stdio.In)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	id := flags.id
	if kind.once && id == "" {
		if id, err = source.hash(cmd.Context()); err != nil {
			return err
		}
	}
	rejects, err := newRejectList(flags.rejects, r.stdio.Err)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rejects.close()) }()
	return r.withControl(cmd, flags.controlFlags, func(ctx context.Context, c *control) error {
		run := &importRun{kind: kind, control: c, id: id, source: source, rejects: rejects, progress: newImportProgress(r.stdio.Err, source, time.Now)}
		rejects.before = run.progress.clear
		err := run.do(ctx)
		run.progress.clear()
		return r.reportImport(run, err)
	})
}

// do reads the file row by row and sends what can be read.
func (i *importRun) do(ctx context.Context) error {
	rows, err := i.source.rows(i.kind)
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, text, err := rows.next()
		var bad *badRow
		switch {
		case err == io.EOF:
			return i.send(ctx)
		case errors.As(err, &bad):
			i.rejects.add(bad.line, bad.reason)
		case err != nil:
			return err
		default:
			if err := i.add(ctx, line, text); err != nil {
				return err
			}
		}
		i.progress.show(i.applied+i.repeated, i.rejects.count)
	}
}

// add puts a line into the batch, which is sent when it is full.
func (i *importRun) add(ctx context.Context, line int64, text []byte) error {
	if len(text) > importBatchBytes {
		i.rejects.add(line, fmt.Sprintf("has %d bytes; a line may have at most %d", len(text), importBatchBytes))
		return nil
	}
	if i.lines == importBatchLines || i.batch.Len()+len(text)+1 > importBatchBytes {
		if err := i.send(ctx); err != nil {
			return err
		}
	}
	i.batch.Write(text)
	i.batch.WriteByte('\n')
	i.lines++
	return nil
}

// send sends the batch and notes what became of its lines.
func (i *importRun) send(ctx context.Context) error {
	if i.lines == 0 {
		return nil
	}
	query := url.Values{}
	if i.kind.once {
		query.Set("importId", i.id)
	}
	var answer struct {
		Results []struct {
			Line              int64
			Applied, Repeated bool
			Error             string
		} `json:"results"`
	}
	if err := i.control.call(ctx, "POST", "/control/import/"+i.kind.name, query, i.batch.Bytes(), &answer); err != nil {
		return err
	}
	if len(answer.Results) != i.lines {
		return fmt.Errorf("the server answered for %d of %d lines; is it the same version as this command?", len(answer.Results), i.lines)
	}
	for _, result := range answer.Results {
		switch {
		case !result.Applied:
			i.rejects.add(result.Line, result.Error)
		case result.Repeated:
			i.repeated++
		default:
			i.applied++
		}
	}
	i.batch.Reset()
	i.lines = 0
	return nil
}

// reportImport says what an import did, and what to do next if it was not all.
func (r *runner) reportImport(run *importRun, err error) error {
	bad := run.rejects.count
	same := "unchanged"
	if run.kind.once {
		same = "applied before"
	}
	_, printErr := fmt.Fprintf(r.stdio.Out, "%s: %d applied, %d %s, %d refused.\n", plural(int(run.applied+run.repeated+bad), "line"), run.applied, run.repeated, same, bad)
	again := "run it again, which changes nothing twice"
	if run.kind.once {
		again = "run it again with --import-id " + run.id + ", which applies nothing twice"
	}
	switch {
	case err != nil:
		var usage *usageError
		if errors.As(err, &usage) && run.applied+run.repeated+bad == 0 {
			return err
		}
		return fmt.Errorf("the import stopped: %w; %s", err, again)
	case bad > 0:
		return errors.Join(printErr, fmt.Errorf("%s could not be imported%s; mend what is wrong in its place and %s", plural(int(bad), "line"), run.rejects.where(), again))
	case run.kind.once && run.applied == 0 && run.repeated > 0:
		_, err := fmt.Fprintf(r.stdio.Err, "every line was applied before under the import id %s, so nothing has changed; to apply the file once more, name the import otherwise with --import-id\n", run.id)
		return errors.Join(printErr, err)
	}
	return printErr
}

// rejectList tells of lines that are wrong.
type rejectList struct {
	out    io.Writer
	file   *os.File // nil: out is standard error
	before func()   // makes room on the terminal
	count  int64
	err    error
}

func newRejectList(name string, stderr io.Writer) (*rejectList, error) {
	l := &rejectList{out: stderr, before: func() {}}
	if name == "" {
		return l, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, usagef("--rejects: %w", err)
	}
	l.file, l.out = file, file
	return l, nil
}

func (l *rejectList) add(line int64, reason string) {
	l.count++
	if l.file == nil && l.count > maxShownRejects {
		if l.count == maxShownRejects+1 {
			l.before()
			fmt.Fprintln(l.out, "further lines that are wrong are only counted; --rejects FILE writes them all down")
		}
		return
	}
	if l.file == nil {
		l.before()
	}
	if _, err := fmt.Fprintf(l.out, "line %d: %s\n", line, printable(reason)); err != nil && l.err == nil {
		l.err = err
	}
}

// where says where the lines are told.
func (l *rejectList) where() string {
	if l.file == nil {
		return ""
	}
	return ", " + l.file.Name() + " tells which"
}

func (l *rejectList) close() error {
	if l.file == nil {
		return nil
	}
	if err := errors.Join(l.err, l.file.Close()); err != nil {
		return fmt.Errorf("--rejects: %w", err)
	}
	return nil
}

// lineJSON writes a line as the server takes it.
func lineJSON(line int64, members map[string]any) ([]byte, error) {
	members["line"] = line
	return json.Marshal(members)
}
