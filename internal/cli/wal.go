package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"millrace/internal/config"
	"millrace/internal/wal"
	"millrace/internal/wal/vfs"
)

func (r *runner) walCommand() *cobra.Command {
	return group("wal", "Look into the log of accepted events, repair it, bring it into the database", r.walInspectCommand(), r.walRepairCommand(), r.walDrainCommand())
}

// logDir is the folder of a log, and the data directory that it belongs to.
type logDir struct {
	log string
	// data is empty for a log that stands alone, such as a copy: nobody can hold
	// the lock of that.
	data string
}

// findLog takes the folder of a log or the data directory that has it in "wal",
// since either is what an operator has at hand.
func findLog(dir string) (logDir, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return logDir{}, err
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return logDir{}, fmt.Errorf("%s does not exist; name a data directory or the folder of a log in it", dir)
	case err != nil:
		return logDir{}, err
	case !info.IsDir():
		return logDir{}, fmt.Errorf("%s is a file; name a data directory or the folder of a log in it", dir)
	}
	if info, err := os.Stat(filepath.Join(dir, "wal")); err == nil && info.IsDir() {
		return logDir{log: filepath.Join(dir, "wal"), data: dir}, nil
	}
	parent := filepath.Dir(dir)
	if _, err := os.Stat(filepath.Join(parent, "lock")); err == nil {
		return logDir{log: dir, data: parent}, nil
	}
	return logDir{log: dir}, nil
}

func (r *runner) walInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect DIR",
		Short: "Show segments, positions and damage of a log",
		Long: `Show what is in a log: DIR is a data directory, or the folder of the log itself.
It changes nothing and works on a damaged log and beside a running server. It
fails when it finds damage, so a script can tell.`,
		Example: `  millrace wal inspect ./millrace-data`,
		Args:    oneArg("the directory"),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := findLog(args[0])
			if err != nil {
				return err
			}
			report, err := wal.Inspect(vfs.OS{}, dir.log)
			if err != nil {
				return err
			}
			if err := r.printLog(dir.log, report); err != nil {
				return err
			}
			if len(report.Damage) > 0 {
				return fmt.Errorf("the log is damaged in %s; bring the files back from a copy, or stop the server and run `millrace wal repair %s`",
					plural(len(report.Damage), "place"), args[0])
			}
			return nil
		},
	}
}

func (r *runner) printLog(dir string, report wal.Report) error {
	table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(table, name+"\t"+format+"\n", args...) }
	row("log", "%s in %s", report.ID, dir)
	if report.Next > report.First {
		row("records", "%d to %d, %s", report.First, report.Next-1, bytesText(report.Bytes))
	} else {
		row("records", "none; the next is %d", report.Next)
	}
	row("files", "%s, %s", plural(len(report.Segments), "segment"), plural(len(report.SpareFiles), "spare"))
	switch {
	case report.Closed:
		row("end", "closed cleanly")
	case report.Torn:
		row("end", "an incomplete frame, never acknowledged: being written now, or at a crash; the next start cuts it off")
	default:
		row("end", "open: a server has it, or ended without closing it, which loses nothing")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(r.stdio.Out)
	fmt.Fprintln(table, "SEGMENT\tRECORDS\tFRAMES\tUSED\tSIZE\tRECEIVED\tSTATE")
	for _, s := range report.Segments {
		records, received, state := "-", "-", "open"
		if s.Records > 0 {
			records = fmt.Sprintf("%d to %d", s.First, s.Next-1)
			received = shortTime(s.FirstReceived) + " to " + shortTime(s.LastReceived)
		}
		if s.Sealed {
			state = "sealed"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", filepath.Base(s.File), records, s.Frames,
			bytesText(s.UsedBytes), bytesText(s.SizeBytes), received, state)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	r.printLosses("Lost in earlier damage that was repaired:", report.Gaps)
	r.printDamage(report.Damage)
	return nil
}

func (r *runner) printLosses(title string, gaps []wal.Gap) {
	if len(gaps) == 0 {
		return
	}
	fmt.Fprintf(r.stdio.Out, "\n%s\n", title)
	for _, g := range gaps {
		fmt.Fprintf(r.stdio.Out, "  %s\n", g)
	}
}

func (r *runner) printDamage(damage []*wal.DamageError) {
	if len(damage) == 0 {
		return
	}
	fmt.Fprintln(r.stdio.Out, "\nDamage:")
	for _, d := range damage {
		fmt.Fprintf(r.stdio.Out, "  %s at offset %d: %s\n", d.File, d.Offset, d.Reason)
	}
}

func (r *runner) walRepairCommand() *cobra.Command {
	var yes bool
	var position uint64
	cmd := &cobra.Command{
		Use:   "repair DIR",
		Short: "Put damaged parts of a log aside and list what is lost",
		Long: `Make a damaged log usable again: DIR is a data directory, or the folder of the
log itself. It shows the plan and asks. What it takes out is kept in the folder
"quarantine" of the log, and what cannot be read any more is listed: those are
accepted events that are lost unless the database has them already. If there is
a good copy of the damaged files, bring that back instead.

No server may run on the data meanwhile.`,
		Example: `  millrace wal repair ./millrace-data`,
		Args:    oneArg("the directory"),
	}
	flags := addConfigFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().Uint64Var(&position, "store-position", 0, "`SEQUENCE` of the first record that the database does not have, when it cannot be read from it")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		dir, err := findLog(args[0])
		if err != nil {
			return err
		}
		if dir.data != "" {
			release, err := r.deps.LockData(dir.data)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, release()) }()
		}
		if position == 0 {
			cfg, err := flags.load(r.stdio.Env)
			if err != nil {
				return err
			}
			if position, err = r.storePosition(cmd.Context(), cfg, dir); err != nil {
				return err
			}
		}
		return r.repair(dir, position, yes)
	}
	return cmd
}

func (r *runner) repair(dir logDir, position uint64, yes bool) error {
	plan, err := wal.Repair(vfs.OS{}, dir.log, wal.RepairOptions{DryRun: true, StorePosition: position})
	if err != nil {
		return err
	}
	if len(plan.Steps) == 0 {
		fmt.Fprintf(r.stdio.Out, "The log in %s is sound: nothing to repair.\n", dir.log)
		return nil
	}
	r.printDamage(plan.Damage)
	fmt.Fprintln(r.stdio.Out, "\nPlan:")
	for i, step := range plan.Steps {
		fmt.Fprintf(r.stdio.Out, "  %s. %s\n", strconv.Itoa(i+1), step)
	}
	r.printLosses("Lost, unless the database has them already:", plan.Lost)
	fmt.Fprintln(r.stdio.Out)
	if err := r.confirm("Repair the log as planned", yes); err != nil {
		return err
	}
	done, err := wal.Repair(vfs.OS{}, dir.log, wal.RepairOptions{StorePosition: position})
	if err != nil {
		return fmt.Errorf("the repair broke off: %w; run it again, nothing that could be read is gone", err)
	}
	for _, q := range done.Quarantined {
		fmt.Fprintf(r.stdio.Out, "Kept in quarantine: %s\n", q)
	}
	fmt.Fprintf(r.stdio.Out, "The log is repaired and goes on with record %d.\n", done.Next)
	return nil
}

// storePosition asks the database where it stands in the log, so that the repaired
// log reaches from there on. A log that stands alone has no embedded database.
func (r *runner) storePosition(ctx context.Context, cfg *config.Config, dir logDir) (uint64, error) {
	if r.deps.StorePosition == nil || dir.data == "" && cfg.Store.Driver == "sqlite" {
		return 0, nil
	}
	report, err := wal.Inspect(vfs.OS{}, dir.log)
	if err != nil {
		return 0, err
	}
	next, err := r.deps.StorePosition(ctx, cfg, dir.data, report.ID)
	if err != nil {
		return 0, fmt.Errorf("the database does not tell where it stands in the log: %w; if it cannot be mended, give --store-position 1, which keeps all there is", err)
	}
	return next, nil
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n)/unit, 0
	for value >= unit && suffix < 3 {
		value /= unit
		suffix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[suffix])
}
