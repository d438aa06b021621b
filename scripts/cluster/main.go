// Command cluster runs Millrace as it runs at scale, on one machine: PostgreSQL with
// a streaming replica, Redis, three NATS servers, three instances of Millrace and
// nginx in front of them. `make cluster` and `make cluster-down` call it:
//
//	go run ./scripts/cluster up      build, start, print where things are
//	go run ./scripts/cluster status  what runs
//	go run ./scripts/cluster down    stop everything and remove the data
//
// up starts this program once more, as a supervisor in the background that owns all
// servers: what dies is started again after a few seconds, and when the supervisor
// ends, however it ends, so do they. Everything is below one directory.
//
// Variables: PORT is the front door's port (8080), DIR the directory
// (./millrace-cluster), KEEP=1 lets down keep the data for the next up.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		stop()
		os.Exit(1)
	}
}

const usage = "usage: go run ./scripts/cluster up|down|status"

// defaultPort is the front door's.
const defaultPort = 8080

func run(ctx context.Context, args []string, env func(string) string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New(usage)
	}
	c, err := open(env)
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return c.up(ctx, out)
	case "down":
		return c.down(ctx, env("KEEP") == "1", out)
	case "status":
		return c.status(ctx, out)
	case "supervise": // for up alone
		return c.supervise(ctx)
	default:
		return errors.New(usage)
	}
}

// cluster is a directory with all that belongs to one cluster.
type cluster struct {
	dir  string // absolute
	port int    // of the front door
}

func open(env func(string) string) (*cluster, error) {
	dir := env("DIR")
	if dir == "" {
		dir = "millrace-cluster"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, port: defaultPort}
	if text := env("PORT"); text != "" {
		if c.port, err = strconv.Atoi(text); err != nil || c.port < 1 || c.port > 65535 {
			return nil, fmt.Errorf("PORT=%s is no port: give a number from 1 to 65535", text)
		}
	}
	return c, nil
}

// in is a path below the cluster's directory.
func (c *cluster) in(name ...string) string {
	return filepath.Join(append([]string{c.dir}, name...)...)
}
