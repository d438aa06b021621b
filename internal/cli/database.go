package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Migration is a step of the database's schema.
type Migration struct {
	Version int64
	Name    string
	// AppliedAt is zero for one that the database does not have.
	AppliedAt time.Time
}

func (r *runner) migrateCommand() *cobra.Command {
	return group("migrate", "Bring the database's schema up to date, or show where it stands", r.migrateUpCommand(), r.migrateStatusCommand())
}

func (r *runner) migrateUpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the schema up to date",
		Long: `Apply the migrations that the database does not have, each in a transaction.
Several at once wait for each other. Instances of the version before go on working
beside a newer schema. A server does this by itself when it starts, unless
store.postgres.migrate is false.`,
		Example: `  millrace migrate up --config millrace.yaml`,
		Args:    noArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		applied, err := r.deps.MigrateUp(cmd.Context(), cfg)
		for _, m := range applied {
			fmt.Fprintf(r.stdio.Out, "applied %d %s\n", m.Version, m.Name)
		}
		if err == nil && len(applied) == 0 {
			fmt.Fprintln(r.stdio.Out, "The schema is up to date.")
		}
		return err
	}
	return cmd
}

func (r *runner) migrateStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which migrations the database has",
		Args:  noArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		all, err := r.deps.MigrateStatus(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "VERSION\tNAME\tAPPLIED")
		for _, m := range all {
			applied := "pending"
			if !m.AppliedAt.IsZero() {
				applied = shortTime(m.AppliedAt)
			}
			fmt.Fprintf(table, "%d\t%s\t%s\n", m.Version, m.Name, applied)
		}
		return table.Flush()
	}
	return cmd
}

// Grades of a Finding.
const (
	GradeOK      = "ok"
	GradeWarning = "warning"
	GradeFailure = "FAILURE"
	// GradeUnknown is for what could not be looked at.
	GradeUnknown = "unknown"
)

// Finding is one thing that doctor looked at.
type Finding struct {
	// Service is what it is about, such as "postgres"; Check what was looked at.
	Service, Check string
	// Grade is one of the Grade constants.
	Grade string
	// Found is how it is, Advice what to do about it; empty if nothing is.
	Found, Advice string
}

func (r *runner) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at every service this instance uses and say what is wrong with it",
		Long: `Look at the database, its replica, Redis, the broker and this machine as the
configuration names them: whether they can be reached and used, their versions and
settings, clocks, partitions, replicas and disks. It changes nothing, works beside
running servers, and fails when something is wrong; a warning is no failure.`,
		Example: `  millrace doctor --config millrace.yaml`,
		Args:    noArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := flags.load(r.stdio.Env)
		if err != nil {
			return err
		}
		return r.printFindings(r.deps.Doctor(cmd.Context(), cfg))
	}
	return cmd
}

func (r *runner) printFindings(findings []Finding) error {
	failures, warnings := 0, 0
	table := tabwriter.NewWriter(r.stdio.Out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		switch f.Grade {
		case GradeFailure:
			failures++
		case GradeWarning:
			warnings++
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.Service, f.Check, f.Grade, printable(f.Found))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Advice != "" && (f.Grade == GradeFailure || f.Grade == GradeWarning) {
			fmt.Fprintf(r.stdio.Out, "\n%s, %s: %s\n", f.Service, f.Check, strings.TrimSpace(f.Advice))
		}
	}
	fmt.Fprintf(r.stdio.Out, "\n%s, %s.\n", plural(failures, "failure"), plural(warnings, "warning"))
	if failures > 0 {
		return fmt.Errorf("doctor found %s; see above what to do", plural(failures, "failure"))
	}
	return nil
}
