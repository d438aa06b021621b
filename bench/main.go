// Command bench measures the real server and its baselines on this machine and
// records the results.
//
//	go run ./bench                          all scenarios, about 65 minutes
//	go run ./bench -quick                   the same, a few seconds each
//	go run ./bench -only ingest50k,max      some of them
//	go run ./bench -list                    what there is
//
// It builds the binary, starts it for each scenario on free loopback ports with a
// fresh data directory on the disk of this source (-data says otherwise), offers
// load with `millrace load` as a user would, and reads the server's
// metrics and /proc. The generator shares the machine with the server; the CPU
// time of both is in the results.
//
// The scenarios whose names begin with pg- start PostgreSQL, Redis and NATS besides,
// on the same cores and disk; they take about 15 minutes of the whole.
//
// Those whose names begin with reads- take about 10 minutes. -places FILE gives them
// places to import, one JSON object a line; without it as many are made up.
//
// Results go to bench/results/<date>-events.md, -orders.md, -cluster.md and -reads.md,
// and .json of each: each with its command, and next to it what it must reach.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"millrace/internal/blackbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	only     string
	quick    bool
	list     bool
	data     string
	out      string
	places   string
	baseline string // runs this process as a baseline server
	listen   string
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.only, "only", "", "scenarios to run, separated by commas; default all")
	flags.BoolVar(&o.quick, "quick", false, "run each for a few seconds: a smoke test, not a measurement")
	flags.BoolVar(&o.list, "list", false, "list the scenarios")
	flags.StringVar(&o.data, "data", "", "folder for data directories; default bench/ in the source")
	flags.StringVar(&o.out, "out", "", "folder for the results; default bench/results in the source")
	flags.StringVar(&o.baseline, "baseline", "", "serve a baseline: insert, channel, discard, postgres or bare (used by the benchmark itself)")
	flags.StringVar(&o.places, "places", "", "file of places to import, one JSON object a line, plain or .gz; default as many made-up ones")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8088", "with -baseline: where to listen")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	switch {
	case o.baseline != "":
		return serveBaseline(ctx, o.baseline, o.listen, o.data)
	case o.list:
		for _, s := range scenarios() {
			fmt.Printf("%-20s %s\n", s.name, s.what)
		}
		return nil
	}
	return measureAll(ctx, o)
}

// chosen returns the scenarios that -only names.
func chosen(only string) ([]scenario, error) {
	all := scenarios()
	if only == "" {
		return all, nil
	}
	var out []scenario
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there is no such scenario; see -list", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func measureAll(ctx context.Context, o options) error {
	todo, err := chosen(o.only)
	if err != nil {
		return err
	}
	root, err := blackbox.Root(ctx)
	if err != nil {
		return err
	}
	if o.data == "" {
		o.data = filepath.Join(root, "bench")
	}
	if o.out == "" {
		o.out = filepath.Join(root, "bench", "results")
	}
	dir, err := os.MkdirTemp(o.data, "data-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{root: root, dir: dir, quick: o.quick, log: os.Stdout}
	if o.places != "" {
		if b.places, err = filepath.Abs(o.places); err != nil {
			return err
		}
	}
	if b.binary, err = blackbox.Build(ctx, dir); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	machine := describeMachine(dir)
	records := map[string]*record{}
	for _, s := range todo {
		fmt.Fprintf(b.log, "\n=== %s: %s\n", s.name, s.what)
		result := b.measure(ctx, s)
		if records[s.record] == nil {
			records[s.record] = &record{Of: s.record, Date: time.Now().UTC().Format(time.DateOnly), Quick: o.quick, Machine: machine}
		}
		records[s.record].Results = append(records[s.record].Results, result)
		result.write(b.log)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	var errs []error
	for _, r := range records {
		errs = append(errs, r.save(o.out))
	}
	return errors.Join(errs...)
}
