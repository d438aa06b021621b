package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/servers"
)

// upTimeout bounds a start, installation and the build of everything included.
const upTimeout = 20 * time.Minute

// up builds and starts the cluster and leaves it running.
func (c *cluster) up(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	s, err := c.readState()
	if err != nil {
		return err
	}
	if c.supervisorRuns(s.SupervisorPID) {
		return fmt.Errorf("the cluster in %s is up already (supervisor %d); `make cluster-down` stops it", c.dir, s.SupervisorPID)
	}
	if err := c.checkPort(); err != nil {
		return err
	}
	// Other users must come through it to their servers' directories, whatever the
	// umask is; all that is secret is in directories or files of one user.
	if err := errors.Join(os.MkdirAll(c.in("bin"), 0o755), os.Chmod(c.dir, 0o755)); err != nil {
		return err
	}
	fmt.Fprintln(out, "Looking for PostgreSQL, Redis and nginx (what is missing is installed with apt-get) ...")
	if err := servers.Install(ctx, "postgresql", "redis", "nginx"); err != nil {
		return err
	}
	fmt.Fprintln(out, "Building ...")
	if _, err := blackbox.Build(ctx, c.in("bin")); err != nil {
		return err
	}
	if err := c.buildSupervisor(ctx); err != nil {
		return err
	}
	if s.Data == "" {
		if s.Data, err = c.dataDir(); err != nil {
			return err
		}
		if err := c.writeState(s); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "Starting ...")
	if s, err = c.startSupervisor(ctx); err != nil {
		return err
	}
	c.print(out, s)
	return nil
}

// checkPort says early that the front door's port is taken.
func (c *cluster) checkPort() error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.port))
	if err != nil {
		return fmt.Errorf("port %d for the front door is taken (%w); choose another one: make cluster PORT=%d", c.port, err, c.port+1000)
	}
	return l.Close()
}

// buildSupervisor builds this program, since `go run` removes its own.
func (c *cluster) buildSupervisor(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", c.binary("cluster"), "./scripts/cluster")
	root, err := blackbox.Root(ctx)
	if err != nil {
		return err
	}
	cmd.Dir = root
	cmd.WaitDelay = 5 * time.Second
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./scripts/cluster: %w\n%s", err, text)
	}
	return nil
}

// dataDir is where the backing servers keep their data. As root they run as users
// of their own, who may not be able to come to this directory (below /root, say).
func (c *cluster) dataDir() (string, error) {
	if os.Geteuid() != 0 {
		return c.dir, nil
	}
	if _, ok := servers.Reachable(c.dir); ok {
		return c.dir, nil
	}
	hash := fnv.New32a()
	_, _ = io.WriteString(hash, c.dir)
	dir := filepath.Join("/var/tmp", "millrace-cluster-"+strconv.FormatUint(uint64(hash.Sum32()), 16))
	// Fails if somebody else has made it: what is in there would be theirs.
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("directory for the servers' data, whose users cannot come to %s: %w; remove it, or give another DIR", c.dir, err)
	}
	return dir, os.Chmod(dir, 0o755)
}

// startSupervisor starts the supervisor in a session of its own and waits until
// the cluster is up.
func (c *cluster) startSupervisor(ctx context.Context) (state, error) {
	log, err := os.OpenFile(c.in("supervisor.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return state{}, err
	}
	defer log.Close()
	cmd := exec.Command(c.binary("cluster"), "supervise")
	cmd.Env = append(os.Environ(), "DIR="+c.dir, "PORT="+strconv.Itoa(c.port))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return state{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		s, err := c.readState()
		if err == nil && s.Ready && s.SupervisorPID == cmd.Process.Pid {
			return s, nil
		}
		select {
		case err := <-ended:
			text, _ := os.ReadFile(c.in("supervisor.log"))
			return state{}, fmt.Errorf("the cluster did not start: %v; %s says:\n%s", err, c.in("supervisor.log"), text[max(0, len(text)-8192):])
		default:
		}
		if !sleep(ctx, 50*time.Millisecond) {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it stops what it has started
			return state{}, errors.Join(context.Cause(ctx), <-ended)
		}
	}
}

// down stops the cluster and removes it, or keeps its data for the next up.
func (c *cluster) down(ctx context.Context, keep bool, out io.Writer) error {
	s, err := c.readState()
	if err != nil {
		return err
	}
	if c.supervisorRuns(s.SupervisorPID) {
		fmt.Fprintln(out, "Stopping ...")
		if err := syscall.Kill(s.SupervisorPID, syscall.SIGTERM); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, downTimeout+30*time.Second)
		defer cancel()
		for c.supervisorRuns(s.SupervisorPID) {
			if !sleep(ctx, 50*time.Millisecond) {
				return fmt.Errorf("supervisor %d still runs: %w; see %s", s.SupervisorPID, context.Cause(ctx), c.in("supervisor.log"))
			}
		}
	}
	if keep {
		fmt.Fprintf(out, "Nothing runs any more. The data is kept in %s.\n", c.dir)
		return nil
	}
	if s.Data == "" { // there was none, and what is in the directory is not ours
		fmt.Fprintf(out, "There is no cluster in %s.\n", c.dir)
		return nil
	}
	if s.Data != c.dir {
		if err := os.RemoveAll(s.Data); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "Nothing runs any more, and the data is removed.")
	return nil
}

// status prints what runs.
func (c *cluster) status(ctx context.Context, out io.Writer) error {
	s, err := c.readState()
	if err != nil {
		return err
	}
	if !c.supervisorRuns(s.SupervisorPID) {
		fmt.Fprintf(out, "No cluster runs in %s. `make cluster` starts one.\n", c.dir)
		return nil
	}
	fmt.Fprintf(out, "%-18s %8s  %s\n", "NAME", "PID", "STATE")
	fmt.Fprintf(out, "%-18s %8d  runs, front door %s\n", "supervisor", s.SupervisorPID, s.Front)
	names := []string{"postgres", "postgres-replica", "redis", "nats-n1", "nats-n2", "nats-n3", "nginx"}
	for _, name := range names {
		fmt.Fprintf(out, "%-18s %8d  %s\n", name, c.readPID(name), c.processState(name))
	}
	for _, i := range s.Instances {
		fmt.Fprintf(out, "%-18s %8d  %s, %s %s\n", i.Name, c.readPID(i.Name), c.processState(i.Name), i.URL, readiness(ctx, i.URL))
	}
	return nil
}

func (c *cluster) processState(name string) string {
	if pid := c.readPID(name); pid == 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return "died, is started again in a moment"
	}
	return "runs"
}

func readiness(ctx context.Context, url string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "does not answer"
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "is not ready (" + response.Status + ")"
	}
	return "is ready"
}
