// Command millrace is the server and its tools. This file is wiring and exit
// codes; what there is to do is in internal/cli and internal/app.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"

	"millrace/internal/app"
	"millrace/internal/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end; a second one ends the process.
	context.AfterFunc(ctx, stop)

	return cli.Run(ctx, os.Args[1:], cli.Stdio{
		In:          os.Stdin,
		Out:         os.Stdout,
		Err:         os.Stderr,
		Env:         os.Environ(),
		Interactive: isatty.IsTerminal(os.Stdin.Fd()),
	}, cli.Deps{
		Version:       app.Version(),
		Serve:         app.Run,
		Control:       app.Control,
		Token:         app.Token,
		LockData:      app.LockData,
		StorePosition: app.StorePosition,
		DrainLog:      app.DrainLog,
		MigrateUp:     app.MigrateUp,
		MigrateStatus: app.MigrateStatus,
		Doctor:        app.Doctor,
	})
}
