package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/load"
)

// scenario is one thing to measure.
type scenario struct {
	record string // the record its results stand in: events, orders, cluster or reads
	name   string
	what   string // a sentence without its full stop
	run    func(ctx context.Context, b *bench, r *result) error
}

// bench is one run of the program.
type bench struct {
	root, dir    string // of the source; for data
	binary, self string
	quick        bool
	places       string // file of places to import; empty: they are made up
	log          io.Writer
	started      int          // servers so far
	reports      atomic.Int64 // files of reports so far
}

// measure runs one scenario, whatever becomes of it.
func (b *bench) measure(parent context.Context, s scenario) result {
	ctx, cancel := context.WithTimeout(parent, 15*time.Minute)
	defer cancel()
	r := result{Name: s.name, What: s.what, Version: sourceVersion(ctx)}
	if busy := othersBusy(); busy > 0.1 {
		r.note("**Other work kept %s of %d cores busy just before this began, so do not trust the numbers.**", number(busy), runtime.NumCPU())
	}
	if err := s.run(ctx, b, &r); err != nil {
		r.Error = err.Error()
	}
	return r
}

// seconds shortens a duration for a quick run.
func (b *bench) seconds(n int) time.Duration {
	if b.quick {
		n = min(n, 3)
	}
	return time.Duration(n) * time.Second
}

// repeats is how often a short measurement is repeated; the median counts.
func (b *bench) repeats() int {
	if b.quick {
		return 1
	}
	return 3
}

// target is what load is offered to: the server, or a baseline.
type target struct {
	url, token string
	server     *blackbox.Server // nil for a baseline
	dir        string           // its data
	pid        int
	readyIn    time.Duration // from the start of the process to ready
	stop       func(context.Context) error
}

// serve starts the real server on a fresh data directory.
func (b *bench) serve(ctx context.Context, r *result, args ...string) (*target, error) {
	return b.serveOn(ctx, r, b.freshDir(), args...)
}

func (b *bench) freshDir() string {
	b.started++
	return filepath.Join(b.dir, strconv.Itoa(b.started))
}

func (b *bench) serveOn(ctx context.Context, r *result, dir string, args ...string) (*target, error) {
	return b.launch(ctx, r, dir, (*blackbox.Server).Ready, nil, args...)
}

// launch starts the real server with further variables and waits until ready says
// so.
func (b *bench) launch(ctx context.Context, r *result, dir string, isReady func(*blackbox.Server, context.Context) error, env []string, args ...string) (*target, error) {
	token, err := blackbox.TokenFor(ctx, b.binary, dir, "bench", "admin")
	if err != nil {
		return nil, err
	}
	return b.launchWith(ctx, r, launch{dir: dir, token: token, isReady: isReady, env: env, args: args})
}

// launch says how the real server is started.
type launch struct {
	dir, token string
	isReady    func(*blackbox.Server, context.Context) error
	args       []string
	// env are variables that the record shows; hidden are others, which may be
	// secrets.
	env, hidden []string
}

func (b *bench) launchWith(ctx context.Context, r *result, l launch) (*target, error) {
	dir := l.dir
	o := blackbox.Options{
		Binary: b.binary, Data: dir, Output: dir + ".output", Args: append([]string{"--log-level", "warn"}, l.args...),
		Env: slices.Concat(l.hidden, l.env),
	}
	var err error
	for _, address := range []*string{&o.Listen, &o.Admin} {
		if *address, err = blackbox.FreeAddress(); err != nil {
			return nil, err
		}
	}
	t := &target{url: "http://" + o.Listen, token: l.token, dir: dir}
	began := time.Now()
	if t.server, err = blackbox.Start(o); err != nil {
		return nil, err
	}
	t.pid = t.server.PID()
	shown := o
	shown.Data, shown.Listen, shown.Admin = "DIR", "127.0.0.1:8080", "127.0.0.1:9090"
	r.command(strings.Join(append(slices.Clone(l.env), "bin/millrace"), " "), shown.Command())
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.isReady(t.server, ready); err != nil {
		t.server.Kill()
		return nil, err
	}
	t.readyIn = time.Since(began)
	t.stop = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(t.server.Stop(ctx), os.RemoveAll(dir))
	}
	return t, nil
}

// offer runs `millrace load events` against a target and returns its report.
func (b *bench) offer(ctx context.Context, r *result, t *target, args ...string) (load.Report, error) {
	var report load.Report
	return report, b.load(ctx, r, t, "events", &report, args)
}

// load runs `millrace load` and reads its report.
func (b *bench) load(ctx context.Context, r *result, t *target, what string, report any, args []string) error {
	r.loadCommand(what, args)
	return b.runLoad(ctx, t, what, report, args)
}

// loadCommand records a call of `millrace load`.
func (r *result) loadCommand(what string, args []string) {
	shown := append([]string{"load", what}, args...)
	for _, flag := range []string{"--acked", "--keys-file"} {
		if i := slices.Index(shown, flag); i >= 0 && i+1 < len(shown) {
			shown[i+1] = "FILE" // its place says nothing to who repeats it
		}
	}
	r.command("bin/millrace", shown)
}

// runLoad does as load and records nothing, so that several may run at once.
func (b *bench) runLoad(ctx context.Context, t *target, what string, report any, args []string) error {
	file := filepath.Join(b.dir, fmt.Sprintf("%s-%d.json", what, b.reports.Add(1)))
	defer os.Remove(file)
	args = append([]string{"load", what}, args...)
	if err := b.command(ctx, t, append(args, "--url", t.url, "--json", file)...); err != nil {
		return err
	}
	return readJSON(file, report)
}

// command runs a command of the binary with the target's token.
func (b *bench) command(ctx context.Context, t *target, args ...string) error {
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Env = append(os.Environ(), "MILLRACE_TOKEN="+t.token)
	cmd.Dir = b.root
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("millrace %s: %w\n%s", strings.Join(args[:2], " "), err, out.String())
	}
	return nil
}

// watched is what was seen of the server while something ran.
type watched struct {
	seconds       float64
	before, after blackbox.Metrics
	cpu           time.Duration
	maxRSS        int64
	// backlog is the log's backlog in bytes and rows the stored rows, once a
	// second, with the second they were read at.
	at, backlog, rows []float64
	// paid is how many orders were paid, read at the same time.
	paid []float64
}

// watch runs do and looks at the server meanwhile.
func watch(ctx context.Context, s *blackbox.Server, do func() error) (w watched, err error) {
	if w.before, err = s.Metrics(ctx); err != nil {
		return w, err
	}
	used, err := s.Usage()
	if err != nil {
		return w, err
	}
	began := time.Now()
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			// A reading that fails is left out; the last one below must not.
			if u, err := s.Usage(); err == nil {
				w.maxRSS = max(w.maxRSS, u.RSSBytes)
			}
			if m, err := s.Metrics(ctx); err == nil {
				backlog, _ := m.Sum("millrace_wal_backlog_bytes")
				rows, _ := m.Sum("millrace_sink_rows_total")
				w.at = append(w.at, time.Since(began).Seconds())
				w.backlog, w.rows = append(w.backlog, backlog), append(w.rows, rows)
				paid, _ := m.Sum("millrace_order_transitions_total", "event=captured")
				w.paid = append(w.paid, paid)
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	err = do()
	close(done)
	watcher.Wait()
	w.seconds = time.Since(began).Seconds()
	if err != nil {
		return w, err
	}
	u, err := s.Usage()
	if err != nil {
		return w, err
	}
	w.cpu, w.maxRSS = u.CPU-used.CPU, max(w.maxRSS, u.RSSBytes)
	w.after, err = s.Metrics(ctx)
	return w, err
}

// lag returns the histogram of the time from receipt to queryable.
func (w watched) lag() blackbox.Histogram { return w.histogram("millrace_sink_lag_seconds") }

func (w watched) histogram(name string, labels ...string) blackbox.Histogram {
	return w.after.Histogram(name, labels...).Minus(w.before.Histogram(name, labels...))
}

// settle waits until the log has no backlog, so that the next measurement does
// not pay for the last, and returns how long that took.
func settle(ctx context.Context, s *blackbox.Server) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := s.Metrics(ctx)
		if err != nil {
			return 0, err
		}
		if backlog, found := m.Sum("millrace_wal_backlog_bytes"); !found {
			return 0, errors.New("the server has no metric millrace_wal_backlog_bytes")
		} else if backlog == 0 {
			return time.Since(began), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// median returns the middle of some numbers.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 1 {
		return v[n/2]
	} else if n > 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return 0
}

// slope fits a line through the points and returns its rise a second.
func slope(at, v []float64) float64 {
	n := float64(len(at))
	if n < 2 {
		return 0
	}
	var sx, sy, sxx, sxy float64
	for i := range at {
		sx, sy, sxx, sxy = sx+at[i], sy+v[i], sxx+at[i]*at[i], sxy+at[i]*v[i]
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}
