// Package cli is the command line: it reads flags, calls what does the work, and
// prints the answer.
//
// Pattern: Run builds the tree of commands for one invocation; there is no state
// between two. What a command needs of the program beneath it comes in Deps, so
// the tests hand over fakes and main hands over the real thing.
//
// Commands that touch a server's data (keys, dead-letters) speak HTTP to a
// control API and do not know whether a running server answers over its socket
// or the same handler in this process: there is one code path.
//
// Errors are one line on standard error: what, why, what next. Exit codes are 0
// for success, 1 for a failure, and 2 when what was written (arguments, flags,
// configuration) is wrong, so that trying again unchanged cannot help.
//
// Concurrency and lifecycle: one goroutine, which ends with Run. Cancelling the
// context ends every command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/internal/config"
)

// Exit codes of Run.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// TokenRequest asks for a token of the local issuer.
type TokenRequest struct {
	Tenant, Subject string
	// Scopes are scope names, at least one.
	Scopes []string
	// TTL is how long the token lives, more than zero.
	TTL time.Duration
}

// Deps is what the commands call. All of it is required but where it says so.
type Deps struct {
	// Version is the version of the program.
	Version string
	// Serve runs a server until ctx ends and prints its start-up message to out.
	Serve func(ctx context.Context, cfg *config.Config, out io.Writer) error
	// Control returns a client of the control API for the data directory of cfg,
	// over the running server's socket or in process, and what releases it.
	Control func(ctx context.Context, cfg *config.Config) (client *http.Client, baseURL string, release func() error, err error)
	// Token mints a token with the issuer's key of cfg's data directory.
	Token func(cfg *config.Config, r TokenRequest) (string, error)
	// LockData takes the lock on a data directory, and fails clearly when a server
	// holds it.
	LockData func(dir string) (release func() error, err error)
	// StorePosition returns the first sequence of a log (its id in hexadecimal)
	// that the database does not have, the one in a data directory or the one that
	// cfg names; 0 if it has never seen that log. The caller holds the directory's
	// lock. Nil means that nobody can tell; a repair of the log is then less exact.
	StorePosition func(ctx context.Context, cfg *config.Config, dataDir, logID string) (next uint64, err error)
	// DrainLog brings what a log holds into the database of cfg. log is its folder,
	// dataDir the data directory that it belongs to, empty if it stands alone.
	DrainLog func(ctx context.Context, cfg *config.Config, log, dataDir string, told func(DrainProgress)) (DrainProgress, error)
	// MigrateUp brings the database of cfg to the newest schema and returns what it
	// applied. MigrateStatus returns every migration that this program knows.
	MigrateUp, MigrateStatus func(ctx context.Context, cfg *config.Config) ([]Migration, error)
	// Doctor looks at every service that cfg names.
	Doctor func(ctx context.Context, cfg *config.Config) []Finding
}

// Stdio is what a command reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	// Env is the environment in the form of os.Environ.
	Env []string
	// Interactive says that a person is at In and can be asked.
	Interactive bool
}

// Run runs the command that args name (without the program's name) and returns
// the exit code.
func Run(ctx context.Context, args []string, stdio Stdio, deps Deps) int {
	root := newRoot(&runner{stdio: stdio, deps: deps})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted; what was done so far stays done")
	}
	fmt.Fprintf(stdio.Err, "millrace: %s\n", strings.TrimSpace(err.Error()))
	var usage *usageError
	var invalid *config.Error
	if errors.As(err, &usage) || errors.As(err, &invalid) {
		return ExitUsage
	}
	return ExitFailure
}

// runner is one invocation.
type runner struct {
	stdio Stdio
	deps  Deps
}

// usageError says that the command line is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func newRoot(r *runner) *cobra.Command {
	root := group("millrace", "Take events in, keep them, answer questions about them")
	root.Long = `Millrace takes events in over HTTP, answers once they survive a crash, and has
them queryable within a second.

Begin with:  millrace serve
It prints where it listens, a token to try it with, and a request to paste.`
	root.SetIn(r.stdio.In)
	root.SetOut(r.stdio.Out)
	root.SetErr(r.stdio.Err)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(
		r.serveCommand(), r.tokenCommand(), r.keysCommand(), r.deadLettersCommand(),
		r.importCommand(), r.configCommand(), r.doctorCommand(), r.migrateCommand(), r.walCommand(), r.loadCommand(), r.verifyCommand(), r.versionCommand(),
	)
	return root
}

// group is a command that only holds others. Alone it prints its help, which is
// what one who types it wants; with a word it does not know it is an error.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := fmt.Sprintf("see `%s --help`", cmd.CommandPath())
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])
			}
			return usagef("there is no command `%s %s`; %s", cmd.CommandPath(), args[0], hint)
		},
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(children...)
	return cmd
}

// noArgs refuses arguments that no flag belongs to: they are typing errors.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not expected here; see `%s --help`", args[0], cmd.CommandPath())
	}
	return nil
}

// oneArg asks for exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("%s is missing; write `%s`", what, cmd.UseLine())
		case len(args) > 1:
			return usagef("%q is not expected after %q; write `%s`", args[1], args[0], cmd.UseLine())
		default:
			return nil
		}
	}
}

func atMostOneArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%q is not expected after %q; write `%s`", args[1], args[0], cmd.UseLine())
	}
	return nil
}

func (r *runner) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(r.stdio.Out, "millrace %s (%s %s/%s)\n", r.deps.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
