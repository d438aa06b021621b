package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// DrainProgress says how far a log has been brought into the database.
type DrainProgress struct {
	// Records is how many records of the log the database did not have; each is what
	// one request brought. Done is how many of them it has now.
	Records, Done uint64
	// DeadLetters is how many dead letters came of them: what the log holds as such,
	// and events that the database refuses for what is in them.
	DeadLetters uint64
	// Failing is why the last try to write to the database failed, nil if it did not.
	Failing error
}

func (r *runner) walDrainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain DIR",
		Short: "Bring the log of an instance that will not come back into the database",
		Long: `Bring what a log still holds into the database that the configuration names: DIR
is the data directory of an instance that will not come back, or a copy of it, or
the folder of the log itself. What the database has already is not stored again,
so it may be interrupted and repeated. Afterwards the directory can be removed.

No server may run on DIR. One that is only stopped needs none of this: it brings
its log in itself when it starts.`,
		Example: `  MILLRACE_STORE__POSTGRES__DSN_FILE=/etc/millrace/dsn millrace wal drain --set store.driver=postgres /mnt/old-instance`,
		Args:    oneArg("the directory"),
	}
	flags := addConfigFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		dir, err := findLog(args[0])
		if err != nil {
			return err
		}
		last, said := uint64(0), ""
		done, err := r.deps.DrainLog(cmd.Context(), cfg, dir.log, dir.data, func(p DrainProgress) {
			if p.Done-last >= 10_000 {
				last = p.Done
				fmt.Fprintf(r.stdio.Err, "%d of %d records\n", p.Done, p.Records)
			}
			if p.Failing == nil {
				said = ""
			} else if why := p.Failing.Error(); why != said {
				said = why
				fmt.Fprintf(r.stdio.Err, "%d of %d records; the database does not take the next, it is tried again: %s\n", p.Done, p.Records, why)
			}
		})
		if done.DeadLetters > 0 {
			fmt.Fprintf(r.stdio.Out, "%d dead letters came of it; see `millrace dead-letters list`.\n", done.DeadLetters)
		}
		if err != nil {
			return err
		}
		if done.Records == 0 {
			fmt.Fprintf(r.stdio.Out, "The database has all of the log in %s already; the directory can be removed.\n", dir.log)
			return nil
		}
		fmt.Fprintf(r.stdio.Out, "%d records of the log in %s are in the database now; the directory can be removed.\n", done.Done, dir.log)
		return nil
	}
	return cmd
}
